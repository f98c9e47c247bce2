package controller

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// verifying is a world whose agents try the set. Theirs of n1 has written last.
func verifying(t *testing.T) *world {
	w := newWorld(t, "n1", "n2", "n3")
	w.Verify = true
	for _, node := range []string{"n3", "n2", "n1"} {
		w.agent(node, "A", "")
	}
	require.Equal(t, "n1", w.after(time.Second).Canary)
	return w
}

// status is how far a node is with set A, which it began to be now.
func (w *world) status(phase trial.Phase, attempt int, cut ...string) trial.Status {
	return trial.Status{Set: "A", Phase: phase, Since: w.now, Attempt: attempt, Cut: cut}
}

func TestAllFollowWhenTheTrialOfTheFirstNodeSaysThatItIsWell(t *testing.T) {
	w := verifying(t)
	w.after(canaryTakes - time.Second)
	w.tries("n1", w.status(trial.Trying, 1))
	said := w.after(time.Minute)
	assert.Equal(t, "n1", said.Canary, "as long as it tries")
	assert.False(t, mayArm(said, "n2", "A"))
	w.tries("n1", w.status(trial.Armed, 1))
	said = w.look()
	assert.True(t, mayArm(said, "n2", "A"))
	assert.True(t, mayArm(said, "n3", "A"))
	assert.Equal(t, Cleared, w.last.status.State)
}

func TestFirstNodeKeepsItsTurnWhileItTries(t *testing.T) {
	for name, so := range map[string]func(w *world){
		"and is not Ready any more":         func(w *world) { w.setReady("n1", corev1.ConditionUnknown) },
		"and is held back":                  func(w *world) { w.foreignEndpoint("n1") },
		"and the controller restarts":       func(w *world) { w.restart("A") },
		"and the clearance is lost, too":    func(w *world) { w.configMap = nil; w.restart("A") },
		"or went back for the first time":   func(w *world) { w.tries("n1", w.status(trial.RolledBack, 1, "DNS: timeout")) },
		"though others want it to go again": func(w *world) { w.annotate(clearance.RetryAnnotation, "again") },
	} {
		t.Run(name, func(t *testing.T) {
			w := verifying(t)
			w.tries("n1", w.status(trial.Trying, 1))
			w.after(canaryTakes)
			so(w)
			said := w.after(canaryTakes)
			assert.Equal(t, "n1", said.Canary)
			assert.Empty(t, said.Reason, "it may try once more")
			w.after(10 * time.Second)
			w.tries("n1", w.status(trial.Armed, 2))
			w.setReady("n1", corev1.ConditionTrue)
			assert.True(t, mayArm(w.after(settle), "n2", "A"))
		})
	}
}

func TestNobodyFollowsANodeThatDoesNotProveTheSet(t *testing.T) {
	for name, test := range map[string]struct {
		armed, tried string
		ready        corev1.ConditionStatus
		proves       bool
	}{
		"it does":                 {"A", "A", corev1.ConditionTrue, true},
		"it is not Ready":         {"A", "A", corev1.ConditionUnknown, false},
		"it has tried another":    {"A", "B", corev1.ConditionTrue, false},
		"somebody took it off it": {"", "A", corev1.ConditionTrue, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := verifying(t)
			hep := w.agent("n1", "A", test.armed)
			hep.Annotations[trial.Annotation] = trial.Status{Set: test.tried, Phase: trial.Armed, Since: w.now}.Encode()
			w.setReady("n1", test.ready)
			assert.Equal(t, test.proves, w.after(settle).ClearsAll("A"))
		})
	}
}

func TestFirstNodeThatDoesNotBeginLosesItsTurn(t *testing.T) {
	w := verifying(t)
	w.tries("n1", trial.Status{Set: "of another time", Phase: trial.Trying, Since: w.now})
	w.agent("n1", "A", "")
	assert.Equal(t, "n2", w.after(canaryTakes).Canary)
}

