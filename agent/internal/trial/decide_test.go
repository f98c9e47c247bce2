package trial_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	long  = 300 // seconds, after which all has come to rest
	peers = "kubelets of other nodes"
)

// atRest tells that the agent waits for nothing.
func atRest(t *testing.T, w *world) {
	t.Helper()
	assert.True(t, !w.last.Probe && w.last.When.IsZero(), "it is at rest")
	assert.Equal(t, w.status.Encode(), w.text, "and that is written")
}

func TestMoveThatCutsNothingIsArmedTenSecondsLater(t *testing.T) {
	for _, from := range []string{"", "A"} {
		w := newWorld(t, from).run(10, nil)
		assert.Equal(t, trial.Trying, w.status.Phase)
		w.run(1, nil)
		assert.Equal(t, trial.Armed, w.status.Phase)
		assert.Equal(t, "0:"+from+" 0:R", w.run(long, nil).timeline())
		assert.Equal(t, 1, w.status.Attempt)
		assert.Equal(t, from, w.status.From)
		atRest(t, w)
	}
}

func TestMoveThatCutsIsUndoneAndTriedOnceMoreAndThenLeft(t *testing.T) {
	for _, probe := range probes() {
		for _, from := range []string{"", "A"} {
			w := newWorld(t, from).cuts(probe).run(60, nil)
			assert.Equal(t, "0:"+from+" 0:R 45:"+from, w.timeline())
			assert.Equal(t, []string{probe + ": timeout"}, w.status.Cut)
			assert.False(t, w.status.Final())
			w.run(long, nil)
			assert.Equal(t, "0:"+from+" 0:R 45:"+from+" 75:R 120:"+from, w.timeline(), "once more, and no third time")
			assert.True(t, w.status.Final())
			assert.Contains(t, w.last.Reason, probe+": timeout; all that worked before works again; it stays so until another set comes")
			atRest(t, w)
		}
	}
}

func TestWhatDidNotWorkBeforeTheMoveDoesNotCount(t *testing.T) {
	w := newWorld(t, "A")
	w.breaks("DNS")
	assert.Equal(t, "0:A 1:R", w.run(long, nil).timeline())
	assert.Equal(t, trial.Armed, w.status.Phase)
	assert.NotContains(t, w.status.Baseline, "DNS")
}

func TestWhatWorksOnlyAfterTheMoveDoesNotCount(t *testing.T) {
	w := newWorld(t, "A")
	w.breaks("DNS")
	w.run(long, map[int]func(){3: func() { w.breaks() }, 5: func() { w.breaks("DNS") }})
	assert.Equal(t, "0:A 1:R", w.timeline())
	assert.Equal(t, trial.Armed, w.status.Phase)
}

func TestWhatIsNotTriedAnyMoreDoesNotWork(t *testing.T) {
	w := newWorld(t, "A").run(2, nil)
	require.Equal(t, trial.Trying, w.status.Phase)
	w.in.Taken, w.in.Results = w.in.Now, []trial.Result{{Probe: "API server"}}
	assert.Contains(t, trial.Decide(w.status, w.in).Reason, "DNS: it could not be tried")
}

func TestNodeWhereNothingWorksDoesNotMove(t *testing.T) {
	w := newWorld(t, "A")
	w.breaks(probes()...)
	assert.Equal(t, "0:A", w.run(long, nil).timeline())
	assert.Contains(t, w.last.Reason, "but nothing does: API server: broken")
	w.breaks("DNS")
	w.run(30, nil)
	assert.Equal(t, trial.Armed, w.status.Phase, "it does when anything works")
}

func TestRoundThatBeganBeforeTheMoveProvesNothing(t *testing.T) {
	w := newWorld(t, "A").run(1, nil)
	status, in := w.status, w.in
	in.Taken = status.Since.Add(-time.Millisecond)
	for range 44 {
		in.Now = in.Now.Add(time.Second)
		d := trial.Decide(status, in)
		assert.True(t, d.Probe)
		assert.Equal(t, trial.Trying, d.Status.Phase)
		status = d.Status
	}
	in.Now = in.Now.Add(time.Second)
	d := trial.Decide(status, in)
	assert.Equal(t, "A", d.Carry, "who has seen nothing goes back")
	assert.Contains(t, d.Reason, "nothing could be tried in time")
}

