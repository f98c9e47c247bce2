package kind

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// recorded is the record of the test that runs, and its file.
var recorded struct {
	*record.Record
	file *os.File
}

// recordOf is the record of who reached whom in a test and its parts, in a file of its own that tests/cluster/cmd/judge judges again.
func recordOf(t *testing.T) *record.Record {
	t.Helper()
	test, _, _ := strings.Cut(t.Name(), "/")
	path := filepath.Join(root, "dist", "records", test+".jsonl")
	if recorded.file == nil || recorded.file.Name() != path {
		_ = recorded.file.Close() // that of the test before, or none
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		file, err := os.Create(path)
		require.NoError(t, err)
		recorded.Record, recorded.file = record.New(file), file
	}
	return recorded.Record
}

// kept ends a watch of the test's record, and wants its promise kept.
func kept(t *testing.T, w *record.Watch) record.Verdict {
	t.Helper()
	v := w.End()
	t.Log(v)
	assert.Empty(t, v.Broken, "again: go run ./tests/cluster/cmd/judge %s", recorded.file.Name())
	return v
}

// try watches paths until kept ends that.
func try(t *testing.T, p record.Promise, paths []probe.Path, rhythm probe.Rhythm) *record.Watch {
	t.Helper()
	p.Test = t.Name()
	return recordOf(t).Try(t.Context(), p, paths, rhythm)
}

// watched watches, until stop is called, that what is promised of all tries along these paths is kept.
func watched(t *testing.T, kind record.Kind, paths []probe.Path, rhythm probe.Rhythm) (stop func()) {
	t.Helper()
	w := try(t, record.Promise{Kind: kind}, paths, rhythm)
	return func() { t.Helper(); kept(t, w) }
}

// reached watches, until stop is called, that new connections come about along these paths all the time.
func reached(t *testing.T, paths []probe.Path) (stop func()) {
	t.Helper()
	return watched(t, record.Open, paths, probe.Rhythm{Every: pause})
}

// unreached watches, until stop is called, that nothing ever answers along these paths. A refused connection is an answer.
func unreached(t *testing.T, paths []probe.Path) (stop func()) {
	t.Helper()
	return watched(t, record.Closed, paths, probe.Rhythm{Every: pause})
}

// hold keeps a connection open along each of these paths, until stop is called, which wants all of them to be alive.
func hold(t *testing.T, paths []probe.Path) (stop func()) {
	t.Helper()
	return watched(t, record.Open, paths, probe.Rhythm{Every: pause, Held: true})
}

// closesInTime watches that what is to be closed is open, closes in time when the last endpoint is armed, for which armed waits, and is never open again
// until stop is called. It does not watch SSH, which takes longer: it is a failsafe, and Felix starts again, after two seconds of its own, when these change.
func closesInTime(t *testing.T) (armed, stop func()) {
	t.Helper()
	paths := place.Select(func(c scene.Cell) bool { return !scene.Protected(c) && !strangersSSH(c) })
	w := try(t, record.Promise{Kind: record.Closed, Within: closing}, paths, probe.Rhythm{Every: pause})
	armed = func() {
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
		w.Due()
		requireProtected(t, "armed")
	}
	return armed, func() { t.Helper(); kept(t, w) }
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

// stayArmed watches, until stop is called, that no endpoint is deleted or disarmed for a moment, nor armed with another one of these sets; "" is any.
func stayArmed(t *testing.T, sets ...string) (stop func()) {
	t.Helper()
	heps, err := calico(t, "hostendpoints").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	require.NoError(t, err)
	const armed = "armed with "
	promise := record.Promise{Test: t.Name(), Kind: record.Stays}
	for _, set := range sets {
		promise.Allowed = append(promise.Allowed, armed+set)
	}
	w := recordOf(t).Follow(promise, heps, func(hep metav1.Object) string {
		if err := release.Armed(hep); err != nil {
			return err.Error()
		}
		return armed + release.CarriedBy(hep)
	})
	return func() { t.Helper(); kept(t, w) }
}
