package settings_test

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// required are the smallest arguments that are enough.
func required(more ...string) []string {
	return append([]string{"--node-name=n1", "--release=fw", "--namespace=ns", "--set=abc"}, more...)
}

// environment returns a lookup in pairs of name and value.
func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestDefaultsAreThoseOfTheContract(t *testing.T) {
	s, err := settings.Agent().Parse(required(), environment())
	require.NoError(t, err)
	assert.Equal(t, "n1", s.NodeName)
	assert.Equal(t, "fw", s.Release)
	assert.Equal(t, "ns", s.Namespace)
	assert.Equal(t, "abc", s.Set)
	assert.Empty(t, s.APIGroup)
	assert.Empty(t, s.EndpointLabels)
	assert.Equal(t, 9097, s.HealthPort)
	assert.Equal(t, 10*time.Minute, s.Resync)
	assert.Equal(t, slog.LevelInfo, s.LogLevel)
	assert.Equal(t, "text", s.LogFormat)
	assert.Empty(t, s.Kubeconfig)
	assert.Equal(t, settings.ModeEnforce, s.Mode)
	assert.Equal(t, []string{"*"}, s.Interfaces)
	assert.Empty(t, s.NodeLabels)
	assert.False(t, s.Adopt)
	assert.Equal(t, settings.WatchAuto, s.WatchPeers)
	assert.Empty(t, s.SSHCIDRs)
	assert.Equal(t, []uint16{22}, s.SSHPorts)
	assert.False(t, s.NarrowFailsafe)
	assert.Empty(t, s.MetricsAddress)
}

func TestEverySettingIsReadFromFlagAndFromEnvironment(t *testing.T) {
	for _, test := range []struct {
		flag, variable, text string
		got                  func(settings.Settings) any
		want                 any
	}{
		{"node-name", "HOST_FIREWALL_NODE_NAME", "n2.example", func(s settings.Settings) any { return s.NodeName }, "n2.example"},
		{"release", "HOST_FIREWALL_RELEASE", "other", func(s settings.Settings) any { return s.Release }, "other"},
		{"set", "HOST_FIREWALL_SET", "01234567", func(s settings.Settings) any { return s.Set }, "01234567"},
		{"namespace", "HOST_FIREWALL_NAMESPACE", "kube-system", func(s settings.Settings) any { return s.Namespace }, "kube-system"},
		{"api-group", "HOST_FIREWALL_API_GROUP", "crd.projectcalico.org/v1", func(s settings.Settings) any { return s.APIGroup }, "crd.projectcalico.org/v1"},
		{"endpoint-labels", "HOST_FIREWALL_ENDPOINT_LABELS", "a=1,example.org/b=", func(s settings.Settings) any { return s.EndpointLabels }, map[string]string{"a": "1", "example.org/b": ""}},
		{"health-port", "HOST_FIREWALL_HEALTH_PORT", "65535", func(s settings.Settings) any { return s.HealthPort }, 65535},
		{"resync", "HOST_FIREWALL_RESYNC", "1h30m", func(s settings.Settings) any { return s.Resync }, 90 * time.Minute},
		{"log-level", "HOST_FIREWALL_LOG_LEVEL", "debug", func(s settings.Settings) any { return s.LogLevel }, slog.LevelDebug},
		{"log-format", "HOST_FIREWALL_LOG_FORMAT", "json", func(s settings.Settings) any { return s.LogFormat }, "json"},
		{"mode", "HOST_FIREWALL_MODE", "audit", func(s settings.Settings) any { return s.Mode }, settings.ModeAudit},
		{"interfaces", "HOST_FIREWALL_INTERFACES", "*,eth*,bond?,en[po]1", func(s settings.Settings) any { return s.Interfaces }, []string{"*", "eth*", "bond?", "en[po]1"}},
		{"node-labels", "HOST_FIREWALL_NODE_LABELS", "zone,topology.kubernetes.io/*,node-*,*", func(s settings.Settings) any { return s.NodeLabels },
			[]string{"zone", "topology.kubernetes.io/*", "node-*", "*"}},
		{"watch-peers", "HOST_FIREWALL_WATCH_PEERS", "never", func(s settings.Settings) any { return s.WatchPeers }, settings.WatchNever},
		{"adopt", "HOST_FIREWALL_ADOPT", "true", func(s settings.Settings) any { return s.Adopt }, true},
		{"ssh-cidrs", "HOST_FIREWALL_SSH_CIDRS", "203.0.113.0/24", func(s settings.Settings) any { return s.SSHCIDRs }, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}},
		{"ssh-ports", "HOST_FIREWALL_SSH_PORTS", "22,2222", func(s settings.Settings) any { return s.SSHPorts }, []uint16{22, 2222}},
		{"narrow-failsafe", "HOST_FIREWALL_NARROW_FAILSAFE", "true", func(s settings.Settings) any { return s.NarrowFailsafe }, true},
		{"metrics-address", "HOST_FIREWALL_METRICS_ADDRESS", "[::1]:9096", func(s settings.Settings) any { return s.MetricsAddress }, "[::1]:9096"},
		{"kubeconfig", "HOST_FIREWALL_KUBECONFIG", "/etc/kubeconfig", func(s settings.Settings) any { return s.Kubeconfig }, "/etc/kubeconfig"},
	} {
		t.Run(test.flag, func(t *testing.T) {
			s, err := settings.Agent().Parse(required("--"+test.flag+"="+test.text), environment(test.variable, "of the environment"))
			require.NoError(t, err, "the flag wins")
			assert.Equal(t, test.want, test.got(s))

			var others []string
			for _, arg := range required() {
				if !strings.HasPrefix(arg, "--"+test.flag+"=") {
					others = append(others, arg)
				}
			}
			s, err = settings.Agent().Parse(others, environment(test.variable, test.text))
			require.NoError(t, err)
			assert.Equal(t, test.want, test.got(s))
		})
	}
}

