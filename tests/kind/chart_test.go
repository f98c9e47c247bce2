package kind

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"

	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

// everyUpgrade is the variable that with "all" makes TestEveryValuesFile walk every pair of files: make upgrades.
const everyUpgrade = "UPGRADES"

// One release goes from each values file to the next, and is looked at wherever it comes to. What it leaves in the end is what all of
// them have made.
func TestEveryValuesFileIsUpgradedToPassesItsTestAndLeavesNothing(t *testing.T) {
	r := prepare(t)
	files := ciFiles(t)
	walk := circle(len(files))
	if os.Getenv(everyUpgrade) == "all" {
		walk = everyPair(len(files))
	}
	_, err := r.Install(t.Context(), files[walk[0]].values)
	require.NoError(t, err)
	requireAsAskedFor(t, r, files[walk[0]].values)
	tested := map[string]bool{}
	for i := range walk[1:] {
		from, to := files[walk[i]], files[walk[i+1]]
		t.Run(from.name+" to "+to.name, func(t *testing.T) {
			_, err := r.Upgrade(t.Context(), to.values)
			require.NoError(t, err)
			requireAsAskedFor(t, r, to.values)
			if !tested[to.name] {
				requireTestPasses(t, r)
			}
			tested[to.name] = true
		})
	}
	last := files[walk[len(walk)-2]]
	t.Run("back to "+last.name, func(t *testing.T) {
		require.NoError(t, r.Rollback(0))
		requireAsAskedFor(t, r, last.values)
		requireTestPasses(t, r)
	})
	t.Run("uninstall", func(t *testing.T) { uninstallWhole(t, r, last.values) })
	for _, file := range withHooksOfTheirOwn(t, r, files, last) {
		t.Run("install and uninstall "+file.name, func(t *testing.T) {
			_, err := r.Install(t.Context(), file.values)
			require.NoError(t, err)
			requireAsAskedFor(t, r, file.values)
			uninstallWhole(t, r, file.values)
		})
	}
}

// requireTestPasses wants helm test to pass, and to tell of every node.
func requireTestPasses(t *testing.T, r *release.Release) {
	t.Helper()
	log, err := r.Test()
	require.NoError(t, err, "helm test:\n%s", log)
	for _, node := range nodeNames() {
		assert.Regexp(t, `(?m)^`+node+` +(Armed|Off) `, log)
	}
}

// withHooksOfTheirOwn are the files whose releases are not uninstalled as that of another one is, one for each way: what else a
// file says has no say in it.
func withHooksOfTheirOwn(t *testing.T, r *release.Release, files []ciFile, but ciFile) (own []ciFile) {
	t.Helper()
	hooks := func(f ciFile) string {
		hooks, err := r.UninstallHooks(t.Context(), f.values)
		require.NoError(t, err)
		return hooks
	}
	seen := []string{hooks(but)}
	for _, f := range files {
		if h := hooks(f); !slices.Contains(seen, h) {
			seen, own = append(seen, h), append(own, f)
		}
	}
	return own
}

// circle visits each of n files once and comes back.
func circle(n int) []int {
	walk := []int{}
	for i := range n {
		walk = append(walk, i)
	}
	return append(walk, 0)
}

// everyPair goes once from each of n files to each other one, and ends where it began: an Eulerian circuit, found as Hierholzer
// did. From each file it goes first to the next one, then to the one after that.
func everyPair(n int) []int {
	gone := make([]int, n) // the longest step that has been made from there
	walk, path := []int{}, []int{0}
	for len(path) > 0 {
		at := path[len(path)-1]
		if gone[at] == n-1 {
			walk, path = append(walk, at), path[:len(path)-1]
			continue
		}
		gone[at]++
		path = append(path, (at+gone[at])%n)
	}
	slices.Reverse(walk)
	return walk
}

func TestEveryPairIsWalkedOnce(t *testing.T) {
	const n = 14
	walk := everyPair(n)
	pairs := map[[2]int]int{}
	for i := range walk[1:] {
		pairs[[2]int{walk[i], walk[i+1]}]++
	}
	for from := range n {
		for to := range n {
			if from != to {
				assert.Equal(t, 1, pairs[[2]int{from, to}], "%d to %d", from, to)
			}
		}
	}
	assert.Len(t, walk, n*(n-1)+1)
}

// ciFile is a values file of the chart as it is to be installed here.
type ciFile struct {
	name   string
	values map[string]any
}

// ciFiles are all of them, by name. This cluster's own networks and image are laid over what they say. Where they don't speak of
// how pods are replaced, all are at once, to save time.
func ciFiles(t *testing.T) (files []ciFile) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "charts", "host-firewall", "ci", "*-values.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		values, err := chartutil.ReadValues(raw)
		require.NoError(t, err)
		if trusted, ok := values["cluster"].(map[string]any); ok && len(trusted) > 0 {
			// A file that knows other networks than these would cut these nodes off from each other, as it says.
			cidrs, _ := trusted["cidrs"].([]any)
			for _, cidr := range nodes.ClusterCIDRs() {
				cidrs = append(cidrs, cidr)
			}
			trusted["cidrs"] = cidrs
		}
		files = append(files, ciFile{
			name:   strings.TrimSuffix(filepath.Base(path), "-values.yaml"),
			values: atOnce(release.Values(values)),
		})
	}
	return files
}

// requireAsAskedFor waits until every node is armed, or with mode off is not.
func requireAsAskedFor(t *testing.T, r *release.Release, values map[string]any) {
	t.Helper()
	effective, err := r.Effective(values)
	require.NoError(t, err)
	endpoints, ok := effective["hostEndpoint"].(map[string]any)
	require.True(t, ok)
	want := release.Wanted{Armed: isOn(effective), Labels: map[string]string{}}
	labels, ok := endpoints["labels"].(map[string]any)
	require.True(t, ok)
	for key, value := range labels {
		want.Labels[key] = fmt.Sprint(value)
	}
	require.NoError(t, release.Wait(t.Context(), nodes, namespace, want))
}

// isOn tells whether endpoints are to be armed. YAML reads an off without quotes as false.
func isOn(effective map[string]any) bool {
	return effective["mode"] != "off" && effective["mode"] != false
}

// uninstallWhole uninstalls, does what the chart's README says where that leaves something behind, and wants nothing to be left.
func uninstallWhole(t *testing.T, r *release.Release, values map[string]any) {
	t.Helper()
	require.NoError(t, r.Uninstall())
	effective, err := r.Effective(values)
	require.NoError(t, err)
	if cleanup, ok := effective["cleanup"].(map[string]any); !ok || cleanup["enabled"] != true {
		_, err = kubectl(t.Context(), "", "delete", "hostendpoints."+nodes.CalicoGroup().Group, "--selector", "host-firewall.io/release="+name)
		require.NoError(t, err)
	}
	requireNothingLeft(t)
}
