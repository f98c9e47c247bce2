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
	c, err := settings.Cleanup().Parse([]string{"--release=fw", "--daemonset=fw", "--account=fw-cleanup", "--test-pod=fw-test", "--timeout=90s", "--deployment=fw-controller"},
		func(name string) (string, bool) { value, ok := environment[name]; return value, ok })
	require.NoError(t, err)
	assert.Equal(t, "fw", c.Release)
	assert.Equal(t, "kube-system", c.Namespace)
	assert.Equal(t, "fw", c.DaemonSet, "the flag wins")
	assert.Equal(t, "fw-cleanup", c.Account)
	assert.Equal(t, "fw-test", c.TestPod)
	assert.Equal(t, 90*time.Second, c.Timeout)
	assert.Equal(t, "fw-controller", c.Deployment)
	assert.Equal(t, slog.LevelDebug, c.LogLevel)
	assert.Equal(t, "[release=fw namespace=kube-system daemonset=fw deployment=fw-controller account=fw-cleanup test-pod=fw-test api-group= kubeconfig= timeout=1m30s log-level=debug log-format=text]",
		strings.ReplaceAll(c.LogValue().String(), "=90s", "=1m30s"))
}

func TestCleanupReportsEverythingBadAtOnce(t *testing.T) {
	_, err := settings.Cleanup().Parse([]string{"--timeout=soon", "--test-pod=A", "--node-name=n1", "now"}, func(string) (string, bool) { return "", false })
	for _, words := range []string{
		"--release (HOST_FIREWALL_RELEASE): is required",
		"--namespace (HOST_FIREWALL_NAMESPACE): is required",
		"--daemonset (HOST_FIREWALL_DAEMONSET): is required",
		"--deployment (HOST_FIREWALL_DEPLOYMENT): is required",
		"--account (HOST_FIREWALL_ACCOUNT): is required",
		`--test-pod (HOST_FIREWALL_TEST_POD): "A" is not the name of a Pod`,
		`--timeout (HOST_FIREWALL_TIMEOUT): "soon" is no time`,
		"not defined: -node-name",
		`argument "now" is not understood`,
	} {
		assert.ErrorContains(t, err, words)
	}
}

func TestCleanupHelpNamesEverySetting(t *testing.T) {
	_, err := settings.Cleanup().Parse([]string{"--help"}, func(string) (string, bool) { return "", false })
	require.ErrorIs(t, err, flag.ErrHelp)
	help := settings.Cleanup().Help("agent")
	for _, words := range []string{"agent cleanup", "--release", "HOST_FIREWALL_NAMESPACE", "--daemonset", "--deployment", "--timeout", "default: 4m"} {
		assert.Contains(t, help, words)
	}
	assert.NotContains(t, help, "--node-name")
}

// The controller's pod has these variables, so that nothing has to be told there.
func TestStatusIsToldByFlagOrVariable(t *testing.T) {
	environment := map[string]string{
		"HOST_FIREWALL_RELEASE": "fw", "HOST_FIREWALL_NAMESPACE": "ns", "HOST_FIREWALL_SET": "r1", "HOST_FIREWALL_MODE": "off",
		"HOST_FIREWALL_POLICIES": "fw-ssh=0123456789abcdef,fw-drop=fedcba9876543210",
	}
	lookup := func(name string) (string, bool) { value, ok := environment[name]; return value, ok }
	c, err := settings.Status().Parse(nil, lookup)
	require.NoError(t, err)
	assert.Equal(t, "fw", c.Release)
	assert.Equal(t, "ns", c.Namespace)
	assert.Equal(t, "r1", c.Set)
	assert.Equal(t, map[string]string{"fw-ssh": "0123456789abcdef", "fw-drop": "fedcba9876543210"}, c.Policies)
	assert.Equal(t, settings.ModeOff, c.Mode)
	assert.Equal(t, "table", c.Output)
	assert.Zero(t, c.Wait, "a person is told at once")
	assert.Equal(t, slog.LevelWarn, c.LogLevel)
	for _, args := range [][]string{{"-o", "json"}, {"-o=json"}, {"--output=json"}} {
		c, err = settings.Status().Parse(append(args, "--wait=1m"), lookup)
		require.NoError(t, err)
		assert.Equal(t, "json", c.Output, args)
		assert.Equal(t, time.Minute, c.Wait)
	}
}

func TestStatusReportsEverythingBadAtOnce(t *testing.T) {
	_, err := settings.Status().Parse([]string{"--wait=1ms", "--mode=on", "-o=yaml", "--test-pod=fw"}, func(string) (string, bool) { return "", false })
	for _, words := range []string{
		"--release (HOST_FIREWALL_RELEASE): is required",
		"--mode (HOST_FIREWALL_MODE): ",
		"--policies (HOST_FIREWALL_POLICIES): is required",
		"--set (HOST_FIREWALL_SET): is required",
		"--namespace (HOST_FIREWALL_NAMESPACE): is required",
		`--wait (HOST_FIREWALL_WAIT): "1ms" is no time of at least a second: write for example 1m`,
		`--output (HOST_FIREWALL_OUTPUT): "yaml" is not known: write table or wide or json`,
		"not defined: -test-pod",
	} {
		assert.ErrorContains(t, err, words)
	}
}

func TestStatusHelpNamesEverySetting(t *testing.T) {
	_, err := settings.Status().Parse([]string{"--help"}, func(string) (string, bool) { return "", false })
	require.ErrorIs(t, err, flag.ErrHelp)
	help := settings.Status().Help("agent")
	for _, words := range []string{"agent status", "--release", "--mode", "--policies", "--set", "HOST_FIREWALL_NAMESPACE", "--wait", "--output", "wide (a table with whole reasons)"} {
		assert.Contains(t, help, words)
	}
	assert.NotContains(t, help, "--node-name")
}
