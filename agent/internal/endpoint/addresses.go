package endpoint

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// addressAnnotations are where Calico writes the addresses that a node uses
// towards other nodes. The first two hold a CIDR, the rest plain addresses.
func addressAnnotations() []string {
	return []string{
		"projectcalico.org/IPv4Address",
		"projectcalico.org/IPv6Address",
		"projectcalico.org/IPv4IPIPTunnelAddr",
		"projectcalico.org/IPv4VXLANTunnelAddr",
		"projectcalico.org/IPv6VXLANTunnelAddr",
		"projectcalico.org/IPv4WireguardInterfaceAddr",
		"projectcalico.org/IPv6WireguardInterfaceAddr",
	}
}

// Says returns the addresses of a Node as the Node, and Calico's annotations on it, say
// them. ParseAddress reads them.
func Says(node *corev1.Node) (addresses []string) {
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP || address.Type == corev1.NodeExternalIP {
			addresses = append(addresses, address.Address)
		}
	}
	for _, key := range addressAnnotations() {
		if text := node.Annotations[key]; text != "" {
			addresses = append(addresses, text)
		}
	}
	return addresses
}

// IsHeartbeat tells whether nothing of a Node has changed that anybody looks at: of
// thousands of them some say every moment that they are still there.
func IsHeartbeat(before, after any) bool {
	a, isNode := before.(*corev1.Node)
	b, stays := after.(*corev1.Node)
	return isNode && stays && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) &&
		slices.Equal(a.Status.Addresses, b.Status.Addresses) && slices.Equal(a.Status.Conditions, b.Status.Conditions) &&
		a.Status.DaemonEndpoints == b.Status.DaemonEndpoints
}

// KubeletOf returns where a Node says that its kubelet is; not valid: it does not say so.
func KubeletOf(node *corev1.Node) netip.AddrPort {
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, address := range node.Status.Addresses {
		if addr, ok := ParseAddress(address.Address); ok && address.Type == corev1.NodeInternalIP && port > 0 {
			return netip.AddrPortFrom(addr, uint16(port))
		}
	}
	return netip.AddrPort{}
}

// ParseAddress reads an address, or the address of a CIDR, and tells whether others can
// know a node by it: Calico takes no zones.
func ParseAddress(text string) (addr netip.Addr, ok bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = prefix.Addr()
	}
	addr = addr.Unmap()
	return addr, addr.Zone() == "" && ofANode(addr)
}

// ofANode tells whether an address may be a node's: an unspecified one, one of loopback or
// one of many receivers is not.
func ofANode(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsLoopback() && !addr.IsMulticast()
}

// addressesOf returns the addresses that the endpoint of all interfaces of a node has:
// each once, sorted, so that a Node which lists them in another order is no difference.
func addressesOf(node *corev1.Node, more []netip.Addr) (addresses, invalid []string) {
	found := slices.Clone(more)
	for _, text := range Says(node) {
		if addr, ok := ParseAddress(text); ok {
			found = append(found, addr)
		} else {
			invalid = append(invalid, text)
		}
	}
	return texts(found), invalid
}

// texts returns addresses as an endpoint holds them: each once, sorted.
func texts(found []netip.Addr) (addresses []string) {
	found = slices.SortedFunc(slices.Values(found), netip.Addr.Compare)
	for _, addr := range slices.Compact(found) {
		addresses = append(addresses, addr.String())
	}
	return addresses
}
