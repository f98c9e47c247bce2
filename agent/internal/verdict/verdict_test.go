package verdict_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

const release = "host-firewall"

// rendered are the policies that the chart renders of a values file, which its tests keep true.
func rendered(t *testing.T, file string) (policies []verdict.Policy) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "..", "tests", "helm", "testdata", "policies", file+".json"))
	require.NoError(t, err)
	var objects []struct {
		Metadata struct{ Name string }
		Spec     map[string]any
	}
	require.NoError(t, json.Unmarshal(content, &objects))
	for _, o := range objects {
		policies = append(policies, verdict.Policy{Name: o.Metadata.Name, Spec: o.Spec})
	}
	return policies
}

func setOf(t *testing.T, file string) verdict.Set {
	t.Helper()
	set, err := verdict.Of(release, rendered(t, file))
	require.NoError(t, err)
	return set
}

// world has a node 192.0.2.10, pods in 198.18.0.0/16, and an API server that is none of them.
func world() verdict.World {
	return verdict.World{
		Failsafe:   failsafe.Builtin(),
		Nodes:      map[netip.Addr]bool{netip.MustParseAddr("192.0.2.10"): true},
		Pods:       []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("2001:db8:a:f::/64")},
		APIServers: []netip.Addr{netip.MustParseAddr("203.0.113.99")},
	}
}

// from is a connection to a port of the node, and what is changed of it.
func from(addr, protocol string, port uint16, changes ...func(*verdict.Connection)) verdict.Connection {
	c := verdict.Connection{From: netip.MustParseAddr(addr), Protocol: protocol, Port: port}
	for _, change := range changes {
		change(&c)
	}
	return c
}

func to(addr string) func(*verdict.Connection) {
	return func(c *verdict.Connection) { c.To = netip.MustParseAddr(addr) }
}

func by(way verdict.Way) func(*verdict.Connection) {
	return func(c *verdict.Connection) { c.Way = way }
}

func behind(pod string) func(*verdict.Connection) {
	return func(c *verdict.Connection) { c.Behind = netip.MustParseAddrPort(pod) }
}

func fromPort(port uint16) func(*verdict.Connection) {
	return func(c *verdict.Connection) { c.FromPort = port }
}

func icmp(number int) func(*verdict.Connection) {
	return func(c *verdict.Connection) { c.ICMPType = number }
}

const stranger, stranger6 = "203.0.113.5", "2001:db8:3::5"

