package kind

import (
	"context"
	"errors"
	"fmt"
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
// either says of which cells nothing is promised meanwhile.
func protected(t *testing.T, either scene.Expectation) (stop func()) {
	t.Helper()
	open := undisturbed(t, func(c scene.Cell) bool { return scene.Protected(c) && !either(c) })
	closed := unreached(t, place.Select(func(c scene.Cell) bool { return !scene.Protected(c) && !either(c) }))
	return func() { t.Helper(); open(); closed() }
}

// stayArmed watches, until stop is called, that no endpoint is deleted or disarmed for a moment.
func stayArmed(t *testing.T) (stop func()) {
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

func nothing(scene.Cell) bool { return false }

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
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var tries int
	var answers []string
	var group sync.WaitGroup
	for _, p := range paths {
		for _, to := range p.To {
			group.Go(func() {
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
			})
		}
	}
	return func() {
		t.Helper()
		cancel()
		group.Wait()
		require.NotZero(t, tries)
		require.Empty(t, answers)
		t.Logf("%d new connections that are to be closed, none answered", tries)
	}
}
