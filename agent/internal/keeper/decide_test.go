package keeper

import (
	"errors"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

func testConfig() Config {
	return Config{
		Node:         "n1",
		Release:      "fw",
		ArmingLabels: map[string]string{"host-endpoint": "ingress"},
		Policies:     []string{"fw-drop", "fw-ssh"},
		Revision:     "r2",
		AwaitNodes:   true,
		Resync:       10 * time.Minute,
	}
}

func testNode(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: "node-uid"},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func testEndpoint(armed bool) *v3.HostEndpoint {
	hep, _ := testConfig().shape().Desired(testNode("n1"), endpoint.Interface{Name: "*"}, armed)
	hep.ResourceVersion = "1"
	hep.UID = "hep-uid"
	state, reason := Waiting, "as it was left"
	if armed {
		state, reason = Armed, "2 policies at revision r2"
	}
	endpoint.SetNote(hep, nil, endpoint.Note{State: string(state), Reason: reason, Since: time.Unix(500, 0)}, false)
	return hep
}

// foreignPolicy is a policy that is not the release's.
func foreignPolicy(name, selector string) *v3.GlobalNetworkPolicy {
	return &v3.GlobalNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v3.GlobalNetworkPolicySpec{Selector: selector},
	}
}

func testPolicies(revision string, names ...string) []*v3.GlobalNetworkPolicy {
	var policies []*v3.GlobalNetworkPolicy
	for _, name := range names {
		policies = append(policies, &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{"host-firewall.io/release": "fw"},
			Annotations: map[string]string{"host-firewall.io/revision": revision},
		}})
	}
	return policies
}

