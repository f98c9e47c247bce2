package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// rendered returns what the chart renders as arguments, by the name of its values
// file. A test of the chart keeps these files true.
func rendered(t *testing.T, kind string) map[string][]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "..", "..", "tests", "helm", "testdata", kind, "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	arguments := map[string][]string{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		arguments[strings.TrimSuffix(filepath.Base(path), ".txt")] = strings.Fields(string(content))
	}
	return arguments
}

func TestArgumentsOfTheChartAreUnderstood(t *testing.T) {
	environment := func(name string) (string, bool) { return "n1", name == "HOST_FIREWALL_NODE_NAME" }
	for name, arguments := range rendered(t, "agent-args") {
		_, err := settings.Agent().Parse(arguments, environment)
		assert.NoError(t, err, name)
	}
}

func TestArgumentsOfTheChartsControllerAreUnderstood(t *testing.T) {
	for name, arguments := range rendered(t, "controller-args") {
		require.Equal(t, "controller", arguments[0], name)
		told, err := settings.Controller().Parse(arguments[1:], func(string) (string, bool) { return "", false })
		require.NoError(t, err, name)
		assert.NotEmpty(t, told.Policies, name)
		for policy, digest := range told.Policies {
			assert.True(t, strings.HasSuffix(policy, "-"+told.Set), "%s is not of set %s", policy, told.Set)
			assert.Len(t, digest, 16, policy)
		}
	}
}

func TestArgumentsOfTheChartsCommandsAreUnderstood(t *testing.T) {
	for command, parse := range map[string]func([]string, func(string) (string, bool)) (settings.Settings, error){
		"cleanup": settings.Cleanup().Parse,
		"status":  settings.Status().Parse,
	} {
		for name, arguments := range rendered(t, command+"-args") {
			require.Equal(t, command, arguments[0], name)
			_, err := parse(arguments[1:], func(string) (string, bool) { return "", false })
			assert.NoError(t, err, "%s of %s", command, name)
		}
	}
}
