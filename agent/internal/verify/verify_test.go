package verify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/gate"
	"github.com/host-firewall/host-firewall/agent/internal/verify"
)

// fake is a cluster that changes with the time that has passed.
type fake struct {
	absent    bool // Calico
	rollout   verify.Rollout
	nodes     []string
	endpoints []*v3.HostEndpoint
	policies  []*v3.GlobalNetworkPolicy
	// before is asked before each look and may change the cluster or fail.
	before func(f *fake, passed time.Duration) error
	began  time.Time
}

func (f *fake) Served(context.Context) (bool, error) { return !f.absent, nil }

func (f *fake) Rollout(_ context.Context, namespace, daemonSet string) (verify.Rollout, error) {
	if namespace != "ns" || daemonSet != "fw" {
		return verify.Rollout{}, fmt.Errorf("DaemonSet %s/%s is not there", namespace, daemonSet)
	}
	if f.before != nil {
		if err := f.before(f, time.Since(f.began)); err != nil {
			return verify.Rollout{}, err
		}
	}
	return f.rollout, nil
}

func (f *fake) Nodes(context.Context) ([]string, error)                     { return f.nodes, nil }
func (f *fake) Endpoints(context.Context) ([]*v3.HostEndpoint, error)       { return f.endpoints, nil }
func (f *fake) Policies(context.Context) ([]*v3.GlobalNetworkPolicy, error) { return f.policies, nil }

// hep adds an endpoint with the note of a state; of mode off it is not armed.
func (f *fake) hep(name, node, state, reason string) *v3.HostEndpoint {
	hep := &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"host-firewall.io/release": "fw"},
			Annotations: map[string]string{"host-firewall.io/state": fmt.Sprintf(`{"state":%q,"reason":%q,"since":"2026-01-02T03:04:05Z"}`, state, reason)},
		},
		Spec: v3.HostEndpointSpec{Node: node, InterfaceName: "*"},
	}
	if state == "Armed" {
		hep.Labels["host-endpoint"] = "ingress"
	}
	f.endpoints = append(f.endpoints, hep)
	return hep
}

func (f *fake) policy(name, release, revision string) {
	f.policies = append(f.policies, &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"host-firewall.io/release": release}, Annotations: map[string]string{"host-firewall.io/revision": revision},
	}})
}

// protected is a cluster in which all is as it should be: two nodes with agents, and one that is not to have any.
func protected() *fake {
	f := &fake{
		rollout: verify.Rollout{Wanted: 2, Updated: 2, Agents: []verify.Agent{{Node: "n2", Pod: "p2", Ready: true}, {Node: "n1", Pod: "p1", Ready: true, Since: time.Unix(1e9, 0)}}},
		nodes:   []string{"n2", "windows", "n1"},
	}
	f.hep("n1", "n1", "Armed", "2 policies at revision r1")
	f.hep("n2", "n2", "Armed", "2 policies at revision r1")
	f.policy("fw-ssh", "fw", "r1")
	f.policy("fw-drop", "fw", "r1")
	return f
}

// switchedOff is the same in mode off.
func switchedOff() *fake {
	f := protected()
	f.endpoints = nil
	f.hep("n1", "n1", "Off", "mode is off, no endpoint is armed")
	f.hep("n2", "n2", "Off", "mode is off, no endpoint is armed")
	return f
}

// run verifies, in a time that passes by itself.
func (f *fake) run(t *testing.T, off bool) (printed string, took time.Duration, err error) {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		f.began = time.Now()
		err = verify.Run(t.Context(), f, verify.Config{
			Want: verify.Want{
				Want: gate.Want{Release: "fw", Revision: "r1", Policies: []string{"fw-ssh", "fw-drop"}},
				Off:  off, ArmingLabels: map[string]string{"host-endpoint": "ingress"},
			},
			Namespace: "ns", DaemonSet: "fw", Timeout: time.Minute,
		}, &out)
		took = time.Since(f.began)
	})
	return out.String(), took, err
}

func TestReleaseThatIsAsItShouldBeIsProvenAtOnce(t *testing.T) {
	printed, took, err := protected().run(t, false)
	require.NoError(t, err)
	assert.Zero(t, took)
	assert.Equal(t, `NODE      STATE      SINCE                  REASON
n1        Armed      2026-01-02T03:04:05Z   2 policies at revision r1
n2        Armed      2026-01-02T03:04:05Z   2 policies at revision r1
windows   no agent   -                      it is not protected

POLICY    REVISION
fw-ssh    r1
fw-drop   r1

Release fw is as it should be: 2 nodes are armed, 2 policies are at revision r1.
`, printed)
}

func TestReleaseThatIsOffIsProvenByDisarmedNodes(t *testing.T) {
	printed, _, err := switchedOff().run(t, true)
	require.NoError(t, err)
	assert.Contains(t, printed, "n1        Off        2026-01-02T03:04:05Z   mode is off, no endpoint is armed\n")
	assert.Contains(t, printed, "2 nodes are not armed, as mode is off")

	f := switchedOff()
	f.endpoints = nil
	printed, _, err = f.run(t, true)
	require.NoError(t, err, "a policy of somebody else may keep agents from making any")
	assert.Contains(t, printed, "n1        no endpoint")
}

