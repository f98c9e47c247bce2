// Package gate decides whether it is safe to arm an endpoint: are the policies
// of the release complete, and would any node be shut out. It is pure.
package gate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// RevisionAnnotation holds the revision of the policy set that a policy was
// rendered with. It is the same on all policies of one rendering.
const RevisionAnnotation = "host-firewall.io/revision"

// Want is the policy set that an agent was rolled out with.
type Want struct {
	// Release is the value of endpoint.ReleaseLabel on every policy.
	Release string
	// Revision is the value of RevisionAnnotation on every policy.
	Revision string
	// Policies are the names of all GlobalNetworkPolicies of the release.
	Policies []string
}

// Check tells whether every wanted policy is among have, labelled with the
// release, at the wanted revision and not about to be deleted. If not, why is a
// clause that names every policy that is missing or stale.
func Check(want Want, have []*v3.GlobalNetworkPolicy) (open bool, why string) {
	revisions := Revisions(want.Release, have)
	var missing, stale []string
	for _, name := range want.Policies {
		switch revision, ok := revisions[name]; {
		case !ok:
			missing = append(missing, name)
		case revision != want.Revision:
			stale = append(stale, fmt.Sprintf("%s (at %q)", name, revision))
		}
	}
	var clauses []string
	if len(missing) > 0 {
		clauses = append(clauses, "GlobalNetworkPolicies are missing: "+strings.Join(missing, ", "))
	}
	if len(stale) > 0 {
		clauses = append(clauses, fmt.Sprintf("GlobalNetworkPolicies are not at revision %q: %s", want.Revision, strings.Join(stale, ", ")))
	}
	return len(clauses) == 0, strings.Join(clauses, "; ")
}

// Revisions returns the revisions of the release's policies by their names, without
// those that are about to be deleted.
func Revisions(release string, have []*v3.GlobalNetworkPolicy) map[string]string {
	revisions := make(map[string]string, len(have))
	for _, policy := range have {
		if policy.Labels[endpoint.ReleaseLabel] == release && policy.DeletionTimestamp == nil {
			revisions[policy.Name] = policy.Annotations[RevisionAnnotation]
		}
	}
	return revisions
}

// Peers returns the names, sorted, of the Ready nodes that an armed endpoint
// would shut out: rules know a node by the expectedIPs of its endpoint, armed or
// not, so one that has none is a stranger unless the CIDRs that the policies
// trust anyway hold all its InternalIPs. A node without any InternalIP can't be
// held by CIDRs.
func Peers(nodes []corev1.Node, endpoints []v3.HostEndpoint, release string, trusted []netip.Prefix) []string {
	known := make(map[string]bool, len(endpoints))
	for _, hep := range endpoints {
		if hep.Labels[endpoint.ReleaseLabel] == release && len(hep.Spec.ExpectedIPs) > 0 {
			known[hep.Spec.Node] = true
		}
	}
	var strangers []string
	for i := range nodes {
		if node := &nodes[i]; ready(node) && !known[node.Name] && !covered(node, trusted) {
			strangers = append(strangers, node.Name)
		}
	}
	slices.Sort(strangers)
	return strangers
}

// ready tells whether the node's own kubelet says that it works.
func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// covered tells whether the CIDRs hold every InternalIP of the node.
func covered(node *corev1.Node, cidrs []netip.Prefix) bool {
	addresses := 0
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		addr, err := netip.ParseAddr(address.Address)
		if err != nil || !slices.ContainsFunc(cidrs, func(cidr netip.Prefix) bool { return cidr.Contains(addr.Unmap()) }) {
			return false
		}
		addresses++
	}
	return addresses > 0
}
