package policyset_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// The chart computes digests by templates, and policies come back as Calico's types write
// them, with fields that are empty. Tests of the chart keep the files that this reads true.
func TestPoliciesOfTheChartHaveTheDigestsThatTheControllerIsTold(t *testing.T) {
	testdata := filepath.Join("..", "..", "..", "tests", "helm", "testdata")
	paths, err := filepath.Glob(filepath.Join(testdata, "controller-args", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		arguments, err := os.ReadFile(path)
		require.NoError(t, err)
		told, err := settings.Controller().Parse(strings.Fields(string(arguments))[1:], func(string) (string, bool) { return "", false })
		require.NoError(t, err, name)
		set := clearance.Set{Revision: told.Set, Policies: told.Policies}

		var rendered []struct {
			Metadata metav1.ObjectMeta
			Spec     map[string]any
		}
		content, err := os.ReadFile(filepath.Join(testdata, "policies", name+".json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(content, &rendered), name)
		var have []*policyset.Policy
		for _, policy := range rendered {
			have = append(have, policyset.Of(policy.Metadata, policy.Spec))
		}
		assert.Empty(t, policyset.Lack(told.Release, set, have), name)
		assert.Contains(t, policyset.Lack(told.Release, set, have[1:]), have[0].Name, name)
	}
}
