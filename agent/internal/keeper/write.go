package keeper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// A note on an endpoint that only says something new is no hurry: it waits this
// long for more to say, and up to as long again so that thousands of agents don't
// all write at once.
const noteDelay = time.Minute

// writesAtOnce are those of a FelixConfiguration: the list, what the API server fills in, and
// which of that does not change.
const writesAtOnce = 3

// cacheDelay is how long a cache may take to show what was written.
const cacheDelay = 5 * time.Second

// errHeld tells that a write has to wait after a failure.
var errHeld = errors.New("held back after a failure")

// writeEndpoints makes the endpoints what the decision desires, and says in the
// status what came of it.
func (k *Keeper) writeEndpoints(ctx context.Context, f facts, d decision, status *Status, alarm *alarm) error {
	shape := k.config.shape()
	left := map[string]bool{} // own endpoints by name, and whether they are armed
	for _, hep := range f.endpoints {
		if shape.Owns(hep) {
			left[hep.Name] = shape.Armed(hep)
		}
	}
	defer func() {
		status.Endpoints = len(left)
		status.Armed = slices.Contains(slices.Collect(maps.Values(left)), true)
	}()
	writes, surplus, invalid := k.config.plan(f, k.memory, d)
	if d.change {
		k.tellInvalid(invalid)
	}
	noted := true
	for _, w := range writes {
		waits, err := k.writeEndpoint(ctx, f, w, status, alarm)
		if err != nil {
			return err
		}
		if noted = noted && !waits; !waits {
			left[w.desired.Name] = w.armed
		}
	}
	if noted {
		k.noteAt = time.Time{}
	}
	for _, hep := range surplus {
		if err := k.remove(ctx, f, hep); err != nil {
			return err
		}
		delete(k.wrote, hep.Name)
		delete(left, hep.Name)
	}
	k.holdEndpoint, k.failure = hold{}, ""
	return nil
}

// remove deletes an endpoint that is not wanted any more, in the version that is known.
func (k *Keeper) remove(ctx context.Context, f facts, hep *v3.HostEndpoint) error {
	if k.holdEndpoint.left(f.now) > 0 {
		return errHeld
	}
	err := k.api.DeleteEndpoint(ctx, hep)
	changed := apierrors.IsConflict(err)
	if err != nil && !changed && !apierrors.IsNotFound(err) {
		return err
	}
	k.rivals.forget(hep)
	delete(k.fresh, hep.Name)
	if changed {
		// It may be somebody else's by now: look again.
		k.rivals.swept = false
		return err
	}
	k.log.Info("endpoint removed", "name", hep.Name, "interface", hep.Spec.InterfaceName)
	return nil
}

// writeEndpoint creates or changes one endpoint. Its note may wait.
func (k *Keeper) writeEndpoint(ctx context.Context, f facts, w write, status *Status, alarm *alarm) (noteWaits bool, err error) {
	name, shape := w.desired.Name, k.config.shape()
	if w.current == nil {
		if k.holdEndpoint.left(f.now) > 0 {
			return false, errHeld
		}
		stored, err := k.api.CreateEndpoint(ctx, w.desired)
		if err != nil {
			return false, err
		}
		k.fresh[name] = stored
		k.log.Info("endpoint created", "name", name, "armed", w.armed, "expectedIPs", w.desired.Spec.ExpectedIPs)
		if k.wrote[name] != nil {
			k.repaired(f.now, name, "deleted")
		} else {
			k.created = true
			k.events.add(f.now, eventCreated, fmt.Sprintf("HostEndpoint %s created, armed: %t", name, w.armed))
		}
		k.wrote[name] = w.desired
		return false, nil
	}
	patch, err := shape.Patch(w.current, w.desired)
	if err != nil || patch == nil {
		k.wrote[name] = w.desired
		return false, err
	}
	fields := fieldsOf("HostEndpoint "+name, patch)
	if len(fields) == 0 && !k.noteIsDue(f.now, alarm) {
		return true, nil
	}
	if k.holdEndpoint.left(f.now) > 0 {
		return false, errHeld
	}
	if k.fights.left(f.now, fields) > 0 {
		return true, nil
	}
	stored, err := k.api.PatchEndpoint(ctx, name, patch)
	if err != nil {
		delete(k.fresh, name)
		return false, err
	}
	k.fresh[name] = stored
	k.fights.set(f.now, fields)
	if len(fields) > 0 {
		k.log.Info("endpoint changed", "armed", w.armed, "set", fields)
	}
	switch was := shape.Owns(w.current) && shape.Armed(w.current); {
	case !was && w.armed && !k.memory.armed:
		message := status.Reason
		if k.events.drop(eventCreated) {
			message = "HostEndpoint " + name + " created and armed: " + message
		}
		k.events.add(f.now, eventArmed, message)
	case was && !w.armed:
		k.events.add(f.now, eventDisarmed, "HostEndpoint "+name+" is not armed any more")
	case len(fields) > 0 && same(k.wrote[name], w.desired):
		k.repaired(f.now, name, "changed")
	}
	k.rivals.forget(w.current)
	k.wrote[name] = w.desired
	return false, nil
}

