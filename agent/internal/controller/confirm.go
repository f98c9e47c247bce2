package controller

import (
	"fmt"
	"slices"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// A deadline is a moment of this controller's clock, and each agent keeps it by its own, a minute
// late (trial.Skew). So where clocks differ by up to a minute, no node goes back before the
// deadline, whatever its clock says, and a person who confirms in the last second is heard by
// all: agents watch the annotation themselves. Where clocks agree, nodes go back a minute after it.

// mostAccepted is how many sets are remembered as accepted: Helm by itself keeps ten revisions.
const mostAccepted = 20

// accepted are the sets that nobody has to confirm, once for ever: a person has, or all nodes were
// well with them without that. Who goes back to one of them wants what is known to be good.
func (c Config) accepted(m *memory, was clearance.Clearance) []string {
	sets := was.Accepted
	accept := func(set string) {
		if set != "" && !slices.Contains(sets, set) {
			sets = append(slices.Clone(sets), set)
		}
	}
	if was.Wanted.Revision == c.Wanted.Revision && !was.Cleared.IsZero() && was.Deadline.IsZero() && c.allWell(m) {
		accept(c.Wanted.Revision)
	}
	if was.Confirmed == was.Wanted.Revision || was.Confirmed == c.Wanted.Revision {
		accept(was.Confirmed)
	}
	return sets[max(len(sets)-mostAccepted, 0):]
}

// allWell tells whether all nodes have got through with the wanted set. Those that can't be armed with
// it do not count: that says nothing of the set.
func (c Config) allWell(m *memory) (some bool) {
	for _, n := range m.nodes {
		moved := n.trial.Set == c.Wanted.Revision
		switch {
		case n.carries && (moved && n.trial.Phase == trial.Armed || !c.Verify):
			some = true
		case n.has && !n.held && (n.ready || moved):
			return false
		}
	}
	return some
}

// keepDeadline takes over from the clearance until when a person has to confirm the wanted set.
// It stands once for each set, and once more each time that nodes are to try again before
// anybody has confirmed.
func (c Config) keepDeadline(m *memory, was clearance.Clearance, now *clearance.Clearance) {
	now.Accepted = c.accepted(m, was)
	if c.Off {
		// Who turns it on again arms anew.
		return
	}
	if now.Retried = was.Retried; was.Retry != "" {
		now.Retried = was.Retry
	}
	if again := !was.Deadline.IsZero() && now.Retried != was.Retried; was.Wanted.Revision == c.Wanted.Revision && !again {
		now.Cleared = was.Cleared
		if c.confirms(*now) {
			now.Deadline = was.Deadline
		}
	}
}

// confirms tells whether a person has to confirm the wanted set, and has not.
func (c Config) confirms(now clearance.Clearance) bool {
	return c.Confirm > 0 && !slices.Contains(now.Accepted, c.Wanted.Revision)
}

// setDeadline says until when a person has to confirm the wanted set as soon as one node may
// be armed with it. Nodes that carry it although no clearance knows of any set had it before
// somebody deleted the ConfigMap: they don't go back because of that. Whether somebody had confirmed
// it is lost, so it is not accepted for that either.
func (c Config) setDeadline(f facts, now *clearance.Clearance, carried bool) {
	lost := now.Before.Revision == "" && carried && c.confirms(*now)
	if now.Reason != "" || !now.Cleared.IsZero() || lost {
		return
	}
	if now.Cleared = f.now; c.confirms(*now) {
		now.Deadline = f.now.Add(c.Confirm)
	}
}

// expired says that nobody has confirmed the wanted set; empty: it is not too late.
func (c Config) expired(f facts, m *memory, now clearance.Clearance, d *decision) string {
	switch {
	case now.Deadline.IsZero():
		return ""
	case f.now.Before(now.Deadline):
		d.at(now.Deadline)
		return ""
	}
	then := "went back from it"
	for _, n := range m.nodes {
		if n.carries && n.trial.From != c.Wanted.Revision {
			then = "go back from it about a minute later, when that has passed by any clock"
		}
	}
	return fmt.Sprintf("nobody has confirmed set %s until %s, so nodes %s. To try it once more: %s",
		c.Wanted.Revision, now.Deadline.UTC().Format(time.RFC3339), then, c.retryBy())
}

// confirmBy says how to confirm the wanted set.
func (c Config) confirmBy() string {
	return clearance.Annotate(c.Namespace, c.Release, clearance.ConfirmAnnotation, c.Wanted.Revision)
}
