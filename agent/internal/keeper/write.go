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

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	// A note that alone says something new waits this long for more to say, and has a moment of its own
	// within noteSpread after that: thousands of agents whose notes become untrue together write no more
	// of them in a second than endpoints are armed in one. One that keeps changing waits longer each time,
	// up to noteMost.
	noteDelay, noteSpread, noteMost = 5 * time.Second, 25 * time.Second, 2 * time.Minute

	// waitDelay is how long that of a node that waits does, and up to as long again: the controller
	// looks at each version of an endpoint before that is armed.
	waitDelay = time.Minute

	// tellAfter is how long work has to be put off before that is worth telling. A cache that
	// is behind has caught up by then.
	tellAfter = 100 * time.Millisecond
)

// The work that may fail.
const (
	endpointWork = "endpoint"
	failsafeWork = "failsafe"
	eventWork    = "event"
	noteWork     = "note"
	waitWork     = "note that waits"
	turnWork     = "turn"
)

// writeEndpoints makes the endpoints what the decision desires, and says in the
// status what came of it.
func (k *Keeper) writeEndpoints(ctx context.Context, f facts, d decision, status *Status) error {
	shape := k.config.shape()
	left := map[string]string{} // the sets that own endpoints are armed with, by name
	for _, hep := range f.endpoints {
		if shape.Owns(hep) {
			left[hep.Name] = endpoint.SetOf(hep)
		}
	}
	defer func() { status.Endpoints, status.Set = len(left), setOf(left, k.config.Set) }()
	writes, surplus, invalid := k.config.plan(f, k.memory, d)
	k.tellOnce("addresses of the Node left out", invalid)
	noted := true
	for _, w := range writes {
		waits, err := k.writeEndpoint(ctx, f, w, d, status)
		if err != nil {
			return err
		}
		if noted = noted && !waits; !waits {
			left[w.desired.Name] = d.set
		}
	}
	if noted {
		k.agenda.Done(noteWork)
		k.agenda.Done(waitWork)
	}
	for _, hep := range surplus {
		if err := k.removeEndpoint(ctx, hep); err != nil {
			return err
		}
		delete(left, hep.Name)
	}
	k.agenda.Done(endpointWork)
	delete(k.told, endpointWork)
	return nil
}

// setOf returns the set that any of the endpoints is armed with, first of all wanted.
func setOf(sets map[string]string, wanted string) string {
	all := slices.Collect(maps.Values(sets))
	if slices.Contains(all, wanted) {
		return wanted
	}
	return slices.Max(append(all, ""))
}