// Every rule that the chart writes says by which value it lets somebody in.
func TestVerdictNamesTheValue(t *testing.T) {
	type question struct {
		c     verdict.Connection
		allow bool
		by    string
	}
	for file, questions := range map[string][]question{
		"default": {
			{from(stranger, verdict.TCP, 9100), false, verdict.ByNothing},
			{from(stranger, verdict.TCP, 22), true, verdict.ByFailsafe},
			{from(stranger, verdict.UDP, 68), true, verdict.ByFailsafe},
			{from(stranger, verdict.UDP, 22), false, verdict.ByNothing},
			{from("192.0.2.10", verdict.UDP, 4789), true, "cluster.trustNodes"},
			{from("192.0.2.11", verdict.UDP, 4789), false, verdict.ByNothing},
			{from("198.18.3.4", verdict.TCP, 10250), true, "cluster.trustPods"},
			{from("2001:db8:a:f::4", verdict.TCP, 10250), true, "cluster.trustPods"},
			{from("203.0.113.99", verdict.TCP, 10250), true, "cluster.trustAPIServer"},
			{from("127.0.0.1", verdict.TCP, 9100, to("127.0.0.1")), true, "loopback"},
			{from("127.0.0.1", verdict.TCP, 9100), false, verdict.ByNothing},
			{from("::1", verdict.TCP, 9100, to("::1")), true, "loopback"},
			{from("169.254.20.10", verdict.UDP, 40000), true, "essential.nodeLocalDNS"},
			{from(stranger6, verdict.ICMPv6, 0, icmp(135)), true, "neighbour discovery"},
			{from(stranger6, verdict.ICMPv6, 0, icmp(128)), true, "essential.icmpEcho"},
			{from(stranger, verdict.ICMP, 0, icmp(8)), true, "essential.icmpEcho"},
			{from(stranger, verdict.ICMP, 0, icmp(13)), false, verdict.ByNothing},
			{from("fe80::1", verdict.UDP, 546), true, "essential.dhcp"},
			{from(stranger6, verdict.UDP, 546), false, verdict.ByNothing},
			// A Service that outsiders have a route to is asked about too, and so is a failsafe port of it.
			{from(stranger, verdict.TCP, 8080, by(verdict.Forwarded), to("198.18.3.4")), false, verdict.ByNothing},
			{from(stranger, verdict.TCP, 6443, by(verdict.Forwarded), to("198.18.3.4")), true, verdict.ByFailsafe},
			{from(stranger, verdict.TCP, 30080, by(verdict.ToNodePort), behind("198.18.3.4:8080")), false, verdict.ByNothing},
		},
		"ssh": {
			{from("198.51.100.7", verdict.TCP, 2250), true, "ssh.cidrs"},
			{from("198.51.100.8", verdict.TCP, 2250), false, verdict.ByNothing},
			{from("192.0.2.200", verdict.TCP, 2300), false, verdict.ByNothing},
			{from("2001:db8:a::5", verdict.TCP, 2200), true, "ssh.cidrs"},
		},
		"ingress": {
			{from(stranger, verdict.TCP, 443), true, "ingress[web]"},
			{from(stranger6, verdict.TCP, 443), true, "ingress[web]"},
			{from(stranger, verdict.UDP, 443), false, verdict.ByNothing},
			{from("192.0.2.5", verdict.TCP, 30080, by(verdict.ToNodePort), behind("198.18.3.4:8080")), true, "ingress[node-ports]"},
			{from("198.51.100.1", verdict.SCTP, 36412), true, "ingress[signalling]"},
			{from("198.51.100.1", "112", 0), true, "ingress[vrrp]"},
			{from("198.51.100.1", "113", 0), false, verdict.ByNothing},
			{from(stranger, verdict.ICMP, 0, icmp(13)), true, "ingress[path-mtu]"},
			// Whoever names a port names no destination: a pod is open on it too.
			{from(stranger, verdict.TCP, 443, by(verdict.Forwarded), to("198.18.3.4")), true, "ingress[web]"},
		},
		// SSH and the drop are asked after addresses are translated, all else before.
		"everything": {
			{from("192.0.2.5", verdict.UDP, 53), true, "ingress[dns]"},
			{from("10.1.2.3", verdict.TCP, 9100), true, "cluster.cidrs"},
			{from(stranger, verdict.TCP, 9443), false, verdict.ByNothing},
			{from(stranger, verdict.TCP, 2222), true, "ssh.cidrs"},
			{from(stranger, verdict.TCP, 443), true, "essential.apiServerPorts"},
			{from(stranger, verdict.TCP, 30080, by(verdict.ToNodePort), behind("198.18.3.4:8080")), true, "ingress[web]"},
			{from(stranger, verdict.TCP, 31000, by(verdict.ToNodePort), behind("198.18.3.4:8080")), false, verdict.ByNothing},
			{from(stranger, verdict.TCP, 31000, by(verdict.ToNodePort), behind("198.18.3.4:22")), true, "ssh.cidrs"},
			// Felix knows no failsafe for what it passes on.
			{from(stranger6, verdict.TCP, 179, by(verdict.Forwarded), to("2001:db8:a:f::4")), false, verdict.ByNothing},
			{from(stranger6, verdict.TCP, 179), true, verdict.ByFailsafe},
		},
		"host-ports-only": {
			{from(stranger, verdict.TCP, 9100), false, verdict.ByNothing},
			{from(stranger, verdict.TCP, 179), true, verdict.ByFailsafe},
			{from("192.0.2.5", verdict.TCP, 22), true, verdict.ByFailsafe},
			{from("198.18.3.4", verdict.TCP, 9100, by(verdict.FromOwnPod)), true, verdict.Ungoverned},
			{from(stranger, verdict.TCP, 30080, by(verdict.ToNodePort), behind("198.18.3.4:8080")), true, verdict.Ungoverned},
			{from(stranger, verdict.TCP, 6443, by(verdict.Forwarded), to("198.18.3.4")), true, verdict.Ungoverned},
		},
		"audit": {
			{from(stranger, verdict.TCP, 9100), true, verdict.ByAudit},
			{from("192.0.2.10", verdict.TCP, 9100), true, "cluster.trustNodes"},
		},
		"article": {
			{from("192.0.2.10", verdict.TCP, 9100), false, verdict.ByNothing},
			{from("198.18.3.4", verdict.TCP, 9100), false, verdict.ByNothing},
			{from("198.18.3.4", verdict.TCP, 9100, by(verdict.FromOwnPod)), false, verdict.ByNothing},
			{from("203.0.113.99", verdict.TCP, 9100), false, verdict.ByNothing},
			{from("192.168.3.4", verdict.TCP, 9100), true, "cluster.cidrs"},
		},
	} {
		set := setOf(t, file)
		for _, q := range questions {
			assert.Equal(t, verdict.Verdict{Allowed: q.allow, By: q.by}, set.Judge(q.c, world()), "%s: %+v", file, q.c)
		}
	}
}

