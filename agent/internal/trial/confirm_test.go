package trial_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// confirming is a node whose set has to be confirmed within ten minutes.
func confirming(t *testing.T) *world {
	w := newWorld(t, "A")
	w.in.Deadline = w.now.Add(10 * time.Minute)
	return w
}

// confirm is what a person does, and the controller thereupon.
func (w *world) confirm() { w.in.Confirmed, w.in.Deadline = true, time.Time{} }

func TestSetThatNobodyConfirmsIsLeftByItself(t *testing.T) {
	w := confirming(t).run(659, nil)
	assert.Equal(t, "0:A 0:R", w.timeline())
	w.run(long, nil)
	assert.Equal(t, "0:A 0:R 660:A", w.timeline(), "a minute later, when the deadline has passed by every clock, and for good")
	assert.True(t, w.status.Final())
	assert.Contains(t, w.last.Reason, "went back from set R to set A: set R was not confirmed until 2026-11-28T12:10:00Z; all that worked before works again")
	atRest(t, w)
}

func TestSetThatIsConfirmedStays(t *testing.T) {
	w := confirming(t)
	w.run(2000, map[int]func(){300: w.confirm})
	assert.Equal(t, "0:A 0:R", w.timeline())
	atRest(t, w)
}

func TestSetThatIsConfirmedInTheLastSecondStaysByEveryClock(t *testing.T) {
	for _, clock := range []time.Duration{-time.Minute, 0, 59 * time.Second} {
		w := confirming(t)
		w.clock, w.began = clock, clock
		w.run(2000, map[int]func(){600: func() { w.in.Confirmed = true }, 602: w.confirm})
		assert.Equal(t, "0:A 0:R", w.timeline(), "a clock that is %s ahead", clock)

		w = confirming(t)
		w.clock, w.began = clock, clock
		w.run(721, nil)
		assert.Equal(t, "A", w.carried, "and without it none stays")
	}
}

func TestConfirmationThatTheNodeHearsLateCounts(t *testing.T) {
	w := confirming(t)
	// It does not hear of anything, and would have gone back if it could.
	w.run(2000, map[int]func(){500: func() { w.away = true }, 700: func() { w.confirm(); w.away = false }})
	assert.Equal(t, "0:A 0:R", w.timeline())
	assert.Equal(t, trial.Armed, w.status.Phase)

	w = confirming(t)
	w.run(2000, map[int]func(){500: func() { w.down = true }, 700: func() { w.confirm(); w.restart() }})
	assert.Equal(t, "0:A 0:R", w.timeline())
}

func TestDeadlineThatPassesWhileTheAgentIsAwayIsKept(t *testing.T) {
	for _, at := range []int{5, 500} {
		w := confirming(t).run(at, nil)
		w.down = true
		w.run(1000, nil)
		w.restart()
		w.run(2, nil)
		assert.Equal(t, "A", w.carried)
		assert.True(t, w.status.Final())
	}
}

func TestDeadlineInTheMiddleOfTryingIsKept(t *testing.T) {
	w := newWorld(t, "A").cuts(peers)
	w.in.Deadline = w.now.Add(-30 * time.Second)
	assert.Equal(t, "0:A", w.run(2, nil).timeline(), "nothing moves that would have to go back at once")
	w.in.Deadline = w.now.Add(time.Second)
	w.run(1, nil)
	require.Equal(t, trial.Trying, w.status.Phase)
	w.in.Deadline = w.now.Add(-55 * time.Second)
	w.run(long, nil)
	assert.Equal(t, "0:A 2:R 8:A", w.timeline())
	assert.True(t, w.status.Unconfirmed)
}

func TestRetryAfterTheDeadlineWaitsForANewOne(t *testing.T) {
	w := confirming(t).run(700, nil)
	require.True(t, w.status.Final())
	w.run(20, map[int]func(){0: func() { w.in.Retry = "once more" }, 9: func() { w.in.Deadline = w.now.Add(10 * time.Minute) }})
	assert.Equal(t, "0:A 0:R 660:A 709:R", w.timeline())
	w.run(300, map[int]func(){100: w.confirm})
	assert.Equal(t, trial.Armed, w.status.Phase)
}

func TestDeadlineOfASetIsNotThatOfAnother(t *testing.T) {
	w := newWorld(t, "A").run(5, nil)
	w.in.Set, w.in.Blocked = "S", "not cleared"
	w.restart()
	w.in.Deadline = w.now.Add(-time.Hour)
	w.run(long, nil)
	assert.Equal(t, "0:A 0:R", w.timeline(), "R is not left because S was not confirmed")
	w.in.Set, w.in.Blocked = "R", ""
	w.restart()
	w.run(long, nil)
	assert.Equal(t, "0:A 0:R", w.timeline(), "nor by a deadline that is younger than the move to it: what was before may be gone")
	atRest(t, w)
}
