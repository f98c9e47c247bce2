package trust_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/trust"
)

// node returns a Node with InternalIPs.
func node(name string, internal ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}}
	for _, ip := range internal {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	return n
}

// with adds an address of that type to a Node.
func with(n *corev1.Node, kind corev1.NodeAddressType, address string) *corev1.Node {
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: address})
	return n
}

func annotated(n *corev1.Node, pairs ...string) *corev1.Node {
	n.Annotations = map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		n.Annotations[pairs[i]] = pairs[i+1]
	}
	return n
}

func podCIDRs(n *corev1.Node, cidrs ...string) *corev1.Node {
	n.Spec.PodCIDRs = cidrs
	return n
}

// hep is the endpoint of a release for a node.
func hep(release, node string, expected ...string) *v3.HostEndpoint {
	return &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"host-firewall.io/release": release}},
		Spec:       v3.HostEndpointSpec{Node: node, ExpectedIPs: expected},
	}
}

// many returns so many addresses.
func many(network string, count int) (addresses []string) {
	for i := range count {
		addresses = append(addresses, fmt.Sprintf("%s.%d", network, i+1))
	}
	return addresses
}

func asNets(addresses []string) (nets []string) {
	for _, address := range addresses {
		nets = append(nets, address+"/32")
	}
	return nets
}

const none = "it is no address that a node can have"

