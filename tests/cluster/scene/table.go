package scene

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// Cell is one question of the table.
type Cell struct {
	Row, Column string
	Family      int // 4 or 6
}

// Table is what was measured, by cell.
type Table map[Cell][]probe.Answer

// Families are those of addresses, 4 and 6.
func Families() []int { return []int{4, 6} }

// Cells are all cells of a table, in its order.
func Cells() []Cell {
	var all []Cell
	for _, row := range Rows() {
		for _, column := range Columns() {
			for _, family := range Families() {
				all = append(all, Cell{row, column, family})
			}
		}
	}
	return all
}

// Measure asks all questions at once.
func (s *Scene) Measure() Table {
	var paths []probe.Path
	var asked []Cell
	for _, c := range Cells() {
		for _, p := range s.Paths(c) {
			paths = append(paths, p)
			asked = append(asked, c)
		}
	}
	table := Table{}
	for i, a := range probe.Ask(paths) {
		table[asked[i]] = append(table[asked[i]], a)
	}
	return table
}

// MeasureUntil measures until everything is as expected, or the time is over; the last table is returned either way.
func (s *Scene) MeasureUntil(ctx context.Context, want Expectation, limit time.Duration) Table {
	deadline := time.Now().Add(limit)
	for {
		t := s.Measure()
		if len(t.Surprises(want)) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			return t
		}
	}
}

// Surprises lists what is not as expected, with one connection each that shows it.
func (t Table) Surprises(want Expectation) []string {
	var surprises []string
	for _, c := range Cells() {
		for _, a := range t[c] {
			switch {
			case want(c) && !a.Open():
				surprises = append(surprises, fmt.Sprintf("%s is to reach %s over IPv%d: %v", c.Row, c.Column, c.Family, a.Errors[0]))
			case !want(c) && !a.Closed():
				surprises = append(surprises, fmt.Sprintf("%s is not to reach %s over IPv%d, but did: %s, %d of %d", c.Row, c.Column, c.Family, a.From.Name, a.Reached, len(a.To)))
			}
		}
	}
	return surprises
}

// String is the table for people: yes or no where both families agree, else each of them.
func (t Table) String() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	// The names of columns are longer than what stands below them: one word a line.
	above, below := []string{""}, []string{"  from \\ to"}
	for _, column := range Columns() {
		first, second, two := strings.Cut(column, " ")
		if !two {
			first, second = "", first
		}
		above, below = append(above, first), append(below, second)
	}
	fmt.Fprintf(w, "%s\n%s\n", strings.Join(above, "\t"), strings.Join(below, "\t"))
	for _, row := range Rows() {
		line := []string{"  " + row}
		for _, column := range Columns() {
			line = append(line, both(t.text(Cell{row, column, 4}), t.text(Cell{row, column, 6})))
		}
		fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return out.String()
}

// both joins the texts of the families.
func both(v4, v6 string) string {
	const yes, no = "yes", "no"
	switch {
	case v4 == v6:
		return v4
	case v4 == yes && v6 == no:
		return "IPv4"
	case v4 == no && v6 == yes:
		return "IPv6"
	}
	return fmt.Sprintf("IPv4 %s, IPv6 %s", v4, v6)
}

func (t Table) text(c Cell) string {
	if len(t[c]) == 0 {
		return "-"
	}
	var sum probe.Answer
	for _, a := range t[c] {
		sum.To = append(sum.To, a.To...)
		sum.Reached += a.Reached
		sum.Errors = append(sum.Errors, a.Errors...)
	}
	return sum.String()
}

// Select returns the paths of all cells that an expectation holds open.
func (s *Scene) Select(want Expectation) []probe.Path {
	var paths []probe.Path
	for _, c := range Cells() {
		if want(c) {
			paths = append(paths, s.Paths(c)...)
		}
	}
	return paths
}

// Streams are of Select what can be held open: TCP to a listener that sends back what it gets.
func (s *Scene) Streams(want Expectation) []probe.Path {
	var streams []probe.Path
	for _, p := range s.Select(func(c Cell) bool { return want(c) && c.Column != Kubelet && c.Column != APIServer }) {
		p.To = slices.DeleteFunc(p.To, func(a probe.Address) bool { return a.Protocol != probe.TCP })
		streams = append(streams, p)
	}
	return streams
}

// Newcomer is the way of the stranger to what is open on a node that is just starting, until it is protected: its ordinary port.
func (s *Scene) Newcomer(m cluster.Member) []probe.Path {
	to := probe.Address{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(m.Addresses.V4, cluster.OrdinaryPort)}
	return []probe.Path{{From: s.hosts[cluster.StrangerHost].Source, What: Ordinary, To: []probe.Address{to}}}
}
