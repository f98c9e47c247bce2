package status_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/status"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// fake is a cluster that changes with the time that has passed.
type fake struct {
	status.Seen
	// before is asked before each look and may change the cluster or fail.
	before func(f *fake, passed time.Duration) error
	began  time.Time
	// operator tells that the controller stands in for agents.
	operator bool
}

func (f *fake) Look(context.Context) (status.Seen, error) {
	if f.before != nil {
		if err := f.before(f, time.Since(f.began)); err != nil {
			return status.Seen{}, err
		}
	}
	return f.Seen, nil
}

// hep adds an endpoint with the note of a state, three minutes old; of mode off it is not armed.
func (f *fake) hep(name, node, state, reason string) *v3.HostEndpoint {
	hep := &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"host-firewall.io/release": "fw"}},
		Spec:       v3.HostEndpointSpec{Node: node, InterfaceName: "*"},
	}
	note(hep, endpoint.Note{State: state, Reason: reason, Since: now.Add(-3 * time.Minute), Enforced: "IPv4 and IPv6"})
	if state == "Armed" {
		hep.Labels["host-firewall.io/set"] = "r1"
	}
	f.Endpoints = append(f.Endpoints, hep)
	return hep
}

func note(hep *v3.HostEndpoint, note endpoint.Note) {
	text, _ := json.Marshal(note)
	hep.Annotations = map[string]string{endpoint.StateAnnotation: string(text)}
}

// now is when synctest begins.
var now = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// say puts on the ConfigMap what a controller says.
func (f *fake) say(what func(c *clearance.Clearance)) {
	c := clearance.Clearance{Wanted: want}
	what(&c)
	f.Data = c.Data()
}

// want is the set that the values ask for, and specs are the specs of its policies.
var (
	specs = map[string]map[string]any{"fw-ssh-r1": {"order": 10, "types": []any{"Ingress"}}, "fw-drop-r1": {"order": 20, "types": []any{"Ingress"}, "ingress": []any{map[string]any{"action": "Deny"}}}}
	want  = clearance.Set{Revision: "r1", Policies: map[string]string{"fw-ssh-r1": policyset.Digest(specs["fw-ssh-r1"]), "fw-drop-r1": policyset.Digest(specs["fw-drop-r1"])}}
)

func (f *fake) policy(name, release, set string, spec map[string]any) {
	f.Policies = append(f.Policies, policyset.Of(metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"host-firewall.io/release": release, "host-firewall.io/set": set},
	}, spec))
}

// protected is a cluster in which all is as it should be: two nodes with agents, and one that is not to have any.
func protected() *fake {
	f := &fake{Seen: status.Seen{
		Controller: true, Wanted: 2, Updated: 2, Observed: true, Nodes: []string{"n2", "windows", "n1"},
		Agents: []status.Agent{{Node: "n2", Pod: "p2", Ready: true}, {Node: "n1", Pod: "p1", Ready: true}},
	}}
	f.hep("n1", "n1", "Armed", "armed with policy set r1")
	f.hep("n2", "n2", "Armed", "armed with policy set r1")
	f.policy("fw-ssh-r1", "fw", "r1", specs["fw-ssh-r1"])
	f.policy("fw-drop-r1", "fw", "r1", specs["fw-drop-r1"])
	f.policy("fw-drop-r0", "fw", "r0", nil)
	f.say(func(*clearance.Clearance) {})
	return f
}

// switchedOff is the same in mode off.
func switchedOff() *fake {
	f := protected()
	f.Endpoints = nil
	f.say(func(c *clearance.Clearance) { c.Reason = "mode is off" })
	f.hep("n1", "n1", "Off", "mode is off, no endpoint is armed")
	f.hep("n2", "n2", "Off", "mode is off, no endpoint is armed")
	return f
}

// run waits a minute for all to be well, in a time that passes by itself.
func (f *fake) run(t *testing.T, off bool) (printed string, took time.Duration, err error) {
	t.Helper()
	return f.runWith(t, settings.Settings{Mode: map[bool]string{true: "off", false: "enforce"}[off], Wait: time.Minute})
}

func (f *fake) runWith(t *testing.T, told settings.Settings) (printed string, took time.Duration, err error) {
	t.Helper()
	told.Agents = !f.operator
	told.Release, told.Namespace, told.Set, told.Policies = "fw", "ns", want.Revision, want.Policies
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		f.began = time.Now()
		err = status.Run(t.Context(), f.Look, told, &out)
		took = time.Since(f.began)
	})
	return out.String(), took, err
}

