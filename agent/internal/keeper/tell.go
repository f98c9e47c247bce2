package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// State is how far the protection of the node is.
type State string

const (
	// Waiting means that something has to come first; no endpoint is armed.
	Waiting State = "Waiting"
	// Armed means that the policies apply to the node.
	Armed State = "Armed"
	// Conflict means that somebody else's endpoint would win or fight. Nothing is
	// armed then that was not before.
	Conflict State = "Conflict"
	// Off means that the node is not to be protected: no endpoint is armed.
	Off State = "Off"
)

// States returns all of them.
func States() []State { return []State{Waiting, Armed, Conflict, Off} }

// Status is the state of the node for people, probes and metrics.
type Status struct {
	State State
	// Ready tells that all is as the settings ask for.
	Ready  bool
	Reason string
	// Since is when State or Ready last changed.
	Since time.Time
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
	if before.Ready && !status.Ready || status.State == Conflict {
		level = slog.LevelWarn
	}
	k.log.Log(context.Background(), level, "node is "+string(status.State), "ready", status.Ready, "reason", status.Reason)
	switch {
	case status.State == Conflict && before.State != Conflict:
		k.events.add(now, eventConflict, status.Reason)
	case before.Ready && !status.Ready:
		k.events.add(now, eventNotReady, status.Reason)
	}
}

// tellUntracked says once that Calico drops what nobody has told it to. That begins with the
// endpoint, whatever the policies say and whether they apply.
func (k *Keeper) tellUntracked(now time.Time, status Status) {
	if k.untracked || k.config.Untracked == nil || status.Endpoints == 0 || !k.config.Untracked() {
		return
	}
	const message = "IPVS balances connections on this node and net.ipv4.vs.conntrack is 0: Calico drops their packets as invalid, whatever the policies say and in every mode. " +
		"Set net.ipv4.vs.conntrack to 1"
	k.untracked = true
	k.log.Warn(message)
	k.events.add(now, eventUntracked, message)
}

const (
	// warningDelay and newsDelay are how long an Event waits for more of its kind, and
	// up to as long again; eventEvery is the least time between two of a kind. Good news
	// is the least of what an API server has to be told by thousands of agents.
	warningDelay = 2 * time.Second
	newsDelay    = 30 * time.Second
	eventEvery   = 5 * time.Minute
	// maxMessage is how long the message of an Event may be.
	maxMessage = 1000
)

// The kinds of Events.
const (
	eventCreated   = "EndpointCreated"
	eventArmed     = "Armed"
	eventRepaired  = "Repaired"
	eventDisarmed  = "Disarmed"
	eventConflict  = "Conflict"
	eventContested = "Contested"
	eventNotReady  = "NotReady"
	eventUntracked = "UntrackedIPVS"
)

// isWarning tells which of them are no good news.
func isWarning(kind string) bool {
	return slices.Contains([]string{eventConflict, eventContested, eventNotReady, eventUntracked}, kind)
}

// events are what is to be said on the Node, by kind. Those of one kind are put
// together, so that a thing that goes on is not said again and again.
type events map[string]*event

type event struct {
	message     string // of the last one
	count       int    // zero: nothing is to be said
	first, last time.Time
	due         time.Time // when to say it, and not before
}

// add notes that something happened.
func (e events) add(now time.Time, kind, message string) {
	if e[kind] == nil {
		e[kind] = &event{}
	}
	v := e[kind]
	if v.count == 0 {
		v.first = now
		delay := newsDelay
		if isWarning(kind) {
			delay = warningDelay
		}
		if soon := now.Add(wait.Jitter(delay, 1)); v.due.Before(soon) {
			v.due = soon
		}
	}
	v.message, v.last = message, now
	v.count++
}

// drop takes back what was not said yet, and tells whether there was anything.
func (e events) drop(kind string) bool {
	waits := e[kind] != nil && e[kind].count > 0
	if waits {
		delete(e, kind)
	}
	return waits
}

// sendEvents says what is due. It is no harm if that fails.
func (k *Keeper) sendEvents(ctx context.Context, f facts) {
	if f.node == nil {
		return
	}
	for _, kind := range slices.Sorted(maps.Keys(k.events)) {
		v := k.events[kind]
		if v.count == 0 {
			continue
		}
		if f.now.Before(v.due) {
			k.agenda.set(eventWork+kind, v.due)
			continue
		}
		err := k.api.CreateEvent(ctx, v.object(k.config.Node, f, kind))
		k.tellOnce("cannot create Event on the Node", problems(err))
		*v = event{due: f.now.Add(eventEvery)}
	}
}

// problems are the texts of an error, none when there is none.
func problems(err error) []string {
	if err == nil {
		return nil
	}
	return []string{err.Error()}
}

// object returns the Event.
func (v *event) object(node string, f facts, kind string) *corev1.Event {
	const program = "host-firewall"
	message, level := v.message, corev1.EventTypeNormal
	if len(message) > maxMessage {
		message = message[:maxMessage] + "..."
	}
	if isWarning(kind) {
		level = corev1.EventTypeWarning
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name:      fmt.Sprintf("%s.%x", node[:min(len(node), 200)], f.now.UnixNano()),
			Namespace: metav1.NamespaceDefault,
		},
		InvolvedObject:      corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: f.node.UID},
		Reason:              kind,
		Message:             message,
		Source:              corev1.EventSource{Component: program, Host: node},
		FirstTimestamp:      metav1.NewTime(v.first),
		LastTimestamp:       metav1.NewTime(v.last),
		Count:               int32(v.count),
		Type:                level,
		ReportingController: "host-firewall.io/agent",
		ReportingInstance:   node,
	}
}
