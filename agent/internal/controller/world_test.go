package controller

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
	"github.com/host-firewall/host-firewall/agent/internal/trust"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// start is when the controllers of these tests start, and the Nodes were made an hour before.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a cluster in which what is decided is so at once, and time passes when it is told.
type world struct {
	t *testing.T
	Config
	facts
	memory  memory
	last    decision
	version int
	mute    map[string]string // how kubelets don't answer, by node
	dialed  []string          // nodes, as they are dialed
}

// newWorld has these nodes, without endpoints, and set A complete.
func newWorld(t *testing.T, nodes ...string) *world {
	w := &world{t: t, mute: map[string]string{}, facts: facts{now: start, apiServers: apiServers{asked: start, answered: start}}}
	w.Config = Config{
		Release: "fw", Namespace: "ns", Wanted: setOf("A"), TrustNodes: true, Interfaces: []string{"*"},
		Shape: endpoint.Shape{Release: "fw", Labels: map[string]string{"host-endpoint": "ingress"}}, Resync: time.Hour, Started: start,
	}
	for i, name := range nodes {
		w.node(name, start.Add(time.Duration(i)*time.Second-time.Hour), fmt.Sprintf("192.0.2.%d", i+1))
	}
	w.install("A")
	return w
}

func (w *world) next() string {
	w.version++
	return strconv.Itoa(w.version)
}

// node makes a Ready Node with these addresses.
func (w *world) node(name string, created time.Time, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), ResourceVersion: w.next(), CreationTimestamp: metav1.NewTime(created)}}
	for _, address := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	w.nodes = append(w.nodes, n)
	return n
}

// setReady changes whether a Node is Ready.
func (w *world) setReady(name string, status corev1.ConditionStatus) {
	i := slices.IndexFunc(w.nodes, func(n *corev1.Node) bool { return n.Name == name })
	n := w.nodes[i].DeepCopy()
	n.ResourceVersion, n.Status.Conditions[0].Status = w.next(), status
	w.nodes[i] = n
}

// agent makes, or makes anew, the endpoint of a node as the agent of set wanted leaves it,
// armed with a set.
func (w *world) agent(node, wanted, armed string) *v3.HostEndpoint {
	i := slices.IndexFunc(w.nodes, func(n *corev1.Node) bool { return n.Name == node })
	hep, _ := w.Shape.Desired(w.nodes[i], endpoint.Interface{Name: "*"}, nil, armed)
	endpoint.SetNote(hep, nil, endpoint.Note{State: "Waiting", Since: w.now, Wanted: wanted})
	hep.ResourceVersion = w.next()
	w.facts.version = hep.ResourceVersion
	w.endpoints = slices.DeleteFunc(w.endpoints, func(h *v3.HostEndpoint) bool { return h.Name == node })
	w.endpoints = append(w.endpoints, hep)
	return hep
}

// tries makes the endpoint of a node as the agent of set s.Set leaves it with how far it is.
func (w *world) tries(node string, s trial.Status) {
	carried := s.Set
	if s.Phase == trial.RolledBack {
		carried = s.From
	}
	if hep := w.agent(node, s.Set, carried); s.Phase != "" {
		hep.Annotations[trial.Annotation] = s.Encode()
	}
}

// annotate is what a person does to the ConfigMap.
func (w *world) annotate(key, text string) {
	w.configMap = w.configMap.DeepCopy()
	w.configMap.Annotations = map[string]string{key: text}
	w.configMap.ResourceVersion = w.next()
}

// setOf is a set of two policies as a chart would have rendered it.
func setOf(revision string) clearance.Set {
	set := clearance.Set{Revision: revision, Policies: map[string]string{}}
	for _, purpose := range []string{"allow", "drop"} {
		set.Policies["fw-"+purpose+"-"+revision] = policyset.Digest(specOf(purpose, revision))
	}
	return set
}

// early is a set whose policies are asked before those of all others.
const early = "early"

func specOf(purpose, revision string) map[string]any {
	order := map[string]any{"allow": 10.0, "drop": 20.0}[purpose]
	if revision == early {
		order = 2.0
	}
	return map[string]any{"selector": fmt.Sprintf("host-firewall.io/release == 'fw' && host-firewall.io/set == '%s'", revision), "order": order}
}

