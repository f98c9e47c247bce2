// Package policyset judges what is in the cluster of Calico's: whether a set of policies
// is there as the chart has rendered it, which policies of others would govern an endpoint
// of the release, and whose endpoint wins on a node. It is pure.
package policyset

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/projectcalico/calico/libcalico-go/lib/selector"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// Policy is what is kept of a GlobalNetworkPolicy.
type Policy struct {
	metav1.ObjectMeta
	// Digest is that of its spec.
	Digest string
	// The selectors say which endpoints it governs.
	Selector, NamespaceSelector, ServiceAccountSelector string
	// Order says when it is asked among others; 0 where it has none.
	Order float64
	// Witness is the value of witness.Label, where it is as that should be, whatever its order;
	// empty: it is none, or not so.
	Witness string
	// Spec is kept where the policy is one of a set: who would be cut follows from it.
	Spec map[string]any

	// selects is what they come to, where it was read already: it is evaluated for
	// every node.
	selects selector.Selector
}

// Of returns what is kept of a policy with such a spec, as encoding/json decodes it.
func Of(meta metav1.ObjectMeta, spec map[string]any) *Policy {
	text := func(key string) string {
		s, _ := spec[key].(string)
		return s
	}
	meta.Labels = endpoint.LabelsOf(&meta)
	meta.Annotations, meta.ManagedFields = nil, nil
	p := &Policy{
		ObjectMeta:             meta,
		Digest:                 Digest(spec),
		Selector:               text("selector"),
		NamespaceSelector:      text("namespaceSelector"),
		ServiceAccountSelector: text("serviceAccountSelector"),
	}
	if p.Labels[endpoint.SetLabel] != "" {
		p.Spec = spec
	}
	switch order := spec["order"].(type) {
	case float64:
		p.Order = order
	case int64:
		p.Order = float64(order)
	}
	if of := p.Labels[witness.Label]; of != "" && p.Digest == Digest(witness.Spec(p.Labels[endpoint.ReleaseLabel], of, p.Order)) {
		p.Witness = of
	}
	if selects, err := p.parse(); err == nil {
		p.selects = selects
	}
	return p
}

// digestLength is how many hex digits a digest has.
const digestLength = 16

// Digest tells specs apart that mean different things: API servers add to a spec the
// default tier and fields that are empty, and read whole numbers as other types. The
// chart computes the same of a spec that has none of those.
func Digest(spec map[string]any) string {
	spec = maps.Clone(spec)
	if spec["tier"] == "default" {
		delete(spec, "tier")
	}
	canonical := withoutEmpty(spec)
	if canonical == nil {
		canonical = map[string]any{}
	}
	// What was decoded can be encoded, and keys come out in one order.
	text, _ := json.Marshal(canonical)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:digestLength]
}

// withoutEmpty returns a value without fields that say nothing, nil if that is all of it.
// Items of a list stay, whatever they are: there a place may count.
func withoutEmpty(value any) any {
	switch v := value.(type) {
	case map[string]any:
		kept := make(map[string]any, len(v))
		for key, field := range v {
			if field = withoutEmpty(field); field != nil {
				kept[key] = field
			}
		}
		if len(kept) > 0 {
			return kept
		}
	case []any:
		kept := make([]any, len(v))
		for i, item := range v {
			kept[i] = withoutEmpty(item)
		}
		if len(kept) > 0 {
			return kept
		}
	case string:
		if v != "" {
			return v
		}
	case bool:
		if v {
			return v
		}
	default:
		return v
	}
	return nil
}

// Lack says, in a clause that names each policy, how what is there differs from the set;
// empty: the set is complete and unchanged. A policy that carries the set's labels and is
// none of it is a difference, too: it would pass for one of ours.
func Lack(release string, set clearance.Set, have []*Policy) string {
	found := map[string]bool{}
	var missing, changed, strange []string
	for _, policy := range have {
		if policy.DeletionTimestamp != nil {
			continue
		}
		labelled := policy.Labels[endpoint.ReleaseLabel] == release && policy.Labels[endpoint.SetLabel] == set.Revision
		switch digest, ours := set.Policies[policy.Name]; {
		case ours:
			found[policy.Name] = true
			if !labelled || policy.Digest != digest {
				changed = append(changed, policy.Name)
			}
		case labelled:
			strange = append(strange, policy.Name)
		}
	}
	for name := range set.Policies {
		if !found[name] {
			missing = append(missing, name)
		}
	}
	var clauses []string
	for _, c := range []struct {
		what  string
		names []string
	}{
		{"GlobalNetworkPolicies are missing: ", missing},
		{"GlobalNetworkPolicies are not as the chart has rendered them: ", changed},
		{"GlobalNetworkPolicies have the labels of set " + set.Revision + " and do not belong to it: ", strange},
	} {
		if slices.Sort(c.names); len(c.names) > 0 {
			clauses = append(clauses, c.what+strings.Join(slices.Compact(c.names), ", "))
		}
	}
	return strings.Join(clauses, "; ")
}

// Present returns the policies of the release's sets by the set, without those that are
// about to be deleted.
func Present(release string, have []*Policy) map[string][]*Policy {
	sets := map[string][]*Policy{}
	for _, policy := range have {
		if set := policy.Labels[endpoint.SetLabel]; set != "" && policy.Labels[endpoint.ReleaseLabel] == release && policy.DeletionTimestamp == nil {
			sets[set] = append(sets[set], policy)
		}
	}
	return sets
}