// Which nodes are to have a static pod is nobody's business but those people's who write them.
func TestStaticPodsAreAsTheyShouldBeWhereverTheyAre(t *testing.T) {
	f := protected()
	f.Static, f.Wanted, f.Updated = true, 0, 0
	_, took, err := f.run(t, false)
	require.NoError(t, err)
	assert.Zero(t, took)
}

func TestReleaseThatIsAsItShouldBeIsProvenAtOnce(t *testing.T) {
	printed, took, err := protected().run(t, false)
	require.NoError(t, err)
	assert.Zero(t, took)
	assert.Equal(t, `Release fw in mode enforce is as it should be: its 2 policies are there and unchanged.
Set r1: all nodes may be armed. Nodes: 2 Armed, 1 no agent.

NODE     STATE     SET  SINCE  ENFORCED       REASON
n1       Armed     r1   3m     IPv4 and IPv6  -
n2       Armed     r1   3m     IPv4 and IPv6  -
windows  no agent  -    -      -              it is not protected
`, printed)
}

func TestReleaseThatIsOffIsProvenByDisarmedNodes(t *testing.T) {
	printed, _, err := switchedOff().run(t, true)
	require.NoError(t, err)
	assert.Contains(t, printed, "n1       Off       -    3m ")
	assert.Contains(t, printed, "in mode off is as it should be")
	assert.Contains(t, printed, "no node may be armed. Nodes: 2 Off, 1 no agent.")

	f := switchedOff()
	f.Endpoints = nil
	f.say(func(c *clearance.Clearance) {
		c.Held = map[string][]string{"policy default-deny would apply": {"n1", "n2"}}
	})
	printed, _, err = f.run(t, true)
	require.NoError(t, err, "a policy of somebody else may keep agents from making any")
	assert.Regexp(t, `(?m)^n1 +no endpoint +- +- +- +policy default-deny would apply$`, printed)
}

// What is not well comes first in the table, and is whole in the summary.
func TestTableHasEightyColumns(t *testing.T) {
	f := protected()
	note(f.Endpoints[1], endpoint.Note{State: "Armed", Reason: "stays armed, but policy kube-system/default-deny of somebody else would apply to it", Enforced: "IPv4, and IPv6 is not protected"})
	note(f.Endpoints[0], endpoint.Note{State: "Armed", Reason: "armed with set r1", Since: now, Enforced: "unproven: eBPF is on"})
	f.Agents[0].Ready = false
	printed, _, err := f.run(t, false)
	require.Error(t, err)
	assert.Equal(t, `Release fw in mode enforce is not as it should be:
  - node n2: Armed, its agent not ready: stays armed, but policy kube-system/default-deny of somebody else would apply to it
Set r1: all nodes may be armed. Nodes: 2 Armed, 1 no agent.

NODE     STATE     SET  SINCE  ENFORCED  REASON
n2       Armed     r1   -      IPv4      stays armed, but policy kube-system/...
n1       Armed     r1   60s    unproven  unproven: eBPF is on
windows  no agent  -    -      -         it is not protected
`, printed)

	printed, _, err = f.runWith(t, settings.Settings{Mode: "enforce", Output: "wide"})
	require.Error(t, err)
	assert.Contains(t, printed, " IPv4      stays armed, but policy kube-system/default-deny of somebody else would apply to it\n")

	f = protected()
	long := strings.Repeat("n", 63)
	f.Nodes[1] = long
	f.hep("n3", long, "Armed", "nobody knows")
	printed, _, err = f.run(t, false)
	require.NoError(t, err)
	assert.Contains(t, printed, " nobody keeps its ...\n", "a long name leaves room for some of the reason")
}

func TestReleaseIsToldToProgramsAsJSON(t *testing.T) {
	f := protected()
	f.Agents[0].Ready, f.Agents[0].Since = false, now.Add(-time.Minute)
	f.say(func(c *clearance.Clearance) {
		c.Canary, c.Held = "n1", map[string][]string{"policy x": {"windows"}}
	})
	printed, took, err := f.runWith(t, settings.Settings{Mode: "audit", Output: "json"})
	require.EqualError(t, err, "not all is well")
	assert.Zero(t, took, "nobody is kept waiting who does not ask for that")
	assert.JSONEq(t, `{
		"release": "fw", "namespace": "ns", "mode": "audit", "set": "r1", "well": false, "onItsWay": true,
		"problems": [{"text": "its agent is not ready yet", "nodes": ["n2"]}],
		"clearance": "node n1 goes first", "held": 1, "states": {"Armed": 2, "no agent": 1},
		"nodes": [
			{"name": "n2", "state": "Armed", "set": "r1", "since": "1999-12-31T23:59:00Z", "enforced": "IPv4 and IPv6", "reason": "armed with policy set r1", "agent": "p2", "well": false},
			{"name": "n1", "state": "Armed", "set": "r1", "since": "1999-12-31T23:57:00Z", "enforced": "IPv4 and IPv6", "reason": "armed with policy set r1", "agent": "p1", "well": true},
			{"name": "windows", "state": "no agent", "reason": "it is not protected", "well": true}]}`, printed)
}

