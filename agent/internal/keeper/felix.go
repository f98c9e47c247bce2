package keeper

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	// writesAtOnce are those of a FelixConfiguration: the list, what the API server fills in, and
	// which of that does not change.
	writesAtOnce = 3

	// cacheDelay is how long a cache may take to show what was written.
	cacheDelay = 5 * time.Second

	// narrowWithin is how long after it is armed a node waits at most before its failsafe is
	// narrowed: Felix restarts for that, and thousands of them shall not at once.
	narrowWithin = 5 * time.Second

	// felixSettles is how long Felix has to be ready before its configuration is written: to
	// write it while Felix starts can hang it (projectcalico/calico#13175). askAgain is how soon
	// it is looked again whether the failsafe may be narrowed.
	felixSettles, askAgain = 3 * time.Second, 5 * time.Second

	narrowWork = "narrow"
	askWork    = "ask"
)

// errNarrows tells that nothing is wrong, and the failsafe is narrowed in a moment.
var errNarrows = errors.New("it is narrowed in a moment")

// felixWrote is the last change of the node's FelixConfiguration: when it was made, of
// which version, and to which; empty: of none, to none.
type felixWrote struct {
	at     time.Time
	of, to string
}

// isAhead tells whether a cache that has this version has not shown the change yet.
func (w felixWrote) isAhead(version string) bool {
	return version == w.of || version != "" && w.to != "" && version != w.to && clearance.Newer(w.to, version)
}

// writeFelix narrows the failsafe once the node is armed, or takes back what was
// narrowed before when it is not wanted any more.
func (k *Keeper) writeFelix(ctx context.Context, f facts, d decision, status *Status) {
	if f.said.Paused && !d.remove {
		return
	}
	var err error
	switch narrow := k.config.narrows() && !d.remove; {
	case narrow && d.state == Trying:
		_ = k.askFelix(ctx, f.now)
	case narrow && d.trial != nil && d.trial.Phase == trial.Armed && d.set == k.config.Set && status.Set == k.config.Set:
		k.felixClean = false
		err = k.narrowFelix(ctx, f)
	case narrow && d.state == RolledBack && !k.felixClean:
		// What was narrowed before stays: the set that the node is back at lets administrators in.
		err = k.widenFelix(ctx, f, k.config.Set)
	case !narrow && !k.felixClean && (d.remove || d.set == "" || d.set == k.config.Set):
		// At an older set it stays as that wants it.
		err = k.widenFelix(ctx, f, "")
	}
	k.tellFelix(f.now, err, status)
}

// tellFelix says in the status why the failsafe is not as it should be, and sees to it that the note
// says so too: the next pass does. What is over in a moment is neither worth a note nor an Event.
func (k *Keeper) tellFelix(now time.Time, err error, status *Status) {
	lack := ""
	switch {
	case errors.Is(err, errNarrows):
		status.Ready, status.Reason = false, status.Reason+", and SSH's failsafe is narrowed in a moment"
	case err != nil:
		lack = "SSH's failsafe is not as it should be: " + err.Error()
		status.Ready, status.Reason = false, lack
	case k.lack != "":
		status.Ready = false // the reason is still that of before
	}
	if lack == k.lack {
		return
	}
	if k.lack == "" {
		k.events.Add(now, eventNotReady, lack)
	}
	if k.lack = lack; lack == "" {
		k.Wake()
		return
	}
	// It may be said in other words each time, which is no reason to hurry.
	k.agenda.NotAfter(askWork, now.Add(askAgain))
}

// narrowFelix follows the FelixConfigurations and keeps the failsafe narrow. The
// error is worth telling.
func (k *Keeper) narrowFelix(ctx context.Context, f facts) error {
	k.agenda.NotAfter(narrowWork, f.now.Add(k.spread+rand.N(narrowWithin+k.spread)))
	if k.spread > 0 && k.agenda.Waits(narrowWork) {
		return errNarrows
	}
	k.api.FollowFelix()
	own, forAll, problem := k.api.Felix()
	if trouble, _ := k.api.Trouble(); problem != "" && trouble == "" {
		return errNarrows // they are being read for the first time
	} else if problem != "" {
		return errors.New(problem)
	}
	if until := k.felixWrote.at.Add(cacheDelay); f.now.Before(until) && k.felixWrote.isAhead(own.Version()) {
		k.agenda.Set("cache of failsafe", until)
		return nil
	}
	want := &failsafe.Want{Ports: k.config.Failsafe.Ports, CIDRs: k.config.Failsafe.CIDRs, Node: f.node.UID, Set: k.config.Set}
	of := own.Version()
	var filled map[string]any
	// What comes back is noted at once, or it would look like somebody else's.
	for round := range writesAtOnce {
		change, err := failsafe.Plan(own, forAll, k.config.Node, k.config.Release, want, filled)
		if err != nil {
			return err
		}
		if change.None() {
			k.agenda.Done(failsafeWork)
			k.felixReady = time.Time{} // how it is then is asked anew
			return nil
		}
		if k.agenda.Waits(narrowWork) {
			return errNarrows
		}
		if round == 0 && k.agenda.LeaveAlone(k.fieldsOf(change)) {
			// What was begun is brought to its end, or the note would be lost.
			return nil
		}
		if round == 0 {
			k.agenda.Set(askWork, f.now.Add(askAgain))
			if err := errors.Join(k.askFelix(ctx, f.now), k.askSessions(want)); err != nil {
				return err
			}
		}
		stored, err := k.changeFelix(ctx, f, own, change)
		if stored != nil {
			k.felixWrote.of = of
		}
		if filled = change.Filled(stored); err != nil || len(filled) == 0 {
			return err
		}
		own = stored
	}
	return nil
}

