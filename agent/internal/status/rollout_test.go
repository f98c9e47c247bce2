package status_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// moment is when the last agent of a rollout that goes on has begun.
var moment = now.Add(-10 * time.Second)

// begins makes the agent of n1 one that has begun a moment ago, on a node as it says.
func (f *fake) begins(set, state, reason string) {
	f.Agents[1].Ready, f.Agents[1].Since = false, moment
	f.Endpoints[0].Labels["host-firewall.io/set"] = set
	note(f.Endpoints[0], endpoint.Note{State: state, Reason: reason})
}

var rollouts = map[string]struct {
	goesOn func(f *fake)
	want   string // a line of it
}{
	"nothing is there yet": {func(f *fake) {
		f.Seen.Agents, f.Endpoints, f.Data, f.Controller, f.Observed, f.Wanted, f.Updated, f.Created = nil, nil, nil, false, false, 0, 0, moment
	}, "Kubernetes has not looked at the DaemonSet yet"},
	"agents begin, and the controller": {func(f *fake) {
		f.Endpoints, f.Data, f.Controller = nil, nil, false
		for i := range f.Agents {
			f.Agents[i].Ready, f.Agents[i].Since = false, moment
		}
	}, "nodes n1, n2: its agent is not ready: its log says why"},
	"old agents have their turn later": {func(f *fake) {
		f.begins("r0", "Trying", "tries set r1")
		f.Updated = 1
		f.Endpoints[1].Labels["host-firewall.io/set"] = "r0"
	}, "1 of 2 nodes are still to get their new agent"},
	"a node waits for the first one": {func(f *fake) {
		f.begins("r0", "Waiting", "stays armed with set r0, not with r1: node n2 goes first with set r1")
		f.say(func(c *clearance.Clearance) { c.Canary = "n2" })
	}, "node n1: Waiting, its agent not ready: stays armed with set r0"},
	"no node can go first yet": {func(f *fake) {
		f.begins("r0", "Waiting", "stays armed with set r0, not with r1: "+clearance.NoCanary)
		f.say(func(c *clearance.Clearance) { c.Reason = clearance.NoCanary })
	}, clearance.NoCanary},
	"the controller stands in for agents": {func(f *fake) {
		f.begins("r0", "Waiting", "stays armed with set r0, not with r1: node n2 goes first with set r1")
		f.operator, f.Agents[1].Ready = true, true
	}, "node n1: Waiting: stays armed with set r0, not with r1: node n2 goes first"},
	"the same while a node tries": {func(f *fake) {
		f.begins("r1", "Trying", "tries set r1")
		f.operator, f.Agents[1].Ready = true, true
	}, "node n1: Trying: tries set r1"},
	"an agent begins on a node that stays as it is": {func(f *fake) {
		f.begins("r1", "Armed", "armed with policy set r1")
	}, "node n1: its agent is not ready yet"},
}

func TestRolloutThatGoesOnIsOnItsWay(t *testing.T) {
	for name, rollout := range rollouts {
		t.Run(name, func(t *testing.T) {
			f := protected()
			rollout.goesOn(f)
			printed, _, err := f.runWith(t, settings.Settings{Mode: "enforce"})
			require.EqualError(t, err, "not all is well", "a program that asks wants to wait for the end")
			assert.Contains(t, printed, "Release fw in mode enforce is on its way:\n  - ")
			assert.Contains(t, printed, rollout.want)
		})
	}
}

func TestRolloutThatMakesNoStepIsNotAsItShouldBe(t *testing.T) {
	for name, rollout := range rollouts {
		t.Run(name, func(t *testing.T) {
			f := protected()
			rollout.goesOn(f)
			f.Created = time.Time{}
			for i := range f.Agents {
				f.Agents[i].Since = now.Add(-6 * time.Minute)
			}
			for _, hep := range f.Endpoints {
				said := endpoint.NoteOf(hep)
				said.Since = now.Add(-6 * time.Minute)
				note(hep, said)
			}
			printed, _, err := f.runWith(t, settings.Settings{Mode: "enforce"})
			require.Error(t, err)
			assert.Contains(t, printed, "Release fw in mode enforce is not as it should be:\n  - ")
			assert.Contains(t, printed, rollout.want)
		})
	}
}

func TestRolloutThatSomebodyHasToMendIsNotAsItShouldBe(t *testing.T) {
	for name, damage := range map[string]func(f *fake){
		"a node went back":    func(f *fake) { f.begins("r0", "RolledBack", "went back from set r1 to set r0: DNS") },
		"somebody's endpoint": func(f *fake) { f.begins("r0", "Conflict", "HostEndpoint a wins") },
		"a node is held": func(f *fake) {
			f.say(func(c *clearance.Clearance) { c.Held = map[string][]string{"policy x": {"n1"}} })
		},
		"no node may be armed":    func(f *fake) { f.say(func(c *clearance.Clearance) { c.Reason = "node n9 is not trusted" }) },
		"an armed one complains":  func(f *fake) { f.begins("r1", "Armed", "stays armed, but not enforced") },
		"a ready agent's is open": func(f *fake) { f.Endpoints = f.Endpoints[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			f := protected()
			f.begins("r0", "Trying", "tries set r1")
			f.Updated, f.Agents[0].Since = 1, moment
			f.Agents[1].Ready = name == "a ready agent's is open"
			damage(f)
			printed, _, err := f.runWith(t, settings.Settings{Mode: "enforce"})
			require.Error(t, err)
			assert.Contains(t, printed, "is not as it should be:\n  - ")
		})
	}
}

