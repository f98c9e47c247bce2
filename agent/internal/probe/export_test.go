package probe

import "time"

// What tests need to look at other addresses than those of a node.
var (
	Look         = look
	FelixReadyAt = felixReady
)

// LookEvery makes a watcher look that often.
func (w *Watcher) LookEvery(d time.Duration) { w.every = d }