func TestEmptyVariableIsNoSetting(t *testing.T) {
	s, err := settings.Agent().Parse(required(), environment("HOST_FIREWALL_INTERFACES", "", "HOST_FIREWALL_HEALTH_PORT", ""))
	require.NoError(t, err)
	assert.Equal(t, []string{"*"}, s.Interfaces)
	assert.Equal(t, 9097, s.HealthPort)
}

func TestFlagOfABoolStandsAlone(t *testing.T) {
	s, err := settings.Agent().Parse(required("--adopt"), environment("HOST_FIREWALL_ADOPT", "false"))
	require.NoError(t, err)
	assert.True(t, s.Adopt)
}

func TestWrongSettingIsRefusedNamingFlagVariableAndRemedy(t *testing.T) {
	long := strings.Repeat("a", 64)
	for name, test := range map[string]struct {
		arg  string
		want []string
	}{
		"no node":                   {"--node-name=", []string{"--node-name", "HOST_FIREWALL_NODE_NAME", "is required", "name of a Node"}},
		"node in capitals":          {"--node-name=N1", []string{"--node-name", `"N1"`, "lower case"}},
		"no release":                {"--release=", []string{"--release", "HOST_FIREWALL_RELEASE", "is required"}},
		"release too long":          {"--release=" + long, []string{"--release", "63"}},
		"no set":                    {"--set=", []string{"--set", "HOST_FIREWALL_SET", "is required"}},
		"no namespace":              {"--namespace=", []string{"--namespace", "is required"}},
		"set with a space":          {"--set=a b", []string{"--set", `"a b"`}},
		"unknown group":             {"--api-group=calico/v3", []string{"--api-group", "HOST_FIREWALL_API_GROUP", "projectcalico.org/v3 or crd.projectcalico.org/v1"}},
		"endpoint label, no value":  {"--endpoint-labels=a", []string{"--endpoint-labels", "key=value"}},
		"endpoint label, bad key":   {"--endpoint-labels=a b=c", []string{"--endpoint-labels", `"a b"`}},
		"endpoint label, bad value": {"--endpoint-labels=a=b c", []string{"--endpoint-labels", `"b c"`}},
		"endpoint label twice":      {"--endpoint-labels=a=b,a=c", []string{"--endpoint-labels", "twice"}},
		"endpoint label of our own": {"--endpoint-labels=host-firewall.io/release=fw", []string{"--endpoint-labels", "host-firewall.io/"}},
		"neither true nor false":    {"--adopt=maybe", []string{"--adopt", "HOST_FIREWALL_ADOPT", "true nor false"}},
		"port 0":                    {"--health-port=0", []string{"--health-port", "HOST_FIREWALL_HEALTH_PORT", "1 to 65535"}},
		"port too high":             {"--health-port=65536", []string{"--health-port", "1 to 65535"}},
		"port by name":              {"--health-port=http", []string{"--health-port", `"http"`}},
		"resync without a unit":     {"--resync=10", []string{"--resync", "HOST_FIREWALL_RESYNC", "10m"}},
		"resync as a hot loop":      {"--resync=0s", []string{"--resync", "at least a second"}},
		"unknown level":             {"--log-level=loud", []string{"--log-level", "HOST_FIREWALL_LOG_LEVEL", "debug or info or warn or error"}},
		"unknown format":            {"--log-format=xml", []string{"--log-format", "HOST_FIREWALL_LOG_FORMAT", "text or json"}},
		"unknown mode":              {"--mode=dry-run", []string{"--mode", "HOST_FIREWALL_MODE", "enforce or audit or off"}},
		"no interface":              {"--interfaces=", []string{"--interfaces", "nothing would be protected"}},
		"bad glob":                  {"--interfaces=eth[", []string{"--interfaces", `"eth["`, "eth*"}},
		"bad key of a node label":   {"--node-labels=a b", []string{"--node-labels", `"a b"`}},
		"bad SSH network":           {"--ssh-cidrs=office", []string{"--ssh-cidrs", "192.0.2.0/24"}},
		"bad SSH port":              {"--ssh-ports=ssh", []string{"--ssh-ports", "1 to 65535"}},
		"no SSH port":               {"--ssh-ports=,", []string{"--ssh-ports", "write for example 22"}},
		"metrics without a port":    {"--metrics-address=127.0.0.1", []string{"--metrics-address", "127.0.0.1:9096"}},
		"metrics at a name":         {"--metrics-address=localhost:9096", []string{"--metrics-address", "127.0.0.1:9096"}},
		"unknown flag":              {"--log-levle=info", []string{"-log-levle", "--help"}},
		"argument that is no flag":  {"run", []string{`"run"`, "--name=value"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := settings.Agent().Parse(required(test.arg), environment())
			require.Error(t, err)
			assert.Len(t, strings.Split(err.Error(), "\n"), 1, "one problem, one line")
			for _, words := range test.want {
				assert.ErrorContains(t, err, words)
			}
		})
	}
}