func TestNodeIsKnownByItsAddresses(t *testing.T) {
	const flannel = "flannel.alpha.coreos.com/"
	for name, test := range map[string]struct {
		node      *corev1.Node
		endpoints []*v3.HostEndpoint
		nets      []string
		refused   []trust.Refusal
	}{
		"none":                  {node: with(node("a"), corev1.NodeHostName, "a")},
		"of both families":      {node: node("a", "2001:db8::1", "192.0.2.1"), nets: []string{"192.0.2.1/32", "2001:db8::1/128"}},
		"an ExternalIP":         {node: with(node("a", "192.0.2.1"), corev1.NodeExternalIP, "198.51.100.1"), nets: []string{"192.0.2.1/32", "198.51.100.1/32"}},
		"an ExternalIP only":    {node: with(node("a"), corev1.NodeExternalIP, "198.51.100.1"), nets: []string{"198.51.100.1/32"}},
		"no names":              {node: with(with(node("a", "192.0.2.1"), corev1.NodeInternalDNS, "192.0.2.8"), corev1.NodeExternalDNS, "192.0.2.9"), nets: []string{"192.0.2.1/32"}},
		"each once, and sorted": {node: node("a", "192.0.2.10", "192.0.2.9", "::ffff:192.0.2.9", "192.0.2.10"), nets: []string{"192.0.2.9/32", "192.0.2.10/32"}},
		"written otherwise":     {node: node("a", "2001:DB8:0:0::1"), nets: []string{"2001:db8::1/128"}},
		"all of Calico's annotations": {
			node: annotated(node("a"),
				"projectcalico.org/IPv4Address", "192.0.2.1/24",
				"projectcalico.org/IPv6Address", "2001:db8::1/64",
				"projectcalico.org/IPv4IPIPTunnelAddr", "10.244.1.1",
				"projectcalico.org/IPv4VXLANTunnelAddr", "10.244.1.2",
				"projectcalico.org/IPv6VXLANTunnelAddr", "fd00:10:244::2",
				"projectcalico.org/IPv4WireguardInterfaceAddr", "10.244.1.3",
				"projectcalico.org/IPv6WireguardInterfaceAddr", "fd00:10:244::3",
				"projectcalico.org/AWSPrivateIP", "192.0.2.77", "example.org/IPv4Address", "192.0.2.78"),
			nets: []string{"10.244.1.1/32", "10.244.1.2/32", "10.244.1.3/32", "192.0.2.1/32", "2001:db8::1/128", "fd00:10:244::2/128", "fd00:10:244::3/128"},
		},
		"flannel's tunnel (Canal), which is the first of the network for pods": {
			node: podCIDRs(annotated(node("a", "192.0.2.1"),
				flannel+"backend-type", "vxlan", flannel+"backend-data", `{"VNI":1,"VtepMAC":"56:1d:8d:30:79:97"}`, flannel+"public-ip", "198.51.100.1",
			), "10.244.1.0/24", "fd00:10:244:1::/64"),
			nets: []string{"10.244.1.0/32", "192.0.2.1/32", "198.51.100.1/32", "fd00:10:244:1::/128"},
		},
		"flannel's other addresses": {
			node: annotated(node("a"), flannel+"public-ip", "198.51.100.1", flannel+"public-ipv6", "2001:db8::9",
				flannel+"public-ip-overwrite", "203.0.113.1", flannel+"public-ipv6-overwrite", "2001:db8::a"),
			nets: []string{"198.51.100.1/32", "203.0.113.1/32", "2001:db8::9/128", "2001:db8::a/128"},
		},
		"without flannel the network for pods is no node's": {node: podCIDRs(annotated(node("a", "192.0.2.1"), "k", "v"), "10.244.1.0/24"), nets: []string{"192.0.2.1/32"}},
		"a network for pods that is none":                   {node: podCIDRs(annotated(node("a", "192.0.2.1"), flannel+"backend-type", "vxlan"), "10.244.1.0", ""), nets: []string{"192.0.2.1/32"}},
		"what is no address of a node": {
			node: annotated(node("a", "nonsense", "0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "fe80::1%eth0"), "projectcalico.org/IPv6VXLANTunnelAddr", "ff02::1"),
			refused: []trust.Refusal{
				{Node: "a", Address: "nonsense", Reason: none}, {Node: "a", Address: "0.0.0.0", Reason: none}, {Node: "a", Address: "::", Reason: none},
				{Node: "a", Address: "127.0.0.1", Reason: none}, {Node: "a", Address: "::1", Reason: none}, {Node: "a", Address: "224.0.0.1", Reason: none},
				{Node: "a", Address: "fe80::1%eth0", Reason: none}, {Node: "a", Address: "ff02::1", Reason: none},
			},
		},
		"what its agent has found": {
			node: node("a", "192.0.2.1"),
			endpoints: []*v3.HostEndpoint{
				hep("fw", "a", "192.0.2.1", "198.51.100.7"), hep("fw", "a", "2001:db8::7"),
				hep("fw", "b", "203.0.113.1"), hep("other", "a", "203.0.113.2"), {Spec: v3.HostEndpointSpec{Node: "a", ExpectedIPs: []string{"203.0.113.3"}}},
			},
			nets: []string{"192.0.2.1/32", "198.51.100.7/32", "2001:db8::7/128"},
		},
		"what its agent has found, though the Node says none": {
			node: node("a"), endpoints: []*v3.HostEndpoint{hep("fw", "a", "192.0.2.1")}, nets: []string{"192.0.2.1/32"},
		},
		"what its agent says and no node can have": {
			node: node("a", "192.0.2.1"), endpoints: []*v3.HostEndpoint{hep("fw", "a", "0.0.0.0", "127.0.0.1", "192.0.2.0/24x", "fe80::1%eth0")}, nets: []string{"192.0.2.1/32"},
			refused: []trust.Refusal{
				{Node: "a", Address: "0.0.0.0", Reason: none}, {Node: "a", Address: "127.0.0.1", Reason: none},
				{Node: "a", Address: "192.0.2.0/24x", Reason: none}, {Node: "a", Address: "fe80::1%eth0", Reason: none},
			},
		},
		"a network that its agent says is one address": {
			node: node("a", "192.0.2.1"), endpoints: []*v3.HostEndpoint{hep("fw", "a", "203.0.113.0/24", "10.0.0.1/0")}, nets: []string{"10.0.0.1/32", "192.0.2.1/32", "203.0.113.0/32"},
		},
		"64 addresses": {node: node("a", many("192.0.2", 64)...), nets: asNets(many("192.0.2", 64))},
		"more: what the Node says comes first, the first of the rest follow": {
			node: node("a", many("198.51.100", 62)...), endpoints: []*v3.HostEndpoint{hep("fw", "a", append(many("192.0.2", 4), "198.51.100.1")...)},
			nets: append([]string{"192.0.2.1/32", "192.0.2.2/32"}, asNets(many("198.51.100", 62))...),
			refused: []trust.Refusal{
				{Node: "a", Address: "192.0.2.3", Reason: "a node is trusted by 64 addresses at most"}, {Node: "a", Address: "192.0.2.4", Reason: "a node is trusted by 64 addresses at most"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			sets, refused := trust.Sets("fw", []*corev1.Node{test.node}, test.endpoints)
			assert.Equal(t, test.refused, refused)
			if test.nets == nil {
				assert.Empty(t, sets)
				return
			}
			want := &v3.GlobalNetworkSet{
				ObjectMeta: metav1.ObjectMeta{
					Name:            "fw-node-a",
					Labels:          map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/trust": "node"},
					OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "a", UID: "uid-a"}},
				},
				Spec: v3.GlobalNetworkSetSpec{Nets: test.nets},
			}
			assert.Equal(t, []*v3.GlobalNetworkSet{want}, sets)
		})
	}
}

func TestNodeIsNotKnownByAnAddressOfAnotherNode(t *testing.T) {
	nodes := []*corev1.Node{
		node("a", "192.0.2.1"),
		with(node("b", "192.0.2.2"), corev1.NodeExternalIP, "198.51.100.2"),
		annotated(node("c", "192.0.2.3"), "projectcalico.org/IPv4VXLANTunnelAddr", "10.244.3.1"),
		podCIDRs(annotated(node("d", "192.0.2.4"), "flannel.alpha.coreos.com/backend-type", "vxlan"), "10.244.4.0/24"),
	}
	nets := func(nodes []*corev1.Node, endpoints ...*v3.HostEndpoint) (map[string][]string, []trust.Refusal) {
		sets, refused := trust.Sets("fw", nodes, endpoints)
		all := map[string][]string{}
		for _, set := range sets {
			all[strings.TrimPrefix(set.Name, "fw-node-")] = set.Spec.Nets
		}
		return all, refused
	}
	t.Run("an agent lies", func(t *testing.T) {
		got, refused := nets(nodes, hep("fw", "a", "192.0.2.1", "192.0.2.2", "198.51.100.2", "10.244.3.1", "10.244.4.0", "203.0.113.1", "::ffff:192.0.2.3"))
		assert.Equal(t, []string{"192.0.2.1/32", "203.0.113.1/32"}, got["a"])
		assert.Equal(t, []trust.Refusal{
			{Node: "a", Address: "10.244.3.1", Reason: "it is an address of Node c"},
			{Node: "a", Address: "10.244.4.0", Reason: "it is an address of Node d"},
			{Node: "a", Address: "192.0.2.2", Reason: "it is an address of Node b"},
			{Node: "a", Address: "198.51.100.2", Reason: "it is an address of Node b"},
			{Node: "a", Address: "::ffff:192.0.2.3", Reason: "it is an address of Node c"},
		}, refused)
		assert.Equal(t, []string{"10.244.3.1/32", "192.0.2.3/32"}, got["c"], "and takes nothing away")
	})
	t.Run("an address has moved to another Node, and the agent still has it", func(t *testing.T) {
		got, refused := nets([]*corev1.Node{node("a", "192.0.2.9"), node("b", "192.0.2.1")}, hep("fw", "a", "192.0.2.1", "192.0.2.9"), hep("fw", "b", "192.0.2.1"))
		assert.Equal(t, map[string][]string{"a": {"192.0.2.9/32"}, "b": {"192.0.2.1/32"}}, got)
		assert.Len(t, refused, 1)
	})
	t.Run("two Nodes say the same address", func(t *testing.T) {
		for _, nodes := range [][]*corev1.Node{{node("a", "192.0.2.1"), node("b", "192.0.2.1"), node("c")}, {node("c"), node("b", "192.0.2.1"), node("a", "192.0.2.1")}} {
			got, refused := nets(nodes, hep("fw", "a", "192.0.2.1"), hep("fw", "b", "192.0.2.1"), hep("fw", "c", "192.0.2.1"))
			assert.Equal(t, map[string][]string{"a": {"192.0.2.1/32"}, "b": {"192.0.2.1/32"}}, got, "both are as good as the other")
			assert.Equal(t, []trust.Refusal{{Node: "c", Address: "192.0.2.1", Reason: "it is an address of Node a"}}, refused)
		}
	})
	t.Run("a virtual address is on two nodes for a moment", func(t *testing.T) {
		got, refused := nets(nodes[:2], hep("fw", "a", "203.0.113.9"), hep("fw", "b", "203.0.113.9"))
		assert.Empty(t, refused)
		assert.Contains(t, got["a"], "203.0.113.9/32")
		assert.Contains(t, got["b"], "203.0.113.9/32")
	})
	t.Run("a node that is gone is no node", func(t *testing.T) {
		got, refused := nets(nodes[:1], hep("fw", "b", "192.0.2.2"), hep("fw", "a", "192.0.2.2"))
		assert.Empty(t, refused)
		assert.Equal(t, map[string][]string{"a": {"192.0.2.1/32", "192.0.2.2/32"}}, got)
	})
	t.Run("who lies a lot is not told of at length", func(t *testing.T) {
		_, refused := nets([]*corev1.Node{node("a"), node("b", many("192.0.2", 60)...)}, hep("fw", "a", many("192.0.2", 60)...), hep("fw", "b", "0.0.0.0"))
		assert.Len(t, refused, 9)
		assert.Equal(t, "b", refused[8].Node)
	})
}

func TestNamesOfSetsFitAndDiffer(t *testing.T) {
	assert.Equal(t, "fw-node-worker-1.example.org", trust.Name("fw", "worker-1.example.org"))
	const release = "a-release-with-a-long-name-of-38-chars"
	exact := strings.Repeat("n", 253-len(release)-len("-node-"))
	assert.Equal(t, release+"-node-"+exact, trust.Name(release, exact))

	long := strings.Repeat("n", 230) + strings.Repeat(".", 3) + strings.Repeat("m", 19)
	seen := map[string]bool{}
	for _, node := range []string{long + "1", long + "2", strings.Repeat("n", 253), strings.Repeat("n", 252) + "m"} {
		name := trust.Name(release, node)
		assert.LessOrEqual(t, len(name), 253)
		assert.True(t, strings.HasPrefix(name, release+"-node-"), "the admission policy asks for it")
		assert.Regexp(t, `^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`, name, "a Kubernetes name")
		assert.False(t, seen[name])
		seen[name] = true
	}
}

func TestUncoveredAreReadyNodesOutsideOfTheNetworks(t *testing.T) {
	is := func(n *corev1.Node, ready corev1.ConditionStatus) *corev1.Node {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue}, {Type: corev1.NodeReady, Status: ready}}
		return with(n, corev1.NodeExternalIP, "198.51.100.1")
	}
	cidrs := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	const yes, no, unknown = corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown
	for name, test := range map[string]struct {
		nodes []*corev1.Node
		cidrs []netip.Prefix
		want  []string
	}{
		"no node":                        {cidrs: cidrs},
		"no networks":                    {[]*corev1.Node{is(node("b", "192.0.2.2"), yes), is(node("a", "192.0.2.1"), yes)}, nil, []string{"a", "b"}},
		"both families":                  {[]*corev1.Node{is(node("a", "192.0.2.1", "2001:db8::1"), yes), is(node("b", "::ffff:192.0.2.9"), yes)}, cidrs, nil},
		"one family only":                {[]*corev1.Node{is(node("a", "192.0.2.1", "2001:db8::1"), yes)}, cidrs[:1], []string{"a"}},
		"an InternalIP that is none":     {[]*corev1.Node{is(node("a", "192.0.2.1", "nonsense"), yes)}, cidrs, []string{"a"}},
		"no InternalIP, as kwok has":     {[]*corev1.Node{is(node("a"), yes)}, nil, nil},
		"not Ready has nothing to lose":  {[]*corev1.Node{is(node("a", "203.0.113.1"), no), is(node("b", "203.0.113.2"), unknown), node("c", "203.0.113.3")}, cidrs, nil},
		"outside":                        {[]*corev1.Node{is(node("a", "203.0.113.1"), yes), is(node("b", "192.0.2.1"), yes)}, cidrs, []string{"a"}},
		"an address with a zone is none": {[]*corev1.Node{is(node("a", "2001:db8::1%eth0"), yes)}, cidrs, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, trust.Uncovered(test.nodes, test.cidrs))
		})
	}
}
