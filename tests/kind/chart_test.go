package kind

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// everyPairIsWalked tells whether tests of upgrades go on for long, and TestEveryValuesFile walks every pair of files: make upgrades.
func everyPairIsWalked() bool { return os.Getenv("UPGRADES") == "all" }

// One release goes from each values file to the next, and is watched all the way: what both files hold open never fails, and what both close
// never opens. What it leaves in the end is what all of them have made.
func TestEveryValuesFileIsUpgradedToPassesItsTestAndLeavesNothing(t *testing.T) {
	r := prepare(t)
	files := ciFiles(t)
	walk := circle(len(files))
	if everyPairIsWalked() {
		walk = everyPair(len(files))
	}
	_, err := r.Install(t.Context(), files[walk[0]].values)
	require.NoError(t, err)
	requireSettled(t, r, files[walk[0]])
	tested := map[string]bool{}
	for i := range walk[1:] {
		from, to := files[walk[i]], files[walk[i+1]]
		t.Run(from.name+" to "+to.name, func(t *testing.T) {
			stop := between(t, from.open, to.open)
			if everyPairIsWalked() {
				requireFailsAndGoesBack(t, r, from, to)
			}
			_, err := r.Upgrade(t.Context(), to.values)
			require.NoError(t, err)
			requireSettled(t, r, to)
			if everyPairIsWalked() {
				require.NoError(t, r.Rollback(0))
				requireSettled(t, r, from)
				_, err := r.Upgrade(t.Context(), to.values)
				require.NoError(t, err)
				requireSettled(t, r, to)
			}
			if !tested[to.name] {
				requireTestPasses(t, r)
			}
			tested[to.name] = true
			stop()
		})
	}
	last := files[walk[len(walk)-2]]
	t.Run("back to "+last.name, func(t *testing.T) {
		require.NoError(t, r.Rollback(0))
		requireSettled(t, r, last)
		requireTestPasses(t, r)
	})
	if everyPairIsWalked() {
		t.Run("sets that nobody needs any more are gone", requireNoUnusedSet)
	}
	t.Run("uninstall", func(t *testing.T) { uninstallWhole(t, r, last.values) })
	for _, file := range withHooksOfTheirOwn(t, r, files, last) {
		t.Run("install and uninstall "+file.name, func(t *testing.T) {
			_, err := r.Install(t.Context(), file.values)
			require.NoError(t, err)
			requireSettled(t, r, file)
			uninstallWhole(t, r, file.values)
		})
	}
}

// requireSettled waits until the release is as a values file asks for, and the packets meet what it says.
func requireSettled(t *testing.T, r *release.Release, file ciFile) {
	t.Helper()
	requireAsAskedFor(t, r, file.values)
	requireTable(t, file.open, file.name)
}

// requireFailsAndGoesBack upgrades to what no node has the image of, which Helm waits for in vain, and then goes back.
func requireFailsAndGoesBack(t *testing.T, r *release.Release, from, to ciFile) {
	t.Helper()
	require.Error(t, r.UpgradeWaiting(t.Context(), missing(to.values), 3*time.Second))
	_, err := r.Upgrade(t.Context(), from.values)
	require.NoError(t, err)
	requireSettled(t, r, from)
}

// requireNoUnusedSet waits until the controller, which waits for five minutes, has removed all sets but that in force and the one before.
func requireNoUnusedSet(t *testing.T) {
	set := setInForce(t)
	require.NoError(t, cluster.Poll(t.Context(), 6*time.Minute, "unused sets to be gone", func(ctx context.Context) error {
		list, err := calico(t, "globalnetworkpolicies").List(ctx, metav1.ListOptions{LabelSelector: release.SetLabel})
		if err != nil {
			return err
		}
		sets := map[string]bool{}
		for _, p := range list.Items {
			sets[p.GetLabels()[release.SetLabel]] = true
		}
		if !sets[set] || len(sets) > 2 {
			return fmt.Errorf("there are %v", sets)
		}
		return nil
	}))
}

// requireTestPasses wants helm test to pass, and status beside the controller, and both to tell of every node.
func requireTestPasses(t *testing.T, r *release.Release) {
	t.Helper()
	log, err := r.Test()
	require.NoError(t, err, "helm test:\n%s", log)
	told, err := kubectl(t.Context(), "", statusCommand()...)
	require.NoError(t, err, "it needs no flag, and no right that the controller has not")
	for _, node := range nodeNames() {
		assert.Regexp(t, `(?m)^`+node+` +(Armed|Off) `, log)
		assert.Regexp(t, `(?m)^`+node+` +(Armed|Off) `, told)
	}
}

// statusCommand are the arguments of kubectl that say how the release is.
func statusCommand(flags ...string) []string {
	return append([]string{"--namespace", namespace, "exec", "deployment/" + name + "-controller", "--", "/host-firewall-agent", "status"}, flags...)
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

// ciFile is a values file of the chart as it is to be installed here, and what it leaves open.
type ciFile struct {
	name   string
	values map[string]any
	open   scene.Expectation
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
		file := ciFile{name: strings.TrimSuffix(filepath.Base(path), "-values.yaml"), values: atOnce(release.Values(values))}
		file.open = expected(t, file.values)
		files = append(files, file)
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
		for _, resource := range []string{"hostendpoints", "globalnetworkpolicies", "globalnetworksets"} {
			_, err = kubectl(t.Context(), "", "delete", resource+"."+nodes.CalicoGroup().Group, "--selector", release.Label+"="+name)
			require.NoError(t, err)
		}
		_, err = kubectl(t.Context(), "", "delete", "configmap", name, "--namespace", namespace)
		require.NoError(t, err)
	}
	requireNothingLeft(t)
}
