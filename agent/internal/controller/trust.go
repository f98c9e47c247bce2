package controller

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/trust"
)

const (
	// lagTakes is how long a set of addresses may lag behind before the Node counts as not
	// trusted: with each new endpoint, one does for a moment.
	lagTakes = time.Second
	// brokenFor is how long one that can't be written holds up others: what failed because
	// the API server was away has been tried again by then.
	brokenFor = 2 * retryMost
)

// lag is a set of addresses that is not as it should be.
type lag struct {
	subject string
	since   time.Time
	missing bool // there is none at all
}

// broken tells that it is not only late, but can't be written.
func (l lag) broken(f facts) bool {
	return f.failures[l.subject] != "" && !f.now.Before(l.since.Add(brokenFor))
}

// lags tells whether a set will be as it should be in a while. One that is broken holds up
// only its own Node, which is open or shut out already: else each Node that comes after it
// would stay open until somebody looks.
func (m *memory) lags(f facts) bool {
	for _, late := range m.late {
		if !late.broken(f) {
			return true
		}
	}
	return false
}

// keepTrust adds to the decision the changes that lead to the sets of addresses as they
// should be. In m.late are then the Nodes whose set is not so. others tells whether there
// are other sets of policies that nodes have or may go back to.
func (c Config) keepTrust(f facts, m *memory, others bool, d *decision) {
	var sets []*v3.GlobalNetworkSet
	// Without trust in Nodes there are no sets, but another set of policies may rely on them.
	if c.TrustNodes || others {
		var refused []trust.Refusal
		sets, refused = trust.Sets(c.Release, f.nodes, f.endpoints)
		m.refused = map[string][]string{}
		for _, r := range refused {
			m.refused[r.Node] = append(m.refused[r.Node], r.Address)
			d.notices = append(d.notices, notice{eventRefused, r.Node, m.nodes[r.Node].uid, r.Address + " of this Node is not trusted: " + r.Reason})
		}
	}
	have := make(map[string]*v3.GlobalNetworkSet, len(f.trusted))
	for _, set := range f.trusted {
		if strings.HasPrefix(set.Name, trust.Name(c.Release, "")) {
			have[set.Name] = set
		}
	}
	d.status.TrustSets = len(have)
	late := map[string]lag{}
	for _, set := range sets {
		node, is := set.OwnerReferences[0].Name, have[set.Name]
		delete(have, set.Name)
		if is != nil && same(is, set) {
			continue
		}
		d.writes = append(d.writes, writeOfSet(is, set))
		l := lag{subject: subjectOf(set), since: m.late[node].since, missing: is == nil}
		if l.since.IsZero() {
			l.since = f.now
		}
		if over := l.since.Add(brokenFor); f.now.Before(over) {
			d.at(over)
		}
		late[node] = l
	}
	if m.late = late; !c.TrustNodes {
		m.late = nil
	}
	for _, set := range have {
		d.writes = append(d.writes, write{subject: subjectOf(set), seen: set.ResourceVersion, object: set, gone: true})
	}
}

// untrusted says which Nodes would be shut out by a node that is armed now; empty: none. One
// that is not Ready has nothing to lose.
func (c Config) untrusted(f facts, m *memory, d *decision) string {
	var late []string
	for name, l := range m.late {
		over := l.since.Add(lagTakes)
		switch lags := !l.missing && f.now.Before(over); {
		case lags:
			d.at(over)
		case m.nodes[name].ready:
			late = append(late, name)
		}
	}
	if slices.Sort(late); len(late) > 0 {
		return "the addresses of some Nodes are not trusted yet: " + event.Some(late)
	}
	if strangers := trust.Uncovered(f.nodes, c.ClusterCIDRs); len(strangers) > 0 && !c.TrustNodes {
		return fmt.Sprintf("Ready nodes are not in cluster.cidrs and would be shut out: %s. List their networks there, or set cluster.trustNodes: true", event.Some(strangers))
	}
	return ""
}

// labelledAs tells whether a set has the labels of another. Labels and annotations of others
// may be on it, but not the annotation in which Calico keeps other metadata that win over
// these.
func labelledAs(is, should *v3.GlobalNetworkSet) bool {
	_, shadowed := is.Annotations[endpoint.MetadataAnnotation]
	for key, value := range should.Labels {
		shadowed = shadowed || is.Labels[key] != value
	}
	return !shadowed
}

// same tells whether a set is as it should be.
func same(is, should *v3.GlobalNetworkSet) bool {
	return labelledAs(is, should) && slices.Equal(is.Spec.Nets, should.Spec.Nets) &&
		slices.EqualFunc(is.OwnerReferences, should.OwnerReferences, func(a, b metav1.OwnerReference) bool {
			return a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name && a.UID == b.UID
		})
}

// writeOfSet is the change that makes a set as it should be. is may be nil.
func writeOfSet(is, should *v3.GlobalNetworkSet) write {
	metadata := map[string]any{
		"labels":          should.Labels,
		"annotations":     map[string]any{endpoint.MetadataAnnotation: nil},
		"ownerReferences": should.OwnerReferences,
	}
	w := write{subject: subjectOf(should), object: should}
	if is != nil {
		w.seen, metadata["resourceVersion"] = is.ResourceVersion, is.ResourceVersion
	}
	w.patch = encode(map[string]any{"metadata": metadata, "spec": map[string]any{"nets": should.Spec.Nets}})
	return w
}

func subjectOf(set *v3.GlobalNetworkSet) string { return "GlobalNetworkSet " + set.Name }

// encode returns a patch as it is sent. What patches hold can always be encoded.
func encode(patch map[string]any) []byte {
	text, _ := json.Marshal(patch)
	return text
}