// same tells whether two endpoints should be the same, apart from their notes.
func same(a, b *v3.HostEndpoint) bool {
	return a != nil && maps.Equal(a.Labels, b.Labels) && reflect.DeepEqual(a.OwnerReferences, b.OwnerReferences) && reflect.DeepEqual(a.Spec, b.Spec)
}

// noteIsDue tells whether to write a note alone.
func (k *Keeper) noteIsDue(now time.Time, alarm *alarm) bool {
	if k.noteAt.IsZero() {
		k.noteAt = now.Add(noteDelay + rand.N(noteDelay))
	}
	if now.Before(k.noteAt) {
		alarm.at(now, k.noteAt)
		return false
	}
	return true
}

// tellFights says in the status that somebody else keeps changing what is set here.
func (k *Keeper) tellFights(now time.Time, status *Status, alarm *alarm) {
	over, again := k.fights.active(now)
	if len(over) == 0 {
		return
	}
	alarm.in(again)
	status.Ready, status.Reason = false, "somebody else keeps changing what is set here, so it is set more and more seldom: "+some(over)
	if over[0] != k.contested {
		k.contested = over[0]
		k.config.Meter.Contested()
		k.events.add(now, eventContested, status.Reason)
	}
}

// failed says in the status that a write failed, and sets the alarm for the next
// try. It returns false when that is not worth telling: losing a race is part of
// the work, for the event that brings the cache forward is on its way.
func (k *Keeper) failed(ctx context.Context, f facts, err error, status *Status, alarm *alarm) (tell bool) {
	if errors.Is(err, errHeld) {
		alarm.in(k.holdEndpoint.left(f.now))
	} else {
		alarm.in(k.holdEndpoint.failed(time.Now(), err))
		if k.holdEndpoint.race(err) || ctx.Err() != nil {
			// What is in the way may not be in the cache.
			k.rivals.next = k.rivals.last.Add(askFirst)
			k.rivals.again = k.config.Named()
			k.log.Debug("write failed", "error", err)
			return false
		}
		k.failure = err.Error()
	}
	status.Ready, status.Reason = false, k.failure
	if status.State == Armed && !status.Armed {
		status.State = Waiting
	}
	return true
}

// writeFelix narrows the failsafe once the node is armed, or takes back what was
// narrowed before when it is not wanted any more.
func (k *Keeper) writeFelix(ctx context.Context, f facts, d decision, status *Status, alarm *alarm) {
	var err error
	switch narrow := k.config.narrows(); {
	case !narrow && !k.felixClean:
		err = k.widenFelix(ctx, f, alarm)
	case narrow && d.arm && status.Armed:
		err = k.narrowFelix(ctx, f, alarm)
	}
	if err != nil {
		status.Ready = false
		status.Reason = "SSH's failsafe is not as it should be: " + err.Error()
	}
}