func TestRoundUnderRulesThatCutIsNoBaseline(t *testing.T) {
	w := newWorld(t, "A").cuts("DNS")
	w.run(long, map[int]func(){46: func() { w.in.Retry = "now" }})
	assert.Equal(t, "0:A 0:R 45:A 55:R 100:A 130:R 175:A", w.timeline(), "a retry right after going back waits until what it left is gone")
	assert.Contains(t, w.status.Baseline, "DNS")
}

func TestTenSecondsAreWithoutABreak(t *testing.T) {
	w := newWorld(t, "A")
	w.fails = func(probe string) string {
		if probe == "DNS" && w.carried == "R" && w.now.Sub(w.start)/time.Second%9 == 8 {
			return "lost"
		}
		return ""
	}
	w.run(60, nil)
	assert.Equal(t, "0:A 0:R 45:A", w.timeline(), "eight are not ten")
	assert.Equal(t, []string{"DNS: lost"}, w.status.Cut, "what failed is told, also where the last round was well")
}

func TestRoundsThatFollowCloselyAreNotMoreTime(t *testing.T) {
	w := newWorld(t, "A").run(1, nil)
	status, in := w.status, w.in
	for range 90 {
		in.Now, in.Taken = in.Now.Add(100*time.Millisecond), in.Now.Add(50*time.Millisecond)
		status = trial.Decide(status, in).Status
		assert.Equal(t, trial.Trying, status.Phase)
	}
}

func TestWhatTheControllerDoesNotReachGoesBack(t *testing.T) {
	w := newWorld(t, "A")
	w.run(long, map[int]func(){
		9:  func() { w.in.Cut = "its kubelet does not answer the controller" },
		50: func() { w.in.Cut = "" },
	})
	assert.Equal(t, "0:A 0:R 45:A 75:R", w.timeline())
	assert.Equal(t, trial.Armed, w.status.Phase, "the second attempt cut nothing")
	assert.Empty(t, w.status.Cut)
}

func TestWhatIsTriedBeforeTheRulesAreSeenProvesNothing(t *testing.T) {
	const unseen = "Felix has not followed the label"
	w := newWorld(t, "A")
	w.in.Unseen = unseen
	assert.Equal(t, "0:A 0:R 45:A 75:R 120:A", w.run(long, nil).timeline())
	assert.Equal(t, []string{unseen}, w.status.Cut)
	assert.True(t, w.status.Final())

	w = newWorld(t, "A")
	w.in.Unseen = unseen
	w.run(5, nil)
	assert.NotContains(t, w.last.Reason, unseen, "it has a moment to follow")
	w.run(10, nil)
	assert.Contains(t, w.last.Reason, "now does not work: "+unseen)
	w.in.Unseen = ""
	w.run(9, nil)
	assert.Equal(t, trial.Trying, w.status.Phase, "what was well meanwhile was so under the rules before")
	w.run(3, nil)
	assert.Equal(t, trial.Armed, w.status.Phase)

	w = newWorld(t, "A")
	w.run(25, map[int]func(){8: func() { w.in.Unseen = unseen }, 11: func() { w.in.Unseen = "" }})
	assert.Equal(t, trial.Armed, w.status.Phase)
	assert.False(t, w.status.Since.Before(noon.Add(21*time.Second)), "ten seconds without a break")

	w = newWorld(t, "A")
	w.run(50, map[int]func(){5: func() { w.down = true }})
	w.restart()
	w.in.Unseen = unseen
	w.run(2, nil)
	assert.Equal(t, trial.Trying, w.status.Phase, "an agent that was away has to look first")
	w.in.Unseen = ""
	w.run(12, nil)
	assert.Equal(t, trial.Armed, w.status.Phase)
}

func TestShortOutageOfTheAPIServerUndoesNothing(t *testing.T) {
	w := newWorld(t, "A")
	w.run(long, map[int]func(){3: func() { w.away = true }, 33: func() { w.away = false }})
	assert.Equal(t, "0:A 0:R", w.timeline())
	assert.Equal(t, trial.Armed, w.status.Phase)
}