// The answers of a DHCP server come from a port of its own.
func TestWhereAConnectionComesFromMayBeAPort(t *testing.T) {
	w := world()
	w.Failsafe = nil
	set := setOf(t, "default")
	assert.Equal(t, "essential.dhcp", set.Judge(from(stranger, verdict.UDP, 68, fromPort(67)), w).By)
	assert.False(t, set.Judge(from(stranger, verdict.UDP, 68), w).Allowed)
	assert.False(t, set.Judge(from(stranger6, verdict.UDP, 68, fromPort(67)), w).Allowed, "that is DHCP of IPv4")
}

// Where SSH is narrowed, Felix lets in whom the entry names, by family, and nobody else.
func TestFailsafeWithNetworksIsForThose(t *testing.T) {
	w, set := world(), setOf(t, "default")
	w.Failsafe = []v3.ProtoPort{
		{Protocol: "TCP", Port: 22, Net: "198.51.100.0/24"}, {Protocol: "tcp", Port: 22, Net: "2001:db8:2::9"}, {Protocol: "TCP", Port: 22, Net: "nobody"},
	}
	for addr, allowed := range map[string]bool{"198.51.100.7": true, stranger: false, "2001:db8:2::9": true, "2001:db8:2::8": false} {
		assert.Equal(t, allowed, set.Judge(from(addr, verdict.TCP, 22), w).Allowed, addr)
	}
}

func TestNoPoliciesGovernNothing(t *testing.T) {
	set, err := verdict.Of(release, nil)
	require.NoError(t, err)
	for _, port := range []uint16{22, 9100} {
		assert.Equal(t, verdict.Verdict{Allowed: true, By: verdict.Ungoverned}, set.Judge(from(stranger, verdict.TCP, port), world()))
	}
}

// What audit lets pass and logs, enforcing drops; what it says of everything else is the same.
func TestEnforcingDropsWhatAuditLogs(t *testing.T) {
	audit := setOf(t, "audit")
	assert.Equal(t, verdict.Verdict{By: verdict.ByNothing}, audit.Enforcing().Judge(from(stranger, verdict.TCP, 9100), world()))
	assert.Equal(t, verdict.Verdict{Allowed: true, By: "ssh.cidrs"}, audit.Enforcing().Judge(from("192.0.2.7", verdict.TCP, 22), verdict.World{}))
	assert.Equal(t, verdict.ByAudit, audit.Judge(from(stranger, verdict.TCP, 9100), world()).By, "the set itself stays as it is")
}

func TestEverythingThatTheChartRendersIsRead(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "..", "..", "tests", "helm", "testdata", "policies", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		setOf(t, strings.TrimSuffix(filepath.Base(path), ".json"))
	}
}

// A witness drops nothing that anybody else sends. It is of the release, and stands among its policies.
func TestWitnessesAreLeftOut(t *testing.T) {
	policies := rendered(t, "default")
	set := policies[0].Name[strings.LastIndex(policies[0].Name, "-"):]
	for _, name := range []string{"witness", "witness-moved"} {
		name = strings.Replace(release+"-"+name+set, "witness-moved"+set, "witness"+set+"-moved", 1)
		policies = append(policies, verdict.Policy{Name: name, Spec: map[string]any{"anything": "else"}})
	}
	_, err := verdict.Of(release, policies)
	assert.NoError(t, err)
}

