// Package failsafe narrows Felix's inbound failsafe ports for SSH to the networks
// of the administrators, and takes that back. It is pure: FelixConfigurations in,
// the change to one of them out.
//
// Felix lets the failsafe ports in before it asks any policy. So as long as
// tcp/22 is one of them, open to all, no policy can say who may connect to it.
package failsafe

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

const (
	// Annotation remembers, on a FelixConfiguration that we changed, what we wrote
	// and what was there before, so that nothing else is ever taken back.
	Annotation = "host-firewall.io/failsafe"

	// overrideAnnotation makes Felix ignore the field of the spec.
	overrideAnnotation = "config.projectcalico.org/FailsafeInboundHostPorts"
)

const (
	tcp  = "TCP"
	udp  = "UDP"
	sctp = "SCTP"
)

// Want is what should be narrowed to what.
type Want struct {
	// Ports are the TCP ports of SSH.
	Ports []uint16
	// CIDRs are the networks that they stay open to. Must not be empty.
	CIDRs []netip.Prefix
	// Node is the Node's UID. Kubernetes removes what we made for it, and nobody else
	// uses, with the Node.
	Node types.UID
	// Set is the set of policies that the node has.
	Set string
}

// Change is what to do to the FelixConfiguration of a node. At most one of its
// fields is set; none: it is as it should be.
type Change struct {
	// Create is the object to create.
	Create *Configuration
	// Patch is a JSON merge patch for the object that is there. It carries the
	// object's resourceVersion, so the API server refuses it with 409 when the object
	// is not the newest.
	Patch []byte
	// Delete tells to delete the object that is there, with its resourceVersion and
	// UID as preconditions: it holds nothing but what we wrote.
	Delete bool

	sent map[string]any // the spec as it is to be then
}

// None tells whether there is nothing to do.
func (c Change) None() bool { return c.Create == nil && c.Patch == nil && !c.Delete }

// record is the value of Annotation.
type record struct {
	// Release is the release whose agent wrote it.
	Release string `json:"release"`
	// Written is the list as we left it.
	Written []v3.ProtoPort `json:"written"`
	// Before is the list that the object had before, null when it had none.
	Before *[]v3.ProtoPort `json:"before"`
	// Created tells that there was no such object before.
	Created bool `json:"created,omitempty"`
	// Since is the set that the node had when it was first narrowed.
	Since string `json:"since,omitempty"`
	// Filled are the fields that nobody had set, and that the API server filled in.
	Filled map[string]filling `json:"filled,omitempty"`
}

// before returns the list that counts: where what is there is ours, what was there before.
func (r *record) before(current *[]v3.ProtoPort) *[]v3.ProtoPort {
	if r != nil && current != nil && same(*current, r.Written) {
		return r.Before
	}
	return current
}

// ForAll is the name of the FelixConfiguration for all nodes.
const ForAll = "default"

// Name returns the name of the FelixConfiguration of a node.
func Name(node string) string { return "node." + node }

// Builtin returns the inbound list that Felix has when nobody configures one.
func Builtin() []v3.ProtoPort {
	return []v3.ProtoPort{
		{Protocol: tcp, Port: 22},
		{Protocol: udp, Port: 68},
		{Protocol: tcp, Port: 179},
		{Protocol: tcp, Port: 2379},
		{Protocol: tcp, Port: 2380},
		{Protocol: tcp, Port: 5473},
		{Protocol: tcp, Port: 6443},
		{Protocol: tcp, Port: 6666},
		{Protocol: tcp, Port: 6667},
	}
}

// WrittenBy returns the release whose agent has changed the inbound list of a
// FelixConfiguration, or made the object; empty: none has.
func WrittenBy(configuration *Configuration) string {
	if r, _ := remembered(configuration); r != nil {
		return r.Release
	}
	return endpoint.ReleaseOf(configuration)
}

// NarrowedSince returns the set that the node had when its failsafe was first narrowed; empty:
// it is not, or nobody knows.
func NarrowedSince(configuration *Configuration) string {
	if r, _ := remembered(configuration); r != nil {
		return r.Since
	}
	return ""
}

