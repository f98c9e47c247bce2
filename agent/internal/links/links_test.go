package links_test

import (
	"context"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/links"
)

// inNamespace runs the test in a network namespace of its own. Its goroutine must
// be the only one that asks the kernel.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	runtime.LockOSThread()
	before, err := netns.Get()
	require.NoError(t, err)
	own, err := netns.New()
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, own.Close())
		// A thread that can't go back ends with the goroutine that holds it.
		if assert.NoError(t, netns.Set(before)) {
			runtime.UnlockOSThread()
		}
		assert.NoError(t, before.Close())
	})
}

func find(t *testing.T, name string) (found endpoint.Link, ok bool) {
	t.Helper()
	all, err := links.List()
	require.NoError(t, err)
	for _, link := range all {
		if link.Name == name {
			return link, true
		}
	}
	return endpoint.Link{}, false
}

// cable returns a pair of interfaces, for not every kernel has the dummy kind.
func cable(name string) netlink.Link {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	return &netlink.Veth{LinkAttrs: attributes, PeerName: name + "-far"}
}

func address(t *testing.T, text string) *netlink.Addr {
	t.Helper()
	addr, err := netlink.ParseAddr(text)
	require.NoError(t, err)
	return addr
}

func TestLoopbackIsThereWithItsAddress(t *testing.T) {
	lo, ok := find(t, "lo")
	require.True(t, ok)
	assert.Contains(t, lo.Addresses, netip.MustParseAddr("127.0.0.1"))
}

func TestInterfacesHaveTheirOwnAddresses(t *testing.T) {
	inNamespace(t)
	for _, name := range []string{"eth0", "eth1"} {
		require.NoError(t, netlink.LinkAdd(cable(name)))
	}
	eth0, err := netlink.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(eth0, address(t, "192.0.2.1/24")))
	require.NoError(t, netlink.AddrAdd(eth0, address(t, "2001:db8::1/64")))
	eth1, err := netlink.LinkByName("eth1")
	require.NoError(t, err)
	withPeer := address(t, "198.51.100.1/32")
	withPeer.Peer = address(t, "198.51.100.2/32").IPNet
	require.NoError(t, netlink.AddrAdd(eth1, withPeer))

	got, ok := find(t, "eth0")
	require.True(t, ok)
	assert.ElementsMatch(t, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, got.Addresses)
	got, ok = find(t, "eth1")
	require.True(t, ok)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("198.51.100.1")}, got.Addresses, "not the peer's")
}

func TestEveryChangeWakesAtOnce(t *testing.T) {
	inNamespace(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	wakes, began, ended := make(chan struct{}, 1000), make(chan netns.NsHandle), make(chan error, 1)
	own, err := netns.Get()
	require.NoError(t, err)
	defer own.Close()
	go func() {
		// A thread for itself, in the same namespace; it ends with the goroutine.
		runtime.LockOSThread()
		if err := netns.Set(own); err != nil {
			ended <- err
			return
		}
		close(began)
		ended <- links.Watch(ctx, func() { wakes <- struct{}{} })
	}()
	<-began
	awaitWake := func(what string) {
		t.Helper()
		select {
		case <-wakes:
		case err := <-ended:
			t.Fatalf("the watch has ended: %v", err)
		case <-time.After(5 * time.Second):
			t.Fatalf("no wake after %s", what)
		}
		for {
			select {
			case <-wakes:
			case <-time.After(50 * time.Millisecond):
				return
			}
		}
	}
	awaitWake("the beginning")

	require.NoError(t, netlink.LinkAdd(cable("eth0")))
	awaitWake("a new interface")
	eth0, err := netlink.LinkByName("eth0")
	require.NoError(t, err)
	for _, text := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		require.NoError(t, netlink.AddrAdd(eth0, address(t, text)))
		awaitWake("a new address " + text)
		require.NoError(t, netlink.AddrDel(eth0, address(t, text)))
		awaitWake("an address that is gone " + text)
	}
	require.NoError(t, netlink.LinkDel(eth0))
	awaitWake("an interface that is gone")

	stop()
	select {
	case err := <-ended:
		assert.NoError(t, err)
	case <-time.After(2 * time.Second):
		t.Fatal("the watch has not ended")
	}
}

func TestListSurvivesInterfacesThatComeAndGo(t *testing.T) {
	inNamespace(t)
	for i := range 50 {
		link := cable("eth0")
		require.NoError(t, netlink.LinkAdd(link))
		if i%2 == 0 {
			_, ok := find(t, "eth0")
			require.True(t, ok)
		}
		require.NoError(t, netlink.LinkDel(link))
		_, ok := find(t, "eth0")
		require.False(t, ok)
	}
}
