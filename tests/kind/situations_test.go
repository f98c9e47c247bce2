package kind

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
	"github.com/host-firewall/host-firewall/tests/helm/readme"
)

// question is something that the README's table of situations is about, or that is open anyway: agents tell of the addresses that their
// nodes have on further interfaces.
type question struct {
	what   string
	ask    func() error // probe.ErrDropped: closed
	anyway bool
}

// The README says what to write where nodes have more than Kubernetes, Calico and agents know of. Here is as much of that as network
// namespaces can play: closed at the defaults, open with all rows of the table.
func TestWhatTheREADMEsSituationsAreAboutIsClosedAtTheDefaultsAndOpenWithItsRows(t *testing.T) {
	machines := local(t, "give nodes further networks")
	rows, err := readme.Rows(root)
	require.NoError(t, err)
	r := prepare(t)
	questions := situationsOn(t, machines)
	_, err = r.Install(t.Context(), release.Values(nil))
	require.NoError(t, err)
	requireArmed(t)
	requireTable(t, scene.ProtectedButSSH, "at the defaults")
	for _, q := range questions {
		if q.anyway {
			eventually(t, q.what+" to be open", func(context.Context) error { return q.ask() })
			continue
		}
		eventually(t, q.what+" to be closed", func(context.Context) error {
			if err := q.ask(); !errors.Is(err, probe.ErrDropped) {
				return fmt.Errorf("it is not: %w", err)
			}
			return nil
		})
	}
	_, err = r.Upgrade(t.Context(), release.Values(readme.Merge(rows)))
	require.NoError(t, err)
	requireArmed(t)
	for _, q := range questions {
		eventually(t, q.what+" to be open", func(context.Context) error { return q.ask() })
	}
	requireTable(t, scene.ProtectedButSSH, "with the rows of the README")
}

// situationsOn gives nodes what the table is about, for as long as the test lasts.
func situationsOn(t *testing.T, machines *cluster.Cluster) []question {
	t.Helper()
	one, other := worker(t, 1), worker(t, 2)
	h, err := machines.Host(one)
	require.NoError(t, err)
	peer, err := machines.Host(other)
	require.NoError(t, err)
	m, err := nodes.Member(one)
	require.NoError(t, err)
	itself := probe.Source{Name: one, NetNS: h.NetNS()}

	secondNetwork(t, h, peer, "198.51.100.129/25", "198.51.100.130/25")
	for link, address := range map[string]string{"eth0": "192.0.2.250/32", "lo": "169.254.25.10/32"} {
		addAddress(t, one, link, address)
	}
	addAddress(t, one, "lo", "10.96.0.10/32")
	container := behindBridge(t, h, "docker0", "172.17.0.1/16", "172.17.0.2/16")[0]
	machine := behindBridge(t, h, "virbr0", "192.168.122.1/24", "192.168.122.2/24", "192.168.122.3/24")
	listenTCP(t, machine[1].NetNS, cluster.OrdinaryPort, func(net.Conn) {})
	newcomer, err := machines.TakeOver("newcomer", cluster.Addresses{V4: netip.MustParseAddr("192.0.2.77"), V6: netip.MustParseAddr("2001:db8:1::77")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, newcomer.Kill()) })
	joining := probe.Source{Name: "a machine that joins", NetNS: newcomer.NetNS()}
	listenTCP(t, h.NetNS(), 9345, func(net.Conn) {})

	connect := func(what string, from probe.Source, protocol probe.Protocol, address string, port uint16) question {
		to := probe.Address{Protocol: protocol, AddrPort: netip.AddrPortFrom(netip.MustParseAddr(address), port)}
		return question{what: what, ask: func() error { return probe.Connect(from, to) }}
	}
	anyway := func(q question) question { q.anyway = true; return q }
	node := m.Addresses.V4.String()
	return []question{
		connect("a container, to its node", container, probe.TCP, node, cluster.OrdinaryPort),
		connect("a container, to the outside", container, probe.TCP, stranger(t).V4.String(), cluster.OutsidePort),
		connect("a virtual machine, to another one on its bridge", machine[0], probe.TCP, "192.168.122.3", cluster.OrdinaryPort),
		connect("a virtual machine, to its node", machine[0], probe.TCP, node, cluster.OrdinaryPort),
		anyway(connect("a node, over the second network", probe.Source{Name: other, NetNS: peer.NetNS()}, probe.TCP, "198.51.100.129", cluster.OrdinaryPort)),
		anyway(connect("an address that moves, for its holder", itself, probe.TCP, "192.0.2.250", cluster.OrdinaryPort)),
		connect("NodeLocal DNS at Kubespray's address", itself, probe.UDP, "169.254.25.10", cluster.OrdinaryPort),
		connect("NodeLocal DNS at the Service's address", itself, probe.UDP, "10.96.0.10", cluster.OrdinaryPort),
		connect("RKE2's port for those that join", joining, probe.TCP, node, 9345),
		linkLocal(t, "VRRP over IPv6", newcomer, h, "ip6:112", ""),
		linkLocal(t, "BFD over IPv6", newcomer, h, "udp6", ":3784"),
	}
}

func stranger(t *testing.T) cluster.Addresses {
	t.Helper()
	m, err := nodes.Member(cluster.StrangerHost)
	require.NoError(t, err)
	return m.Addresses
}

// addAddress gives a node one more address.
func addAddress(t *testing.T, node, link, address string) {
	t.Helper()
	on(t, node, "ip", "address", "add", address, "dev", link)
	t.Cleanup(func() { on(t, node, "ip", "address", "del", address, "dev", link) })
}

