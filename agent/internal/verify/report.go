package verify

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// want is what the values ask for.
type want struct{ settings.Settings }

// set is the set of policies that nodes are to be armed with.
func (w want) set() clearance.Set { return clearance.Set{Revision: w.Set, Policies: w.Policies} }

// state is what the note of every endpoint is to say.
func (w want) state() string {
	if w.Off() {
		return "Off"
	}
	return "Armed"
}

// seen is what one look has found.
type seen struct {
	Rollout
	data, annotations map[string]string
	nodes             []string
	endpoints         []*v3.HostEndpoint
	policies          []*policyset.Policy
}

// report is a look at the release, judged.
type report struct {
	want     want
	agents   int
	nodes    []node
	policies []policy
	// problems say what is not as it should be.
	problems []problem
}

// node is a row of the table of nodes.
type node struct {
	name, state, set, reason string
	since                    time.Time
}

// policy is a row of the table of policies.
type policy struct{ name, state string }

// problem is something that is not as it should be, on some nodes or for all.
type problem struct {
	text  string
	nodes []string
}

// judge holds what was seen against what is wanted.
func judge(w want, s seen) report {
	agents := map[string]Agent{}
	for _, agent := range s.Agents {
		agents[agent.Node] = agent
	}
	r := report{want: w, agents: len(agents)}
	said := r.judgeRelease(s)
	ours := map[string][]*v3.HostEndpoint{}
	for _, hep := range s.endpoints {
		if endpoint.ReleaseOf(hep) == w.Release {
			ours[hep.Spec.Node] = append(ours[hep.Spec.Node], hep)
		}
	}
	for _, name := range slices.Sorted(slices.Values(s.nodes)) {
		row, lack := rowOf(name, ours[name]), ""
		if agent, has := agents[name]; has {
			hold, _ := said.Hold(name)
			lack = w.lack(agent, row, ours[name], hold)
			row.reason = cmp.Or(row.reason, hold)
		} else {
			row, lack = w.unkept(row, ours[name])
		}
		if lack != "" {
			row.reason = lack
			r.problem(lack, name)
		}
		r.nodes = append(r.nodes, row)
	}
	return r
}

// judgeRelease judges what concerns no single node, and returns what the clearance says.
func (r *report) judgeRelease(s seen) clearance.Clearance {
	switch {
	case s.Wanted == 0:
		r.problem("no node is to have an agent: see agent.nodeSelector and agent.affinity")
	case r.agents < s.Wanted:
		r.problem(fmt.Sprintf("%d nodes are to have an agent, and %d have one", s.Wanted, r.agents))
	case s.Updated < s.Wanted:
		r.problem(fmt.Sprintf("%d of %d agents are the present ones: the others are still to be replaced", s.Updated, s.Wanted))
	}
	for _, name := range slices.Sorted(maps.Keys(r.want.Policies)) {
		r.policies = append(r.policies, policy{name, r.want.stateOf(name, s.policies)})
	}
	if lack := policyset.Lack(r.want.Release, r.want.set(), s.policies); lack != "" {
		r.problem(lack)
	}
	said, err := clearance.Parse(s.data, s.annotations)
	for _, text := range r.want.objections(said, err, s.data) {
		r.problem(text)
	}
	if !s.Controller {
		r.problem("the controller is not ready: its log says why")
	}
	return said
}

// stateOf says how one policy of the set is.
func (w want) stateOf(name string, have []*policyset.Policy) string {
	alone := clearance.Set{Revision: w.Set, Policies: map[string]string{name: w.Policies[name]}}
	for _, p := range have {
		switch {
		case p.Name != name || p.DeletionTimestamp != nil:
		case policyset.Lack(w.Release, alone, []*policyset.Policy{p}) == "":
			return "unchanged"
		default:
			return "changed"
		}
	}
	return "missing"
}

// objections are what the clearance says against the release.
func (w want) objections(said clearance.Clearance, err error, data map[string]string) (all []string) {
	switch {
	case said.Opened:
		all = append(all, fmt.Sprintf("it is opened by the annotation %s of ConfigMap %s, so no node has an endpoint until that goes: %s",
			clearance.OpenAnnotation, w.Release, cmp.Or(said.Open, "no reason is given")))
	case said.Closed:
		all = append(all, fmt.Sprintf("ConfigMap %s is closed: the release is being uninstalled, or an uninstall was cut off", w.Release))
	case data == nil:
		all = append(all, fmt.Sprintf("the controller has said nothing yet: there is no ConfigMap %s", w.Release))
	case err != nil:
		all = append(all, fmt.Sprintf("ConfigMap %s: %v", w.Release, err))
	case said.Wanted.Revision != w.Set:
		all = append(all, fmt.Sprintf("the controller looks after set %s, and set %s is wanted", said.Wanted.Revision, w.Set))
	case said.Reason != "" && w.Mode != settings.ModeOff:
		all = append(all, fmt.Sprintf("no node may be armed with set %s: %s", w.Set, said.Reason))
	}
	for _, set := range slices.Sorted(maps.Keys(said.Drift)) {
		all = append(all, fmt.Sprintf("set %s has been changed: %s", set, said.Drift[set]))
	}
	return all
}

