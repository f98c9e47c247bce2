// Package probe looks at the node as its packets and sockets are: whether the rules of a set
// are enforced, what can be reached, who is connected, whether Felix is ready. It needs no
// right but to be in the host's network namespace, and never asks the API server.
package probe

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
)

const (
	// controlPort6 is that of the control over IPv6, where ::1 is the only address: chargen.
	controlPort6 = 19

	// knockPatience is how long a packet on loopback is unanswered before it counts as dropped.
	// An answer takes microseconds, and the kernel does not repeat the packet for a second.
	knockPatience = 300 * time.Millisecond
)

// Family is what the witness shows of the rules of one IP family.
type Family string

const (
	// Enforced: the witness is dropped, and its control is not.
	Enforced Family = "enforced"
	// Open: neither is.
	Open Family = "open"
	// Unknown: the control is not answered either, or the witness as nobody expects.
	Unknown Family = "unknown"
	// None: the node has no address of the family.
	None Family = "none"
)

// Enforcement is what the witness shows: by family whether Felix has the set, and by IPv4
// whether it has applied that to the node.
type Enforcement struct{ IPv4, IPv6, Moved Family }

// Says tells people by which families packets were seen to meet the rules; empty: nobody has
// looked. Felix may have been told to leave IPv6 alone.
func (e Enforcement) Says() string {
	switch {
	case e.IPv4 == "":
		return ""
	case e.IPv4 != Enforced:
		return "not enforced"
	case e.IPv6 == Open:
		return "IPv4, and IPv6 is not protected"
	case e.IPv6 == Enforced:
		return "IPv4 and IPv6"
	}
	return "IPv4"
}

// Witness looks what this node's Felix has done with the set that the witness is of. That takes
// twice knockPatience at most, and next to no time where nothing is dropped.
func Witness(ctx context.Context, w clearance.Witness) (seen Enforcement) {
	var looks sync.WaitGroup
	at := func(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, clearance.WitnessPort) }
	looks.Go(func() { seen.IPv4 = look(ctx, w.From, at(w.To), at(w.Control)) })
	looks.Go(func() { seen.Moved = look(ctx, w.From, at(w.Moved), at(w.Control)) })
	looks.Go(func() {
		loopback := netip.IPv6Loopback()
		seen.IPv6 = look(ctx, loopback, at(loopback), netip.AddrPortFrom(loopback, controlPort6))
	})
	looks.Wait()
	return seen
}

func look(ctx context.Context, from netip.Addr, to, control netip.AddrPort) Family {
	switch err := knock(ctx, from, control); {
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return None
	case !isAnswer(err):
		return Unknown
	}
	switch err := knock(ctx, from, to); {
	case isAnswer(err):
		return Open
	case errors.Is(err, unix.EALREADY):
		return Enforced
	}
	return Unknown
}

// isAnswer tells whether a connection was accepted or refused: either way nothing was dropped.
func isAnswer(err error) bool { return err == nil || errors.Is(err, unix.ECONNREFUSED) }

// knock connects from an address. The error is EALREADY when there was no answer.
//
// It asks the kernel again instead of letting the runtime wait with a deadline: a machine that
// is too busy to see an answer in time would else be taken for one that drops packets.
func knock(ctx context.Context, from netip.Addr, to netip.AddrPort) error {
	family := unix.AF_INET6
	if from.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
		return err
	}
	address := sockaddr(to)
	if err := unix.Connect(fd, address); !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	// Loopback has answered already, if at all.
	if err := unix.Connect(fd, address); !errors.Is(err, unix.EALREADY) {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(knockPatience):
		return unix.Connect(fd, address)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
