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
	return append([]string{"--node-name=n1", "--release=fw", "--policies=fw-ssh,fw-drop", "--policy-revision=abc"}, more...)
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
	s, err := settings.Parse(required(), environment())
	require.NoError(t, err)
	assert.Equal(t, "n1", s.NodeName)
	assert.Equal(t, "fw", s.Release)
	assert.Equal(t, []string{"fw-ssh", "fw-drop"}, s.Policies)
	assert.Equal(t, "abc", s.PolicyRevision)
	assert.Empty(t, s.APIGroup)
	assert.Equal(t, map[string]string{"host-endpoint": "ingress"}, s.ArmingLabels)
	assert.True(t, s.AwaitNodes)
	assert.Empty(t, s.ClusterCIDRs)
	assert.Empty(t, s.APIServerPorts)
	assert.Equal(t, 9097, s.HealthPort)
	assert.Equal(t, 10*time.Minute, s.Resync)
	assert.Equal(t, slog.LevelInfo, s.LogLevel)
	assert.Equal(t, "text", s.LogFormat)
	assert.Empty(t, s.Kubeconfig)
	assert.Equal(t, settings.ModeEnforce, s.Mode)
	assert.Equal(t, []string{"*"}, s.Interfaces)
	assert.Empty(t, s.NodeLabels)
	assert.False(t, s.Adopt)
	assert.Empty(t, s.AcceptPolicies)
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
		{"policies", "HOST_FIREWALL_POLICIES", " a , b,", func(s settings.Settings) any { return s.Policies }, []string{"a", "b"}},
		{"policy-revision", "HOST_FIREWALL_POLICY_REVISION", "0123456789abcdef", func(s settings.Settings) any { return s.PolicyRevision }, "0123456789abcdef"},
		{"api-group", "HOST_FIREWALL_API_GROUP", "crd.projectcalico.org/v1", func(s settings.Settings) any { return s.APIGroup }, "crd.projectcalico.org/v1"},
		{"arming-labels", "HOST_FIREWALL_ARMING_LABELS", "a=1,example.org/b=", func(s settings.Settings) any { return s.ArmingLabels }, map[string]string{"a": "1", "example.org/b": ""}},
		{"await-nodes", "HOST_FIREWALL_AWAIT_NODES", "false", func(s settings.Settings) any { return s.AwaitNodes }, false},
		{"cluster-cidrs", "HOST_FIREWALL_CLUSTER_CIDRS", "192.0.2.7/24,2001:db8::/32", func(s settings.Settings) any { return s.ClusterCIDRs },
			[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}},
		{"api-server-ports", "HOST_FIREWALL_API_SERVER_PORTS", "6443,443", func(s settings.Settings) any { return s.APIServerPorts }, []uint16{6443, 443}},
		{"health-port", "HOST_FIREWALL_HEALTH_PORT", "65535", func(s settings.Settings) any { return s.HealthPort }, 65535},
		{"resync", "HOST_FIREWALL_RESYNC", "1h30m", func(s settings.Settings) any { return s.Resync }, 90 * time.Minute},
		{"log-level", "HOST_FIREWALL_LOG_LEVEL", "debug", func(s settings.Settings) any { return s.LogLevel }, slog.LevelDebug},
		{"log-format", "HOST_FIREWALL_LOG_FORMAT", "json", func(s settings.Settings) any { return s.LogFormat }, "json"},
		{"mode", "HOST_FIREWALL_MODE", "audit", func(s settings.Settings) any { return s.Mode }, settings.ModeAudit},
		{"interfaces", "HOST_FIREWALL_INTERFACES", "*,eth*,bond?,en[po]1", func(s settings.Settings) any { return s.Interfaces }, []string{"*", "eth*", "bond?", "en[po]1"}},
		{"node-labels", "HOST_FIREWALL_NODE_LABELS", "zone,topology.kubernetes.io/*,node-*,*", func(s settings.Settings) any { return s.NodeLabels },
			[]string{"zone", "topology.kubernetes.io/*", "node-*", "*"}},
		{"adopt", "HOST_FIREWALL_ADOPT", "true", func(s settings.Settings) any { return s.Adopt }, true},
		{"accept-policies", "HOST_FIREWALL_ACCEPT_POLICIES", "*,default.deny", func(s settings.Settings) any { return s.AcceptPolicies }, []string{"*", "default.deny"}},
		{"ssh-cidrs", "HOST_FIREWALL_SSH_CIDRS", "203.0.113.0/24", func(s settings.Settings) any { return s.SSHCIDRs }, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}},
		{"ssh-ports", "HOST_FIREWALL_SSH_PORTS", "22,2222", func(s settings.Settings) any { return s.SSHPorts }, []uint16{22, 2222}},
		{"narrow-failsafe", "HOST_FIREWALL_NARROW_FAILSAFE", "true", func(s settings.Settings) any { return s.NarrowFailsafe }, true},
		{"metrics-address", "HOST_FIREWALL_METRICS_ADDRESS", "[::1]:9096", func(s settings.Settings) any { return s.MetricsAddress }, "[::1]:9096"},
		{"kubeconfig", "HOST_FIREWALL_KUBECONFIG", "/etc/kubeconfig", func(s settings.Settings) any { return s.Kubeconfig }, "/etc/kubeconfig"},
	} {
		t.Run(test.flag, func(t *testing.T) {
			s, err := settings.Parse(required("--"+test.flag+"="+test.text), environment(test.variable, "of the environment"))
			require.NoError(t, err, "the flag wins")
			assert.Equal(t, test.want, test.got(s))

			var others []string
			for _, arg := range required() {
				if !strings.HasPrefix(arg, "--"+test.flag+"=") {
					others = append(others, arg)
				}
			}
			s, err = settings.Parse(others, environment(test.variable, test.text))
			require.NoError(t, err)
			assert.Equal(t, test.want, test.got(s))
		})
	}
}

