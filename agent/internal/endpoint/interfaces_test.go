package endpoint_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

func link(name string, addresses ...string) endpoint.Link {
	l := endpoint.Link{Name: name}
	for _, address := range addresses {
		l.Addresses = append(l.Addresses, netip.MustParseAddr(address))
	}
	return l
}

func TestInterfacesAreThoseThatAPatternMeans(t *testing.T) {
	links := []endpoint.Link{
		link("lo", "127.0.0.1", "::1"), link("eth1"), link("eth0", "192.0.2.1"), link("eth0.100"), link("bond0"),
		link("cali1a2b3c4d5e6"), link("veth1a2b3c4d"), link("eni1a2b3c4d5e6"), link("lxc1a2b3c4d5e6f"), link("tap0"),
		link("kube-ipvs0", "10.96.0.1"), link("nodelocaldns", "169.254.20.10"), link("tunl0"), link("vxlan.calico"), link("eth0"),
	}
	for name, test := range map[string]struct {
		patterns []string
		want     string
	}{
		"none":                             {nil, ""},
		"all of them as one":               {[]string{"*"}, "*"},
		"a name":                           {[]string{"eth0"}, "eth0"},
		"a name that is not there":         {[]string{"eth7"}, ""},
		"a star at the end":                {[]string{"eth*"}, "eth0 eth0.100 eth1"},
		"one character":                    {[]string{"eth?", "bond?"}, "bond0 eth0 eth1"},
		"a set":                            {[]string{"eth[12]"}, "eth1"},
		"several that overlap":             {[]string{"eth*", "eth0", "eth0"}, "eth0 eth0.100 eth1"},
		"all of them as one, and some":     {[]string{"eth1", "*"}, "* eth1"},
		"no interface inside by a pattern": {[]string{"?*"}, "bond0 eth0 eth0.100 eth1 tap0 tunl0 vxlan.calico"},
		"loopback where it is named":       {[]string{"lo"}, "lo"},
		"not loopback by a pattern":        {[]string{"l*", "lo?"}, ""},
		"a pod's where it is named":        {[]string{"veth1a2b3c4d"}, "veth1a2b3c4d"},
		"Calico's never":                   {[]string{"cali*", "cali1a2b3c4d5e6"}, ""},
		"a pattern that is none":           {[]string{"eth["}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			selected, invalid := endpoint.Select(test.patterns, links)
			assert.Empty(t, invalid)
			var names []string
			for _, iface := range selected {
				names = append(names, iface.Name)
			}
			assert.Equal(t, test.want, strings.Join(names, " "))
		})
	}
}

func TestAddressesOfAnInterfaceAreThoseThatOthersReachItBy(t *testing.T) {
	selected, _ := endpoint.Select([]string{"*", "eth0", "lo"}, []endpoint.Link{
		link("eth0", "2001:db8::2", "fe80::1", "fe80::1%eth0", "192.0.2.10", "192.0.2.9", "::ffff:192.0.2.9", "169.254.1.1", "0.0.0.0", "224.0.0.1", "2001:db8::1"),
		link("lo", "127.0.0.1", "::1"),
	})
	assert.Equal(t, []endpoint.Interface{
		{Name: "*"},
		{Name: "eth0", Addresses: link("", "192.0.2.9", "192.0.2.10", "2001:db8::1", "2001:db8::2").Addresses},
		{Name: "lo"},
	}, selected)
}

func TestInterfaceThatCalicoCannotTakeIsReported(t *testing.T) {
	selected, invalid := endpoint.Select([]string{"e*"}, []endpoint.Link{
		link("eth0"), link("enx-is-far-too-long"), link("eth:1"), link("eth@2"), link("é"),
	})
	assert.Equal(t, []endpoint.Interface{{Name: "eth0"}}, selected)
	assert.Equal(t, []string{"enx-is-far-too-long", "eth:1", "eth@2"}, invalid)
}

func TestPatternsAreToldFromOthers(t *testing.T) {
	for _, pattern := range []string{"*", "eth0", "eth*", "bond?", "en[op]*", "eth0.100", "br-lan", "a_b"} {
		assert.True(t, endpoint.ValidPattern(pattern), pattern)
	}
	for _, pattern := range []string{"", "eth[", "eth\\", "a b", "a/b", "eth0\n"} {
		assert.False(t, endpoint.ValidPattern(pattern), pattern)
	}
}

func TestNameIsPlainWhereItCanBe(t *testing.T) {
	long := strings.Repeat("n", 240)
	for _, test := range []struct{ node, iface, want string }{
		{"n1", "*", "n1"},
		{"n1", "eth0", "n1-eth0"},
		{"n1.example.org", "eth0", "n1.example.org-eth0"},
		{"n1", "eth0.100", "n1-eth0.100"},
		{"n1", "br-lan", "n1-br-lan-"},
		{"n1", "wlan_0", "n1-wlan-0-"},
		{"n1", "Ethernet0", "n1-ethernet0-"},
		{"n1", "eth0.", "n1-eth0-"},
		{"n1", "..", "n1-"},
		{"n1", "0123456789ab", "n1-0123456789ab-"},
		{long, "enp0s31f6", long + "-enp0s31f6"},
		{long, "enp0s31f6.1234", strings.Repeat("n", 240) + "-"},
	} {
		t.Run(test.iface, func(t *testing.T) {
			name := endpoint.Name(test.node, test.iface)
			if strings.HasSuffix(test.want, "-") {
				assert.Regexp(t, "^"+test.want+"[0-9a-f]{12}$", name)
			} else {
				assert.Equal(t, test.want, name)
			}
			assert.Empty(t, validation.IsDNS1123Subdomain(name), name)
		})
	}
}

func FuzzNamesFitAndDoNotCollide(f *testing.F) {
	for _, seed := range [][4]string{
		{"a", "b-eth0", "a-b", "eth0"},
		{"a", "eth0", "a", "ETH0"},
		{"a", "eth_0", "a", "eth-0"},
		{"a", "eth0.", "a", "eth0"},
		{"a", "0123456789ab", "a-0123456789ab", "*"},
		{"a.b", "c", "a", "b.c"},
		{"a", "..", "a", "__"},
		{strings.Repeat("n", 253), "eth0", strings.Repeat("n", 253), "eth1"},
		{strings.Repeat("n.", 120) + "n", "eth0", "n", "eth0"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, nodeA, ifaceA, nodeB, ifaceB string) {
		for _, node := range []string{nodeA, nodeB} {
			if len(validation.IsDNS1123Subdomain(node)) > 0 {
				t.Skip()
			}
		}
		a, b := endpoint.Name(nodeA, ifaceA), endpoint.Name(nodeB, ifaceB)
		for _, name := range []string{a, b} {
			if faults := validation.IsDNS1123Subdomain(name); len(faults) > 0 {
				t.Fatalf("%q: %v", name, faults)
			}
		}
		if (nodeA != nodeB || ifaceA != ifaceB) && a == b {
			// The one pair that no name can keep apart: see Name.
			if ifaceA != "*" && ifaceB != "*" {
				t.Fatalf("%q of %q and %q of %q are both called %q", ifaceA, nodeA, ifaceB, nodeB, a)
			}
		}
		selected, invalid := endpoint.Select([]string{ifaceA, "*"}, []endpoint.Link{{Name: ifaceB}})
		if len(selected)+len(invalid) > 2 || selected[0].Name != "*" {
			t.Fatalf("%v %v", selected, invalid)
		}
	})
}
