// Package endpoint says what the HostEndpoint of a node should be and which
// change leads there. It is pure: objects in, objects and patches out.
package endpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReleaseLabel names the release that an object belongs to. The policies
// select by it, and rules trust the addresses of every endpoint that carries it.
const ReleaseLabel = "host-firewall.io/release"

// allInterfaces is Calico's name for an endpoint that covers every interface
// of its node, forwarded traffic included.
const allInterfaces = "*"

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

// Shape is what the settings say about every endpoint of a release.
type Shape struct {
	// Release is the value of ReleaseLabel.
	Release string
	// ArmingLabels are the labels that the policies select. An endpoint that
	// carries all of them is armed. Must not be empty.
	ArmingLabels map[string]string
	// Profiles are the Calico profiles of the endpoint, in their order. Must not
	// be empty: an endpoint with neither profile nor policy drops everything.
	Profiles []string
}

// Owns tells whether an endpoint belongs to the release.
func (s Shape) Owns(hep *v3.HostEndpoint) bool {
	return effective(hep).labels[ReleaseLabel] == s.Release
}

// Unclaimed tells whether an endpoint says of no release that it is its own.
func Unclaimed(hep *v3.HostEndpoint) bool {
	return effective(hep).labels[ReleaseLabel] == ""
}

// Armed tells whether the policies of the release select an endpoint that the
// release owns.
func (s Shape) Armed(hep *v3.HostEndpoint) bool {
	labels := effective(hep).labels
	for key, value := range s.ArmingLabels {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// Desired returns the endpoint that the node should have for all its
// interfaces, with everything that the agent owns and nothing else, and the
// addresses of the node that were left out because they are none.
func (s Shape) Desired(node *corev1.Node, armed bool) (hep *v3.HostEndpoint, invalid []string) {
	labels := map[string]string{ReleaseLabel: s.Release}
	if armed {
		maps.Copy(labels, s.ArmingLabels)
	}
	addresses, invalid := addressesOf(node)
	return &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{
			Name:   node.Name,
			Labels: labels,
			// Kubernetes then removes the endpoint with its Node, and with it the
			// trust in the node's addresses; the agent needs no right to delete.
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1",
				Kind:       "Node",
				Name:       node.Name,
				UID:        node.UID,
			}},
		},
		Spec: v3.HostEndpointSpec{
			Node:          node.Name,
			InterfaceName: allInterfaces,
			ExpectedIPs:   addresses,
			Profiles:      slices.Clone(s.Profiles),
		},
	}, invalid
}

// Patch returns the JSON merge patch (RFC 7386) that leads from current to
// desired, or nil when nothing that the agent owns differs. What others wrote
// survives: labels, annotations, owner references and fields that desired does
// not speak of. The patch carries current's resourceVersion, so that the API
// server refuses it with 409 when current is not the newest.
func (s Shape) Patch(current, desired *v3.HostEndpoint) ([]byte, error) {
	seen := effective(current)

	labels := maps.Clone(seen.labels)
	for key := range s.ArmingLabels {
		delete(labels, key)
	}
	maps.Copy(labels, desired.Labels)

	metadata := map[string]any{}
	if diff := difference(current.Labels, labels); len(diff) > 0 {
		metadata["labels"] = diff
	}
	if diff := difference(current.Annotations, seen.annotations); len(diff) > 0 {
		metadata["annotations"] = diff
	}
	// A merge patch replaces a list as a whole.
	owners := mergeOwners(seen.owners, desired.OwnerReferences)
	if !slices.EqualFunc(current.OwnerReferences, owners, sameOwner) {
		metadata["ownerReferences"] = owners
	}

	spec := map[string]any{}
	if current.Spec.Node != desired.Spec.Node {
		spec["node"] = desired.Spec.Node
	}
	if current.Spec.InterfaceName != desired.Spec.InterfaceName {
		spec["interfaceName"] = desired.Spec.InterfaceName
	}
	if !slices.Equal(current.Spec.ExpectedIPs, desired.Spec.ExpectedIPs) {
		spec["expectedIPs"] = desired.Spec.ExpectedIPs
	}
	if !slices.Equal(current.Spec.Profiles, desired.Spec.Profiles) {
		spec["profiles"] = desired.Spec.Profiles
	}

	if len(metadata) == 0 && len(spec) == 0 {
		return nil, nil
	}
	metadata["resourceVersion"] = current.ResourceVersion
	patch := map[string]any{"metadata": metadata}
	if len(spec) > 0 {
		patch["spec"] = spec
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("encode patch of HostEndpoint %s: %w", current.Name, err)
	}
	return body, nil
}