func TestNodeGoesBackAsSoonAsTheAPIServerLetsIt(t *testing.T) {
	w := newWorld(t, "A")
	w.run(110, map[int]func(){5: func() { w.away = true }, 100: func() { w.away = false }})
	assert.Equal(t, "0:A 0:R 100:A", w.timeline(), "though all is well by then: nobody knows what it was")
	assert.Equal(t, []string{"API server: connection refused"}, w.status.Cut)
	w.run(long, nil)
	assert.Equal(t, trial.Armed, w.status.Phase, "for that there is the second attempt")
	assert.Equal(t, 2, w.status.Attempt)
}

func TestAPIServerThatComesBackUnderTheSameRulesWasAwayForAll(t *testing.T) {
	w, was := newWorld(t, "A"), trial.Status{}
	w.run(110, map[int]func(){
		5:  func() { w.away = true },
		90: func() { was, w.away, w.refuses = w.status, false, true },
		95: func() { w.refuses = false },
	})
	assert.Equal(t, []string{"API server: connection refused"}, was.Cut, "a status that was returned stays as it is")
	assert.Equal(t, "0:A 0:R 95:A", w.timeline())
	assert.Equal(t, []string{"API server: connection refused (worked again under the same policies, which did not cut it then)"}, w.status.Cut)
}

func TestAgentThatRestartsGoesOn(t *testing.T) {
	for second := range 50 {
		for _, away := range []int{0, 3, 12} {
			stop := func(w *world) *world {
				w.run(second, nil)
				w.down = true
				w.run(away, nil)
				w.restart()
				return w
			}
			t.Run(fmt.Sprintf("well, killed in second %d, away for %d", second, away), func(t *testing.T) {
				w := stop(newWorld(t, "A")).run(20, nil)
				assert.Equal(t, trial.Armed, w.status.Phase)
				assert.Len(t, w.moves, 2, "it does not go back, for nothing was cut")
			})
			t.Run(fmt.Sprintf("cut, killed in second %d, away for %d", second, away), func(t *testing.T) {
				w := stop(newWorld(t, "A").cuts(peers))
				w.until(w.start.Add(61 * time.Second))
				assert.Contains(t, w.timeline(), "A", "back within a minute")
				assert.Equal(t, "A", w.carried)
				assert.Equal(t, []string{peers + ": timeout"}, w.status.Cut)
				w.run(long, nil)
				assert.True(t, w.status.Final())
				assert.Len(t, w.moves, 5, "two attempts, as without: %s", w.timeline())
			})
		}
	}
}

func TestAgentThatRestartsAfterGoingBackGoesOn(t *testing.T) {
	for second := 46; second < 200; second += 3 {
		w := newWorld(t, "A").cuts(peers).run(second, nil)
		w.restart()
		w.run(long, nil)
		assert.Len(t, w.moves, 5, "restarted in second %d: %s", second, w.timeline())
		assert.Contains(t, w.last.Reason, "works again")
		atRest(t, w)
	}
}

func TestAgentThatWasAwayAtTheEndJudgesByWhatItSees(t *testing.T) {
	for name, cut := range map[string]string{"well": "", "cut": peers} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "A").run(5, nil)
			w.down = true
			w.cuts(cut).run(600, nil)
			w.restart()
			w.run(2, nil)
			assert.Equal(t, cut == "", w.carried == "R", "one probe that fails is enough: %s", w.timeline())
			w.run(12, nil)
			assert.Equal(t, cut == "", w.status.Phase == trial.Armed)
		})
	}
}

func TestHoldWhileTryingTakesTheNodeBackAtOnce(t *testing.T) {
	w := newWorld(t, "A")
	w.run(long, map[int]func(){
		4:  func() { w.in.Held = "HostEndpoint rival wins" },
		50: func() { w.in.Held = "" },
	})
	assert.Equal(t, "0:A 0:R 4:A 50:R", w.timeline(), "and it moves again when the hold is gone")
	assert.Equal(t, trial.Armed, w.status.Phase)
	assert.Equal(t, 2, w.status.Attempt, "a hold that comes and goes doesn't move the node for ever")
}

