package policyset_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

// hep is somebody's endpoint of node n1.
func hep(name, iface string, expected ...string) *v3.HostEndpoint {
	return &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v3.HostEndpointSpec{Node: "n1", InterfaceName: iface, ExpectedIPs: expected},
	}
}

// of makes an endpoint that of a release.
func of(release string, h *v3.HostEndpoint) *v3.HostEndpoint {
	h.Labels = map[string]string{"host-firewall.io/release": release}
	return h
}

// noted gives an endpoint the note of an agent.
func noted(h *v3.HostEndpoint) *v3.HostEndpoint {
	h.Annotations = map[string]string{"host-firewall.io/state": `{"state":"Armed"}`}
	return h
}

func addresses(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestRivalsAreEndpointsForTheSameInterface(t *testing.T) {
	automatic := hep("n1-auto-hep", "*", "192.0.2.1")
	automatic.Labels = map[string]string{"projectcalico.org/created-by": "calico-kube-controllers"}
	const (
		somebody  = "of somebody else (it has no label host-firewall.io/release): "
		goAway    = "delete it, or uninstall host-firewall from this node"
		nameIt    = "delete it, or write interfaceName into it if it is for another interface than ours"
		uninstall = "uninstall one of the two releases from this node"
	)
	star, eth0 := []string{"*"}, []string{"eth0"}
	for name, test := range map[string]struct {
		patterns []string
		on       []*v3.HostEndpoint
		adopt    bool
		want     []string
	}{
		"nobody": {patterns: star},
		"ours":   {patterns: star, on: []*v3.HostEndpoint{of("fw", hep("n1", "*", "192.0.2.1")), of("fw", hep("n1-eth0", "eth0"))}},

		"all interfaces, a later name":   {star, []*v3.HostEndpoint{automatic}, false, []string{`HostEndpoint n1-auto-hep of this node (interface "*") is of "calico-kube-controllers" (its label projectcalico.org/created-by): ` + goAway}},
		"all interfaces, an earlier one": {star, []*v3.HostEndpoint{hep("a", "*")}, false, []string{`HostEndpoint a of this node (interface "*") is ` + somebody + goAway}},
		"all interfaces, ours are one":   {patterns: eth0, on: []*v3.HostEndpoint{automatic}},
		"all interfaces, not adopted":    {star, []*v3.HostEndpoint{hep("a", "*")}, true, []string{`HostEndpoint a of this node (interface "*") is ` + somebody + goAway}},

		"one interface wins over all":       {star, []*v3.HostEndpoint{hep("z", "eth7")}, false, []string{`HostEndpoint z of this node (interface "eth7") is ` + somebody + goAway}},
		"loopback wins over all":            {star, []*v3.HostEndpoint{hep("z", "lo")}, false, []string{`HostEndpoint z of this node (interface "lo") is ` + somebody + goAway}},
		"one interface, ours is another":    {patterns: eth0, on: []*v3.HostEndpoint{hep("z", "eth1")}},
		"one interface, ours is the same":   {eth0, []*v3.HostEndpoint{hep("z", "eth0")}, false, []string{`HostEndpoint z of this node (interface "eth0") is ` + somebody + goAway}},
		"one interface, a pattern has it":   {[]string{"eth*"}, []*v3.HostEndpoint{hep("a", "eth9")}, false, []string{`HostEndpoint a of this node (interface "eth9") is ` + somebody + goAway}},
		"one interface, no pattern has it":  {patterns: []string{"eth*"}, on: []*v3.HostEndpoint{hep("a", "ens3")}},
		"a wildcard has no loopback":        {patterns: []string{"?o"}, on: []*v3.HostEndpoint{hep("a", "lo")}},
		"one interface, ours are all and x": {[]string{"*", "eth0"}, []*v3.HostEndpoint{hep("a", "eth1")}, false, []string{`HostEndpoint a of this node (interface "eth1") is ` + somebody + goAway}},

		"an address wins over all":              {star, []*v3.HostEndpoint{hep("z", "", "203.0.113.9", "192.0.2.1")}, false, []string{`HostEndpoint z of this node (expectedIPs 203.0.113.9, 192.0.2.1) is ` + somebody + goAway}},
		"an IPv6 address, written otherwise":    {star, []*v3.HostEndpoint{hep("z", "", "2001:DB8:0::1")}, false, []string{`HostEndpoint z of this node (expectedIPs 2001:DB8:0::1) is ` + somebody + goAway}},
		"an IPv4 address, written as IPv6":      {star, []*v3.HostEndpoint{hep("z", "", "::ffff:192.0.2.1")}, false, []string{`HostEndpoint z of this node (expectedIPs ::ffff:192.0.2.1) is ` + somebody + goAway}},
		"an address that only our agent found":  {star, []*v3.HostEndpoint{hep("z", "", "198.51.100.7"), of("fw", hep("n1", "*", "192.0.2.1", "198.51.100.7"))}, false, []string{`HostEndpoint z of this node (expectedIPs 198.51.100.7) is ` + somebody + goAway}},
		"no address of the node":                {patterns: star, on: []*v3.HostEndpoint{hep("z", "", "203.0.113.9", "nonsense")}},
		"neither interface nor address":         {patterns: star, on: []*v3.HostEndpoint{hep("z", "")}},
		"an address does not count beside name": {patterns: eth0, on: []*v3.HostEndpoint{hep("z", "eth1", "192.0.2.1")}},
		"an address, nobody knows whose":        {eth0, []*v3.HostEndpoint{hep("z", "", "192.0.2.1")}, false, []string{`HostEndpoint z of this node (expectedIPs 192.0.2.1) is ` + somebody + nameIt}},
		"an address of our interface":           {eth0, []*v3.HostEndpoint{hep("z", "", "192.0.2.1"), of("fw", hep("n1-eth0", "eth0", "192.0.2.1"))}, false, []string{`HostEndpoint z of this node (expectedIPs 192.0.2.1) is ` + somebody + nameIt}},
		"an address of another interface":       {patterns: eth0, on: []*v3.HostEndpoint{hep("z", "", "192.0.2.1"), of("fw", hep("n1-eth0", "eth0", "198.51.100.7"))}},

		"our name":                            {star, []*v3.HostEndpoint{hep("n1", "*")}, false, []string{`HostEndpoint n1 of this node (interface "*") is ` + somebody + goAway}},
		"our name, adopted":                   {star, []*v3.HostEndpoint{hep("n1", "*")}, true, nil},
		"our name, for an interface":          {star, []*v3.HostEndpoint{hep("n1", "eth7")}, false, []string{`HostEndpoint n1 of this node (interface "eth7") is ` + somebody + goAway}},
		"our name, for an interface, adopted": {star, []*v3.HostEndpoint{hep("n1", "eth7")}, true, nil},
		"our name, but not ours here":         {patterns: eth0, on: []*v3.HostEndpoint{hep("n1", "*")}},
		"our name of an interface":            {eth0, []*v3.HostEndpoint{hep("n1-eth0", "eth1")}, false, []string{`HostEndpoint n1-eth0 of this node (interface "eth1") is ` + somebody + goAway}},
		"our name of an interface, adopted":   {[]string{"eth*"}, []*v3.HostEndpoint{hep("n1-eth0", "eth0")}, true, nil},
		"our name, without our label":         {star, []*v3.HostEndpoint{noted(hep("n1", "*"))}, false, nil},
		"our name, and the note of a release": {star, []*v3.HostEndpoint{of("other", noted(hep("n1", "*")))}, true, []string{`HostEndpoint n1 of this node (interface "*") is of the host-firewall release "other": ` + uninstall}},
		"another name, with a note":           {star, []*v3.HostEndpoint{noted(hep("n2", "*"))}, false, []string{`HostEndpoint n2 of this node (interface "*") is ` + somebody + goAway}},

		"another release, another interface": {eth0, []*v3.HostEndpoint{of("other", hep("n1-eth1", "eth1"))}, false, []string{`HostEndpoint n1-eth1 of this node (interface "eth1") is of the host-firewall release "other": ` + uninstall}},
		"another release, no address":        {star, []*v3.HostEndpoint{of("other", hep("z", "", "203.0.113.9"))}, false, []string{`HostEndpoint z of this node (expectedIPs 203.0.113.9) is of the host-firewall release "other": ` + uninstall}},
		"several, by their names": {star, []*v3.HostEndpoint{hep("z", "eth0"), of("fw", hep("n1", "*")), hep("b", "*")}, true, []string{
			`HostEndpoint b of this node (interface "*") is ` + somebody + goAway, `HostEndpoint z of this node (interface "eth0") is ` + somebody + goAway,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := policyset.Rivals("fw", "n1", test.patterns, addresses("192.0.2.1", "2001:db8::1"), test.on, test.adopt)
			assert.Equal(t, test.want, got)
		})
	}
}

// governs returns the endpoint that Felix asks on an interface, as its endpoint manager
// finds it, and whether that names the interface.
func governs(iface, address string, heps []*v3.HostEndpoint) (winner string, specific bool) {
	better := func(h *v3.HostEndpoint) bool { return winner == "" || h.Name < winner }
	for _, h := range heps {
		expects := h.Spec.InterfaceName == "" && slices.Contains(h.Spec.ExpectedIPs, address)
		if (h.Spec.InterfaceName == iface || expects) && better(h) {
			winner, specific = h.Name, true
		}
	}
	if specific {
		return winner, true
	}
	for _, h := range heps {
		if h.Spec.InterfaceName == "*" && better(h) {
			winner = h.Name
		}
	}
	return winner, false
}

// Whatever the name and the kind of somebody's endpoint: it is a rival exactly where Felix
// would ask it instead of ours, or ours instead of it although it is as good.
func TestRivalsAgreeWithFelix(t *testing.T) {
	links := map[string]string{"eth0": "192.0.2.1", "eth1": "198.51.100.7", "lo": "127.0.0.1"}
	kinds := []struct {
		iface    string
		expected []string
	}{
		{"*", nil}, {"*", []string{"192.0.2.1"}}, {"eth0", nil}, {"eth1", []string{"192.0.2.1"}}, {"", nil},
		{"", []string{"192.0.2.1"}}, {"", []string{"198.51.100.7"}}, {"", []string{"192.0.2.1", "198.51.100.7"}}, {"", []string{"203.0.113.9"}},
	}
	met := map[bool]int{}
	for _, patterns := range [][]string{{"*"}, {"eth0"}, {"eth1"}, {"eth*"}, {"*", "eth0"}, {"*", "eth1"}, {"*", "eth?"}} {
		ours := []*v3.HostEndpoint{}
		selected, _ := endpoint.Select(patterns, []endpoint.Link{
			{Name: "eth0", Addresses: addresses(links["eth0"])}, {Name: "eth1", Addresses: addresses(links["eth1"])},
		})
		for _, iface := range selected {
			hep := hep(endpoint.Name("n1", iface.Name), iface.Name)
			for _, addr := range iface.Addresses {
				hep.Spec.ExpectedIPs = append(hep.Spec.ExpectedIPs, addr.String())
			}
			ours = append(ours, of("fw", hep))
		}
		for _, kind := range kinds {
			for _, name := range []string{"a", "n1-a", "n1-f", "z"} {
				theirs := hep(name, kind.iface, kind.expected...)
				fight := false
				for iface, address := range links {
					own, ownSpecific := governs(iface, address, ours)
					wants, specific := governs(iface, address, []*v3.HostEndpoint{theirs})
					both, _ := governs(iface, address, append(slices.Clone(ours), theirs))
					if own != "" && wants != "" && (both == theirs.Name || specific == ownSpecific) {
						fight = true
					}
				}
				got := policyset.Rivals("fw", "n1", patterns, addresses("192.0.2.1", "198.51.100.7"), append(slices.Clone(ours), theirs), false)
				assert.Equal(t, fight, len(got) > 0, "%v beside %s for %+v: %s", patterns, name, kind, fmt.Sprint(got))
				met[fight]++
			}
		}
	}
	assert.Greater(t, met[true], 50)
	assert.Greater(t, met[false], 50)
}
