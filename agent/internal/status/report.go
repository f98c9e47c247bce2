package status

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// report is a look at the release, judged. As JSON it is for programs.
type report struct {
	Release   string    `json:"release"`
	Namespace string    `json:"namespace"`
	Mode      string    `json:"mode"`
	Set       string    `json:"set"` // that nodes are to be armed with
	Well      bool      `json:"well"`
	Problems  []problem `json:"problems,omitempty"`
	// Clearance says which nodes may be armed with the set, Held how many of them may not.
	Clearance string `json:"clearance"`
	Held      int    `json:"held"`
	// Deadline is when nodes leave the set again unless a person runs Confirm.
	Deadline time.Time `json:"deadline,omitzero"`
	Confirm  string    `json:"confirm,omitempty"`
	// Findings are who would be cut off by the set, and what else agents see.
	peers.Findings
	// States counts the nodes, of which Nodes has those first that are not well.
	States map[string]int `json:"states"`
	Nodes  []node         `json:"nodes"`

	told   settings.Settings
	said   clearance.Clearance
	seen   time.Time
	static bool
}

// problem is something that is not as it should be, on some nodes or for all.
type problem struct {
	Text  string   `json:"text"`
	Nodes []string `json:"nodes,omitempty"`
}

// node says how a node is, as its agent has noted it.
type node struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Set   string `json:"set,omitempty"` // that it is armed with
	// Since is when it came into this state, or its agent was last ready if it is not.
	Since    time.Time `json:"since,omitzero"`
	Enforced string    `json:"enforced,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	// Trial is the last move of the node between sets, and what was cut.
	Trial *trial.Status `json:"trial,omitempty"`
	Agent string        `json:"agent,omitempty"` // its pod
	Well  bool          `json:"well"`
}

// judge holds what was seen against what is wanted.
func judge(told settings.Settings, s Seen, now time.Time) *report {
	r := &report{Release: told.Release, Namespace: told.Namespace, Mode: told.Mode, Set: told.Set, States: map[string]int{}, told: told, seen: now, static: s.Static}
	agents, ours := map[string]Agent{}, map[string][]*v3.HostEndpoint{}
	for _, agent := range s.Agents {
		agents[agent.Node] = agent
	}
	for _, hep := range s.Endpoints {
		if endpoint.ReleaseOf(hep) == told.Release {
			ours[hep.Spec.Node] = append(ours[hep.Spec.Node], hep)
		}
	}
	r.judgeRelease(s, len(agents))
	var well []node
	for _, name := range slices.Sorted(slices.Values(s.Nodes)) {
		n, lack := r.judgeNode(name, agents[name], ours[name])
		if r.States[n.State]++; lack == "" {
			n.Well = true
			well = append(well, n)
			continue
		}
		r.Nodes = append(r.Nodes, n)
		r.problem(lack, name)
	}
	r.Nodes = append(r.Nodes, well...)
	r.Well = len(r.Problems) == 0
	return r
}

// judgeRelease judges what concerns no single node.
func (r *report) judgeRelease(s Seen, agents int) {
	switch {
	case s.Static:
		r.judgeStaticPods(agents)
	case s.Wanted == 0:
		r.problem("no node is to have an agent: see agent.nodeSelector and agent.affinity")
	case agents < s.Wanted:
		r.problem(fmt.Sprintf("%d nodes are to have an agent, and %d have one", s.Wanted, agents))
	case s.Updated < s.Wanted:
		r.problem(fmt.Sprintf("%d of %d agents are the present ones: the others are still to be replaced", s.Updated, s.Wanted))
	}
	said, err := clearance.Parse(s.Data, s.Annotations)
	r.said, r.Clearance, r.Findings = said, "no node may be armed", said.Findings
	// What the controller says of the same is not told twice.
	lack := policyset.Lack(r.Release, clearance.Set{Revision: r.Set, Policies: r.told.Policies}, s.Policies)
	if lack != "" && said.Drift[r.Set] == "" {
		r.problem(lack)
	}
	switch {
	case said.Opened:
		r.problem(fmt.Sprintf("it is opened by the annotation %s of ConfigMap %s, so no node has an endpoint until that goes: %s",
			clearance.OpenAnnotation, r.Release, cmp.Or(said.Open, "no reason is given")))
	case said.Closed:
		r.problem(fmt.Sprintf("ConfigMap %s is closed: the release is being uninstalled, or an uninstall was cut off", r.Release))
	case s.Data == nil:
		r.problem(fmt.Sprintf("the controller has said nothing yet: there is no ConfigMap %s", r.Release))
	case err != nil:
		r.problem(fmt.Sprintf("ConfigMap %s: %v", r.Release, err))
	case said.Wanted.Revision != r.Set:
		r.problem(fmt.Sprintf("the controller looks after set %s, and set %s is wanted", said.Wanted.Revision, r.Set))
	case r.told.Off(), lack != "" && said.Reason == lack:
	case said.Reason != "":
		r.problem(fmt.Sprintf("no node may be armed with set %s: %s", r.Set, said.Reason))
	case said.Canary != "":
		r.Clearance = "node " + said.Canary + " goes first"
	default:
		r.Clearance = "all nodes may be armed"
	}
	for _, set := range slices.Sorted(maps.Keys(said.Drift)) {
		r.problem(fmt.Sprintf("set %s has been changed: %s", set, said.Drift[set]))
	}
	// It is not ready either while it lets no node be armed, which says more.
	if !s.Controller && !said.Opened {
		r.problem("the controller is not ready: its log says why")
	}
	if r.Deadline = said.Deadline; r.Deadline.After(r.seen) {
		r.Confirm = clearance.Annotate(r.Namespace, r.Release, clearance.ConfirmAnnotation, r.Set)
	}
}

// judgeNode says how a node is, and what is wrong with it; empty: nothing. An agent without
// a pod is none.
func (r *report) judgeNode(name string, agent Agent, endpoints []*v3.HostEndpoint) (n node, lack string) {
	n = node{Name: name, Agent: agent.Pod, State: "no endpoint"}
	if len(endpoints) > 0 {
		note := endpoint.NoteOf(endpoints[0])
		n.State, n.Since, n.Reason, n.Enforced, n.Set = note.State, note.Since, note.Reason, note.Enforced, endpoint.SetOf(endpoints[0])
		if moved := trial.Parse(endpoint.AnnotationsOf(endpoints[0])[trial.Annotation]); moved.Phase != "" {
			n.Trial = &moved
		}
	}
	if !agent.Ready && agent.Since.After(n.Since) {
		n.Since = agent.Since
	}
	wanted, off, hold := "Armed", r.told.Off(), ""
	if hold, _ = r.said.Hold(name); hold != "" {
		r.Held++
	}
	if off {
		wanted = "Off"
	}
	switch lack = r.lackOf(endpoints); {
	case agent.Pod == "":
		// What was noted there is as old as the agent that is gone.
		noted := n.State
		if n.State, n.Reason, n.Enforced = "no agent", "it is not protected", ""; len(endpoints) > 0 {
			n.Reason = "nobody keeps its endpoint, which an agent that is gone noted as " + noted
		}
		if !off {
			lack = r.missing(n, endpoints)
		}
	case agent.Old:
		n.Reason, lack = oldPod, oldPod
	case len(endpoints) == 0 && r.said.Opened:
		n.Reason, lack = "open, as the release is", ""
	case hold != "" && !off:
		n.Reason, lack = hold, hold
	case !agent.Ready && n.Reason != "":
		lack = fmt.Sprintf("%s, its agent not ready: %s", n.State, n.Reason)
	case !agent.Ready:
		n.Reason, lack = "see the log of "+agent.Pod, "its agent is not ready: its log says why"
	case lack != "":
		n.Reason = lack
	case len(endpoints) > 0 && n.State != wanted:
		lack = fmt.Sprintf("%s: %s", n.State, n.Reason)
	}
	n.Reason = cmp.Or(n.Reason, hold)
	return n, lack
}

// lackOf says what is wrong with the endpoints of a node that has an agent; empty: nothing.
func (r *report) lackOf(endpoints []*v3.HostEndpoint) string {
	if len(endpoints) == 0 && !r.told.Off() {
		return "it has no endpoint"
	}
	for _, hep := range endpoints {
		switch set := endpoint.SetOf(hep); {
		case r.told.Off() && set != "":
			return fmt.Sprintf("HostEndpoint %s is armed, although mode is off", hep.Name)
		case r.told.Off(), set == r.Set:
		case set == "":
			return fmt.Sprintf("HostEndpoint %s is not armed", hep.Name)
		default:
			return fmt.Sprintf("HostEndpoint %s is armed with set %s, and set %s is wanted", hep.Name, set, r.Set)
		}
	}
	return ""
}

// problem notes one, on a node or for all. What is so on many nodes is one problem.
func (r *report) problem(text string, nodes ...string) {
	at := slices.IndexFunc(r.Problems, func(p problem) bool { return p.Text == text })
	if at < 0 {
		at = len(r.Problems)
		r.Problems = append(r.Problems, problem{Text: text})
	}
	r.Problems[at].Nodes = append(r.Problems[at].Nodes, nodes...)
}
