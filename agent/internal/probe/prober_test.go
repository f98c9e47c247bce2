package probe_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/host-firewall/host-firewall/agent/internal/probe"
)

func TestProberLooksBesideWhoAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var prober probe.Prober[string]
		_, taken := prober.Last()
		assert.Zero(t, taken, "nothing yet")

		wakes, began := 0, time.Now()
		ask := func(result string) {
			prober.Ask(t.Context(), func(context.Context) string { time.Sleep(time.Minute); return result }, func() { wakes++ })
		}
		ask("first")
		ask("while it looks")
		synctest.Wait()
		_, taken = prober.Last()
		assert.Zero(t, taken, "it still looks")

		time.Sleep(time.Minute)
		synctest.Wait()
		last, taken := prober.Last()
		assert.Equal(t, "first", last)
		assert.Equal(t, began, taken, "when it began to look: what was changed meanwhile may not have been seen")
		assert.Equal(t, 1, wakes)

		ask("second")
		last, taken = prober.Last()
		assert.Equal(t, "first", last, "the last one there is")
		assert.Equal(t, began, taken)
		time.Sleep(time.Minute)
		synctest.Wait()
		last, taken = prober.Last()
		assert.Equal(t, "second", last)
		assert.Equal(t, began.Add(time.Minute), taken)
		assert.Equal(t, 2, wakes)
	})
}

func TestProberKeepsNothingThatWasCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var prober probe.Prober[string]
		ctx, end := context.WithCancel(t.Context())
		woken := false
		prober.Ask(ctx, func(ctx context.Context) string { <-ctx.Done(); return "cut off" }, func() { woken = true })
		end()
		synctest.Wait()
		last, taken := prober.Last()
		assert.Empty(t, last)
		assert.Zero(t, taken)
		assert.False(t, woken)
	})
}
