package trial

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
)

const (
	// Every is the time from one round of probes to the next. A round takes up to as long.
	Every = time.Second

	// Settle is how long everything has to be well after a move, without a break. Felix has
	// applied a label by then where it is not overloaded, and the controller, which dials
	// every two seconds for up to one and wants to fail three times, has said what it sees
	// after seven. After going back it is as long until the probes run again: sooner they
	// could meet the rules that are about to go.
	Settle = 10 * time.Second

	// GiveUp is when a node goes back that was not well for Settle: what is not well by second
	// 35 has no such time left. A restart of a static API server, some 30 seconds, fits in,
	// and so does a Felix that is busy. With the second that a round takes, and the write, the
	// node is back within a minute, long before the five minutes after which Kubernetes
	// evicts the pods of a Node that it does not hear of.
	GiveUp = 45 * time.Second

	// Catch is what an agent that was away gets for Settle, should GiveUp come sooner.
	Catch = Settle + 5*time.Second

	// Pause is the time between going back and the second attempt: what has failed for another
	// reason, such as an API server that restarts, is over by then in most cases.
	Pause = 30 * time.Second

	// Attempts is how often a node moves to a set. Twice, for the first may have failed for
	// another reason; no more, for each may cut somebody off for as long as GiveUp.
	Attempts = 2

	// Fresh is how old the baseline may be at the move.
	Fresh = 5 * time.Second

	// Skew is how far the clocks of nodes may be apart, of which one wrote the deadline. A node
	// goes back only when it has passed by any of them: to be late by that is told in
	// the documentation, to undo what was confirmed in time could not be made up for.
	Skew = time.Minute

	// rounds is how many have to be well in a row. They are counted, so that no jump of a
	// clock makes time of what was none.
	rounds = int(Settle/Every) + 1
)

// again stands behind what worked again before the node went back. While the API server is
// away the node can't; that new connections to it work later, under the same rules, tells
// that it was away for all, and not cut off from this node by them.
const again = " (worked again under the same policies, which did not cut it then)"

// Decide says what the endpoints are to carry, from what is written on them and known. To
// ask again with what it returned, and nothing new, changes nothing.
//
// Three things are decided here that can be seen in another way:
//   - A node that has to go back does so, even if everything is well again before it can, as
//     after the API server was away: nobody knows what it was that cut and what has
//     cured it, but what the node came from is known to have worked. The second attempt is for
//     the harmless cases. An agent that was away at second 45 has seen nothing that would be a
//     reason: it goes back at the first probe that fails, and otherwise gets the time it needs.
//   - What makes a judgement impossible while it is Trying (Held) takes the node back at once:
//     where somebody else's endpoint wins for now, the rules would come into force later,
//     without anybody trying them. It counts as an attempt, or a hold that comes and goes would
//     move the node for ever. Blocked alone doesn't: it is about moving, and the node has moved.
//   - A person who takes the label off while it is Trying has seen something, or somebody fights
//     with us: that counts as an attempt that failed.
func Decide(s Status, in Input) Decision {
	s = s.now(in)
	switch {
	case s.Phase == Trying:
		return s.try(in)
	case s.Phase == RolledBack && in.Carried == s.Set:
		return s.leave(in)
	case in.Carried == in.Set:
		return s.stay(in)
	case s.attempted(in):
		return s.pause(in)
	}
	return s.begin(in)
}

// now returns the status as it is in truth: what was decided and is not there yet has not
// begun, and nothing began in the future.
func (s Status) now(in Input) Status {
	if before := s.seen.before; before != nil {
		there := (s.Phase == Trying) == (in.Carried == s.Set)
		switch {
		case there:
			s.seen.before = nil
		case s.Phase == Trying, s.Unconfirmed && in.Confirmed:
			// Whether it may move is asked anew. And who has confirmed in time is not undone
			// because the node has heard of it late.
			s = *before
		}
	}
	if s.Since.After(in.Now) {
		s.Since = in.Now
	}
	return s
}

// attempted tells whether the node went back from this very set, and nobody has said retry.
func (s Status) attempted(in Input) bool {
	return s.Phase == RolledBack && s.Set == in.Set && !s.Retried(in.Retry)
}

