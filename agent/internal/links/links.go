// Package links reads the network interfaces of the node and tells when they or
// their addresses change. It asks the kernel, for which it needs no rights but to
// be in the host's network namespace.
package links

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// attempts bounds how often List reads again what changed while it was read.
const attempts = 5

// backoff is how long Watch waits before it subscribes anew.
var backoff = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 10, Cap: 30 * time.Second}

// List returns the interfaces with all their addresses.
func List() ([]endpoint.Link, error) {
	for attempt := 1; ; attempt++ {
		links, err := list()
		if attempt == attempts || !errors.Is(err, netlink.ErrDumpInterrupted) {
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
	// All at once: asking for each would read them all each time, and a node has hundreds
	// of interfaces.
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	addresses, networks := map[int][]netip.Addr{}, map[int][]netip.Prefix{}
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addresses[a.LinkIndex] = append(addresses[a.LinkIndex], addr.Unmap())
			bits, _ := a.Mask.Size()
			networks[a.LinkIndex] = append(networks[a.LinkIndex], netip.PrefixFrom(addr.Unmap(), bits).Masked())
		}
	}
	links := make([]endpoint.Link, 0, len(interfaces))
	for _, i := range interfaces {
		links = append(links, endpoint.Link{Name: i.Name, Addresses: addresses[i.Index], Networks: networks[i.Index]})
	}
	return links, nil
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
		if ctx.Err() != nil {
			return nil
		}
		// The kernel has dropped messages.
		err := backoff.DelayFunc().Until(ctx, true, true, func(context.Context) (done bool, err error) {
			socket, err = subscribe()
			return err == nil, nil
		})
		if err != nil {
			return nil
		}
	}
}

func subscribe() (*nl.NetlinkSocket, error) {
	return nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
}

// receive calls wake for what comes, until the socket fails or the context ends.
// It closes the socket.
func receive(ctx context.Context, socket *nl.NetlinkSocket, wake func()) {
	defer socket.Close()
	defer context.AfterFunc(ctx, socket.Close)()
	for {
		if _, _, err := socket.Receive(); err != nil {
			return
		}
		wake()
	}
}
