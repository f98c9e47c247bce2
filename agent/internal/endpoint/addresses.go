package endpoint

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Says returns the addresses of a Node, as the Node and Calico's annotations on it say
// them: ParseAddress reads them.
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

// ParseAddress reads an address, or the address of a CIDR, and tells whether a node can
// have it. Calico takes no zones, and an unspecified address, one of loopback, or one of
// many receivers would be no address of this node.
func ParseAddress(text string) (addr netip.Addr, ok bool) {
	addr, ok = parseAddress(text)
	return addr, ok && !addr.IsLoopback() && !addr.IsMulticast()
}