// begin moves the node to the agent's set, once it may and it is known what works.
func (s Status) begin(in Input) Decision {
	if s.Phase == Armed && s.Set != in.Carried {
		s = Status{}
	}
	d := Decision{Status: s, Carry: in.Carried, Reason: cmp.Or(in.Blocked, in.Held)}
	next := Status{Set: in.Set, Phase: Armed, Since: in.Now, Attempt: 1, Retry: in.Retry}
	var needed []string
	if s.attempted(in) {
		d.Carry = s.From
		next.Attempt, next.Cut, next.Retry = s.Attempt+1, s.Cut, s.Retry
		needed = s.returned()
	}
	next.From = d.Carry
	works := in.works()
	switch missing := without(needed, works); {
	case d.Reason != "":
		return d
	case in.expired(0):
		d.Reason = in.deadline() + ": a new text of the annotation " + clearance.RetryAnnotation + " of the ConfigMap sets a new deadline"
		return d
	case !in.Verify:
		next.Cut = nil
		d.Status, d.Carry, d.Reason = next, in.Set, "armed with policy set "+in.Set+", which was not tried"
		return d
	case !in.fresh(s.Since) || in.Now.Sub(in.Taken) > Fresh:
		d.Reason = "tries what works, before it moves to set " + in.Set
		return d.ask(in, in.Now)
	case len(missing) > 0:
		// It has worked since the node went back. A baseline without it would make the second
		// attempt blind for just what the first one may have cut.
		d.Reason = "moves to set " + in.Set + " when this works again: " + strings.Join(missing, ", ")
	case len(works) == 0:
		d.Reason = "moves to set " + in.Set + " when anything works that can be tried again afterwards, but nothing does: " + strings.Join(failed(in.Results), "; ")
	default:
		next.Phase, next.Baseline = Trying, works
		next.seen.before = &s
		return Decision{Status: next, Carry: in.Set, When: in.Now.Add(Every), Reason: next.tries(nil)}
	}
	d.When = in.Taken.Add(Fresh + 1)
	return d
}

// try judges a node that carries the set.
func (s Status) try(in Input) Decision {
	cut, unconfirmed := "", false
	switch {
	case in.Carried != s.Set:
		cut = "somebody took the label of set " + s.Set + " off"
	case in.Set == s.From:
		cut = "set " + s.From + " is wanted again"
	case in.Held != "":
		cut = "it could not be judged: " + in.Held
	case s.Set == in.Set && in.expired(Skew):
		cut, unconfirmed = in.deadline(), true
	}
	if cut != "" {
		return Decide(s.back(in.Now, unconfirmed, cut), in)
	}
	lost := s.count(in)
	// Who was there since the move has no more than GiveUp.
	late, caught := !in.Now.Before(s.Since.Add(GiveUp)), !in.Now.Before(s.seen.moved.Add(Catch))
	switch {
	case !in.Verify || s.seen.well >= rounds:
		s.Phase, s.Since, s.Cut, s.seen = Armed, in.Now, nil, seen{}
		return Decide(s, in)
	case late && (len(lost) > 0 || caught):
		if s.seen.lost == nil {
			s.seen.lost = []string{"no probe was made in time"}
		}
		return Decide(s.back(in.Now, false, s.seen.lost...), in)
	}
	return Decision{Status: s, Carry: s.Set, Reason: s.tries(lost)}.ask(in, s.seen.moved)
}

// count takes a round into account that began after the move, and returns what of the
// baseline does not work; none where no round has told.
func (s *Status) count(in Input) (lost []string) {
	if s.seen.moved.IsZero() || s.seen.moved.After(in.Now) {
		s.seen = seen{moved: in.Now}
	}
	fresh := in.fresh(s.seen.moved)
	if fresh {
		lost = in.lost(s.Baseline)
	}
	if in.Cut != "" {
		lost = append(lost, in.Cut)
	}
	switch {
	case len(lost) > 0:
		s.seen.well, s.seen.lost = 0, lost
	case fresh && in.Taken.Sub(s.seen.last) >= Every:
		s.seen.well++
		s.seen.last = in.Taken
	}
	return lost
}

// tries says how it stands while the node is Trying.
func (s Status) tries(lost []string) string {
	text := "tries set " + s.Set + ": what worked before has to work for " + Settle.String()
	if s.Attempt == Attempts {
		text = "tries set " + s.Set + " once more, after it had cut: " + strings.Join(s.Cut, "; ")
	}
	if len(lost) > 0 {
		text += "; now does not work: " + strings.Join(lost, "; ")
	}
	return text
}

// back is the status of a node that has to go back.
func (s Status) back(now time.Time, unconfirmed bool, cut ...string) Status {
	before := s
	s.Phase, s.Since, s.Cut, s.Still, s.Unconfirmed = RolledBack, now, cut, nil, unconfirmed
	s.seen = seen{before: &before, moved: now}
	return s
}

