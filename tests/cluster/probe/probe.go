// Package probe finds out who reaches what, with real connections.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// Source is where connections come from: a name for people, and the path of its network namespace.
type Source struct {
	Name  string
	NetNS string
}

// ErrDropped means that nothing answered, as behind a firewall that drops.
var ErrDropped = errors.New("no answer")

// patience of a connection that may be meant to fail. Nothing here is farther away than a few milliseconds.
const patience = 900 * time.Millisecond

// dial opens a new TCP connection from the calling thread's network namespace and closes it. An error says why there was
// none: ErrDropped if nothing answered for so long. repeated tells that the connection needed more than its first packet,
// as the kernel says: a clock alone would take a busy machine for a firewall.
func dial(to netip.AddrPort, patience time.Duration) (repeated bool, err error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	// Thousands of connections would otherwise linger for a minute each.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return false, fmt.Errorf("set up socket: %w", err)
	}
	if err := unix.Connect(fd, address); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return false, err
	}
	deadline := time.Now().Add(patience)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, fmt.Errorf("wait for connection: %w", err)
		case n == 0:
			return false, ErrDropped
		}
		break
	}
	if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
		return false, fmt.Errorf("ask for connection: %w", err)
	} else if code != 0 {
		return false, unix.Errno(code)
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false, fmt.Errorf("ask for connection: %w", err)
	}
	return info.Total_retrans > 0, nil
}

// Connect opens a new TCP connection and closes it. An error says why there was none: ErrDropped if nothing answered.
func Connect(from Source, to netip.AddrPort) error {
	return describe(from, to, host.InNetNS(from.NetNS, func() error {
		_, err := dial(to, patience)
		return err
	}))
}

func describe(from Source, to netip.AddrPort, err error) error {
	if err != nil {
		return fmt.Errorf("%s to %s: %w", from.Name, to, err)
	}
	return nil
}

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
			group.Go(func() {
				if err := host.InNetNS(p.From.NetNS, func() error { return w.watch(ctx, p.From, to, pause) }); err != nil {
					w.note(time.Now(), describe(p.From, to, err))
				}
			})
		}
	}
	go func() {
		group.Wait()
		close(w.done)
	}()
	return w
}

// errRepeated is a failure that a user would have felt as a delay: the first packet was lost, a later one was not.
var errRepeated = errors.New("answered only when asked again")

// watch stays on its thread: all connections are from the namespace that the thread is in.
func (w *Watcher) watch(ctx context.Context, from Source, to netip.AddrPort, pause time.Duration) error {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		start := time.Now()
		repeated, err := dial(to, 5*patience)
		if ctx.Err() != nil {
			return nil // a try that was cut off says nothing
		}
		if err == nil && repeated {
			err = errRepeated
		}
		w.note(start, describe(from, to, err))
		select {
		case <-ctx.Done():
			return nil
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

// Stop ends the watcher and returns what it has seen.
func (w *Watcher) Stop() Tally {
	w.stop()
	<-w.done
	return w.tally
}