func TestWhatWasCutIsTold(t *testing.T) {
	f := protected()
	delete(f.Endpoints[0].Labels, "host-firewall.io/set")
	note(f.Endpoints[0], endpoint.Note{State: "RolledBack", Reason: "went back from set r1: DNS: timeout", Since: now})
	moved := trial.Status{Set: "r1", Phase: trial.RolledBack, Since: now, Attempt: 2, Cut: []string{"DNS: timeout"}}
	f.Endpoints[0].Annotations[trial.Annotation] = moved.Encode()
	f.Agents[1].Ready = false
	printed, _, err := f.run(t, false)
	require.Error(t, err)
	assert.Contains(t, printed, "node n1: RolledBack, its agent not ready: went back from set r1: DNS: timeout")
	printed, _, _ = f.runWith(t, settings.Settings{Output: "json"})
	assert.Contains(t, printed, `"cut": [`+"\n"+`          "DNS: timeout"`)
}

func TestWayOutIsOneProblemAndNotThatOfEachNode(t *testing.T) {
	f := protected()
	f.Endpoints, f.Controller = nil, false
	f.Agents[0].Ready, f.Agents[1].Ready = false, false
	f.Annotations = map[string]string{"host-firewall.io/open": "locked out"}
	printed, _, err := f.run(t, false)
	require.Error(t, err)
	assert.Equal(t, 1, strings.Count(printed, "\n  - "), printed)
	assert.Regexp(t, `(?m)^n1 +no endpoint +- +- +- +open, as the release is$`, printed)
}

func TestWhatTheControllerSaysTooIsToldOnce(t *testing.T) {
	f := protected()
	f.Policies = f.Policies[1:]
	const lack = "GlobalNetworkPolicies are missing: fw-ssh-r1"
	f.say(func(c *clearance.Clearance) {
		c.Reason, c.Drift = lack, map[string]string{"r1": lack + " (helm upgrade makes those that are missing)"}
	})
	printed, _, err := f.run(t, false)
	require.Error(t, err)
	assert.Equal(t, 1, strings.Count(printed, lack), printed)
	assert.Contains(t, printed, "set r1 has been changed: "+lack+" (helm upgrade")
}

func TestWhoHasToConfirmIsToldHow(t *testing.T) {
	f := protected()
	f.say(func(c *clearance.Clearance) { c.Deadline = now.Add(4 * time.Minute) })
	printed, _, err := f.run(t, false)
	require.NoError(t, err, "until then all is well")
	assert.Contains(t, printed, `Somebody has to confirm it within 4m, until 2000-01-01T00:04:00Z, or nodes leave it about a minute later:
  kubectl -n ns annotate --overwrite configmap fw host-firewall.io/confirm=r1
`)
	f.say(func(c *clearance.Clearance) { c.Deadline, c.Reason = now, "nobody has confirmed set r1" })
	printed, _, err = f.run(t, false)
	require.Error(t, err)
	assert.NotContains(t, printed, "annotate", "it is too late")
}

