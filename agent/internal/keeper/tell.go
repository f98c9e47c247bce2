package keeper

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/event"
)

// State is how far the protection of the node is.
type State string

const (
	// Waiting means that something has to come first; no endpoint is armed.
	Waiting State = "Waiting"
	// Trying means that the node was armed with its set a moment ago, and what worked before is
	// tried again.
	Trying State = "Trying"
	// Armed means that the policies apply to the node.
	Armed State = "Armed"
	// RolledBack means that something did not work any more with the set, and the node is as it
	// was before.
	RolledBack State = "RolledBack"
	// Conflict means that somebody else's endpoint would win or fight. Nothing is
	// armed then that was not before.
	Conflict State = "Conflict"
	// Off means that the node is not to be protected: no endpoint is armed.
	Off State = "Off"
)

// States returns all of them.
func States() []State { return []State{Waiting, Trying, Armed, RolledBack, Conflict, Off} }

// Status is the state of the node for people, probes and metrics.
type Status struct {
	State State
	// Ready tells that all is as the settings ask for.
	Ready  bool
	Reason string
	// Since is when State or Ready last changed.
	Since time.Time
	// Enforced says by which families of addresses packets were seen to meet the rules, or why
	// that is not known.
	Enforced string
	// Set is what the node is armed with, empty when it is not; Endpoints is how many
	// endpoints there are.
	Set       string
	Endpoints int
	// Success is when all that was to be done was last done.
	Success time.Time
}

// Status returns how the node is. It may be called from any goroutine.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// tell sets the status, and where it is news logs it and makes an Event of it.
func (k *Keeper) tell(now time.Time, status Status) {
	k.mu.Lock()
	before := k.status
	status.Since, status.Success = before.Since, before.Success
	if status.State != before.State || status.Ready != before.Ready {
		status.Since = now
	}
	if status.Ready {
		status.Success = now
	}
	k.status = status
	k.mu.Unlock()

	if status.State == before.State && status.Ready == before.Ready && status.Reason == before.Reason {
		return
	}
	level := slog.LevelInfo
	if before.Ready && !status.Ready || status.State == Conflict || status.State == RolledBack {
		level = slog.LevelWarn
	}
	k.log.Log(context.Background(), level, "node is "+string(status.State), "ready", status.Ready, "reason", status.Reason)
	switch {
	case status.State == RolledBack && before.State != RolledBack:
		k.events.Add(now, eventRolledBack, status.Reason)
	case status.State == Armed && before.State == Trying:
		k.events.Add(now, eventArmed, "armed with policy set "+status.Set)
	case status.State == Conflict && before.State != Conflict:
		k.events.Add(now, eventConflict, status.Reason)
	case before.Ready && !status.Ready && k.lack == "": // tellFelix says that by itself
		k.events.Add(now, eventNotReady, status.Reason)
	}
}

// tellUntracked says once that Calico drops what nobody has told it to. That begins with the
// endpoint, whatever the policies say and whether they apply.
func (k *Keeper) tellUntracked(now time.Time, status Status) {
	if k.config.Untracked == nil || status.Endpoints == 0 || len(k.told[eventUntracked.Reason]) > 0 || !k.config.Untracked() {
		return
	}
	const message = "IPVS balances connections on this node and net.ipv4.vs.conntrack is 0: Calico drops their packets as invalid, whatever the policies say and in every mode. " +
		"Set net.ipv4.vs.conntrack to 1"
	k.tellOnce(eventUntracked.Reason, []string{message})
	k.events.Add(now, eventUntracked, message)
}

// The kinds of Events.
var (
	eventArmed      = event.Kind{Reason: "Armed"}
	eventRolledBack = event.Kind{Reason: "RolledBack", Warning: true}
	eventRepaired   = event.Kind{Reason: "Repaired"}
	eventDisarmed   = event.Kind{Reason: "Disarmed"}
	eventConflict   = event.Kind{Reason: "Conflict", Warning: true}
	eventContested  = event.Kind{Reason: "Contested", Warning: true}
	eventNotReady   = event.Kind{Reason: "NotReady", Warning: true}
	eventUntracked  = event.Kind{Reason: "UntrackedIPVS", Warning: true}
)

// sendEvents says on the Node what is due. It is no harm if that fails.
func (k *Keeper) sendEvents(ctx context.Context, f facts) {
	if f.node == nil {
		return
	}
	due, next := k.events.Take(f.now, corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: f.node.Name, UID: f.node.UID})
	k.agenda.Set(eventWork, next)
	var problems []string
	for _, e := range due {
		e.Source.Host, e.ReportingController, e.ReportingInstance = k.config.Node, "host-firewall.io/agent", k.config.Node
		if err := k.api.CreateEvent(ctx, e); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if len(due) > 0 {
		k.tellOnce("cannot create Event on the Node", problems)
	}
}
