package probe

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

const (
	// lookEvery is the least time between two looks at who is connected, each of which may be told,
	// and as long again by chance so that thousands of agents don't all write at once. What is no
	// news is told when the last that was told is as old as tellAnyway.
	lookEvery  = time.Minute
	tellAnyway = 10 * time.Minute

	// mostEnds is how many ends of connections are read in a second, which takes a hundredth of it. Of
	// more the kernel drops what the socket can't hold.
	mostEnds = 1000
)

// Watcher sees who is connected to the node by TCP: those who are when it looks, and from then on also
// those whose connections end in between, however short. It looks only while that is wanted.
type Watcher struct {
	// SSH are the ports on which an SSH server is expected.
	SSH []uint16
	// Sees returns what else matters on the node; nil: nothing does.
	Sees func() []peers.Sight

	every  time.Duration           // for tests; 0: lookEvery
	speaks map[netip.AddrPort]bool // who was asked whether it speaks SSH
	mu     sync.Mutex
	stop   context.CancelFunc // nil: it does not look
	said   string
}

// Tell returns what is to be told of the node, as peers.Annotation holds it; empty: nothing is wanted, or
// the kernel says nothing. The first time it looks before it returns. It then looks until the context
// ends or nothing is wanted any more, and calls wake each time that there is something else to tell.
func (w *Watcher) Tell(ctx context.Context, wanted bool, wake func()) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !wanted && w.stop != nil:
		w.stop()
		w.stop, w.said = nil, ""
	case wanted && w.stop == nil:
		ctx, w.stop = context.WithCancel(ctx)
		w.begin(ctx, wake)
	}
	return w.said
}

// begin looks for the first time. What ended in the minute before is still to be seen where the node has
// closed it: its sockets wait for that long. What ends meanwhile is read later.
func (w *Watcher) begin(ctx context.Context, wake func()) {
	stream, err := ends()
	if err != nil {
		w.said = blind(err)
		return
	}
	table := peers.NewTable(time.Now())
	if err := w.look(ctx, table, 1<<unix.BPF_TCP_TIME_WAIT); err != nil {
		stream.Close()
		w.said = blind(err)
		return
	}
	w.said = table.Summary().Encode()
	context.AfterFunc(ctx, func() { stream.Close() })
	go w.follow(ctx, stream, table, wake)
}

// blind is a summary of nothing, and why.
func blind(err error) string {
	now := time.Now().UTC().Truncate(time.Second)
	return peers.Summary{Since: now, Until: now, Sees: []peers.Sight{{Kind: peers.SeesNothing, What: err.Error()}}}.Encode()
}

// look asks the kernel who is connected. Sockets in the states of more count as ended.
func (w *Watcher) look(ctx context.Context, table *peers.Table, more uint32) error {
	var at []netip.AddrPort
	var ports []uint16
	if err := sockets(1<<unix.BPF_TCP_LISTEN, 0, func(s socket) {
		if !s.local.Addr().IsLoopback() {
			at, ports = append(at, s.local), append(ports, s.local.Port())
		}
	}); err != nil {
		return err
	}
	sees := w.sshElsewhere(ctx, at)
	if w.Sees != nil {
		sees = append(sees, w.Sees()...)
	}
	table.Look(time.Now(), ports, sees[:min(len(sees), peers.MostSights)])
	return sockets(1<<unix.BPF_TCP_ESTABLISHED|1<<unix.BPF_TCP_CLOSE_WAIT|more, 0, func(s socket) {
		if more&(1<<s.state) != 0 {
			table.Ended(s.local.Port(), s.peer.Addr())
		} else {
			table.Open(s.local.Port(), s.peer.Addr())
		}
	})
}

// follow looks again now and then, and reads the ends of connections meanwhile. The second look is told in
// any case: by then the node has been looked at for a while.
func (w *Watcher) follow(ctx context.Context, stream *os.File, table *peers.Table, wake func()) {
	var told time.Time
	every := cmp.Or(w.every, lookEvery)
	for readEnds(ctx, stream, table, time.Now().Add(every+rand.N(every))) {
		if err := w.look(ctx, table, 0); err != nil || !table.News() && time.Since(told) < tellAnyway {
			continue
		}
		told = time.Now()
		w.say(ctx, table.Summary().Encode())
		wake()
	}
}

// say keeps what is to be told, unless nobody wants it any more.
func (w *Watcher) say(ctx context.Context, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() == nil {
		w.said = text
	}
}

// readEnds tells the table of connections that end, until a time. It returns false when the context ends.
func readEnds(ctx context.Context, stream *os.File, table *peers.Table, until time.Time) bool {
	message := make([]byte, 4096) // one has 400 bytes
	_ = stream.SetReadDeadline(until)
	for read, second := 0, time.Now(); ; read++ {
		if read == mostEnds {
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(second.Add(time.Second))):
			}
			read, second = 0, time.Now()
		}
		n, err := stream.Read(message)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ctx.Err() == nil
		case errors.Is(err, unix.ENOBUFS):
			// The kernel has dropped some.
		case err != nil:
			return false // it is closed
		case n > unix.NLMSG_HDRLEN:
			if s, ok := parse(message[unix.NLMSG_HDRLEN:n]); ok {
				table.Ended(s.local.Port(), s.peer.Addr())
			}
		}
	}
}
