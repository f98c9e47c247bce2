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

	// rounds is how many have to be well in a row. They are counted: an agent that got no
	// time to make any has seen nothing.
	rounds = int(Settle/Every) + 1
)

// again stands behind what worked again before the node went back. While the API server is
// away the node can't; that new connections to it work later, under the same rules, tells
// that it was away for all, and not cut off from this node by them.
const again = " (worked again under the same policies, which did not cut it then)"

// Decide says what the endpoints are to carry, from what is written on them and known. To
// ask again with what it returned, and nothing new, changes nothing.
//
// Four things are decided here that can be seen in another way:
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
//   - A node that went back moves nowhere before it has found out what came of that, whoever
//     wants it to: what still meets the rules it has left would be missing in its baseline.
func Decide(s Status, in Input) Decision {
	s = s.now(in)
	switch {
	case s.Phase == Trying:
		return s.try(in)
	case s.Phase == RolledBack && in.Carried == s.Set:
		return s.leave(in)
	case in.Carried == in.Set:
		return s.stay(in)
	case s.Phase == RolledBack:
		return s.pause(in)
	}
	return s.begin(in)
}

// now returns the status as it is in truth: what was decided and is not there yet has not
// begun, and nothing began in the future.
func (s Status) now(in Input) Status {
	if before := s.seen.before; before != nil {
		there := (s.Phase != RolledBack) == (in.Carried == s.Set)
		switch {
		case there:
			s.seen.before = nil
		case s.Phase != RolledBack, s.Unconfirmed && in.Confirmed:
			// Whether it may move is asked anew. And who has confirmed in time is not undone
			// because the node has heard of it late.
			s = *before
		}
	}
	if s.Since.After(in.Now) {
		s.Since = in.Now
	}
	if s.seen.since.IsZero() {
		s.seen.since = in.Now
	}
	return s
}

// attempted tells whether the node went back from this very set, and nobody has said retry.
func (s Status) attempted(in Input) bool {
	return s.Phase == RolledBack && s.Set == in.Set && !s.Retried(in.Retry)
}

// begin moves the node to the agent's set, once it may and it is known what works.
func (s Status) begin(in Input) Decision {
	switch {
	case s.Phase != Armed:
	case s.Set != in.Carried:
		s = Status{}
	default:
		// Where another set is wanted, the move to this one is over: what it came from may be
		// gone by now, and no deadline that is set later means to go back there.
		s.From = s.Set
	}
	next := Status{Set: in.Set, From: in.Carried, Phase: Armed, Since: in.Now, Attempt: 1, Retry: in.Retry}
	next.seen.before = &s
	var missing []string
	if s.attempted(in) {
		next.From, next.Attempt, next.Cut, next.Retry = s.From, s.Attempt+1, s.Cut, s.Retry
		missing = in.lost(s.returned())
	}
	d := Decision{Status: s, Carry: next.From, When: in.Taken.Add(Fresh)}
	works, fails := in.told()
	switch why := cmp.Or(in.Blocked, in.Held); {
	case why != "":
		d.Reason, d.When = why, time.Time{}
	case in.expired(0):
		d.Reason, d.When = in.deadline()+": a new text of the annotation "+clearance.RetryAnnotation+" of the ConfigMap sets a new deadline", time.Time{}
	case !in.Verify:
		next.Cut = nil
		return Decision{Status: next, Carry: in.Set, Reason: "armed with policy set " + in.Set + ", which was not tried"}
	case !in.Now.Before(d.When):
		d.Reason = "tries what works, before it moves to set " + in.Set
		return d.ask(in, in.Now)
	case len(missing) > 0:
		// It has worked since the node went back. A baseline without it would make the second
		// attempt blind for just what the first one may have cut.
		d.Reason = "moves to set " + in.Set + " when this works again: " + strings.Join(missing, "; ")
	case len(works) == 0:
		d.Reason = "moves to set " + in.Set + " when anything works that can be tried again afterwards, but nothing does: " + strings.Join(fails, "; ")
	default:
		next.Phase, next.Baseline = Trying, works
		return Decision{Status: next, Carry: in.Set, When: in.Now.Add(Every), Reason: next.tries(nil)}
	}
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
	late, caught := !in.Now.Before(s.Since.Add(GiveUp)), !in.Now.Before(s.seen.since.Add(Catch))
	switch {
	case !in.Verify || s.seen.well >= rounds:
		s.Phase, s.Since, s.Cut, s.seen = Armed, in.Now, nil, seen{}
		return Decide(s, in)
	case late && (len(lost) > 0 || caught):
		if s.seen.lost == nil {
			s.seen.lost = []string{"nothing could be tried in time"}
			if in.Moves {
				s.seen.lost = []string{"that " + name(s.From) + " is left as well could not be written in time"}
			}
		}
		return Decide(s.back(in.Now, false, s.seen.lost...), in)
	}
	return Decision{Status: s, Carry: s.Set, Reason: s.tries(lost)}.ask(in, s.seen.since)
}

