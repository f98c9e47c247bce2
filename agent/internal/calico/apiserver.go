package calico

import (
	"context"
	"path"
)

// APIServer returns the addresses and TCP ports at which API servers listen, as they say
// themselves. Where they say nothing, nobody can tell.
func (c *Controller) APIServer(ctx context.Context) (addresses []string, ports []uint16, err error) {
	const namespace, name, endpointSlices = "default", "kubernetes", "endpointslices"
	var slice struct {
		Endpoints []struct{ Addresses []string }
		Ports     []struct{ Port uint16 }
	}
	where := path.Join(namespacePath("discovery.k8s.io/v1", namespace, endpointSlices), name)
	if _, err := c.read(ctx, where, endpointSlices, "EndpointSlice "+namespace+"/"+name, &slice); err != nil {
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
