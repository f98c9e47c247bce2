package scene

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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

// Expectation says which cells are to be open; the others are to be closed.
type Expectation func(Cell) bool

// Everything is what a cluster without a firewall lets through.
func Everything(Cell) bool { return true }

// Protected is what an armed release with the admin's networks as ssh.cidrs leaves open. The API server's port is one of
// Felix's failsafe ports, which are open whatever the policies say.
func Protected(c Cell) bool {
	switch c.Row {
	case Admin:
		return c.Column == SSH || c.Column == APIServer
	case Stranger:
		return c.Column == APIServer
	}
	return true
}

// ProtectedButSSH is Protected with the failsafe of SSH as Felix has it: open to everybody.
func ProtectedButSSH(c Cell) bool { return Protected(c) || c.Column == SSH }

// Table is what was measured, by cell.
type Table map[Cell][]probe.Answer

// Measure asks all questions at once.
func (s *Scene) Measure() Table {
	var paths []probe.Path
	var cells []Cell
	for _, row := range Rows() {
		for _, column := range Columns() {
			for _, family := range []int{4, 6} {
				for _, p := range s.Paths(row, column, family) {
					paths = append(paths, p)
					cells = append(cells, Cell{row, column, family})
				}
			}
		}
	}
	table := Table{}
	for i, a := range probe.Ask(paths) {
		table[cells[i]] = append(table[cells[i]], a)
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
	for _, row := range Rows() {
		for _, column := range Columns() {
			for _, family := range []int{4, 6} {
				c := Cell{row, column, family}
				for _, a := range t[c] {
					switch {
					case want(c) && !a.Open():
						surprises = append(surprises, fmt.Sprintf("%s is to reach %s over IPv%d: %v", row, column, family, a.Errors[0]))
					case !want(c) && !a.Closed():
						surprises = append(surprises, fmt.Sprintf("%s is not to reach %s over IPv%d, but did: %s, %d of %d", row, column, family, a.From.Name, a.Reached, len(a.To)))
					}
				}
			}
		}
	}
	return surprises
}

// String is the table for people: yes or no where both families agree, else each of them.
func (t Table) String() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "  from \\ to\t%s\n", strings.Join(Columns(), "\t"))
	for _, row := range Rows() {
		cells := []string{"  " + row}
		for _, column := range Columns() {
			v4, v6 := t.text(Cell{row, column, 4}), t.text(Cell{row, column, 6})
			if v4 != v6 {
				v4 = fmt.Sprintf("IPv4 %s, IPv6 %s", v4, v6)
			}
			cells = append(cells, v4)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return out.String()
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
	for _, row := range Rows() {
		for _, column := range Columns() {
			for _, family := range []int{4, 6} {
				if want(Cell{row, column, family}) {
					paths = append(paths, s.Paths(row, column, family)...)
				}
			}
		}
	}
	return paths
}

// WatchClosing tells when a node that is just starting, and is open to the stranger, is open no more: the start of the
// first connection to its ordinary port that nothing answered.
func (s *Scene) WatchClosing(ctx context.Context, m cluster.Member) <-chan time.Time {
	closed := make(chan time.Time, 1)
	from := s.hosts[cluster.StrangerHost].Source
	go func() {
		for open := false; ctx.Err() == nil; {
			start := time.Now()
			err := probe.Connect(from, netip.AddrPortFrom(m.Addresses.V4, cluster.OrdinaryPort))
			if open = open || err == nil; open && errors.Is(err, probe.ErrDropped) {
				closed <- start
				return
			}
		}
	}()
	return closed
}
