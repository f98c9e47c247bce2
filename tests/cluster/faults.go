package cluster

import (
	"fmt"
	"os"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// Names of programs of a node that can be made to fail: host.Host has the ways.
const (
	Etcd              = "etcd"
	APIServerProgram  = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kubelet           = "kubelet"
	Felix             = "felix"
)

// Reboot ends a worker as a machine without power ends, and starts it again. What its kernel knew is gone; its disk is as it
// was. It returns while the node is still starting; WaitNode waits.
func (c *Cluster) Reboot(name string) error {
	m, err := c.Member(name)
	if err != nil {
		return err
	}
	if m.Role != Worker {
		return fmt.Errorf("reboot: %s is no worker (%s)", name, m.Role)
	}
	h, err := c.Host(name)
	if err != nil {
		return err
	}
	if err := h.Kill(); err != nil {
		return err
	}
	return c.plugIn(&h.Spec, m.Addresses)
}

// TakeOver starts a host that is no node, with the addresses of one that has left: what happens to addresses. Kill ends it.
func (c *Cluster) TakeOver(name string, a Addresses) (*host.Host, error) {
	if err := c.plugIn(&host.Spec{Name: name, Sysctls: forwarding()}, a); err != nil {
		return nil, err
	}
	return c.Host(name)
}

// plugIn starts a host among the nodes, at the port where another with these addresses may have been.
func (c *Cluster) plugIn(spec *host.Spec, a Addresses) error {
	router, err := c.Host(routerHost)
	if err != nil {
		return err
	}
	if err := disconnect(router, nodes, a); err != nil {
		return err
	}
	if err := os.MkdirAll(c.layout.host(spec.Name), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	_, err = c.startHost(spec, nil, func(h *host.Host) error { return connect(router, h, nodes, a) })
	return err
}
