package peers_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

// dropping is a set that lets nobody in.
func dropping(t *testing.T) verdict.Set {
	t.Helper()
	set, err := verdict.Of("fw", []verdict.Policy{{Name: "fw-drop-other-r1", Spec: map[string]any{
		"selector": "host-firewall.io/release == 'fw' && host-firewall.io/set contains 'r1'", "order": 20.0, "types": []any{"Ingress"}, "preDNAT": true, "applyOnForward": true,
		"ingress": []any{map[string]any{"action": "Deny"}},
	}}})
	require.NoError(t, err)
	return set
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestCutsAreThoseThatTheSetDropsAndNobodyAccepts(t *testing.T) {
	s := peers.Summary{Ports: []peers.Port{
		{Port: 22, From: []peers.Peer{{Addr: addr("::ffff:10.0.0.1"), Connections: 1}, {Addr: addr("fe80::1%eth0"), Connections: 2}}},
		{Port: 80, From: []peers.Peer{{Addr: addr("10.0.0.1"), Connections: 9}}},
		{Port: 443, From: []peers.Peer{{Addr: addr("10.4.0.1"), Connections: 9}, {Addr: addr("10.0.0.2"), Connections: 3}}},
	}}
	world := verdict.World{}
	cuts := peers.Cuts("n1", s, dropping(t), world, peers.Accept{Ports: []uint16{80}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.4.0.0/16")}})
	assert.Equal(t, []peers.Cut{
		{Node: "n1", Port: 443, From: addr("10.0.0.2"), Connections: 3},
		{Node: "n1", Port: 22, From: addr("fe80::1"), Connections: 2},
		{Node: "n1", Port: 22, From: addr("10.0.0.1"), Connections: 1},
	}, cuts, "an address is written in one way, and belongs to networks of that")
	assert.Empty(t, peers.Cuts("n1", peers.Summary{}, dropping(t), world, peers.Accept{}))
}

func TestSummaryKeepsWhomItDoesNotTellAnyMore(t *testing.T) {
	s := peers.Summary{Ports: []peers.Port{{Port: 22, From: []peers.Peer{{Addr: addr("10.0.0.1"), Connections: 5}}}}}
	with := s.With(peers.Cut{Port: 22, From: addr("10.0.0.1"), Connections: 1}).With(peers.Cut{Port: 22, From: addr("10.0.0.2"), Connections: 2}).With(peers.Cut{Port: 80, From: addr("10.0.0.3"), Connections: 3})
	assert.Equal(t, []peers.Peer{{Addr: addr("10.0.0.1"), Connections: 5}, {Addr: addr("10.0.0.2"), Connections: 2}}, with.Ports[0].From, "what it tells now counts")
	assert.Equal(t, uint16(80), with.Ports[1].Port)
	assert.Len(t, s.Ports, 1, "the one before is as it was")
	assert.Len(t, s.Ports[0].From, 1)
}

// few are findings of a small cluster, and many those of a large one.
func few() peers.Findings {
	return peers.Findings{WouldCut: []peers.Cut{
		{Node: "worker-2", Port: 9100, From: addr("10.4.0.9"), Connections: 3},
		{Node: "worker-1", Port: 9100, From: addr("10.4.0.9"), Connections: 2},
		{Node: "worker-1", Port: 22, From: addr("2001:db8:ffff:1234:5678:9abc:def0:77"), Connections: 1},
	}, Advice: []peers.Advice{{Text: "an SSH server listens on tcp/2222, and none on ssh.ports. Write ssh.ports: [2222]", Nodes: []string{"worker-1", "worker-2"}}}}
}

func many() (f peers.Findings) {
	for i := range 200 {
		f.WouldCut = append(f.WouldCut, peers.Cut{Node: fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/100, i%100), Port: uint16(9100 + i%30), From: addr(fmt.Sprintf("10.4.0.%d", i%7)), Connections: 200 - i})
	}
	f.WouldCutMore = 8800
	f.Advice = []peers.Advice{{Text: "tcp/2379, 2380: open to everybody, as failsafe of Calico's", Nodes: []string{"cp-1", "cp-2", "cp-3"}, More: 2997}}
	return f
}

func TestPeopleReadASummaryFirstAndFewLinesOfEightyColumns(t *testing.T) {
	assert.Empty(t, peers.Findings{}.Text("r1", 80, 20))
	assert.Equal(t, `Would be cut by set r1: 6 connections from 2 addresses on 2 nodes:
  - tcp/9100 from 10.4.0.9 (5 connections, worker-1, worker-2)
  - tcp/22 from 2001:db8:ffff:1234:5678:9abc:def0:77 (1 connection, worker-1)
What agents see, and what to write:
  - worker-1, worker-2: an SSH server listens on tcp/2222, and none on
    ssh.ports. Write ssh.ports: [2222].
`, few().Text("r1", 80, 20))

	three := peers.Findings{Advice: []peers.Advice{{Text: "x", Nodes: []string{"n1", "n2", "n3"}}}}
	assert.Contains(t, three.Text("r1", 80, 20), "  - n1, n2, n3: x.\n", "one name is not hidden")

	text := many().Text("r1", 80, 20)
	assert.Regexp(t, `^Would be cut by set r1: 20100 connections from 7 addresses on 200 nodes, and\n    8800 more:\n`, text)
	assert.Regexp(t, `(?m)^  - and \d+ more$`, text)
	assert.Contains(t, text, "  - cp-1, cp-2 and 2998 more: tcp/2379, 2380: open")
	assert.Less(t, strings.Count(text, "\n"), 70)
	for line := range strings.Lines(text) {
		if strings.Contains(strings.TrimSpace(line), " ") {
			assert.LessOrEqual(t, len(line), 81, line)
		}
	}
}

// A thousand clients of one port are one line.
func TestPeersOfWhomTheSameIsSoAreOneLine(t *testing.T) {
	var f peers.Findings
	for i := range 100 {
		for _, node := range []string{"n1", "n2"} {
			f.WouldCut = append(f.WouldCut, peers.Cut{Node: node, Port: 443, From: addr(fmt.Sprintf("10.4.0.%d", i)), Connections: 1})
		}
	}
	assert.Contains(t, f.Text("r1", 80, 20), "\n  - tcp/443 from 10.4.0.0, 10.4.0.1, 10.4.0.2 and 97 more (200 connections, n1,\n    n2)\n")
}

func TestProgramsReadTheSame(t *testing.T) {
	text, err := json.Marshal(few())
	require.NoError(t, err)
	assert.Contains(t, string(text), `{"wouldCut":[{"node":"worker-2","port":9100,"from":"10.4.0.9","connections":3},`)
}

func TestOfMoreThanCanBeNamedOthersAreNoNews(t *testing.T) {
	a, b := few(), few()
	b.WouldCut = b.WouldCut[:1]
	assert.False(t, a.Alike(b))
	a.WouldCutMore, b.WouldCutMore = 7, 8
	assert.True(t, a.Alike(b))
	b.Advice = nil
	assert.False(t, a.Alike(b))
}
