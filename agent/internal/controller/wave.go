package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	// canaryTakes is how long the first node has to begin, before it is the next one's
	// turn: five seconds for Felix where nobody can see it, two to look what works, and three to
	// hear of it all. wellFor is how long it has to be well then where nothing is verified.
	canaryTakes, wellFor = 10 * time.Second, 3 * time.Second
	// silentFor is how long a node that tries the set may be in one phase: the longest takes
	// 45 seconds and says so, and the clock that says since when may be a minute off.
	silentFor = 2 * time.Minute
)

// wave says which nodes may be armed with the wanted set by now: one, all, or none for a
// reason. For an upgrade the update of the DaemonSet slows them down further.
func (c Config) wave(f facts, m *memory, was, now clearance.Clearance, d *decision) (canary, reason string) {
	if reason = c.expired(f, m, now, d); reason == "" {
		reason = c.wentBack(m, was.Retry)
	}
	if reason != "" {
		return "", reason
	}
	return c.canary(f, m, was.Retry, d)
}

// wentBack names the nodes that went back from the wanted set for good; empty: there are none. What
// was before a person said that it is to be tried again does not count.
func (c Config) wentBack(m *memory, retry string) string {
	var names []string
	for name, n := range m.nodes {
		if n.trial.Set == c.Wanted.Revision && n.trial.Final() && !n.trial.Retried(retry) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("no other node moves to set %s, for %s went back. Node %s %s: %s",
		c.Wanted.Revision, event.Some(names), names[0], m.nodes[names[0]].trial.Went(), c.retryBy())
}

// retryBy says how to have nodes that went back try again.
func (c Config) retryBy() string {
	return clearance.Annotate(c.Namespace, c.Release, clearance.RetryAnnotation, `"$(date)"`)
}

// canary returns the one node that goes first with the wanted set, or again; empty: a node is
// armed with it and well, so all may, or there is a reason why none may.
func (c Config) canary(f facts, m *memory, retry string, d *decision) (name, reason string) {
	c.verify(f.now, m, d)
	if name := c.trying(f.now, m, retry); name != "" {
		m.canary, m.canarySince = name, f.now
		return c.waitFor(f.now, m, name, d)
	}
	if m.verified {
		m.canary = ""
		return "", ""
	}
	candidates := c.candidates(m)
	if len(candidates) == 0 {
		return "", clearance.NoCanary
	}
	at := slices.Index(candidates, m.canary)
	still, over := at >= 0, m.canarySince.Add(canaryTakes)
	switch {
	case still && m.nodes[m.canary].carries && !c.Verify:
		return m.canary, ""
	case still && f.now.Before(over):
		d.at(over)
		return m.canary, ""
	}
	m.canary, m.canarySince = candidates[(at+1)%len(candidates)], f.now
	d.at(f.now.Add(canaryTakes))
	return m.canary, ""
}

// trying returns the node that is not through with the wanted set, and so has the turn; empty:
// none. Once one is well with it, only those count that went back from it, of which each tries
// once more by itself. Whether they are Ready does not matter: one may not be for that reason.
func (c Config) trying(now time.Time, m *memory, retry string) string {
	var waits, silent string
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		n := m.nodes[name]
		again, tries := n.trial.Retried(retry), n.trial.Phase == trial.Trying
		switch {
		case n.trial.Set != c.Wanted.Revision, n.trial.Phase == trial.Armed, m.verified && !n.wentBack():
		case again && (!tries || n.silent(now)):
		case n.silent(now):
			silent = cmp.Or(silent, name)
		case tries:
			return name
		default:
			waits = cmp.Or(waits, name)
		}
	}
	return cmp.Or(waits, silent)
}

// wentBack tells whether the last move of the node failed, or is the one after that.
func (n *node) wentBack() bool {
	return n.trial.Phase == trial.RolledBack || n.trial.Phase == trial.Trying && n.trial.Attempt > 1
}

// silent tells whether its agent should have said long ago how a trial went.
func (n *node) silent(now time.Time) bool { return !now.Before(n.trial.Since.Add(silentFor)) }

// waitFor gives a node that tries the set its time. One of which nothing is heard then may
// have been cut off by it, so nobody follows. But it may go on itself, should it come back.
func (c Config) waitFor(now time.Time, m *memory, name string, d *decision) (canary, reason string) {
	n := m.nodes[name]
	silent, since := n.silent(now), n.trial.Since.UTC().Format(time.RFC3339)
	if !silent {
		d.at(n.trial.Since.Add(silentFor))
		if !m.verified {
			return name, "" // all others know who goes first
		}
	}
	reason = fmt.Sprintf("no other node moves to set %s, for node %s %s", c.Wanted.Revision, name,
		cmp.Or(n.trial.Went(), "tries it once more, after it had cut: "+strings.Join(n.trial.Cut, "; ")))
	if !silent {
		return name, reason
	}
	if reason += "; so it has been since " + since; !n.wentBack() {
		reason = fmt.Sprintf("node %s went first with set %s, and its agent has said nothing since %s, so no other node moves to it", name, c.Wanted.Revision, since)
	}
	reason += ". Look at that node; if the set is not the reason, go on with " + c.retryBy()
	return name, reason
}

// candidates are the nodes that may go first. Whose agent has written last comes first: one
// that has died would only take time. The own one comes last, as nobody tries it from outside.
func (c Config) candidates(m *memory) (names []string) {
	for name, n := range m.nodes {
		if n.wants && n.ready && !n.held {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		switch x, y := m.nodes[a].newest, m.nodes[b].newest; {
		case a == c.OwnNode:
			return 1
		case b == c.OwnNode:
			return -1
		case clearance.Newer(x, y):
			return -1
		case clearance.Newer(y, x):
			return 1
		}
		return strings.Compare(a, b)
	})
	return names
}

// verify finds out whether a node is armed with the wanted set and well: its agent says so
// once it has tried, or without that it has been Ready with it for a while.
func (c Config) verify(now time.Time, m *memory, d *decision) {
	carries := false
	for name, n := range m.nodes {
		if !n.carries {
			delete(m.carriedSince, name)
			continue
		}
		carries = true
		if c.Verify {
			m.verified = m.verified || n.ready && n.trial.Set == c.Wanted.Revision && n.trial.Phase == trial.Armed
			continue
		}
		if m.carriedSince[name].IsZero() {
			m.carriedSince[name] = now
		}
		well := m.carriedSince[name].Add(wellFor)
		m.verified = m.verified || n.ready && !now.Before(well)
		if now.Before(well) {
			d.at(well)
		}
	}
	m.verified = m.verified && carries
}
