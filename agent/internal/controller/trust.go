package controller

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/trust"
)

// lagTakes is how long a set of addresses may lag behind before the Node counts as not
// trusted: with each new endpoint, one does for a moment.
const lagTakes = time.Second

// keepTrust adds to the decision the changes that lead to the sets of addresses as they
// should be. In m.late are then the Nodes whose set is not so, since when; zero: it is
// missing.
func (c Config) keepTrust(f facts, m *memory, carried map[string]int, d *decision) {
	var sets []*v3.GlobalNetworkSet
	// Without trust in Nodes there are no sets, but a node that is still armed with another
	// set of policies may rely on them.
	if c.TrustNodes || len(carried) > 1 || len(carried) == 1 && carried[c.Wanted.Revision] == 0 {
		var refused []trust.Refusal
		sets, refused = trust.Sets(c.Release, f.nodes, f.endpoints)
		for _, r := range refused {
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
	late := map[string]time.Time{}
	for _, set := range sets {
		node, is := set.OwnerReferences[0].Name, have[set.Name]
		delete(have, set.Name)
		if is != nil && same(is, set) {
			continue
		}
		d.writes = append(d.writes, writeOfSet(is, set))
		switch since := m.late[node]; {
		case is == nil:
			late[node] = time.Time{}
		case since.IsZero():
			late[node] = f.now
		default:
			late[node] = since
		}
	}
	if m.late = late; !c.TrustNodes {
		m.late = nil
	}
	for _, set := range have {
		d.writes = append(d.writes, write{subject: subjectOf(set), seen: set.ResourceVersion, object: set, gone: true})
	}
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
