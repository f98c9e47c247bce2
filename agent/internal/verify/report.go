package verify

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/gate"
)

// Want is what the values ask for.
type Want struct {
	gate.Want
	// Off tells that no endpoint is to be armed; otherwise all of them are.
	Off bool
	// ArmingLabels are the labels that arm an endpoint of the release.
	ArmingLabels map[string]string
}

// state is what the note of every endpoint is to say.
func (w Want) state() string {
	if w.Off {
		return "Off"
	}
	return "Armed"
}

// seen is what one look has found.
type seen struct {
	Rollout
	nodes     []string
	endpoints []*v3.HostEndpoint
	policies  []*v3.GlobalNetworkPolicy
}

// report is a look at the release, judged.
type report struct {
	want     Want
	agents   int
	nodes    []node
	policies []policy
	// problems say what is not as it should be.
	problems []string
}

// node is a row of the table of nodes.
type node struct {
	name, state, reason string
	since               time.Time
}

// policy is a row of the table of policies; without a revision it is missing.
type policy struct{ name, revision string }

// judge holds what was seen against what is wanted.
func judge(want Want, s seen) report {
	agents := map[string]Agent{}
	for _, agent := range s.Agents {
		agents[agent.Node] = agent
	}
	r := report{want: want, agents: len(agents)}
	switch {
	case s.Wanted == 0:
		r.problem("no node is to have an agent: see agent.nodeSelector and agent.affinity")
	case len(agents) < s.Wanted:
		r.problem("%d nodes are to have an agent, and %d have one", s.Wanted, len(agents))
	case s.Updated < s.Wanted:
		r.problem("%d of %d agents are the present ones: the others are still to be replaced", s.Updated, s.Wanted)
	}
	ours := map[string][]*v3.HostEndpoint{}
	for _, hep := range s.endpoints {
		if endpoint.ReleaseOf(hep) == want.Release {
			ours[hep.Spec.Node] = append(ours[hep.Spec.Node], hep)
		}
	}
	for _, name := range s.nodes {
		row := rowOf(name, ours[name])
		problem := ""
		if agent, has := agents[name]; has {
			problem = want.lack(agent, row, ours[name])
		} else {
			// What an agent has noted is as old as that agent.
			noted := row
			row = node{name: name, state: "no agent", reason: "it is not protected"}
			if len(ours[name]) > 0 {
				row.reason = fmt.Sprintf("nobody keeps its endpoint %s, which an agent that is gone noted as %s at %s", ours[name][0].Name, noted.state, timeOf(noted.since))
			}
			if want.Off {
				problem = want.lackOf(ours[name])
			}
		}
		if problem != "" {
			row.reason = problem
			r.problem("node %s: %s", name, problem)
		}
		r.nodes = append(r.nodes, row)
	}
	slices.SortFunc(r.nodes, func(a, b node) int { return cmp.Compare(a.name, b.name) })

	revisions := gate.Revisions(want.Release, s.policies)
	for _, name := range want.Policies {
		r.policies = append(r.policies, policy{name, revisions[name]})
	}
	if complete, why := gate.Check(want.Want, s.policies); !complete {
		r.problem("%s", why)
	}
	return r
}

// rowOf shows what the agent has noted on the endpoints of a node.
func rowOf(name string, endpoints []*v3.HostEndpoint) node {
	if len(endpoints) == 0 {
		return node{name: name, state: "no endpoint"}
	}
	note := endpoint.NoteOf(endpoints[0])
	return node{name: name, state: note.State, since: note.Since, reason: note.Reason}
}

// lack says why a node with an agent is not as it should be; empty: it is.
func (w Want) lack(agent Agent, row node, endpoints []*v3.HostEndpoint) string {
	switch lack := w.lackOf(endpoints); {
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
func (w Want) lackOf(endpoints []*v3.HostEndpoint) string {
	if len(endpoints) == 0 && !w.Off {
		return "it has no endpoint"
	}
	for _, hep := range endpoints {
		switch armed := endpoint.SetOf(hep) != ""; {
		case armed && w.Off:
			return fmt.Sprintf("HostEndpoint %s is armed, although mode is off", hep.Name)
		case !armed && !w.Off:
			return fmt.Sprintf("HostEndpoint %s is not armed", hep.Name)
		}
	}
	return ""
}

func (r *report) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// print writes the report for people.
func (r report) print(out io.Writer) error {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NODE\tSTATE\tSINCE\tREASON")
	for _, n := range r.nodes {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", n.name, n.state, timeOf(n.since), cmp.Or(n.reason, "-"))
	}
	fmt.Fprintln(table, "\nPOLICY\tREVISION")
	for _, p := range r.policies {
		fmt.Fprintf(table, "%s\t%s\n", p.name, cmp.Or(p.revision, "missing"))
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
		return fmt.Sprintf("Release %s is not as it should be:\n  - %s", r.want.Release, strings.Join(r.problems, "\n  - "))
	}
	state := "armed"
	if r.want.Off {
		state = "not armed, as mode is off"
	}
	return fmt.Sprintf("Release %s is as it should be: %d nodes are %s, %d policies are at revision %s.",
		r.want.Release, r.agents, state, len(r.policies), r.want.Revision)
}
