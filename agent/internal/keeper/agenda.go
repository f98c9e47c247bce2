package keeper

import (
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

	// leftoversEvery is how often leftovers are looked for while there are some.
	leftoversEvery = 10 * time.Second
	// foundFor is how long an endpoint that no cache shows is taken to be there.
	foundFor = 30 * time.Second

	// resync is the pass that is made without any reason.
	resync = "resync"
)

// agenda is when what is due. Work that has failed is due again later and later.
type agenda struct {
	due     map[string]time.Time
	backoff *flowcontrol.Backoff
}

func newAgenda() *agenda {
	return &agenda{due: map[string]time.Time{}, backoff: flowcontrol.NewBackOffWithJitter(retryFirst, retryMost, jitter)}
}

// set makes work due at a time, and notAfter unless it is due sooner anyway.
func (a *agenda) set(what string, at time.Time) { a.due[what] = at }

func (a *agenda) notAfter(what string, at time.Time) {
	if due, ok := a.due[what]; !ok || at.Before(due) {
		a.due[what] = at
	}
}

// waits tells whether work is not due yet.
func (a *agenda) waits(what string) bool { return time.Now().Before(a.due[what]) }

// begin tells whether work is due, and takes it from the agenda then.
func (a *agenda) begin(what string) bool {
	if a.waits(what) {
		return false
	}
	delete(a.due, what)
	return true
}

// failed makes work due again after a while, or when the API server wants to see us again.
// It returns after which while.
func (a *agenda) failed(what string, now time.Time, err error) time.Duration {
	a.backoff.Next(what, now)
	delay := a.backoff.Get(what)
	if seconds, told := apierrors.SuggestsClientDelay(err); told {
		delay = max(delay, time.Duration(seconds)*time.Second+spread(time.Second))
	}
	a.due[what] = now.Add(delay)
	return delay
}

// done takes work from the agenda, and forgets its failures.
func (a *agenda) done(what string) {
	delete(a.due, what)
	a.backoff.DeleteEntry(what)
}

// next returns how long it is until anything is due. What is due already but was not begun
// does not make a loop spin.
func (a *agenda) next(now time.Time) time.Duration {
	var first time.Time
	for _, due := range a.due {
		if due.After(now) && (first.IsZero() || due.Before(first)) {
			first = due
		}
	}
	if first.IsZero() {
		return time.Hour
	}
	return first.Sub(now)
}
