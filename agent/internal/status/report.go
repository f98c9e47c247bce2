package status

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	Release   string `json:"release"`
	Namespace string `json:"namespace"`
	Mode      string `json:"mode"`
	Set       string `json:"set"` // that nodes are to be armed with
	Well      bool   `json:"well"`
	// OnItsWay tells that a rollout goes on, and that nothing else is wrong than what it ends by itself.
	OnItsWay bool      `json:"onItsWay,omitempty"`
	Problems []problem `json:"problems,omitempty"`
	// Clearance says which nodes may be armed with the set, Held how many of them may not.
	Clearance string `json:"clearance"`
	Held      int    `json:"held"`
	// Deadline is until when a person has to run Confirm, or nodes leave the set a minute later.
	Deadline time.Time `json:"deadline,omitzero"`
	Confirm  string    `json:"confirm,omitempty"`
	// Findings are who would be cut off by the set, and what else agents see.
	peers.Findings
	// States counts the nodes, of which Nodes has those first that are not well.
	States map[string]int `json:"states"`
	Nodes  []node         `json:"nodes"`

	told      settings.Settings
	said      clearance.Clearance
	seen      time.Time
	static    bool
	because   []string // reasons that were told for all nodes
	undropped bool     // no policy of the set is left that drops
}

// patience is how long a rollout may make no step and is on its way all the same: Kubernetes waits
// twice as long for a Deployment.
const patience = 5 * time.Minute

// problem is something that is not as it should be, on some nodes or for all.
type problem struct {
	Text  string   `json:"text"`
	Nodes []string `json:"nodes,omitempty"`
	// passes tells that a rollout that goes on ends it.
	passes bool
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
		switch agent := agents[name]; {
		case r.isTold(n.Reason), agent.Ready && r.stays(n) && s.Updated < s.Wanted:
			// That its agent is to be replaced is told as well.
		case r.passes(n, agent):
			r.passing(lack, name)
		default:
			r.problem(lack, name)
		}
	}
	r.Nodes = append(r.Nodes, well...)
	r.Well = len(r.Nodes) == len(well) && len(r.Problems) == 0
	wrong := slices.ContainsFunc(r.Problems, func(p problem) bool { return !p.passes })
	r.OnItsWay = !r.Well && !wrong && now.Sub(r.lastStep(s)) < patience
	return r
}

// judgeRelease judges what concerns no single node.
func (r *report) judgeRelease(s Seen, agents int) {
	switch {
	case s.Static:
		r.judgeStaticPods(agents)
	case s.Wanted == 0 && !s.Observed:
		r.passing("Kubernetes has not looked at the DaemonSet yet")
	case s.Wanted == 0:
		r.problem("no node is to have an agent: see agent.nodeSelector and agent.affinity")
	case agents < s.Wanted:
		r.passing(fmt.Sprintf("%d nodes are to have an agent, and %d have one", s.Wanted, agents))
	case s.Updated < s.Wanted:
		r.passing(fmt.Sprintf("%d of %d nodes are still to get their new agent", s.Wanted-s.Updated, s.Wanted))
	}
	said, err := clearance.Parse(s.Data, s.Annotations)
	r.said, r.Clearance, r.Findings = said, "no node may be armed", said.Findings
	// What the controller says of the same is not told twice.
	lack := policyset.Lack(r.Release, clearance.Set{Revision: r.Set, Policies: r.told.Policies}, s.Policies)
	if lack != "" && said.Drift[r.Set] == "" {
		r.because = append(r.because, lack)
		r.problem(lack)
	}
	if lack != "" {
		r.judgeDrop(s)
	}
	switch {
	case said.Opened:
		r.problem(fmt.Sprintf("it is opened by the annotation %s of ConfigMap %s, so no node has an endpoint until that goes: %s",
			clearance.OpenAnnotation, r.Release, cmp.Or(said.Open, "no reason is given")))
	case said.Closed:
		r.problem(fmt.Sprintf("ConfigMap %s is closed: the release is being uninstalled, or an uninstall was cut off", r.Release))
	case s.Data == nil:
		r.passing(fmt.Sprintf("the controller has said nothing yet: there is no ConfigMap %s", r.Release))
		return
	case err != nil:
		r.problem(fmt.Sprintf("ConfigMap %s: %v", r.Release, err))
	case said.Wanted.Revision != r.Set:
		r.passing(fmt.Sprintf("the controller looks after set %s, and set %s is wanted", said.Wanted.Revision, r.Set))
	case r.told.Off(), lack != "" && said.Reason == lack:
	case said.Reason != "":
		r.mayNotArm(said.Reason, s.Controller)
	case said.Canary != "":
		r.Clearance = "node " + said.Canary + " goes first"
	default:
		r.Clearance = "all nodes may be armed"
	}
	for _, set := range slices.Sorted(maps.Keys(said.Drift)) {
		r.because = append(r.because, said.Drift[set])
		r.problem(fmt.Sprintf("set %s has been changed: %s", set, said.Drift[set]))
	}
	// While it lets no node be armed it is not ready either, and that is told.
	if told := said.Reason != "" && !r.told.Off(); !s.Controller && !said.Opened && !told {
		r.passing("the controller is not ready: its log says why")
	}
	if r.Deadline = said.Deadline; r.Deadline.After(r.seen) {
		r.Confirm = clearance.Annotate(r.Namespace, r.Release, clearance.ConfirmAnnotation, r.Set)
	}
}

// judgeNode says how a node is, and what is wrong with it; empty: nothing. An agent without
// a pod is none. Where the controller stands in for agents, it has noted what it finds wrong.
func (r *report) judgeNode(name string, agent Agent, endpoints []*v3.HostEndpoint) (n node, lack string) {
	n = node{Name: name, Agent: agent.Pod, State: "no endpoint"}
	if len(endpoints) > 0 {
		note := endpoint.NoteOf(endpoints[0])
		n.State, n.Since, n.Reason, n.Enforced, n.Set = note.State, note.Since, note.Reason, note.Enforced, endpoint.SetOf(endpoints[0])
		if moved := trial.Parse(endpoint.AnnotationsOf(endpoints[0])[trial.Annotation]); moved.Phase != "" {
			n.Trial = &moved
		}
	}
	if r.undropped && n.Set == r.Set {
		n.Enforced = "nothing: the policy that drops is gone, or was changed"
	}
	if !agent.Ready && agent.Since.After(n.Since) {
		n.Since = agent.Since
	}
	if !r.told.Agents {
		agent.Ready = n.Reason == "" || n.armed() || n.State == "Off" && strings.HasPrefix(n.Reason, "mode is off")
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
	case !agent.Ready && n.Set == r.Set && n.armed():
		lack = "its agent is not ready yet"
	case !agent.Ready && n.Reason != "" && !r.told.Agents:
		lack = fmt.Sprintf("%s: %s", n.State, n.Reason)
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
func (r *report) problem(text string, nodes ...string) { r.note(problem{text, nodes, false}) }

// passing notes one that a rollout that goes on ends.
func (r *report) passing(text string, nodes ...string) { r.note(problem{text, nodes, true}) }

func (r *report) note(p problem) {
	at := slices.IndexFunc(r.Problems, func(q problem) bool { return q.Text == p.Text })
	if at < 0 {
		r.Problems = append(r.Problems, p)
		return
	}
	r.Problems[at].Nodes = append(r.Problems[at].Nodes, p.Nodes...)
	r.Problems[at].passes = r.Problems[at].passes && p.passes
}
