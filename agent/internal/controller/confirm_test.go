package controller

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// confirming is a world in which a person has ten minutes to confirm set A, from now on.
func confirming(t *testing.T) *world {
	w := newWorld(t, "n1", "n2")
	w.Verify, w.Confirm = true, 10*time.Minute
	w.remove("fw-drop-A")
	w.agent("n2", "A", "")
	w.agent("n1", "A", "")
	require.Zero(t, w.after(time.Hour).Deadline, "before any node may be armed no time runs")
	w.install("A")
	w.after(settle)
	require.Equal(t, "n1", w.said().Canary)
	require.Equal(t, w.now.Add(10*time.Minute), w.said().Deadline)
	return w
}

func TestDeadlineStandsOncePublished(t *testing.T) {
	w := confirming(t)
	first := w.said().Deadline
	assert.Equal(t, first, w.last.status.Deadline)
	assert.Contains(t, w.last.status.Reason, "unless somebody confirms it before "+first.Format(time.RFC3339)+": kubectl -n ns annotate --overwrite configmap fw host-firewall.io/confirm=A")
	w.tries("n1", w.status(trial.Armed, 1))
	assert.Equal(t, first, w.after(time.Minute).Deadline)
	w.remove("fw-drop-A")
	assert.Equal(t, first, w.after(time.Minute).Deadline, "while it is not cleared")
	w.install("A")
	w.restart("A")
	assert.Equal(t, first, w.after(time.Minute).Deadline, "over a restart")
	w.Confirm = time.Hour
	w.restart("A")
	assert.Equal(t, first, w.after(time.Minute).Deadline, "and under other values")
	w.Confirm = 0
	w.restart("A")
	assert.Zero(t, w.after(time.Minute).Deadline, "but where nobody has to confirm any more")
}

func TestWhoTurnsItOffAndOnHasToConfirmAnew(t *testing.T) {
	w := confirming(t)
	w.Off = true
	w.restart("A")
	assert.Zero(t, w.after(time.Hour).Deadline)
	w.Off = false
	w.restart("A")
	cleared := w.now.Add(settle)
	assert.Equal(t, cleared.Add(10*time.Minute), w.after(time.Minute).Deadline)
}

func TestWhoHasConfirmedInTimeIsHeard(t *testing.T) {
	for name, at := range map[string]time.Duration{"soon": time.Minute, "in the last second": 10*time.Minute - time.Nanosecond} {
		t.Run(name, func(t *testing.T) {
			w := confirming(t)
			w.tries("n1", w.status(trial.Armed, 1))
			w.after(at)
			w.annotate(clearance.ConfirmAnnotation, "A")
			assert.Zero(t, w.look().Deadline)
			assert.Empty(t, w.after(time.Hour).Reason)
			w.annotate("somebody's", "annotation")
			w.restart("A")
			said := w.after(time.Hour)
			assert.Zero(t, said.Deadline, "a set is confirmed for ever")
			assert.Empty(t, said.Reason)
		})
	}
	w := confirming(t)
	w.annotate(clearance.ConfirmAnnotation, "the set before")
	assert.NotZero(t, w.look().Deadline)
}

func TestSetThatNobodyConfirmsIsNotClearedAnyMore(t *testing.T) {
	w := confirming(t)
	deadline := w.said().Deadline
	w.tries("n1", w.status(trial.Armed, 1))
	require.True(t, mayArm(w.after(10*time.Minute-time.Second), "n2", "A"))
	said := w.after(time.Second)
	assert.Equal(t, "nobody has confirmed set A until "+deadline.Format(time.RFC3339)+", so nodes go back from it about a minute later, when that has passed by any clock. To try it once more: "+
		`kubectl -n ns annotate --overwrite configmap fw host-firewall.io/retry="$(date)"`, said.Reason)
	assert.Equal(t, deadline, said.Deadline, "agents still have to know")
	assert.False(t, w.last.status.Ready)

	unconfirmed := w.status(trial.RolledBack, 1, "set A was not confirmed")
	unconfirmed.Unconfirmed = true
	w.tries("n1", unconfirmed)
	assert.Contains(t, w.look().Reason, "so nodes went back from it. To try it once more", "nobody waits for what has happened")
	w.annotate(clearance.ConfirmAnnotation, "A")
	said = w.after(time.Minute)
	assert.Zero(t, said.Deadline)
	assert.Contains(t, said.Reason, "n1 went back", "too late for that node: nobody moves before a retry")
}

