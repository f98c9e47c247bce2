// Package endpoint says what the HostEndpoint of a node should be and which
// change leads there. It is pure: objects in, objects and patches out.
package endpoint

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

// ReleaseLabel names the release that an object belongs to.
const ReleaseLabel = ownPrefix + "release"

// SetLabel names the set of policies that an endpoint is armed with, and on a policy the
// set that it belongs to. The policies of a set select the release's endpoints whose label
// contains it: one that moves carries two, as Moving says.
const SetLabel = ownPrefix + "set"

// Before is the set of the policies that a release had before there were sets. The first
// upgrade from there gives them the label; agents of then write no set on an endpoint.
const Before = "before"

// and is between two sets, in which it can't be.
const and = "."

// ownPrefix is what all labels and annotations of host-firewall start with.
const ownPrefix = "host-firewall.io/"

// IsOwn tells whether a label or an annotation is one of host-firewall's.
func IsOwn(key string) bool { return strings.HasPrefix(key, ownPrefix) }

// AllInterfaces is Calico's name for an endpoint that covers every interface of
// its node, forwarded traffic included.
const AllInterfaces = "*"

// allowProfile is the profile of every endpoint. Where no policy applies Calico asks the
// profiles, and denies everything, both ways, on an endpoint that has none, or one that
// does not exist. This one Calico always has.
const allowProfile = "projectcalico-default-allow"

// NodeLabel tells, on an endpoint of a release, of which Node it is; see
// NodeLabelValue.
const NodeLabel = ownPrefix + "node"

// Shape is what the settings say about every endpoint of a release.
type Shape struct {
	// Release is the value of ReleaseLabel.
	Release string
	// Labels are what an armed endpoint carries as well, for policies of the user's own.
	Labels map[string]string
	// NodeLabels are the labels of the Node that the endpoint gets as well: keys,
	// or with a * at the end what keys start with.
	NodeLabels []string
}

// Owns tells whether an endpoint belongs to the release.
func (s Shape) Owns(hep *v3.HostEndpoint) bool {
	return effective(hep).labels[ReleaseLabel] == s.Release
}

// ReleaseOf returns the release that an object of Calico says it belongs to; empty: none.
func ReleaseOf(object metav1.Object) string { return effective(object).labels[ReleaseLabel] }

// LabelsOf returns the labels of an object of Calico as Felix reads them, which are not
// to be changed.
func LabelsOf(object metav1.Object) map[string]string { return effective(object).labels }

// AnnotationsOf returns the annotations of an object of Calico as LabelsOf its labels.
func AnnotationsOf(object metav1.Object) map[string]string { return effective(object).annotations }

// SetOf returns the set that an endpoint is armed with, or moves to; empty: it is not armed.
func SetOf(hep metav1.Object) string {
	set, _, _ := strings.Cut(effective(hep).labels[SetLabel], and)
	if set != "" {
		return set
	}
	if note := NoteOf(hep); note.Wanted == "" && note.State == "Armed" && len(note.Labels) > 0 {
		// An agent that knew no sets has armed it by those labels.
		return Before
	}
	return ""
}

// LeavesOf returns the set that an endpoint moves from; empty: it does not move.
func LeavesOf(hep metav1.Object) string {
	_, from, _ := strings.Cut(effective(hep).labels[SetLabel], and)
	return from
}

// Moving returns the value of SetLabel for an endpoint that goes from one set to another. For a
// moment both have to apply: Felix changes its tables one after the other, and where one set
// has its rules before DNAT and the other has them after it, neither would be in force
// between them. What both allow passes, and what both drop does not, whatever their orders.
func Moving(to, from string) string { return to + and + from }

// Carries tells whether labels of an endpoint arm it with a set. For Before they need none.
func Carries(labels map[string]string, set string) bool {
	return slices.Contains(strings.Split(cmp.Or(labels[SetLabel], Before), and), set)
}

// Desired returns the endpoint that the node should have for one of its
// interfaces, with everything that the agent owns and nothing else, and the
// addresses of the node that were left out because they are none. It is armed with the
// set, unless that is empty. The endpoint of all interfaces has the addresses of more
// beside those that the Node says.
func (s Shape) Desired(node *corev1.Node, iface Interface, more []netip.Addr, set string) (hep *v3.HostEndpoint, invalid []string) {
	labels := s.fromNode(node)
	labels[ReleaseLabel] = s.Release
	labels[NodeLabel] = NodeLabelValue(node.Name)
	if set != "" {
		maps.Copy(labels, s.Labels)
		labels[SetLabel] = set
	}
	var addresses []string
	if iface.Name == AllInterfaces {
		addresses, invalid = addressesOf(node, more)
	} else {
		addresses = texts(iface.Addresses)
	}
	return &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{
			Name:   Name(node.Name, iface.Name),
			Labels: labels,
			// Kubernetes then removes the endpoint with its Node, and with it the
			// trust in the node's addresses.
			OwnerReferences: []metav1.OwnerReference{NodeOwner(node.Name, node.UID)},
		},
		Spec: v3.HostEndpointSpec{
			Node:          node.Name,
			InterfaceName: iface.Name,
			ExpectedIPs:   addresses,
			Profiles:      []string{allowProfile},
		},
	}, invalid
}

