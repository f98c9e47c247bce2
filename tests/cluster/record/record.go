// Package record keeps who reached whom when, line by line while it happens, and judges it afterwards by what was promised. Only changes are
// written, and how many tries there were: of thousands of connections a second those cost a line that end otherwise than the one before.
package record

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// Kind is what a watch promises of each outcome.
type Kind string

// The promises of a firewall, and of what leads to it.
const (
	Open   Kind = "open"   // every try is answered, and was so when it was asked the first time
	Closed Kind = "closed" // no try is answered, nor refused, from Within after it is due; from the beginning where there is no Within
	Cut    Kind = "cut"    // something is not answered, and nothing for Within at a stretch
	Stays  Kind = "stays"  // every outcome begins with one of Allowed
	Seen   Kind = "seen"   // nothing: it is kept to be looked at
)

// Promise is what a watch is judged by.
type Promise struct {
	Test    string        `json:"test,omitempty"`
	Kind    Kind          `json:"kind"`
	Within  time.Duration `json:"within,omitempty"`
	Allowed []string      `json:"allowed,omitempty"`
}

// Line is one of a record: a watch begins (Promise), its promise is Due, somebody's outcome is another one, or the watch has ended.
type Line struct {
	Watch   int       `json:"watch"`
	At      time.Time `json:"at"` // of an outcome: the start of the first try that had it
	Promise *Promise  `json:"promise,omitempty"`
	Due     bool      `json:"due,omitempty"`
	Who     string    `json:"who,omitempty"`
	Outcome string    `json:"outcome,omitempty"`
	Last    time.Time `json:"last,omitzero"` // the start of the last try that had the outcome before
	Ended   bool      `json:"ended,omitempty"`
	Tries   int       `json:"tries,omitempty"`
}

// Record is what watches write to.
type Record struct {
	mu      sync.Mutex
	out     *json.Encoder
	watches int
}

// New begins a record.
func New(out io.Writer) *Record { return &Record{out: json.NewEncoder(out)} }

// Watch is what one promise is about.
type Watch struct {
	*Record
	number, tries int
	stop          func()
	lines         []Line
	latest        map[string]Line // by whom it is of
	err           error
}

// Begin begins a watch, to which is noted what there is to see.
func (r *Record) Begin(p Promise) *Watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches++
	w := &Watch{Record: r, number: r.watches, stop: func() {}, latest: map[string]Line{}}
	w.write(Line{At: time.Now(), Promise: &p})
	return w
}

// Try begins a watch of connections along paths.
func (r *Record) Try(ctx context.Context, p Promise, paths []probe.Path, rhythm probe.Rhythm) *Watch {
	w := r.Begin(p)
	rhythm.Patient = p.Kind == Open
	w.stop = probe.Often(ctx, paths, rhythm, w.outcomes())
	return w
}

// What Follow notes beside what objects say.
const (
	Deleted = "deleted"
	Untold  = "the watch failed"
)

// Follow begins a watch of objects, which ends what brings their events.
func (r *Record) Follow(p Promise, events watch.Interface, say func(metav1.Object) string) *Watch {
	w := r.Begin(p)
	var group sync.WaitGroup
	var ends atomic.Bool // which can look like a failure
	w.stop = func() { ends.Store(true); events.Stop(); group.Wait() }
	group.Go(func() {
		for e := range events.ResultChan() {
			switch o, ok := e.Object.(metav1.Object); {
			case ok && e.Type == watch.Deleted:
				w.Note(time.Now(), o.GetName(), Deleted)
			case ok:
				w.Note(time.Now(), o.GetName(), say(o))
			case !ends.Load():
				w.Note(time.Now(), "all", fmt.Sprintf("%s: %v", Untold, e.Object))
			}
		}
	})
	return w
}

// answered is the outcome of a try that came through.
const answered = "answered"

// outcomes notes what comes of tries. Those that are made abreast are told from each other.
func (w *Watch) outcomes() func(probe.Path, probe.Address) func(time.Time, error) {
	abreast := map[string]int{}
	return func(p probe.Path, to probe.Address) func(time.Time, error) {
		who := fmt.Sprintf("%s to %s (%s)", p.From.Name, to, p.What)
		if abreast[who]++; abreast[who] > 1 {
			who = fmt.Sprintf("%s #%d", who, abreast[who])
		}
		return func(at time.Time, err error) {
			outcome := answered
			if err != nil {
				outcome = err.Error()
			}
			w.Note(at, who, outcome)
		}
	}
}

// Note notes the outcome of a try that began then, and tells whether it is another one than before.
func (w *Watch) Note(at time.Time, who, outcome string) (news bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tries++
	before := w.latest[who]
	now := Line{At: at, Who: who, Outcome: outcome, Last: before.At}
	if news = before.Outcome != outcome; news {
		w.write(now)
	}
	w.latest[who] = now
	return news
}

// Due says that from now on time is counted in which all has to be closed.
func (w *Watch) Due() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(Line{At: time.Now(), Due: true})
}

// End ends the watch and judges it.
func (w *Watch) End() Verdict {
	w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(Line{At: time.Now(), Ended: true, Tries: w.tries})
	v := Judge(w.lines)
	if w.err != nil {
		v.Broken = append(v.Broken, "the record could not be written: "+w.err.Error())
	}
	return v
}

// write needs the lock.
func (w *Watch) write(l Line) {
	// Times are as whoever reads them has them, without the clock of this process.
	l.Watch, l.At, l.Last = w.number, l.At.Round(0), l.Last.Round(0)
	w.lines = append(w.lines, l)
	if err := w.out.Encode(l); err != nil {
		w.err = err
	}
}
