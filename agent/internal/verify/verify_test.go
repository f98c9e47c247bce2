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

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/verify"
)

// fake is a cluster that changes with the time that has passed.
type fake struct {
	absent    error // why Calico is not reached
	rollout   verify.Rollout
	nodes     []string
	endpoints []*v3.HostEndpoint
	policies  []*policyset.Policy
	// data and annotations are the ConfigMap's.
	data, annotations map[string]string
	// before is asked before each look and may change the cluster or fail.
	before func(f *fake, passed time.Duration) error
	began  time.Time
}

func (f *fake) Find(context.Context) error { return f.absent }

func (f *fake) Rollout(_ context.Context, namespace, daemonSet, deployment string) (verify.Rollout, error) {
	if namespace != "ns" || daemonSet != "fw" || deployment != "fw-controller" {
		return verify.Rollout{}, fmt.Errorf("DaemonSet %s/%s is not there", namespace, daemonSet)
	}
	if f.before != nil {
		if err := f.before(f, time.Since(f.began)); err != nil {
			return verify.Rollout{}, err
		}
	}
	return f.rollout, nil
}

func (f *fake) Nodes(context.Context) ([]string, error)               { return f.nodes, nil }
func (f *fake) Endpoints(context.Context) ([]*v3.HostEndpoint, error) { return f.endpoints, nil }
func (f *fake) Policies(context.Context) ([]*policyset.Policy, error) { return f.policies, nil }

func (f *fake) ConfigMap(_ context.Context, namespace, name string) (data, annotations map[string]string, err error) {
	if namespace != "ns" || name != "fw" {
		return nil, nil, nil
	}
	return f.data, f.annotations, nil
}

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
		hep.Labels["host-firewall.io/set"] = "r1"
	}
	f.endpoints = append(f.endpoints, hep)
	return hep
}

// say puts on the ConfigMap what a controller says.
func (f *fake) say(what func(c *clearance.Clearance)) {
	c := clearance.Clearance{Wanted: want}
	what(&c)
	f.data = c.Data()
}

// want is the set that the values ask for, and specs are the specs of its policies.
var (
	specs = map[string]map[string]any{"fw-ssh-r1": {"order": 10, "types": []any{"Ingress"}}, "fw-drop-r1": {"order": 20, "types": []any{"Ingress"}}}
	want  = clearance.Set{Revision: "r1", Policies: map[string]string{"fw-ssh-r1": policyset.Digest(specs["fw-ssh-r1"]), "fw-drop-r1": policyset.Digest(specs["fw-drop-r1"])}}
)

func (f *fake) policy(name, release, set string, spec map[string]any) {
	f.policies = append(f.policies, policyset.Of(metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"host-firewall.io/release": release, "host-firewall.io/set": set},
	}, spec))
}

// protected is a cluster in which all is as it should be: two nodes with agents, and one that is not to have any.
func protected() *fake {
	f := &fake{
		rollout: verify.Rollout{Controller: true, Wanted: 2, Updated: 2, Agents: []verify.Agent{{Node: "n2", Pod: "p2", Ready: true}, {Node: "n1", Pod: "p1", Ready: true, Since: time.Unix(1e9, 0)}}},
		nodes:   []string{"n2", "windows", "n1"},
	}
	f.hep("n1", "n1", "Armed", "armed with set r1")
	f.hep("n2", "n2", "Armed", "armed with set r1")
	f.policy("fw-ssh-r1", "fw", "r1", specs["fw-ssh-r1"])
	f.policy("fw-drop-r1", "fw", "r1", specs["fw-drop-r1"])
	f.policy("fw-drop-r0", "fw", "r0", nil)
	f.say(func(*clearance.Clearance) {})
	return f
}

// switchedOff is the same in mode off.
func switchedOff() *fake {
	f := protected()
	f.endpoints = nil
	f.say(func(c *clearance.Clearance) { c.Reason = "mode is off" })
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
		err = verify.Run(t.Context(), f, settings.Settings{
			Release: "fw", Mode: map[bool]string{true: "off", false: "enforce"}[off], Set: want.Revision, Policies: want.Policies,
			Namespace: "ns", DaemonSet: "fw", Deployment: "fw-controller", Timeout: time.Minute,
		}, &out)
		took = time.Since(f.began)
	})
	return out.String(), took, err
}

func TestReleaseThatIsAsItShouldBeIsProvenAtOnce(t *testing.T) {
	printed, took, err := protected().run(t, false)
	require.NoError(t, err)
	assert.Zero(t, took)
	assert.Equal(t, `NODE      STATE      SET   SINCE                  REASON
n1        Armed      r1    2026-01-02T03:04:05Z   armed with set r1
n2        Armed      r1    2026-01-02T03:04:05Z   armed with set r1
windows   no agent   -     -                      it is not protected

POLICY OF SET r1   STATE
fw-drop-r1         unchanged
fw-ssh-r1          unchanged

Release fw in mode enforce is as it should be: 2 nodes are armed with set r1, its 2 policies are there and unchanged.
`, printed)
}

