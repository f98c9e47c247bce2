package helm_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
)

// everything is a values file that says something about every value there is.
func everything(t testing.TB) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "everything-values.yaml"))
	require.NoError(t, err)
	return string(content)
}

// valuesFiles are those of chart-testing and everything.
func valuesFiles(t testing.TB) map[string]string {
	t.Helper()
	files := ciFiles(t)
	files["everything"] = everything(t)
	return files
}

func TestEverythingSpeaksOfEveryValue(t *testing.T) {
	values, err := chartutil.ReadValues([]byte(everything(t)))
	require.NoError(t, err)
	require.ElementsMatch(t, slices.Collect(maps.Keys(leaves(t))), slices.Collect(maps.Keys(leavesOf(values))))
}

// The one place where a change of the chart is seen as Kubernetes sees it, in full and in its context.
func TestReleaseIsTheOneThatWasRead(t *testing.T) {
	served := map[string]chartutil.VersionSet{
		"defaults":   clusterServing(apiV3),
		"everything": operated(clusterServing(apiV1)),
		"no-agents":  operated(clusterServing(apiV1)),
	}
	for name, values := range map[string]string{"defaults": "", "everything": everything(t), "no-agents": withoutAgents} {
		t.Run(name, func(t *testing.T) {
			r := render(t, setting{values: values, served: served[name]})
			compareWithFile(t, filepath.Join("testdata", "golden", name+".yaml"), r.manifest)
		})
	}
}

// Agents and Calico's validator read these: what they need is internal to the agent, or of an older API than that of this module.
func TestRenderedPoliciesAreTheOnesThatOthersTest(t *testing.T) {
	t.Parallel()
	files := valuesFiles(t)
	for name, values := range files {
		policies, err := json.MarshalIndent(render(t, setting{values: values}).policies, "", "  ")
		require.NoError(t, err)
		compareWithFile(t, filepath.Join("testdata", "policies", name+".json"), string(policies)+"\n")
	}
	kept, err := filepath.Glob(filepath.Join("testdata", "policies", "*.json"))
	require.NoError(t, err)
	require.Len(t, kept, len(files), "a file is left over from a values file that is gone")
}

// edgeOne is a release in a cluster that has all but the other group of Calico.
func edgeOne(group string) setting {
	return setting{release: "edge-one", namespace: "space-one", served: operated(clusterServing(group))}
}

// Two releases in two namespaces, with names of the same length: all that may differ is these names, the set's revision and digests.
func TestNothingButItsNamesTellsOneReleaseFromAnother(t *testing.T) {
	for name, values := range valuesFiles(t) {
		for _, kubernetes := range []string{oldestKubernetes, newestKubernetes} {
			for _, group := range []string{apiV3, apiV1} {
				t.Run(strings.Join([]string{name, kubernetes, group}, "/"), func(t *testing.T) {
					t.Parallel()
					text := func(release, namespace string) string {
						s := edgeOne(group)
						s.release, s.namespace, s.kubernetes, s.values = release, namespace, kubernetes, values
						r := render(t, s)
						require.Empty(t, r.broken(t, namespace))
						given := argumentsOf(t, r)
						text := strings.NewReplacer(given["set"], "revision", given["rollout"], "rollout").Replace(r.manifest + r.notes)
						return regexp.MustCompile(`-revision=[0-9a-f]{16}\b`).ReplaceAllString(text, "-revision=digest")
					}
					one, two := text("edge-one", "space-one"), text("edge-two", "space-two")
					require.Contains(t, one, "space-one")
					require.Equal(t, two, strings.NewReplacer("edge-one", "edge-two", "space-one", "space-two").Replace(one))
				})
			}
		}
	}
}
