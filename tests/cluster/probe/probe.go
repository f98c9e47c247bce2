// Package probe finds out who reaches what, with real connections.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// Patience is how long a connection may take. It is less than the second after which TCP sends its first packet again, so
// that a single dropped packet is seen as such.
const Patience = 900 * time.Millisecond

// Source is where connections come from: a name for people, and the path of its network namespace.
type Source struct {
	Name  string
	NetNS string
}

// Connect opens a new TCP connection and closes it. An error says why there was none: ErrDropped if nothing answered.
func Connect(ctx context.Context, from Source, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	conn, err := host.DialFrom(ctx, from.NetNS, "tcp", to.String())
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s to %s: %w", from.Name, to, ErrDropped)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s to %s: nothing listens there", from.Name, to)
	}
	return fmt.Errorf("%s to %s: %w", from.Name, to, err)
}

// ErrDropped means that nothing answered, as behind a firewall that drops.
var ErrDropped = errors.New("no answer")

// Path is a question: does this source reach all of these addresses?
type Path struct {
	From Source
	What string // what the addresses are, for people
	To   []netip.AddrPort
}

// Answer is what Ask measured.
type Answer struct {
	Path
	Reached int
	Errors  []error // one for each address that was not reached
}

// Open means that every address was reached.
func (a Answer) Open() bool { return a.Reached == len(a.To) }

// Closed means that nothing answered from any address. A refused connection is neither open nor closed: the packets came
// through.
func (a Answer) Closed() bool {
	for _, err := range a.Errors {
		if !errors.Is(err, ErrDropped) {
			return false
		}
	}
	return a.Reached == 0
}

// String is short enough for a table.
func (a Answer) String() string {
	switch {
	case a.Open():
		return "yes"
	case a.Closed():
		return "no"
	case a.Reached == 0:
		return "error"
	}
	return fmt.Sprintf("%d of %d", a.Reached, len(a.To))
}

// atOnce bounds how many connections are tried at the same time; each needs a thread.
const atOnce = 64

// Ask measures all paths, with one new connection for each of their addresses.
func Ask(ctx context.Context, paths []Path) []Answer {
	answers := make([]Answer, len(paths))
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, p := range paths {
		answers[i].Path = p
		for _, to := range p.To {
			group.Go(func() error {
				err := Connect(ctx, p.From, to)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					answers[i].Errors = append(answers[i].Errors, err)
				} else {
					answers[i].Reached++
				}
				return nil
			})
		}
	}
	_ = group.Wait() // the errors are in the answers
	return answers
}

// Tally is what a Watcher has seen.
type Tally struct {
	Attempts int
	Failures []Failure
}

// Failure is one connection that did not come about.
type Failure struct {
	At  time.Time
	Err error
}

// Watcher opens new connections along its paths all the time, until it is stopped.
type Watcher struct {
	stop func()
	done chan struct{}

	mu    sync.Mutex
	tally Tally
}

// Watch starts a watcher. Every path is tried again as soon as its last try is over and pause has passed.
func Watch(ctx context.Context, paths []Path, pause time.Duration) *Watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watcher{stop: cancel, done: make(chan struct{})}
	var group sync.WaitGroup
	for _, p := range paths {
		for _, to := range p.To {
			group.Go(func() { w.watch(ctx, p.From, to, pause) })
		}
	}
	go func() {
		group.Wait()
		close(w.done)
	}()
	return w
}

func (w *Watcher) watch(ctx context.Context, from Source, to netip.AddrPort, pause time.Duration) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		start := time.Now()
		err := Connect(ctx, from, to)
		if ctx.Err() != nil {
			return // a try that was cut off says nothing
		}
		w.mu.Lock()
		w.tally.Attempts++
		if err != nil {
			w.tally.Failures = append(w.tally.Failures, Failure{At: start, Err: err})
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Stop ends the watcher and returns what it has seen.
func (w *Watcher) Stop() Tally {
	w.stop()
	<-w.done
	return w.tally
}
