package scene

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/oracle"
	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// hop is where a connection comes in to a node, and Felix may be asked about it.
type hop struct {
	node, link string
	oracle.Connection
}

// Links by which connections come in to a node. Another network than that of the nodes is behind none of them.
const (
	wire   = "eth0"
	pod0   = "cali0" // for all that have a pod behind them
	tunnel = "vxlan.calico"
	lo     = "lo"
)

// hops are all of a connection, in order. This is how the cluster routes:
//
//   - A NodePort is translated by the node that is asked, a ClusterIP by the first node that sees it; a connection to a NodePort
//     that goes on to another node gets the address of the first one's tunnel.
//   - Between nodes, what is for pods goes through the tunnel, with that tunnel's address where a host sends it. The tunnel's own
//     packets are of nodes, which always trust each other.
//   - What a pod sends to anything but pods gets the address of its node (natOutgoing).
//
// What a host sends comes in nowhere on its way out of it.
func (s *Scene) hops(q question) (hops []hop) {
	c := connection(q)
	node, link := q.from.node, ""
	switch {
	case outsider(q.Row):
		node, link = s.ownerOf(c.To), wire
	case q.from.isPod():
		link = pod0
	}
	for {
		own := s.isOf(node, c.To)
		translated := q.isService() && (own || c.To == s.service.Of(q.Family))
		c.Way, c.Behind = oracle.Forwarded, netip.AddrPort{}
		if own {
			c.Way = oracle.ToHost
		}
		if own && link == pod0 {
			c.Way = oracle.FromOwnPod
		}
		if translated {
			c.Behind = netip.AddrPortFrom(s.backend().Of(q.Family), webPort)
		}
		if translated && own {
			c.Way = oracle.ToNodePort
		}
		if own && !translated && link == "" {
			link = lo
		}
		if link != "" {
			hops = append(hops, hop{node, link, c})
		}
		hidden := link == "" || c.Way == oracle.ToNodePort
		if translated {
			c.To, c.Port = c.Behind.Addr(), c.Behind.Port()
		}
		next := s.ownerOf(c.To)
		switch {
		case next == node || next == "":
			return hops
		case s.isOf(next, c.To):
			if link == pod0 {
				c.From = s.hosts[node].Of(q.Family)
			}
			link = wire
		default:
			if hidden {
				c.From = s.tunnels[node].Of(q.Family)
			}
			link = tunnel
		}
		node = next
	}
}

// connection is what the client sends.
func connection(q question) oracle.Connection {
	to := q.address()
	c := oracle.Connection{From: q.from.Of(q.Family), To: to.Addr(), Protocol: string(to.Protocol), Port: to.Port()}
	if to.Protocol == probe.Ping {
		c.Protocol, c.ICMPType = "ICMP", 8
		if q.Family == 6 {
			c.Protocol, c.ICMPType = "ICMPv6", 128
		}
	}
	if c.To.IsLoopback() {
		c.From = c.To
	}
	return c
}

// isService tells whether kube-proxy knows what is asked for.
func (q question) isService() bool { return OfServices(q.Cell) }

func (p place) isPod() bool { return p.Name != p.node }

// isOf tells whether an address is one of a node's own.
func (s *Scene) isOf(node string, a netip.Addr) bool {
	own := s.hosts[node]
	return a.IsLoopback() || a == own.V4 || a == own.V6
}

// ownerOf is the node that has an address, or the pod or the Service behind it; empty: it is outside.
func (s *Scene) ownerOf(a netip.Addr) string {
	for _, p := range append(append(s.nodes(), s.pods...), s.service) {
		if a == p.V4 || a == p.V6 {
			return p.node
		}
	}
	return ""
}

// backend is the pod behind the Service.
func (s *Scene) backend() place {
	for _, p := range s.pods {
		if p.app == backend {
			return p
		}
	}
	panic("no pod behind the Service")
}

// world is what counts in this cluster beside the policies.
func (s *Scene) world(f Firewall) oracle.World {
	w := oracle.World{Failsafe: f.Failsafe, Nodes: map[netip.Addr]bool{}, APIServers: s.apiServers}
	for _, p := range s.pods {
		for _, family := range Families() {
			w.Pods = append(w.Pods, netip.PrefixFrom(p.Of(family), p.Of(family).BitLen()))
		}
	}
	for _, n := range s.nodes() {
		for _, a := range s.AddressesOf(n.Name) {
			w.Nodes[a] = true
		}
	}
	return w
}

// AddressesOf are those by which others see a node: its own, and those of its tunnels.
func (s *Scene) AddressesOf(node string) []netip.Addr {
	own, tunnels := s.hosts[node].Addresses, s.tunnels[node]
	return slices.DeleteFunc([]netip.Addr{own.V4, own.V6, tunnels.V4, tunnels.V6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// refreshWorld reads the addresses of tunnels and API servers.
func (s *Scene) refreshWorld(ctx context.Context) error {
	s.tunnels, s.apiServers = map[string]cluster.Addresses{}, nil
	list, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range list.Items {
		var a cluster.Addresses
		for annotation, addr := range map[string]*netip.Addr{
			"projectcalico.org/IPv4VXLANTunnelAddr": &a.V4, "projectcalico.org/IPv6VXLANTunnelAddr": &a.V6,
		} {
			*addr, _ = netip.ParseAddr(n.Annotations[annotation]) // without a tunnel there is none
		}
		s.tunnels[n.Name] = a
	}
	served, err := s.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	if err != nil {
		return fmt.Errorf("list API servers: %w", err)
	}
	for _, slice := range served.Items {
		for _, endpoint := range slice.Endpoints {
			for _, text := range endpoint.Addresses {
				addr, err := netip.ParseAddr(text)
				if err != nil {
					return fmt.Errorf("read address of the API server: %w", err)
				}
				s.apiServers = append(s.apiServers, addr)
			}
		}
	}
	return nil
}