// install writes all policies of a set.
func (w *world) install(revision string) {
	for _, purpose := range []string{"allow", "drop"} {
		w.policy("fw-"+purpose+"-"+revision, map[string]string{endpoint.ReleaseLabel: "fw", endpoint.SetLabel: revision}, specOf(purpose, revision))
	}
}

// policy writes a policy.
func (w *world) policy(name string, labels map[string]string, spec map[string]any) {
	w.remove(name)
	version := w.next()
	w.policies = append(w.policies, policyset.Of(metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: version, Labels: labels}, spec))
}

// remove deletes a policy.
func (w *world) remove(name string) {
	w.policies = slices.DeleteFunc(slices.Clone(w.policies), func(p *policyset.Policy) bool { return p.Name == name })
}

// ofNodes are the network sets of Nodes.
func (w *world) ofNodes() (sets []*v3.GlobalNetworkSet) {
	for _, set := range w.trusted {
		if set.Labels[trust.Label] == trust.OfNode {
			sets = append(sets, set)
		}
	}
	return sets
}

// restart puts another controller in the place of this one.
func (w *world) restart(set string) {
	w.Config.Wanted, w.Config.Started, w.memory = setOf(set), w.now, memory{}
}

// upgrade has each of these sets wanted for a minute, one after the other, and no agent that is replaced.
func (w *world) upgrade(sets ...string) {
	for _, set := range sets {
		w.install(set)
		w.restart(set)
		w.after(time.Minute)
	}
}

// after lets time pass, and the controller look at the beginning, and then when it wants to.
func (w *world) after(d time.Duration) clearance.Clearance {
	w.t.Helper()
	for until := w.now.Add(d); ; {
		said := w.look()
		next := w.last.again
		if len(w.answers) > 0 {
			// They wake the controller.
			next = w.now.Add(dialFor)
		}
		if next.IsZero() || next.After(until) {
			w.now = until
			return said
		}
		require.True(w.t, next.After(w.now), "the controller does not look again and again at the same moment")
		w.now = next
	}
}

// look makes passes until nothing is left to be written, and returns what the ConfigMap says
// then.
func (w *world) look() clearance.Clearance {
	w.t.Helper()
	for range 5 {
		if asks, _ := w.memory.looksAround(w.facts); asks {
			w.around.asked = w.now
		}
		w.last = w.decide(w.facts, &w.memory)
		w.answers = nil
		for _, one := range w.last.dials {
			w.dialed = append(w.dialed, one.node)
			w.answers = append(w.answers, answer{dial: one, problem: w.mute[one.node]})
		}
		due := slices.DeleteFunc(slices.Clone(w.last.writes), func(one write) bool { return w.failures[one.subject] != "" })
		for _, one := range due {
			w.apply(one)
		}
		if len(due) == 0 {
			return w.said()
		}
	}
	require.Fail(w.t, "the controller never has enough")
	return clearance.Clearance{}
}

func (w *world) said() clearance.Clearance {
	if w.configMap == nil {
		return clearance.Clearance{}
	}
	said, err := clearance.Parse(w.configMap.Data, w.configMap.Annotations)
	require.NoError(w.t, err)
	return said
}

// apply does what an API server does.
func (w *world) apply(one write) {
	w.t.Helper()
	switch object := one.object.(type) {
	case *policyset.Policy:
		w.remove(object.Name)
	case *witness.Policy:
		w.policy(object.Name, object.Labels, object.Spec)
	case *v3.GlobalNetworkSet:
		w.trusted = slices.DeleteFunc(slices.Clone(w.trusted), func(s *v3.GlobalNetworkSet) bool { return s.Name == object.Name })
		if !one.gone {
			set := object.DeepCopy()
			set.ResourceVersion = w.next()
			w.trusted = append(w.trusted, set)
		}
	case *corev1.ConfigMap:
		stored := object.DeepCopy()
		if w.configMap != nil {
			assert.Equal(w.t, w.configMap.ResourceVersion, one.seen)
			stored.Annotations = w.configMap.Annotations
		}
		stored.ResourceVersion = w.next()
		w.configMap = stored
	}
}
