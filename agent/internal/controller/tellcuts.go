package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
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
	case w == nil || w.text == "":
		return because + "its agent has not said yet who is connected"
	case !w.judged && f.around.err != nil:
		return because + "it is not known who would be cut off: " + f.around.err.Error()
	case !w.judged:
		return because + "it is not known yet who would be cut off"
	case slices.ContainsFunc(w.summary.Sees, func(s peers.Sight) bool { return s.Kind == peers.SeesNothing }):
		return because + "its agent cannot see who is connected: see the advice of status. Write rollout.onWouldCut: report where that is how it is"
	case len(w.cuts) > 0:
		return fmt.Sprintf("%sset %s would cut off %s. %s", because, c.Wanted.Revision, event.Some(peersOf(w.cuts)), c.letIn(w.cuts[0]))
	case w.summary.Until.Sub(w.summary.Since) < lookFor && f.now.Before(w.first.Add(lookMost)):
		d.at(w.first.Add(lookMost))
		return because + "its agent looks for a minute first who is connected"
	}
	return ""
}

// peersOf are the peers of cuts, in their order.
func peersOf(cuts []peers.Cut) (texts []string) {
	for _, cut := range cuts {
		texts = append(texts, fmt.Sprintf("%s (tcp/%d)", cut.From, cut.Port))
	}
	return texts
}

// letIn says what to write for one who is not to be cut off.
func (c Config) letIn(cut peers.Cut) string {
	from := netip.PrefixFrom(cut.From, cut.From.BitLen())
	in := fmt.Sprintf("ingress: [{name: NAME, cidrs: [%q], protocol: TCP, ports: [%d]}]", from, cut.Port)
	if slices.Contains(c.SSHPorts, cut.Port) {
		in = fmt.Sprintf("ssh.cidrs: [%q]", from)
	}
	return fmt.Sprintf("Let them in (%s), or accept it (rollout.acceptCuts: {ports: [%d]}, or cidrs)", in, cut.Port)
}

// tellCuts says in the clearance who would be cut off, and what else was seen. It is told of a node and a port by one
// Event, in the words that were right when that began.
func (c Config) tellCuts(m *memory, now *clearance.Clearance, d *decision) {
	seen := map[string][]string{}
	for name, w := range m.watched {
		now.WouldCut = append(now.WouldCut, w.cuts...)
		told := map[uint16]string{}
		for _, port := range portsCut(w.cuts) {
			if told[port] = w.told[port]; told[port] == "" {
				told[port] = c.wouldCut(port, w.cuts)
			}
			d.notices = append(d.notices, notice{eventWouldCut, name, m.nodes[name].uid, told[port]})
		}
		w.told = told
		for _, text := range w.advice {
			seen[text] = append(seen[text], name)
		}
	}
	slices.SortFunc(now.WouldCut, peers.Compare)
	if most := min(len(now.WouldCut), mostCuts); most < len(now.WouldCut) {
		now.WouldCut, now.WouldCutMore = now.WouldCut[:most:most], len(now.WouldCut)-most
	}
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
