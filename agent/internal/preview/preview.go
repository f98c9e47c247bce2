// Package preview says what changes in who may reach what, between two renderings of the
// chart, or between what is installed and a rendering. It is pure, but for what is read by
// its interfaces.
package preview

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// Report is what changes.
type Report struct {
	Before *Side `json:"before"`
	After  *Side `json:"after"`
	// Changes are in the order in which they matter.
	Changes []*Change `json:"changes"`
	// Notes say what else changes, or is not known.
	Notes []string `json:"notes,omitempty"`
}

// ErrUnreadable is why a rendering can't be compared.
var ErrUnreadable = errors.New("a rendering can't be read")

// unreadable is an error that is ErrUnreadable as well.
type unreadable struct{ error }

func (u unreadable) Unwrap() []error { return []error{u.error, ErrUnreadable} }

// Run compares as told, and prints what changes. The cluster is asked only for what is installed;
// open reads a file. An error that is ErrUnreadable names the file, and the document in it.
func Run(ctx context.Context, cluster Cluster, told settings.Settings, open func(name string) ([]byte, error), out io.Writer) error {
	read := func(name string) (*Side, error) {
		text, err := open(name)
		if err != nil {
			return nil, unreadable{err}
		}
		side, err := Read(name, text, told.Release)
		if err != nil {
			return nil, unreadable{err}
		}
		return side, nil
	}
	after, err := read(told.New)
	if err != nil {
		return err
	}
	if told.Old != settings.Installed {
		before, err := read(told.Old)
		if err != nil {
			return err
		}
		r, _, err := compareSides(before, after)
		if err != nil {
			return err
		}
		return r.print(out, told.Output)
	}
	before, forAll, err := installed(ctx, cluster, told)
	if err != nil {
		return fmt.Errorf("read what is installed: %w", err)
	}
	for _, side := range []*Side{before, after} {
		if err := side.follow(forAll); err != nil {
			return err
		}
	}
	r, t, err := compareSides(before, after)
	if err != nil {
		return err
	}
	who, err := whoIsConnected(ctx, cluster, before)
	if err != nil {
		return fmt.Errorf("read who is connected: %w", err)
	}
	r.inUse(t, who)
	r.noteWhoTells(who)
	return r.print(out, told.Output)
}

// compareSides says what changes from one side to the other. Between two in mode audit it is what
// changes in what mode enforce would drop.
func compareSides(before, after *Side) (_ *Report, _ *table, err error) {
	if before.Mode == settings.ModeAudit && after.Mode == settings.ModeAudit {
		if before, err = before.enforcing(); err != nil {
			return nil, nil, err
		}
		if after, err = after.enforcing(); err != nil {
			return nil, nil, err
		}
	}
	r := &Report{Before: before, After: after, Changes: []*Change{}}
	t := compare(before, after)
	for _, g := range t.groups() {
		r.Changes = append(r.Changes, t.claimsOf(g)...)
	}
	r.Changes = t.leaveOut(r.Changes)
	for _, c := range r.Changes {
		t.say(c)
	}
	inOrder(r.Changes)
	r.note()
	return r, t, nil
}

// noteWhoTells says how many nodes have something else, and how much is known of who is connected, where that matters.
func (r *Report) noteWhoTells(who connected) {
	if who.elsewhere > 0 && r.Before.Mode != settings.ModeOff {
		r.Notes = append(r.Notes, fmt.Sprintf("%d of %d nodes carry another set, or none: there something else changes", who.elsewhere, who.nodes))
	}
	closing := slices.ContainsFunc(r.Changes, func(c *Change) bool { return c.group.sign == closes })
	switch {
	case !closing || who.tell == who.nodes && who.nodes > 0:
	case who.tell == 0:
		r.Notes = append(r.Notes, "who is or was connected is not known: agents tell it in mode audit, before they arm a node, and with rollout.watchPeers=always")
	default:
		r.Notes = append(r.Notes, fmt.Sprintf("who is or was connected is known of %d of %d nodes: all agents tell it with rollout.watchPeers=always", who.tell, who.nodes))
	}
}

// note says what changes beside who may reach what.
func (r *Report) note() {
	note := func(format string, args ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) }
	before, after := r.Before, r.After
	if !slices.Equal(before.Interfaces, after.Interfaces) {
		others := ""
		if !slices.Contains(after.Interfaces, endpoint.AllInterfaces) {
			others = ": what comes in over others passes"
		}
		note("hostEndpoint.interfaces [%s] become [%s]%s", strings.Join(before.Interfaces, ", "), strings.Join(after.Interfaces, ", "), others)
	}
	if was, is := before.outbound(), after.outbound(); was != is {
		note("policies.allowOutbound.enabled is %t: %s", is, map[bool]string{true: "what goes out is allowed", false: "your own policies decide what goes out"}[is])
	}
	if before.Set == after.Set {
		note("it is the same set of policies: no node moves to another one")
	} else if len(r.Changes) == 0 && before.Mode == after.Mode {
		note("each node moves to the other set all the same, as its policies are written otherwise")
	}
}

// first says what has to be known to understand the changes: of which releases and modes they are.
func (r *Report) first() (lines []string) {
	if before, after := r.Before.Release, r.After.Release; before != after {
		lines = append(lines, fmt.Sprintf("these are two releases: %s, and %s as helm template NAME has it", before, after))
	}
	switch before, after := r.Before.Mode, r.After.Mode; {
	case before == settings.ModeAudit && after == settings.ModeEnforce:
		lines = append(lines, "mode audit becomes enforce: what audit only logs is dropped. To see what else the values change, compare a rendering with mode=audit")
	case before != after:
		lines = append(lines, fmt.Sprintf("mode %s becomes %s", before, after))
	case after == settings.ModeAudit:
		lines = append(lines, "mode stays audit, and nothing is dropped: this is what changes in what mode enforce would drop")
	}
	return lines
}
