package probe

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Sessions returns the other ends of established TCP connections to these ports of the node,
// but for those from loopback. Of a node's other connections, which can be many thousands, no
// byte is read.
func Sessions(ports []uint16) (peers []netip.AddrPort, err error) {
	for _, port := range ports {
		if err := sockets(1<<unix.BPF_TCP_ESTABLISHED, port, func(s socket) {
			if !s.peer.Addr().IsLoopback() {
				peers = append(peers, s.peer)
			}
		}); err != nil {
			return nil, err
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
