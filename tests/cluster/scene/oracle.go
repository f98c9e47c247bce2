package scene

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/oracle"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// Firewall is what a release makes of every node.
type Firewall struct {
	// Set are the policies that nodes are armed with; with mode off it is empty.
	Set oracle.Set
	// Interfaces are the names, or globs, of those that have an endpoint; "*" is every one.
	Interfaces []string
	// Failsafe are the ports that Felix lets in before it asks any policy.
	Failsafe []v3.ProtoPort
}

// covers tells whether an interface has an endpoint.
func (f Firewall) covers(link string) bool {
	return slices.ContainsFunc(f.Interfaces, func(pattern string) bool {
		ok, err := path.Match(pattern, link)
		return err == nil && ok
	})
}

// question is one connection that a cell stands for.
type question struct {
	Cell
	from place
	to   target
}

func (q question) address() probe.Address {
	return probe.Address{Protocol: q.to.protocol, AddrPort: netip.AddrPortFrom(q.to.Of(q.Family), q.to.port)}
}

// Foretold is a connection, and what verdict says of it.
type Foretold struct {
	Cell
	probe.Path
	Open bool
	// By are the reasons of all places where it was judged.
	By []string
}

func (f Foretold) String() string {
	return fmt.Sprintf("%s to %s over IPv%d (%s to %s): open %t, by %q", f.Row, f.Column, f.Family, f.From.Name, f.To[0], f.Open, f.By)
}

// Foretell judges every connection of the table.
func (s *Scene) Foretell(f Firewall) (all []Foretold) {
	w := s.world(f)
	for _, c := range Cells() {
		for _, q := range s.questions(c) {
			told := Foretold{Cell: c, Path: probe.Path{From: q.from.Source, What: c.Column, To: []probe.Address{q.address()}}, Open: true}
			for _, h := range s.hops(q) {
				if !told.Open || !f.covers(h.link) {
					continue
				}
				v := f.Set.Judge(h.Connection, w)
				told.Open, told.By = v.Allowed, append(told.By, v.By)
			}
			all = append(all, told)
		}
	}
	return all
}

// Expect is what verdict says, cell by cell. A cell in which some connections are open and others are not is an error that names them.
func (s *Scene) Expect(f Firewall) (Expectation, error) {
	first := map[Cell]Foretold{}
	var errs []error
	for _, told := range s.Foretell(f) {
		if before, ok := first[told.Cell]; ok && before.Open != told.Open {
			errs = append(errs, fmt.Errorf("one cell, two answers: %v; %v", before, told))
		} else {
			first[told.Cell] = told
		}
	}
	return func(c Cell) bool { return first[c].Open }, errors.Join(errs...)
}

// Mistakes asks every connection, until packets meet what was foretold of each or the time is over, and returns where they don't.
func Mistakes(ctx context.Context, foretold []Foretold, limit time.Duration) (mistakes []string) {
	paths := make([]probe.Path, len(foretold))
	for i, f := range foretold {
		paths[i] = f.Path
	}
	for deadline := time.Now().Add(limit); ; {
		mistakes = nil
		for i, a := range probe.Ask(paths) {
			if f := foretold[i]; f.Open && !a.Open() || !f.Open && !a.Closed() {
				mistakes = append(mistakes, fmt.Sprintf("%v, but packets say %s %v", f, a, a.Errors))
			}
		}
		if len(mistakes) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			return mistakes
		}
	}
}