func TestReleaseThatIsOffIsProvenByDisarmedNodes(t *testing.T) {
	printed, _, err := switchedOff().run(t, true)
	require.NoError(t, err)
	assert.Contains(t, printed, "n1        Off        -     2026-01-02T03:04:05Z   mode is off, no endpoint is armed\n")
	assert.Contains(t, printed, "in mode off is as it should be: 2 nodes are not armed")

	f := switchedOff()
	f.endpoints = nil
	f.say(func(c *clearance.Clearance) {
		c.Held = map[string][]string{"policy default-deny would apply": {"n1", "n2"}}
	})
	printed, _, err = f.run(t, true)
	require.NoError(t, err, "a policy of somebody else may keep agents from making any")
	assert.Contains(t, printed, "n1        no endpoint   -     -       policy default-deny would apply")
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
		"disarmed endpoint":             {false, func(f *fake) { delete(f.endpoints[0].Labels, "host-firewall.io/set") }, []string{"node n1: HostEndpoint n1 is not armed"}},
		"endpoint of another set":       {false, func(f *fake) { f.endpoints[0].Labels["host-firewall.io/set"] = "r0" }, []string{"node n1: HostEndpoint n1 is armed with set r0, and set r1 is wanted"}},
		"one of two endpoints disarmed": {false, func(f *fake) { f.hep("n1-eth0", "n1", "Waiting", "") }, []string{"node n1: HostEndpoint n1-eth0 is not armed"}},
		"endpoint of another release":   {false, func(f *fake) { f.endpoints[1].Labels["host-firewall.io/release"] = "other" }, []string{"node n2: it has no endpoint"}},
		"agent that waits": {false, func(f *fake) {
			f.endpoints = f.endpoints[1:]
			f.hep("n1", "n1", "Waiting", "node n0 goes first with set r1")
			f.rollout.Agents[1].Ready = false
		}, []string{"node n1: agent p1 has not been ready since 2001-09-09T01:46:40Z, its node was last noted as Waiting: node n0 goes first with set r1"}},
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
		"controller that is not ready":            {false, func(f *fake) { f.rollout.Controller = false }, []string{"the controller is not ready"}},
		"policy that is missing":                  {false, func(f *fake) { f.policies = f.policies[:1] }, []string{"fw-drop-r1         missing", "GlobalNetworkPolicies are missing: fw-drop-r1"}},
		"policy that is about to go":              {false, func(f *fake) { f.policies[0].DeletionTimestamp = &metav1.Time{} }, []string{"fw-ssh-r1          missing"}},
		"policy of another release":               {false, func(f *fake) { f.policies[0].Labels["host-firewall.io/release"] = "other" }, []string{"fw-ssh-r1          changed"}},
		"policy that was edited by hand": {false, func(f *fake) {
			f.policies = f.policies[1:]
			f.policy("fw-ssh-r1", "fw", "r1", map[string]any{"order": 10, "types": []any{"Egress"}})
		}, []string{"fw-ssh-r1          changed", "not as the chart has rendered them: fw-ssh-r1"}},
		"policy that pretends to be of the set": {false, func(f *fake) { f.policy("mine", "fw", "r1", nil) }, []string{"do not belong to it: mine"}},
		"controller that has said nothing":      {false, func(f *fake) { f.data = nil }, []string{"there is no ConfigMap fw"}},
		"clearance that was edited by hand":     {false, func(f *fake) { f.data["held"] = "?" }, []string{"ConfigMap fw: key held of the clearance cannot be read"}},
		"clearance of another set":              {false, func(f *fake) { f.data["set"] = "r2" }, []string{"looks after set r2, and set r1 is wanted"}},
		"set that is not cleared":               {false, func(f *fake) { f.say(func(c *clearance.Clearance) { c.Reason = "node n9 is not trusted" }) }, []string{"no node may be armed with set r1: node n9 is not trusted"}},
		"drift of a set that is still in force": {false, func(f *fake) {
			f.say(func(c *clearance.Clearance) { c.Drift = map[string]string{"r0": "fw-ssh-r0 is missing"} })
		}, []string{"set r0 has been changed: fw-ssh-r0 is missing"}},
		"held nodes": {false, func(f *fake) {
			f.say(func(c *clearance.Clearance) {
				c.Held = map[string][]string{"policy default-deny would apply": {"n1", "n2", "windows"}}
			})
		}, []string{"nodes n1, n2: policy default-deny would apply", "windows   no agent"}},
		"all nodes held": {false, func(f *fake) { f.say(func(c *clearance.Clearance) { c.Held = map[string][]string{"policy x": {"*"}} }) }, []string{"nodes n1, n2: policy x"}},
		"rival on a node": {false, func(f *fake) {
			f.say(func(c *clearance.Clearance) { c.Conflicts = map[string][]string{"HostEndpoint a wins": {"n2"}} })
		}, []string{"node n2: HostEndpoint a wins"}},
		"release that was opened": {false, func(f *fake) { f.annotations = map[string]string{"host-firewall.io/open": "locked out"} },
			[]string{"opened by the annotation host-firewall.io/open of ConfigMap fw", ": locked out"}},
		"release that was opened, and is off": {true, func(f *fake) { f.annotations = map[string]string{"host-firewall.io/open": ""} }, []string{"no reason is given"}},
		"release that is being uninstalled":   {false, func(f *fake) { f.data = clearance.Closing() }, []string{"ConfigMap fw is closed: the release is being uninstalled"}},
		"armed although off":                  {true, func(f *fake) { f.endpoints[0].Labels["host-firewall.io/set"] = "r1" }, []string{"node n1: HostEndpoint n1 is armed, although mode is off"}},
		"armed with any set although off":     {true, func(f *fake) { f.endpoints[0].Labels["host-firewall.io/set"] = "r0" }, []string{"node n1: HostEndpoint n1 is armed, although mode is off"}},
		"armed although off, and left alone":  {true, func(f *fake) { f.hep("windows", "windows", "Armed", "") }, []string{"node windows: HostEndpoint windows is armed"}},
		"policy that is missing while off":    {true, func(f *fake) { f.policies = nil }, []string{"GlobalNetworkPolicies are missing: fw-drop-r1, fw-ssh-r1"}},
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
			for _, words := range append(test.want, " is not as it should be:\n  - ") {
				assert.Contains(t, printed, words)
			}
			assert.Equal(t, 1, strings.Count(printed, "NODE"), "only what was seen last is printed")
		})
	}
}