func TestDecide(t *testing.T) {
	now := time.Unix(1000, 0)
	long := now.Add(-time.Hour)
	complete := testPolicies("r2", "fw-drop", "fw-ssh")
	const nothing, unarmed, armed = "nothing", "unarmed", "armed"
	foreign := testEndpoint(true)
	foreign.Labels["host-firewall.io/release"] = "other"
	renounced := testEndpoint(true)
	delete(renounced.Labels, "host-firewall.io/release")
	known := map[string]types.UID{"n1": "hep-uid"}
	auto := testEndpoint(false)
	auto.Name, auto.Labels = "n1-auto-hep", map[string]string{"projectcalico.org/created-by": "calico-kube-controllers"}
	other := foreign.DeepCopy()
	other.Name, other.Spec.InterfaceName = "n1-eth0", "eth0"
	alone := rivals{question: question{asked: true}}
	among := func(heps ...*v3.HostEndpoint) rivals {
		return rivals{question: question{asked: true, next: now.Add(2 * time.Second)}, here: heps}
	}
	answered := question{asked: true, next: now.Add(2 * time.Second)}

	for name, test := range map[string]struct {
		config    func(*Config)
		facts     facts
		hep       *v3.HostEndpoint // the one with the name of the node
		memory    memory
		state     State
		ready     bool
		reason    string
		desired   string
		again     time.Duration
		askPeers  bool
		askRivals bool
		blockers  []string
		after     memory
	}{
		"caches are not complete": {
			facts:   facts{problem: "reading Node n1"},
			memory:  memory{completeSince: long, armed: true},
			state:   Waiting,
			reason:  "reading Node n1",
			desired: nothing,
			after:   memory{completeSince: long, armed: true},
		},
		"Node is not there": {
			hep:     testEndpoint(true),
			facts:   facts{policies: complete},
			state:   Waiting,
			reason:  "Node n1 is not in the cluster",
			desired: nothing,
		},
		"endpoint is somebody else's": {
			hep:     foreign,
			facts:   facts{node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: long, armed: true},
			state:   Conflict,
			reason:  `of the host-firewall release "other"`,
			desired: nothing,
			after:   memory{completeSince: long, armed: true},
		},
		"endpoint of ours has lost the label that says so": {
			hep:     renounced,
			facts:   facts{now: now, node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: long, armed: true, ours: known},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long, armed: true, ours: known},
		},
		"endpoint without that label was never ours": {
			hep:     renounced,
			facts:   facts{now: now, node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: long, armed: true, ours: map[string]types.UID{"n1": "other-uid"}},
			state:   Conflict,
			reason:  "of somebody else",
			desired: nothing,
			after:   memory{completeSince: long, armed: true, ours: map[string]types.UID{"n1": "other-uid"}},
		},
		"endpoint of ours was claimed by another release": {
			hep:     foreign,
			facts:   facts{now: now, node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: long, armed: true, ours: known},
			state:   Conflict,
			reason:  `of the host-firewall release "other"`,
			desired: nothing,
			after:   memory{completeSince: long, armed: true, ours: known},
		},
		"no policies, no endpoint": {
			facts:   facts{node: testNode("n1")},
			state:   Waiting,
			reason:  "GlobalNetworkPolicies are missing: fw-drop, fw-ssh",
			desired: unarmed,
		},
		"one policy is missing": {
			hep:     testEndpoint(false),
			facts:   facts{node: testNode("n1"), policies: complete[:1]},
			state:   Waiting,
			reason:  "missing: fw-ssh",
			desired: unarmed,
		},
		"policies are of another revision": {
			hep:     testEndpoint(false),
			facts:   facts{node: testNode("n1"), policies: testPolicies("r1", "fw-drop", "fw-ssh")},
			state:   Waiting,
			reason:  `not at revision "r2"`,
			desired: unarmed,
		},
		"policies have just come": {
			hep:     testEndpoint(false),
			facts:   facts{node: testNode("n1"), policies: complete},
			state:   Waiting,
			reason:  "Felix gets a moment",
			desired: unarmed,
			again:   settle,
			after:   memory{completeSince: now},
		},
		"policies have been there almost long enough": {
			hep:     testEndpoint(false),
			facts:   facts{node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: now.Add(-settle + 1)},
			state:   Waiting,
			reason:  "Felix gets a moment",
			desired: unarmed,
			again:   1,
			after:   memory{completeSince: now.Add(-settle + 1)},
		},
		"the first endpoint comes before the question who would be shut out": {
			facts:   facts{node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: long},
			state:   Waiting,
			reason:  "endpoint has to be there",
			desired: unarmed,
			after:   memory{completeSince: long},
		},
		"the question is due": {
			hep:      testEndpoint(false),
			facts:    facts{node: testNode("n1"), policies: complete},
			memory:   memory{completeSince: long},
			state:    Waiting,
			reason:   "asking for nodes",
			desired:  unarmed,
			again:    1, // at once: 0 would be never
			askPeers: true,
			after:    memory{completeSince: long},
		},
		"the question is due again when its answer is looked at": {
			hep: testEndpoint(false),
			facts: facts{node: testNode("n1"), policies: complete,
				peers: peers{question: question{asked: true, next: now.Add(-time.Millisecond)}}},
			memory:   memory{completeSince: long},
			state:    Waiting,
			reason:   "no node is armed yet",
			desired:  unarmed,
			again:    1,
			askPeers: true,
			after:    memory{completeSince: long},
		},
		"the question has no answer": {
			hep: testEndpoint(false),
			facts: facts{node: testNode("n1"), policies: complete,
				peers: peers{question: question{asked: true, err: errors.New("list Nodes: forbidden"), next: now.Add(2 * time.Second)}}},
			memory:   memory{completeSince: long},
			state:    Waiting,
			reason:   "list Nodes: forbidden",
			desired:  unarmed,
			again:    2 * time.Second,
			askPeers: true,
			after:    memory{completeSince: long},
		},
		"nodes would be shut out": {
			hep: testEndpoint(false),
			facts: facts{node: testNode("n1"), policies: complete,
				peers: peers{question: answered, looked: true, strangers: []string{"a", "b"}}},
			memory:   memory{completeSince: long},
			state:    Waiting,
			reason:   "would be shut out: a, b. Start an agent there, list their addresses in cluster.cidrs, or set cluster.trustNodes: false",
			desired:  unarmed,
			again:    2 * time.Second,
			askPeers: true,
			after:    memory{completeSince: long},
		},
		"nobody is armed, and it is not this agent's turn to look": {
			hep: testEndpoint(false),
			facts: facts{node: testNode("n1"), policies: complete,
				peers: peers{question: answered}},
			memory:   memory{completeSince: long},
			state:    Waiting,
			reason:   "no node is armed yet, waiting until one of the agents has looked at all Nodes",
			desired:  unarmed,
			again:    2 * time.Second,
			askPeers: true,
			after:    memory{completeSince: long},
		},
		"another node is armed: who has no endpoint is shut out there already": {
			hep: testEndpoint(false),
			facts: facts{node: testNode("n1"), policies: complete,
				peers: peers{question: answered, armed: true, looked: true, strangers: []string{"a"}}},
			memory:  memory{completeSince: long},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long},
		},
		"another node is armed, but a policy is missing": {
			hep: testEndpoint(false),
			facts: facts{node: testNode("n1"), policies: complete[:1],
				peers: peers{question: answered, armed: true}},
			memory:  memory{completeSince: long},
			state:   Waiting,
			reason:  "missing: fw-ssh",
			desired: unarmed,
		},
		"another node is armed, but the endpoint is not there yet": {
			facts: facts{node: testNode("n1"), policies: complete,
				peers: peers{question: answered, armed: true}},
			memory:  memory{completeSince: long},
			state:   Waiting,
			reason:  "endpoint has to be there",
			desired: unarmed,
			after:   memory{completeSince: long},
		},
		"no node would be shut out": {
			hep: testEndpoint(false),
			facts: facts{node: testNode("n1"), policies: complete,
				peers: peers{question: question{asked: true}, looked: true}},
			memory:  memory{completeSince: long},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long},
		},
		"armed": {
			hep:     testEndpoint(true),
			facts:   facts{node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long, armed: true},
		},
		"armed by an agent before this one": {
			hep:     testEndpoint(true),
			facts:   facts{node: testNode("n1"), policies: complete},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: now.Add(-settle), armed: true},
		},
		"a policy is lost": {
			hep:     testEndpoint(true),
			facts:   facts{node: testNode("n1"), policies: complete[:1]},
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			reason:  "stays armed, but GlobalNetworkPolicies are missing: fw-ssh",
			desired: armed,
			after:   memory{armed: true},
		},
		"deleted, policies there": {
			facts:   facts{node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long, armed: true},
		},
		"deleted, a policy lost": {
			facts:   facts{node: testNode("n1"), policies: complete[:1]},
			memory:  memory{completeSince: long, armed: true},
			state:   Waiting,
			reason:  "missing: fw-ssh",
			desired: unarmed,
			after:   memory{armed: true},
		},
		"deleted, a policy lost and just back": {
			hep:     testEndpoint(false),
			facts:   facts{node: testNode("n1"), policies: complete},
			memory:  memory{armed: true},
			state:   Waiting,
			reason:  "Felix gets a moment",
			desired: unarmed,
			again:   settle,
			after:   memory{completeSince: now, armed: true},
		},
		"arming label taken off": {
			hep:     testEndpoint(false),
			facts:   facts{node: testNode("n1"), policies: complete},
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long, armed: true},
		},
		"others' endpoints are not known, and there is none of ours": {
			facts:   facts{node: testNode("n1"), policies: complete, rivals: rivals{}},
			memory:  memory{completeSince: long},
			state:   Waiting,
			reason:  "asking for endpoints of others",
			desired: nothing, askRivals: true,
			after: memory{completeSince: long},
		},
		"others' endpoints cannot be known": {
			facts:   facts{node: testNode("n1"), policies: complete, rivals: rivals{question: question{asked: true, err: errors.New("forbidden"), next: now.Add(time.Second)}}},
			memory:  memory{completeSince: long},
			state:   Waiting,
			reason:  "cannot tell whose endpoints the node has: forbidden",
			desired: nothing, askRivals: true, again: time.Second,
			after: memory{completeSince: long},
		},
		"Calico's automatic endpoint is there first": {
			facts:   facts{node: testNode("n1"), policies: complete, rivals: among(auto)},
			memory:  memory{completeSince: long},
			state:   Conflict,
			reason:  `HostEndpoint n1-auto-hep of this node (interface "*") is of "calico-kube-controllers"`,
			desired: nothing, askRivals: true, again: 2 * time.Second,
			after: memory{completeSince: long},
		},
		"another release is on the node, by another interface": {
			facts:   facts{node: testNode("n1"), policies: complete, rivals: among(other)},
			memory:  memory{completeSince: long},
			state:   Conflict,
			reason:  `is of the host-firewall release "other": uninstall one of the two`,
			desired: nothing, askRivals: true, again: 2 * time.Second,
			after: memory{completeSince: long},
		},
		"somebody's endpoint of another interface is no conflict": {
			facts: facts{node: testNode("n1"), policies: complete, rivals: among(func() *v3.HostEndpoint {
				theirs := auto.DeepCopy()
				theirs.Spec.InterfaceName = "eth0"
				return theirs
			}())},
			hep:     testEndpoint(true),
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			ready:   true,
			desired: armed,
			after:   memory{completeSince: long, armed: true, ours: known},
		},
		"a rival comes when the node is armed": {
			facts:   facts{node: testNode("n1"), policies: complete, rivals: among(auto)},
			hep:     testEndpoint(true),
			memory:  memory{completeSince: long, armed: true, ours: known},
			state:   Conflict,
			reason:  "stays armed, but HostEndpoint n1-auto-hep",
			desired: armed, askRivals: true, again: 2 * time.Second,
			after: memory{completeSince: long, armed: true, ours: known},
		},
		"a rival comes when the node is not armed yet": {
			facts:   facts{node: testNode("n1"), policies: complete, rivals: among(auto), peers: peers{question: answered, looked: true}},
			hep:     testEndpoint(false),
			memory:  memory{completeSince: long},
			state:   Conflict,
			desired: unarmed, askRivals: true, again: 2 * time.Second,
			after: memory{completeSince: long, ours: known},
		},
		"policies of others are not known": {
			facts:   facts{node: testNode("n1"), rivals: alone, foreign: others{problem: "cannot list"}},
			state:   Waiting,
			reason:  "policies of others are not known: cannot list",
			desired: nothing,
		},
		"a policy of others would select the endpoint": {
			facts: facts{node: testNode("n1"), rivals: alone, foreign: others{policies: []*v3.GlobalNetworkPolicy{
				foreignPolicy("deny-all", "all()"), foreignPolicy("web", "app == 'web'"), foreignPolicy("armed", "host-endpoint == 'ingress'"),
			}}},
			state:    Waiting,
			reason:   "as soon as it has an endpoint: armed, deny-all. Change their selectors, or list them in hostEndpoint.acceptPolicies",
			desired:  nothing,
			blockers: []string{"armed", "deny-all"},
		},
		"a policy of others is accepted": {
			config: func(c *Config) { c.AcceptPolicies = []string{"deny-all"} },
			facts: facts{node: testNode("n1"), rivals: alone, foreign: others{policies: []*v3.GlobalNetworkPolicy{
				foreignPolicy("deny-all", "all()"),
			}}},
			state:   Waiting,
			reason:  "missing",
			desired: unarmed,
		},
		"a policy of others comes when ours is there": {
			facts: facts{node: testNode("n1"), policies: complete, foreign: others{policies: []*v3.GlobalNetworkPolicy{
				foreignPolicy("deny-all", "all()"),
			}}},
			hep:     testEndpoint(true),
			state:   Armed,
			ready:   true,
			desired: armed,
			after:   memory{completeSince: now.Add(-settle), armed: true, ours: known},
		},
		"somebody else's endpoint is adopted": {
			config:  func(c *Config) { c.Adopt = true },
			facts:   facts{node: testNode("n1"), policies: complete, rivals: alone},
			hep:     renounced,
			memory:  memory{completeSince: long},
			state:   Waiting,
			reason:  "before it is armed",
			desired: unarmed,
			after:   memory{completeSince: long},
		},
		"another release's endpoint is not adopted": {
			config:  func(c *Config) { c.Adopt = true },
			facts:   facts{node: testNode("n1"), policies: complete, rivals: alone},
			hep:     foreign,
			memory:  memory{completeSince: long},
			state:   Conflict,
			desired: nothing,
			after:   memory{completeSince: long},
		},
		"what already applies to an adopted endpoint is no obstacle": {
			config: func(c *Config) { c.Adopt = true },
			facts: facts{node: testNode("n1"), rivals: alone, foreign: others{policies: []*v3.GlobalNetworkPolicy{
				foreignPolicy("deny-all", "all()"),
			}}},
			hep:     renounced,
			state:   Waiting,
			reason:  "missing",
			desired: unarmed,
		},
		"the datastore is not ready": {
			facts:   facts{node: testNode("n1"), policies: complete, paused: true},
			hep:     testEndpoint(false),
			memory:  memory{completeSince: long, armed: true},
			state:   Waiting,
			reason:  "ClusterInformation",
			desired: nothing,
			after:   memory{completeSince: long, armed: true, ours: known},
		},
		"the datastore is not ready and the node is armed": {
			facts:   facts{node: testNode("n1"), policies: complete, paused: true},
			hep:     testEndpoint(true),
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			reason:  "ClusterInformation",
			desired: nothing,
			after:   memory{completeSince: long, armed: true, ours: known},
		},
		"off": {
			config:  func(c *Config) { c.Off = true },
			facts:   facts{node: testNode("n1"), policies: complete},
			hep:     testEndpoint(true),
			memory:  memory{completeSince: long, armed: true},
			state:   Off,
			ready:   true,
			reason:  "mode is off",
			desired: unarmed,
			after:   memory{completeSince: long, armed: true, ours: known},
		},
		"audit": {
			config:  func(c *Config) { c.Audit = true },
			facts:   facts{node: testNode("n1"), policies: complete},
			hep:     testEndpoint(true),
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			ready:   true,
			reason:  "mode is audit, nothing is dropped",
			desired: armed,
			after:   memory{completeSince: long, armed: true, ours: known},
		},
		"off, whatever others do": {
			config:  func(c *Config) { c.Off = true },
			facts:   facts{node: testNode("n1"), rivals: among(auto)},
			hep:     testEndpoint(true),
			memory:  memory{armed: true},
			state:   Off,
			ready:   true,
			desired: unarmed,
			after:   memory{armed: true, ours: known},
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig()
			if test.config != nil {
				test.config(&config)
			}
			test.facts.now = now
			test.facts.interfaces = []endpoint.Interface{{Name: "*"}}
			if test.facts.rivals.next.IsZero() && !test.askRivals {
				test.facts.rivals.asked = true
			}
			if test.hep != nil {
				test.facts.endpoints = map[string]*v3.HostEndpoint{"n1": test.hep}
			}
			if test.after.ours == nil {
				test.after.ours = map[string]types.UID{}
			}
			if test.facts.problem == "" && test.facts.node != nil && test.hep != nil && config.owns(test.hep, test.memory) {
				test.after.ours = known
			}
			d, after := config.decide(test.facts, test.memory)
			assert.Equal(t, test.state, d.state)
			assert.Equal(t, test.ready, d.ready)
			assert.Contains(t, d.reason, test.reason)
			assert.Equal(t, test.again, d.again)
			assert.Equal(t, test.askPeers, d.askPeers)
			assert.Equal(t, test.askRivals, d.askRivals)
			assert.Equal(t, test.blockers, d.blockers)
			if len(after.ours) == 0 {
				after.ours = map[string]types.UID{}
			}
			assert.Equal(t, test.after, after)
			writes, surplus, _ := config.plan(test.facts, after, d)
			assert.Empty(t, surplus)
			got := nothing
			if len(writes) > 0 {
				if got = unarmed; config.shape().Armed(writes[0].desired) {
					got = armed
				}
			}
			assert.Equal(t, test.desired, got)
		})
	}
}

