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

// mute are ports of servers that never speak first, and log who goes without a word: etcd, API server, kubelet.
var mute = []uint16{2379, 2380, 6443, 10250}

// knock asks those who listen, each once, whether they speak SSH, if nobody listens on any of the ports on which that is
// expected. It returns whether one does.
func (v *view) knock(ctx context.Context) bool {
	if v.hasSSH() {
		return false
	}
	var fresh []netip.AddrPort
	for _, at := range v.listens {
		if _, asked := v.speaks[at]; !asked && !slices.Contains(mute, at.Port()) && len(fresh) < mostKnocks && len(v.speaks)+len(fresh) < mostAsked {
			fresh = append(fresh, at)
		}
	}
	speaks := make([]bool, len(fresh))
	var knocks sync.WaitGroup
	for i, at := range fresh {
		knocks.Go(func() { speaks[i] = speaksSSH(ctx, at) })
	}
	knocks.Wait()
	for i, at := range fresh {
		v.speaks[at] = speaks[i]
	}
	return slices.Contains(speaks, true)
}

// hasSSH tells whether somebody listens where an SSH server is expected.
func (v *view) hasSSH() bool {
	return slices.ContainsFunc(v.listens, func(at netip.AddrPort) bool { return slices.Contains(v.SSH, at.Port()) })
}

// sshElsewhere returns where an SSH server has answered, if none is where it is expected.
func (v *view) sshElsewhere() (sees []peers.Sight) {
	for _, at := range v.listens {
		sight := peers.Sight{Kind: peers.SeesSSH, What: strconv.Itoa(int(at.Port()))}
		if v.speaks[at] && !v.hasSSH() && !slices.Contains(sees, sight) {
			sees = append(sees, sight)
		}
	}
	return sees
}

// speaksSSH asks a server that listens at this address (RFC 4253, 4.2: it speaks first), from loopback, so
// that nobody takes the agent for somebody from outside.
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
