package probe_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/probe"
)

func TestSessionsAreThoseThatAreOpenFromOutside(t *testing.T) {
	if !inNamespace(t, "192.0.2.1/32", "192.0.2.7/32", "2001:db8::1/128", "2001:db8::7/128") {
		return
	}
	listen(t, "[::]:22")
	listen(t, "192.0.2.1:2222")
	other, _ := listen(t, "[::]:443")
	gone := dial(t, "192.0.2.7", "192.0.2.1:22")
	require.NoError(t, gone.Close())
	var want []netip.AddrPort
	for _, session := range []struct{ from, to string }{
		{"192.0.2.7", "192.0.2.1:22"}, {"192.0.2.7", "192.0.2.1:22"}, {"2001:db8::7", "[2001:db8::1]:22"}, {"192.0.2.7", "192.0.2.1:2222"},
	} {
		want = append(want, dial(t, session.from, session.to).LocalAddr().(*net.TCPAddr).AddrPort())
	}
	dial(t, "", "127.0.0.1:22")
	dial(t, "", "[::1]:22")
	dial(t, "192.0.2.7", other.Addr().String())

	becomeNobody(t)
	got, err := probe.Sessions([]uint16{22, 2222})
	require.NoError(t, err)
	assert.ElementsMatch(t, want, got)
}

func TestThereAreNoSessionsToNoPort(t *testing.T) {
	got, err := probe.Sessions(nil)
	require.NoError(t, err)
	assert.Empty(t, got)
}
