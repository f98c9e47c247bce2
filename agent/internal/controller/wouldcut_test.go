package controller

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// cutting is a world whose wanted set lets in nodes, pods, API servers, and 203.0.113.0/24 to tcp/8443, and drops the rest.
func cutting(t *testing.T, nodes ...string) *world {
	w := newWorld(t, nodes...)
	w.remove("fw-allow-A")
	w.remove("fw-drop-A")
	w.Wanted.Policies = map[string]string{}
	w.rules("Deny")
	w.around = around{asked: start, answered: start, failsafe: failsafe.Builtin(),
		pools: []*v3.IPPool{{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/16"}}, {Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/8", Disabled: true}}}, apiServers: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}
	return w
}

// rules writes the wanted set anew; what nothing allows, it does last.
func (w *world) rules(last string) {
	allow := func(source string, more string) any {
		var rule map[string]any
		require.NoError(w.t, json.Unmarshal([]byte(`{"action":"Allow","source":{`+source+`}`+more+`}`), &rule))
		return rule
	}
	for purpose, rules := range map[string][]any{
		"allow-cluster": {
			allow(`"selector":"host-firewall.io/release == 'fw' && host-firewall.io/trust == 'node'","namespaceSelector":"global()"`, ""),
			allow(`"selector":"has(projectcalico.org/orchestrator)","namespaceSelector":"all()"`, ""),
			allow(`"services":{"name":"kubernetes","namespace":"default"}`, ""),
		},
		"allow-ingress": {allow(`"nets":["203.0.113.0/24"]`, `,"protocol":"TCP","destination":{"ports":[8443]},"metadata":{"annotations":{"host-firewall.io/ingress":"web"}}`)},
		"drop-other":    {map[string]any{"action": last}},
	} {
		spec := specOf("allow", "A")
		if purpose == "drop-other" {
			spec = specOf("drop", "A")
		}
		spec["types"], spec["preDNAT"], spec["applyOnForward"], spec["ingress"] = []any{"Ingress"}, true, true, rules
		w.Wanted.Policies["fw-"+purpose+"-A"] = policyset.Digest(spec)
		w.policy("fw-"+purpose+"-A", map[string]string{endpoint.ReleaseLabel: "fw", endpoint.SetLabel: "A"}, spec)
	}
}

// says has the agent of a node, which waits to be armed with set A, tell who is connected: port, address and connections.
func (w *world) says(node string, since time.Time, seen ...string) *v3.HostEndpoint {
	s := peers.Summary{Since: since, Until: w.now, Listens: []uint16{22, 80, 9100}}
	for _, text := range seen {
		var port uint16
		var from string
		var n int
		_, err := fmt.Sscanf(text, "%d %s %d", &port, &from, &n)
		require.NoError(w.t, err)
		at := slices.IndexFunc(s.Ports, func(p peers.Port) bool { return p.Port == port })
		if at < 0 {
			at, s.Ports = len(s.Ports), append(s.Ports, peers.Port{Port: port})
		}
		s.Ports[at].Addresses++
		s.Ports[at].From = append(s.Ports[at].From, peers.Peer{Addr: netip.MustParseAddr(from), Connections: n})
	}
	return w.summary(node, s)
}

func (w *world) summary(node string, s peers.Summary) *v3.HostEndpoint {
	hep := w.agent(node, "A", "")
	hep.Annotations[peers.Annotation] = s.Encode()
	return hep
}

// told are cuts as a person would write them.
func told(cuts []peers.Cut) (texts []string) {
	for _, cut := range cuts {
		texts = append(texts, fmt.Sprintf("%s: tcp/%d from %s (%d)", cut.Node, cut.Port, cut.From, cut.Connections))
	}
	return texts
}

