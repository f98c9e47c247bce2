package calico

import (
	"context"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// FelixConfigurations returns all of them.
func (c *Controller) FelixConfigurations(ctx context.Context) ([]*failsafe.Configuration, error) {
	return list[failsafe.Configuration](ctx, c.Cluster, v3.KindFelixConfiguration, metav1.ListOptions{ResourceVersion: fromCache})
}

// IPPools returns all networks from which Calico takes addresses.
func (c *Controller) IPPools(ctx context.Context) ([]*v3.IPPool, error) {
	return list[v3.IPPool](ctx, c.Cluster, v3.KindIPPool, metav1.ListOptions{ResourceVersion: fromCache})
}

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
	_, err = c.Read(ctx, "EndpointSlice", "default", "kubernetes", &slice)
	for _, endpoint := range slice.Endpoints {
		addresses = append(addresses, endpoint.Addresses...)
	}
	for _, port := range slice.Ports {
		ports = append(ports, port.Port)
	}
	return addresses, ports, err
}
