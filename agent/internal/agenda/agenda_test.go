package agenda

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestWhatBecameDueAfterItWasAskedForIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New()
		a.Failed("work", time.Now(), errors.New("no"))
		assert.True(t, a.Waits("work"))
		time.Sleep(time.Second) // the rest of the pass takes long
		assert.Zero(t, a.Next(time.Now()))
		assert.False(t, a.Waits("work"))
		assert.Equal(t, time.Hour, a.Next(time.Now()), "what was not done although it was due makes no loop spin")
	})
}

func TestWorkThatFailsIsDueLaterAndLaterAndAtOnceWhenItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New()
		last := time.Duration(0)
		for range 20 {
			delay := a.Failed("work", time.Now(), errors.New("no"))
			assert.GreaterOrEqual(t, delay, last)
			assert.Equal(t, delay, a.Next(time.Now()))
			last = delay
			time.Sleep(delay)
		}
		assert.LessOrEqual(t, last, retryMost)
		a.Done("work")
		assert.False(t, a.Waits("work"))
		assert.Less(t, a.Failed("work", time.Now(), errors.New("no")), 2*retryFirst)
	})
}

func TestFieldThatIsFoughtOverIsToldAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New()
		for range 12 {
			a.WasSet(time.Now(), []string{"f"})
			time.Sleep(a.Next(time.Now()))
		}
		assert.Equal(t, []string{"f"}, a.Contested(time.Now()))
		assert.LessOrEqual(t, a.Next(time.Now()), truce+1)
		time.Sleep(time.Minute)
		assert.Empty(t, a.Contested(time.Now()))
	})
}