// count takes a round into account that began after the move, and returns what of the
// baseline does not work; none where no round has told.
func (s *Status) count(in Input) (lost []string) {
	fresh := in.Taken.After(s.seen.since) && in.Unseen == ""
	if fresh {
		lost = in.lost(s.Baseline)
	}
	if in.Cut != "" {
		lost = append(lost, in.Cut)
	}
	if in.Unseen != "" {
		// What is tried meets other rules. It is told when there was time to follow the label.
		if s.seen.well, s.seen.last = 0, in.Now; !in.Now.Before(s.seen.since.Add(Settle)) {
			lost = append(lost, in.Unseen)
		}
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
	s.seen = seen{before: &before}
	return s
}

// leave takes the node back, for as long as it can't be written.
func (s Status) leave(in Input) Decision {
	if in.Taken.After(s.seen.since) {
		works, _ := in.told()
		s.Cut = slices.Clone(s.Cut)
		for i, cut := range s.Cut {
			if probe, _, _ := strings.Cut(cut, ": "); slices.Contains(works, probe) && !strings.HasSuffix(cut, again) {
				s.Cut[i] += again
			}
		}
	}
	s.Since = in.Now
	return Decision{Status: s, Carry: s.From, Reason: s.Went()}.ask(in, s.seen.since)
}

// pause is a node that went back: it finds out what came of that, and moves again once.
func (s Status) pause(in Input) Decision {
	settled, next := s.Since.Add(Settle), s.Since.Add(Pause)
	if s.Still == nil && in.Taken.After(settled) {
		s.Still = append([]string{}, in.lost(s.Baseline)...) // not nil, though it may be empty
	}
	d := Decision{Status: s, Carry: s.From, Reason: s.Went()}
	switch {
	case s.Still == nil && in.Now.Before(settled):
		d.When = settled
	case s.Still == nil:
		return d.ask(in, settled)
	case s.attempted(in) && s.Final():
	case s.attempted(in) && in.Now.Before(next):
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
	switch {
	case s.From == s.Set || in.Deadline.IsZero() || in.Confirmed:
		return d
	case in.expired(Skew):
		return Decide(s.back(in.Now, true, in.deadline()), in)
	}
	d.When = in.Deadline.Add(Skew)
	return d
}

// ask wants a round of probes each Every that began after a moment. What it found while two
// sets are carried would be said of one.
func (d Decision) ask(in Input, after time.Time) Decision {
	d.When = in.Now.Add(Every)
	if next := in.Taken.Add(Every); in.Taken.After(after) && next.After(in.Now) {
		d.When = next
	} else {
		d.Probe = !in.Moves
	}
	return d
}

// told returns the probes of the last round that worked, and of the others why they did not.
func (in Input) told() (works, fails []string) {
	for _, result := range in.Results {
		if result.Problem == "" {
			works = append(works, result.Probe)
		} else {
			fails = append(fails, result.Probe+": "+result.Problem)
		}
	}
	return works, fails
}

// lost returns which of some probes did not work in the last round, and why.
func (in Input) lost(before []string) (lost []string) {
	for _, probe := range before {
		problem := "it could not be tried"
		if i := slices.IndexFunc(in.Results, func(r Result) bool { return r.Probe == probe }); i >= 0 {
			problem = in.Results[i].Problem
		}
		if problem != "" {
			lost = append(lost, probe+": "+problem)
		}
	}
	return lost
}

// expired tells whether the deadline has passed by so much, and nobody has confirmed.
func (in Input) expired(by time.Duration) bool {
	return !in.Deadline.IsZero() && !in.Confirmed && !in.Now.Before(in.Deadline.Add(by))
}

// deadline says that the set was not confirmed.
func (in Input) deadline() string {
	return "set " + in.Set + " was not confirmed until " + in.Deadline.UTC().Format(time.RFC3339)
}