func TestEmptyVariableIsNoSetting(t *testing.T) {
	s, err := settings.Parse(required(), environment("HOST_FIREWALL_ARMING_LABELS", "", "HOST_FIREWALL_HEALTH_PORT", ""))
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"host-endpoint": "ingress"}, s.ArmingLabels)
	assert.Equal(t, 9097, s.HealthPort)
}

func TestFlagOfABoolStandsAlone(t *testing.T) {
	s, err := settings.Parse(required("--await-nodes"), environment("HOST_FIREWALL_AWAIT_NODES", "false"))
	require.NoError(t, err)
	assert.True(t, s.AwaitNodes)
}

func TestWrongSettingIsRefusedNamingFlagVariableAndRemedy(t *testing.T) {
	long := strings.Repeat("a", 64)
	for name, test := range map[string]struct {
		arg  string
		want []string
	}{
		"no node":                  {"--node-name=", []string{"--node-name", "HOST_FIREWALL_NODE_NAME", "is required", "name of a Node"}},
		"node in capitals":         {"--node-name=N1", []string{"--node-name", `"N1"`, "lower case"}},
		"no release":               {"--release=", []string{"--release", "HOST_FIREWALL_RELEASE", "is required"}},
		"release too long":         {"--release=" + long, []string{"--release", "63"}},
		"no policies":              {"--policies=,", []string{"--policies", "HOST_FIREWALL_POLICIES", "write the names"}},
		"policy with a dot":        {"--policies=a,b.c", []string{"--policies", `"b.c"`}},
		"policy twice":             {"--policies=a,b,a", []string{"--policies", `"a"`, "twice"}},
		"no revision":              {"--policy-revision=", []string{"--policy-revision", "HOST_FIREWALL_POLICY_REVISION", "is required"}},
		"revision with a space":    {"--policy-revision=a b", []string{"--policy-revision", "space"}},
		"unknown group":            {"--api-group=calico/v3", []string{"--api-group", "HOST_FIREWALL_API_GROUP", "projectcalico.org/v3 or crd.projectcalico.org/v1"}},
		"no arming label":          {"--arming-labels=", []string{"--arming-labels", "HOST_FIREWALL_ARMING_LABELS", "armed from the start", "host-endpoint=ingress"}},
		"arming label, no value":   {"--arming-labels=a", []string{"--arming-labels", "key=value"}},
		"arming label, bad key":    {"--arming-labels=a b=c", []string{"--arming-labels", `"a b"`}},
		"arming label, bad value":  {"--arming-labels=a=b c", []string{"--arming-labels", `"b c"`}},
		"arming label twice":       {"--arming-labels=a=b,a=c", []string{"--arming-labels", "twice"}},
		"arming label of our own":  {"--arming-labels=host-firewall.io/release=fw", []string{"--arming-labels", "host-firewall.io/"}},
		"neither true nor false":   {"--await-nodes=maybe", []string{"--await-nodes", "HOST_FIREWALL_AWAIT_NODES", "true nor false"}},
		"address without length":   {"--cluster-cidrs=192.0.2.0", []string{"--cluster-cidrs", "HOST_FIREWALL_CLUSTER_CIDRS", "192.0.2.0/24"}},
		"port 0":                   {"--health-port=0", []string{"--health-port", "HOST_FIREWALL_HEALTH_PORT", "1 to 65535"}},
		"port too high":            {"--health-port=65536", []string{"--health-port", "1 to 65535"}},
		"port by name":             {"--health-port=http", []string{"--health-port", `"http"`}},
		"resync without a unit":    {"--resync=10", []string{"--resync", "HOST_FIREWALL_RESYNC", "10m"}},
		"resync as a hot loop":     {"--resync=0s", []string{"--resync", "at least a second"}},
		"unknown level":            {"--log-level=loud", []string{"--log-level", "HOST_FIREWALL_LOG_LEVEL", "debug or info or warn or error"}},
		"unknown format":           {"--log-format=xml", []string{"--log-format", "HOST_FIREWALL_LOG_FORMAT", "text or json"}},
		"unknown mode":             {"--mode=dry-run", []string{"--mode", "HOST_FIREWALL_MODE", "enforce or audit or off"}},
		"no interface":             {"--interfaces=", []string{"--interfaces", "nothing would be protected"}},
		"bad glob":                 {"--interfaces=eth[", []string{"--interfaces", `"eth["`, "eth*"}},
		"bad key of a node label":  {"--node-labels=a b", []string{"--node-labels", `"a b"`}},
		"bad accepted policy":      {"--accept-policies=A", []string{"--accept-policies", `"A"`}},
		"bad SSH network":          {"--ssh-cidrs=office", []string{"--ssh-cidrs", "192.0.2.0/24"}},
		"bad SSH port":             {"--ssh-ports=ssh", []string{"--ssh-ports", "1 to 65535"}},
		"no SSH port":              {"--ssh-ports=,", []string{"--ssh-ports", "write for example 22"}},
		"metrics without a port":   {"--metrics-address=127.0.0.1", []string{"--metrics-address", "127.0.0.1:9096"}},
		"metrics at a name":        {"--metrics-address=localhost:9096", []string{"--metrics-address", "127.0.0.1:9096"}},
		"unknown flag":             {"--log-levle=info", []string{"-log-levle", "--help"}},
		"argument that is no flag": {"run", []string{`"run"`, "--name=value"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := settings.Parse(required(test.arg), environment())
			require.Error(t, err)
			assert.Len(t, strings.Split(err.Error(), "\n"), 1, "one problem, one line")
			for _, words := range test.want {
				assert.ErrorContains(t, err, words)
			}
		})
	}
}

