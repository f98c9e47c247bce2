package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

// waits says why the node waits because of who is connected to it; empty: it does not. Nothing is told of a
// node before it has an endpoint, so it gets that; and one that has tried the set is not asked again.
func (c Config) waits(name string, n *node, f facts, m *memory, d *decision) string {
	if !c.Wait || c.Audit || c.Off || !n.has || !n.wants || n.carries || n.trial.Set == c.Wanted.Revision {
		return ""
	}
	const because = "rollout.onWouldCut is wait, and "
	w := m.watched[name]
	switch {
	case w == nil || !w.says:
		return because + "its agent has not said yet who is connected"
	case f.around.err != nil && !w.judged || f.around.isStale(f.now):
		return because + notKnown + f.around.err.Error()
	case w.problem != "":
		return because + notKnown + w.problem
	case !w.judged:
		return because + "it is not known yet who would be cut off"
	case m.judge != nil && m.judge.blind:
		return ""
	case slices.ContainsFunc(w.summary.Sees, func(s peers.Sight) bool { return s.Kind == peers.SeesNothing }):
		return because + "its agent cannot see who is connected, for which its advice has the cause. Write rollout.onWouldCut: report where that is how it is"
	case len(w.cuts) > 0:
		// Peers are not in it: nodes of which the same is so share one reason, which stays as it is while people come and go.
		var texts []string
		for _, port := range portsCut(w.cuts) {
			texts = append(texts, fmt.Sprintf("tcp/%d", port))
		}
		return fmt.Sprintf("%sset %s would cut off who was connected to %s. Let them in by ssh.cidrs, ingress or cluster.cidrs, or accept it by rollout.acceptCuts",
			because, c.Wanted.Revision, event.Some(texts))
	case w.summary.Until.Sub(w.summary.Since) < lookFor && f.now.Before(w.first.Add(lookMost)):
		d.at(w.first.Add(lookMost))
		return because + "its agent looks for a minute first who is connected"
	case !w.heardAll() && f.now.Before(w.first.Add(hearMost)):
		d.at(w.first.Add(hearMost))
		return because + "its agent has not told of all yet who were connected, which takes eight minutes at most"
	}
	return ""
}

// tellCuts says in the clearance who would be cut off, and what else was seen.
func (c Config) tellCuts(f facts, m *memory, now *clearance.Clearance, d *decision) {
	seen := map[string][]string{}
	var rest []peers.Cut
	for name, w := range m.watched {
		share := min(len(w.cuts), mostOfNode)
		now.WouldCut, rest = append(now.WouldCut, w.cuts[:share]...), append(rest, w.cuts[share:]...)
		for _, text := range w.advice {
			seen[text] = append(seen[text], name)
		}
		if f.around.isStale(f.now) {
			seen[notKnown+f.around.err.Error()] = append(seen[notKnown+f.around.err.Error()], name)
		}
	}
	slices.SortFunc(rest, peers.Compare)
	slices.SortFunc(now.WouldCut, peers.Compare)
	now.WouldCut = append(now.WouldCut, rest...)
	if most := min(len(now.WouldCut), mostCuts); most < len(now.WouldCut) {
		now.WouldCut, now.WouldCutMore = now.WouldCut[:most:most], len(now.WouldCut)-most
	}
	slices.SortFunc(now.WouldCut, peers.Compare)
	d.status.WouldCut = now.WouldCut
	for _, text := range slices.Sorted(maps.Keys(seen)) {
		names := slices.Sorted(slices.Values(seen[text]))
		most := min(len(names), mostNamed)
		now.Advice = append(now.Advice, peers.Advice{Text: text, Nodes: names[:most], More: len(names) - most})
	}
	slices.SortStableFunc(now.Advice, func(a, b peers.Advice) int {
		return cmp.Compare(len(b.Nodes)+b.More, len(a.Nodes)+a.More)
	})
	now.Advice = now.Advice[:min(len(now.Advice), mostAdvice)]
}

// noticeCuts has an Event tell of a node and a port, in the words that were right when that began. What else there
// is to tell comes first, and of thousands of nodes a few say enough.
func (c Config) noticeCuts(m *memory, d *decision) {
	nodes := 0
	for _, name := range slices.Sorted(maps.Keys(m.watched)) {
		w, told := m.watched[name], map[uint16]string{}
		for _, port := range portsCut(w.cuts) {
			if told[port] = w.told[port]; told[port] == "" {
				told[port] = c.wouldCut(port, w.cuts)
			}
			if nodes < mostNoticed {
				d.notices = append(d.notices, notice{eventWouldCut, name, m.nodes[name].uid, told[port]})
			}
		}
		if w.told = told; len(told) > 0 {
			nodes++
		}
	}
}

// portsCut are the ports of cuts, each once, in order.
func portsCut(cuts []peers.Cut) (ports []uint16) {
	for _, cut := range cuts {
		ports = append(ports, cut.Port)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// wouldCut says who would be cut off at a port of a node.
func (c Config) wouldCut(port uint16, cuts []peers.Cut) string {
	connections, from := 0, []string{}
	for _, cut := range cuts {
		if cut.Port == port {
			connections += cut.Connections
			from = append(from, cut.From.String())
		}
	}
	return fmt.Sprintf("set %s would cut tcp/%d from %s (%s)", c.Wanted.Revision, port, event.Some(from), peers.Connections(connections))
}
