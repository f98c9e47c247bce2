package probe

import (
	"context"
	"sync"
	"time"
)

// Outage tries paths with new connections until stop is called, which says for how long that one failed which did so the longest at a stretch:
// from the start of the first try that failed to the start of the first one that did not.
func Outage(ctx context.Context, paths []Path, pause time.Duration) (stop func() time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var longest time.Duration
	var group sync.WaitGroup
	watch := func(from Source, to Address) {
		var since time.Time
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for ctx.Err() == nil {
			start := time.Now()
			if !since.IsZero() {
				mu.Lock()
				longest = max(longest, start.Sub(since))
				mu.Unlock()
			}
			switch failed := Connect(from, to) != nil; {
			case !failed:
				since = time.Time{}
			case since.IsZero():
				since = start
			}
			<-tick.C
		}
	}
	for _, p := range paths {
		for _, to := range p.To {
			group.Go(func() { watch(p.From, to) })
		}
	}
	return func() time.Duration { cancel(); group.Wait(); return longest }
}
