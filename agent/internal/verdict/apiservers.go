package verdict

import "net/netip"

// APIServers is what is read of the EndpointSlice of the Service kubernetes: where API servers
// listen, as they say themselves.
type APIServers struct {
	Endpoints []struct {
		Addresses []string `json:"addresses"`
	} `json:"endpoints"`
	Ports []struct {
		Port uint16 `json:"port"`
	} `json:"ports"`
}

// Addresses returns those of all API servers. Texts that are no addresses are left out.
func (s APIServers) Addresses() (addresses []netip.Addr) {
	for _, e := range s.Endpoints {
		for _, text := range e.Addresses {
			if addr, err := netip.ParseAddr(text); err == nil {
				addresses = append(addresses, addr.Unmap())
			}
		}
	}
	return addresses
}

// TCPPorts returns the ports at which they listen.
func (s APIServers) TCPPorts() (ports []uint16) {
	for _, p := range s.Ports {
		ports = append(ports, p.Port)
	}
	return ports
}
