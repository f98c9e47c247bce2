package probe_test

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const inside = "PROBE_TEST_INSIDE"

// inNamespace runs the test once more, in a process with a network namespace of its own, and
// returns true there. It has loopback, with more addresses if any are given.
func inNamespace(t *testing.T, addresses ...string) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	if os.Getenv(inside) == "" {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
		again.Env = append(os.Environ(), inside+"=yes")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := again.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return false
	}
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	for _, text := range addresses {
		address, err := netlink.ParseAddr(text)
		require.NoError(t, err)
		require.NoError(t, netlink.AddrAdd(lo, address))
		// The kernel makes the route of an IPv6 address in the background.
		require.Eventually(t, func() bool {
			routes, err := netlink.RouteGet(address.IP)
			return err == nil && routes[0].Type == unix.RTN_LOCAL
		}, 10*time.Second, time.Millisecond)
	}
	return true
}

// becomeNobody gives up all rights, as the agent has none.
func becomeNobody(t *testing.T) {
	t.Helper()
	const nobody = 65534
	require.NoError(t, syscall.Setuid(nobody))
}

// listen accepts connections to an address; port 0: to any free port of it.
func listen(t *testing.T, address string) (net.Listener, netip.AddrPort) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener, listener.Addr().(*net.TCPAddr).AddrPort()
}

// silent makes an address one where packets are dropped: the kernel drops those to a socket
// which has more connections than it wants and does not accept any.
func silent(t *testing.T, at netip.AddrPort) netip.AddrPort {
	t.Helper()
	address, family := unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}), unix.AF_INET6
	if at.Addr().Is4() {
		address, family = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}, unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, address))
	require.NoError(t, unix.Listen(fd, 0))
	bound, err := unix.Getsockname(fd)
	require.NoError(t, err)
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(at.Addr(), uint16(b.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(at.Addr(), uint16(b.Port))
	}
	dial(t, "", at.String())
	return at
}

// dial connects, from an address if one is given, for the length of the test.
func dial(t *testing.T, from, to string) net.Conn {
	t.Helper()
	dialer := net.Dialer{}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	connection, err := dialer.DialContext(t.Context(), "tcp", to)
	require.NoError(t, err)
	t.Cleanup(func() { connection.Close() })
	return connection
}

// free returns an address at which nobody listens.
func free(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	listener, at := listen(t, address)
	require.NoError(t, listener.Close())
	return at
}

// onPort returns an address with another port.
func onPort(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}