func TestAllProblemsAreReportedAtOnce(t *testing.T) {
	_, err := settings.Parse(
		[]string{"--resync=soon", "--nonsense", "--await-nodes", "false", "--log-format=xml"},
		environment("HOST_FIREWALL_HEALTH_PORT", "none", "HOST_FIREWALL_LOG_FORMAT", "text"),
	)
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	for _, start := range []string{
		"flag provided but not defined: -nonsense",
		`argument "false"`,
		"--node-name (HOST_FIREWALL_NODE_NAME)",
		"--release (HOST_FIREWALL_RELEASE)",
		"--policies (HOST_FIREWALL_POLICIES)",
		"--policy-revision (HOST_FIREWALL_POLICY_REVISION)",
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
	_, err := settings.Parse(required("--cluster-cidrs=a,192.0.2.0/24,b", "--accept-policies=A,p,p,B", "--arming-labels=x,a=b c", "--ssh-ports=0,22,x", "--api-server-ports=0,x"), environment())
	require.Error(t, err)
	for flag, items := range map[string][]string{
		"cluster-cidrs": {`"a"`, `"b"`}, "accept-policies": {`"A"`, `"p" is there twice`, `"B"`}, "arming-labels": {`"x"`, `"b c"`}, "ssh-ports": {`"0"`, `"x"`}, "api-server-ports": {`"0"`, `"x"`},
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
	assert.Len(t, strings.Split(err.Error(), "\n"), 11)
}

func TestHelpShowsEverySettingWithItsVariableAndDefault(t *testing.T) {
	for _, arg := range []string{"--help", "-h", "-help"} {
		_, err := settings.Parse([]string{"--resync=soon", arg}, environment())
		assert.True(t, errors.Is(err, flag.ErrHelp), arg)
	}
	help := settings.Help("agent")
	for _, words := range []string{
		"agent version",
		"--node-name         HOST_FIREWALL_NODE_NAME         required\n",
		"--arming-labels     HOST_FIREWALL_ARMING_LABELS     default: host-endpoint=ingress\n",
		"--kubeconfig        HOST_FIREWALL_KUBECONFIG        default: empty\n",
	} {
		assert.Contains(t, help, words)
	}
	for line := range strings.Lines(help) {
		assert.LessOrEqual(t, len(line), 121, "too wide for a terminal: %s", line)
	}
}

func TestLogShowsEverySettingAsItWasTold(t *testing.T) {
	s, err := settings.Parse(required("--resync=90s"), environment("HOST_FIREWALL_LOG_LEVEL", "warn"))
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("starting", "settings", s)
	for _, words := range []string{
		"settings.node-name=n1", "settings.policies=fw-ssh,fw-drop", "settings.resync=90s", "settings.log-level=warn",
		"settings.await-nodes=true", `settings.arming-labels="host-endpoint=ingress"`, `settings.kubeconfig=""`,
	} {
		assert.Contains(t, log.String(), words)
	}
	assert.Equal(t, 23, strings.Count(log.String(), "settings."))
}
