package status

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

const (
	// columns is how wide the table is, where the names of nodes leave a reason its least.
	// What is cut off there is whole in the summary, if it is a problem, and with the outputs wide and json.
	columns, leastReason = 80, 20
	// mostProblems are told to people: of thousands the first ones tell enough.
	mostProblems = 20
)

// print writes the report for programs, or the summary and a table for people.
func (r *report) print(out io.Writer) error {
	if r.told.Output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	_, err := io.WriteString(out, r.summary()+"\n"+r.table())
	return err
}

// summary says in words what is so for all nodes, and what is not as it should be.
func (r *report) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Release %s in mode %s is ", r.Release, r.Mode)
	switch {
	case r.Well:
		fmt.Fprintf(&b, "as it should be: its %d policies are there and unchanged.\n", len(r.told.Policies))
	case r.OnItsWay:
		b.WriteString("on its way:\n")
	default:
		b.WriteString("not as it should be:\n")
	}
	for _, p := range r.Problems[:min(mostProblems, len(r.Problems))] {
		where := ""
		switch len(p.Nodes) {
		case 0:
		case 1:
			where = "node " + p.Nodes[0] + ": "
		default:
			where = "nodes " + event.Some(p.Nodes) + ": "
		}
		fmt.Fprintf(&b, "  - %s%s\n", where, p.Text)
	}
	if more := len(r.Problems) - mostProblems; more > 0 {
		fmt.Fprintf(&b, "  - and %d more problems\n", more)
	}
	var states []string
	for _, state := range slices.Sorted(maps.Keys(r.States)) {
		states = append(states, fmt.Sprintf("%d %s", r.States[state], state))
	}
	if fmt.Fprintf(&b, "Set %s: %s. Nodes: %s", r.Set, r.Clearance, strings.Join(states, ", ")); r.Held > 0 {
		fmt.Fprintf(&b, "; %d held back", r.Held)
	}
	b.WriteString(".\n")
	if r.Confirm != "" {
		fmt.Fprintf(&b, "Somebody has to confirm it within %s, until %s, or nodes leave it about a minute later:\n  %s\n", duration.HumanDuration(r.Deadline.Sub(r.seen)), r.Deadline.UTC().Format(time.RFC3339), r.Confirm)
	}
	return b.String() + r.Text(r.Set, columns, mostProblems)
}

// table has a line for each node.
func (r *report) table() string {
	var text, cut strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tSTATE\tSET\tSINCE\tENFORCED\tREASON")
	for _, n := range r.Nodes {
		since := "-"
		if !n.Since.IsZero() {
			since = duration.HumanDuration(r.seen.Sub(n.Since))
		}
		reason := n.Reason
		switch enforced := endpoint.Proof(n.Enforced); {
		case n.Well && enforced != n.Enforced:
			reason = n.Enforced
		case n.armed():
			reason = "" // the state and the set say it
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.State, cmp.Or(n.Set, "-"), since, cmp.Or(r.enforced(n), "-"), cmp.Or(reason, "-"))
	}
	_ = table.Flush() // a strings.Builder takes everything
	if r.told.Output == "wide" {
		return text.String()
	}
	most := max(columns, strings.Index(text.String(), "REASON")+leastReason)
	for line := range strings.Lines(text.String()) {
		if runes := []rune(line); len(runes) > most+1 {
			line = string(runes[:most-3]) + "...\n"
		}
		cut.WriteString(line)
	}
	return cut.String()
}

// enforced says in a word or two what is seen to be enforced on a node.
func (r *report) enforced(n node) string {
	proof := endpoint.Proof(n.Enforced)
	switch {
	case proof == "" && n.Set != "" && n.Agent != "":
		return "not seen yet" // an agent that has begun has not looked
	case r.Mode == settings.ModeAudit && strings.HasPrefix(proof, "IPv4"):
		return "logs only"
	}
	return proof
}