func TestRetryRenewsTheDeadline(t *testing.T) {
	for name, away := range map[string]bool{"": false, "while the controller is away": true} {
		for when, after := range map[string]time.Duration{"when it is over": time.Hour, "before it is": time.Minute} {
			t.Run(when+" "+name, func(t *testing.T) {
				w := confirming(t)
				w.tries("n1", w.status(trial.Trying, 1))
				w.after(after)
				w.agent("n1", "A", "")
				w.annotate(clearance.RetryAnnotation, "again")
				renewed := w.now.Add(10 * time.Minute)
				if away {
					w.restart("A")
					renewed = renewed.Add(settle)
				}
				said := w.after(settle)
				assert.Equal(t, renewed, said.Deadline)
				assert.Empty(t, said.Reason)
				w.annotate(clearance.ConfirmAnnotation, "of another set")
				assert.Equal(t, renewed, w.after(time.Second).Deadline, "that the annotation goes says nothing")
				w.annotate(clearance.RetryAnnotation, "again")
				assert.Equal(t, renewed, w.after(time.Second).Deadline, "nor that it comes back")
				assert.NotEmpty(t, w.after(10*time.Minute).Reason)
			})
		}
	}
	w := confirming(t)
	w.annotate(clearance.ConfirmAnnotation, "A")
	w.look()
	w.annotate(clearance.RetryAnnotation, "again")
	assert.Zero(t, w.after(time.Minute).Deadline, "what was confirmed has not to be once more")
}

func TestEachSetHasToBeConfirmed(t *testing.T) {
	w := confirming(t)
	w.annotate(clearance.ConfirmAnnotation, "A")
	w.tries("n1", w.status(trial.Armed, 1))
	w.tries("n2", w.status(trial.Armed, 1))
	w.after(time.Hour)
	w.install("B")
	w.restart("B")
	assert.Zero(t, w.after(time.Hour).Deadline, "no agent is of set B yet")
	w.agent("n2", "B", "A")
	cleared := w.now
	assert.Equal(t, cleared.Add(10*time.Minute), w.after(time.Second).Deadline)
	w.restart("A")
	w.tries("n2", w.status(trial.Armed, 1))
	assert.Zero(t, w.after(time.Minute).Deadline, "back to what was confirmed")
}