// Plan returns the change that narrows the failsafe ports of a node as wanted, or
// with want nil the one that takes back what the release wrote before.
//
// own is the FelixConfiguration of the node and def the one that is called
// default, each nil where there is none. What is narrowed is the list that Felix
// would have without us: own's, else default's, else its built-in one. Every
// entry for a wanted port gives way to one entry for each network; the others
// stay, in their order. Where no entry is for a wanted port there is nothing to
// narrow, and nothing is written.
//
// filled is what the last write brought back besides what was sent, if that is not noted
// on own yet; see Change.Filled.
//
// An error means that what Felix would do with the list is not what it says.
func Plan(own, def *Configuration, node, release string, want *Want, filled map[string]any) (Change, error) {
	wrote, err := remembered(own)
	if err != nil {
		return Change{}, err
	}
	if wrote != nil && wrote.Release != release {
		if want == nil {
			return Change{}, nil
		}
		return Change{}, fmt.Errorf("FelixConfiguration %s is already narrowed by the release %q: a node is for one release only", own.Name, wrote.Release)
	}
	if want == nil && wrote == nil {
		return Change{}, nil
	}
	current, err := listOf(own)
	if err != nil {
		return Change{}, err
	}
	if want == nil {
		return takeBack(own, wrote, current)
	}
	if len(want.CIDRs) == 0 {
		return Change{}, errors.New("no network is given that SSH would stay open to")
	}
	before := wrote.before(current)
	list, err := effective(own, def, before)
	if err != nil {
		return Change{}, err
	}
	narrowed := narrow(list, *want)
	if same(list, narrowed) {
		return takeBack(own, wrote, current)
	}
	now := record{Release: release, Written: narrowed, Before: before, Created: own == nil || wrote != nil && wrote.Created, Since: want.Set}
	if wrote != nil {
		now.Since = wrote.Since
	}
	owner := endpoint.NodeOwner(node, want.Node)
	if own == nil {
		return create(node, now, owner), nil
	}
	next := endpoint.Plain(own)
	known := wrote.known(own, filled)
	now.Filled = pin(next, def, known)
	if current == nil || !same(*current, narrowed) {
		next.set(&narrowed)
	}
	next.OwnerReferences = othersOwners(own)
	if now.Created && holdsNothingElse(own, release, known) {
		next.OwnerReferences = append(next.OwnerReferences, owner)
	}
	if wrote == nil || !equal(*wrote, now) {
		next.Annotations[Annotation] = now.String()
	}
	return changeTo(own, next)
}

// create returns the change that makes the object, with nothing but the list.
func create(node string, now record, owner metav1.OwnerReference) Change {
	made := &Configuration{ObjectMeta: metav1.ObjectMeta{
		Name:            Name(node),
		Labels:          map[string]string{endpoint.ReleaseLabel: now.Release},
		Annotations:     map[string]string{Annotation: now.String()},
		OwnerReferences: []metav1.OwnerReference{owner},
	}}
	made.set(&now.Written)
	return Change{Create: made, sent: made.Spec}
}

// takeBack returns the change that undoes what we wrote, and only that: a list
// that somebody has edited since stays as it is.
func takeBack(own *Configuration, wrote *record, left *[]v3.ProtoPort) (Change, error) {
	if wrote == nil {
		return Change{}, nil
	}
	next := endpoint.Plain(own)
	if left != nil && same(*left, wrote.Written) {
		left = wrote.Before
		next.set(left)
	}
	if wrote.Created && left == nil && holdsNothingElse(own, wrote.Release, wrote.known(own, nil)) {
		return Change{Delete: true}, nil
	}
	delete(next.Annotations, Annotation)
	if wrote.Created {
		// From now on it is somebody else's.
		if next.Labels[endpoint.ReleaseLabel] == wrote.Release {
			delete(next.Labels, endpoint.ReleaseLabel)
		}
		next.OwnerReferences = othersOwners(own)
	}
	return changeTo(own, next)
}

// changeTo returns the change from an object as it is to as it should be.
func changeTo(own, next *Configuration) (Change, error) {
	patch, err := endpoint.MergePatch(own, next)
	return Change{Patch: patch, sent: next.Spec}, err
}

