package gate_test

import (
	"net/netip"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/gate"
)

func policy(name, release, revision string) *v3.GlobalNetworkPolicy {
	return &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{"host-firewall.io/release": release},
		Annotations: map[string]string{"host-firewall.io/revision": revision},
	}}
}

func TestGateOpensOnlyForTheWholeSetAtItsRevision(t *testing.T) {
	leaving := policy("fw-ssh", "fw", "r2")
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	type policies = []*v3.GlobalNetworkPolicy
	for name, test := range map[string]struct {
		have policies
		why  string // empty: open
	}{
		"nothing there": {
			have: nil,
			why:  "GlobalNetworkPolicies are missing: fw-drop, fw-ssh",
		},
		"complete": {
			have: policies{policy("fw-drop", "fw", "r2"), policy("fw-ssh", "fw", "r2")},
		},
		"complete, and one more": {
			have: policies{policy("fw-old", "fw", "r1"), policy("fw-drop", "fw", "r2"), policy("fw-ssh", "fw", "r2")},
		},
		"one missing": {
			have: policies{policy("fw-drop", "fw", "r2")},
			why:  "GlobalNetworkPolicies are missing: fw-ssh",
		},
		"one of another release": {
			have: policies{policy("fw-drop", "fw", "r2"), policy("fw-ssh", "other", "r2")},
			why:  "GlobalNetworkPolicies are missing: fw-ssh",
		},
		"one without labels": {
			have: policies{policy("fw-drop", "fw", "r2"), {ObjectMeta: metav1.ObjectMeta{Name: "fw-ssh"}}},
			why:  "GlobalNetworkPolicies are missing: fw-ssh",
		},
		"one being deleted": {
			have: policies{policy("fw-drop", "fw", "r2"), leaving},
			why:  "GlobalNetworkPolicies are missing: fw-ssh",
		},
		"one at the revision before": {
			have: policies{policy("fw-drop", "fw", "r2"), policy("fw-ssh", "fw", "r1")},
			why:  `GlobalNetworkPolicies are not at revision "r2": fw-ssh (at "r1")`,
		},
		"one missing, one at no revision": {
			have: policies{policy("fw-drop", "fw", "")},
			why:  `GlobalNetworkPolicies are missing: fw-ssh; GlobalNetworkPolicies are not at revision "r2": fw-drop (at "")`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			open, why := gate.Check(gate.Want{Release: "fw", Revision: "r2", Policies: []string{"fw-drop", "fw-ssh"}}, test.have)
			assert.Equal(t, test.why == "", open)
			assert.Equal(t, test.why, why)
		})
	}
}

func TestPeersAreTheReadyNodesThatNoRuleKnows(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus, ips ...string) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Conditions = []corev1.NodeCondition{
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue},
			{Type: corev1.NodeReady, Status: ready},
		}
		for _, ip := range ips {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"})
		return n
	}
	hep := func(node, release string, ips ...string) v3.HostEndpoint {
		return v3.HostEndpoint{
			ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"host-firewall.io/release": release}},
			Spec:       v3.HostEndpointSpec{Node: node, ExpectedIPs: ips},
		}
	}
	cidrs := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	const yes, no, unknown = corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown
	for name, test := range map[string]struct {
		nodes     []corev1.Node
		endpoints []v3.HostEndpoint
		trusted   []netip.Prefix
		want      []string
	}{
		"no node": {},
		"known by its endpoint": {
			nodes:     []corev1.Node{node("a", yes, "192.0.2.1")},
			endpoints: []v3.HostEndpoint{hep("a", "fw", "192.0.2.1")},
		},
		"sorted": {
			nodes: []corev1.Node{node("b", yes, "192.0.2.2"), node("a", yes, "192.0.2.1")},
			want:  []string{"a", "b"},
		},
		"an endpoint without addresses makes no node known": {
			nodes:     []corev1.Node{node("a", yes, "192.0.2.1")},
			endpoints: []v3.HostEndpoint{hep("a", "fw")},
			want:      []string{"a"},
		},
		"nor does one of another release": {
			nodes:     []corev1.Node{node("a", yes, "192.0.2.1")},
			endpoints: []v3.HostEndpoint{hep("a", "other", "192.0.2.1")},
			want:      []string{"a"},
		},
		"nor one of another node": {
			nodes:     []corev1.Node{node("a", yes, "192.0.2.1")},
			endpoints: []v3.HostEndpoint{hep("b", "fw", "192.0.2.1")},
			want:      []string{"a"},
		},
		"a node that isn't ready has nothing to lose": {
			nodes: []corev1.Node{node("a", no, "192.0.2.1"), node("b", unknown, "192.0.2.1"), {ObjectMeta: metav1.ObjectMeta{Name: "c"}}},
		},
		"covered in both families": {
			nodes:   []corev1.Node{node("a", yes, "192.0.2.1", "2001:db8::1"), node("b", yes, "::ffff:192.0.2.9")},
			trusted: cidrs,
		},
		"covered in one family only": {
			nodes:   []corev1.Node{node("a", yes, "192.0.2.1", "2001:db8::1")},
			trusted: cidrs[:1],
			want:    []string{"a"},
		},
		"without any InternalIP": {
			nodes:   []corev1.Node{node("a", yes)},
			trusted: cidrs,
			want:    []string{"a"},
		},
		"with an InternalIP that is none": {
			nodes:   []corev1.Node{node("a", yes, "192.0.2.1", "nonsense")},
			trusted: cidrs,
			want:    []string{"a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, gate.Peers(test.nodes, test.endpoints, "fw", test.trusted))
		})
	}
}
