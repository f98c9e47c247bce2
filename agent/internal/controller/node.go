package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// node is what a pass has to know of a Node and the endpoints on it. With thousands of
// them that is found out again only when one of these objects has changed.
type node struct {
	version        string // of all of them
	uid            types.UID
	created, known time.Time // known is since when this controller knows the Node
	ready          bool
	newest         string         // version of an endpoint of the release
	has            bool           // one
	wants          bool           // the wanted set, says its agent
	carries        bool           // the wanted set, on all its endpoints
	armed          bool           // with any set
	leftovers      bool           // the release has endpoints there that are not called as the Node
	kubelet        netip.AddrPort // not valid: nobody knows
	trial          trial.Status
	note           endpoint.Note
	rivals         []string
	variants       []variant
	foreign        []string // policies of others that would select one of the variants
	held           bool
	object         *corev1.Node
	addresses      []netip.Addr // that the Node or an endpoint on it says
	peers          string       // who is connected to it, as its agent says
}

// variant are the labels that an endpoint of the node would have, unarmed and armed, and
// those of one that is taken over as it is now.
type variant struct {
	desired []map[string]string
	now     map[string]string
}

// lookAtNodes brings what is known of all Nodes up to date.
func (c Config) lookAtNodes(f facts, m *memory) {
	policies := make(map[types.UID]string, len(f.policies))
	for _, policy := range f.policies {
		policies[policy.UID] = policy.ResourceVersion
	}
	changed := !maps.Equal(policies, m.policies)
	if changed {
		m.policies = policies
		_, m.unreadable = policyset.Foreign(f.policies, c.Release, nil, c.AcceptPolicies)
	}
	on, before := byNode(f), m.nodes
	m.nodes = make(map[string]*node, len(f.nodes))
	for _, object := range f.nodes {
		version := string(object.UID) + object.ResourceVersion
		for _, hep := range on[object.Name] {
			version += " " + hep.Name + " " + hep.ResourceVersion
		}
		n := before[object.Name]
		stale := n == nil || n.version != version
		if stale {
			n = c.newNode(object, on[object.Name], before[object.Name], f.now)
			n.version = version
		}
		if stale || changed {
			n.foreign = c.foreign(f.policies, n.variants)
		}
		m.nodes[object.Name] = n
	}
}

// byNode returns all endpoints by their Nodes, in one order.
func byNode(f facts) map[string][]*v3.HostEndpoint {
	on := make(map[string][]*v3.HostEndpoint, len(f.nodes))
	for _, hep := range f.endpoints {
		on[hep.Spec.Node] = append(on[hep.Spec.Node], hep)
	}
	for _, heps := range on {
		slices.SortFunc(heps, func(a, b *v3.HostEndpoint) int { return strings.Compare(a.Name, b.Name) })
	}
	return on
}

// newNode finds out all but what policies of others would do.
func (c Config) newNode(object *corev1.Node, heps []*v3.HostEndpoint, before *node, now time.Time) *node {
	n := &node{object: object, uid: object.UID, created: object.CreationTimestamp.Time, known: now, carries: true, kubelet: endpoint.KubeletOf(object)}
	if before != nil && before.uid == n.uid {
		n.known = before.known
	}
	n.ready = slices.ContainsFunc(object.Status.Conditions, func(condition corev1.NodeCondition) bool {
		return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
	})
	plain := variant{}
	for _, set := range []string{"", c.Wanted.Revision} {
		hep, _ := c.Shape.Desired(object, endpoint.Interface{Name: endpoint.AllInterfaces}, nil, set)
		plain.desired = append(plain.desired, hep.Labels)
	}
	n.variants = []variant{plain}
	var trials []string
	for _, hep := range heps {
		v := variant{}
		switch release := endpoint.ReleaseOf(hep); {
		case release == c.Release:
			set := endpoint.SetOf(hep)
			if clearance.Newer(hep.ResourceVersion, n.newest) {
				n.newest = hep.ResourceVersion
			}
			trials = append(trials, endpoint.AnnotationsOf(hep)[trial.Annotation])
			n.has, n.armed = true, n.armed || set != ""
			n.leftovers = n.leftovers || hep.Name != object.Name
			n.note = endpoint.NoteOf(hep)
			n.peers = cmp.Or(n.peers, endpoint.AnnotationsOf(hep)[peers.Annotation])
			n.wants = n.wants || n.note.Wanted == c.Wanted.Revision
			n.carries = n.carries && set == c.Wanted.Revision
		case c.Adopt && release == "":
			v.now = endpoint.LabelsOf(hep)
		default:
			continue
		}
		for _, labels := range plain.desired {
			with := maps.Clone(endpoint.LabelsOf(hep))
			if with == nil {
				with = map[string]string{}
			}
			maps.Copy(with, labels)
			v.desired = append(v.desired, with)
		}
		n.variants = append(n.variants, v)
	}
	n.carries, n.trial = n.carries && n.has, trial.Parse(trials...)
	n.addresses = addressesOf(object, heps)
	n.rivals = policyset.Rivals(c.Release, object.Name, c.Interfaces, n.addresses, heps, c.Adopt)
	return n
}

// addressesOf returns the addresses that the Node or an endpoint on it says.
func addressesOf(object *corev1.Node, heps []*v3.HostEndpoint) (addresses []netip.Addr) {
	texts := endpoint.Says(object)
	for _, hep := range heps {
		texts = append(texts, hep.Spec.ExpectedIPs...)
	}
	for _, text := range texts {
		if addr, ok := endpoint.ParseAddress(text); ok {
			addresses = append(addresses, addr)
		}
	}
	return addresses
}

// foreign returns the policies of others that would begin to select an endpoint. Those
// that select what is taken over do so already.
func (c Config) foreign(policies []*policyset.Policy, variants []variant) (all []string) {
	for _, v := range variants {
		names, _ := policyset.Foreign(policies, c.Release, v.desired, c.AcceptPolicies)
		if v.now != nil {
			already, _ := policyset.Foreign(policies, c.Release, []map[string]string{v.now}, nil)
			names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(already, name) })
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// holds returns why the Node is held back, beside its rivals; empty: it is not.
func (c Config) holds(name string, n *node, f facts, m *memory) (reasons []string) {
	if len(n.foreign) > 0 {
		when := "would apply to this node as soon as it has an endpoint"
		if n.has {
			when = "apply to this node, or would as soon as it is armed"
		}
		reasons = append(reasons, fmt.Sprintf("GlobalNetworkPolicies of others %s: %s. Change their selectors, or list them in hostEndpoint.acceptPolicies", when, event.Some(n.foreign)))
	}
	if closed := f.apiServers.closed[name]; len(closed) > 0 && c.guardsAPIServers() {
		reasons = append(reasons, c.lost(closed))
	}
	if late := m.late[name]; late.broken(f) {
		reasons = append(reasons, "the addresses of this Node cannot be trusted: "+f.failures[late.subject])
	}
	return reasons
}
