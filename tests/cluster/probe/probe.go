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

// Rhythm is how often each address of a path is asked.
type Rhythm struct {
	Every   time.Duration // from one question to the next; longer where the answer takes longer
	Abreast int           // so many questions, one behind the other, in the time of one; 0: one
	Patient bool          // a question waits so long that ErrRepeated is told from no answer
	Held    bool          // all questions go over one TCP connection, to a listener that sends back what it gets
}

// ErrRepeated is a failure that a user would have felt as a delay: the first packet was lost, a later one was not.
var ErrRepeated = errors.New("answered only when asked again")

// Often asks along paths all the time until stop is called, which waits for the last answers. Connections that are held are open when it returns.
// Lane is called once for each address, and for each question of those abreast, and what it returns each time with when one was put, and what came of
// it: nil is an answer. What is asked when ctx ends says nothing, and is not told.
func Often(ctx context.Context, paths []Path, r Rhythm, lane func(Path, Address) func(time.Time, error)) (stop func()) {
	asking, end := context.WithCancel(ctx)
	var group sync.WaitGroup
	abreast := max(1, r.Abreast)
	for _, p := range paths {
		for _, to := range p.To {
			for i := range abreast {
				tell := lane(p, to)
				put, hangUp := r.dial(p.From, to)
				group.Go(func() {
					defer hangUp()
					<-time.After(r.Every * time.Duration(i) / time.Duration(abreast))
					// All questions are from the namespace that the thread is in.
					if err := host.InNetNS(p.From.NetNS, func() error { again(ctx, asking, r.Every, tell, put); return nil }); err != nil {
						tell(time.Now(), err)
					}
				})
			}
		}
	}
	return func() { end(); group.Wait() }
}

// again puts a question until asking ends, or there is nothing left to ask.
func again(ctx, asking context.Context, every time.Duration, tell func(time.Time, error), put func() error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		start := time.Now()
		err := put()
		if ctx.Err() != nil {
			return
		}
		tell(start, err)
		if errors.Is(err, errBroken) {
			return
		}
		select {
		case <-asking.Done():
			return
		case <-tick.C:
		}
	}
}

// errBroken is the end of a connection that was held, or that there was none.
var errBroken = errors.New("no open connection any more")

// dial opens the connection that is to be held, if any, and returns how a question is put, and what comes after the last one.
func (r Rhythm) dial(from Source, to Address) (put func() error, hangUp func()) {
	limit := patience
	if r.Patient || r.Held {
		limit *= 5
	}
	if !r.Held {
		return func() error {
			repeated, err := ask(to, limit)
			if err == nil && repeated {
				return ErrRepeated
			}
			return err
		}, func() {}
	}
	var conn net.Conn
	err := host.InNetNS(from.NetNS, func() (err error) {
		conn, err = net.DialTimeout("tcp", to.AddrPort.String(), limit)
		return err
	})
	put = func() error {
		if err == nil {
			err = conn.SetDeadline(time.Now().Add(limit))
		}
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
	return put, func() {
		if conn != nil {
			_ = conn.Close()
		}
	}
}
