package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Sessions returns the other ends of established TCP connections to these ports of the node,
// but for those from loopback. Every user may ask the kernel for them. Its answer has nothing
// but them: of a node's other connections, which can be many thousands, no byte is read.
func Sessions(ports []uint16) (peers []netip.AddrPort, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, port := range ports {
			request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
			request.AddRawData(established(family, port))
			err := request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(message []byte) bool {
				if peer, ok := peerOf(message); ok && !peer.Addr().IsLoopback() {
					peers = append(peers, peer)
				}
				return true
			})
			if err != nil {
				return nil, fmt.Errorf("ask the kernel for TCP connections to port %d: %w", port, err)
			}
		}
	}
	return peers, nil
}

// Strangers returns the addresses of the peers if none of them comes from one of the networks.
func Strangers(peers []netip.AddrPort, networks []netip.Prefix) (addresses []string) {
	for _, peer := range peers {
		if slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(peer.Addr()) }) {
			return nil
		}
		addresses = append(addresses, peer.Addr().String())
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

// Of inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h): what lies where. Both begin with
// the family, and have a socket's ports and addresses in the order of the network.
const (
	requestSize     = 56
	requestProtocol = 1
	requestStates   = 4
	requestPort     = 8

	messagePeerPort = 6
	messagePeer     = 24
	messageSize     = 72
)

// established returns a request for the connections in that state.
func established(family uint8, port uint16) []byte {
	request := make([]byte, requestSize)
	request[0], request[requestProtocol] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[requestStates:], 1<<unix.BPF_TCP_ESTABLISHED)
	binary.BigEndian.PutUint16(request[requestPort:], port)
	return request
}

// peerOf returns the other end of the connection that a message is about.
func peerOf(message []byte) (peer netip.AddrPort, ok bool) {
	if len(message) < messageSize {
		return peer, false
	}
	addr := netip.AddrFrom16([16]byte(message[messagePeer:]))
	if message[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(message[messagePeer:]))
	}
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(message[messagePeerPort:])), true
}
