package controller

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// instead is what nodes do that see no witness.
const instead = ": nodes are armed some seconds after they may be, and nobody sees whether the rules are in their kernels"

// keepWitnesses adds to the decision the changes that lead to the witnesses as they should
// be, and says which are. Both policies of one come when its set is complete, and go with it.
func (c Config) keepWitnesses(f facts, m *memory, carried map[string]int, present map[string][]*policyset.Policy, now *clearance.Clearance, d *decision) {
	now.Unproven = c.unproven(f)
	orders := c.ordersOfWitnesses(f, m, *now, present)
	there, stay := map[string]bool{}, map[string]bool{}
	for _, policy := range f.policies {
		of := policy.Labels[witness.Label]
		if of == "" || endpoint.ReleaseOf(policy) != c.Release {
			continue
		}
		there[of] = true
		set := strings.TrimSuffix(of, witness.Moved)
		order, complete := orders[set]
		switch {
		case policy.DeletionTimestamp != nil:
		case policy.Witness == "" || c.Off || len(present[set]) == 0 || complete && policy.Order > order,
			// When the set is mended, Felix does not know it as a whole because it knows this. But who is
			// armed with it goes on seeing that the rest is there.
			!complete && set == c.Wanted.Revision && carried[set] == 0:
			d.writes = append(d.writes, write{subject: "GlobalNetworkPolicy " + policy.Name, seen: policy.ResourceVersion, object: policy, gone: true})
		default:
			stay[of] = true
		}
	}
	for _, set := range slices.Sorted(maps.Keys(orders)) {
		for _, of := range []string{set, set + witness.Moved} {
			if !there[of] {
				policy := witness.NewPolicy(c.Release, of, orders[set])
				d.writes = append(d.writes, write{subject: "GlobalNetworkPolicy " + policy.Name, object: policy})
			}
		}
	}
	sets := slices.DeleteFunc(slices.Sorted(maps.Keys(stay)), func(of string) bool { return !stay[of+witness.Moved] })
	c.keepWitnessSet(f, m, sets, now, d)
}

// ordersOfWitnesses returns, of the sets that are known to be complete, the highest orders that
// their witnesses may have: just below those of all their policies. A node that is to move
// carries another set, which lets loopback in too, so for the wanted one every set counts.
func (c Config) ordersOfWitnesses(f facts, m *memory, now clearance.Clearance, present map[string][]*policyset.Policy) map[string]float64 {
	orders := map[string]float64{}
	for _, set := range []clearance.Set{now.Wanted, now.Before} {
		complete := !m.completeSince.IsZero()
		if set.Revision != now.Wanted.Revision {
			complete = policyset.Lack(c.Release, set, f.policies) == ""
		}
		policies := present[set.Revision]
		if set.Revision == now.Wanted.Revision && len(policies) > 0 {
			policies = slices.Concat(slices.Collect(maps.Values(present))...)
		}
		if complete && len(policies) > 0 && !c.Off {
			orders[set.Revision] = slices.MinFunc(policies, func(a, b *policyset.Policy) int { return cmp.Compare(a.Order, b.Order) }).Order - 1
		}
	}
	return orders
}

// keepWitnessSet does the same for the network set. It gets the address of a set's witness
// when both policies are there and all Nodes are trusted. The witness is said when it has it.
func (c Config) keepWitnessSet(f facts, m *memory, sets []string, now *clearance.Clearance, d *decision) {
	var is *v3.GlobalNetworkSet
	if at := slices.IndexFunc(f.trusted, func(set *v3.GlobalNetworkSet) bool { return set.Name == witness.SetName(c.Release) }); at >= 0 {
		is = f.trusted[at]
	}
	now.Witnesses = map[string]clearance.Witness{}
	var needed []string
	for _, set := range sets {
		alone := witness.NewSet(c.Release, []string{set})
		has := is != nil && labelledAs(is, alone) && slices.Contains(is.Spec.Nets, alone.Spec.Nets[0])
		if has {
			now.Witnesses[set] = witness.Of(c.Release, set)
		}
		if has || !m.lags(f) {
			needed = append(needed, set)
		}
	}
	switch should := witness.NewSet(c.Release, needed); {
	case len(needed) == 0 && is != nil:
		d.writes = append(d.writes, write{subject: subjectOf(is), seen: is.ResourceVersion, object: is, gone: true})
	case len(needed) > 0 && (is == nil || !same(is, should)):
		d.writes = append(d.writes, writeOfSet(is, should))
	}
}

// unproven says why no node can see a witness; empty: they can. Both are about loopback, over
// which that connection goes.
func (c Config) unproven(f facts) string {
	switch {
	case !slices.Contains(c.Interfaces, endpoint.AllInterfaces):
		return "hostEndpoint.interfaces has no *, so loopback has no endpoint" + instead
	case f.felix != nil && f.felix.Spec["bpfEnabled"] == true:
		return "FelixConfiguration default has bpfEnabled, and with eBPF Felix asks no policy on loopback" + instead
	}
	return ""
}
