package peers

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Connections counts connections in words.
func Connections(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

// some names the first ones, and counts the rest and more.
func some(names []string, most, more int) string {
	most = min(most, len(names))
	text := strings.Join(names[:most], ", ")
	if rest := len(names) - most + more; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}

// group is who would be cut off from one port on the same nodes.
type group struct {
	port        uint16
	from, nodes []string
	connections int
}

// groups puts together cuts of one peer at one port of several nodes, and then the peers of whom the same
// is so. Those with most connections come first.
func groups(cuts []Cut) (all []group) {
	type peer struct {
		port uint16
		from string
	}
	byPeer := map[peer]*group{}
	var order []peer
	for _, cut := range cuts {
		at := peer{cut.Port, cut.From.String()}
		g := byPeer[at]
		if g == nil {
			g = &group{port: cut.Port, from: []string{at.from}}
			byPeer[at], order = g, append(order, at)
		}
		g.connections += cut.Connections
		g.nodes = append(g.nodes, cut.Node)
	}
	alike := map[string]*group{}
	for _, at := range order {
		g := byPeer[at]
		slices.Sort(g.nodes)
		key := fmt.Sprint(g.port, g.nodes)
		if other := alike[key]; other != nil {
			other.from, other.connections = append(other.from, g.from...), other.connections+g.connections
			continue
		}
		alike[key] = g
	}
	for _, g := range alike {
		all = append(all, *g)
	}
	slices.SortFunc(all, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.connections, a.connections), cmp.Compare(a.port, b.port), slices.Compare(a.from, b.from), slices.Compare(a.nodes, b.nodes))
	})
	return all
}

// Text says for people who would be cut off, and what else was seen, in lines of so many columns where names are
// short: at most so many lines of cuts, whom nothing else is known of are counted. Empty: there is nothing to say.
func (f Findings) Text(set string, columns, most int) string {
	var lines []string
	if len(f.WouldCut) > 0 {
		lines = append(lines, f.summary(set))
	}
	all := groups(f.WouldCut)
	for _, g := range all[:min(most, len(all))] {
		lines = append(lines, fmt.Sprintf("  - tcp/%d from %s (%s, %s)", g.port, some(g.from, 3, 0), Connections(g.connections), some(g.nodes, 2, 0)))
	}
	if rest := len(all) - most; rest > 0 {
		lines = append(lines, fmt.Sprintf("  - and %d more", rest))
	}
	if len(f.Advice) > 0 {
		lines = append(lines, "What agents see, and what to write:")
	}
	for _, a := range f.Advice {
		lines = append(lines, fmt.Sprintf("  - %s: %s.", some(a.Nodes, 2, a.More), a.Text))
	}
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(wrap(line, columns) + "\n")
	}
	return b.String()
}

// summary says in one line who would be cut off.
func (f Findings) summary(set string) string {
	connections, from, nodes := 0, map[netip.Addr]bool{}, map[string]bool{}
	for _, cut := range f.WouldCut {
		connections += cut.Connections
		from[cut.From], nodes[cut.Node] = true, true
	}
	more := ""
	if f.WouldCutMore > 0 {
		more = fmt.Sprintf(", and %d like them", f.WouldCutMore)
	}
	return fmt.Sprintf("Would be cut by set %s: %s from %d %s on %d %s%s:", set, Connections(connections),
		len(from), plural(len(from), "address", "es"), len(nodes), plural(len(nodes), "node", "s"), more)
}

func plural(n int, noun, ending string) string {
	if n == 1 {
		return noun
	}
	return noun + ending
}

// wrap breaks a line at spaces, where it can. What goes on stands below its text.
func wrap(line string, columns int) string {
	const indent = "    "
	var done strings.Builder
	for len(line) > columns {
		at := strings.LastIndexByte(line[:columns+1], ' ')
		if at < len(indent) {
			break // one word that is longer
		}
		done.WriteString(line[:at] + "\n")
		line = indent + line[at+1:]
	}
	return done.String() + line
}
