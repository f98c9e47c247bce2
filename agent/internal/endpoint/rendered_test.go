package endpoint_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/calico/libcalico-go/lib/selector"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/trust"
)

// release is what the chart renders for a values file.
type release struct {
	shape    endpoint.Shape
	set      string
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
			case "--set":
				found.set = value
			case "--endpoint-labels":
				found.shape.Labels = map[string]string{}
				for _, label := range strings.Split(value, ",") {
					key, value, _ := strings.Cut(label, "=")
					found.shape.Labels[key] = value
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
			labels := func(shape endpoint.Shape, set string) map[string]string {
				hep, _ := shape.Desired(node(), star(), nil, set)
				return endpoint.LabelsOf(hep)
			}
			// A Node or a Pod that somebody labelled as an armed endpoint.
			impostor := map[string]string{endpoint.SetLabel: release.set, "app.kubernetes.io/instance": release.shape.Release}
			trustOf := func(id string) map[string]string {
				sets, _ := trust.Sets(id, []*corev1.Node{node()}, nil)
				require.Len(t, sets, 1)
				return sets[0].Labels
			}

			trusted := 0
			for _, policy := range release.policies {
				assert.True(t, selects(t, policy.Spec.Selector, labels(release.shape, release.set)), "%s: armed", policy.Name)
				assert.False(t, selects(t, policy.Spec.Selector, labels(release.shape, "")), "%s: not armed", policy.Name)
				assert.False(t, selects(t, policy.Spec.Selector, labels(release.shape, "another")), "%s: armed with another set", policy.Name)
				assert.False(t, selects(t, policy.Spec.Selector, labels(other, release.set)), "%s: of another release", policy.Name)
				assert.False(t, selects(t, policy.Spec.Selector, impostor), "%s: no endpoint of ours", policy.Name)
				for _, rule := range policy.Spec.Ingress {
					if rule.Source.Selector == "" || rule.Source.NamespaceSelector == "all()" { // networks, pods
						continue
					}
					trusted++
					assert.True(t, selects(t, rule.Source.Selector, trustOf(release.shape.Release)), "%s trusts the network sets of nodes", policy.Name)
					assert.False(t, selects(t, rule.Source.Selector, labels(release.shape, release.set)), "%s does not trust what agents write", policy.Name)
					assert.False(t, selects(t, rule.Source.Selector, trustOf(other.Release)), "%s does not trust another release", policy.Name)
					assert.False(t, selects(t, rule.Source.Selector, impostor), "%s does not trust who is no node", policy.Name)
					assert.Equal(t, "global()", rule.Source.NamespaceSelector, "%s does not trust pods that borrow the label", policy.Name)
				}
			}
			if name == "default" {
				assert.Equal(t, 1, trusted, "the nodes are trusted by selector")
			}
		})
	}
}
