package calico

import (
	"context"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
)

// APIServer returns the addresses and TCP ports at which API servers listen, as they say
// themselves. Where they say nothing, nobody can tell.
func (c *Controller) APIServer(ctx context.Context) (addresses []string, ports []uint16, err error) {
	var slice struct {
		Endpoints []struct {
			Addresses []string `json:"addresses"`
		} `json:"endpoints"`
		Ports []struct {
			Port uint16 `json:"port"`
		} `json:"ports"`
	}
	if _, err := c.read(ctx, cleanup.Object{Kind: "EndpointSlice", Namespace: "default", Name: "kubernetes"}, &slice); err != nil {
		return nil, nil, err
	}
	for _, endpoint := range slice.Endpoints {
		addresses = append(addresses, endpoint.Addresses...)
	}
	for _, port := range slice.Ports {
		ports = append(ports, port.Port)
	}
	return addresses, ports, nil
}