func TestNodeThatWentBackForGoodKeepsTheOthersFromMoving(t *testing.T) {
	for name, back := range map[string]trial.Status{
		"after two attempts":     {Attempt: 2, Cut: []string{"DNS: timeout", "API server: refused"}, Still: []string{"DNS: timeout"}},
		"since nobody confirmed": {Attempt: 1, Cut: []string{"set A was not confirmed until noon"}, Still: []string{}, Unconfirmed: true},
	} {
		for when, before := range map[string]func(w *world){
			"the first": func(*world) {},
			"another, after the first was well": func(w *world) {
				w.tries("n3", w.status(trial.Armed, 1))
				require.True(t, mayArm(w.after(0), "n2", "A"))
			},
		} {
			t.Run(name+", "+when, func(t *testing.T) {
				w := verifying(t)
				before(w)
				back.Set, back.Phase, back.Since, back.Retry = "A", trial.RolledBack, w.now, ""
				w.tries("n1", back)
				for _, restarted := range []bool{false, true} {
					if restarted {
						w.restart("A")
					}
					said := w.after(time.Hour)
					assert.Equal(t, "no other node moves to set A, for n1 went back. Node n1 "+back.Went()+
						`: kubectl -n ns annotate --overwrite configmap fw host-firewall.io/retry="$(date)"`, said.Reason)
					assert.Empty(t, said.Canary)
					assert.Equal(t, Waiting, w.last.status.State)
					assert.False(t, w.last.status.Ready)
					assert.Contains(t, w.last.notices, notice{kind: eventNotCleared, message: said.Reason})
				}
			})
		}
	}
}

// wave is who of n1, n2 and n3 may be armed, over a restart of the controller, too.
func (w *world) wave() (names []string) {
	w.t.Helper()
	for range 2 {
		names = nil
		said := w.after(settle)
		for _, node := range []string{"n1", "n2", "n3"} {
			if mayArm(said, node, "A") {
				names = append(names, node)
			}
		}
		if w.restart("A"); len(names) < 3 {
			assert.Equal(w.t, Waiting, w.last.status.State)
		}
	}
	return names
}

func TestWhileANodeIsBackNobodyElseMoves(t *testing.T) {
	w := verifying(t)
	w.tries("n3", w.status(trial.Armed, 1))
	require.Equal(t, []string{"n1", "n2", "n3"}, w.wave())
	w.tries("n1", w.status(trial.Trying, 1))
	require.Equal(t, []string{"n1", "n2", "n3"}, w.wave(), "that one tries holds nobody")

	back := w.status(trial.RolledBack, 1, "DNS: timeout")
	w.tries("n1", back)
	assert.Equal(t, []string{"n1"}, w.wave())
	assert.Equal(t, "no other node moves to set A, for node n1 "+back.Went(), w.said().Reason)
	w.tries("n1", w.status(trial.Trying, 2, "DNS: timeout"))
	assert.Equal(t, []string{"n1"}, w.wave())
	assert.Equal(t, "no other node moves to set A, for node n1 tries it once more, after it had cut: DNS: timeout", w.said().Reason)
	w.tries("n1", w.status(trial.Armed, 2))
	assert.Equal(t, []string{"n1", "n2", "n3"}, w.wave())
}

func TestNodesThatWentBackTryOnceMoreOneByOne(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Hour} {
		w := verifying(t)
		w.tries("n3", w.status(trial.Armed, 1))
		w.tries("n1", w.status(trial.RolledBack, 1, "DNS: timeout"))
		w.tries("n2", w.status(trial.RolledBack, 1, "DNS: timeout"))
		w.after(pause)
		require.Equal(t, []string{"n1"}, w.wave())
		w.tries("n1", w.status(trial.Armed, 2))
		require.Equal(t, []string{"n2"}, w.wave(), "however long it had to wait for its turn")
		w.tries("n2", w.status(trial.Trying, 2, "DNS: timeout"))
		w.tries("n1", w.status(trial.RolledBack, 1, "DNS: timeout"))
		require.Equal(t, []string{"n2"}, w.wave(), "not both")
		w.tries("n2", w.status(trial.RolledBack, 2, "DNS: timeout"))
		require.Empty(t, w.wave())
	}
}

func TestNodeOfTheControllerGoesFirstOnlyWhereNoOtherDoes(t *testing.T) {
	w := verifying(t)
	w.OwnNode, w.configMap = "n1", nil
	w.restart("A")
	assert.Equal(t, "n2", w.after(settle).Canary)
	assert.Equal(t, "n3", w.after(canaryTakes).Canary)
	assert.Equal(t, "n1", w.after(canaryTakes).Canary, "when no other begins")
	w = newWorld(t, "n1")
	w.Verify, w.OwnNode = true, "n1"
	w.agent("n1", "A", "")
	assert.Equal(t, "n1", w.after(settle).Canary, "nor where there is no other")
}

