// Package trial is how a node moves from one set of policies to another and comes back by
// itself where that cuts something: what worked before the move is tried again with new
// connections, for a while, and once more after going back. It is pure: what is known
// comes in, and what the endpoints are to carry comes out.
package trial

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
)

// Annotation holds a Status on each endpoint of the node. It is written together with the
// label that moves the node, in one patch: a node that has moved is known to be trying.
const Annotation = "host-firewall.io/trial"

// Phase is how far the move to a set has come; empty: nothing was tried yet.
type Phase string

// The phases.
const (
	// Trying is a node that carries the set, and is not known to be well with it.
	Trying Phase = "Trying"
	// Armed is one that is.
	Armed Phase = "Armed"
	// RolledBack is one that was not, and carries what it carried before.
	RolledBack Phase = "RolledBack"
)

// Status is the last move of a node. Hand each one that Decide returns to the next Decide, as
// it is: beside what is written it holds what this process has seen.
type Status struct {
	// Set is what the node moved to, From what it carried before; empty: it was open. They
	// are the same where the endpoints carried Set already when they were first looked at, and
	// where another set was wanted since the move.
	Set  string `json:"set"`
	From string `json:"from,omitempty"`
	// Phase holds since Since, by the node's clock.
	Phase Phase     `json:"phase"`
	Since time.Time `json:"since"`
	// Attempt counts the moves to Set, from 1 to Attempts; 0: none was needed.
	Attempt int `json:"attempt,omitempty"`
	// Baseline are the probes that worked before the move.
	Baseline []string `json:"baseline,omitempty"`
	// Cut says what did not work any more when the node last went back: "probe: problem".
	Cut []string `json:"cut,omitempty"`
	// Still says what of Baseline did not work after going back either: then the set is not
	// the reason, or going back has failed. Nil: it was not tried yet.
	Still []string `json:"still"`
	// Retry is the text of clearance.RetryAnnotation under which the attempts began.
	Retry string `json:"retry,omitempty"`
	// Unconfirmed tells that the node went back because no person has confirmed the set.
	Unconfirmed bool `json:"unconfirmed,omitempty"`

	seen seen
}

// seen is what this process has seen since it, or the phase, began. A restart begins anew.
type seen struct {
	// before is the status that comes into force again when the endpoints turn out not to
	// have got what was decided.
	before *Status
	// since is when this process first saw the phase on the endpoints, or had to go back.
	since time.Time
	// well counts the rounds in a row that found the whole baseline well, and last is when
	// the last of them began. lost is what a round found last that was not.
	last time.Time
	well int
	lost []string
}

// Result is what came of one probe; Problem is empty where it worked.
type Result struct{ Probe, Problem string }

// Input is what a decision is made from.
type Input struct {
	// Now is the node's clock. Times of one process hold Go's monotonic clock, which no
	// jump of the other moves: don't take it off.
	Now time.Time
	// Set is what the agent was rolled out with, Carried what all endpoints of the node
	// carry; where they differ, what they carry that was last decided against.
	Set, Carried string
	// Blocked says why the node may not move now, for whatever reason; empty: it may.
	Blocked string
	// Held says why a node that tries the set can't be judged: somebody else's endpoint wins,
	// or the policies of the set are not as they were rendered. What a write of the agent's
	// own brings about for a moment doesn't belong here. Empty: it can.
	Held string
	// Results are those of the last round of probes, and Taken is when it began; zero: there
	// was none.
	Results []Result
	Taken   time.Time
	// Cut says how the controller doesn't reach the node any more; empty: it does.
	Cut string
	// Deadline is until when a person has to have confirmed Set, by the controller's clock;
	// zero: nobody has to. That of another set doesn't belong here.
	Deadline  time.Time
	Confirmed bool
	// Retry is the text of clearance.RetryAnnotation.
	Retry string
	// Moves tells that the node still carries the set it comes from as well.
	Moves bool
	// Unseen says why packets do not show yet that the rules of Set are in force; empty: they
	// do, or nobody can see it.
	Unseen string
	// Verify tells whether what worked is tried at all.
	Verify bool
}

// Decision is what is to be done.
type Decision struct {
	// Status is the new one. It is to be written at once where Encode gives another text.
	Status Status
	// Carry is the set that the endpoints are to carry; empty: none.
	Carry string
	// Probe tells that a round of probes is wanted now, unless one is under way.
	Probe bool
	// When is when to decide again, whatever happens; zero: on events only.
	When time.Time
	// Reason says in words how it stands. It changes only when something happens.
	Reason string
}

// Encode returns the text for Annotation; empty: there is to be none.
func (s Status) Encode() string {
	if s.Phase == "" {
		return ""
	}
	s.Since = s.Since.UTC()
	// Texts, numbers and a time can always be encoded.
	text, _ := json.Marshal(s)
	return string(text)
}

// Parse reads what the endpoints of a node have in Annotation, and returns the newest: writing
// may have been interrupted between two endpoints. What can't be read, or is of a phase
// that nobody knows, is left out. Nothing left means that nothing was tried.
func Parse(texts ...string) (newest Status) {
	for _, text := range texts {
		var s Status
		if json.Unmarshal([]byte(text), &s) != nil || !slices.Contains([]Phase{Trying, Armed, RolledBack}, s.Phase) {
			continue
		}
		if newest.Phase == "" || s.Since.After(newest.Since) {
			newest = s
		}
	}
	return newest
}

// Final tells whether the node went back and does not try again by itself.
func (s Status) Final() bool {
	return s.Phase == RolledBack && (s.Attempt >= Attempts || s.Unconfirmed)
}

// Retried tells whether a person has said that nodes which went back are to try again, since
// this one began. To take the annotation away says nothing.
func (s Status) Retried(retry string) bool { return retry != "" && retry != s.Retry }

// Went says in words what was cut when the node went back, and what came of going back; empty:
// it did not go back.
func (s Status) Went() string {
	if s.Phase != RolledBack {
		return ""
	}
	text := "went back from set " + s.Set + " to " + name(s.From) + ": " + strings.Join(s.Cut, "; ")
	switch {
	case s.Still == nil:
		text += "; what came of going back is not known yet"
	case len(s.Still) > 0:
		text += "; that did not help, without set " + s.Set + " does not work either: " + strings.Join(s.Still, "; ")
	case len(s.Baseline) > 0:
		text += "; all that worked before works again"
	}
	if s.Final() {
		return text + "; it stays so until another set comes, or the annotation " + clearance.RetryAnnotation + " of the ConfigMap gets a new text"
	}
	return text + "; it tries once more"
}

// name is what a set is called in texts.
func name(set string) string {
	if set == "" {
		return "none, the node is open"
	}
	return "set " + set
}
