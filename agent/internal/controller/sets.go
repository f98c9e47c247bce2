package controller

import (
	"maps"
	"slices"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// unusedFor is how long nobody uses a set before it goes.
const unusedFor = 5 * time.Minute

// sets says which sets there are, and how those that nodes are armed with have changed.
func (c Config) sets(f facts, m *memory, was clearance.Clearance, carried map[string]int, present map[string][]*policyset.Policy) clearance.Clearance {
	again := was.Wanted.Revision == c.Wanted.Revision
	now := clearance.Clearance{
		Wanted: c.Wanted, Before: was.Wanted, Rollout: c.Rollout, Drift: map[string]string{},
		Nodes: was.Nodes, Endpoints: was.Endpoints, Paused: f.paused, Controller: m.started,
	}
	if again || carried[was.Before.Revision] > 0 && carried[was.Wanted.Revision] == 0 {
		// That is the one which nodes are armed with, or were last.
		now.Before = was.Before
	}
	now.Present = slices.AppendSeq(c.unlabelled(f, now), maps.Keys(present))
	if carried[endpoint.Before] > 0 {
		// Helm gives its policies the label after it has replaced the first agents.
		now.Present = append(now.Present, endpoint.Before)
	}
	slices.Sort(now.Present)
	if now.Present = slices.Compact(now.Present); len(now.Present) == 0 {
		now.Present = []string{clearance.None}
	}
	if again && was.Controller.After(m.started) {
		// Two of the same do the same, and don't fight over who says so.
		now.Controller = was.Controller
	}
	for _, set := range []clearance.Set{now.Wanted, now.Before} {
		if lack := policyset.Lack(c.Release, set, f.policies); lack != "" && carried[set.Revision] > 0 && !now.IsGone(set.Revision) {
			now.Drift[set.Revision] = lack + mended
		}
	}
	return now
}

// unlabelled are the known sets of which a policy is there, whatever became of its labels:
// Felix does not ask for them.
func (c Config) unlabelled(f facts, now clearance.Clearance) (sets []string) {
	for _, set := range []clearance.Set{now.Wanted, now.Before} {
		if slices.ContainsFunc(f.policies, func(p *policyset.Policy) bool { return set.Policies[p.Name] != "" }) {
			sets = append(sets, set.Revision)
		}
	}
	return sets
}

// carried counts the release's endpoints by the set that they are armed with.
func (c Config) carried(f facts) map[string]int {
	carried := map[string]int{}
	for _, hep := range f.endpoints {
		for _, set := range []string{endpoint.SetOf(hep), endpoint.LeavesOf(hep)} {
			if set != "" && endpoint.ReleaseOf(hep) == c.Release {
				carried[set]++
			}
		}
	}
	return carried
}

// others are the sets beside the wanted one that have to stay: nodes are armed with them, or
// may go back to them.
func (c Config) others(m *memory, now clearance.Clearance, carried map[string]int) map[string]bool {
	others := map[string]bool{}
	for set := range carried {
		others[set] = true
	}
	pending := !now.Deadline.IsZero()
	if pending {
		others[now.Before.Revision] = true
	}
	for _, n := range m.nodes {
		if pending || n.trial.Phase == trial.Trying || n.trial.Phase == trial.RolledBack {
			others[n.trial.From] = true
		}
	}
	delete(others, "")
	delete(others, c.Wanted.Revision)
	return others
}

// removeUnused removes the sets that nobody has used for a while, the one before too: a
// `helm rollback` makes it anew.
func (c Config) removeUnused(f facts, m *memory, now clearance.Clearance, present map[string][]*policyset.Policy, others map[string]bool, d *decision) {
	used := func(set string) bool { return set == now.Wanted.Revision || others[set] }
	maps.DeleteFunc(m.unusedSince, func(set string, _ time.Time) bool { return now.IsGone(set) || used(set) })
	for set, policies := range present {
		if used(set) {
			continue
		}
		if m.unusedSince[set].IsZero() {
			m.unusedSince[set] = f.now
		}
		if over := m.unusedSince[set].Add(unusedFor); f.now.Before(over) {
			d.at(over)
			continue
		}
		for _, policy := range policies {
			d.writes = append(d.writes, write{subject: "GlobalNetworkPolicy " + policy.Name, seen: policy.ResourceVersion, object: policy, gone: true})
		}
	}
}