// removeEndpoint deletes one that is not wanted any more, in the version that is known.
func (k *Keeper) removeEndpoint(ctx context.Context, hep *v3.HostEndpoint) error {
	if k.agenda.Waits(endpointWork) {
		return errWaits
	}
	err := k.api.DeleteEndpoint(ctx, hep)
	delete(k.fresh, hep.Name)
	delete(k.found, hep.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	delete(k.wrote, hep.Name)
	delete(k.memory.ours, hep.Name)
	k.log.Info("endpoint removed", "name", hep.Name, "interface", hep.Spec.InterfaceName)
	return nil
}

// writeEndpoint creates or changes one endpoint. Its note may wait.
func (k *Keeper) writeEndpoint(ctx context.Context, f facts, w write, d decision, status *Status) (noteWaits bool, err error) {
	if w.current == nil {
		return false, k.createEndpoint(ctx, f, w.desired)
	}
	name := w.desired.Name
	patch, err := endpoint.Patch(w.current, w.desired)
	if err != nil || patch == nil {
		k.wrote[name] = w.desired
		return false, err
	}
	fields := endpoint.Fields("HostEndpoint "+name, patch)
	// Whoever tells of peers keeps an own pace, and who takes that away again is in no hurry.
	news := w.desired.Annotations[peers.Annotation]
	w.urgent = w.urgent || news != "" && (k.wrote[name] == nil || k.wrote[name].Annotations[peers.Annotation] != news)
	switch {
	case len(fields) == 0 && !w.urgent && !k.noteIsDue(f.now, d.state), k.agenda.LeaveAlone(fields):
		return true, nil
	case k.agenda.Waits(endpointWork):
		return false, errWaits
	}
	stored, err := k.api.PatchEndpoint(ctx, name, patch)
	if err != nil {
		delete(k.fresh, name)
		delete(k.found, name)
		return false, err
	}
	k.fresh[name] = stored
	k.agenda.WasSet(f.now, fields)
	if len(fields) == 0 && !w.urgent {
		k.notes.Next(noteWork, f.now)
	}
	if len(fields) > 0 {
		k.lookAgain(f.now)
		k.log.Info("endpoint changed", "set", d.set, "fields", fields)
	}
	k.tellChange(f.now, w, d, status, len(fields) > 0)
	k.wrote[name] = w.desired
	return false, nil
}

// createEndpoint creates one. One that is in the way, and that the cache does not show, is
// looked at in the next pass.
func (k *Keeper) createEndpoint(ctx context.Context, f facts, desired *v3.HostEndpoint) error {
	if k.agenda.Waits(endpointWork) {
		return errWaits
	}
	name := desired.Name
	stored, err := k.api.CreateEndpoint(ctx, desired)
	if apierrors.IsAlreadyExists(err) {
		if found, problem := k.api.ReadEndpoint(ctx, name); problem == nil && found != nil {
			k.found[name] = found
		}
	}
	if err != nil {
		return err
	}
	k.fresh[name] = stored
	k.log.Info("endpoint created", "name", name, "set", endpoint.SetOf(desired), "expectedIPs", desired.Spec.ExpectedIPs)
	if k.wrote[name] != nil {
		k.repaired(f.now, name, "deleted")
	}
	k.wrote[name], k.memory.ours[name] = desired, stored.UID
	return nil
}

// tellChange makes an Event of what a change of an endpoint means.
func (k *Keeper) tellChange(now time.Time, w write, d decision, status *Status, changed bool) {
	name, was := w.desired.Name, ""
	if k.config.shape().Owns(w.current) {
		was = endpoint.SetOf(w.current)
	}
	switch {
	case was != d.set && d.set != "" && k.memory.set != d.set && d.state == Armed:
		k.events.Add(now, eventArmed, "HostEndpoint "+name+": "+status.Reason)
	case was != "" && d.set == "":
		k.events.Add(now, eventDisarmed, "HostEndpoint "+name+" is not armed any more: "+status.Reason)
	case changed && same(k.wrote[name], w.desired):
		k.repaired(now, name, "changed")
	}
}

// same tells whether two endpoints should be the same, apart from their notes.
func same(a, b *v3.HostEndpoint) bool {
	return a != nil && maps.Equal(a.Labels, b.Labels) && a.Annotations[trial.Annotation] == b.Annotations[trial.Annotation] && reflect.DeepEqual(a.OwnerReferences, b.OwnerReferences) && reflect.DeepEqual(a.Spec, b.Spec)
}

// noteIsDue tells whether to write a note alone.
func (k *Keeper) noteIsDue(now time.Time, state State) bool {
	k.notes.GC()
	work, at := noteWork, now.Add(max(noteDelay, k.notes.Get(noteWork))+rand.N(noteSpread))
	if state == Waiting {
		work, at = waitWork, now.Add(waitDelay+rand.N(waitDelay))
	}
	if !k.agenda.Has(work) {
		k.agenda.Set(work, at)
	}
	return !k.agenda.Waits(work)
}

// repaired tells that an endpoint was not as it had been left.
func (k *Keeper) repaired(now time.Time, name, reason string) {
	k.config.Meter.Repaired(reason)
	k.events.Add(now, eventRepaired, "HostEndpoint "+name+" was "+reason+" and is as it should be again")
}

// failed puts off work that has failed, and returns what is worth telling of that; nil: nothing
// is. Losing a race is part of the work.
func (k *Keeper) failed(work string, err error) error {
	delay := k.agenda.Failed(work, time.Now(), err)
	k.told[work] = err.Error()
	if race := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err); race && delay < tellAfter {
		k.log.Debug("write failed", "of", work, "error", err)
		k.told[work] = ""
	}
	return k.failure(work)
}

// failure is why work was put off; nil: that is not worth telling.
func (k *Keeper) failure(work string) error {
	if text := k.told[work]; text != "" {
		return errors.New(text)
	}
	return nil
}

// tellFailure says in the status that endpoints are not written; false: nothing is worth telling.
func (k *Keeper) tellFailure(err error, status *Status) bool {
	if !errors.Is(err, errWaits) {
		_ = k.failed(endpointWork, err)
	}
	why := k.failure(endpointWork)
	if why == nil {
		return false
	}
	status.Ready, status.Reason = false, why.Error()
	if status.State == Armed && status.Set != k.config.Set {
		status.State = Waiting
	}
	return true
}

// tellFights says in the status that somebody else keeps changing what is set here.
func (k *Keeper) tellFights(now time.Time, status *Status) {
	over := k.agenda.Contested(now)
	if len(over) == 0 {
		return
	}
	status.Ready, status.Reason = false, "somebody else keeps changing what is set here, so it is set more and more seldom: "+event.Some(over)
	if over[0] != k.contested {
		k.contested = over[0]
		k.config.Meter.Contested()
		k.events.Add(now, eventContested, status.Reason)
	}
}

// tellOnce logs what a list holds when that is another one than before.
func (k *Keeper) tellOnce(what string, list []string) {
	text := fmt.Sprint(list)
	if text != k.told[what] && len(list) > 0 {
		k.log.Warn(what, "which", text)
	}
	k.told[what] = text
}
