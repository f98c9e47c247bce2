package probe_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
)

func TestSightsAreBridgesOutsideCalicoAndItsEBPF(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	assert.Empty(t, probe.Sights())
	for name, address := range map[string]string{"docker0": "172.17.0.1/16", "virbr0": "", "eth7": "192.0.2.1/24", "bpfin.cali": ""} {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = name
		link := &netlink.Veth{LinkAttrs: attributes, PeerName: "to-" + name}
		require.NoError(t, netlink.LinkAdd(link))
		if address != "" {
			parsed, err := netlink.ParseAddr(address)
			require.NoError(t, err)
			require.NoError(t, netlink.AddrAdd(link, parsed))
		}
	}
	becomeNobody(t)
	assert.ElementsMatch(t, []peers.Sight{{Kind: peers.SeesBridge, What: "docker0 172.17.0.0/16"}, {Kind: peers.SeesEBPF}}, probe.Sights())
}
