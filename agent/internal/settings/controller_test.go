package settings_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

func nothing(string) (string, bool) { return "", false }

func TestControllerIsToldByFlags(t *testing.T) {
	s, err := settings.Controller().Parse([]string{
		"--release=fw", "--namespace=ns", "--set=aaaa0001", "--policies=fw-drop-aaaa0001=0123456789abcdef",
		"--trust-nodes=false", "--cluster-cidrs=192.0.2.0/24", "--api-server-ports=6443", "--accept-policies=theirs",
		"--verify=false", "--confirm=1h30m", "--own-node=n1.example",
		"--on-would-cut=wait", "--accept-cuts-ports=9100,9200:9201", "--accept-cuts-cidrs=10.4.0.0/16",
		"--narrow-failsafe", "--ssh-cidrs=203.0.113.0/24", "--ssh-ports=22,2222",
		"--agents=false", "--nodes=os=linux,type notin (virtual)", "--max-unavailable=25%",
	}, nothing)
	require.NoError(t, err)
	assert.Equal(t, "aaaa0001", s.Set)
	assert.Equal(t, map[string]string{"fw-drop-aaaa0001": "0123456789abcdef"}, s.Policies)
	assert.False(t, s.TrustNodes)
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, s.ClusterCIDRs)
	assert.Equal(t, []uint16{6443}, s.APIServerPorts)
	assert.Equal(t, []string{"theirs"}, s.AcceptPolicies)
	assert.False(t, s.Verify)
	assert.Equal(t, 90*time.Minute, s.Confirm)
	assert.Equal(t, "n1.example", s.OwnNode)
	assert.Equal(t, settings.WaitForCuts, s.OnWouldCut)
	assert.Equal(t, []uint16{9100, 9200, 9201}, s.AcceptCutsPorts)
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.4.0.0/16")}, s.AcceptCutsCIDRs)
	assert.Equal(t, []uint16{22, 2222}, s.SSHPorts)
	assert.Equal(t, []string{"*"}, s.Interfaces)
	assert.False(t, s.Agents)
	assert.Equal(t, "os=linux,type notin (virtual)", s.Nodes.String())
	assert.Equal(t, "25%", s.MaxUnavailable.String())
	assert.Equal(t, 9095, s.HealthPort, "an agent may be on the same node")
}

func TestControllerReportsEverythingBadAtOnce(t *testing.T) {
	_, err := settings.Controller().Parse([]string{"--node-name=n1", "--api-server-ports=x", "--on-would-cut=perhaps", "--nodes=a in", "--max-unavailable=0"}, nothing)
	for _, part := range []string{"node-name", "--release", "--namespace", "--set", "--policies", `"x" is no port`, `"perhaps" is not known: write report or wait`,
		`"a in" selects no labels`, `"0" is neither a number nor a part of all: write for example 1 or 25%`} {
		assert.ErrorContains(t, err, part)
	}
}

func TestControllerHelpNamesEverySetting(t *testing.T) {
	help := settings.Controller().Help("program")
	for _, part := range []string{"program controller", "--policies", "HOST_FIREWALL_TRUST_NODES", "default: 9095"} {
		assert.Contains(t, help, part)
	}
}
