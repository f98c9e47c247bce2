package trial_test

import (
	"fmt"
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
	// clock is how far the node's is ahead.
	clock time.Duration
	// carried and text are what is stored of the endpoint.
	carried, text string
	// away tells that the API server is, refuses that it takes no writes, down that the agent is.
	away, refuses, down bool
	// fails says why a probe doesn't work now; empty: it does. Nil: all work.
	fails func(probe string) string

	status trial.Status
	last   trial.Decision
	round  *round
	moves  []string // what was carried, and since which second
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
	w.in.Results, w.in.Taken = nil, time.Time{}
}

// run lets seconds pass; what happens in which of them comes before the agent knows.
func (w *world) run(seconds int, events map[int]func()) *world {
	from := w.now
	for second := range seconds {
		if happens := events[second]; happens != nil {
			happens()
		}
		w.until(from.Add(time.Duration(second+1) * time.Second))
	}
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
		if when := w.last.When.Add(-w.clock); !w.down && when.After(w.now) && when.Before(next) {
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
	for written := true; written; {
		w.in.Now, w.in.Carried = w.now.Add(w.clock), w.carried
		w.last = trial.Decide(w.status, w.in)
		again := trial.Decide(w.last.Status, w.in)
		require.Equal(w.t, w.last.Carry, again.Carry, "decided twice on %+v with %+v", w.status, w.in)
		require.Equal(w.t, w.last.Status.Encode(), again.Status.Encode(), "decided twice on %+v with %+v", w.status, w.in)
		require.NotEmpty(w.t, w.last.Reason)
		require.True(w.t, w.last.When.IsZero() || w.last.When.After(w.in.Now), "when to decide again lies ahead")
		w.status = w.last.Status
		written = w.write()
	}
	if w.last.Probe && w.round == nil {
		w.probe()
	}
}

// write stores what was decided, label and annotation in one, and tells whether that is new.
func (w *world) write() bool {
	d := w.last
	if w.away || w.refuses || d.Carry == w.carried && d.Status.Encode() == w.text {
		return false
	}
	w.text = d.Status.Encode()
	if d.Carry != w.carried {
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
