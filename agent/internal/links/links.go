// Package links reads the network interfaces of the node and tells when they or
// their addresses change. It asks the kernel, for which it needs no rights but to
// be in the host's network namespace.
package links

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

const (
	// attempts bounds how often List reads again what changed while it was read.
	attempts = 5
	// retryFirst and retryMost bound the pause before Watch subscribes anew.
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
)

// errChanged tells that what was read changed meanwhile.
var errChanged = errors.New("addresses changed while they were read")

// List returns the interfaces with all their addresses.
func List() ([]endpoint.Link, error) {
	for attempt := 1; ; attempt++ {
		links, err := list()
		if err == nil || attempt == attempts || !errors.Is(err, errChanged) {
			return links, err
		}
	}
}

func list() ([]endpoint.Link, error) {
	// In this order an interface that appears meanwhile is left out as a whole.
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addresses, err := addressesByIndex()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	links := make([]endpoint.Link, 0, len(interfaces))
	for _, i := range interfaces {
		links = append(links, endpoint.Link{Name: i.Name, Addresses: addresses[i.Index]})
	}
	return links, nil
}

// addressesByIndex reads the addresses of all interfaces at once: asking for
// each would read them all each time, and a node has hundreds of interfaces.
func addressesByIndex() (map[int][]netip.Addr, error) {
	dump, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	return parse(dump)
}

// parse reads the kernel's answer to RTM_GETADDR.
func parse(dump []byte) (map[int][]netip.Addr, error) {
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, err
	}
	addresses := map[int][]netip.Addr{}
	for _, message := range messages {
		if message.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			return nil, errChanged
		}
		if message.Header.Type != unix.RTM_NEWADDR || len(message.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&message)
		if err != nil {
			return nil, err
		}
		index := int(binary.NativeEndian.Uint32(message.Data[4:8])) // ifa_index
		if addr, ok := own(attributes); ok {
			addresses[index] = append(addresses[index], addr)
		}
	}
	return addresses, nil
}

// own returns the interface's address. Where it has a peer, IFA_ADDRESS is the
// peer's and IFA_LOCAL its own.
func own(attributes []syscall.NetlinkRouteAttr) (addr netip.Addr, ok bool) {
	for _, kind := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		for _, attribute := range attributes {
			if attribute.Attr.Type == kind {
				return netip.AddrFromSlice(attribute.Value)
			}
		}
	}
	return netip.Addr{}, false
}

// Watch calls wake when interfaces or addresses may have changed, and once when
// it has begun to watch, so that nothing is missed by who lists at each wake. It
// returns nil when the context ends, and an error when the kernel lets it not
// begin. Changes in quick succession may be one call.
func Watch(ctx context.Context, wake func()) error {
	socket, err := subscribe()
	if err != nil {
		return fmt.Errorf("subscribe to changes of interfaces: %w", err)
	}
	for {
		wake()
		receive(ctx, socket, wake)
		// The kernel has dropped messages, or this is the end.
		for delay := retryFirst; ; delay = min(2*delay, retryMost) {
			if ctx.Err() != nil {
				return nil
			}
			if socket, err = subscribe(); err == nil {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
		}
	}
}

func subscribe() (*nl.NetlinkSocket, error) {
	return nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
}

// receive calls wake for what comes, until the socket fails or the context ends.
// It closes the socket.
func receive(ctx context.Context, socket *nl.NetlinkSocket, wake func()) {
	stop := context.AfterFunc(ctx, socket.Close)
	defer func() {
		if stop() {
			socket.Close()
		}
	}()
	for {
		if _, _, err := socket.Receive(); err != nil {
			return
		}
		wake()
	}
}
