package calico

import (
	"context"
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
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
func (c *Controller) APIServer(ctx context.Context) (addresses []netip.Addr, ports []uint16, err error) {
	var servers verdict.APIServers
	_, err = c.Read(ctx, "EndpointSlice", "default", "kubernetes", &servers)
	return servers.Addresses(), servers.TCPPorts(), err
}
