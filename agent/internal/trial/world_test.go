package trial_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// probes are all that there are.
func probes() []string {
	return []string{"API server", "kubelet of this node", "kubelets of other nodes", "DNS", "witness's control address"}
}

// round is one of probes, that is under way.
type round struct {
	begun   time.Time // by the node's clock
	done    time.Time // by the true one
	results []trial.Result
}

// world is a node, its agent, and what is stored of both: no more than Decide needs, and
// it advances from event to event.
type world struct {
	t     *testing.T
	start time.Time
	now   time.Time // the true time
	// in holds what the world tells beside times, results and what is carried.
	in trial.Input
	// clock is how far the node's is ahead now, and began how far it was when the agent was
	// started: a process measures time from there on, whatever the clock does.
	clock, began time.Duration
	// carried and text are what is stored of the endpoint.
	carried, text string
	// both is for how long a node that goes from one set to another carries the two, and leaves
	// is the other one, for longer where nothing can be written.
	both   time.Duration
	leaves string
	left   time.Time
	// away tells that the API server is, refuses that it takes no writes, down that the agent is.
	away, refuses, down bool
	// fails says why a probe doesn't work now; empty: it does. Nil: all work.
	fails func(probe string) string

	status trial.Status
	last   trial.Decision
	round  *round
	moves  []string // what was carried, and since which second
	// writes is told each status that is stored, and what was carried before; nil: nobody is.
	writes func(status trial.Status, from string)
}

// newWorld is a node that carries a set, and an agent that wants set R.
func newWorld(t *testing.T, carried string) *world {
	w := &world{t: t, start: noon, now: noon, carried: carried, in: trial.Input{Set: "R", Verify: true}}
	w.moved()
	return w
}

func (w *world) moved() {
	w.moves = append(w.moves, fmt.Sprintf("%d:%s", int(w.now.Sub(w.start).Seconds()), w.carried))
}

// restart starts the agent anew, with what is stored.
func (w *world) restart() {
	w.down, w.status, w.round, w.last = false, trial.Parse(w.text), nil, trial.Decision{}
	w.began = w.clock
	w.in.Results, w.in.Taken = nil, time.Time{}
}

// run lets seconds pass; what happens in which of them comes before the agent knows, and wakes
// it. Nothing else does but what it waits for.
func (w *world) run(seconds int, events map[int]func()) *world {
	from := w.now
	for _, second := range slices.Sorted(maps.Keys(events)) {
		w.until(from.Add(time.Duration(second) * time.Second))
		events[second]()
	}
	w.until(from.Add(time.Duration(seconds) * time.Second))
	return w
}

// until lets the time pass until then, and wakes the agent for all that it waits for.
func (w *world) until(then time.Time) {
	for w.now.Before(then) {
		w.wake()
		next := then
		if !w.down && w.round != nil && w.round.done.Before(next) {
			next = w.round.done
		}
		if w.leaves != "" && w.left.After(w.now) && w.left.Before(next) {
			next = w.left
		}
		if when := w.last.When.Add(-w.began); !w.down && when.After(w.now) && when.Before(next) {
			next = when
		}
		w.now = next
	}
}

// wake is one pass of the agent.
func (w *world) wake() {
	if w.down {
		return
	}
	if w.round != nil && !w.now.Before(w.round.done) {
		w.in.Results, w.in.Taken, w.round = w.round.results, w.round.begun, nil
	}
	if !w.away && !w.refuses && !w.now.Before(w.left) {
		w.leaves = ""
	}
	for written := true; written; {
		in := w.in
		in.Now, in.Carried = w.now.Add(w.began), w.carried
		in.Moves = w.leaves != ""
		if !in.Deadline.IsZero() {
			// It is compared with the clock, and not with the time that the process measures.
			in.Deadline = in.Deadline.Add(w.began - w.clock)
		}
		w.last = trial.Decide(w.status, in)
		again, text := trial.Decide(w.last.Status, in), w.last.Status.Encode()
		if again.Carry != w.last.Carry || again.Status.Encode() != text || again.Reason != w.last.Reason {
			require.Fail(w.t, "it decides in another way when asked again", "%+v\nwith %+v:\n%+v\nand then\n%+v", w.status, in, w.last, again)
		}
		if w.last.Reason == "" || !w.last.When.IsZero() && !w.last.When.After(in.Now) {
			require.Fail(w.t, "there is no reason, or when to decide again does not lie ahead", "%+v", w.last)
		}
		w.in.Now, w.in.Carried, w.status = in.Now, in.Carried, w.last.Status
		written = w.write(text)
	}
	if w.last.Probe && w.round == nil {
		w.probe()
	}
}

// write stores what was decided, label and annotation in one, and tells whether that is new.
func (w *world) write(text string) bool {
	d := w.last
	if w.away || w.refuses || d.Carry == w.carried && text == w.text {
		return false
	}
	if w.writes != nil {
		w.writes(d.Status, w.carried)
	}
	w.text = text
	if d.Carry != w.carried {
		if w.both > 0 && d.Carry != "" {
			w.leaves, w.left = w.carried, w.now.Add(w.both)
		}
		w.carried = d.Carry
		w.moved()
	}
	return true
}

// probe begins a round. It is quick where everything works.
func (w *world) probe() {
	r := &round{begun: w.in.Now.Add(time.Microsecond), done: w.now.Add(50 * time.Millisecond)}
	for _, probe := range probes() {
		problem := ""
		switch {
		case probe == "API server" && w.away:
			problem = "connection refused"
		case w.fails != nil:
			problem = w.fails(probe)
		}
		if problem != "" {
			r.done = w.now.Add(time.Second)
		}
		r.results = append(r.results, trial.Result{Probe: probe, Problem: problem})
	}
	w.round = r
}

// timeline is what was carried when.
func (w *world) timeline() string { return strings.Join(w.moves, " ") }

// cuts makes set R cut a probe, for as long as the node carries it.
func (w *world) cuts(cut string) *world {
	w.fails = func(probe string) string {
		if w.carried == "R" && probe == cut {
			return "timeout"
		}
		return ""
	}
	return w
}

// breaks makes probes fail, whatever the node carries.
func (w *world) breaks(broken ...string) {
	w.fails = func(probe string) string {
		if slices.Contains(broken, probe) {
			return "broken"
		}
		return ""
	}
}
