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

	every time.Duration // for tests; 0: lookEvery
	mu    sync.Mutex
	stop  context.CancelFunc // nil: it does not look
	said  string
}

// view is what is seen from when that is wanted until it is not any more. It is for one goroutine.
type view struct {
	*Watcher
	looked bool // it has, and nothing was wrong
	table  *peers.Table
	stream *os.File // of ends; nil: it has to be opened
	// listens is where processes listen, and speaks who was asked whether it speaks SSH.
	listens []netip.AddrPort
	speaks  map[netip.AddrPort]bool
}

// Tell returns what is to be told of the node, as peers.Annotation holds it; empty: nothing is wanted. The
// first time it looks before it returns. It then looks until the context ends or nothing is wanted any
// more, and calls wake each time that there is something else to tell.
func (w *Watcher) Tell(ctx context.Context, wanted bool, wake func()) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !wanted && w.stop != nil:
		w.stop()
		w.stop, w.said = nil, ""
	case wanted && w.stop == nil:
		ctx, w.stop = context.WithCancel(ctx)
		v := &view{Watcher: w, speaks: map[netip.AddrPort]bool{}}
		if err := v.look(); err != nil {
			w.said = blind(err)
		} else {
			w.said = v.table.Summary().Encode()
		}
		go v.follow(ctx, wake)
	}
	return w.said
}

// blind is a summary of nothing, and why.
func blind(err error) string {
	now := time.Now().UTC().Truncate(time.Second)
	return peers.Summary{Since: now, Until: now, Sees: []peers.Sight{{Kind: peers.SeesNothing, What: err.Error()}}}.Encode()
}

// look asks the kernel who is connected. The first time it also shows what ended in the minute before, where the
// node has closed it: its sockets wait for that long. What ends later is read by follow.
func (v *view) look() (err error) {
	if v.stream == nil {
		if v.stream, err = ends(); err != nil {
			return err
		}
	}
	var ended uint32
	if !v.looked {
		v.table, ended = peers.NewTable(time.Now()), 1<<unix.BPF_TCP_TIME_WAIT
	}
	var ports []uint16
	v.listens = nil
	if err := sockets(1<<unix.BPF_TCP_LISTEN, 0, func(s socket) {
		if !s.local.Addr().IsLoopback() {
			v.listens, ports = append(v.listens, s.local), append(ports, s.local.Port())
		}
	}); err != nil {
		return err
	}
	sees := v.sshElsewhere()
	if v.Sees != nil {
		sees = append(sees, v.Sees()...)
	}
	v.table.Look(time.Now(), ports, sees[:min(len(sees), peers.MostSights)])
	err = sockets(1<<unix.BPF_TCP_ESTABLISHED|1<<unix.BPF_TCP_CLOSE_WAIT|ended, 0, func(s socket) {
		if ended&(1<<s.state) != 0 {
			v.table.Ended(s.local.Port(), s.peer.Addr())
		} else {
			v.table.Open(s.local.Port(), s.peer.Addr())
		}
	})
	v.looked = v.looked || err == nil
	return err
}

// follow looks again now and then, also where it could not before, and at once where SSH was found. It reads the ends
// of connections meanwhile. The look after the first wait is told in any case: by then the node has been looked at
// for a while.
func (v *view) follow(ctx context.Context, wake func()) {
	var told time.Time
	for found := v.knock(ctx); found || v.wait(ctx); found = v.knock(ctx) {
		if err := v.look(); err != nil || !v.table.News() && time.Since(told) < tellAnyway {
			continue
		}
		if !found {
			told = time.Now()
		}
		v.say(ctx, v.table.Summary().Encode())
		wake()
	}
	if v.stream != nil {
		v.stream.Close()
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

// wait waits for the time of the next look, and reads the ends of connections as long as that goes well. It returns
// false when the context ends.
func (v *view) wait(ctx context.Context) bool {
	every := cmp.Or(v.every, lookEvery)
	until := time.Now().Add(every + rand.N(every))
	if v.stream != nil && readEnds(ctx, v.stream, v.table, until) != nil {
		v.stream.Close()
		v.stream = nil
	}
	if v.stream == nil {
		pause(ctx, until)
	}
	return ctx.Err() == nil
}

func pause(ctx context.Context, until time.Time) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(until)):
	}
}

// readEnds tells the table of connections that end, until a time or the end of the context.
func readEnds(ctx context.Context, stream *os.File, table *peers.Table, until time.Time) error {
	message := make([]byte, 4096) // one has 400 bytes
	if err := stream.SetReadDeadline(until); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = stream.SetReadDeadline(time.Now()) })()
	for read, second := 0, time.Now(); ; read++ {
		if read == mostEnds {
			pause(ctx, second.Add(time.Second))
			read, second = 0, time.Now()
		}
		n, err := stream.Read(message)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, unix.ENOBUFS):
			// The kernel has dropped some.
		case err != nil:
			return err
		case n > unix.NLMSG_HDRLEN:
			// A socket that listened, or was connected to nobody, ends as well.
			if s, ok := parse(message[unix.NLMSG_HDRLEN:n]); ok && s.peer.Port() != 0 && !s.peer.Addr().IsUnspecified() {
				table.Ended(s.local.Port(), s.peer.Addr())
			}
		}
	}
}