// The one with the lower order is asked first, whatever it is called.
func TestPoliciesAreAskedInTheirOrder(t *testing.T) {
	policy := func(purpose, action string, order float64) verdict.Policy {
		return verdict.Policy{Name: release + "-" + purpose + "-1a2b3c4d", Spec: map[string]any{
			"order": order, "types": []any{"Ingress"}, "preDNAT": true, "applyOnForward": true, "ingress": []any{map[string]any{"action": action}},
		}}
	}
	for order, allowed := range map[float64]bool{1: true, 3: false} {
		set, err := verdict.Of(release, []verdict.Policy{policy("allow-cluster", "Allow", order), policy("drop-other", "Deny", 2)})
		require.NoError(t, err)
		assert.Equal(t, allowed, set.Judge(from(stranger, verdict.TCP, 9100), world()).Allowed)
	}
}

// Whatever is not understood could let somebody in, or not: it is said, and not guessed.
func TestWhatTheChartNeverWritesIsAnErrorThatNamesIt(t *testing.T) {
	allow := func(fields map[string]any) map[string]any {
		fields["action"] = "Allow"
		return map[string]any{"order": 1, "types": []any{"Ingress"}, "preDNAT": true, "applyOnForward": true, "ingress": []any{fields}}
	}
	for words, spec := range map[string]map[string]any{
		"ingress[0]: notProtocol is not read":          allow(map[string]any{"notProtocol": "TCP"}),
		"ingress[0]: source.notNets is not read":       allow(map[string]any{"source": map[string]any{"notNets": []any{"10.0.0.0/8"}}}),
		"ingress[0]: icmp.code is not read":            allow(map[string]any{"protocol": "ICMP", "icmp": map[string]any{"type": 3, "code": 4}}),
		"ingress[0]: http.methods is not read":         allow(map[string]any{"http": map[string]any{"methods": []any{"GET"}}}),
		"ingress[0]: destination.selector is not read": allow(map[string]any{"destination": map[string]any{"selector": "all()"}}),
		`source.selector "all()" is not read`:          allow(map[string]any{"source": map[string]any{"selector": "all()"}}),
		`&& host-firewall.io/trust == 'node'" is not read`: allow(map[string]any{"source": map[string]any{
			"selector": "host-firewall.io/release == 'host-firewall' && host-firewall.io/trust == 'node'", "namespaceSelector": "all()"}}),
		"source.services is not read":  allow(map[string]any{"source": map[string]any{"services": map[string]any{"name": "dns", "namespace": "x"}}}),
		"port http is not read":        allow(map[string]any{"protocol": "TCP", "destination": map[string]any{"ports": []any{"http"}}}),
		"unknown field \"sourceASNs\"": allow(map[string]any{"sourceASNs": []any{64512}}),
		"doNotTrack is not read":       {"order": 1, "types": []any{"Ingress"}, "doNotTrack": true},
		"tier is not read":             {"order": 1, "types": []any{"Ingress"}, "tier": "security"},
		"types is empty":               {"order": 1},
		"order is empty":               {"types": []any{"Ingress"}},
		"action Pass is not read":      {"order": 1, "types": []any{"Ingress"}, "ingress": []any{map[string]any{"action": "Pass"}}},
		"action Log is not read where": {"order": 1, "types": []any{"Ingress"}, "ingress": []any{map[string]any{"action": "Log"}}},
	} {
		_, err := verdict.Of(release, []verdict.Policy{{Name: release + "-allow-cluster-1a2b3c4d", Spec: spec}})
		if assert.ErrorContains(t, err, words) {
			assert.ErrorContains(t, err, "policy host-firewall-allow-cluster-1a2b3c4d: ")
		}
	}
	for _, name := range []string{"baseline", release + "-allow-all-1a2b3c4d", "other-" + release + "-allow-ssh-1a2b3c4d"} {
		_, err := verdict.Of(release, []verdict.Policy{{Name: name}})
		assert.ErrorContains(t, err, name)
	}
}
