package controller

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// timeout is what a dial comes to at a node that lets nobody in.
const timeout = "i/o timeout"

// dials returns whom the controller has dialed since the last time.
func (w *world) dials() []string {
	dialed := w.dialed
	w.dialed = nil
	slices.Sort(dialed)
	return dialed
}

func TestKubeletIsDialedOnceBeforeItsNodeMovesAndOftenWhileItTries(t *testing.T) {
	w := verifying(t)
	w.node("n0", start.Add(-2*time.Hour), "192.0.2.10")
	assert.Equal(t, []string{"n1", "n2", "n3"}, w.dials())
	w.after(canaryTakes - 2*time.Second)
	assert.Empty(t, w.dials(), "an agent that waits has been asked about, and n0 has none")
	w.tries("n1", w.status(trial.Trying, 1))
	w.after(5 * dialEvery)
	assert.Equal(t, slices.Repeat([]string{"n1"}, 6), w.dials())
	w.tries("n1", w.status(trial.Armed, 1))
	w.after(staleAfter / 2)
	assert.Empty(t, w.dials(), "what is well is left alone")

	w.tries("n2", w.status(trial.Trying, 1))
	w.mute["n2"] = timeout
	w.after(dialEvery)
	w.tries("n2", w.status(trial.RolledBack, 1))
	w.dials()
	w.after(trial.Pause)
	assert.Contains(t, w.dials(), "n2", "before it tries once more")
}

func TestKubeletOfTheControllersOwnHostIsNotDialed(t *testing.T) {
	w := verifying(t)
	w.OwnNode = "n1"
	w.restart("A")
	w.dials()
	w.mute["n1"] = timeout
	w.after(settle)
	w.tries("n1", w.status(trial.Trying, 1))
	said := w.after(time.Minute)
	assert.Empty(t, said.Cut)
	assert.NotContains(t, w.dials(), "n1")
	assert.Contains(t, said.Peers, "n1", "agents of other nodes dial it")
}

func TestNodeWhoseKubeletIsLostWhileItTriesIsNamed(t *testing.T) {
	never := func(time.Duration) string { return timeout }
	for name, test := range map[string]struct {
		before string                           // how it answers before the move
		after  func(since time.Duration) string // and after it
		cut    bool
	}{
		"it answers all the time": {"", func(time.Duration) string { return "" }, false},
		"it does not any more":    {"", never, true},
		"it did not before":       {timeout, never, false},
		"it misses two": {"", func(since time.Duration) string {
			return map[bool]string{true: timeout}[since < 2*dialEvery-time.Second]
		}, false},
		"it misses two, and two more": {"", func(since time.Duration) string {
			return map[bool]string{true: timeout}[(since+time.Second)/dialEvery%3 != 2]
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1", "n2")
			w.Verify, w.mute["n1"] = true, test.before
			w.agent("n1", "A", "")
			w.after(2 * time.Second)
			moved := w.now
			w.tries("n1", w.status(trial.Trying, 1))
			for w.now.Before(moved.Add(trial.Settle)) {
				w.mute["n1"] = test.after(w.now.Sub(moved))
				w.after(time.Second)
			}
			want := map[string][]string{}
			if test.cut {
				want["kubelet from the controller's host: i/o timeout"] = []string{"n1"}
			}
			assert.Equal(t, want, maps.Collect(maps.All(w.said().Cut)))
		})
	}
}

// cutOff is a world in which n1 tries set A and is not reached any more.
func cutOff(t *testing.T) *world {
	w := verifying(t)
	w.tries("n1", w.status(trial.Trying, 1))
	w.mute["n1"] = timeout
	require.Empty(t, w.after(2*dialEvery+time.Second).Cut, "the third dial is still under way")
	require.Equal(t, "kubelet from the controller's host: i/o timeout", w.after(dialFor).CutOff("n1"), "before Settle is over")
	return w
}

func TestNodeIsCutOffUntilItDoesNotTryAnyMore(t *testing.T) {
	for name, test := range map[string]struct {
		so  func(w *world)
		cut bool
	}{
		"it is reached again":     {func(*world) {}, true},
		"the controller restarts": {func(w *world) { w.restart("A") }, true},
		"it has gone back":        {func(w *world) { w.tries("n1", w.status(trial.RolledBack, 1)) }, false},
		"it tries once more": {func(w *world) {
			w.tries("n1", w.status(trial.RolledBack, 1))
			w.look()
			w.tries("n1", w.status(trial.Trying, 2))
		}, false},
		"it is gone":                         {func(w *world) { w.nodes, w.endpoints = w.nodes[1:], w.endpoints[:2] }, false},
		"another set is wanted":              {func(w *world) { w.restart("B") }, false},
		"nothing is to be verified any more": {func(w *world) { w.Verify = false }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := cutOff(t)
			w.mute["n1"] = ""
			test.so(w)
			assert.Equal(t, test.cut, w.after(5*time.Second).CutOff("n1") != "")
		})
	}
}

