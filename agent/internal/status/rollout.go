package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// This file tells a rollout that goes on as it should from what somebody has to mend, and sees to it
// that nothing is told twice.

// lastStep is when the rollout went on last: an agent became ready, or began, or the controller did,
// or without agents a node came into another state.
func (r *report) lastStep(s Seen) time.Time {
	steps := []time.Time{s.Created, r.said.Controller}
	for _, agent := range s.Agents {
		steps = append(steps, agent.Since)
	}
	for _, n := range r.Nodes {
		if !r.told.Agents {
			steps = append(steps, n.Since)
		}
	}
	return slices.MaxFunc(steps, time.Time.Compare)
}

// passes tells whether what a node lacks comes by itself: its agent begins, waits for its turn, or
// tries the set. The controller, where it stands in for agents, is ready all the time.
func (r *report) passes(n node, agent Agent) bool {
	switch hold, _ := r.said.Hold(n.Name); {
	case agent.Pod == "" || agent.Old || agent.Ready && r.told.Agents || hold != "":
		return false
	case n.State == "Armed":
		return n.armed()
	}
	return n.State == "no endpoint" && r.told.Agents || n.State == "Waiting" || n.State == string(trial.Trying)
}

// stays tells whether the node is, as its agent says, what the release before has made of it.
func (r *report) stays(n node) bool {
	return n.Set != r.Set && (n.State == "Armed" || n.State == "Off") || n.Set != "" && r.told.Off()
}

// armed tells whether the agent says no more than that it has armed the node. Then the set says as much.
func (n node) armed() bool {
	return n.State == "Armed" && n.Set != "" && strings.HasSuffix(n.Reason, "armed with policy set "+n.Set)
}

// isTold tells whether the reason of a node was told for all nodes.
func (r *report) isTold(reason string) bool {
	return slices.ContainsFunc(r.because, func(told string) bool {
		return strings.Contains(reason, told) || reason != "" && strings.Contains(told, reason)
	})
}

// mayNotArm says why no node may be armed. The controller is not ready then either, and if it is away that is what it has said last.
func (r *report) mayNotArm(reason string, ready bool) {
	r.because = append(r.because, reason)
	switch {
	case reason == clearance.NoCanary:
		r.passing(reason)
	case ready:
		r.problem(fmt.Sprintf("no node may be armed with set %s: %s", r.Set, reason))
	default:
		r.problem(fmt.Sprintf("the controller is not ready, and lets no node be armed with set %s: %s", r.Set, reason))
	}
}

// judgeDrop says that nothing is dropped where no policy of the set is left that drops: what the
// nodes' packets meet is the rest of the set, and that is what agents see.
func (r *report) judgeDrop(s Seen) {
	for _, p := range s.Policies {
		rules, _ := p.Spec["ingress"].([]any)
		drops := slices.ContainsFunc(rules, func(rule any) bool {
			fields, _ := rule.(map[string]any)
			return fields["action"] == "Deny"
		})
		if drops && p.Labels[endpoint.SetLabel] == r.Set && p.DeletionTimestamp == nil {
			return
		}
	}
	armed := map[string]bool{}
	for _, hep := range s.Endpoints {
		if endpoint.ReleaseOf(hep) == r.Release && endpoint.SetOf(hep) == r.Set {
			armed[hep.Spec.Node] = true
		}
	}
	if r.Mode == settings.ModeEnforce && len(armed) > 0 {
		r.undropped = true
		r.problem(fmt.Sprintf("nothing is dropped on %s: the policy that drops is gone, or was changed", peers.Count(len(armed), "node")))
	}
}
