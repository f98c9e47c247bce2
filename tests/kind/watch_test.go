package kind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// requireClosesInTime waits until the last endpoint is armed, and then for what is to be closed to be closed. SSH takes longer: it
// is a failsafe, and Felix starts again, after two seconds of its own, when these change.
func requireClosesInTime(t *testing.T) {
	t.Helper()
	for _, node := range nodeNames() {
		eventually(t, node+" to be armed", func(ctx context.Context) error {
			hep, err := endpointOf(ctx, t, node)
			if err != nil {
				return err
			}
			return release.Armed(hep)
		})
	}
	paths := place.Select(func(c scene.Cell) bool { return !scene.Protected(c) && !strangersSSH(c) })
	require.NoError(t, cluster.Poll(t.Context(), closing, "what is to be closed to be closed", func(context.Context) error {
		for _, a := range probe.Ask(paths) {
			if !a.Closed() {
				return fmt.Errorf("%s reached %s: %s", a.From.Name, a.What, a)
			}
		}
		return nil
	}))
	requireProtected(t, "armed")
}

// protected watches both sides until stop is called: what is to be open is reached all the time, what is to be closed never.
func protected(t *testing.T) (stop func()) {
	t.Helper()
	return between(t, scene.Protected, scene.Protected)
}

// between watches, until stop is called, what is promised while a release goes from one to the other: what both hold open is reached all
// the time, what neither does never.
func between(t *testing.T, from, to scene.Expectation) (stop func()) {
	t.Helper()
	open := undisturbed(t, both(from, to))
	shut := place.Select(neither(from, to))
	if len(shut) == 0 { // neither closes anything
		return open
	}
	closed := unreached(t, shut)
	return func() { t.Helper(); open(); closed() }
}

func both(a, b scene.Expectation) scene.Expectation {
	return func(c scene.Cell) bool { return a(c) && b(c) }
}

func neither(a, b scene.Expectation) scene.Expectation {
	return func(c scene.Cell) bool { return !a(c) && !b(c) }
}

// stayArmed watches, until stop is called, that no endpoint is deleted or disarmed for a moment, nor armed with another one of these sets. None:
// any will do.
func stayArmed(t *testing.T, sets ...string) (stop func()) {
	t.Helper()
	heps, err := calico(t, "hostendpoints").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	require.NoError(t, err)
	var seen int
	var stopped atomic.Bool // the end of a watch can look like a failure of it
	var lapses []string
	var group sync.WaitGroup
	group.Go(func() {
		for e := range heps.ResultChan() {
			hep, ok := e.Object.(*unstructured.Unstructured)
			switch {
			case !ok && stopped.Load():
			case !ok:
				lapses = append(lapses, fmt.Sprint(e.Object))
			case e.Type == watch.Deleted:
				lapses = append(lapses, hep.GetName()+" was deleted")
			case release.Armed(hep) != nil:
				lapses = append(lapses, release.Armed(hep).Error())
			case len(sets) > 0 && !slices.Contains(sets, release.CarriedBy(hep)):
				lapses = append(lapses, fmt.Sprintf("%s was armed with %s", hep.GetName(), hep.GetLabels()[release.SetLabel]))
			}
			seen++
		}
	})
	return func() {
		t.Helper()
		stopped.Store(true)
		heps.Stop()
		group.Wait()
		require.NotZero(t, seen)
		require.Empty(t, lapses)
	}
}

// reached watches, until stop is called, that new connections come about along these paths all the time.
func reached(t *testing.T, paths []probe.Path) (stop func()) {
	t.Helper()
	watcher := probe.Watch(t.Context(), paths, pause)
	return func() {
		t.Helper()
		requireNoFailure(t, watcher.Stop(), "new connections")
	}
}

// unreached watches, until stop is called, that nothing ever answers along these paths. A refused connection is an answer.
func unreached(t *testing.T, paths []probe.Path) (stop func()) {
	t.Helper()
	return unreachedAbreast(t, paths, 1)
}

// unreachedAbreast is unreached with so many connections in the time of one. Each is waited for, as long as a closed port takes to be one.
func unreachedAbreast(t *testing.T, paths []probe.Path, abreast int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var tries int
	var answers []string
	var group sync.WaitGroup
	watch := func(p probe.Path, to probe.Address, late time.Duration) {
		<-time.After(late)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for ctx.Err() == nil {
			start := time.Now()
			err := probe.Connect(p.From, to)
			mu.Lock()
			tries++
			if err == nil || errors.Is(err, unix.ECONNREFUSED) {
				answers = append(answers, fmt.Sprintf("%s: %s reached %s (%s): %v", start.Format(time.TimeOnly+".000"), p.From.Name, to, p.What, err))
			}
			mu.Unlock()
			<-tick.C
		}
	}
	for _, p := range paths {
		for _, to := range p.To {
			for i := range abreast {
				group.Go(func() { watch(p, to, pause*time.Duration(i)/time.Duration(abreast)) })
			}
		}
	}
	return func() {
		t.Helper()
		cancel()
		group.Wait()
		require.NotZero(t, tries)
		require.Empty(t, answers)
		t.Logf("%d new connections of what is to be closed, none answered", tries)
	}
}