func TestWhatOnlyForbidsMovingDoesNotUndoAMove(t *testing.T) {
	w := newWorld(t, "A")
	w.run(long, map[int]func(){4: func() { w.in.Blocked = "node n0 goes first" }})
	assert.Equal(t, "0:A 0:R", w.timeline())
	assert.Equal(t, trial.Armed, w.status.Phase)

	w = newWorld(t, "A").cuts(peers)
	w.run(long, map[int]func(){4: func() { w.in.Blocked = "node n0 goes first" }})
	assert.Equal(t, "0:A 0:R 45:A", w.timeline(), "but the second attempt is a move")
}

func TestNothingIsSaidOfOneSetWhileTheNodeCarriesTwo(t *testing.T) {
	w := newWorld(t, "A")
	w.both = 5 * time.Second
	w.run(15, nil)
	assert.Equal(t, trial.Trying, w.status.Phase)
	w.run(1, nil)
	assert.Equal(t, trial.Armed, w.status.Phase, "ten seconds of this set alone")

	// What R cuts is cut as long as A is carried beside it, and that can't be written.
	w = newWorld(t, "A")
	w.both = 5 * time.Second
	w.fails = func(probe string) string {
		if (w.carried == "R" || w.leaves == "R") && probe == "DNS" {
			return "timeout"
		}
		return ""
	}
	w.run(70, map[int]func(){46: func() { w.refuses = true }})
	assert.Equal(t, "0:A 0:R 45:A", w.timeline())
	assert.Contains(t, w.last.Reason, "what came of going back is not known yet")
	w.refuses = false
	w.run(2, nil)
	assert.Contains(t, w.last.Reason, "all that worked before works again")
}

func TestNodeThatMayNotMoveIsNotProbed(t *testing.T) {
	for _, in := range []trial.Input{{Blocked: "not cleared"}, {Held: "drift"}} {
		w := newWorld(t, "A")
		w.in.Blocked, w.in.Held = in.Blocked, in.Held
		w.run(long, nil)
		assert.Equal(t, "0:A", w.timeline())
		assert.Equal(t, in.Blocked+in.Held, w.last.Reason)
		assert.Empty(t, w.text)
		atRest(t, w)
	}
}

func TestMoveThatCouldNotBeWrittenHasNotBegun(t *testing.T) {
	w := newWorld(t, "A")
	w.refuses = true
	w.run(100, map[int]func(){50: func() { w.refuses = false }})
	assert.Equal(t, "0:A 50:R", w.timeline())
	assert.Equal(t, 1, w.status.Attempt)
	assert.WithinDuration(t, w.start.Add(61*time.Second), w.status.Since, time.Second, "its ten seconds began with the move")

	w = newWorld(t, "A")
	w.refuses = true
	w.run(100, map[int]func(){40: func() { w.in.Blocked = "node n0 went back" }, 50: func() { w.refuses = false }})
	assert.Equal(t, "0:A", w.timeline(), "and is not made when it may not be any more")
	assert.Empty(t, w.text)
}

func TestPersonWhoTakesTheLabelOffWhileTryingIsHeard(t *testing.T) {
	w := newWorld(t, "A")
	w.run(20, map[int]func(){4: func() { w.carried = ""; w.moved() }})
	assert.Equal(t, "0:A 0:R 4: 4:A", w.timeline(), "back to what is known to work, not open")
	assert.Contains(t, w.status.Went(), "somebody took the label of set R off")
	w.run(long, map[int]func(){20: func() { w.carried = ""; w.moved() }})
	assert.Equal(t, "0:A 0:R 4: 4:A 34:R 40: 40:A", w.timeline(), "twice is enough")
	assert.True(t, w.status.Final())

	w = newWorld(t, "A").cuts(peers)
	w.run(long, map[int]func(){50: func() { w.in.Blocked = "node n0 goes first" }, 90: func() { w.carried = ""; w.moved() }})
	assert.Equal(t, "0:A 0:R 45:A 90: 90:A", w.timeline(), "nor does it stay open where it waits for its second attempt")
}

