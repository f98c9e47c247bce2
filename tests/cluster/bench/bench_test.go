package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

func TestPercentilesAreMeasuredValues(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, test := range []struct {
		sorted []float64
		p      float64
		want   float64
	}{
		{nil, 50, 0},
		{[]float64{7}, 1, 7},
		{[]float64{7}, 99, 7},
		{[]float64{1, 2}, 50, 1},
		{[]float64{1, 2, 3}, 50, 2},
		{[]float64{1, 2, 3}, 90, 3},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
	} {
		assert.Equal(t, test.want, percentile(test.sorted, test.p), "p%v of %v", test.p, test.sorted)
	}
}

func TestDistributionKeepsTheOrderOfItsSamples(t *testing.T) {
	d := distribution([]time.Duration{4 * time.Millisecond, 1500 * time.Microsecond, 2 * time.Millisecond}, 1, time.Second)
	assert.Equal(t, Distribution{Rounds: 4, Missed: 1, Limit: 1000, P50: 2, P90: 1000, P99: 1000, Max: 1000, Samples: []float64{4, 1.5, 2}}, d)
	assert.Equal(t, "2.0 / not within 1 s / not within 1 s / not within 1 s", d.text())
	assert.Equal(t, "4, 1 given up", d.rounds())
	assert.Equal(t, "not within 90 s", distribution(nil, 3, 90*time.Second).text())
}

func TestFiguresOfAProcessAreReadFromProc(t *testing.T) {
	m, err := parseMemory("5581a000-7ffd rollup  [rollup]\nRss:    12600 kB\nPss:    12000 kB\nAnonymous:    2400 kB\n")
	require.NoError(t, err)
	assert.Equal(t, memory{resident: 12600 << 10, anonymous: 2400 << 10}, m)

	peak, err := parsePeak("Name:\tagent\nVmHWM:\t   2048 kB\n")
	require.NoError(t, err)
	assert.Equal(t, int64(2<<20), peak)
	_, err = parsePeak("Name:\tagent\n")
	require.Error(t, err)

	s, err := parseStat("42 (a) (b) S 1 42 42 0 -1 4194304 100 200 0 0 150 50 7 3 20 0 9 0 123456 1000 300")
	require.NoError(t, err)
	assert.Equal(t, stat{cpu: 2100 * time.Millisecond, started: 1234560 * time.Millisecond}, s)

	_, err = parseStat("42 (a) S")
	require.Error(t, err)
	assert.Equal(t, "1", innermost("Name:\tsh\nNSpid:\t4242\t77\t1\n"))

	started, err := startOf(os.Getpid())
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), started, time.Hour)
}

func example() *Report {
	idle := func(requests map[string]int) *Idle {
		return &Idle{Seconds: 300, CPU: 0.1, Resident: 12 * mb, Anonymous: 2 * mb, Requests: requests}
	}
	repair := func(d time.Duration) Distribution { return distribution([]time.Duration{d}, 0, time.Second) }
	return &Report{
		Contenders: []Result{
			{Name: Floor, Repair: repair(4 * time.Millisecond), Idle: idle(nil)},
			{Name: Agent, Repair: repair(8 * time.Millisecond), Idle: idle(map[string]int{"watch nodes": 1}), Image: image.Size{Binary: 15 * mb}},
			{Name: Calico, Repair: distribution(nil, 3, time.Second), Idle: idle(nil)},
		},
		Wire:  &Wire{Label: repair(30 * time.Millisecond), Undone: []Undo{{Cut: 46.2, Moved: 1}, {Cut: 45.9, Moved: 1}}},
		Peers: &PeersCost{Connections: 10_000, Addresses: 100, Short: 100, Annotation: 900, Still: idle(nil), Busy: idle(map[string]int{"patch hostendpoints": 2})},
		Scale: []Scale{{
			Nodes: 5000, Watches: 25000, IdleSeconds: 60,
			Starts: []Start{
				{First: firstHealthy, Keepers: 5000, Armed: 5000, ArmedSeconds: 59.5, Ready: 4999, ReadySeconds: 300},
				{First: firstAbsent, Keepers: 4999, Armed: 4999, ArmedSeconds: 59.6, Ready: 4999, ReadySeconds: 70, Requests: map[string]int{"POST hostendpoints 201": 9998, "WATCH felixconfigurations 200": 4999}},
			},
			Changes: []Change{{Name: Upgraded, Done: 5000, Seconds: 12.3, Ready: 5000, ReadySeconds: 20}, {Name: SwitchedOff, Done: 5000, Ready: 5000, Unarmed: 5000}},
		}},
	}
}