// leave takes the node back, for as long as it can't be written.
func (s Status) leave(in Input) Decision {
	if s.seen.moved.IsZero() || s.seen.moved.After(in.Now) {
		s.seen.moved = in.Now
	}
	if in.fresh(s.seen.moved) {
		works := in.works()
		s.Cut = slices.Clone(s.Cut)
		for i, cut := range s.Cut {
			if probe, _, _ := strings.Cut(cut, ": "); slices.Contains(works, probe) && !strings.HasSuffix(cut, again) {
				s.Cut[i] += again
			}
		}
	}
	s.Since = in.Now
	return Decision{Status: s, Carry: s.From, Reason: s.Went()}.ask(in, s.seen.moved)
}

// pause is a node that went back: it finds out what came of that, and moves again once.
func (s Status) pause(in Input) Decision {
	settled, next := s.Since.Add(Settle), s.Since.Add(Pause)
	if s.Still == nil && in.fresh(settled) {
		s.Still = append([]string{}, in.lost(s.Baseline)...)
	}
	d := Decision{Status: s, Carry: s.From, Reason: s.Went()}
	switch {
	case s.Still == nil && in.Now.Before(settled):
		d.When = settled
	case s.Still == nil:
		return d.ask(in, settled)
	case s.Final():
	case in.Now.Before(next):
		d.When = next
	default:
		return s.begin(in)
	}
	return d
}

// returned is what worked again when the node had gone back.
func (s Status) returned() (probes []string) {
	for _, probe := range s.Baseline {
		if !slices.ContainsFunc(s.Still, func(still string) bool { return strings.HasPrefix(still, probe+": ") }) {
			probes = append(probes, probe)
		}
	}
	return probes
}

// stay is a node that carries the agent's set, and is not Trying it.
func (s Status) stay(in Input) Decision {
	if s.Phase != Armed || s.Set != in.Set {
		s = Status{Set: in.Set, From: in.Set, Phase: Armed, Since: in.Now, Retry: in.Retry}
	}
	d := Decision{Status: s, Carry: in.Set, Reason: "armed with policy set " + in.Set}
	if s.From == s.Set || in.Deadline.IsZero() || in.Confirmed {
		return d
	}
	if in.expired(Skew) {
		return Decide(s.back(in.Now, true, in.deadline()), in)
	}
	d.When = in.Deadline.Add(Skew + 1)
	return d
}

// ask wants a round of probes each Every that began after a moment.
func (d Decision) ask(in Input, after time.Time) Decision {
	d.When = in.Now.Add(Every)
	if next := in.Taken.Add(Every); in.fresh(after) && next.After(in.Now) {
		d.When = next
	} else {
		d.Probe = true
	}
	return d
}

// fresh tells whether the last round began after a moment. One that began in the future was
// begun by another clock.
func (in Input) fresh(after time.Time) bool {
	return in.Taken.After(after) && !in.Taken.After(in.Now)
}

// works returns the probes of the last round that worked.
func (in Input) works() (probes []string) {
	for _, result := range in.Results {
		if result.Problem == "" {
			probes = append(probes, result.Probe)
		}
	}
	return probes
}

// lost returns the probes that did not work in the last round, of some that did before.
func (in Input) lost(before []string) (lost []string) {
	for _, probe := range without(before, in.works()) {
		text := probe + ": it could not be tried"
		for _, result := range in.Results {
			if result.Probe == probe {
				text = probe + ": " + result.Problem
			}
		}
		lost = append(lost, text)
	}
	return lost
}

// failed returns what did not work of some results, and why.
func failed(results []Result) (texts []string) {
	for _, result := range results {
		if result.Problem != "" {
			texts = append(texts, result.Probe+": "+result.Problem)
		}
	}
	return texts
}

// without returns those of all that others does not have.
func without(all, others []string) (rest []string) {
	for _, one := range all {
		if !slices.Contains(others, one) {
			rest = append(rest, one)
		}
	}
	return rest
}

// expired tells whether the deadline has passed by so much, and nobody has confirmed.
func (in Input) expired(by time.Duration) bool {
	return !in.Deadline.IsZero() && !in.Confirmed && in.Now.After(in.Deadline.Add(by))
}

// deadline says that the set was not confirmed.
func (in Input) deadline() string {
	return "set " + in.Set + " was not confirmed until " + in.Deadline.UTC().Format(time.RFC3339)
}
