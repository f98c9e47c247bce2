package keeper

import (
	"errors"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testConfig() Config {
	return Config{
		Node:         "n1",
		Release:      "fw",
		ArmingLabels: map[string]string{"host-endpoint": "ingress"},
		Profiles:     []string{"projectcalico-default-allow"},
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
	hep, _ := testConfig().shape().Desired(testNode("n1"), armed)
	hep.ResourceVersion = "1"
	return hep
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
	renounced.UID = "hep-uid"
	delete(renounced.Labels, "host-firewall.io/release")
	claimed := foreign.DeepCopy()
	claimed.UID = "hep-uid"

	for name, test := range map[string]struct {
		facts    facts
		memory   memory
		state    State
		ready    bool
		reason   string
		desired  string
		again    time.Duration
		askPeers bool
		after    memory
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
			facts:   facts{policies: complete, endpoint: testEndpoint(true)},
			state:   Waiting,
			reason:  "Node n1 is not in the cluster",
			desired: nothing,
		},
		"endpoint is somebody else's": {
			facts:   facts{node: testNode("n1"), policies: complete, endpoint: foreign},
			memory:  memory{completeSince: long, armed: true},
			state:   Conflict,
			reason:  `of the host-firewall release "other"`,
			desired: nothing,
			after:   memory{completeSince: long, armed: true},
		},
		"endpoint of ours has lost the label that says so": {
			facts:   facts{now: now, node: testNode("n1"), policies: complete, endpoint: renounced},
			memory:  memory{completeSince: long, armed: true, endpoint: "hep-uid"},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long, armed: true, endpoint: "hep-uid"},
		},
		"endpoint without that label was never ours": {
			facts:   facts{now: now, node: testNode("n1"), policies: complete, endpoint: renounced},
			memory:  memory{completeSince: long, armed: true, endpoint: "other-uid"},
			state:   Conflict,
			reason:  "of somebody else",
			desired: nothing,
			after:   memory{completeSince: long, armed: true, endpoint: "other-uid"},
		},
		"endpoint of ours was claimed by another release": {
			facts:   facts{now: now, node: testNode("n1"), policies: complete, endpoint: claimed},
			memory:  memory{completeSince: long, armed: true, endpoint: "hep-uid"},
			state:   Conflict,
			reason:  `of the host-firewall release "other"`,
			desired: nothing,
			after:   memory{completeSince: long, armed: true, endpoint: "hep-uid"},
		},
		"no policies, no endpoint": {
			facts:   facts{node: testNode("n1")},
			state:   Waiting,
			reason:  "GlobalNetworkPolicies are missing: fw-drop, fw-ssh",
			desired: unarmed,
		},
		"one policy is missing": {
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete[:1]},
			state:   Waiting,
			reason:  "missing: fw-ssh",
			desired: unarmed,
		},
		"policies are of another revision": {
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: testPolicies("r1", "fw-drop", "fw-ssh")},
			state:   Waiting,
			reason:  `not at revision "r2"`,
			desired: unarmed,
		},
		"policies have just come": {
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete},
			state:   Waiting,
			reason:  "Felix gets a moment",
			desired: unarmed,
			again:   settle,
			after:   memory{completeSince: now},
		},
		"policies have been there almost long enough": {
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete},
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
			facts:    facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete},
			memory:   memory{completeSince: long},
			state:    Waiting,
			reason:   "asking for nodes",
			desired:  unarmed,
			askPeers: true,
			after:    memory{completeSince: long},
		},
		"the question has no answer": {
			facts: facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete,
				peers: peers{asked: true, err: errors.New("list Nodes: forbidden"), next: now.Add(2 * time.Second)}},
			memory:   memory{completeSince: long},
			state:    Waiting,
			reason:   "list Nodes: forbidden",
			desired:  unarmed,
			again:    2 * time.Second,
			askPeers: true,
			after:    memory{completeSince: long},
		},
		"nodes would be shut out": {
			facts: facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete,
				peers: peers{asked: true, strangers: []string{"a", "b"}, next: now.Add(2 * time.Second)}},
			memory:   memory{completeSince: long},
			state:    Waiting,
			reason:   "would be shut out: a, b. Start an agent there, list their addresses in cluster.cidrs, or set cluster.trustNodes: false",
			desired:  unarmed,
			again:    2 * time.Second,
			askPeers: true,
			after:    memory{completeSince: long},
		},
		"no node would be shut out": {
			facts: facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete,
				peers: peers{asked: true}},
			memory:  memory{completeSince: long},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long},
		},
		"armed": {
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(true), policies: complete},
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long, armed: true},
		},
		"armed by an agent before this one": {
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(true), policies: complete},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: now.Add(-settle), armed: true},
		},
		"a policy is lost": {
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(true), policies: complete[:1]},
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
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete},
			memory:  memory{armed: true},
			state:   Waiting,
			reason:  "Felix gets a moment",
			desired: unarmed,
			again:   settle,
			after:   memory{completeSince: now, armed: true},
		},
		"arming label taken off": {
			facts:   facts{node: testNode("n1"), endpoint: testEndpoint(false), policies: complete},
			memory:  memory{completeSince: long, armed: true},
			state:   Armed,
			ready:   true,
			reason:  "2 policies at revision r2",
			desired: armed,
			after:   memory{completeSince: long, armed: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.facts.now = now
			d, after := testConfig().decide(test.facts, test.memory)
			assert.Equal(t, test.state, d.state)
			assert.Equal(t, test.ready, d.ready)
			assert.Contains(t, d.reason, test.reason)
			assert.Equal(t, test.again, d.again)
			assert.Equal(t, test.askPeers, d.askPeers)
			assert.Equal(t, test.after, after)
			got := nothing
			if d.desired != nil {
				if got = unarmed; testConfig().shape().Armed(d.desired) {
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
		now:      now,
		node:     testNode("n1"),
		endpoint: testEndpoint(false),
		policies: testPolicies("r2", "fw-drop", "fw-ssh"),
	}, memory{completeSince: now.Add(-settle)})
	assert.Equal(t, Armed, d.state)
	assert.True(t, config.shape().Armed(d.desired))
}

func TestReasonNamesFiveNodesAndCountsTheRest(t *testing.T) {
	five := strangersReason([]string{"a", "b", "c", "d", "e"})
	assert.Contains(t, five, "shut out: a, b, c, d, e. ")
	seven := strangersReason([]string{"a", "b", "c", "d", "e", "f", "g"})
	assert.Contains(t, seven, "shut out: a, b, c, d, e and 2 more. ")
}

func TestNothingIsArmedBeforeItsPoliciesWhateverElseHolds(t *testing.T) {
	now := time.Unix(1000, 0)
	config := testConfig()
	foreign := testEndpoint(false)
	delete(foreign.Labels, "host-firewall.io/release")
	complete := testPolicies("r2", "fw-drop", "fw-ssh")
	armings := 0
	for _, problem := range []string{"", "not read yet"} {
		for _, node := range []*corev1.Node{nil, testNode("n1")} {
			for _, hep := range []*v3.HostEndpoint{nil, testEndpoint(false), foreign} {
				for _, policies := range [][]*v3.GlobalNetworkPolicy{nil, complete[:1], testPolicies("r1", "fw-drop", "fw-ssh"), complete} {
					for _, since := range []time.Duration{0, settle - 1, settle, time.Hour} {
						for _, seen := range []bool{false, true} {
							for _, answer := range []peers{{}, {asked: true}, {asked: true, strangers: []string{"a"}}, {asked: true, err: errors.New("no")}} {
								m := memory{completeSince: now.Add(-since), armed: seen}
								d, _ := config.decide(facts{now, problem, node, hep, policies, answer}, m)
								if d.desired == nil || !config.shape().Armed(d.desired) {
									continue
								}
								armings++
								whole := problem == "" && node != nil && len(policies) == 2 && policies[0].Annotations["host-firewall.io/revision"] == "r2"
								known := seen || hep != nil && answer.asked && answer.err == nil && len(answer.strangers) == 0
								assert.True(t, whole && hep != foreign && since >= settle && known,
									"armed with problem %q, node %v, endpoint %v, %d policies, complete for %s, armed before %v, peers %+v",
									problem, node != nil, hep, len(policies), since, seen, answer)
							}
						}
					}
				}
			}
		}
	}
	// Seen armed: 2 endpoints, 2 times, 4 answers. Not seen: 1 endpoint, 2 times, 1 answer.
	assert.Equal(t, 2*2*4+1*2*1, armings)
}