// secondNetwork is a link between two hosts, beside the one that Kubernetes knows.
func secondNetwork(t *testing.T, one, other *host.Host, ours, theirs string) {
	t.Helper()
	const link = "storage0"
	handle, err := one.Netlink()
	require.NoError(t, err)
	defer handle.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = link
	require.NoError(t, handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: link, PeerNamespace: netlink.NsPid(other.PID)}))
	t.Cleanup(func() { on(t, one.Name, "ip", "link", "del", link) })
	for name, address := range map[string]string{one.Name: ours, other.Name: theirs} {
		on(t, name, "ip", "address", "add", address, "dev", link)
		on(t, name, "ip", "link", "set", link, "up")
	}
}

// behindBridge are network namespaces behind a bridge of a host, one for each address, as Docker's containers and libvirt's machines have them.
// The outsiders have a route to them: no translation hides who asks. What goes from one to the other is shown to the host's rules, as
// Kubernetes wants it of a node.
func behindBridge(t *testing.T, h *host.Host, bridge, gateway string, addresses ...string) (behind []probe.Source) {
	t.Helper()
	on(t, h.Name, "ip", "link", "add", bridge, "type", "bridge")
	t.Cleanup(func() { on(t, h.Name, "ip", "link", "del", bridge) })
	on(t, h.Name, "ip", "address", "add", gateway, "dev", bridge)
	on(t, h.Name, "ip", "link", "set", bridge, "up")
	on(t, h.Name, "sh", "-c", "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables")
	require.NoError(t, nodes.Route(netip.MustParsePrefix(gateway).Masked(), h.Name))
	outside, err := h.Netlink()
	require.NoError(t, err)
	defer outside.Close()
	for i, address := range addresses {
		ns := newNetNS(t)
		port := fmt.Sprintf("%s-%d", bridge, i)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		require.NoError(t, outside.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
		on(t, h.Name, "ip", "link", "set", port, "master", bridge, "up")
		plugIn(t, ns, address, netip.MustParsePrefix(gateway).Addr())
		behind = append(behind, probe.Source{Name: address, NetNS: fmt.Sprintf("/proc/self/fd/%d", ns)})
	}
	return behind
}

// newNetNS is a network namespace for as long as the test lasts.
func newNetNS(t *testing.T) netns.NsHandle {
	t.Helper()
	created := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread() // the thread is in the new namespace, and ends with this goroutine
		ns, err := netns.New()
		if err != nil {
			ns = netns.None()
		}
		created <- ns
	}()
	ns := <-created
	require.True(t, ns.IsOpen(), "make a network namespace")
	t.Cleanup(func() { require.NoError(t, ns.Close()) })
	return ns
}

// plugIn gives the eth0 of a network namespace its address, and the way to everywhere else.
func plugIn(t *testing.T, ns netns.NsHandle, address string, via netip.Addr) {
	t.Helper()
	handle, err := netlink.NewHandleAt(ns)
	require.NoError(t, err)
	defer handle.Close()
	link, err := handle.LinkByName("eth0")
	require.NoError(t, err)
	addr, err := netlink.ParseAddr(address)
	require.NoError(t, err)
	require.NoError(t, handle.AddrAdd(link, addr))
	require.NoError(t, handle.LinkSetUp(link))
	require.NoError(t, handle.RouteAdd(&netlink.Route{Gw: via.AsSlice()}))
}

// listenTCP takes connections on a port in a network namespace, and ends each when it was served.
func listenTCP(t *testing.T, netNS string, port uint16, serve func(net.Conn)) {
	t.Helper()
	var listener net.Listener
	require.NoError(t, host.InNetNS(netNS, func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				serve(conn)
				_ = conn.Close()
			}()
		}
	}()
}

// linkLocal asks a host from another one of the same link, between the addresses that each has of itself there, and has it answer.
func linkLocal(t *testing.T, what string, from, to *host.Host, network, port string) question {
	t.Helper()
	var listener net.PacketConn
	require.NoError(t, host.InNetNS(to.NetNS(), func() (err error) {
		listener, err = net.ListenPacket(network, map[bool]string{true: "::", false: "[::]" + port}[port == ""])
		return err
	}))
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		buffer := make([]byte, 64)
		for {
			n, asker, err := listener.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = listener.WriteTo(buffer[:n], asker)
		}
	}()
	_, there := linkLocalOf(t, to)
	index, _ := linkLocalOf(t, from)
	address := fmt.Sprintf("%s%%%d", there, index) // by number: net keeps the names of another namespace
	if port != "" {
		address = "[" + address + "]" + port
	}
	return question{what: what, ask: func() error {
		return host.InNetNS(from.NetNS(), func() error {
			conn, err := net.Dial(network, address)
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("question")); err != nil {
				return err
			}
			if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				return err
			}
			if _, err = conn.Read(make([]byte, 64)); errors.Is(err, os.ErrDeadlineExceeded) {
				return probe.ErrDropped
			}
			return err
		})
	}}
}

// linkLocalOf is the number of a host's eth0, and its address there that needs no router.
func linkLocalOf(t *testing.T, h *host.Host) (index int, address net.IP) {
	t.Helper()
	handle, err := h.Netlink()
	require.NoError(t, err)
	defer handle.Close()
	link, err := handle.LinkByName("eth0")
	require.NoError(t, err)
	addresses, err := handle.AddrList(link, netlink.FAMILY_V6)
	require.NoError(t, err)
	for _, a := range addresses {
		if a.IP.IsLinkLocalUnicast() {
			return link.Attrs().Index, a.IP
		}
	}
	require.FailNow(t, "no link-local address on "+h.Name)
	return 0, nil
}