func TestNodesAreNotAwaitedWhenNotAskedFor(t *testing.T) {
	config := testConfig()
	config.AwaitNodes = false
	now := time.Unix(1000, 0)
	d, _ := config.decide(facts{
		now:        now,
		node:       testNode("n1"),
		interfaces: []endpoint.Interface{{Name: "*"}},
		endpoints:  map[string]*v3.HostEndpoint{"n1": testEndpoint(false)},
		policies:   testPolicies("r2", "fw-drop", "fw-ssh"),
	}, memory{completeSince: now.Add(-settle)})
	assert.Equal(t, Armed, d.state)
	assert.True(t, d.arm)
}

func TestReasonNamesFiveAndCountsTheRest(t *testing.T) {
	assert.Equal(t, "a, b, c, d, e", some([]string{"a", "b", "c", "d", "e"}))
	assert.Equal(t, "a, b, c, d, e and 2 more", some([]string{"a", "b", "c", "d", "e", "f", "g"}))
}

func TestNothingIsArmedBeforeItsPoliciesWhateverElseHolds(t *testing.T) {
	now := time.Unix(1000, 0)
	config := testConfig()
	foreign := testEndpoint(false)
	delete(foreign.Labels, "host-firewall.io/release")
	complete := testPolicies("r2", "fw-drop", "fw-ssh")
	armings := 0
	for _, problem := range []string{"", "not read yet"} {
		for _, paused := range []bool{false, true} {
			for _, off := range []bool{false, true} {
				for _, node := range []*corev1.Node{nil, testNode("n1")} {
					for _, hep := range []*v3.HostEndpoint{nil, testEndpoint(false), foreign} {
						for _, policies := range [][]*v3.GlobalNetworkPolicy{nil, complete[:1], testPolicies("r1", "fw-drop", "fw-ssh"), complete} {
							for _, since := range []time.Duration{0, settle - 1, settle, time.Hour} {
								for _, seen := range []bool{false, true} {
									for _, answer := range []peers{{}, {question: question{asked: true}, looked: true}, {question: question{asked: true}, armed: true},
										{question: question{asked: true}, looked: true, strangers: []string{"a"}}, {question: question{asked: true}},
										{question: question{asked: true, err: errors.New("no")}}} {
										m := memory{completeSince: now.Add(-since), armed: seen}
										if seen {
											m.ours = map[string]types.UID{"n1": "old"}
										}
										config.Off = off
										f := facts{now: now, problem: problem, paused: paused, node: node, interfaces: []endpoint.Interface{{Name: "*"}},
											policies: policies, peers: answer, rivals: rivals{question: question{asked: true}}}
										if hep != nil {
											f.endpoints = map[string]*v3.HostEndpoint{"n1": hep}
										}
										d, m := config.decide(f, m)
										writes, _, _ := config.plan(f, m, d)
										if len(writes) == 0 || !config.shape().Armed(writes[0].desired) {
											continue
										}
										armings++
										whole := problem == "" && !paused && !off && node != nil && len(policies) == 2 && policies[0].Annotations["host-firewall.io/revision"] == "r2"
										known := seen || hep != nil && (answer.armed || answer.looked && len(answer.strangers) == 0)
										assert.True(t, whole && hep != foreign && since >= settle && known,
											"armed with problem %q, paused %v, off %v, node %v, endpoint %v, %d policies, complete for %s, armed before %v, peers %+v",
											problem, paused, off, node != nil, hep, len(policies), since, seen, answer)
									}
								}
							}
						}
					}
				}
			}
		}
	}
	// Seen armed: 2 endpoints, 2 times, 6 answers. Not seen: 1 endpoint, 2 times, 2 answers.
	assert.Equal(t, 2*2*6+1*2*2, armings)
}