func TestWhoWouldBeCutIsToldAndWhoIsLetInIsNot(t *testing.T) {
	w := cutting(t, "n1", "n2")
	w.Failsafe = &failsafe.Want{Ports: []uint16{22}, CIDRs: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/28")}}
	w.around.failsafe, _ = failsafe.Inbound(nil, nil, w.Failsafe)
	w.says("n1", start,
		"9100 10.4.0.9 3",        // a scraper outside
		"9100 192.0.2.2 1",       // a node
		"10250 10.0.7.7 2",       // a pod
		"10250 198.51.100.1 1",   // an API server that is no Node
		"10250 198.51.100.2 1",   // and one that nobody knows
		"22 203.0.113.5 1",       // an administrator
		"22 203.0.113.77 2",      // and one whose network was forgotten
		"6443 203.0.113.99 5",    // failsafe
		"8443 203.0.113.99 5",    // ingress
		"443 2001:db8:ffff::1 7", // by IPv6
	)
	assert.Equal(t, []string{
		"n1: tcp/443 from 2001:db8:ffff::1 (7)",
		"n1: tcp/9100 from 10.4.0.9 (3)",
		"n1: tcp/22 from 203.0.113.77 (2)",
		"n1: tcp/10250 from 198.51.100.2 (1)",
	}, told(w.look().WouldCut))
	assert.Equal(t, w.said().WouldCut, w.last.status.WouldCut)
	assert.Empty(t, w.said().Held, "it is told, and nobody waits for it")

	w.Accept = peers.Accept{Ports: []uint16{443}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.4.0.0/16")}}
	w.memory = memory{}
	assert.Equal(t, []string{"n1: tcp/22 from 203.0.113.77 (2)", "n1: tcp/10250 from 198.51.100.2 (1)"}, told(w.look().WouldCut), "without what somebody accepts")

	w.agent("n1", "A", "A")
	assert.Empty(t, w.after(tellCutsEvery).WouldCut, "who was cut would not be any more")
}

// In audit nothing is dropped; what is told is what another mode would drop.
func TestAuditTellsWhomEnforceWouldCut(t *testing.T) {
	w := cutting(t, "n1")
	w.Audit, w.Wait = true, true
	w.rules("Log")
	hep := w.says("n1", start, "9100 10.4.0.9 3")
	hep.Labels[endpoint.SetLabel] = "A"
	assert.Equal(t, []string{"n1: tcp/9100 from 10.4.0.9 (3)"}, told(w.after(time.Minute).WouldCut))
	assert.Empty(t, w.said().Held, "as nobody is cut by it")
	w.Off = true
	assert.Empty(t, w.look().WouldCut)
}

func TestNobodyIsCalledCutBeforeAllIsKnownThatLetsPeopleIn(t *testing.T) {
	w := cutting(t, "n1", "n2")
	w.around = around{asked: start}
	w.Wait = true
	w.says("n1", start, "9100 10.4.0.9 3")
	assert.Empty(t, w.look().WouldCut, "pods and API servers are not known")
	assert.Contains(t, fmt.Sprint(w.said().Held), "it is not known yet who would be cut off")
	w.around.err = errors.New("no way")
	assert.Contains(t, fmt.Sprint(w.look().Held), "who would be cut off is not known: no way")
	w.around = around{asked: w.now, answered: w.now, unknown: map[string]string{"": "nonsense"}}
	assert.Empty(t, w.look().WouldCut)
	assert.Contains(t, fmt.Sprint(w.said().Advice), "who would be cut off is not known: nonsense")
	w.after(time.Hour)
	assert.Contains(t, w.held("n1"), "who would be cut off is not known: nonsense", "and nobody is let go by that")

	w = cutting(t, "n1")
	w.says("n1", start, "9100 10.4.0.9 3")
	w.around.err = errors.New("no way")
	assert.NotContains(t, fmt.Sprint(w.look().Advice), "not known", "what was known a moment ago is believed")
	w.now = w.now.Add(stale)
	assert.Contains(t, fmt.Sprint(w.look().Advice), "who would be cut off is not known: no way", "nobody is to think that nobody would be")

	w = cutting(t, "n1", "n2")
	w.remove("fw-drop-other-A")
	w.says("n1", start, "9100 10.4.0.9 3")
	assert.Empty(t, w.look().WouldCut, "by a set of which a part is missing")
}

// Some networks of pods know neither Calico's IPAM nor podCIDRs: each pod would be called cut.
func TestNobodyIsCalledCutWherePodsAreNotToldFromOthers(t *testing.T) {
	w := cutting(t, "n1")
	w.Wait, w.around.pools = true, nil
	w.says("n1", start, "9100 10.4.0.9 3")
	assert.Empty(t, w.after(10*time.Second).WouldCut)
	assert.Contains(t, fmt.Sprint(w.said().Advice), "pods")
	assert.Empty(t, w.held("n1"), "it would wait for ever")
	node := w.nodes[0].DeepCopy()
	node.Spec.PodCIDRs = []string{"10.9.0.0/24"}
	w.nodes[0] = node
	assert.Len(t, w.after(tellCutsEvery).WouldCut, 1)
	assert.NotContains(t, fmt.Sprint(w.said().Advice), "not known")
	assert.NotEmpty(t, w.held("n1"))
}

// One node that says what it likes takes the places of no other.
func TestEachNodeHasItsShareOfTheClearance(t *testing.T) {
	w := cutting(t, "n1", "n2")
	var loud []string
	for i := range 250 {
		loud = append(loud, fmt.Sprintf("9100 10.4.0.%d 9000", i))
	}
	hear := func(until time.Time, seen []string) clearance.Clearance {
		w.now = until
		w.says("n1", start, seen...)
		return w.after(tellCutsEvery)
	}
	for i := 0; i < len(loud); i += 16 {
		hear(w.now, loud[i:min(len(loud), i+16)])
	}
	w.says("n2", start, "9100 10.4.0.9 1")
	said := w.after(tellCutsEvery)
	assert.Len(t, said.WouldCut, mostCuts, "there is room for more of a node than its share")
	assert.Equal(t, "n2: tcp/9100 from 10.4.0.9 (1)", told(said.WouldCut)[mostCuts-1])
	assert.Positive(t, said.WouldCutMore)
}

// A node joins, a network set comes: who was to be cut is let in.
func TestWhoIsTrustedLaterIsNotToldAnyMore(t *testing.T) {
	w := cutting(t, "n1")
	w.says("n1", start, "10250 192.0.2.2 3")
	require.Len(t, w.look().WouldCut, 1)
	w.node("n2", w.now, "192.0.2.2")
	assert.Empty(t, w.after(tellCutsEvery).WouldCut)
}

// Of a thousand an agent tells some each time. What was told of them stays, until the agent begins anew.
func TestWhoWasToldStaysWhileTheAgentTellsOthers(t *testing.T) {
	w := cutting(t, "n1")
	w.says("n1", start, "9100 10.4.0.9 3")
	w.after(time.Minute)
	w.says("n1", start, "9100 10.4.0.10 2")
	assert.Len(t, w.after(time.Minute).WouldCut, 2)
	wanted := w.Wanted
	w.restart("A")
	w.Wanted = wanted
	w.says("n1", start, "9100 10.4.0.11 1")
	assert.Equal(t, []string{"n1: tcp/9100 from 10.4.0.9 (3)", "n1: tcp/9100 from 10.4.0.10 (2)", "n1: tcp/9100 from 10.4.0.11 (1)"}, told(w.after(time.Minute).WouldCut), "over a restart of the controller")
	w.says("n1", w.now, "9100 10.4.0.12 1")
	assert.Equal(t, []string{"n1: tcp/9100 from 10.4.0.12 (1)"}, told(w.after(time.Minute).WouldCut))
}

func TestOfThousandsThereAreSomeInTheConfigMapWhichChangesSeldom(t *testing.T) {
	w := cutting(t, "n1")
	for i := range 300 {
		name := fmt.Sprintf("m%03d", i)
		w.node(name, start.Add(-time.Hour), fmt.Sprintf("192.0.3.%d", i%250))
		w.summary(name, peers.Summary{Since: start, Until: start, Ports: []peers.Port{{Port: 9100, Addresses: 1, From: []peers.Peer{{Addr: netip.MustParseAddr("10.4.0.9"), Connections: 1}}}},
			Sees: []peers.Sight{{Kind: peers.SeesIPVS}}})
	}
	said := w.look()
	assert.Len(t, said.WouldCut, mostCuts)
	assert.Equal(t, 100, said.WouldCutMore)
	require.Len(t, said.Advice, 1)
	assert.Equal(t, []string{"m000", "m001"}, said.Advice[0].Nodes[:2])
	assert.Equal(t, 300, len(said.Advice[0].Nodes)+said.Advice[0].More)
}

// Every change of the ConfigMap wakes all agents, and they don't need this one.
func TestNewsOfWhoWouldBeCutAreToldOnceAMinuteAndWithOtherNewsAtOnce(t *testing.T) {
	w := cutting(t, "n1")
	w.says("n1", start, "9100 10.4.0.9 3")
	w.after(5 * time.Second)
	version := w.configMap.ResourceVersion
	seen := 0
	see := func(from string, d time.Duration) clearance.Clearance {
		seen++
		text := peers.Summary{Since: start, Until: w.now, Ports: []peers.Port{{Port: 9100, From: []peers.Peer{{Addr: netip.MustParseAddr(from), Connections: 3 + seen}}}}}.Encode()
		w.endpoints[0] = w.endpoints[0].DeepCopy()
		w.endpoints[0].Annotations[peers.Annotation], w.endpoints[0].ResourceVersion = text, "1000"+fmt.Sprint(seen)
		return w.after(d)
	}
	see("10.4.0.10", 30*time.Second)
	assert.Equal(t, version, w.configMap.ResourceVersion)
	assert.Len(t, see("10.4.0.9", 40*time.Second).WouldCut, 2)
	version = w.configMap.ResourceVersion
	see("10.4.0.9", 5*time.Minute)
	assert.Equal(t, version, w.configMap.ResourceVersion, "numbers alone wait longer: they never cease to rise")
	assert.Equal(t, 7, see("10.4.0.9", 5*time.Minute).WouldCut[0].Connections)
	w.policy("strange", nil, map[string]any{"selector": "all()"})
	assert.Equal(t, 8, see("10.4.0.9", 0).WouldCut[0].Connections)
	assert.NotEmpty(t, w.held("n1"))
}

// held is why a node is held back.
func (w *world) held(node string) string { why, _ := w.said().Hold(node); return why }

func TestNodeWaitsUntilNobodyIsCutThatIsNotAccepted(t *testing.T) {
	w := cutting(t, "n1", "n2")
	w.Wait, w.SSHPorts, w.around.failsafe = true, []uint16{22}, nil
	w.look()
	assert.Empty(t, w.held("n1"), "it gets an endpoint, on which its agent tells who is connected")
	w.agent("n1", "A", "")
	w.after(5 * time.Second)
	assert.Contains(t, w.held("n1"), "its agent has not said yet who is connected")
	assert.Empty(t, w.held("n2"))

	begin := w.now
	w.says("n1", begin, "9100 10.4.0.9 3", "9100 10.4.0.10 1", "22 203.0.113.77 1")
	w.says("n2", begin)
	w.after(5 * time.Second)
	why := `rollout.onWouldCut is wait, and set A would cut off who was connected to tcp/22, tcp/9100. ` +
		`Let them in by ssh.cidrs, ingress or cluster.cidrs, or accept it by rollout.acceptCuts`
	assert.Equal(t, why, w.held("n1"))
	assert.Equal(t, "rollout.onWouldCut is wait, and its agent looks for a minute first who is connected", w.held("n2"))
	assert.NotEmpty(t, w.said().MayArm("n1", "A", ""))

	w.after(time.Minute)
	w.says("n2", begin)
	w.look()
	assert.Empty(t, w.held("n2"), "it has looked for a minute")
	w.says("n1", begin, "22 203.0.113.78 7", "9100 10.4.0.11 9")
	w.look()
	assert.Equal(t, why, w.held("n1"), "the same while people come and go, and on other nodes")
	w.says("n1", w.now, "22 203.0.113.77 1")
	w.look()
	assert.Contains(t, w.held("n1"), "who was connected to tcp/22. Let")
	w.Accept.Ports = []uint16{22}
	w.memory.watched["n1"].judged = false
	w.after(5 * time.Second)
	assert.Contains(t, w.held("n1"), "for a minute", "its agent has begun anew")
	w.after(lookMost)
	assert.Empty(t, w.held("n1"), "nobody waits for ever for what an agent may say")
	w.summary("n1", peers.Summary{Since: w.now, Until: w.now, Sees: []peers.Sight{{Kind: peers.SeesNothing, What: "EPERM"}}})
	w.after(time.Hour)
	assert.Contains(t, w.held("n1"), "cannot see who is connected")
	w.tries("n1", trial.Status{Phase: trial.RolledBack, Set: "A", Since: w.now})
	w.look()
	assert.NotContains(t, w.held("n1"), "rollout.onWouldCut", "what it has tried says more")
}

func TestOneEventForEachNodeAndPort(t *testing.T) {
	w := cutting(t, "n1")
	count := func() (messages []string) {
		for _, n := range w.last.notices {
			if n.kind == eventWouldCut {
				messages = append(messages, n.node+": "+n.message)
			}
		}
		slices.Sort(messages)
		return messages
	}
	w.says("n1", start, "9100 10.4.0.9 3", "22 203.0.113.77 1", "9100 10.4.0.10 1", "80 10.4.0.10 1")
	w.around.failsafe = nil
	w.look()
	want := []string{
		"n1: set A would cut tcp/22 from 203.0.113.77 (1 connection)",
		"n1: set A would cut tcp/80 from 10.4.0.10 (1 connection)",
		"n1: set A would cut tcp/9100 from 10.4.0.9, 10.4.0.10 (4 connections)",
	}
	assert.Equal(t, want, count())
	w.after(time.Minute)
	w.says("n1", start, "9100 10.4.0.11 30")
	w.look()
	assert.Equal(t, want, count(), "in other words it would be another Event")
}

// There are as many of these as nodes, and few Events a second.
func TestEventsOfWhoWouldBeCutComeLastAndOfFewNodes(t *testing.T) {
	w := cutting(t)
	for i := range 30 {
		name := fmt.Sprintf("m%02d", i)
		w.node(name, start.Add(-time.Hour), fmt.Sprintf("192.0.3.%d", i))
		w.says(name, start, "9100 10.4.0.9 1")
	}
	w.agent("m29", "A", "A")
	w.look()
	w.policy("fw-drop-other-A", map[string]string{endpoint.ReleaseLabel: "fw", endpoint.SetLabel: "A"}, specOf("drop", "B"))
	w.look()
	kinds := map[string]int{}
	for i, n := range w.last.notices {
		kinds[n.kind]++
		assert.Equal(t, i >= len(w.last.notices)-mostNoticed, n.kind == eventWouldCut, n.message)
	}
	assert.Equal(t, mostNoticed, kinds[eventWouldCut])
	assert.Greater(t, len(kinds), 1)
}

// An armed node's agent looks no more, and what it saw before may have been mended.
func TestAdviceGoesWithWhatTheAgentSays(t *testing.T) {
	w := cutting(t, "n1")
	w.summary("n1", peers.Summary{Since: start, Until: start, Sees: []peers.Sight{{Kind: peers.SeesIPVS}}})
	require.Len(t, w.look().Advice, 1)
	w.memory = memory{}
	require.Len(t, w.after(2*time.Minute).Advice, 1, "over a restart of the controller")
	w.agent("n1", "A", "A")
	assert.Empty(t, w.after(2*time.Minute).Advice)
}

// Without an end one scanner would hold a node for ever.
func TestWhoIsNotToldAgainIsForgotten(t *testing.T) {
	w := cutting(t, "n1")
	later := func(d time.Duration, seen ...string) []string {
		w.after(d)
		w.says("n1", start, seen...)
		return told(w.after(tellCutsEvery).WouldCut)
	}
	later(0, "9100 10.4.0.9 3", "80 10.4.0.9 1", "8080 10.4.0.9 1")
	both := []string{"n1: tcp/9100 from 10.4.0.9 (3)", "n1: tcp/80 from 10.4.0.9 (1)"}
	assert.Equal(t, both, later(0, "9100 10.4.0.9 3"), "but who was connected where nobody listens any more")
	assert.Equal(t, both, later(20*time.Minute, "9100 10.4.0.9 3"))
	assert.Equal(t, both[:1], later(20*time.Minute, "9100 10.4.0.9 3"))
	assert.Empty(t, later(time.Hour))

	crowd := peers.Summary{Since: start, Until: start, Listens: []uint16{9100}, Ports: []peers.Port{{Port: 9100, Addresses: 100, From: []peers.Peer{{Addr: netip.MustParseAddr("10.4.0.9"), Connections: 1}}}}}
	hear := func(from string) []string {
		crowd.Ports[0].From[0].Addr, crowd.Until = netip.MustParseAddr(from), w.now
		w.summary("n1", crowd)
		return told(w.after(tellCutsEvery).WouldCut)
	}
	hear("10.4.0.9")
	w.now = w.now.Add(10 * time.Hour)
	assert.Len(t, hear("10.4.0.10"), 2, "of many it takes an agent longer to tell somebody again")
	w.now = w.now.Add(24 * time.Hour)
	assert.Len(t, hear("10.4.0.11"), 1)
}

func TestNodeWaitsUntilItsAgentHasToldOfAll(t *testing.T) {
	w := cutting(t, "n1")
	w.Wait = true
	w.agent("n1", "A", "")
	s := peers.Summary{Since: w.now, Listens: []uint16{443}, Ports: []peers.Port{{Port: 443, Addresses: 2}}}
	hear := func(from ...string) string {
		s.Until, s.Ports[0].From = w.now, nil
		for _, text := range from {
			s.Ports[0].From = append(s.Ports[0].From, peers.Peer{Addr: netip.MustParseAddr(text), Connections: 1})
		}
		w.summary("n1", s)
		w.look()
		return w.held("n1")
	}
	hear("10.0.7.7")
	w.after(3 * time.Minute)
	assert.Contains(t, hear("10.0.7.7"), "its agent has not told of all yet")
	assert.Empty(t, hear("10.0.7.8"))
	s.More = 1
	assert.Contains(t, hear("10.0.7.8"), "its agent has not told of all yet", "there are other ports")
	w.after(hearMost)
	assert.Empty(t, w.held("n1"), "there may be always others")
	w.around.err = errors.New("no way")
	w.look()
	assert.Contains(t, w.held("n1"), "who would be cut off is not known: no way", "what was known is too old to be let go by")
}

func TestWhoWouldBeCutIsNobodyWhenTheNodeHasTheSet(t *testing.T) {
	w := cutting(t, "n1")
	told := w.says("n1", w.now, "9100 10.4.0.9 3").Annotations[peers.Annotation]
	require.Len(t, w.after(2*tellCutsEvery).WouldCut, 1)
	w.agent("n1", "A", "A").Annotations[peers.Annotation] = told
	assert.Empty(t, w.after(2*tellCutsEvery).WouldCut, "an agent that goes on looking says the same")
}

func TestWhatIsAroundNodesIsAskedOnlyWhileSomebodyIsJudged(t *testing.T) {
	f := newFake(t, "n1")
	f.pools = []*v3.IPPool{{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/16"}}}
	own := &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "node.n1"}}
	require.NoError(t, json.Unmarshal([]byte(`{"failsafeInboundHostPorts":[{"protocol":"TCP","port":9100}]}`), &own.Spec))
	f.felix = map[string]*failsafe.Configuration{"node.n1": own, "node.n2": {ObjectMeta: metav1.ObjectMeta{Name: "node.n2"}, Spec: map[string]any{}}}
	var log bytes.Buffer
	k := New(f.Config, f, slog.New(slog.NewTextHandler(&log, nil)))
	asks, _ := k.memory.looksAround(f.facts)
	assert.False(t, asks, "nobody says anything")
	k.memory.watched = map[string]*watched{"n1": {says: true}}
	asks, _ = k.memory.looksAround(facts{now: start})
	assert.True(t, asks)
	a := k.lookAround(t.Context(), facts{now: start})
	assert.Equal(t, f.pools, a.pools)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, a.apiServers)
	assert.Equal(t, failsafe.Builtin(), a.failsafe)
	assert.Equal(t, map[string][]v3.ProtoPort{"n1": {{Protocol: "TCP", Port: 9100}}}, a.failsafes, "only what differs from that of all")
	asks, next := k.memory.looksAround(facts{now: start, around: a})
	assert.False(t, asks)
	assert.Equal(t, start.Add(time.Minute), next)

	f.refuse["list ippools"] = errors.New("forbidden")
	again := k.lookAround(t.Context(), facts{now: start.Add(time.Minute), around: a})
	assert.ErrorContains(t, again.err, "forbidden")
	k.lookAround(t.Context(), facts{now: start.Add(2 * time.Minute), around: again})
	assert.Equal(t, 1, strings.Count(log.String(), "cannot find out who would be cut off"), "it is logged once")
	assert.Equal(t, a.pools, again.pools, "what was known before is believed")
}

func TestSummaryThatCannotBeReadIsReadOnce(t *testing.T) {
	w := &watched{text: peers.Summary{Since: start}.Encode(), says: true}
	w.hear("nonsense", start, true)
	assert.False(t, w.says)
	before := *w
	w.heard[peer{port: 22}] = start
	w.hear("nonsense", start.Add(time.Minute), true)
	assert.Equal(t, before, *w, "nothing is made anew")
}