func TestNodeThatWentBackAndDoesNotMoveAgainIsNotCalledSilent(t *testing.T) {
	for name, others := range map[string]trial.Phase{"others are well": trial.Armed, "it went first": ""} {
		t.Run(name, func(t *testing.T) {
			w := verifying(t)
			w.tries("n3", w.status(others, 1))
			back := w.status(trial.RolledBack, 1, "DNS: timeout")
			w.tries("n1", back)
			said := w.after(time.Hour)
			assert.Equal(t, "no other node moves to set A, for node n1 "+back.Went()+"; so it has been since "+back.Since.Format(time.RFC3339)+
				`. Look at that node; if the set is not the reason, go on with kubectl -n ns annotate --overwrite configmap fw host-firewall.io/retry="$(date)"`, said.Reason)
			w.annotate(clearance.RetryAnnotation, "it was the power")
			assert.Empty(t, w.look().Reason)
		})
	}
}

func TestNodesThatWentBackAreForgotten(t *testing.T) {
	for name, test := range map[string]struct {
		by  func(w *world)
		may bool
	}{
		"by nothing":                                    {func(*world) {}, false},
		"by the text under which they began":            {func(w *world) { w.annotate(clearance.RetryAnnotation, "first") }, false},
		"by an annotation that is taken away":           {func(w *world) { w.configMap.Annotations = nil }, false},
		"by another text":                               {func(w *world) { w.annotate(clearance.RetryAnnotation, "second") }, true},
		"by another text while the controller was away": {func(w *world) { w.annotate(clearance.RetryAnnotation, "second"); w.restart("A") }, true},
		"by another set": {func(w *world) {
			w.install("B")
			w.restart("B")
			w.agent("n2", "B", "")
		}, true},
		"with their Node": {func(w *world) { w.nodes, w.endpoints = w.nodes[1:], w.endpoints[:2] }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := verifying(t)
			w.annotate(clearance.RetryAnnotation, "first")
			back := w.status(trial.RolledBack, 2, "DNS: timeout")
			back.Retry = "first"
			w.tries("n1", back)
			require.NotEmpty(t, w.after(time.Hour).Reason)
			test.by(w)
			said := w.after(settle)
			assert.Equal(t, test.may, said.Reason == "" && said.Canary != "", "one goes first again: %s %s", said.Canary, said.Reason)
		})
	}
}

func TestOneGoesFirstAgainWhenAllHadGoneBack(t *testing.T) {
	w := verifying(t)
	w.tries("n1", w.status(trial.Armed, 1))
	require.True(t, w.look().ClearsAll("A"))
	for _, node := range []string{"n1", "n2", "n3"} {
		back := w.status(trial.RolledBack, 1, "nobody has confirmed it")
		back.Unconfirmed = true
		w.tries(node, back)
	}
	require.NotEmpty(t, w.after(time.Minute).Reason)
	w.annotate(clearance.RetryAnnotation, "now I look")
	assert.Equal(t, "n3", w.look().Canary)
}

func TestFirstNodeOfWhichNothingIsHeardIsFollowedByNobodyBeforeAPersonSaysSo(t *testing.T) {
	w := verifying(t)
	w.tries("n1", w.status(trial.Trying, 1))
	since := w.now.Format(time.RFC3339)
	w.setReady("n1", corev1.ConditionUnknown)
	require.Equal(t, "n1", w.after(silentFor-time.Second).Canary)
	said := w.after(time.Second)
	assert.Equal(t, Waiting, w.last.status.State)
	assert.Contains(t, said.MayArm("n2", "A", "1"), "node n1 went first with set A, and its agent has said nothing since "+since)
	w.dials()
	assert.Equal(t, said.Reason, w.after(time.Hour).Reason)
	assert.Empty(t, w.dials(), "nor is it dialed for ever")
	w.annotate(clearance.RetryAnnotation, "it had no power")
	assert.Equal(t, "n2", w.after(0).Canary)
	w.tries("n2", w.status(trial.Armed, 1))
	assert.True(t, mayArm(w.look(), "n3", "A"))
}

func TestFirstNodeThatIsHeardOfAgainGoesOn(t *testing.T) {
	w := verifying(t)
	w.tries("n1", w.status(trial.Trying, 1))
	require.NotEmpty(t, w.after(time.Hour).Reason)
	w.tries("n1", w.status(trial.RolledBack, 1, "API server: timeout"))
	said := w.look()
	assert.Equal(t, "n1", said.Canary, "it tries once more")
	assert.Empty(t, said.Reason)
	for range 2 {
		said = w.after(time.Hour)
		assert.NotEmpty(t, said.Reason, "while it waits for something to work again")
		assert.True(t, mayArm(said, "n1", "A"), "it may go on when that does")
		assert.False(t, mayArm(said, "n2", "A"))
		w.restart("A")
	}
}