func TestPromisesAreComparedWithWhatWasMeasured(t *testing.T) {
	r := example()
	r.Promises = promises(r)
	assert.Empty(t, r.Broken())
	for what, change := range map[string]func(*Report){
		"a binary that is too big":        func(r *Report) { r.Contenders[1].Image.Binary = 19 * mb },
		"a process that is too big":       func(r *Report) { r.Contenders[1].Idle.Resident = 21 * mb },
		"too much anonymous memory":       func(r *Report) { r.Contenders[1].Idle.Anonymous = 6 * mb },
		"a request out of nothing":        func(r *Report) { r.Contenders[1].Idle.Requests["list hostendpoints"] = 1 },
		"more than twice the floor":       func(r *Report) { r.Contenders[0].Repair.P99 = 3.9 },
		"an endpoint that stayed away":    func(r *Report) { r.Contenders[1].Repair.Missed = 1 },
		"too much memory for connections": func(r *Report) { r.Peers.Busy.Anonymous = 6 * mb },
		"too much that is told":           func(r *Report) { r.Peers.Annotation = 30_000 },
		"a label without effect":          func(r *Report) { r.Wire.Label.Missed = 1 },
		"a change that cut too long":      func(r *Report) { r.Wire.Undone[0].Cut = 61 },
		"a change that two have tried":    func(r *Report) { r.Wire.Undone[0].Moved = 2 },
		"faster automatic endpoints": func(r *Report) {
			r.Contenders[2].Repair = distribution([]time.Duration{time.Millisecond}, 0, time.Second)
		},
		"a keeper that was not armed":    func(r *Report) { r.Scale[0].Starts[0].Armed-- },
		"keepers that took too long":     func(r *Report) { r.Scale[0].Starts[1].ArmedSeconds = 61 },
		"a Retry-After that was ignored": func(r *Report) { r.Scale[0].Starts[1].Disobeyed = map[string]int{"LIST nodes": 1} },
		"an object that was left":        func(r *Report) { r.Scale[0].Starts[1].Uninstall.Left = 1 },
		"an endpoint that was opened":    func(r *Report) { r.Scale[0].Changes[0].Unarmed = 1 },
		"an endpoint that stayed armed":  func(r *Report) { r.Scale[0].Changes[1].Done-- },
		"a keeper that is not ready":     func(r *Report) { r.Scale[0].Changes[0].Ready-- },
		"a watch too many":               func(r *Report) { r.Scale[0].Watches++ },
	} {
		r := example()
		change(r)
		r.Promises = promises(r)
		assert.Len(t, r.Broken(), 1, what)
	}
}

func TestReportIsWrittenForPeopleAndPrograms(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "docs")
	r := example()
	r.Promises = promises(r)
	require.NoError(t, r.Write(dir))
	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	require.NoError(t, err)
	assert.Contains(t, string(text), "| deleted endpoint back and armed, ms: p50 / p90 / p99 / max | 4.0 / 4.0 / 4.0 / 4.0 | 8.0 / 8.0 / 8.0 / 8.0 | not within 1 s |\n")
	assert.Contains(t, string(text), "| controller and keepers started together; seconds until all keepers' nodes were armed | 59.5 | 59.6 |\n")
	assert.Contains(t, string(text), "| all were ready, the failsafe of SSH narrowed | only 4999 ready | 70.0 |\n")
	assert.Contains(t, string(text), "| requests per keeper until all were armed; and for the failsafe of those that were | 0.0; 0.0 | 2.0; 1.0 |\n")
	assert.Contains(t, string(text), "| nodes, when all is done | 5000 |\n")
	assert.Contains(t, string(text), "| "+Upgraded+" | 5000 | 12.3 | 20.0 | 0.0 | 0 | 0.0 |\n")
	assert.Contains(t, string(text), "| label to enforced on the wire, ms: p50 / p90 / p99 / max | 30.0 / 30.0 / 30.0 / 30.0 |\n")
	assert.Contains(t, string(text), "| requests | none in 300 s | 2 patch hostendpoints in 300 s |\n")
	assert.Contains(t, string(text), "| policy broken to back again, s, each time | 45.9, 46.2 |\n")
	assert.Contains(t, string(text), "| anonymous memory of that, MB | 2.0 | 2.0 | 2.0 |\n")
	assert.Contains(t, string(text), "- kept: no API request in 300 idle seconds beyond watches that are renewed (1 watch nodes): none\n")
	raw, err := os.ReadFile(filepath.Join(dir, "benchmarks.json"))
	require.NoError(t, err)
	var again Report
	require.NoError(t, json.Unmarshal(raw, &again))
	assert.Equal(t, r.Contenders[1].Repair, again.Contenders[1].Repair)
}

func TestManifestsAreCompleteForThisCluster(t *testing.T) {
	for _, name := range []string{"floor", "article", "kube-controllers", "load"} {
		text, err := manifest(name)
		require.NoError(t, err)
		assert.NotContains(t, text, "_NETWORKS")
	}
}

func TestCountsAreComparedAndCut(t *testing.T) {
	assert.Equal(t, map[string]int{"b": 3, "c": 2}, most(map[string]int{"a": 1, "b": 3, "c": 2}, 2))
	assert.Equal(t, map[string]int{"a": 1}, most(map[string]int{"a": 1}, 2))
	assert.Equal(t, map[string]int{"get": 2, "new": 1}, difference(map[string]int{"get": 3, "list": 1, "new": 1}, map[string]int{"get": 1, "list": 1}))
}

func TestAgentsRightsAreGivenToTheLoad(t *testing.T) {
	agents := map[string]any{"name": releaseName, "namespace": releaseNamespace}
	controllers := map[string]any{"name": controllerAccount, "namespace": releaseNamespace}
	giveToLoad([]any{map[string]any{"subjects": []any{map[string]any{"serviceAccount": agents}, controllers}}})
	assert.Equal(t, map[string]any{"name": loadAccount, "namespace": loadAccount}, agents)
	assert.Equal(t, map[string]any{"name": controllerAccount, "namespace": releaseNamespace}, controllers)
}

func TestArgumentsAreThoseOfTheOnlyContainer(t *testing.T) {
	workload := func(containers ...any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"kind": "Job", "spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": containers}}}}}
	}
	container := map[string]any{"args": []any{"cleanup", "--release=a"}}
	args, err := argsOf(workload(container))
	require.NoError(t, err)
	assert.Equal(t, []string{"cleanup", "--release=a"}, args)
	_, err = argsOf(workload(container, container))
	require.ErrorContains(t, err, "2 containers")
}