func TestOldAnswerIsNotHeldAgainstANode(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.Verify = true
	w.remove("fw-drop-A")
	w.agent("n1", "A", "")
	w.after(time.Hour)
	require.Equal(t, []string{"n1"}, w.dials())
	w.install("A")
	w.mute["n1"] = timeout
	w.after(2 * time.Second)
	assert.Equal(t, []string{"n1"}, w.dials(), "when it is about to move")
	w.tries("n1", w.status(trial.Trying, 1))
	assert.Empty(t, w.after(time.Minute).Cut, "it was not reached before either")

	w = verifying(t)
	w.tries("n1", w.status(trial.Trying, 1))
	w.nodes[0].Status.Addresses[0].Address, w.nodes[0].ResourceVersion = "192.0.2.99", w.next()
	w.mute["n1"] = timeout
	assert.Empty(t, w.after(trial.Settle).Cut, "nobody knows whether it was reached at the new address")
}

func TestAnswerThatComesTooLateIsOfNoUse(t *testing.T) {
	w := verifying(t)
	stray := w.memory.kubelets["n1"]
	late := answer{dial{"n1", stray.at, stray.dialed.Add(-time.Second), true}, timeout}
	for range lostAfter {
		w.memory.hear([]answer{late, {dial: dial{node: "gone"}}})
	}
	assert.Zero(t, stray.missed)
}

func TestKubeletsAreDialedAFewAtATimeThoseThatTryFirst(t *testing.T) {
	w := newWorld(t)
	w.Verify = true
	var some, others []string
	for i := range dialsAtOnce {
		for _, all := range []*[]string{&some, &others} {
			name := fmt.Sprintf("n%d-%03d", len(some)-len(others), i)
			w.node(name, start, fmt.Sprintf("10.%d.%d.%d", len(some)-len(others), i/256, i%256))
			*all = append(*all, name)
		}
	}
	for _, name := range slices.Concat(some, others) {
		w.agent(name, "A", "")
	}
	first := w.decide(w.facts, &w.memory)
	assert.Len(t, first.dials, dialsAtOnce)
	assert.Empty(t, w.decide(w.facts, &w.memory).dials, "no more before these have answered")
	for _, one := range first.dials {
		w.answers = append(w.answers, answer{dial: one})
	}
	w.after(10 * time.Second)
	assert.Len(t, w.dials(), dialsAtOnce, "the rest")

	for _, name := range some {
		w.tries(name, w.status(trial.Trying, 1))
	}
	w.now = w.now.Add(staleAfter)
	w.memory.verified = true
	d := w.decide(w.facts, &w.memory)
	require.Len(t, d.dials, dialsAtOnce, "all are due")
	for _, one := range d.dials {
		assert.Contains(t, some, one.node)
	}
}

func TestPeersAreAFewReadyNodesAndStay(t *testing.T) {
	at := func(addresses ...string) map[string]netip.AddrPort {
		peers := map[string]netip.AddrPort{}
		for _, address := range addresses {
			peers["n"+address] = netip.MustParseAddrPort("192.0.2." + address + ":10250")
		}
		return peers
	}
	w := newWorld(t, "n1", "n2", "n3", "n4", "n5", "n6")
	w.Verify = true
	assert.Equal(t, at("1", "2", "3", "4"), w.look().Peers, "the oldest")
	w.setReady("n2", corev1.ConditionFalse)
	assert.Equal(t, at("1", "3", "4", "5"), w.look().Peers)
	w.setReady("n2", corev1.ConditionTrue)
	w.restart("A")
	assert.Equal(t, at("1", "3", "4", "5"), w.look().Peers, "each change wakes all agents")
	for _, name := range []string{"n1", "n2", "n3", "n4", "n5", "n6"} {
		w.setReady(name, corev1.ConditionUnknown)
	}
	assert.Equal(t, at("1", "3", "4", "5"), w.look().Peers, "after the API server was away no Node is for a while, and their kubelets run")
	w.setReady("n6", corev1.ConditionTrue)
	assert.Equal(t, at("1", "3", "4", "6"), w.look().Peers)

	w = newWorld(t, "n1", "n2", "n3")
	w.Verify = true
	w.nodes[0].Status.DaemonEndpoints.KubeletEndpoint.Port = 0
	w.nodes[1].Status.Addresses[0].Type = corev1.NodeExternalIP
	w.nodes[2].Status.Addresses = append([]corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "nonsense"}}, w.nodes[2].Status.Addresses...)
	assert.Equal(t, at("3"), w.look().Peers)
	for _, change := range []func(){func() { w.Off = true }, func() { w.Off, w.Verify = false, false }} {
		change()
		assert.Empty(t, w.look().Peers, "nobody asks them")
	}
}
