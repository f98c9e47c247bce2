package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// All addresses are of the ranges that are reserved for documentation and benchmarks (RFC 5737, RFC 3849, RFC 2544): no
// real network is ever meant, and none can be reached from here.
const (
	podCIDR4     = "198.18.0.0/16"
	podCIDR6     = "2001:db8:a::/56"
	serviceCIDR4 = "198.19.0.0/16"
	serviceCIDR6 = "2001:db8:b::/112"
	serviceIP    = "198.19.0.1"
)

// segment is one link of the cluster's surroundings; the router has the first address of each.
type segment struct {
	name   string
	v4, v6 netip.Prefix
}

var (
	nodes    = segment{"nodes", netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}
	admins   = segment{"admins", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:2::/64")}
	outside  = segment{"outside", netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:3::/64")}
	segments = []segment{nodes, admins, outside}
)

// AdminCIDRs are the networks of the outsider admin.
func AdminCIDRs() []string { return []string{admins.v4.String(), admins.v6.String()} }

// AdminCIDRs are the networks of the outsider admin.
func (c *Cluster) AdminCIDRs() []string { return AdminCIDRs() }

// StrangerCIDRs are the networks of the outsider stranger, IPv4 first.
func (c *Cluster) StrangerCIDRs() []string { return []string{outside.v4.String(), outside.v6.String()} }

// ClusterCIDRs are the networks of the nodes and of the pods.
func ClusterCIDRs() []string {
	return []string{nodes.v4.String(), nodes.v6.String(), podCIDR4, podCIDR6}
}

// ClusterCIDRs are the networks of the nodes and of the pods.
func (c *Cluster) ClusterCIDRs() []string { return ClusterCIDRs() }

// Addresses are a host's, one of each family.
type Addresses struct {
	V4 netip.Addr `json:"v4"`
	V6 netip.Addr `json:"v6"`
}

// Of returns the address of a family, 4 or 6.
func (a Addresses) Of(family int) netip.Addr {
	if family == 6 {
		return a.V6
	}
	return a.V4
}

// address is the host with this number on the segment.
func (s segment) address(number byte) Addresses {
	v4, v6 := s.v4.Addr().As4(), s.v6.Addr().As16()
	v4[3], v6[15] = number, number
	return Addresses{V4: netip.AddrFrom4(v4), V6: netip.AddrFrom16(v6)}
}

func (s segment) router() Addresses { return s.address(1) }

// both pairs the addresses with the lengths of the segment's prefixes.
func (s segment) both(a Addresses) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(a.V4, s.v4.Bits()), netip.PrefixFrom(a.V6, s.v6.Bits())}
}

// forwarding makes a host pass packets on. Duplicate address detection would keep new addresses unusable for a second. A new
// network namespace has the machine's settings of IPv4 interfaces; those that decide over packets are to be the same everywhere.
func forwarding() map[string]string {
	return map[string]string{
		"net/ipv4/ip_forward":                 "1",
		"net/ipv6/conf/*/disable_ipv6":        "0",
		"net/ipv6/conf/all/forwarding":        "1",
		"net/ipv6/conf/default/accept_dad":    "0",
		"net/ipv6/conf/default/accept_ra":     "0",
		"net/ipv4/conf/*/rp_filter":           "1",
		"net/ipv4/conf/*/accept_local":        "0",
		"net/ipv4/conf/*/arp_filter":          "0",
		"net/ipv4/conf/*/arp_ignore":          "0",
		"net/ipv4/conf/*/route_localnet":      "0",
		"net/ipv4/ping_group_range":           "0 2147483647",
		"net/ipv4/ip_unprivileged_port_start": "0",
	}
}

// connectRouter gives the router one bridge for each segment.
func connectRouter(h *host.Host) error {
	handle, err := h.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	if err := up(handle, "lo"); err != nil {
		return err
	}
	for i, s := range segments {
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		bridge.Name = s.name
		// A bridge without an address of its own takes that of a port, and another one when a host is added: everybody's
		// neighbour tables would be wrong for a while.
		bridge.HardwareAddr = net.HardwareAddr{0x02, 0, 0, 0, 0, byte(i + 1)}
		if err := handle.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge %s: %w", s.name, err)
		}
		if err := up(handle, s.name, s.both(s.router())...); err != nil {
			return err
		}
	}
	return nil
}

// connect gives a host its interface eth0 on a segment, and the router as its way to everywhere else.
func connect(router, h *host.Host, s segment, a Addresses) error {
	there, err := router.Netlink()
	if err != nil {
		return err
	}
	defer there.Close()
	bridge, err := there.LinkByName(s.name)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", s.name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = portName(s, a)
	attrs.MasterIndex = bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(h.PID)}
	if err := there.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s: %w", attrs.Name, err)
	}
	if err := up(there, attrs.Name); err != nil {
		return err
	}
	here, err := h.Netlink()
	if err != nil {
		return err
	}
	defer here.Close()
	if err := up(here, "lo"); err != nil {
		return err
	}
	if err := up(here, "eth0", s.both(a)...); err != nil {
		return err
	}
	for _, via := range []netip.Addr{s.router().V4, s.router().V6} {
		if err := here.RouteAdd(&netlink.Route{Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("add default route via %s: %w", via, err)
		}
	}
	return nil
}

// portName is the router's end of a host's link.
func portName(s segment, a Addresses) string { return fmt.Sprintf("%.6s-%d", s.name, a.V4.As4()[3]) }

// disconnect takes the link of a host that has ended away: the kernel would, but in its own time.
func disconnect(router *host.Host, s segment, a Addresses) error {
	there, err := router.Netlink()
	if err != nil {
		return err
	}
	defer there.Close()
	link, err := there.LinkByName(portName(s, a))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = there.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) { // gone meanwhile
		return fmt.Errorf("remove link %s: %w", portName(s, a), err)
	}
	return nil
}

// Route makes the router send what is for a network to a node, as a router does that has learnt it from Calico (BGP).
func (c *Cluster) Route(to netip.Prefix, node string) error {
	m, err := c.Member(node)
	if err != nil {
		return err
	}
	router, err := c.Host(routerHost)
	if err != nil {
		return err
	}
	return RouteOn(router, to, m.Addresses)
}

// RouteOn makes a host send what is for a network to another host.
func RouteOn(h *host.Host, to netip.Prefix, via Addresses) error {
	handle, err := h.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	gateway := via.V4
	if to.Addr().Is6() {
		gateway = via.V6
	}
	if err := handle.RouteReplace(&netlink.Route{Dst: network(to), Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route %s by way of %s: %w", to, gateway, err)
	}
	return nil
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// up sets a link up and gives it addresses.
func up(handle *netlink.Handle, name string, addresses ...netip.Prefix) error {
	link, err := handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	for _, p := range addresses {
		addr := &netlink.Addr{IPNet: network(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := handle.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s to %s: %w", p, name, err)
		}
	}
	return nil
}