// rowOf shows what the agent has noted on the endpoints of a node.
func rowOf(name string, endpoints []*v3.HostEndpoint) node {
	if len(endpoints) == 0 {
		return node{name: name, state: "no endpoint"}
	}
	note := endpoint.NoteOf(endpoints[0])
	return node{name: name, state: note.State, set: endpoint.SetOf(endpoints[0]), since: note.Since, reason: note.Reason}
}

// unkept shows a node without an agent: what was noted there is as old as the agent that
// is gone. lack says what is wrong with it.
func (w want) unkept(noted node, endpoints []*v3.HostEndpoint) (row node, lack string) {
	row = node{name: noted.name, state: "no agent", set: noted.set, reason: "it is not protected"}
	if len(endpoints) > 0 {
		row.reason = fmt.Sprintf("nobody keeps its endpoint %s, which an agent that is gone noted as %s at %s", endpoints[0].Name, noted.state, timeOf(noted.since))
	}
	if w.Off() {
		lack = w.lackOf(endpoints)
	}
	return row, lack
}

// lack says why a node with an agent is not as it should be; empty: it is. hold is why
// the controller holds it back.
func (w want) lack(agent Agent, row node, endpoints []*v3.HostEndpoint, hold string) string {
	switch lack := w.lackOf(endpoints); {
	case hold != "" && !w.Off():
		return hold
	case !agent.Ready && row.reason != "":
		return fmt.Sprintf("agent %s has not been ready since %s, its node was last noted as %s: %s", agent.Pod, timeOf(agent.Since), row.state, row.reason)
	case !agent.Ready:
		return fmt.Sprintf("agent %s has not been ready since %s, its log says why", agent.Pod, timeOf(agent.Since))
	case lack != "":
		return lack
	case len(endpoints) > 0 && row.state != w.state():
		return fmt.Sprintf("is %s: %s", row.state, row.reason)
	}
	return ""
}

// lackOf says what is wrong with the endpoints of a node; empty: nothing.
func (w want) lackOf(endpoints []*v3.HostEndpoint) string {
	if len(endpoints) == 0 && !w.Off() {
		return "it has no endpoint"
	}
	for _, hep := range endpoints {
		switch set := endpoint.SetOf(hep); {
		case w.Off() && set != "":
			return fmt.Sprintf("HostEndpoint %s is armed, although mode is off", hep.Name)
		case w.Off(), set == w.Set:
		case set == "":
			return fmt.Sprintf("HostEndpoint %s is not armed", hep.Name)
		default:
			return fmt.Sprintf("HostEndpoint %s is armed with set %s, and set %s is wanted", hep.Name, set, w.Set)
		}
	}
	return ""
}

// problem notes one, on a node or for all. What is so on many nodes is one problem.
func (r *report) problem(text string, nodes ...string) {
	for i := range r.problems {
		if r.problems[i].text == text {
			r.problems[i].nodes = append(r.problems[i].nodes, nodes...)
			return
		}
	}
	r.problems = append(r.problems, problem{text, nodes})
}

// String is the problem for people.
func (p problem) String() string {
	switch len(p.nodes) {
	case 0:
		return p.text
	case 1:
		return fmt.Sprintf("node %s: %s", p.nodes[0], p.text)
	default:
		return fmt.Sprintf("nodes %s: %s", event.Some(p.nodes), p.text)
	}
}

// print writes the report for people.
func (r report) print(out io.Writer) error {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NODE\tSTATE\tSET\tSINCE\tREASON")
	for _, n := range r.nodes {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", n.name, n.state, cmp.Or(n.set, "-"), timeOf(n.since), cmp.Or(n.reason, "-"))
	}
	fmt.Fprintf(table, "\nPOLICY OF SET %s\tSTATE\n", r.want.Set)
	for _, p := range r.policies {
		fmt.Fprintf(table, "%s\t%s\n", p.name, p.state)
	}
	_ = table.Flush() // a strings.Builder takes everything
	text.WriteString("\n" + r.verdict() + "\n")
	_, err := io.WriteString(out, text.String())
	return err
}

// timeOf writes a time, and a dash where there is none.
func timeOf(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// verdict says in words what the tables mean.
func (r report) verdict() string {
	if len(r.problems) > 0 {
		return fmt.Sprintf("Release %s in mode %s is not as it should be:%s", r.want.Release, r.want.Mode, listOf(r.problems))
	}
	state := "armed with set " + r.want.Set
	if r.want.Off() {
		state = "not armed"
	}
	return fmt.Sprintf("Release %s in mode %s is as it should be: %d nodes are %s, its %d policies are there and unchanged.",
		r.want.Release, r.want.Mode, r.agents, state, len(r.policies))
}

// listOf lists the problems; of thousands the first ones tell enough.
func listOf(problems []problem) string {
	const most = 20
	var b strings.Builder
	for _, p := range problems[:min(most, len(problems))] {
		b.WriteString("\n  - " + p.String())
	}
	if more := len(problems) - most; more > 0 {
		fmt.Fprintf(&b, "\n  - and %d more problems", more)
	}
	return b.String()
}
