package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

// State is how far the release is.
type State string

// The states.
const (
	Waiting  State = "Waiting"  // no node may be armed with the wanted set
	Canary   State = "Canary"   // one may
	Cleared  State = "Cleared"  // all may that are not held back
	Off      State = "Off"      // none is to be armed
	Opened   State = "Opened"   // somebody has asked for the way out
	Closed   State = "Closed"   // the release is being uninstalled
	Yielding State = "Yielding" // a newer controller has the say
)

// Status is the state of the release for people, probes and metrics.
type Status struct {
	State State
	// Ready tells that all is as the settings ask for.
	Ready  bool
	Reason string
	// Since is when State or Ready last changed.
	Since time.Time
	// Held is how many nodes are held back, Untrusted how many have addresses that are not
	// trusted yet, TrustSets and Sets are how many sets of addresses and policies there are.
	Held, Untrusted, TrustSets, Sets int
	// Nodes counts the nodes by the states that their agents have noted, Proven those that are
	// armed by endpoint.Proof. What nobody has noted is NotNoted.
	Nodes, Proven map[string]int
	// Drift are the sets in force that are not as the chart has rendered them.
	Drift []string
	// Deadline is until when a person has to confirm the set; zero: nobody has to.
	Deadline time.Time
	// WouldCut are those that the set would cut off, as the clearance tells it.
	WouldCut []peers.Cut
}

// NotNoted is what is counted where no agent has noted anything.
const NotNoted = "unknown"

// count counts the nodes.
func (s *Status) count(nodes map[string]*node) {
	s.Nodes, s.Proven = map[string]int{}, map[string]int{}
	for _, n := range nodes {
		if s.Nodes[cmp.Or(n.note.State, NotNoted)]++; n.armed {
			s.Proven[cmp.Or(endpoint.Proof(n.note.Enforced), NotNoted)]++
		}
	}
}

// Status returns how the release is. It may be called from any goroutine.
func (k *Controller) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// conclude says in the decision how the release is.
func (c Config) conclude(was, now clearance.Clearance, d *decision) {
	s := &d.status
	switch set := "set " + c.Wanted.Revision; {
	case now.Paused:
		s.State, s.Reason = Waiting, "Calico's datastore is not ready (ClusterInformation default): nothing of Calico is written until it is"
	case was.Opened:
		s.State, s.Reason = Opened, fmt.Sprintf("%s has the annotation %s: all nodes are open until it goes", c.subject(), clearance.OpenAnnotation)
	case c.Off:
		s.State, s.Ready, s.Reason = Off, true, "mode is off, no node is armed"
	case now.Reason != "":
		// For agents to come, nobody has to do anything.
		s.State, s.Ready, s.Reason = Waiting, now.Reason == clearance.NoCanary, now.Reason
	case now.Canary != "":
		s.State, s.Ready, s.Reason = Canary, true, fmt.Sprintf("node %s goes first with %s", now.Canary, set)
	default:
		s.State, s.Ready, s.Reason = Cleared, true, "nodes may be armed with "+set
	}
	if s.Deadline = now.Deadline; s.Ready && !now.Deadline.IsZero() {
		s.Reason += fmt.Sprintf(", and go back unless somebody confirms it before %s: %s", now.Deadline.UTC().Format(time.RFC3339), c.confirmBy())
	}
	for set, drift := range now.Drift {
		s.Drift = append(s.Drift, set)
		d.notices = append(d.notices, notice{kind: eventDrift, message: "set " + set + ", with which nodes are armed: " + drift})
	}
	if _, drifts := now.Drift[c.Wanted.Revision]; s.State == Waiting && !s.Ready && !drifts {
		d.notices = append(d.notices, notice{kind: eventNotCleared, message: s.Reason})
	}
}

// tell sets the status and logs it where it is news.
func (k *Controller) tell(now time.Time, status Status) {
	k.mu.Lock()
	before := k.status
	status.Since = before.Since
	if status.State != before.State || status.Ready != before.Ready {
		status.Since = now
	}
	k.status = status
	k.mu.Unlock()
	if status.State == before.State && status.Ready == before.Ready && status.Reason == before.Reason {
		return
	}
	level := slog.LevelInfo
	if before.Ready && !status.Ready {
		level = slog.LevelWarn
	}
	k.log.Log(context.Background(), level, "release is "+string(status.State), "ready", status.Ready, "reason", status.Reason)
}

const (
	// lastsFor is how long something has to be so before an Event tells it, and tellAgain
	// how long it has to be otherwise before it is told once more.
	lastsFor, tellAgain = 5 * time.Second, 5 * time.Minute
	// What all of a sudden is so of thousands of nodes is told slowly.
	eventsPerSecond, eventsBurst = 1, 20
)

// The kinds of Events, all of them warnings.
const (
	eventHeld       = "HeldBack"
	eventRefused    = "AddressRefused"
	eventUntrusted  = "NodesNotTrusted"
	eventDrift      = "PolicyDrift"
	eventNotCleared = "NotCleared"
	eventUnreadable = "PolicyNotReadable"
	eventWouldCut   = "WouldCut"
)

// notice is something that is not as it should be, of a Node or, without one, of the
// release.
type notice struct {
	kind, node string
	uid        types.UID
	message    string
}

// events remembers what is not as it should be.
type events struct {
	noticed map[notice]*noticed
	limit   flowcontrol.RateLimiter
}

// noticed is since when that is so, when it last was, and whether an Event has told it.
type noticed struct {
	first, last time.Time
	told        bool
}

// sendEvents tells what is due. It is no harm if that fails.
func (k *Controller) sendEvents(ctx context.Context, f facts, d *decision) {
	for _, n := range d.notices {
		seen := k.events.noticed[n]
		if seen == nil {
			seen = &noticed{first: f.now}
			k.events.noticed[n] = seen
		}
		seen.last = f.now
		switch due := seen.first.Add(lastsFor); {
		case seen.told:
		case f.now.Before(due):
			d.at(due)
		case !k.events.limit.TryAccept():
			d.at(f.now.Add(time.Second / eventsPerSecond))
		default:
			seen.told = true
			if err := k.api.CreateEvent(ctx, k.config.eventOf(n, f, seen.first)); err != nil {
				k.log.Warn("cannot create Event", "about", n.message, "error", err)
			}
		}
	}
	maps.DeleteFunc(k.events.noticed, func(_ notice, seen *noticed) bool { return f.now.Sub(seen.last) > tellAgain })
}

// eventOf returns the Event, on the Node or on the ConfigMap.
func (c Config) eventOf(n notice, f facts, first time.Time) *corev1.Event {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.node, UID: n.uid}
	if n.node == "" {
		about = corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: c.Namespace, Name: c.Release}
		if f.configMap != nil {
			about.UID = f.configMap.UID
		}
	}
	e := event.New(about, event.Kind{Reason: n.kind, Warning: true}, n.message, 1, first, f.now)
	e.ReportingController, e.ReportingInstance = "host-firewall.io/controller", c.Release
	return e
}