func TestOfThousandsOfProblemsTheFirstAreTold(t *testing.T) {
	f := protected()
	f.nodes, f.endpoints, f.rollout.Agents = nil, nil, nil
	for i := range 3000 {
		name := fmt.Sprintf("n%04d", i)
		f.nodes = append(f.nodes, name)
		f.rollout.Agents = append(f.rollout.Agents, verify.Agent{Node: name, Pod: name, Ready: i%2 == 0})
	}
	f.rollout.Wanted, f.rollout.Updated = 3000, 3000
	printed, _, err := f.run(t, false)
	require.Error(t, err)
	assert.Contains(t, printed, "\n  - nodes n0000, n0002, n0004, n0006, n0008 and 1495 more: it has no endpoint\n")
	assert.Contains(t, printed, "\n  - and 1481 more problems\n")
	assert.Equal(t, 21, strings.Count(printed, "\n  - "))
}

func TestEndpointThatNobodyKeepsIsShown(t *testing.T) {
	f := protected()
	f.hep("windows", "windows", "Armed", "armed with set r0")
	printed, _, err := f.run(t, false)
	require.NoError(t, err)
	assert.Contains(t, printed, "windows   no agent   r1    -                      nobody keeps its endpoint windows, which an agent that is gone noted as Armed at 2026-01-02T03:04:05Z\n")
}

func TestClusterThatCannotBeReadIsAFailureThatSaysWhy(t *testing.T) {
	f := protected()
	f.before = func(*fake, time.Duration) error { return errors.New("list pods: forbidden") }
	printed, took, err := f.run(t, false)
	require.EqualError(t, err, "cannot look at release fw: list pods: forbidden")
	assert.Equal(t, time.Minute, took)
	assert.Empty(t, printed)

	f = protected()
	f.absent = errors.New("install Calico or its CRDs")
	_, _, err = f.run(t, false)
	require.ErrorContains(t, err, "install Calico or its CRDs")
}

// A request that the end of the time cuts off says less than what was seen before.
func TestWhatWasSeenLastIsToldWhenTheTimeIsOver(t *testing.T) {
	f := protected()
	f.policies = f.policies[1:]
	f.before = func(_ *fake, passed time.Duration) error {
		if passed < 59*time.Second {
			return nil
		}
		time.Sleep(time.Minute - passed)
		return context.DeadlineExceeded
	}
	printed, _, err := f.run(t, false)
	require.ErrorContains(t, err, "is not as it should be")
	assert.Contains(t, printed, "fw-ssh-r1")
}
