package controller

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

const (
	// lookFor is how long an agent looks who is connected before a node may be armed that waits for that,
	// and lookMost how long that takes at most: it looks again one minute to two after the first time.
	lookFor, lookMost = time.Minute, 150 * time.Second
	// hearMost is how long a node waits at most until its agent has told of all who were connected.
	hearMost = 8 * time.Minute
	// keptRound is how long somebody is kept at least who is told no more: an agent that has no news tells the same
	// again in less than half of it. In mostRounds an agent forgets him itself. Of a node there are mostHeard.
	keptRound  = 30 * time.Minute
	mostRounds = 48
	mostHeard  = 4096
	// aroundEvery is how often it is asked what is around nodes while somebody is judged, and aroundNew
	// how soon after somebody is to be.
	aroundEvery, aroundNew = time.Minute, 100 * time.Millisecond
	// judgeEvery is the least time between two judgements of all nodes. One that has just said something is
	// judged at once.
	judgeEvery = 5 * time.Second
	// tellCutsEvery is the least time between two changes of who would be cut and of advice alone, which agents do not
	// need and are woken by.
	tellCutsEvery = time.Minute
	// tellCountsEvery is the same where nothing but numbers of connections has changed: in audit they only rise.
	tellCountsEvery = 10 * time.Minute
	// stale is how old an answer of what is around nodes may be before it is said that nobody can be judged by it.
	stale = 5 * time.Minute
	// The most that the clearance holds of them, of which each node has its share before there is room for more,
	// how many nodes by name with each advice, and of how many nodes Events tell.
	mostCuts, mostOfNode, mostAdvice, mostNamed, mostNoticed = 200, 20, 30, 10, 20
)

// around is what counts for who would be cut, beside policies and Nodes. It is asked for, and not
// followed: it matters only while agents say who is connected, and seldom changes.
type around struct {
	asked, answered time.Time
	err             error // of the last attempt
	pools           []*v3.IPPool
	apiServers      []netip.Addr
	failsafe        []v3.ProtoPort            // of nodes without one of their own
	failsafes       map[string][]v3.ProtoPort // of others
	unknown         map[string]string         // why that of a node is not known; "": of those without one of their own
}

// isStale tells whether the last good answer is too old, and there is no other.
func (a around) isStale(now time.Time) bool { return a.err != nil && now.Sub(a.answered) >= stale }

// watched is what an agent says of who is connected to its node, and what follows from it.
type watched struct {
	text    string // as the agent wrote it
	says    bool   // that says something
	summary peers.Summary
	first   time.Time // since when this controller sees that agent look
	judged  bool
	carries bool   // the node had the set then
	problem string // why nobody knows who would be cut off; empty: it is known
	cuts    []peers.Cut
	heard   map[peer]time.Time // when it last told of somebody
	advice  []string
	told    map[uint16]string
}

// peer is somebody at a port of a node.
type peer struct {
	port uint16
	from netip.Addr
}

// lookAtPeers finds out who would be cut off, and what else there is to say.
func (c Config) lookAtPeers(f facts, m *memory, was clearance.Clearance, present map[string][]*policyset.Policy, d *decision) {
	before := m.watched
	m.watched = map[string]*watched{}
	for name, n := range m.nodes {
		w := before[name]
		if n.peers == "" || c.Off {
			continue
		}
		if w == nil {
			w = &watched{heard: map[peer]time.Time{}}
			if was.Wanted.Revision == c.Wanted.Revision {
				w.cuts = slices.DeleteFunc(slices.Clone(was.WouldCut), func(cut peers.Cut) bool { return cut.Node != name })
			}
			for _, cut := range w.cuts {
				w.heard[peer{cut.Port, cut.From}] = f.now
			}
		}
		m.watched[name] = w
		w.hear(n.peers, f.now, c.Wait && !c.Audit)
	}
	if len(m.watched) == 0 || m.lags(f) {
		return // a Node that has just come would seem to be a stranger
	}
	if asks, next := m.looksAround(f); asks {
		d.at(f.now.Add(aroundNew))
	} else if !next.IsZero() {
		d.at(next)
	}
	again := c.newJudge(f, m, present, d)
	for name, w := range m.watched {
		if w.says && m.judge != nil && (again || !w.judged || w.carries != m.nodes[name].carries) {
			c.judge(f, m, name, w)
		}
	}
}

