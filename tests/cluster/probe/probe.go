// Package probe finds out who reaches what, with real connections.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// Source is where connections come from: a name for people, and the path of its network namespace.
type Source struct {
	Name  string
	NetNS string
}

// Protocol is how a question is put.
type Protocol string

// What a firewall tells apart.
const (
	TCP  Protocol = "TCP"  // a connection
	UDP  Protocol = "UDP"  // a datagram, and the same one back
	Ping Protocol = "ping" // an ICMP echo; it has no port
)

// Address is where a question goes to.
type Address struct {
	Protocol Protocol
	netip.AddrPort
}

func (a Address) String() string {
	if a.Protocol == Ping {
		return fmt.Sprintf("%s %s", a.Protocol, a.Addr())
	}
	return fmt.Sprintf("%s %s", a.Protocol, a.AddrPort)
}

// Connect asks once: it opens a new TCP connection and closes it, or sends one datagram over a new socket. An error says why
// there was no answer: ErrDropped if nothing came back at all.
func Connect(from Source, to Address) error {
	return describe(from, to, host.InNetNS(from.NetNS, func() error {
		_, err := ask(to, patience)
		return err
	}))
}

func describe(from Source, to Address, err error) error {
	if err != nil {
		return fmt.Errorf("%s to %s: %w", from.Name, to, err)
	}
	return nil
}

// Path is a question: does this source reach all of these addresses?
type Path struct {
	From Source
	What string // what the addresses are, for people
	To   []Address
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
const atOnce = 256

// Ask measures all paths, with one new connection, or datagram, for each of their addresses.
func Ask(paths []Path) []Answer {
	answers := make([]Answer, len(paths))
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, p := range paths {
		answers[i].Path = p
		for _, to := range p.To {
			group.Go(func() error {
				err := Connect(p.From, to)
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

// Watcher tries its paths all the time, until it is stopped.
type Watcher struct {
	stop func()
	done chan struct{}

	mu    sync.Mutex
	tally Tally
}

// Watch starts a watcher that opens new connections. Every path is tried again as soon as its last try is over and pause has
// passed.
func Watch(ctx context.Context, paths []Path, pause time.Duration) *Watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watcher{stop: cancel, done: make(chan struct{})}
	var group sync.WaitGroup
	for _, p := range paths {
		for _, to := range p.To {
			group.Go(func() {
				// All questions are from the namespace that the thread is in.
				if err := host.InNetNS(p.From.NetNS, func() error { w.watch(ctx, p.From, to, pause); return nil }); err != nil {
					w.note(time.Now(), describe(p.From, to, err))
				}
			})
		}
	}
	w.end(&group)
	return w
}

// errRepeated is a failure that a user would have felt as a delay: the first packet was lost, a later one was not.
var errRepeated = errors.New("answered only when asked again")

func (w *Watcher) watch(ctx context.Context, from Source, to Address, pause time.Duration) {
	w.often(ctx, from, to, pause, func() error {
		repeated, err := ask(to, 5*patience)
		if err == nil && repeated {
			return errRepeated
		}
		return err
	})
}

// Hold opens one TCP connection along every path and starts a watcher that sends something over each of them, and waits until
// it has come back. It returns when all are open. The listeners have to send back what they get.
func Hold(ctx context.Context, paths []Path, pause time.Duration) (*Watcher, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watcher{stop: cancel, done: make(chan struct{})}
	var group sync.WaitGroup
	defer w.end(&group)
	for _, p := range paths {
		for _, to := range p.To {
			conn, err := dial(p.From, to)
			if err != nil {
				cancel()
				return nil, describe(p.From, to, err)
			}
			group.Go(func() {
				defer conn.Close()
				w.often(ctx, p.From, to, pause, func() error { return echo(conn) })
			})
		}
	}
	return w, nil
}

// dial opens a connection that outlives the thread it was opened on.
func dial(from Source, to Address) (conn net.Conn, err error) {
	err = host.InNetNS(from.NetNS, func() error {
		conn, err = net.DialTimeout("tcp", to.AddrPort.String(), 5*patience)
		return err
	})
	return conn, err
}

// errBroken is the end of a connection that was held.
var errBroken = errors.New("an open connection broke")

// echo sends something and waits until it has come back.
func echo(conn net.Conn) error {
	err := conn.SetDeadline(time.Now().Add(5 * patience))
	if err == nil {
		_, err = conn.Write([]byte{1})
	}
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return nil
}

// often tries something until the watcher is stopped, or there is nothing left to try.
func (w *Watcher) often(ctx context.Context, from Source, to Address, pause time.Duration, try func() error) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		start := time.Now()
		err := try()
		if ctx.Err() != nil {
			return // a try that was cut off says nothing
		}
		w.note(start, describe(from, to, err))
		if errors.Is(err, errBroken) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *Watcher) note(at time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tally.Attempts++
	if err != nil {
		w.tally.Failures = append(w.tally.Failures, Failure{At: at, Err: err})
	}
}

// end makes the watcher done when the group is.
func (w *Watcher) end(group *sync.WaitGroup) {
	go func() {
		group.Wait()
		close(w.done)
	}()
}

// Stop ends the watcher and returns what it has seen.
func (w *Watcher) Stop() Tally {
	w.stop()
	<-w.done
	return w.tally
}
