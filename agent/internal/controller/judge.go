package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/advice"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/trust"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

// notKnown begins what is said where nobody knows who would be cut off.
const notKnown = "who would be cut off is not known: "

// judge is what nodes are judged by.
type judge struct {
	by    map[string]string // versions of all that it is made of
	at    time.Time
	set   verdict.Set
	world verdict.World
	blind bool // pods are let in, and nobody knows who is one
	err   error
}

// newJudge brings what nodes are judged by up to date, and tells whether all are to be judged again.
func (c Config) newJudge(f facts, m *memory, present map[string][]*policyset.Policy, d *decision) bool {
	by := map[string]string{}
	for _, policy := range present[c.Wanted.Revision] {
		by["policy "+policy.Name] = policy.ResourceVersion
	}
	for _, set := range f.trusted {
		by[set.Name] = set.ResourceVersion
	}
	pods := podsOf(f)
	by["around"] = fmt.Sprintf("%v %v %v %v %v", pods, f.around.apiServers, f.around.failsafe, f.around.failsafes, f.around.unknown)
	if f.around.answered.IsZero() || m.judge != nil && maps.Equal(by, m.judge.by) {
		return false
	}
	if m.judge != nil {
		if due := m.judge.at.Add(judgeEvery); f.now.Before(due) {
			d.at(due)
			return false
		}
	}
	m.judge = &judge{by: by, at: f.now}
	if policyset.Lack(c.Release, c.Wanted, f.policies) != "" {
		m.judge = nil // nothing is known of a set that is not complete
		return true
	}
	var policies []verdict.Policy
	for _, policy := range present[c.Wanted.Revision] {
		policies = append(policies, verdict.Policy{Name: policy.Name, Spec: policy.Spec})
	}
	m.judge.set, m.judge.err = verdict.Of(c.Release, policies)
	// What audit logs, another mode would drop.
	m.judge.set = m.judge.set.Enforcing()
	m.judge.world = verdict.World{Nodes: trust.Nodes(f.trusted), Pods: pods, APIServers: f.around.apiServers}
	m.judge.blind = m.judge.set.TrustsPods() && len(pods) == 0
	return true
}

// podsOf are the networks of pods: Calico's, and where the node has a network of its own, that.
func podsOf(f facts) []netip.Prefix {
	var ofNodes []string
	for _, object := range f.nodes {
		ofNodes = append(ofNodes, object.Spec.PodCIDRs...)
	}
	return verdict.Pods(f.around.pools, ofNodes)
}

// judge judges a node.
func (c Config) judge(f facts, m *memory, name string, w *watched) {
	n, world := m.nodes[name], m.judge.world
	list, own := f.around.failsafes[name]
	problem := f.around.unknown[name]
	if world.Failsafe = list; !own {
		world.Failsafe, problem = f.around.failsafe, cmp.Or(problem, f.around.unknown[""])
	}
	if m.judge.err != nil {
		problem = m.judge.err.Error()
	}
	w.judged, w.carries, w.problem, w.advice = true, n.carries, problem, nil
	asked := c.Audit || !n.carries
	if !asked {
		w.cuts = nil
	}
	if problem != "" {
		w.advice = []string{notKnown + problem}
		return // who was to be cut off before may be so still
	}
	if w.cuts = nil; asked && !m.judge.blind {
		w.cuts = peers.Cuts(name, w.summary, m.judge.set, world, c.Accept)
	}
	for _, cut := range w.cuts {
		// Nobody who would be cut is forgotten for want of room.
		if at := (peer{cut.Port, cut.From}); w.heard[at].IsZero() {
			w.heard[at] = f.now
		}
	}
	untrusted := n.addresses
	if c.TrustNodes {
		untrusted = nil
		for _, text := range m.refused[name] {
			if addr, ok := endpoint.ParseAddress(text); ok {
				untrusted = append(untrusted, addr)
			}
		}
	}
	w.advice = advice.Of(advice.Node{Object: n.object, Peers: w.summary, Untrusted: untrusted}, advice.Release{
		Set: m.judge.set, Calico: f.calico, Audit: c.Audit, SSHPorts: c.SSHPorts, APIServerPorts: c.APIServerPorts, AllInterfaces: slices.Contains(c.Interfaces, endpoint.AllInterfaces),
	}, world)
	if m.judge.blind {
		w.advice = append(w.advice, notKnown+"cluster.trustPods lets pods in, and without IPPools of Calico's and podCIDRs of Nodes they are not told from others. In mode audit the kernel's log has whom Felix would drop")
	}
}
