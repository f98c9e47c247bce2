// Package witness says by what a node sees that its Felix enforces a set of policies: two
// policies and a network set whose only effect is that two connections over loopback are
// dropped. It is pure.
//
// The policies are written when the set of policies is complete, and the address from which
// the connections come is put into the network set when the addresses of all Nodes are
// trusted. Felix learns of all policies in the order in which they were written, and so of
// all network sets. Where the first connection is dropped it has learned of the whole set,
// and of every address. The second one is dropped only where an endpoint carries the set: rules
// stay in the kernel when Felix dies, and a label that it does not follow changes nothing.
package witness

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/trust"
)

const (
	// Label is on the policies of a witness. Its value is the set of which it is the witness, on
	// the second one with Moved at its end; so are their names.
	Label = "host-firewall.io/witness"
	Moved = "-moved"
	// OfWitness is the value of trust.Label on the network set.
	OfWitness = "witness"
)

// Policy is a GlobalNetworkPolicy that is to be created. It has no field that API servers
// add or take away, so that its digest is that of what they have.
type Policy struct {
	metav1.ObjectMeta
	Spec map[string]any
}

// Of returns the addresses of the witness of a set. Each of the four is of a quarter of
// 127.66.0.0/16 of its own: none is where another set has one of another meaning.
func Of(release, set string) clearance.Witness {
	sum := sha256.Sum256([]byte(release + "/" + set))
	in := func(quarter byte) netip.Addr {
		return netip.AddrFrom4([4]byte{127, 66, quarter<<6 | sum[2*quarter]>>2, 1 + sum[2*quarter+1]%254})
	}
	return clearance.Witness{From: in(0), To: in(1), Moved: in(3), Control: in(2)}
}

// NewPolicy returns the policy whose value of Label is of, see Spec.
func NewPolicy(release, of string, order float64) *Policy {
	return &Policy{
		ObjectMeta: metav1.ObjectMeta{
			Name:   SetName(release) + "-" + of,
			Labels: map[string]string{endpoint.ReleaseLabel: release, Label: of},
		},
		Spec: Spec(release, of, order),
	}
}

// Spec returns the spec of that policy. The first one governs all endpoints of the release,
// armed or not, the second one those that carry the set, as its policies do. A preDNAT policy
// has no drop at its end, so what it does not deny goes on as without it. The order has to be
// below that of all policies of the set, which let loopback in, and just below: then what
// somebody else's policy lets in before ours shows, too.
func Spec(release, of string, order float64) map[string]any {
	set, moved := strings.CutSuffix(of, Moved)
	w, ofRelease := Of(release, set), fmt.Sprintf("%s == '%s'", endpoint.ReleaseLabel, release)
	deny := func(from, to netip.Addr) map[string]any {
		return map[string]any{
			"action": "Deny", "protocol": "TCP",
			"source":      map[string]any{"nets": []any{only(from)}},
			"destination": map[string]any{"nets": []any{only(to)}, "ports": []any{int(clearance.WitnessPort)}},
		}
	}
	governs, v4 := ofRelease, deny(w.From, w.To)
	denies := []any{v4, deny(netip.IPv6Loopback(), netip.IPv6Loopback())}
	if moved {
		governs, v4 = fmt.Sprintf("%s && %s contains '%s'", ofRelease, endpoint.SetLabel, set), deny(w.From, w.Moved)
		denies = []any{v4} // one family is enough: a label is one for both
	}
	v4["source"] = map[string]any{
		"nets":     []any{only(w.From)},
		"selector": fmt.Sprintf("%s && %s == '%s'", ofRelease, trust.Label, OfWitness), "namespaceSelector": "global()",
	}
	return map[string]any{
		"order": order, "selector": governs, "types": []any{"Ingress"}, "preDNAT": true, "applyOnForward": true,
		"ingress": denies,
	}
}

// SetName returns the name of the release's network set of witnesses.
func SetName(release string) string { return release + "-witness" }

// NewSet returns that network set with what the witnesses of these sets of policies need.
func NewSet(release string, sets []string) *v3.GlobalNetworkSet {
	set := &v3.GlobalNetworkSet{ObjectMeta: metav1.ObjectMeta{
		Name: SetName(release), Labels: map[string]string{endpoint.ReleaseLabel: release, trust.Label: OfWitness},
	}}
	for _, revision := range sets {
		set.Spec.Nets = append(set.Spec.Nets, only(Of(release, revision).From))
	}
	slices.Sort(set.Spec.Nets)
	return set
}

// only returns the network of this address alone.
func only(addr netip.Addr) string { return netip.PrefixFrom(addr, addr.BitLen()).String() }
