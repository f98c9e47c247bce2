// Package agenda is the one mechanism of the agent for when what is due. Work that fails is
// due again later and later, and so is a field that somebody else keeps changing back.
package agenda

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/flowcontrol"
)

const (
	// After a failure work waits, at first so briefly that a cache which was behind costs
	// nothing, and up to so long.
	retryFirst = 5 * time.Millisecond
	retryMost  = 30 * time.Second
	// jitter spreads the retries of many agents by up to this part of the delay.
	jitter = 0.2

	// A field that was set back before waits for a while before it is set back again. From
	// contestedFrom on that is told, until nobody has changed it for truce.
	contestedFrom = time.Second
	truce         = 10 * time.Second

	fieldWork = "field "
	truceWork = "truce"
)

// Agenda is when what is due. It is for one goroutine.
type Agenda struct {
	due     map[string]time.Time
	asked   map[string]bool // what was not due yet when somebody asked, since Next
	backoff *flowcontrol.Backoff
}

// New returns an agenda on which nothing is.
func New() *Agenda {
	return &Agenda{due: map[string]time.Time{}, asked: map[string]bool{}, backoff: flowcontrol.NewBackOffWithJitter(retryFirst, retryMost, jitter)}
}

// Set makes work due at a time.
func (a *Agenda) Set(what string, at time.Time) { a.due[what] = at }

// NotAfter makes work due at a time, unless it is sooner anyway.
func (a *Agenda) NotAfter(what string, at time.Time) {
	if due, ok := a.due[what]; !ok || at.Before(due) {
		a.due[what] = at
	}
}

// Has tells whether work is on the agenda, due or not.
func (a *Agenda) Has(what string) bool { return !a.due[what].IsZero() }

// Waits tells whether work is not due yet. Who asked is called again when it is.
func (a *Agenda) Waits(what string) bool {
	waits := time.Now().Before(a.due[what])
	if waits {
		a.asked[what] = true
	}
	return waits
}

// Begin tells whether work is due, and takes it from the agenda then.
func (a *Agenda) Begin(what string) bool {
	if a.Waits(what) {
		return false
	}
	delete(a.due, what)
	return true
}

// Failed makes work due again after a while, or when the API server wants to see us again,
// and returns that while.
func (a *Agenda) Failed(what string, now time.Time, err error) time.Duration {
	a.backoff.Next(what, now)
	delay := a.backoff.Get(what)
	if seconds, told := apierrors.SuggestsClientDelay(err); told {
		delay = max(delay, time.Duration(seconds)*time.Second+rand.N(time.Second))
	}
	a.due[what] = now.Add(delay)
	return delay
}

// Done takes work from the agenda, and forgets its failures.
func (a *Agenda) Done(what string) {
	delete(a.due, what)
	a.backoff.DeleteEntry(what)
}

// Next returns how long it is until anything is due. What is due already counts only where it
// was not yet when it was asked for. It is an hour where nothing is.
func (a *Agenda) Next(now time.Time) time.Duration {
	next := time.Hour
	for what, due := range a.due {
		if due.After(now) || a.asked[what] {
			next = min(next, max(due.Sub(now), 0))
		}
	}
	clear(a.asked)
	return next
}

// LeaveAlone tells whether any of these fields has to wait.
func (a *Agenda) LeaveAlone(fields []string) bool {
	return slices.ContainsFunc(fields, func(field string) bool { return a.Waits(fieldWork + field) })
}

// WasSet notes that these fields were set.
func (a *Agenda) WasSet(now time.Time, fields []string) {
	a.backoff.GC()
	for _, field := range fields {
		a.Failed(fieldWork+field, now, nil)
	}
}

// Contested returns the fields that somebody else keeps changing, and sees to it that they
// are looked at again.
func (a *Agenda) Contested(now time.Time) (fields []string) {
	for _, what := range slices.Sorted(maps.Keys(a.due)) {
		field, is := strings.CutPrefix(what, fieldWork)
		over := a.due[what].Add(truce)
		switch {
		case !is:
		case now.After(over):
			delete(a.due, what)
		case a.backoff.Get(what) >= contestedFrom:
			fields = append(fields, field)
			a.NotAfter(truceWork, over.Add(1))
		}
	}
	if len(fields) == 0 {
		delete(a.due, truceWork)
	}
	return fields
}
