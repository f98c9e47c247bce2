package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// socket is what the kernel says of a TCP socket of the node.
type socket struct {
	state       uint8
	local, peer netip.AddrPort
}

// sockets asks the kernel for the sockets in these states (1<<state) with this local port; 0:
// with any. Every user may ask. The answer has nothing but them, and is never held as a whole.
func sockets(states uint32, port uint16, visit func(socket)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		body := make([]byte, requestSize)
		body[0], body[requestProtocol] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(body[requestStates:], states)
		binary.BigEndian.PutUint16(body[requestPort:], port)
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddRawData(body)
		if err := request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(message []byte) bool {
			if s, ok := parse(message); ok {
				visit(s)
			}
			return true
		}); err != nil {
			return fmt.Errorf("ask the kernel for TCP sockets: %w", err)
		}
	}
	return nil
}

// Of inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h): what lies where. Both begin with
// the family, and have a socket's ports and addresses in the order of the network.
const (
	requestSize     = 56
	requestProtocol = 1
	requestStates   = 4
	requestPort     = 8

	messageState = 1
	messageLocal = 4 // its port, and behind it the peer's
	messagePeer  = 6
	messageFrom  = 8
	messageTo    = 24
	messageSize  = 72
)

// parse reads a message about a socket.
func parse(message []byte) (s socket, ok bool) {
	if len(message) < messageSize {
		return s, false
	}
	at := func(addr, port int) netip.AddrPort {
		a := netip.AddrFrom16([16]byte(message[addr:]))
		if message[0] == unix.AF_INET {
			a = netip.AddrFrom4([4]byte(message[addr:]))
		}
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(message[port:]))
	}
	return socket{message[messageState], at(messageFrom, messageLocal), at(messageTo, messagePeer)}, true
}

// Groups of NETLINK_SOCK_DIAG (linux/sock_diag.h) that tell of the end of each TCP socket in the
// network namespace. Nobody needs a right to hear them.
const (
	destroyedTCP  = 1
	destroyedTCP6 = 3
)

// ends returns a stream of messages, of which each Read gets one: about the end of a TCP socket.
func ends() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for the ends of TCP connections: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1<<(destroyedTCP-1) | 1<<(destroyedTCP6-1)})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ask the kernel for the ends of TCP connections: %w", err)
	}
	return os.NewFile(uintptr(fd), "ends of TCP connections"), nil
}
