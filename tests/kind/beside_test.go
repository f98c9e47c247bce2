package kind

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// closedByTheHost has a node's own firewall close a port, and Felix leave it its say, as the README tells those who have one: without
// that, Felix on iptables accepts for good what a policy or the profile of an endpoint allows. What is returned wants the port to be closed.
func closedByTheHost(t *testing.T) (requireClosed func(when string)) {
	t.Helper()
	const port = 8081
	node := worker(t, 1)
	h, err := nodes.Host(node)
	require.NoError(t, err)
	m, err := nodes.Member(node)
	require.NoError(t, err)
	stranger, err := nodes.Host(cluster.StrangerHost)
	require.NoError(t, err)
	path := probe.Path{
		From: probe.Source{Name: cluster.StrangerHost, NetNS: stranger.NetNS()}, What: "a port that the host closes",
		To: []probe.Address{{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(m.Addresses.V4, port)}},
	}
	listenTCP(t, h.NetNS(), port, func(net.Conn) {})
	eventually(t, "the port to be open before", func(context.Context) error { return errors.Join(probe.Ask([]probe.Path{path})[0].Errors...) })
	felixForAll(t, map[string]any{"iptablesFilterAllowAction": "Return"})
	rule := []string{"INPUT", "--protocol", "tcp", "--dport", fmt.Sprint(port), "--jump", "DROP"}
	on(t, node, "iptables-nft", append([]string{"--append"}, rule...)...)
	t.Cleanup(func() { on(t, node, "iptables-nft", append([]string{"--delete"}, rule...)...) })
	return func(when string) {
		t.Helper()
		eventually(t, "the port to be closed "+when, func(context.Context) error {
			if a := probe.Ask([]probe.Path{path})[0]; !a.Closed() {
				return fmt.Errorf("open: %s (%v)", a, a.Errors)
			}
			return nil
		})
	}
}
