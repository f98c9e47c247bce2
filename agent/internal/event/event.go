// Package event puts together what is to be said as Events of Kubernetes, so that a thing
// that goes on is not said again and again.
package event

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// warningDelay and newsDelay are how long an Event waits for more of its kind, and
	// up to as long again; every is the least time between two of a kind. Good news
	// is the least of what an API server has to be told by thousands of agents.
	warningDelay = 2 * time.Second
	newsDelay    = 30 * time.Second
	every        = 5 * time.Minute
	// maxMessage is how long the message of an Event may be.
	maxMessage = 1000
)

// Some names a few and counts the rest, which is never one.
func Some(names []string) string {
	const shown = 5
	if len(names) <= shown+1 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}

// Kind is the reason of an Event, and whether it is no good news.
type Kind struct {
	Reason  string
	Warning bool
}

// Queue is what is to be said, by kind.
type Queue map[Kind]*said

type said struct {
	message     string // of the last one
	count       int    // zero: nothing is to be said
	first, last time.Time
	due         time.Time // when to say it, and not before
}

// Add notes that something happened.
func (q Queue) Add(now time.Time, kind Kind, message string) {
	if q[kind] == nil {
		q[kind] = &said{}
	}
	v := q[kind]
	if v.count == 0 {
		v.first = now
		delay := newsDelay
		if kind.Warning {
			delay = warningDelay
		}
		if soon := now.Add(wait.Jitter(delay, 1)); v.due.Before(soon) {
			v.due = soon
		}
	}
	v.message, v.last = message, now
	v.count++
}

// Take returns an Event for each kind of which there is something to say and which is due,
// in the order of their reasons, and when the next one is; zero: there is none. Who says
// it, and where, is left open.
func (q Queue) Take(now time.Time, about corev1.ObjectReference) (due []*corev1.Event, next time.Time) {
	for kind, v := range q {
		switch {
		case v.count == 0:
		case !now.Before(v.due):
			due = append(due, New(about, kind, v.message, v.count, v.first, v.last))
			*v = said{due: now.Add(every)}
		case next.IsZero() || v.due.Before(next):
			next = v.due
		}
	}
	slices.SortFunc(due, func(a, b *corev1.Event) int { return strings.Compare(a.Reason, b.Reason) })
	return due, next
}

// New returns an Event about an object, in its namespace, or else in the default one.
func New(about corev1.ObjectReference, kind Kind, message string, count int, first, last time.Time) *corev1.Event {
	namespace, level := cmp.Or(about.Namespace, metav1.NamespaceDefault), corev1.EventTypeNormal
	if kind.Warning {
		level = corev1.EventTypeWarning
	}
	if len(message) > maxMessage {
		message = message[:maxMessage] + "..."
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", about.Name[:min(len(about.Name), 200)], time.Now().UnixNano()), Namespace: namespace},
		InvolvedObject: about,
		Reason:         kind.Reason,
		Message:        message,
		Source:         corev1.EventSource{Component: "host-firewall"},
		FirstTimestamp: metav1.NewTime(first),
		LastTimestamp:  metav1.NewTime(last),
		Count:          int32(count),
		Type:           level,
	}
}
