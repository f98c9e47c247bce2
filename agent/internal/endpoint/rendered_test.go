package endpoint_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/calico/libcalico-go/lib/selector"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// release is what the chart renders for a values file.
type release struct {
	shape    endpoint.Shape
	policies []v3.GlobalNetworkPolicy
}

// rendered returns releases by the name of the values file. Tests of the chart keep
// the files that it reads true.
func rendered(t *testing.T) map[string]release {
	t.Helper()
	testdata := filepath.Join("..", "..", "..", "tests", "helm", "testdata")
	paths, err := filepath.Glob(filepath.Join(testdata, "agent-args", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	releases := map[string]release{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		var found release
		arguments, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, argument := range strings.Fields(string(arguments)) {
			switch flag, value, _ := strings.Cut(argument, "="); flag {
			case "--release":
				found.shape.Release = value
			case "--node-labels":
				found.shape.NodeLabels = strings.Split(value, ",")
			case "--arming-labels":
				found.shape.ArmingLabels = map[string]string{}
				for _, label := range strings.Split(value, ",") {
					key, value, _ := strings.Cut(label, "=")
					found.shape.ArmingLabels[key] = value
				}
			}
		}
		policies, err := os.ReadFile(filepath.Join(testdata, "policies", name+".json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(policies, &found.policies), name)
		require.NotEmpty(t, found.policies, name)
		releases[name] = found
	}
	return releases
}

// selects evaluates a selector as Felix does.
func selects(t *testing.T, text string, labels map[string]string) bool {
	t.Helper()
	parsed, err := selector.Parse(text)
	require.NoError(t, err)
	return parsed.Evaluate(labels)
}

func TestPoliciesOfTheChartSelectArmedEndpointsOfTheirRelease(t *testing.T) {
	for name, release := range rendered(t) {
		t.Run(name, func(t *testing.T) {
			other := release.shape
			other.Release += "-2"
			labels := func(shape endpoint.Shape, armed bool) map[string]string {
				hep, _ := shape.Desired(node(), star(), armed)
				return endpoint.LabelsOf(hep)
			}
			// A Node or a Pod that somebody labelled as an armed endpoint.
			impostor := maps.Clone(release.shape.ArmingLabels)
			impostor["app.kubernetes.io/instance"] = release.shape.Release

			trusted := 0
			for _, policy := range release.policies {
				assert.True(t, selects(t, policy.Spec.Selector, labels(release.shape, true)), "%s: armed", policy.Name)
				assert.False(t, selects(t, policy.Spec.Selector, labels(release.shape, false)), "%s: not armed", policy.Name)
				assert.False(t, selects(t, policy.Spec.Selector, labels(other, true)), "%s: of another release", policy.Name)
				assert.False(t, selects(t, policy.Spec.Selector, impostor), "%s: no endpoint of ours", policy.Name)
				for _, rule := range policy.Spec.Ingress {
					if rule.Source.Selector == "" || rule.Source.NamespaceSelector == "all()" { // networks, pods
						continue
					}
					trusted++
					assert.True(t, selects(t, rule.Source.Selector, labels(release.shape, true)), "%s trusts armed endpoints", policy.Name)
					assert.True(t, selects(t, rule.Source.Selector, labels(release.shape, false)), "%s trusts endpoints that are not armed yet", policy.Name)
					assert.False(t, selects(t, rule.Source.Selector, labels(other, true)), "%s does not trust another release", policy.Name)
					assert.False(t, selects(t, rule.Source.Selector, impostor), "%s does not trust who is no endpoint of ours", policy.Name)
					assert.Equal(t, "global()", rule.Source.NamespaceSelector, "%s does not trust pods that borrow the label", policy.Name)
				}
			}
			if name == "default" {
				assert.Equal(t, 1, trusted, "the nodes are trusted by selector")
			}
		})
	}
}