// The controller that stands in for agents is ready all the time: what is wrong stands in its notes.
func TestNodesReasonIsToldWhereTheControllerStandsIn(t *testing.T) {
	for reason, state := range map[string]string{
		"went back from set r1 to set r0: the Node's condition Ready": "RolledBack",
		"SSH's failsafe is not as it should be: forbidden":            "Armed",
		"stays armed, but it is not as it was":                        "Armed",
	} {
		f := protected()
		f.begins("r1", state, reason)
		f.operator, f.Agents[1].Ready = true, true
		if state == "RolledBack" {
			f.Endpoints[0].Labels["host-firewall.io/set"] = "r0"
		}
		printed, _, err := f.runWith(t, settings.Settings{Mode: "enforce", Output: "wide"})
		require.Error(t, err)
		assert.Contains(t, printed, "is not as it should be:\n  - node n1: "+state+": "+reason+"\n")
		assert.Regexp(t, `(?m)^n1 .*`+reason, printed)
	}
	f := protected()
	f.begins("r0", "Waiting", "stays armed with set r0, not with r1: node n2 goes first with set r1")
	f.operator, f.Agents[0].Since, f.Agents[1].Since = true, time.Time{}, time.Time{}
	note(f.Endpoints[1], endpoint.Note{State: "Armed", Reason: "armed with policy set r1", Since: moment})
	printed, _, err := f.runWith(t, settings.Settings{Mode: "enforce"})
	require.Error(t, err)
	assert.Contains(t, printed, "is on its way", "a node that has moved is a step")
	f = switchedOff()
	f.operator = true
	_, _, err = f.run(t, true)
	require.NoError(t, err)
	note(f.Endpoints[0], endpoint.Note{State: "Off", Reason: "SSH's failsafe is not as it should be: forbidden"})
	_, _, err = f.run(t, true)
	require.Error(t, err)
}

// What is so for all nodes no node says again, nor does the controller that is not ready for it.
func TestReasonForAllNodesIsToldOnce(t *testing.T) {
	const why = "no other node moves to set r1, for n1 went back. Node n1 went back from set r1 to set r0: DNS: kubectl annotate"
	f := protected()
	f.Controller, f.Agents[0].Ready = false, false
	f.begins("r0", "RolledBack", "went back from set r1 to set r0: DNS")
	f.Endpoints[1].Labels["host-firewall.io/set"] = "r0"
	note(f.Endpoints[1], endpoint.Note{State: "Waiting", Reason: "stays armed with set r0, not with r1: " + why})
	f.say(func(c *clearance.Clearance) { c.Reason = why })
	printed, _, err := f.runWith(t, settings.Settings{Mode: "enforce"})
	require.Error(t, err)
	summary, _, _ := strings.Cut(printed, "\nNODE ")
	assert.Equal(t, `Release fw in mode enforce is not as it should be:
  - the controller is not ready, and lets no node be armed with set r1: `+why+`
Set r1: no node may be armed. Nodes: 1 RolledBack, 1 Waiting, 1 no agent.
`, summary)

	f = protected()
	f.Policies, f.Controller = f.Policies[:1], false
	const lack = "GlobalNetworkPolicies are missing: fw-drop-r1"
	f.say(func(c *clearance.Clearance) {
		c.Reason, c.Drift = lack, map[string]string{"r1": lack + " (helm upgrade)"}
	})
	for i, hep := range f.Endpoints {
		f.Agents[i].Ready = false
		note(hep, endpoint.Note{State: "Armed", Reason: "stays armed, but " + lack + " (helm upgrade)", Enforced: "IPv4 and IPv6"})
	}
	printed, _, err = f.runWith(t, settings.Settings{Mode: "enforce"})
	require.Error(t, err)
	assert.Equal(t, `Release fw in mode enforce is not as it should be:
  - nothing is dropped on 2 nodes: the policy that drops is gone, or was changed
  - set r1 has been changed: GlobalNetworkPolicies are missing: fw-drop-r1 (helm upgrade)
Set r1: no node may be armed. Nodes: 2 Armed, 1 no agent.

NODE     STATE     SET  SINCE  ENFORCED  REASON
n1       Armed     r1   -      nothing   stays armed, but GlobalNetworkPolici...
n2       Armed     r1   -      nothing   stays armed, but GlobalNetworkPolici...
windows  no agent  -    -      -         it is not protected
`, printed)
}

// Whoever reads the column believes what stands there.
func TestEnforcedIsWhatIsDropped(t *testing.T) {
	f := protected()
	note(f.Endpoints[1], endpoint.Note{State: "Armed", Reason: "armed with policy set r1", Since: now})
	printed, _, err := f.runWith(t, settings.Settings{Mode: "audit"})
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^n1 +Armed +r1 +3m +logs only +-$`, printed)
	assert.Regexp(t, `(?m)^n2 +Armed +r1 +0s +not seen yet +-$`, printed)

	f.policy("fw-drop-r1", "fw", "r1", map[string]any{"order": 20, "ingress": []any{map[string]any{"action": "Allow"}}})
	f.Policies = append(f.Policies[:1], f.Policies[len(f.Policies)-1])
	printed, _, err = f.runWith(t, settings.Settings{Mode: "enforce"})
	require.Error(t, err)
	assert.Contains(t, printed, "nothing is dropped on 2 nodes: ")
	assert.Regexp(t, `(?m)^n1 +Armed +r1 +3m +nothing `, printed)
	printed, _, err = f.runWith(t, settings.Settings{Mode: "audit"})
	require.Error(t, err)
	assert.NotContains(t, printed, "nothing is dropped", "that is what audit is for")
}