func TestSecondAttemptIsNotBlindForWhatTheFirstCut(t *testing.T) {
	w := newWorld(t, "A").cuts("DNS").run(60, nil)
	require.Equal(t, "0:A 0:R 45:A", w.timeline())
	require.NotNil(t, w.status.Still)
	require.Empty(t, w.status.Still)
	w.breaks("DNS")
	w.run(long, nil)
	assert.Equal(t, "0:A 0:R 45:A", w.timeline())
	assert.Contains(t, w.last.Reason, "when this works again: DNS")
	w.breaks()
	w.run(30, nil)
	assert.Equal(t, trial.Armed, w.status.Phase)
}

func TestGoingBackThatDidNotHelpIsNotToldAsSuccess(t *testing.T) {
	w := newWorld(t, "A")
	w.run(50, map[int]func(){5: func() { w.breaks("DNS") }})
	assert.Contains(t, w.last.Reason, "what came of going back is not known yet")
	w.run(10, nil)
	assert.Contains(t, w.last.Reason, "that did not help, without set R does not work either: DNS: broken")
	assert.NotContains(t, w.last.Reason, "works again")
	w.run(long, nil)
	assert.Equal(t, trial.Armed, w.status.Phase, "what fails for another reason is not the set's to undo for ever")
	assert.NotContains(t, w.status.Baseline, "DNS")

	w = newWorld(t, "A").cuts(peers).run(50, nil)
	w.breaks("DNS", peers)
	w.run(20, nil)
	assert.Equal(t, []string{peers + ": broken", "DNS: broken"}, w.status.Still, "also what broke on the way back")
}

func TestRetryIsANewTextAndNothingElse(t *testing.T) {
	back := func() *world {
		w := newWorld(t, "A").cuts(peers)
		w.in.Retry = "first"
		w.run(long, nil)
		require.True(t, w.status.Final())
		require.Len(t, w.moves, 5)
		return w
	}
	w := back()
	w.in.Retry = ""
	w.run(long, nil)
	assert.Len(t, w.moves, 5, "to take the annotation away says nothing")
	w.in.Retry = "first"
	w.run(long, nil)
	assert.Len(t, w.moves, 5)
	w.in.Retry = "second"
	assert.True(t, w.status.Retried(w.in.Retry))
	w.run(long, nil)
	assert.Len(t, w.moves, 9, "two attempts again")
	w.in.Retry = "third"
	w.breaks()
	w.run(long, nil)
	assert.Equal(t, trial.Armed, w.status.Phase)
	assert.Equal(t, 1, w.status.Attempt)
	w.in.Retry = "fourth"
	w.run(long, nil)
	assert.Equal(t, trial.Armed, w.status.Phase, "it is not for those that are well")
}

func TestRetryDoesNotKeepANodeThatCouldNotGoBackYet(t *testing.T) {
	w := newWorld(t, "A").cuts(peers)
	w.run(95, map[int]func(){40: func() { w.refuses = true }, 60: func() { w.in.Retry = "now" }, 80: func() { w.refuses = false }})
	assert.Equal(t, "0:A 0:R 80:A 90:R", w.timeline())
}

func TestAnotherSetIsAnotherTrial(t *testing.T) {
	w := newWorld(t, "A").cuts(peers).run(long, nil)
	require.True(t, w.status.Final())
	w.in.Set = "S"
	w.restart()
	w.run(30, nil)
	assert.Equal(t, trial.Status{Set: "S", From: "A", Phase: trial.Armed}, trial.Status{Set: w.status.Set, From: w.status.From, Phase: w.status.Phase})
	assert.Equal(t, 1, w.status.Attempt)

	w.in.Set = "T"
	w.restart()
	w.run(30, nil)
	assert.Equal(t, "S", w.status.From)
}