// askFelix says why the node's Felix is not to be disturbed now. One that says nothing may have
// nobody to say it to.
func (k *Keeper) askFelix(ctx context.Context, now time.Time) error {
	readiness, err := k.config.Self.FelixReady(ctx)
	switch {
	case readiness == probe.NotReady:
		k.felixReady = time.Time{}
		return fmt.Errorf("it is narrowed when Felix is ready: %w", err)
	case k.felixReady.IsZero():
		k.felixReady = now
	}
	if settled := k.felixReady.Add(felixSettles); now.Before(settled) {
		k.agenda.NotAfter(askWork, settled)
		return errNarrows
	}
	return nil
}

// askSessions says who would be shut out: an administrator who is logged in from elsewhere
// only has forgotten the own network.
func (k *Keeper) askSessions(want *failsafe.Want) error {
	peers, err := k.config.Self.Sessions(want.Ports)
	if err != nil {
		return fmt.Errorf("cannot see who is connected by SSH: %w", err)
	}
	from := probe.Strangers(peers, want.CIDRs)
	if len(from) == 0 {
		return nil
	}
	return fmt.Errorf("whoever is connected by SSH now comes from outside of ssh.cidrs, and would be shut out: %s. List their networks there; it is narrowed when one of them comes from there, or none is left",
		event.Some(from))
}

// widenFelix looks once whether anything of ours is left, and takes that back: all of it, or
// what was narrowed since the node first had a set.
func (k *Keeper) widenFelix(ctx context.Context, f facts, since string) error {
	if k.agenda.Waits(failsafeWork) {
		return k.failure(failsafeWork)
	}
	own, err := k.api.ReadFelix(ctx, failsafe.Name(k.config.Node))
	if err != nil {
		return k.failed(failsafeWork, err)
	}
	change, err := failsafe.Plan(own, nil, k.config.Node, k.config.Release, nil, nil)
	if since != "" && failsafe.NarrowedSince(own) != since {
		change, err = failsafe.Change{}, nil
	}
	if err == nil && !change.None() {
		_, err = k.changeFelix(ctx, f, own, change)
	}
	k.felixClean = err == nil && !k.agenda.Waits(failsafeWork)
	return err
}

// changeFelix makes the change, unless it has to wait, and returns what is stored then.
func (k *Keeper) changeFelix(ctx context.Context, f facts, own *failsafe.Configuration, change failsafe.Change) (stored *failsafe.Configuration, err error) {
	if k.agenda.Waits(failsafeWork) {
		return nil, k.failure(failsafeWork)
	}
	fields := k.fieldsOf(change)
	switch {
	case change.Create != nil:
		stored, err = k.api.CreateFelix(ctx, change.Create)
	case change.Delete:
		err = k.api.DeleteFelix(ctx, own)
	default:
		stored, err = k.api.PatchFelix(ctx, own.Name, change.Patch)
	}
	if err != nil {
		return nil, k.failed(failsafeWork, err)
	}
	k.agenda.Done(failsafeWork)
	k.felixWrote = felixWrote{at: time.Now(), of: own.Version(), to: stored.Version()}
	k.agenda.WasSet(f.now, fields)
	k.log.Info("failsafe changed", "object", failsafe.Name(k.config.Node), "removed", change.Delete, "fields", fields)
	return stored, nil
}

// fieldsOf returns the fields that a change sets.
func (k *Keeper) fieldsOf(change failsafe.Change) []string {
	object := "FelixConfiguration " + failsafe.Name(k.config.Node)
	if change.Patch == nil {
		return []string{object}
	}
	return endpoint.Fields(object, change.Patch)
}
