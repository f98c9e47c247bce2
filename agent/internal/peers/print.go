package peers

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Count says how many there are: "1 address", "2 addresses".
func Count(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "s"):
		noun += "es"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// Connections counts connections in words.
func Connections(n int) string { return Count(n, "connection") }

// some names the first ones, and counts the rest and more.
func some(names []string, most, more int) string {
	if len(names)+more <= most+1 {
		most++ // to say that there is one more takes as long as its name
	}
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
// short: at most so many lines of cuts, and how many others there are. Empty: there is nothing to say.
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
		b.WriteString(Wrap(line, columns, 4) + "\n")
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
		more = fmt.Sprintf(", and %d more", f.WouldCutMore)
	}
	return fmt.Sprintf("Would be cut by set %s: %s from %s on %s%s:", set, Connections(connections), Count(len(from), "address"), Count(len(nodes), "node"), more)
}

// Wrap breaks a line at spaces where it is longer than so many columns, if it can. What goes on is indented.
func Wrap(line string, columns, indent int) string {
	var done strings.Builder
	for len(line) > columns {
		at := strings.LastIndexByte(line[:columns+1], ' ')
		if at <= indent {
			break // one word that is longer
		}
		done.WriteString(line[:at] + "\n")
		line = strings.Repeat(" ", indent) + line[at+1:]
	}
	return done.String() + line
}
