package probe

import (
	"strings"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/links"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

// Sights returns what matters to a firewall on this node beside its connections: bridges of containers and
// virtual machines outside Calico, its eBPF dataplane, and IPVS without connection tracking.
func Sights() (sees []peers.Sight) {
	if all, err := links.List(); err == nil {
		sees = sightsOf(all)
	}
	if links.UntrackedIPVS() {
		sees = append(sees, peers.Sight{Kind: peers.SeesIPVS})
	}
	return sees
}

func sightsOf(all []endpoint.Link) (sees []peers.Sight) {
	for _, link := range all {
		var networks []string
		for _, network := range link.Networks {
			// What is too long is cut, and half a network may be read as a larger one.
			if text := network.String(); !network.Addr().IsLinkLocalUnicast() && len(link.Name)+len(strings.Join(append(networks, text), ", ")) < peers.MostText {
				networks = append(networks, text)
			}
		}
		switch {
		case link.Name == endpoint.BPFDevice:
			sees = append(sees, peers.Sight{Kind: peers.SeesEBPF})
		case endpoint.IsBridgeOfContainers(link.Name) && len(networks) > 0:
			sees = append(sees, peers.Sight{Kind: peers.SeesBridge, What: link.Name + " " + strings.Join(networks, ", ")})
		}
	}
	return sees
}
