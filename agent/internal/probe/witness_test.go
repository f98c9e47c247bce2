package probe_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
)

func TestWitnessIsDroppedAndItsControlIsNotWhereASetIsEnforced(t *testing.T) {
	closed := func(addr string) func(*testing.T) netip.AddrPort {
		return func(t *testing.T) netip.AddrPort { return free(t, addr+":0") }
	}
	accepts := func(addr string) func(*testing.T) netip.AddrPort {
		return func(t *testing.T) netip.AddrPort { _, at := listen(t, addr+":0"); return at }
	}
	drops := func(addr string) func(*testing.T) netip.AddrPort {
		return func(t *testing.T) netip.AddrPort { return silent(t, onPort(addr, 0)) }
	}
	const from, to, control = "127.66.1.1", "127.66.1.2", "127.66.1.3"
	for name, test := range map[string]struct {
		from        string
		to, control func(*testing.T) netip.AddrPort
		want        probe.Family
	}{
		"dropped":                            {from, drops(to), closed(control), probe.Enforced},
		"dropped, the control is accepted":   {from, drops(to), accepts(control), probe.Enforced},
		"refused":                            {from, closed(to), closed(control), probe.Open},
		"accepted":                           {from, accepts(to), closed(control), probe.Open},
		"all is dropped":                     {from, drops(to), drops(control), probe.Unknown},
		"only the control is dropped":        {from, closed(to), drops(control), probe.Unknown},
		"no way to the witness":              {from, func(*testing.T) netip.AddrPort { return onPort("255.255.255.255", 9) }, closed(control), probe.Unknown},
		"the node has no such address":       {"192.0.2.1", drops(to), closed(control), probe.None},
		"the node has no such address, IPv6": {"2001:db8::1", closed(to), func(*testing.T) netip.AddrPort { return onPort("::1", 19) }, probe.None},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, probe.Look(t.Context(), netip.MustParseAddr(test.from), test.to(t), test.control(t)))
		})
	}
}

func TestWitnessComesFromItsOwnAddress(t *testing.T) {
	listener, to := listen(t, "127.66.2.2:0")
	require.Equal(t, probe.Open, probe.Look(t.Context(), netip.MustParseAddr("127.66.2.1"), to, to))
	for range 2 {
		connection, err := listener.Accept()
		require.NoError(t, err)
		defer connection.Close()
		assert.Contains(t, connection.RemoteAddr().String(), "127.66.2.1:")
	}
}

func TestWitnessShowsNothingOnceTheAgentEnds(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	end()
	assert.Equal(t, probe.Unknown, probe.Look(ctx, netip.MustParseAddr("127.66.3.1"), silent(t, onPort("127.66.3.2", 0)), free(t, "127.66.3.3:0")))
}

func TestWitnessIsLookedForInBothFamilies(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	witness := clearance.Witness{
		From: netip.MustParseAddr("127.66.1.1"), To: netip.MustParseAddr("127.66.1.2"), Control: netip.MustParseAddr("127.66.1.3"), Moved: netip.MustParseAddr("127.66.1.4"),
	}
	assert.Equal(t, probe.Enforcement{IPv4: probe.Open, IPv6: probe.Open, Moved: probe.Open}, probe.Witness(t.Context(), witness))

	silent(t, netip.AddrPortFrom(witness.To, 9))
	assert.Equal(t, probe.Enforcement{IPv4: probe.Enforced, IPv6: probe.Open, Moved: probe.Open}, probe.Witness(t.Context(), witness))

	silent(t, onPort("::1", 9))
	assert.Equal(t, probe.Enforcement{IPv4: probe.Enforced, IPv6: probe.Enforced, Moved: probe.Open}, probe.Witness(t.Context(), witness))

	silent(t, netip.AddrPortFrom(witness.Moved, 9))
	assert.Equal(t, probe.Enforcement{IPv4: probe.Enforced, IPv6: probe.Enforced, Moved: probe.Enforced}, probe.Witness(t.Context(), witness))

	silent(t, onPort("::1", 19))
	silent(t, netip.AddrPortFrom(witness.Control, 9))
	assert.Equal(t, probe.Enforcement{IPv4: probe.Unknown, IPv6: probe.Unknown, Moved: probe.Unknown}, probe.Witness(t.Context(), witness))

	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	address, err := netlink.ParseAddr("::1/128")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrDel(lo, address))
	assert.Equal(t, probe.None, probe.Witness(t.Context(), witness).IPv6)
}
