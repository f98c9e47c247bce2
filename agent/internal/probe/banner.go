package probe

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

const (
	// bannerPatience is how long a server has to say what it is, unasked.
	bannerPatience = 300 * time.Millisecond
	// mostKnocks is how many are asked at once, and mostAsked how many ever.
	mostKnocks, mostAsked = 64, 512
)

// sshElsewhere returns where an SSH server answers (RFC 4253, 4.2: it speaks first), if nobody listens on any of
// the ports on which one is expected. Each address is asked once.
func (w *Watcher) sshElsewhere(ctx context.Context, listens []netip.AddrPort) (sees []peers.Sight) {
	if slices.ContainsFunc(listens, func(at netip.AddrPort) bool { return slices.Contains(w.SSH, at.Port()) }) {
		return nil
	}
	var fresh []netip.AddrPort
	for _, at := range listens {
		if _, asked := w.speaks[at]; !asked && len(fresh) < mostKnocks && len(w.speaks)+len(fresh) < mostAsked {
			fresh = append(fresh, at)
		}
	}
	speaks := make([]bool, len(fresh))
	var knocks sync.WaitGroup
	for i, at := range fresh {
		knocks.Go(func() { speaks[i] = speaksSSH(ctx, at) })
	}
	knocks.Wait()
	if w.speaks == nil {
		w.speaks = map[netip.AddrPort]bool{}
	}
	for i, at := range fresh {
		w.speaks[at] = speaks[i]
	}
	for _, at := range listens {
		if sight := (peers.Sight{Kind: peers.SeesSSH, What: strconv.Itoa(int(at.Port()))}); w.speaks[at] && !slices.Contains(sees, sight) {
			sees = append(sees, sight)
		}
	}
	return sees
}

// speaksSSH asks a server that listens at this address, from loopback, so that nobody takes the agent
// for somebody from outside.
func speaksSSH(ctx context.Context, at netip.AddrPort) bool {
	from := netip.IPv6Loopback()
	if at.Addr().Is4() {
		from = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(from, at.Port())
	}
	dialer := net.Dialer{Timeout: bannerPatience, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	connection, err := dialer.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return false
	}
	defer connection.Close()
	banner := make([]byte, len("SSH-"))
	if err := connection.SetDeadline(time.Now().Add(bannerPatience)); err != nil {
		return false
	}
	_, err = io.ReadFull(connection, banner)
	return err == nil && string(banner) == "SSH-"
}
