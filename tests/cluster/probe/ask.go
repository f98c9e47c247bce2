package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ErrDropped means that nothing answered, as behind a firewall that drops.
var ErrDropped = errors.New("no answer")

const (
	// patience with a question that may be meant to fail. Nothing here is farther away than a few milliseconds.
	patience = 900 * time.Millisecond
	// repeatAfter is when a question is put again, for TCP by the kernel. It is longer than patience.
	repeatAfter = time.Second
)

// ask puts a question from the calling thread's network namespace, over a new socket. An error says why there was no
// answer: ErrDropped if nothing came back for so long. repeated tells that the first packet got no answer, and a later one did: a
// clock alone would take a busy machine for a firewall.
func ask(to Address, patience time.Duration) (repeated bool, err error) {
	fd, err := open(to)
	if err != nil {
		return false, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	if to.Protocol == TCP {
		return connect(fd, to, patience)
	}
	return exchange(fd, to, patience)
}

// open makes a socket that does not block. Any user may open one for pings, if the host allows it (ping_group_range).
func open(to Address) (fd int, err error) {
	family, icmp := unix.AF_INET6, unix.IPPROTO_ICMPV6
	if to.Addr().Is4() {
		family, icmp = unix.AF_INET, unix.IPPROTO_ICMP
	}
	kind, protocol := unix.SOCK_STREAM, 0
	switch to.Protocol {
	case UDP:
		kind = unix.SOCK_DGRAM
	case Ping:
		kind, protocol = unix.SOCK_DGRAM, icmp
	}
	return unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// connect opens a TCP connection.
func connect(fd int, to Address, patience time.Duration) (repeated bool, err error) {
	// Thousands of connections would otherwise linger for a minute each.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return false, fmt.Errorf("set up socket: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(to.AddrPort)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return false, err
	}
	if ready, err := await(fd, unix.POLLOUT, time.Now().Add(patience)); err != nil {
		return false, err
	} else if !ready {
		return false, ErrDropped
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

// question is an ICMP echo request as the kernel wants it from such a socket: type, code, two fields that the kernel fills in,
// and a sequence number. The answer differs in the type only. UDP listeners send back any eight bytes.
func question(to Address, number byte) []byte {
	const echo4, echo6 = 8, 128
	kind := byte(echo6)
	if to.Addr().Is4() {
		kind = echo4
	}
	return []byte{kind, 0, 0, 0, 0, 0, 0, number}
}

// exchange sends datagrams until one is answered.
func exchange(fd int, to Address, patience time.Duration) (repeated bool, err error) {
	if to.Protocol == UDP {
		if err := bindUnused(fd, to.Addr()); err != nil {
			return false, fmt.Errorf("set up socket: %w", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(to.AddrPort)); err != nil {
		return false, err
	}
	deadline := time.Now().Add(patience)
	for number := byte(0); time.Now().Before(deadline); number++ {
		if err := unix.Send(fd, question(to, number), 0); err != nil {
			return false, err
		}
		again := time.Now().Add(repeatAfter)
		if again.After(deadline) {
			again = deadline
		}
		if ready, err := await(fd, unix.POLLIN, again); err != nil {
			return false, err
		} else if !ready {
			continue
		}
		answer := make([]byte, len(question(to, number)))
		if _, err := unix.Read(fd, answer); err != nil {
			return false, err
		}
		return answer[len(answer)-1] > 0, nil
	}
	return false, ErrDropped
}

// bindUnused gives a UDP socket a port that no question has had for half a minute, going by the clock. As long the kernel
// remembers a flow, and would let a new question pass that has the port of an old one.
func bindUnused(fd int, to netip.Addr) error {
	const first, ports = 20000, 40000 // one each millisecond: they last for 40 seconds
	anywhere := netip.IPv6Unspecified()
	if to.Is4() {
		anywhere = netip.IPv4Unspecified()
	}
	now := time.Now().UnixMilli()
	for i := range int64(ports) {
		err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(anywhere, uint16(first+(now+i)%ports))))
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	return unix.EADDRINUSE
}

// await waits until a socket is ready, or the time is over.
func await(fd int, events int16, deadline time.Time) (ready bool, err error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, fmt.Errorf("wait for an answer: %w", err)
		default:
			return n > 0, nil
		}
	}
}
