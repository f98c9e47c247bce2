// Package loop is how agent and controller work: pass after pass, woken by events or when
// something is due.
package loop

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// stuckAfter is the longest that a pass may take. All requests of one pass together time
// out sooner.
const stuckAfter = 3 * time.Minute

// Loop makes passes. Its methods may be called from any goroutine.
type Loop struct {
	woken     chan struct{}             // holds what tells to look again
	busySince atomic.Pointer[time.Time] // nil between passes
}

// New returns a loop that does nothing before Run.
func New() *Loop { return &Loop{woken: make(chan struct{}, 1)} }

// Wake makes the loop look again.
func (l *Loop) Wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// Run calls pass at once, when it is woken, and after the time that it has returned, until
// the context ends. Between a wake-up and its pass it waits for as long as quiet returns, so
// that more of them are one; nil: not at all.
func (l *Loop) Run(ctx context.Context, quiet func() time.Duration, pass func(context.Context) time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.woken:
			if quiet != nil && !l.rest(ctx, quiet()) {
				return
			}
		case <-timer.C:
		}
		began := time.Now()
		l.busySince.Store(&began)
		again := pass(ctx)
		l.busySince.Store(nil)
		timer.Reset(again)
	}
}

// rest lets more wake-ups come. It returns false when the context ends meanwhile.
func (l *Loop) rest(ctx context.Context, quiet time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(quiet):
	}
	select {
	case <-l.woken:
	default:
	}
	return true
}

// Alive returns an error when the loop is stuck in a pass.
func (l *Loop) Alive() error {
	if since := l.busySince.Load(); since != nil && time.Since(*since) > stuckAfter {
		return fmt.Errorf("stuck in one pass for %s", time.Since(*since).Round(time.Second))
	}
	return nil
}