func TestRolloutThatIsJustEndingIsWaitedFor(t *testing.T) {
	f := protected()
	f.rollout.Updated = 1
	f.before = func(f *fake, passed time.Duration) error {
		switch {
		case passed < 10*time.Second:
			return errors.New("the API server is not reached")
		case passed > 20*time.Second:
			f.rollout.Updated = 2
		}
		return nil
	}
	printed, took, err := f.run(t, false)
	require.NoError(t, err)
	assert.Contains(t, printed, "is as it should be")
	assert.InDelta(t, 21, took.Seconds(), 2)
}

func TestReleaseThatIsNotAsItShouldBeFailsInItsTimeAndSaysWhy(t *testing.T) {
	for name, test := range map[string]struct {
		off    bool
		damage func(f *fake)
		want   []string
	}{
		"node without endpoint":         {false, func(f *fake) { f.endpoints = f.endpoints[1:] }, []string{"n1        no endpoint", "node n1: it has no endpoint"}},
		"disarmed endpoint":             {false, func(f *fake) { delete(f.endpoints[0].Labels, "host-endpoint") }, []string{"node n1: HostEndpoint n1 is not armed"}},
		"one of two endpoints disarmed": {false, func(f *fake) { f.hep("n1-eth0", "n1", "Waiting", "") }, []string{"node n1: HostEndpoint n1-eth0 is not armed"}},
		"endpoint of another release":   {false, func(f *fake) { f.endpoints[1].Labels["host-firewall.io/release"] = "other" }, []string{"node n2: it has no endpoint"}},
		"agent that waits": {false, func(f *fake) {
			f.endpoints = f.endpoints[1:]
			f.hep("n1", "n1", "Waiting", "GlobalNetworkPolicies are missing: fw-ssh")
			f.rollout.Agents[1].Ready = false
		}, []string{"node n1: agent p1 has not been ready since 2001-09-09T01:46:40Z, its node was last noted as Waiting: GlobalNetworkPolicies are missing: fw-ssh"}},
		"agent that never made an endpoint": {false, func(f *fake) {
			f.endpoints = f.endpoints[1:]
			f.rollout.Agents[1].Ready = false
		}, []string{"node n1: agent p1 has not been ready since 2001-09-09T01:46:40Z, its log says why"}},
		"note of another state": {false, func(f *fake) {
			f.endpoints[0].Annotations["host-firewall.io/state"] = `{"state":"Conflict","reason":"HostEndpoint a of this node is of somebody else"}`
		}, []string{"node n1: is Conflict: HostEndpoint a of this node"}},
		"agents of the template before":           {false, func(f *fake) { f.rollout.Updated = 1 }, []string{"1 of 2 agents are the present ones"}},
		"node without the agent it needs":         {false, func(f *fake) { f.rollout.Wanted = 3 }, []string{"3 nodes are to have an agent, and 2 have one", "windows   no agent"}},
		"two agents on one node, none on another": {false, func(f *fake) { f.rollout.Agents[0].Node = "n1" }, []string{"2 nodes are to have an agent, and 1 have one"}},
		"nobody to protect":                       {false, func(f *fake) { f.rollout = verify.Rollout{} }, []string{"agent.nodeSelector"}},
		"policy that is missing":                  {false, func(f *fake) { f.policies = f.policies[:1] }, []string{"fw-drop   missing", "GlobalNetworkPolicies are missing: fw-drop"}},
		"policy of another release":               {false, func(f *fake) { f.policies[0].Labels["host-firewall.io/release"] = "other" }, []string{"fw-ssh    missing"}},
		"policy of another revision": {false, func(f *fake) { f.policies[0].Annotations["host-firewall.io/revision"] = "r0" },
			[]string{"fw-ssh    r0", `not at revision "r1": fw-ssh (at "r0")`}},
		"armed although off":                 {true, func(f *fake) { f.endpoints[0].Labels["host-endpoint"] = "ingress" }, []string{"node n1: HostEndpoint n1 is armed, although mode is off"}},
		"armed although off, and left alone": {true, func(f *fake) { f.hep("windows", "windows", "Armed", "") }, []string{"node windows: HostEndpoint windows is armed"}},
		"policy that is missing while off":   {true, func(f *fake) { f.policies = nil }, []string{"GlobalNetworkPolicies are missing: fw-ssh, fw-drop"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := protected()
			if test.off {
				f = switchedOff()
			}
			test.damage(f)
			printed, took, err := f.run(t, test.off)
			require.EqualError(t, err, "release fw is not as it should be")
			assert.Equal(t, time.Minute, took)
			for _, words := range append(test.want, "Release fw is not as it should be:\n  - ") {
				assert.Contains(t, printed, words)
			}
			assert.Equal(t, 1, strings.Count(printed, "NODE"), "only what was seen last is printed")
		})
	}
}

func TestEndpointThatNobodyKeepsIsShown(t *testing.T) {
	f := protected()
	f.hep("windows", "windows", "Armed", "2 policies at revision r0")
	printed, _, err := f.run(t, false)
	require.NoError(t, err)
	assert.Contains(t, printed, "windows   no agent   -                      nobody keeps its endpoint windows, which an agent that is gone noted as Armed at 2026-01-02T03:04:05Z\n")
}

func TestClusterThatCannotBeReadIsAFailureThatSaysWhy(t *testing.T) {
	f := protected()
	f.before = func(*fake, time.Duration) error { return errors.New("list pods: forbidden") }
	printed, took, err := f.run(t, false)
	require.EqualError(t, err, "cannot look at release fw: list pods: forbidden")
	assert.Equal(t, time.Minute, took)
	assert.Empty(t, printed)

	f = protected()
	f.absent = true
	_, _, err = f.run(t, false)
	require.ErrorContains(t, err, "install Calico or its CRDs")
}
