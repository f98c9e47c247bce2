package preview

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

const (
	// columns is how wide the text is.
	columns = 80
	// Of more than these the first are told to people; the JSON has all.
	mostChanges, mostNetworks, mostUses = 20, 6, 5
)

// text is the change in a clause.
func (c *Change) text() string {
	to := c.To
	if more := len(to) - mostNetworks; more > 1 {
		to = append(slices.Clone(to[:mostNetworks]), fmt.Sprintf("%d more", more))
	}
	text := fmt.Sprintf("%s %s to %s", c.Does, and(c.What), and(to))
	if len(c.On) > 0 {
		on := map[string]string{
			"host": "on the hosts themselves", "nodeport": "on NodePorts", "forwarded": "for what nodes forward",
			"host nodeport": "on hosts and NodePorts", "host forwarded": "on the hosts themselves and for what nodes forward", "nodeport forwarded": "on NodePorts and for what nodes forward",
		}
		text += ", " + on[strings.Join(c.On, " ")]
	}
	if but := short(c.But); c.group.sign == closes && len(but) > 0 {
		lets := "let"
		if len(but) == 1 {
			lets = "lets"
		}
		text += fmt.Sprintf(", but what %s %s in", and(but), lets)
	}
	return text
}

// short says several values of one part of values.yaml by that part. What each node answers
// itself, and what is always let in, is not worth a word.
func short(values []string) (parts []string) {
	values = slices.DeleteFunc(slices.Clone(values), func(value string) bool {
		return value == "essential.nodeLocalDNS" || value == "neighbour discovery"
	})
	partOf := func(value string) string { return value[:max(0, strings.IndexAny(value, ".["))] }
	of := map[string]int{}
	for _, value := range values {
		of[partOf(value)]++
	}
	for _, value := range values {
		if part := partOf(value); part != "" && of[part] > 1 {
			value = part
		}
		if !slices.Contains(parts, value) {
			parts = append(parts, value)
		}
	}
	return parts
}

// and joins words as people do.
func and(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// print writes the report for programs, or for people.
func (r *Report) print(out io.Writer, output string) error {
	if output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	_, err := io.WriteString(out, r.String())
	return err
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	line := func(indent int, text string) {
		b.WriteString(peers.Wrap(strings.Repeat(" ", indent)+text, columns, indent+2) + "\n")
	}
	line(0, fmt.Sprintf("From %s to %s:", r.Before.title(), r.After.title()))
	for _, text := range r.first() {
		line(2, text)
	}
	for _, c := range r.Changes[:min(mostChanges, len(r.Changes))] {
		line(2, c.Text)
		for _, use := range told(c.InUse) {
			line(6, use)
		}
	}
	if more := len(r.Changes) - mostChanges; more > 0 {
		line(2, fmt.Sprintf("and %d more changes: -o json has all", more))
	}
	if len(r.Changes) == 0 {
		line(2, "nothing changes in who may reach what")
	}
	for _, note := range r.Notes {
		line(2, note)
	}
	return b.String()
}

// told says who uses what is closed, most connections first.
func told(uses []peers.Cut) (lines []string) {
	for _, u := range uses[:min(mostUses, len(uses))] {
		lines = append(lines, fmt.Sprintf("used lately: tcp/%d from %s (%s, %s)", u.Port, u.From, peers.Connections(u.Connections), u.Node))
	}
	if rest := uses[min(mostUses, len(uses)):]; len(rest) > 0 {
		nodes := map[string]bool{}
		for _, u := range rest {
			nodes[u.Node] = true
		}
		lines = append(lines, fmt.Sprintf("and %s more, on %s", peers.Connections(connections(rest)), peers.Count(len(nodes), "node")))
	}
	return lines
}