// Owner says in a few words whose an endpoint is that the release does not own.
func Owner(hep *v3.HostEndpoint) string {
	labels := effective(hep).labels
	if release := labels[ReleaseLabel]; release != "" {
		return fmt.Sprintf("of the host-firewall release %q", release)
	}
	for _, key := range []string{"projectcalico.org/created-by", "app.kubernetes.io/managed-by"} {
		if by := labels[key]; by != "" {
			return fmt.Sprintf("of %q (its label %s)", by, key)
		}
	}
	return fmt.Sprintf("of somebody else (it has no label %s)", ReleaseLabel)
}

// addressesOf returns the addresses by which rules know the node: each once,
// sorted, so that a Node which lists them in another order is no difference.
func addressesOf(node *corev1.Node) (addresses, invalid []string) {
	var found []netip.Addr
	add := func(text string) {
		addr, ok := parseAddress(text)
		if !ok {
			invalid = append(invalid, text)
			return
		}
		found = append(found, addr)
	}
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP || address.Type == corev1.NodeExternalIP {
			add(address.Address)
		}
	}
	for _, key := range addressAnnotations() {
		if text := node.Annotations[key]; text != "" {
			add(text)
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	for _, addr := range slices.Compact(found) {
		addresses = append(addresses, addr.String())
	}
	return addresses, invalid
}

// parseAddress reads an address, or the address of a CIDR. Calico takes no
// zones, and an unspecified address would be no address of this node.
func parseAddress(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = prefix.Addr()
	}
	addr = addr.Unmap()
	return addr, addr.Zone() == "" && !addr.IsUnspecified()
}

// mergeOwners returns the owners of an endpoint with our one among them, the
// others untouched and in their order. A reference to our Node's name with
// another UID is stale: that Node is gone, and the name came back as a new one.
func mergeOwners(current, ours []metav1.OwnerReference) []metav1.OwnerReference {
	var merged []metav1.OwnerReference
	for _, ref := range current {
		rival := slices.ContainsFunc(ours, func(our metav1.OwnerReference) bool {
			return ref.APIVersion == our.APIVersion && ref.Kind == our.Kind && ref.Name == our.Name && !sameOwner(ref, our)
		})
		if !rival {
			merged = append(merged, ref)
		}
	}
	for _, our := range ours {
		if !slices.ContainsFunc(merged, func(ref metav1.OwnerReference) bool { return sameOwner(ref, our) }) {
			merged = append(merged, our)
		}
	}
	return merged
}

// sameOwner compares two owner references in every field.
func sameOwner(a, b metav1.OwnerReference) bool {
	same := func(a, b *bool) bool { return a == b || a != nil && b != nil && *a == *b }
	return a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name && a.UID == b.UID &&
		same(a.Controller, b.Controller) && same(a.BlockOwnerDeletion, b.BlockOwnerDeletion)
}

// difference returns the merge patch between two maps: null removes a key.
func difference(current, desired map[string]string) map[string]any {
	diff := map[string]any{}
	for key, value := range desired {
		if got, ok := current[key]; !ok || got != value {
			diff[key] = value
		}
	}
	for key := range current {
		if _, ok := desired[key]; !ok {
			diff[key] = nil
		}
	}
	return diff
}