func TestSetThatAllNodesWereWellWithIsNotToBeConfirmed(t *testing.T) {
	armed := func(w *world, set, from string) {
		w.install(set)
		w.restart(set)
		w.look()
		for _, node := range []string{"n2", "n1"} {
			w.tries(node, trial.Status{Set: set, From: from, Phase: trial.Armed, Since: w.now})
		}
		w.after(time.Minute)
	}
	for name, test := range map[string]struct {
		so       func(w *world)
		deadline bool
	}{
		"since before anybody had to, when B fails": {func(w *world) {
			w.install("B")
			w.restart("B")
			w.agent("n2", "B", "A")
			require.NotZero(w.t, w.after(time.Minute).Deadline)
			w.agent("n2", "A", "A")
		}, false},
		"nor when B was confirmed and A's policies had gone": {func(w *world) {
			armed(w, "B", "A")
			w.annotate(clearance.ConfirmAnnotation, "B")
			require.NotContains(w.t, w.after(2*unusedFor).Present, "A")
		}, false},
		"nor over several others": {func(w *world) {
			armed(w, "B", "A")
			w.annotate(clearance.ConfirmAnnotation, "B")
			w.look()
			armed(w, "C", "B")
			w.annotate(clearance.ConfirmAnnotation, "C")
		}, false},
		"nor when the next controller is the first to hear of it": {func(w *world) {
			armed(w, "B", "A")
			w.annotate(clearance.ConfirmAnnotation, "B")
		}, false},
		"though one node was away, one held back, and one had no agent": {func(w *world) {
			w.Confirm = 0
			for _, name := range []string{"away", "held", "windows"} {
				w.node(name, start.Add(-time.Hour), "192.0.2.9")
			}
			w.policy("theirs", nil, map[string]any{"selector": "host-firewall.io/node == 'held'"})
			w.agent("away", "A", "A")
			w.agent("held", "B", "A")
			w.setReady("away", corev1.ConditionFalse)
			w.install("B")
			armed(w, "B", "A")
			require.Contains(w.t, w.said().Accepted, "B")
			armed(w, "A", "B")
			w.Confirm = 10 * time.Minute
		}, false},
		"but where it did not get to all nodes, and a person went back": {func(w *world) {
			w.Confirm = 0
			w.install("B")
			w.restart("B")
			w.look()
			w.tries("n2", trial.Status{Set: "B", From: "A", Phase: trial.Armed, Since: w.now})
			w.after(time.Minute)
			armed(w, "A", "B")
			w.Confirm = 10 * time.Minute
			w.install("B")
			w.restart("B")
			w.look()
		}, true},
		"but where a node went back from it": {func(w *world) {
			w.Confirm = 0
			w.install("B")
			w.restart("B")
			w.look()
			w.tries("n1", trial.Status{Set: "B", From: "A", Phase: trial.Armed, Since: w.now})
			w.after(time.Minute)
			w.tries("n2", trial.Status{Set: "B", From: "A", Phase: trial.RolledBack, Attempt: 2, Since: w.now})
			w.setReady("n2", corev1.ConditionFalse)
			w.after(time.Minute)
			w.setReady("n2", corev1.ConditionTrue)
			armed(w, "A", "B")
			w.Confirm = 10 * time.Minute
			w.install("B")
			w.restart("B")
			w.look()
		}, true},
		"but what nobody confirmed, though nodes still have it": {func(w *world) {
			armed(w, "B", "A")
			armed(w, "A", "B")
			armed(w, "C", "A")
			w.tries("n2", trial.Status{Set: "B", From: "A", Phase: trial.Armed, Since: w.now})
			w.install("B")
			w.restart("B")
			w.look()
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1", "n2")
			w.Verify = true
			armed(w, "A", "")
			w.Confirm = 10 * time.Minute
			w.restart("A")
			w.after(time.Minute)
			test.so(w)
			set := "A"
			if test.deadline {
				set = "B"
			}
			w.install(set)
			w.restart(set)
			w.agent("n1", set, "")
			said := w.after(time.Minute)
			require.Empty(t, said.Reason)
			assert.Equal(t, test.deadline, !said.Deadline.IsZero(), "accepted are %s", said.Accepted)
		})
	}
}

func TestSetThatNobodyHasConfirmedIsNotAcceptedBecauseTheClearanceWasDeleted(t *testing.T) {
	w := confirming(t)
	w.tries("n1", w.status(trial.Armed, 1))
	w.tries("n2", w.status(trial.Armed, 1))
	require.NotZero(t, w.after(time.Minute).Deadline)
	w.configMap = nil
	w.after(time.Minute)
	said := w.after(time.Minute)
	assert.Zero(t, said.Deadline, "nodes don't go back because of that")
	assert.NotContains(t, said.Accepted, "A")
	w.restart("A")
	assert.NotContains(t, w.after(time.Hour).Accepted, "A")
	assert.Empty(t, w.said().Reason)
	w.annotate(clearance.ConfirmAnnotation, "A")
	assert.Contains(t, w.after(time.Minute).Accepted, "A", "it may still be confirmed")
}

func TestOnlySoManySetsAreRememberedAsAccepted(t *testing.T) {
	w := newWorld(t, "n1")
	w.Verify, w.Confirm = true, 10*time.Minute
	for i := range 3 * mostAccepted {
		set := fmt.Sprint("s", i)
		w.install(set)
		w.restart(set)
		w.look()
		w.annotate(clearance.ConfirmAnnotation, set)
		w.tries("n1", trial.Status{Set: set, Phase: trial.Armed, Since: w.now})
		w.after(time.Minute)
	}
	assert.Len(t, w.said().Accepted, mostAccepted)
	assert.Equal(t, "s59", w.said().Accepted[mostAccepted-1])
}