func TestTrialIsFinishedBeforeAnotherSetIsTried(t *testing.T) {
	for name, test := range map[string]struct{ cut, want string }{
		"well": {"", "0:A 0:R 15:S"},
		"cut":  {peers, "0:A 0:R 46:A 56:S"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "A").cuts(test.cut).run(5, nil)
			w.in.Set = "S"
			w.restart()
			w.run(long, nil)
			assert.Equal(t, test.want, w.timeline(), "S never comes from what nobody knows to be well")
		})
	}
}

func TestSetThatTheNodeCameFromIsReachedByGoingBack(t *testing.T) {
	w := newWorld(t, "A").cuts(peers).run(5, nil)
	w.in.Set, w.in.Blocked = "A", "not cleared"
	w.restart()
	w.run(1, nil)
	assert.Equal(t, "0:A 0:R 5:A", w.timeline(), "at once, and it needs no clearance")
	assert.Equal(t, trial.Armed, w.status.Phase)
	assert.Equal(t, "A", w.status.Set)
}

func TestWhatWasCarriedAlreadyIsArmed(t *testing.T) {
	for name, text := range map[string]string{"no annotation": "", "one that can't be read": "{", "a phase of other times": `{"set":"R","phase":"Waltzing"}`} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "R")
			w.text = text
			w.restart()
			w.run(long, nil)
			assert.Equal(t, trial.Armed, w.status.Phase)
			assert.Equal(t, "0:R", w.timeline())
			atRest(t, w)
			w.in.Deadline = w.now.Add(-time.Hour)
			assert.Equal(t, "0:R", w.run(long, nil).timeline(), "no deadline opens a node that did not move")
		})
	}
}

func TestArmedNodeThatLostTheSetBeginsAnew(t *testing.T) {
	w := newWorld(t, "A").run(20, nil)
	require.Equal(t, trial.Armed, w.status.Phase)
	w.down, w.carried = true, ""
	w.moved()
	w.in.Blocked = "not cleared"
	w.restart()
	w.run(20, nil)
	assert.Equal(t, "", w.carried)
	assert.Empty(t, w.text, "it is not Armed")
	w.in.Blocked = ""
	w.run(20, nil)
	assert.Equal(t, trial.Armed, w.status.Phase)
	assert.Equal(t, "", w.status.From)
}

func TestWithoutVerifyingAMoveIsArmedAtOnce(t *testing.T) {
	w := newWorld(t, "A").cuts(peers)
	w.in.Verify = false
	assert.Equal(t, "0:A 0:R", w.run(long, nil).timeline())
	assert.Equal(t, trial.Armed, w.status.Phase)
	atRest(t, w)

	for second, want := range map[int]string{5: "0:A 0:R", 50: "0:A 0:R 45:A 75:R"} {
		w = newWorld(t, "A").cuts(peers)
		w.run(long, map[int]func(){second: func() { w.in.Verify = false; w.restart() }})
		assert.Equal(t, want, w.timeline(), "no longer verified from second %d on", second)
		assert.Equal(t, trial.Armed, w.status.Phase)
		assert.Empty(t, w.status.Cut)
	}

	w = newWorld(t, "A")
	w.in.Verify, w.in.Deadline = false, w.now.Add(time.Minute)
	w.run(long, nil)
	assert.Equal(t, "0:A 0:R 120:A", w.timeline(), "a person's confirmation is still asked for")
	assert.NotContains(t, w.last.Reason, "works again", "nothing was tried")
	atRest(t, w)
}

func TestRewoundAndSkippedClocksArmNothingTooSoon(t *testing.T) {
	for _, jump := range []time.Duration{-time.Hour, -time.Minute, -3 * time.Second, 3 * time.Second, time.Minute, time.Hour} {
		for second := 1; second < 11; second++ {
			w := newWorld(t, "A").run(second, nil)
			w.clock += jump
			if second%2 == 0 {
				w.restart()
			}
			w.until(w.start.Add(9 * time.Second))
			assert.NotEqual(t, trial.Armed, w.status.Phase, "jump of %s in second %d", jump, second)
			w.run(long, nil)
			assert.Equal(t, trial.Armed, w.status.Phase)
			assert.LessOrEqual(t, w.status.Attempt, 2)
			assert.False(t, w.status.Since.After(w.now.Add(w.began)))
		}
	}
}