// narrowFelix follows the FelixConfigurations and keeps the failsafe narrow. The
// error is worth telling.
func (k *Keeper) narrowFelix(ctx context.Context, f facts, alarm *alarm) error {
	if f.now.Before(k.narrowFrom) {
		alarm.at(f.now, k.narrowFrom)
		return errors.New("it is narrowed when most other nodes are armed, in a moment")
	}
	k.api.FollowFelix()
	own, forAll, problem := k.api.Felix()
	if problem != "" {
		return errors.New(problem)
	}
	if left := cacheDelay - f.now.Sub(k.felixWrote.at); left > 0 && k.felixWrote.isAhead(versionOf(own)) {
		alarm.in(left)
		return nil
	}
	want := &failsafe.Want{Ports: k.config.Failsafe.Ports, CIDRs: k.config.Failsafe.CIDRs, Node: f.node.UID}
	of := versionOf(own)
	var filled map[string]any
	// What comes back is noted at once, or it would look like somebody else's.
	for range writesAtOnce {
		change, err := failsafe.Plan(own, forAll, k.config.Node, k.config.Release, want, filled)
		if err != nil {
			return err
		}
		if change.None() {
			k.holdFelix = hold{}
			return nil
		}
		stored, err := k.changeFelix(ctx, f, own, change, alarm)
		if stored != nil {
			k.felixWrote.of = of
		}
		if filled = failsafe.Filled(own, change, stored); err != nil || len(filled) == 0 {
			return err
		}
		own = stored
	}
	return nil
}

// widenFelix looks once whether anything of ours is left, and takes that back.
func (k *Keeper) widenFelix(ctx context.Context, f facts, alarm *alarm) error {
	if left := k.holdFelix.left(f.now); left > 0 {
		alarm.in(left)
		return k.holdFelix.err
	}
	own, err := k.api.ReadFelix(ctx, failsafe.Name(k.config.Node))
	if err != nil {
		alarm.in(k.holdFelix.failed(time.Now(), err))
		return err
	}
	change, err := failsafe.Plan(own, nil, k.config.Node, k.config.Release, nil, nil)
	if err == nil && !change.None() {
		_, err = k.changeFelix(ctx, f, own, change, alarm)
	}
	k.felixClean = err == nil && k.holdFelix.failures == 0
	return err
}

// changeFelix makes the change, unless it has to wait, and returns what is stored then.
func (k *Keeper) changeFelix(ctx context.Context, f facts, own *failsafe.Configuration, change failsafe.Change, alarm *alarm) (stored *failsafe.Configuration, err error) {
	if left := k.holdFelix.left(f.now); left > 0 {
		alarm.in(left)
		return nil, k.holdFelix.err
	}
	name := failsafe.Name(k.config.Node)
	fields := []string{"FelixConfiguration " + name}
	if change.Patch != nil {
		fields = fieldsOf(fields[0], change.Patch)
	}
	if k.fights.left(f.now, fields) > 0 {
		return nil, nil
	}
	switch {
	case change.Create != nil:
		stored, err = k.api.CreateFelix(ctx, change.Create)
	case change.Delete:
		err = k.api.DeleteFelix(ctx, own)
	default:
		stored, err = k.api.PatchFelix(ctx, own.Name, change.Patch)
	}
	if err != nil {
		alarm.in(k.holdFelix.failed(time.Now(), err))
		if k.holdFelix.race(err) {
			return nil, nil
		}
		return nil, err
	}
	k.holdFelix, k.felixWrote = hold{}, felixWrote{at: time.Now(), of: versionOf(own), to: versionOf(stored)}
	k.fights.set(f.now, fields)
	k.log.Info("failsafe changed", "narrowed", k.config.narrows(), "object", name)
	return stored, nil
}

// versionOf returns the version of an object, empty when there is none.
func versionOf(configuration *failsafe.Configuration) string {
	if configuration == nil {
		return ""
	}
	return configuration.ResourceVersion
}

// repaired tells that an endpoint was not as it had been left.
func (k *Keeper) repaired(now time.Time, name, reason string) {
	k.config.Meter.Repaired(reason)
	k.events.add(now, eventRepaired, "HostEndpoint "+name+" was "+reason+" and is as it should be again")
}
