package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// looks is how long it may take until an agent has looked again, which it does every one to two minutes, and has told.
var looks = shared(150 * time.Second)

// seen is what an agent tells of who is connected to its node.
type seen struct {
	Ports []struct {
		Port, Addresses int
		From            []struct {
			Addr netip.Addr
			N    int
		}
	}
	Listens []int
	Sees    []struct{ Kind, What string }
}

// seenIn reads it from an endpoint; nil: it tells nothing.
func seenIn(t *testing.T, hep metav1.Object) (s *seen) {
	t.Helper()
	text := hep.GetAnnotations()["host-firewall.io/peers"]
	if text == "" {
		return nil
	}
	require.Less(t, len(text), 25_000)
	require.NoError(t, json.Unmarshal([]byte(text), &s), text)
	return s
}

// at returns how many addresses were seen at a port, and how many connections from one of them.
func (s *seen) at(port int, from netip.Addr) (addresses, connections int) {
	for _, p := range s.Ports {
		if p.Port != port {
			continue
		}
		addresses = p.Addresses
		for _, peer := range p.From {
			if peer.Addr == from {
				connections = peer.N
			}
		}
	}
	return addresses, connections
}

// awaitSeen waits until a node tells what is asked for.
func awaitSeen(t *testing.T, node, what string, is func(*seen) bool) {
	t.Helper()
	require.NoError(t, cluster.Poll(t.Context(), looks, what, func(ctx context.Context) error {
		hep, err := endpointOf(ctx, t, node)
		if err != nil {
			return err
		}
		if s := seenIn(t, hep); !is(s) {
			return fmt.Errorf("%s tells %s", node, hep.GetAnnotations()["host-firewall.io/peers"])
		}
		return nil
	}))
}

// firstOf returns the first endpoint that a node gets, as it was created. It has to be called before there is one.
func firstOf(t *testing.T, node string) (first func() *unstructured.Unstructured) {
	t.Helper()
	stream, err := calico(t, "hostendpoints").Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	return func() *unstructured.Unstructured {
		defer stream.Stop()
		for e := range stream.ResultChan() {
			if hep, ok := e.Object.(*unstructured.Unstructured); ok && e.Type == watch.Added && hep.GetName() == node {
				return hep
			}
		}
		require.FailNow(t, "no endpoint of "+node+" was created")
		return nil
	}
}

// crowd opens a connection to an address from each of so many addresses behind a bridge of the node, for as long as the test lasts. The node
// has a route to them: it could not keep so many neighbours.
func crowd(t *testing.T, h *host.Host, to string, many int) {
	t.Helper()
	behind := behindBridge(t, h, "docker0", "172.17.0.1/16", "172.17.0.2/16")[0]
	ns, err := netns.GetFromPath(behind.NetNS)
	require.NoError(t, err)
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns)
	require.NoError(t, err)
	defer handle.Close()
	eth0, err := handle.LinkByName("eth0")
	require.NoError(t, err)
	on(t, h.Name, "ip", "route", "add", "172.18.0.0/16", "via", "172.17.0.2", "dev", "docker0")
	addr := netip.MustParseAddr("172.18.1.0")
	for range many {
		one := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		require.NoError(t, handle.AddrAdd(eth0, one))
		from := &net.TCPAddr{IP: addr.AsSlice()}
		require.NoError(t, host.InNetNS(behind.NetNS, func() error {
			conn, err := (&net.Dialer{LocalAddr: from, Timeout: 10 * time.Second}).Dial("tcp", to)
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
			}
			return err
		}))
		addr = addr.Next()
	}
}

// short opens a connection from an outsider, and ends it 50 ms later.
func short(t *testing.T, outsider, to string) {
	t.Helper()
	h, err := nodes.Host(outsider)
	require.NoError(t, err)
	require.NoError(t, host.InNetNS(h.NetNS(), func() error {
		conn, err := net.DialTimeout("tcp", to, 10*time.Second)
		if err != nil {
			return err
		}
		// Nothing is sent, so nothing comes.
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, _ = conn.Read(make([]byte, 1))
		return conn.Close()
	}))
}

// Whoever would be cut is to be known before anything closes: one stranger among a thousand others at the moment at which the node gets its
// endpoint, and whoever is connected for a moment only. Once a node is armed nothing is told, unless the values ask for it; nor is it in
// audit if they don't want it.
func TestWhoIsConnectedIsToldWhileThatMatters(t *testing.T) {
	machines := local(t, "open a thousand connections from one bridge")
	const many = 1000
	r := prepare(t)
	node := worker(t, 1)
	h, err := machines.Host(node)
	require.NoError(t, err)
	m, err := nodes.Member(node)
	require.NoError(t, err)
	ordinary := net.JoinHostPort(m.Addresses.V4.String(), fmt.Sprint(cluster.OrdinaryPort))
	ssh := net.JoinHostPort(m.Addresses.V4.String(), fmt.Sprint(cluster.SSHPort))
	from := stranger(t).V4
	crowd(t, h, ordinary, many)
	outside, err := nodes.Host(cluster.StrangerHost)
	require.NoError(t, err)
	path := probe.Path{From: probe.Source{Name: cluster.StrangerHost, NetNS: outside.NetNS()}, To: []probe.Address{{Protocol: probe.TCP, AddrPort: netip.MustParseAddrPort(ordinary)}}}
	hold(t, []probe.Path{path})

	first := firstOf(t, node)
	_, err = r.Install(t.Context(), with(map[string]any{"mode": "audit"}))
	require.NoError(t, err)
	s := seenIn(t, first())
	require.NotNil(t, s, "the endpoint tells from the beginning")
	addresses, connections := s.at(cluster.OrdinaryPort, from)
	require.GreaterOrEqual(t, addresses, many+1)
	require.Equal(t, 1, connections, "the stranger is told at once: %v", s)
	require.Contains(t, s.Listens, cluster.SSHPort)
	require.Contains(t, fmt.Sprint(s.Sees), "bridge docker0 172.17.0.0/16")
	requireArmed(t)

	const shorts = 5
	for range shorts {
		short(t, cluster.StrangerHost, ssh)
	}
	awaitSeen(t, node, "the short connections to be told", func(s *seen) bool {
		if s == nil {
			return false
		}
		_, connections := s.at(cluster.SSHPort, from)
		return connections >= shorts
	})

	told := func(s *seen) bool { return s != nil }
	nothing := func(s *seen) bool { return s == nil }
	for _, change := range []struct {
		what   string
		values map[string]any
		is     func(*seen) bool
	}{
		{"nothing to be told once it is armed", nil, nothing},
		{"somebody to be told also when it is armed", map[string]any{"rollout": map[string]any{"watchPeers": "always", "verify": false}}, told},
		{"nothing to be told in audit where nobody wants it", map[string]any{"mode": "audit", "rollout": map[string]any{"watchPeers": "never", "verify": false}}, nothing},
	} {
		_, err = r.Upgrade(t.Context(), with(change.values))
		require.NoError(t, err)
		requireArmed(t)
		awaitSeen(t, node, change.what, change.is)
	}
	require.NoError(t, r.Uninstall())
}
