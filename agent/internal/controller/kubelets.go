package controller

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	// mostPeers is how many kubelets agents are told of. Any one is enough for a probe.
	mostPeers = 4
	// A kubelet is lost that did not answer so often in a row, that far apart. It is known
	// eight seconds after the move then, before the node has been well for ten.
	lostAfter = 3
	dialEvery = 2 * time.Second
	// dialsAtOnce bounds how many answers are waited for.
	dialsAtOnce = 512
	// staleAfter is how old an answer may be to be held against a node that moves.
	staleAfter = time.Minute
)

// kubelet is how a node's kubelet answers this controller. What an agent tries goes out of its
// node, this comes in.
type kubelet struct {
	at      netip.AddrPort
	dialed  time.Time // last; zero: never
	asked   bool      // the answer is still to come
	moved   bool      // its node tries the wanted set
	before  bool      // it answered before that
	missed  int       // answers in a row since then
	problem string    // with the last one
}

// dial is a connection to be tried, and answer what came of it; without a problem it worked.
type dial struct {
	node  string
	to    netip.AddrPort
	at    time.Time
	moved bool // the node had
}

type answer struct {
	dial
	problem string
}

// reach says which kubelets are to be dialed, and in the clearance which nodes are not reached
// any more that try the wanted set, and whose kubelets agents may dial. Nothing waits for
// an answer: a node that has moved before there was one is not judged by this. Nor is the own
// one, as no policy meets what stays on a host.
func (c Config) reach(f facts, m *memory, was clearance.Clearance, now *clearance.Clearance, d *decision) {
	before := m.kubelets
	m.kubelets = map[string]*kubelet{}
	if c.Off || !c.Verify {
		return
	}
	now.Peers = m.peers(was.Peers)
	free := dialsAtOnce
	var moved, waiting []dial
	for name, n := range m.nodes {
		tries := c.tries(n)
		if name == c.OwnNode || !n.kubelet.IsValid() || !tries && (!n.wants || n.carries) {
			continue
		}
		k := before[name]
		if k == nil || k.at != n.kubelet || k.moved && !tries {
			k = &kubelet{at: n.kubelet}
		}
		m.kubelets[name], k.moved = k, tries
		may := (now.Canary == name || now.Canary == "" && now.Reason == "") && !n.held
		switch due, never := k.due(may); {
		case k.asked:
			free--
		case never || tries && n.silent(f.now):
		case f.now.Before(due):
			d.at(due)
		case tries:
			moved = append(moved, dial{name, k.at, f.now, tries})
		default:
			waiting = append(waiting, dial{name, k.at, f.now, tries})
		}
	}
	// Where there are more, an answer makes the controller look again.
	d.dials = append(moved, waiting...)
	d.dials = d.dials[:min(len(d.dials), max(free, 0))]
	for _, one := range d.dials {
		m.kubelets[one.node].dialed, m.kubelets[one.node].asked = f.now, true
	}
	now.Cut = c.cut(m, was)
}

// tries tells whether the node has moved to the wanted set, and is not known to be well.
func (c Config) tries(n *node) bool {
	return n.trial.Set == c.Wanted.Revision && n.trial.Phase == trial.Trying
}

// due says when to dial next. may tells that the node is about to move.
func (k *kubelet) due(may bool) (when time.Time, never bool) {
	switch {
	case k.moved:
		return k.dialed.Add(dialEvery), !k.before
	case k.dialed.IsZero():
		return k.dialed, false
	}
	return k.dialed.Add(staleAfter), !may
}

// hear takes in what has come of dials.
func (m *memory) hear(answers []answer) {
	for _, a := range answers {
		k := m.kubelets[a.node]
		switch {
		case k == nil || !k.dialed.Equal(a.at):
			continue // of a dial that nobody waits for any more
		case !a.moved:
			k.before = a.problem == ""
		case a.problem == "":
			k.missed = 0
		default:
			k.missed, k.problem = k.missed+1, a.problem
		}
		k.asked = false
	}
}

// cut says which nodes that try the wanted set are not reached any more, by what came of it.
// What was said stays until the node is through with trying, also over a restart.
func (c Config) cut(m *memory, was clearance.Clearance) map[string][]string {
	said := map[string]string{}
	for reason, names := range was.Cut {
		for _, name := range names {
			said[name] = reason
		}
	}
	cut := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		reason := ""
		if k := m.kubelets[name]; k != nil && k.missed >= lostAfter {
			reason = "kubelet from the controller's host: " + k.problem
		}
		if reason = cmp.Or(said[name], reason); reason != "" && c.tries(m.nodes[name]) {
			cut[reason] = append(cut[reason], name)
		}
	}
	return cut
}

// peers are the kubelets of a few Nodes that are Ready: the same ones as long as they are, for each
// change wakes all agents, and then of the oldest, which stay for longest. One that is not
// Ready any more stays where nobody takes its place: no Node is, for a while, when the API
// server was away, and a probe that can't be made looks like one that is cut.
func (m *memory) peers(were map[string]netip.AddrPort) map[string]netip.AddrPort {
	peers := map[string]netip.AddrPort{}
	var others, tired []string
	for name, n := range m.nodes {
		switch at, is := were[name]; {
		case !n.kubelet.IsValid():
		case is && at == n.kubelet && n.ready:
			peers[name] = at
		case is && at == n.kubelet:
			tired = append(tired, name)
		case n.ready:
			others = append(others, name)
		}
	}
	for _, names := range [][]string{others, tired} {
		slices.SortFunc(names, func(a, b string) int {
			return cmp.Or(m.nodes[a].created.Compare(m.nodes[b].created), strings.Compare(a, b))
		})
		for _, name := range names[:min(len(names), max(mostPeers-len(peers), 0))] {
			peers[name] = m.nodes[name].kubelet
		}
	}
	return peers
}