func TestNoDeadlineBegins(t *testing.T) {
	for name, so := range map[string]func(w *world){
		"where nobody has to confirm": func(w *world) { w.Confirm = 0 },
		"in mode off":                 func(w *world) { w.Off = true },
		"where nodes are open":        func(w *world) { w.annotate(clearance.OpenAnnotation, "") },
		"for what nodes have, when somebody has deleted the clearance": func(w *world) {
			w.tries("n1", w.status(trial.Armed, 1))
			w.configMap = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1", "n2")
			w.Verify, w.Confirm, w.configMap = true, 10*time.Minute, &corev1.ConfigMap{}
			w.agent("n2", "A", "")
			w.agent("n1", "A", "")
			so(w)
			assert.Zero(t, w.after(time.Minute).Deadline)
			w.restart("A")
			assert.Zero(t, w.after(time.Minute).Deadline)
		})
	}
}

func TestEverySetToWhichADeadlineMaySendNodesBackStays(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.Verify = true
	w.roll("A", "n1", "n2")
	w.install("B")
	w.restart("B")
	w.tries("n2", trial.Status{Set: "B", From: "A", Phase: trial.Armed, Since: w.now})
	w.after(time.Minute)
	w.install("C")
	w.Confirm = time.Hour
	w.restart("C")
	w.tries("n1", trial.Status{Set: "C", From: "A", Phase: trial.Armed, Since: w.now})
	w.tries("n2", trial.Status{Set: "C", From: "B", Phase: trial.Armed, Since: w.now})
	assert.Equal(t, []string{"A", "B", "C"}, w.after(2*unusedFor).Present)
	w.annotate(clearance.ConfirmAnnotation, "C")
	assert.Equal(t, []string{"C"}, w.after(2*unusedFor).Present)
}

func TestSetsToWhichNodesMayGoBackStayAndWhatTheyTrust(t *testing.T) {
	for name, test := range map[string]struct {
		so    func(w *world)
		stays bool
	}{
		"no node":          {func(*world) {}, false},
		"one that is well": {func(w *world) { w.tries("n2", trial.Status{Set: "B", From: "A", Phase: trial.Armed}) }, false},
		"one that tries":   {func(w *world) { w.tries("n2", trial.Status{Set: "B", From: "A", Phase: trial.Trying, Since: w.now}) }, true},
		"one that went back, and lost it": {func(w *world) {
			w.tries("n2", trial.Status{Set: "B", From: "A", Phase: trial.RolledBack, Attempt: 2})
			w.endpoints[1].Labels = w.endpoints[0].Labels
		}, true},
		"all, before the deadline":           {func(w *world) { w.Confirm = time.Hour }, true},
		"all, after it, as some may be away": {func(w *world) { w.Confirm = time.Second }, true},
		"none, since somebody has confirmed": {func(w *world) { w.Confirm = time.Hour; w.annotate(clearance.ConfirmAnnotation, "B") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1", "n2")
			w.Verify = true
			w.tries("n1", w.status(trial.Armed, 1))
			w.tries("n2", w.status(trial.Armed, 1))
			w.after(time.Minute)
			w.install("B")
			w.restart("B")
			w.TrustNodes, w.ClusterCIDRs = false, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			w.tries("n1", trial.Status{Set: "B", From: "C", Phase: trial.Armed, Since: w.now})
			w.tries("n2", trial.Status{Set: "B", From: "C", Phase: trial.Armed, Since: w.now})
			test.so(w)
			said := w.after(2 * unusedFor)
			if test.stays {
				assert.Equal(t, []string{"A", "B"}, said.Present)
				assert.Len(t, w.ofNodes(), 2)
			} else {
				assert.Equal(t, []string{"B"}, said.Present)
				assert.Empty(t, w.ofNodes())
			}
		})
	}
}