func TestAllProblemsAreReportedAtOnce(t *testing.T) {
	_, err := settings.Agent().Parse(
		[]string{"--resync=soon", "--nonsense", "--adopt", "false", "--log-format=xml"},
		environment("HOST_FIREWALL_HEALTH_PORT", "none", "HOST_FIREWALL_LOG_FORMAT", "text"),
	)
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	for _, start := range []string{
		"flag provided but not defined: -nonsense",
		`argument "false"`,
		"--node-name (HOST_FIREWALL_NODE_NAME)",
		"--release (HOST_FIREWALL_RELEASE)",
		"--namespace (HOST_FIREWALL_NAMESPACE)",
		"--set (HOST_FIREWALL_SET)",
		"--health-port (HOST_FIREWALL_HEALTH_PORT)",
		"--resync (HOST_FIREWALL_RESYNC)",
		"--log-format (HOST_FIREWALL_LOG_FORMAT)",
	} {
		count := 0
		for _, line := range lines {
			if strings.HasPrefix(line, start) {
				count++
			}
		}
		assert.Equal(t, 1, count, "lines that start with %q in:\n%s", start, err)
	}
	assert.Len(t, lines, 9)
}

func TestEveryBadItemOfAListIsReported(t *testing.T) {
	_, err := settings.Agent().Parse(required("--ssh-cidrs=a,192.0.2.0/24,b", "--node-labels=a b,p,p,B c", "--endpoint-labels=x,a=b c", "--ssh-ports=0,22,x"), environment())
	require.Error(t, err)
	for flag, items := range map[string][]string{
		"ssh-cidrs": {`"a"`, `"b"`}, "node-labels": {`"a b"`, `"p" is there twice`, `"B c"`}, "endpoint-labels": {`"x"`, `"b c"`}, "ssh-ports": {`"0"`, `"x"`},
	} {
		for _, item := range items {
			found := 0
			for line := range strings.Lines(err.Error()) {
				if strings.HasPrefix(line, "--"+flag+" (") && strings.Contains(line, item) {
					found++
				}
			}
			assert.Equal(t, 1, found, "%s in --%s", item, flag)
		}
	}
	assert.Len(t, strings.Split(err.Error(), "\n"), 9)
}

func TestHelpShowsEverySettingWithItsVariableAndDefault(t *testing.T) {
	for _, arg := range []string{"--help", "-h", "-help"} {
		_, err := settings.Agent().Parse([]string{"--resync=soon", arg}, environment())
		assert.True(t, errors.Is(err, flag.ErrHelp), arg)
	}
	help := settings.Agent().Help("agent")
	for _, words := range []string{
		"agent version",
		"--node-name        HOST_FIREWALL_NODE_NAME        required\n",
		"--endpoint-labels  HOST_FIREWALL_ENDPOINT_LABELS  default: empty\n",
		"--kubeconfig       HOST_FIREWALL_KUBECONFIG       default: empty\n",
	} {
		assert.Contains(t, help, words)
	}
	for line := range strings.Lines(help) {
		assert.LessOrEqual(t, len(line), 121, "too wide for a terminal: %s", line)
	}
}

func TestLogShowsEverySettingAsItWasTold(t *testing.T) {
	s, err := settings.Agent().Parse(required("--resync=90s"), environment("HOST_FIREWALL_LOG_LEVEL", "warn"))
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("starting", "settings", s)
	for _, words := range []string{
		"settings.node-name=n1", "settings.set=abc", "settings.resync=90s", "settings.log-level=warn",
		"settings.adopt=false", `settings.kubeconfig=""`,
	} {
		assert.Contains(t, log.String(), words)
	}
	assert.Equal(t, 22, strings.Count(log.String(), "settings."))
}
