package probe

import (
	"context"
	"sync"
	"time"
)

// Prober looks at something beside a loop that may not wait for it. The loop asks in each pass
// that wants a newer result than the last one, and is woken when there is one. The zero Prober
// is ready. Its methods may be called from any goroutine.
type Prober[T any] struct {
	mu    sync.Mutex
	looks bool
	last  T
	taken time.Time
}

// Ask begins a look and returns at once. It does nothing while there is one, which wakes in any
// case: who asked for another one then asks again. Once the context has ended, nothing is kept
// of a look and nobody is woken.
func (p *Prober[T]) Ask(ctx context.Context, look func(context.Context) T, wake func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.looks {
		return
	}
	p.looks = true
	go func() {
		began := time.Now()
		result := look(ctx)
		if p.keep(ctx, result, began) {
			wake()
		}
	}()
}

func (p *Prober[T]) keep(ctx context.Context, result T, began time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks = false
	if ctx.Err() != nil {
		return false
	}
	p.last, p.taken = result, began
	return true
}

// Last returns the last result, and when that look began: what it shows may be as old, but was
// not before. The time is zero where there was none.
func (p *Prober[T]) Last() (result T, taken time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, p.taken
}
