// Package trust says by which addresses a node is known to the others: a GlobalNetworkSet
// for each Node, which the rule for nodes selects. It is pure.
package trust

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// Label tells, on a set of a release, what its addresses are. No endpoint carries it.
const Label = "host-firewall.io/trust"

// OfNode is the value of Label on the set of a Node.
const OfNode = "node"

const (
	// maxName is how long the name of a Kubernetes object may be.
	maxName = 253
	// hashLength is how many hex digits keep names apart that were made to fit.
	hashLength = 16
	// most is how many addresses of one node are trusted.
	most = 64
	// told is how many refusals of one node are reported.
	told = 8
	// flannel is what all of flannel's annotations start with.
	flannel = "flannel.alpha.coreos.com/"
)

// Refusal is an address by which a Node is not known, and why.
type Refusal struct{ Node, Address, Reason string }

// Name returns the name of the set of a Node.
func Name(release, node string) string {
	name := release + "-node-" + node
	if len(name) <= maxName {
		return name
	}
	return endpoint.Shortened(name, maxName, node, hashLength)
}

// Sets returns the set of each Node that has an address, in the order of nodes, and a few
// refusals for each Node that has some. A Node has the addresses that it says itself,
// those of Calico's and flannel's tunnels, and those that its agent has found and written
// to an endpoint of the release, but for addresses that another Node says.
func Sets(release string, nodes []*corev1.Node, endpoints []*v3.HostEndpoint) (sets []*v3.GlobalNetworkSet, refused []Refusal) {
	found := map[string][]string{}
	for _, hep := range endpoints {
		if endpoint.ReleaseOf(hep) == release {
			found[hep.Spec.Node] = append(found[hep.Spec.Node], hep.Spec.ExpectedIPs...)
		}
	}
	said := make([]addresses, len(nodes))
	sayer := map[netip.Addr]string{}
	for i, node := range nodes {
		said[i].node = node.Name
		for _, text := range slices.Concat(endpoint.Says(node), flannelOf(node)) {
			said[i].add(text)
		}
		for _, addr := range said[i].kept {
			if other, taken := sayer[addr]; !taken || node.Name < other {
				sayer[addr] = node.Name
			}
		}
	}
	for i, node := range nodes {
		all := &said[i]
		for _, text := range slices.Sorted(slices.Values(found[node.Name])) {
			addr, _ := endpoint.ParseAddress(text)
			if other, taken := sayer[addr]; taken && !slices.Contains(all.kept, addr) {
				all.refuse(text, "it is an address of Node "+other)
				continue
			}
			all.add(text)
		}
		refused = append(refused, all.refused...)
		if len(all.kept) > 0 {
			sets = append(sets, setOf(release, node, all.kept))
		}
	}
	return sets, refused
}

// Nodes returns the addresses that the sets of a release trust as those of nodes.
func Nodes(sets []*v3.GlobalNetworkSet) map[netip.Addr]bool {
	trusted := map[netip.Addr]bool{}
	for _, set := range sets {
		if endpoint.LabelsOf(set)[Label] != OfNode {
			continue
		}
		for _, text := range set.Spec.Nets {
			if network, err := netip.ParsePrefix(text); err == nil {
				trusted[network.Addr()] = true
			}
		}
	}
	return trusted
}

// setOf returns the set of a Node with these addresses.
func setOf(release string, node *corev1.Node, addresses []netip.Addr) *v3.GlobalNetworkSet {
	set := &v3.GlobalNetworkSet{ObjectMeta: metav1.ObjectMeta{
		Name:            Name(release, node.Name),
		Labels:          map[string]string{endpoint.ReleaseLabel: release, Label: OfNode},
		OwnerReferences: []metav1.OwnerReference{endpoint.NodeOwner(node.Name, node.UID)},
	}}
	slices.SortFunc(addresses, netip.Addr.Compare)
	for _, addr := range addresses {
		set.Spec.Nets = append(set.Spec.Nets, netip.PrefixFrom(addr, addr.BitLen()).String())
	}
	return set
}

// addresses are what is collected of a node.
type addresses struct {
	node    string
	kept    []netip.Addr // each once
	refused []Refusal
}

func (a *addresses) add(text string) {
	switch addr, ok := endpoint.ParseAddress(text); {
	case !ok:
		a.refuse(text, "it is no address that a node can have")
	case slices.Contains(a.kept, addr):
	case len(a.kept) == most:
		a.refuse(text, fmt.Sprintf("a node is trusted by %d addresses at most", most))
	default:
		a.kept = append(a.kept, addr)
	}
}

func (a *addresses) refuse(text, reason string) {
	if len(a.refused) < told {
		a.refused = append(a.refused, Refusal{Node: a.node, Address: text, Reason: reason})
	}
}

// flannelOf returns the addresses that flannel has on a node, where it runs beside Calico
// (Canal): its tunnel's, which is the first one of each network for pods, and that of the
// interface under it.
func flannelOf(node *corev1.Node) (addresses []string) {
	runs := false
	for key, value := range node.Annotations {
		name, ours := strings.CutPrefix(key, flannel)
		runs = runs || ours
		if ours && slices.Contains([]string{"public-ip", "public-ipv6", "public-ip-overwrite", "public-ipv6-overwrite"}, name) && value != "" {
			addresses = append(addresses, value)
		}
	}
	if !runs {
		return nil
	}
	slices.Sort(addresses)
	cidrs := node.Spec.PodCIDRs
	for _, text := range cidrs {
		if cidr, err := netip.ParsePrefix(text); err == nil {
			addresses = append(addresses, cidr.Masked().Addr().String())
		}
	}
	return addresses
}

// Uncovered returns the names, sorted, of the Ready nodes that the networks don't hold as
// a whole: one of their InternalIPs is outside, or is none. A node without any has nothing
// that could be held.
func Uncovered(nodes []*corev1.Node, cidrs []netip.Prefix) (names []string) {
	for _, node := range nodes {
		if ready(node) && slices.ContainsFunc(node.Status.Addresses, func(address corev1.NodeAddress) bool {
			return address.Type == corev1.NodeInternalIP && !holds(cidrs, address.Address)
		}) {
			names = append(names, node.Name)
		}
	}
	slices.Sort(names)
	return names
}

// ready tells whether the node's own kubelet says that it works.
func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// holds tells whether one of the networks has the address.
func holds(cidrs []netip.Prefix, text string) bool {
	addr, err := netip.ParseAddr(text)
	return err == nil && slices.ContainsFunc(cidrs, func(cidr netip.Prefix) bool { return cidr.Contains(addr.Unmap()) })
}