// NodeOwner is what makes Kubernetes remove an object with its Node.
func NodeOwner(name string, uid types.UID) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: name, UID: uid}
}

// fromNode returns the labels of the Node that were asked for. What arms or owns
// an endpoint never comes from there: a kubelet may label its own Node.
func (s Shape) fromNode(node *corev1.Node) map[string]string {
	labels := map[string]string{}
	for key, value := range node.Labels {
		if _, ours := s.Labels[key]; ours || strings.HasPrefix(key, ownPrefix) {
			continue
		}
		if slices.ContainsFunc(s.NodeLabels, func(wanted string) bool {
			prefix, isPrefix := strings.CutSuffix(wanted, "*")
			return wanted == key || isPrefix && strings.HasPrefix(key, prefix)
		}) {
			labels[key] = value
		}
	}
	return labels
}

// Patch returns the JSON merge patch that leads from current to desired, or nil when
// nothing that the agent owns differs. What others wrote survives: labels, annotations,
// owner references and fields that desired does not speak of. A label that the agent once
// wrote, as current's note remembers, and that desired's note does not, goes, and so does what was told
// of peers.
func Patch(current, desired *v3.HostEndpoint) ([]byte, error) {
	next := Plain(current)
	delete(next.Labels, SetLabel)
	kept := NoteOf(desired).Labels
	for _, key := range NoteOf(current).Labels {
		if !slices.Contains(kept, key) {
			delete(next.Labels, key)
		}
	}
	maps.Copy(next.Labels, desired.Labels)
	delete(next.Annotations, peers.Annotation)
	maps.Copy(next.Annotations, desired.Annotations)
	for _, our := range desired.OwnerReferences {
		next.OwnerReferences = withOwner(next.OwnerReferences, our)
	}
	next.Spec.Node, next.Spec.InterfaceName = desired.Spec.Node, desired.Spec.InterfaceName
	next.Spec.ExpectedIPs, next.Spec.Profiles = desired.Spec.ExpectedIPs, desired.Spec.Profiles
	return MergePatch(current, next)
}

// Disarm returns the patch that takes the labels off by which policies select an armed endpoint:
// that of its set, and those of the settings, by which what was before there were sets
// selects whatever carries none. The note goes too, which tells of them.
func Disarm[T typed[T]](hep T) ([]byte, error) {
	next := Plain(hep)
	delete(next.GetLabels(), SetLabel)
	for _, key := range NoteOf(hep).Labels {
		delete(next.GetLabels(), key)
	}
	delete(next.GetAnnotations(), StateAnnotation)
	return MergePatch(hep, next)
}

// NodeLabelValue returns the value of NodeLabel for a Node: its name, or where
// that is no value of a label, a part of it and a hash.
func NodeLabelValue(node string) string {
	const most = 63
	if len(node) <= most {
		return node
	}
	return Shortened(node, most, node, 16)
}

// Shortened returns the beginning of a name and some digits of the hash of what it stands
// for, most characters at most.
func Shortened(name string, most int, of string, digits int) string {
	sum := sha256.Sum256([]byte(of))
	name = name[:min(len(name), most-digits-1)]
	return strings.TrimRight(name, "-.") + "-" + hex.EncodeToString(sum[:])[:digits]
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

// withOwner returns the owners of an endpoint with ours among them, the others untouched
// and in their order. A reference to our Node's name with another UID is stale: that Node is
// gone, and the name came back as a new one.
func withOwner(owners []metav1.OwnerReference, our metav1.OwnerReference) []metav1.OwnerReference {
	isOurs := func(ref metav1.OwnerReference) bool { return reflect.DeepEqual(ref, our) }
	owners = slices.DeleteFunc(owners, func(ref metav1.OwnerReference) bool {
		return ref.APIVersion == our.APIVersion && ref.Kind == our.Kind && ref.Name == our.Name && !isOurs(ref)
	})
	if !slices.ContainsFunc(owners, isOurs) {
		owners = append(owners, our)
	}
	return owners
}
