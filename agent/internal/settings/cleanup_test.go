package settings_test

import (
	"flag"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

func TestCleanupIsToldByFlagOrVariable(t *testing.T) {
	environment := map[string]string{
		"HOST_FIREWALL_NAMESPACE": "kube-system",
		"HOST_FIREWALL_DAEMONSET": "other",
		"HOST_FIREWALL_LOG_LEVEL": "debug",
	}
	c, err := settings.ParseCleanup([]string{"--release=fw", "--daemonset=fw", "--timeout=90s", "--arming-labels=a=b,c="},
		func(name string) (string, bool) { value, ok := environment[name]; return value, ok })
	require.NoError(t, err)
	assert.Equal(t, "fw", c.Release)
	assert.Equal(t, "kube-system", c.Namespace)
	assert.Equal(t, "fw", c.DaemonSet, "the flag wins")
	assert.Equal(t, 90*time.Second, c.Timeout)
	assert.Equal(t, map[string]string{"a": "b", "c": ""}, c.ArmingLabels)
	assert.Equal(t, slog.LevelDebug, c.LogLevel)
	assert.Equal(t, "[release=fw namespace=kube-system daemonset=fw arming-labels=a=b,c= api-group= kubeconfig= timeout=1m30s log-level=debug log-format=text]",
		strings.ReplaceAll(c.LogValue().String(), "=90s", "=1m30s"))
}

func TestCleanupReportsEverythingBadAtOnce(t *testing.T) {
	_, err := settings.ParseCleanup([]string{"--timeout=soon", "--node-name=n1", "now"}, func(string) (string, bool) { return "", false })
	for _, words := range []string{
		"--release (HOST_FIREWALL_RELEASE): is required",
		"--namespace (HOST_FIREWALL_NAMESPACE): is required",
		"--daemonset (HOST_FIREWALL_DAEMONSET): is required",
		`--timeout (HOST_FIREWALL_TIMEOUT): "soon" is no time`,
		"not defined: -node-name",
		`argument "now" is not understood`,
	} {
		assert.ErrorContains(t, err, words)
	}
}

func TestCleanupHelpNamesEverySetting(t *testing.T) {
	_, err := settings.ParseCleanup([]string{"--help"}, func(string) (string, bool) { return "", false })
	require.ErrorIs(t, err, flag.ErrHelp)
	help := settings.CleanupHelp("agent")
	for _, words := range []string{"agent cleanup", "--release", "HOST_FIREWALL_NAMESPACE", "--daemonset", "--arming-labels", "--timeout", "default: 4m"} {
		assert.Contains(t, help, words)
	}
	assert.NotContains(t, help, "--node-name")
}