// effective returns the list that Felix would have without us, where before is
// what the node's own object says without us.
func effective(own, def *Configuration, before *[]v3.ProtoPort) ([]v3.ProtoPort, error) {
	source, list := own, before
	if overridden(own) {
		list = nil
	} else if list == nil {
		inherited, err := listOf(def)
		if err != nil {
			return nil, err
		}
		source, list = def, inherited
		if list == nil && !overridden(def) {
			return Builtin(), nil
		}
	}
	if overridden(source) {
		return nil, fmt.Errorf("the annotation %s of FelixConfiguration %s decides about failsafe ports, not its spec: write its list into spec.failsafeInboundHostPorts and remove the annotation", overrideAnnotation, source.Name)
	}
	for _, entry := range *list {
		if protocol(entry) == sctp {
			return nil, fmt.Errorf("the failsafe ports of FelixConfiguration %s hold SCTP, which Felix cannot read: remove that entry", source.Name)
		}
	}
	return *list, nil
}

// narrow returns the list with every entry for a wanted port replaced by one
// entry for each network.
func narrow(list []v3.ProtoPort, want Want) []v3.ProtoPort {
	var nets []string
	for _, cidr := range want.CIDRs {
		if net := cidr.Masked().String(); !slices.Contains(nets, net) {
			nets = append(nets, net)
		}
	}
	narrowed, done := []v3.ProtoPort{}, []uint16{}
	for _, entry := range list {
		switch {
		case protocol(entry) != tcp || !slices.Contains(want.Ports, entry.Port):
			narrowed = append(narrowed, entry)
		case !slices.Contains(done, entry.Port):
			done = append(done, entry.Port)
			for _, net := range nets {
				narrowed = append(narrowed, v3.ProtoPort{Protocol: tcp, Port: entry.Port, Net: net})
			}
		}
	}
	return narrowed
}

// protocol returns the protocol of an entry in capitals; none means TCP.
func protocol(entry v3.ProtoPort) string { return cmp.Or(strings.ToUpper(entry.Protocol), tcp) }

// same compares two lists by what Felix reads in them.
func same(a, b []v3.ProtoPort) bool {
	return slices.EqualFunc(a, b, func(a, b v3.ProtoPort) bool {
		return protocol(a) == protocol(b) && a.Port == b.Port && a.Net == b.Net
	})
}

// String is the value of Annotation. What is in a record can always be encoded.
func (r record) String() string {
	text, _ := json.Marshal(r)
	return string(text)
}

// remembered returns what we noted on an object, nil if nothing. A note that
// can't be read is an error, for guessing could take away what isn't ours.
func remembered(own *Configuration) (*record, error) {
	if own == nil {
		return nil, nil
	}
	text, there := endpoint.AnnotationsOf(own)[Annotation]
	if !there {
		return nil, nil
	}
	var r record
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Release == "" {
		return nil, fmt.Errorf("the annotation %s of FelixConfiguration %s cannot be read: put spec.failsafeInboundHostPorts right by hand and remove the annotation", Annotation, own.Name)
	}
	return &r, nil
}

func overridden(configuration *Configuration) bool {
	if configuration == nil {
		return false
	}
	_, there := endpoint.AnnotationsOf(configuration)[overrideAnnotation]
	return there
}

// othersOwners returns the owners of an object but for its Node.
func othersOwners(own *Configuration) []metav1.OwnerReference {
	return slices.DeleteFunc(endpoint.Plain(own).OwnerReferences, func(owner metav1.OwnerReference) bool {
		return owner.Kind == "Node" && Name(owner.Name) == own.Name
	})
}

// holdsNothingElse tells whether an object that we made has got nothing from
// others since.
func holdsNothingElse(own *Configuration, release string, known map[string]filling) bool {
	rest := endpoint.Plain(own)
	delete(rest.Annotations, Annotation)
	if rest.Labels[endpoint.ReleaseLabel] == release {
		delete(rest.Labels, endpoint.ReleaseLabel)
	}
	spec := fieldsOf(own)
	delete(spec, inbound)
	maps.DeleteFunc(spec, func(name string, value any) bool { return known[name].has(value) })
	return len(rest.Annotations)+len(rest.Labels)+len(rest.Finalizers)+len(othersOwners(own))+len(spec) == 0
}
