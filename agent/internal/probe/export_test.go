package probe

import "time"

// What tests need to look at other addresses than those of a node.
var (
	Look         = look
	FelixReadyAt = felixReady
)

// LookEvery makes a watcher look that often. One that has ended may still read what was there before.
func (w *Watcher) LookEvery(d time.Duration) {
	if w.every != d {
		w.every = d
	}
}