func TestRolloutThatIsJustEndingIsWaitedFor(t *testing.T) {
	f := protected()
	f.Updated = 1
	f.before = func(f *fake, passed time.Duration) error {
		switch {
		case passed < 10*time.Second:
			return errors.New("the API server is not reached")
		case passed > 20*time.Second:
			f.Updated = 2
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
		"node without endpoint":         {false, func(f *fake) { f.Endpoints = f.Endpoints[1:] }, []string{"\nn1       no endpoint", "node n1: it has no endpoint"}},
		"disarmed endpoint":             {false, func(f *fake) { delete(f.Endpoints[0].Labels, "host-firewall.io/set") }, []string{"node n1: HostEndpoint n1 is not armed"}},
		"endpoint of another set":       {false, func(f *fake) { f.Endpoints[0].Labels["host-firewall.io/set"] = "r0" }, []string{"node n1: HostEndpoint n1 is armed with set r0, and set r1 is wanted"}},
		"one of two endpoints disarmed": {false, func(f *fake) { f.hep("n1-eth0", "n1", "Waiting", "") }, []string{"node n1: HostEndpoint n1-eth0 is not armed"}},
		"endpoint of another release":   {false, func(f *fake) { f.Endpoints[1].Labels["host-firewall.io/release"] = "other" }, []string{"node n2: it has no endpoint"}},
		"agent that waits": {false, func(f *fake) {
			f.Endpoints = f.Endpoints[1:]
			f.hep("n1", "n1", "Waiting", "node n0 goes first with set r1")
			f.Agents[1].Ready = false
		}, []string{"node n1: Waiting, its agent not ready: node n0 goes first with set r1"}},
		"agent that never made an endpoint": {false, func(f *fake) {
			f.Endpoints = f.Endpoints[1:]
			f.Agents[1].Ready = false
		}, []string{"node n1: its agent is not ready: its log says why", " see the log of p1\n"}},
		"note of another state": {false, func(f *fake) {
			note(f.Endpoints[0], endpoint.Note{State: "Conflict", Reason: "HostEndpoint a of this node is of somebody else"})
		}, []string{"node n1: Conflict: HostEndpoint a of this node"}},
		"agents of the template before":           {false, func(f *fake) { f.Updated = 1 }, []string{"1 of 2 nodes are still to get their new agent"}},
		"node without the agent it needs":         {false, func(f *fake) { f.Wanted = 3 }, []string{"3 nodes are to have an agent, and 2 have one", "\nwindows  no agent"}},
		"two agents on one node, none on another": {false, func(f *fake) { f.Agents[0].Node = "n1" }, []string{"2 nodes are to have an agent, and 1 have one"}},
		"nobody to protect":                       {false, func(f *fake) { f.Seen = status.Seen{Nodes: f.Nodes, Data: f.Data, Observed: true} }, []string{"agent.nodeSelector"}},
		"static pod on no node":                   {false, func(f *fake) { f.Seen = status.Seen{Static: true, Nodes: f.Nodes, Data: f.Data} }, []string{"write on each of them what the command manifest prints"}},
		"static pod of another release":           {false, func(f *fake) { f.Static, f.Agents[1].Old = true, true }, []string{"node n1: its agent is not the present one: write there what"}},
		"static pod that is gone":                 {false, func(f *fake) { f.Static, f.Agents = true, f.Agents[:1] }, []string{"node n1: nobody keeps its endpoint, which an agent that is gone noted as Armed"}},
		"controller that is not ready":            {false, func(f *fake) { f.Controller = false }, []string{"the controller is not ready"}},
		"policy that is missing":                  {false, func(f *fake) { f.Policies = f.Policies[:1] }, []string{"GlobalNetworkPolicies are missing: fw-drop-r1"}},
		"policy that is about to go":              {false, func(f *fake) { f.Policies[0].DeletionTimestamp = &metav1.Time{} }, []string{"GlobalNetworkPolicies are missing: fw-ssh-r1"}},
		"policy of another release":               {false, func(f *fake) { f.Policies[0].Labels["host-firewall.io/release"] = "other" }, []string{"not as the chart has rendered them: fw-ssh-r1"}},
		"policy that was edited by hand": {false, func(f *fake) {
			f.Policies = f.Policies[1:]
			f.policy("fw-ssh-r1", "fw", "r1", map[string]any{"order": 10, "types": []any{"Egress"}})
		}, []string{"not as the chart has rendered them: fw-ssh-r1"}},
		"policy that pretends to be of the set": {false, func(f *fake) { f.policy("mine", "fw", "r1", nil) }, []string{"do not belong to it: mine"}},
		"controller that has said nothing":      {false, func(f *fake) { f.Data = nil }, []string{"there is no ConfigMap fw"}},
		"clearance that was edited by hand":     {false, func(f *fake) { f.Data["held"] = "?" }, []string{"ConfigMap fw: key held of the clearance cannot be read"}},
		"clearance of another set":              {false, func(f *fake) { f.Data["set"] = "r2" }, []string{"looks after set r2, and set r1 is wanted"}},
		"set that is not cleared":               {false, func(f *fake) { f.say(func(c *clearance.Clearance) { c.Reason = "node n9 is not trusted" }) }, []string{"no node may be armed with set r1: node n9 is not trusted"}},
		"drift of a set that is still in force": {false, func(f *fake) {
			f.say(func(c *clearance.Clearance) { c.Drift = map[string]string{"r0": "fw-ssh-r0 is missing"} })
		}, []string{"set r0 has been changed: fw-ssh-r0 is missing"}},
		"held nodes": {false, func(f *fake) {
			f.say(func(c *clearance.Clearance) {
				c.Held = map[string][]string{"policy default-deny would apply": {"n1", "n2", "windows"}}
			})
		}, []string{"nodes n1, n2: policy default-deny would apply", "\nwindows  no agent"}},
		"all nodes held": {false, func(f *fake) { f.say(func(c *clearance.Clearance) { c.Held = map[string][]string{"policy x": {"*"}} }) }, []string{"nodes n1, n2: policy x"}},
		"rival on a node": {false, func(f *fake) {
			f.say(func(c *clearance.Clearance) { c.Conflicts = map[string][]string{"HostEndpoint a wins": {"n2"}} })
		}, []string{"node n2: HostEndpoint a wins"}},
		"release that was opened": {false, func(f *fake) { f.Annotations = map[string]string{"host-firewall.io/open": "locked out"} },
			[]string{"opened by the annotation host-firewall.io/open of ConfigMap fw", ": locked out"}},
		"release that was opened, and is off": {true, func(f *fake) { f.Annotations = map[string]string{"host-firewall.io/open": ""} }, []string{"no reason is given"}},
		"release that is being uninstalled":   {false, func(f *fake) { f.Data = clearance.Closing() }, []string{"ConfigMap fw is closed: the release is being uninstalled"}},
		"armed although off":                  {true, func(f *fake) { f.Endpoints[0].Labels["host-firewall.io/set"] = "r1" }, []string{"node n1: HostEndpoint n1 is armed, although mode is off"}},
		"armed with any set although off":     {true, func(f *fake) { f.Endpoints[0].Labels["host-firewall.io/set"] = "r0" }, []string{"node n1: HostEndpoint n1 is armed, although mode is off"}},
		"armed although off, and left alone":  {true, func(f *fake) { f.hep("windows", "windows", "Armed", "") }, []string{"node windows: HostEndpoint windows is armed"}},
		"policy that is missing while off":    {true, func(f *fake) { f.Policies = nil }, []string{"GlobalNetworkPolicies are missing: fw-drop-r1, fw-ssh-r1"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := protected()
			if test.off {
				f = switchedOff()
			}
			test.damage(f)
			printed, took, err := f.run(t, test.off)
			require.EqualError(t, err, "not all is well")
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
	f.Nodes, f.Endpoints, f.Agents = nil, nil, nil
	for i := range 3000 {
		name := fmt.Sprintf("n%04d", i)
		f.Nodes = append(f.Nodes, name)
		f.Agents = append(f.Agents, status.Agent{Node: name, Pod: name, Ready: i%2 == 0})
		if i%2 == 1 {
			f.hep(name, name, "Conflict", "of "+name)
		}
	}
	f.Wanted, f.Updated = 3000, 3000
	printed, _, err := f.run(t, false)
	require.Error(t, err)
	assert.Contains(t, printed, "\n  - nodes n0000, n0002, n0004, n0006, n0008 and 1495 more: it has no endpoint\n")
	assert.Contains(t, printed, "\n  - and 1481 more problems\n")
	assert.Equal(t, 21, strings.Count(printed, "\n  - "))
}

func TestEndpointThatNobodyKeepsIsShown(t *testing.T) {
	f := protected()
	f.hep("windows", "windows", "Armed", "armed with set r0")
	printed, _, err := f.runWith(t, settings.Settings{Mode: "enforce", Output: "json"})
	require.NoError(t, err)
	assert.Contains(t, printed, "nobody keeps its endpoint, which an agent that is gone noted as Armed")
}

func TestClusterThatCannotBeReadIsAFailureThatSaysWhy(t *testing.T) {
	f := protected()
	f.before = func(*fake, time.Duration) error { return errors.New("list pods: forbidden") }
	printed, took, err := f.run(t, false)
	require.EqualError(t, err, "cannot look at release fw: list pods: forbidden")
	assert.Equal(t, time.Minute, took)
	assert.Empty(t, printed)

}

// A look that fails says less than what was seen before.
func TestWhatWasSeenLastIsToldWhenTheLastLookFails(t *testing.T) {
	f := protected()
	f.Policies = f.Policies[1:]
	f.before = func(_ *fake, passed time.Duration) error {
		if passed < 59*time.Second {
			return nil
		}
		time.Sleep(time.Minute - passed)
		return context.DeadlineExceeded
	}
	printed, _, err := f.run(t, false)
	require.EqualError(t, err, "cannot look at release fw: context deadline exceeded")
	assert.Contains(t, printed, "fw-ssh-r1")
}

func TestWaitingEndsWithTheProcess(t *testing.T) {
	f := protected()
	f.Controller = false
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		began := time.Now()
		require.Error(t, status.Run(ctx, f.Look, settings.Settings{Release: "fw", Wait: time.Hour}, io.Discard))
		assert.Equal(t, 5*time.Second, time.Since(began))
	})
}