// An endpoint of one interface beats the one of all interfaces there.
func TestEndpointsOfSeveralInterfaces(t *testing.T) {
	now := time.Unix(1000, 0)
	config := testConfig()
	config.Interfaces = func() ([]endpoint.Interface, []string, error) { return nil, nil, nil }
	hep := func(iface string, armed bool) *v3.HostEndpoint {
		hep, _ := config.shape().Desired(testNode("n1"), endpoint.Interface{Name: iface}, armed)
		return hep
	}
	complete := testPolicies("r2", "fw-drop", "fw-ssh")
	for name, test := range map[string]struct {
		off       bool
		want      []string
		present   []string
		have      []*v3.HostEndpoint
		policies  []*v3.GlobalNetworkPolicy
		armed     []string // written armed
		unarmed   []string
		surplus   []string
		wantState State
	}{
		"both are created armed on an armed node": {
			want: []string{"*", "eth0"}, have: []*v3.HostEndpoint{hep("*", true)}, policies: complete,
			armed: []string{"n1", "n1-eth0"}, wantState: Armed,
		},
		"none is created unarmed beside an armed one": {
			want: []string{"*", "eth0"}, have: []*v3.HostEndpoint{hep("*", true)}, policies: complete[:1],
			armed: []string{"n1"}, wantState: Armed,
		},
		"an interface that is gone": {
			want: []string{"eth0"}, present: []string{"eth0", "lo"}, have: []*v3.HostEndpoint{hep("eth0", true), hep("eth1", true)}, policies: complete[:1],
			armed: []string{"n1-eth0"}, surplus: []string{"n1-eth1"}, wantState: Armed,
		},
		"the last interface is gone": {
			present: []string{"lo"}, have: []*v3.HostEndpoint{hep("eth1", true)}, policies: complete, surplus: []string{"n1-eth1"}, wantState: Waiting,
		},
		"one that is not selected any more": {
			want: []string{"eth0"}, present: []string{"eth0", "eth1"}, have: []*v3.HostEndpoint{hep("eth0", true), hep("eth1", true)}, policies: complete,
			armed: []string{"n1-eth0"}, surplus: []string{"n1-eth1"}, wantState: Armed,
		},
		"one that is not selected any more stays while its successor waits": {
			want: []string{"eth0"}, present: []string{"eth0", "eth1"}, have: []*v3.HostEndpoint{hep("eth0", false), hep("eth1", true)}, policies: complete[:1],
			unarmed: []string{"n1-eth0"}, wantState: Waiting,
		},
		"nothing is taken away while the interfaces are not known": {
			have: []*v3.HostEndpoint{hep("eth0", true), hep("eth1", false)}, policies: complete, wantState: Waiting,
		},
		"off": {
			off: true, want: []string{"*", "eth0"}, present: []string{"eth0"}, have: []*v3.HostEndpoint{hep("*", true), hep("eth0", true), hep("eth1", true)}, policies: complete,
			unarmed: []string{"n1", "n1-eth0"}, surplus: []string{"n1-eth1"}, wantState: Off,
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := config
			config.Off = test.off
			f := facts{now: now, node: testNode("n1"), present: test.present, policies: test.policies, endpoints: map[string]*v3.HostEndpoint{},
				rivals: rivals{question: question{asked: true}}}
			for _, iface := range test.want {
				f.interfaces = append(f.interfaces, endpoint.Interface{Name: iface})
			}
			for _, hep := range test.have {
				f.endpoints[hep.Name] = hep
			}
			d, m := config.decide(f, memory{})
			assert.Equal(t, test.wantState, d.state, d.reason)
			writes, surplus, _ := config.plan(f, m, d)
			var armed, unarmed, gone []string
			for _, w := range writes {
				if config.shape().Armed(w.desired) {
					armed = append(armed, w.desired.Name)
				} else {
					unarmed = append(unarmed, w.desired.Name)
				}
			}
			for _, hep := range surplus {
				gone = append(gone, hep.Name)
			}
			assert.Equal(t, test.armed, armed)
			assert.Equal(t, test.unarmed, unarmed)
			assert.Equal(t, test.surplus, gone)
		})
	}
}