// hear takes in what an agent says. Who would be cut stays for a while: of many at one port it tells others each time.
// Only where the node waits for all of them is it remembered who else was told.
func (w *watched) hear(text string, now time.Time, all bool) {
	if text == w.text {
		return
	}
	summary := peers.Parse(text)
	if summary.Since.IsZero() {
		*w = watched{text: text, heard: map[peer]time.Time{}}
		return
	}
	w.text, w.says = text, true
	if w.first.IsZero() || !summary.Since.Equal(w.summary.Since) {
		w.first = now
		if !w.summary.Since.IsZero() {
			w.cuts, w.heard = nil, map[peer]time.Time{}
		}
	}
	for _, port := range summary.Ports {
		for _, p := range port.From {
			if at := (peer{port.Port, p.Addr}); all && len(w.heard) < mostHeard || !w.heard[at].IsZero() {
				w.heard[at] = now
			}
		}
	}
	maps.DeleteFunc(w.heard, func(p peer, last time.Time) bool { return now.Sub(last) > keptFor(summary, p.port) })
	for _, cut := range w.cuts[:min(len(w.cuts), mostCuts)] {
		if !w.heard[peer{cut.Port, cut.From}].IsZero() {
			summary = summary.With(cut)
		}
	}
	w.summary, w.judged = summary, false
}

// keptFor is for how long somebody at a port is kept whom the agent tells no more: an agent that tells all
// has forgotten him by then, and one that can't gets the time to tell the others first. Whoever was
// connected to a port on which nobody listens any more is forgotten at once.
func keptFor(s peers.Summary, port uint16) time.Duration {
	at := slices.IndexFunc(s.Ports, func(p peers.Port) bool { return p.Port == port })
	switch {
	case at >= 0:
		rounds := s.Ports[at].Addresses / max(1, len(s.Ports[at].From))
		return keptRound * time.Duration(max(1, min(rounds, mostRounds)))
	case len(s.Listens) < peers.MostListens && !slices.Contains(s.Listens, port):
		return -1
	}
	return keptRound
}

// heardAll tells whether the agent has told of all who were connected since it began.
func (w *watched) heardAll() bool {
	heard := map[uint16]int{}
	for p := range w.heard {
		heard[p.port]++
	}
	return w.summary.More == 0 && !slices.ContainsFunc(w.summary.Ports, func(p peers.Port) bool { return p.Addresses > heard[p.Port] })
}

// looksAround tells whether to ask now what is around nodes, and when to ask again; zero: nobody is judged.
func (m *memory) looksAround(f facts) (now bool, next time.Time) {
	for _, w := range m.watched {
		if w.says {
			next = f.around.asked.Add(aroundEvery)
			return !f.now.Before(next), next
		}
	}
	return false, next
}

// lookAround asks. What was found out before is believed until there is an answer.
func (k *Controller) lookAround(ctx context.Context, f facts) around {
	a := f.around
	a.asked = f.now
	configurations, err := k.api.FelixConfigurations(ctx)
	pools, ofPools := k.api.IPPools(ctx)
	addresses, _, ofServers := k.api.APIServer(ctx)
	if a.err = cmp.Or(err, ofPools, ofServers); a.err != nil {
		if f.around.err == nil {
			k.log.Warn("cannot find out who would be cut off", "error", a.err)
		}
		return a
	}
	a.answered, a.pools, a.apiServers = f.now, pools, addresses
	k.config.readFailsafes(&a, configurations, f)
	return a
}

// readFailsafes finds out Felix's failsafe of each node, as it is to be.
func (c Config) readFailsafes(a *around, configurations []*failsafe.Configuration, f facts) {
	a.failsafes, a.unknown = map[string][]v3.ProtoPort{}, map[string]string{}
	read := func(node string, own *failsafe.Configuration) []v3.ProtoPort {
		list, err := failsafe.Inbound(own, f.felix, c.Failsafe)
		if err != nil {
			a.unknown[node] = err.Error()
		}
		return list
	}
	a.failsafe = read("", nil)
	for _, own := range configurations {
		node, isNode := strings.CutPrefix(own.Name, failsafe.Name(""))
		if list := read(node, own); isNode && !reflect.DeepEqual(list, a.failsafe) {
			// With thousands of nodes it is the same on most.
			a.failsafes[node] = list
		}
	}
}
