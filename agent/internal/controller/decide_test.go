package controller

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// mayArm is what agents make of what is said, for endpoints that were there at the start.
func mayArm(said clearance.Clearance, node, set string) bool {
	return said.MayArm(node, set, "1") == ""
}

// armAll lets every agent do what it may, with its own set.
func (w *world) armAll(set string, nodes ...string) {
	for _, name := range nodes {
		if mayArm(w.said(), name, set) {
			w.agent(name, set, set)
		}
	}
}

// roll brings all nodes to a set, the way it goes when all is well.
func (w *world) roll(set string, nodes ...string) {
	w.t.Helper()
	for _, name := range nodes {
		armed := ""
		for _, hep := range w.endpoints {
			if hep.Name == name {
				armed = endpoint.SetOf(hep)
			}
		}
		w.agent(name, set, armed)
	}
	for range 3 {
		w.after(4 * time.Second)
		w.armAll(set, nodes...)
	}
	for _, hep := range w.endpoints {
		require.Equal(w.t, set, endpoint.SetOf(hep), "%+v", w.last.status)
	}
}

func TestNodeWhoseAgentWroteLastGoesFirstAndAllFollowWhenItIsWell(t *testing.T) {
	w := newWorld(t, "n2", "n1", "n3")
	said := w.after(time.Second)
	assert.Equal(t, clearance.NoCanary, said.Reason)
	assert.True(t, w.last.status.Ready, "for agents to come nobody has to do anything")
	for _, name := range []string{"n3", "n2", "n1"} {
		w.agent(name, "A", "")
	}
	said = w.after(time.Second)
	assert.True(t, mayArm(said, "n1", "A"))
	assert.False(t, mayArm(said, "n2", "A"))
	assert.Equal(t, Canary, w.last.status.State)
	w.agent("n1", "A", "A")
	said = w.after(wellFor - time.Millisecond)
	assert.Equal(t, "n1", said.Canary, "not yet well for long enough")
	said = w.after(time.Millisecond)
	assert.True(t, mayArm(said, "n2", "A"))
	assert.True(t, mayArm(said, "n3", "A"))
	assert.Equal(t, Status{
		State: Cleared, Ready: true, Reason: "nodes may be armed with set A", TrustSets: 3, Sets: 1,
		Nodes: map[string]int{"Waiting": 3}, Proven: map[string]int{NotNoted: 1},
	}, w.last.status)
}

func TestNodesAreCountedByWhatTheirAgentsHaveNoted(t *testing.T) {
	w := newWorld(t, "n1", "n2", "n3", "n4")
	for name, note := range map[string]endpoint.Note{
		"n1": {State: "Armed", Enforced: "IPv4, and IPv6 is not protected"},
		"n2": {State: "Armed", Enforced: "unproven: eBPF is on"},
		"n3": {State: "Conflict", Enforced: "IPv4"},
	} {
		armed := map[string]string{"Armed": "A"}[note.State]
		endpoint.SetNote(w.agent(name, "A", armed), nil, note)
	}
	w.after(time.Second)
	assert.Equal(t, map[string]int{"Armed": 2, "Conflict": 1, NotNoted: 1}, w.last.status.Nodes)
	assert.Equal(t, map[string]int{"IPv4": 1, "unproven": 1}, w.last.status.Proven, "nothing is enforced on a node that is not armed")
}

func TestSickFirstNodeHoldsUpNobodyForLong(t *testing.T) {
	for name, sick := range map[string]struct {
		so     func(w *world)
		within time.Duration
	}{
		"its agent does nothing":      {func(*world) {}, canaryTakes},
		"it is held back":             {func(w *world) { w.foreignEndpoint("n1") }, 0},
		"its Node is not Ready":       {func(w *world) { w.setReady("n1", corev1.ConditionUnknown) }, 0},
		"it is not Ready any more":    {func(w *world) { w.agent("n1", "A", "A"); w.setReady("n1", corev1.ConditionFalse) }, 0},
		"its Node and agent are gone": {func(w *world) { w.nodes, w.endpoints = w.nodes[1:], w.endpoints[:2] }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1", "n2", "n3")
			for _, node := range []string{"n3", "n2", "n1"} {
				w.agent(node, "A", "")
			}
			require.Equal(t, "n1", w.after(time.Second).Canary)
			sick.so(w)
			said := w.after(sick.within)
			assert.Equal(t, "n2", said.Canary)
			w.agent("n2", "A", "A")
			assert.True(t, mayArm(w.after(wellFor), "n3", "A"))
		})
	}
}

func TestWhenEveryNodeIsSickTheirTurnComesAgain(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.agent("n2", "A", "")
	w.agent("n1", "A", "")
	var turns []string
	w.after(time.Second)
	for range 4 {
		turns = append(turns, w.said().Canary)
		w.after(canaryTakes)
	}
	assert.Equal(t, []string{"n1", "n2", "n1", "n2"}, turns)
}

func TestNoNodeGoesFirstWhereOneIsArmedWithTheSet(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.agent("n1", "A", "A")
	w.agent("n2", "A", "")
	assert.Equal(t, Canary, func() State { w.look(); return w.last.status.State }(), "its word is not enough")
	assert.Equal(t, "", w.after(wellFor).Canary)

	w.now = w.now.Add(time.Minute)
	w.restart("A")
	said := w.look()
	assert.Equal(t, "", said.Canary+said.Reason, "nor after a restart of the controller")
}

func TestCanaryIsKeptWhenTheControllerRestarts(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.agent("n2", "A", "")
	w.agent("n1", "A", "")
	w.after(time.Second)
	w.after(canaryTakes)
	require.Equal(t, "n2", w.said().Canary)
	w.restart("A")
	assert.Equal(t, "n2", w.after(settle).Canary)
}

func TestSetIsClearedOnlyCompleteAndUnchangedForAWhile(t *testing.T) {
	w := newWorld(t, "n1")
	w.agent("n1", "A", "")
	w.remove("fw-drop-A")
	assert.Equal(t, "GlobalNetworkPolicies are missing: fw-drop-A", w.after(time.Minute).Reason)
	assert.Equal(t, Waiting, w.last.status.State)
	assert.False(t, w.last.status.Ready)
	assert.Contains(t, w.last.notices, notice{kind: eventNotCleared, message: "GlobalNetworkPolicies are missing: fw-drop-A"})

	spec := specOf("drop", "A")
	spec["order"] = "edited by hand"
	w.policy("fw-drop-A", map[string]string{endpoint.ReleaseLabel: "fw", endpoint.SetLabel: "A"}, spec)
	assert.Contains(t, w.after(time.Minute).Reason, "not as the chart has rendered them: fw-drop-A")

	w.install("A")
	assert.Contains(t, w.look().Reason, "Felix gets a moment")
	assert.Contains(t, w.after(settle-time.Millisecond).Reason, "Felix gets a moment")
	said := w.after(time.Millisecond)
	assert.Equal(t, "", said.Reason)
	assert.True(t, mayArm(said, "n1", "A"))
	w.remove("fw-allow-A")
	assert.False(t, mayArm(w.look(), "n1", "A"), "what was complete is not for ever")
}

func TestDriftOfASetInForceIsToldAndDisarmsNobody(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1", "n2")
	spec := specOf("drop", "A")
	spec["order"] = "edited by hand"
	w.policy("fw-drop-A", map[string]string{endpoint.ReleaseLabel: "fw", endpoint.SetLabel: "A"}, spec)
	said := w.look()
	assert.Equal(t, map[string]string{"A": "GlobalNetworkPolicies are not as the chart has rendered them: fw-drop-A" + mended}, said.Drift)
	assert.False(t, said.IsGone("A"))
	assert.False(t, w.last.status.Ready)
	assert.Equal(t, []string{"A"}, w.last.status.Drift)
	assert.Contains(t, w.last.notices, notice{kind: eventDrift, message: "set A, with which nodes are armed: " + said.Drift["A"]})
	w.install("A")
	said = w.look()
	assert.Empty(t, said.Drift)
	assert.False(t, mayArm(said, "n2", "A"), "Felix may not have read what has come back")
	assert.True(t, mayArm(w.after(settle), "n2", "A"))

	w.remove("fw-drop-A")
	w.remove("fw-allow-A")
	said = w.look()
	assert.True(t, said.IsGone("A"), "nothing is left to be enforced")
	assert.Empty(t, said.Drift)
}

func TestSetBeforeIsJudgedByWhatItsControllerWasTold(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1", "n2")
	w.install("B")
	w.restart("B")
	said := w.look()
	assert.Equal(t, setOf("A"), said.Before)
	assert.Equal(t, []string{"A", "B"}, said.Present)
	w.remove("fw-drop-A")
	assert.Equal(t, map[string]string{"A": "GlobalNetworkPolicies are missing: fw-drop-A" + mended}, w.look().Drift)
	w.roll("B", "n1", "n2")
	said = w.look()
	assert.Equal(t, setOf("A"), said.Before, "still what was before")
	assert.Empty(t, said.Drift, "but nobody relies on it")
}

// An upgrade from before there were sets: the policies of then stay, are nobody else's and nobody's drift, until no node carries them.
func TestWhatWasThereBeforeSetsIsOneThatNodesMoveFrom(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	for _, node := range []string{"n1", "n2"} {
		hep := w.agent(node, "A", "")
		hep.Labels["host-endpoint"] = "ingress"
		hep.Annotations[endpoint.StateAnnotation] = `{"state":"Armed","labels":["host-endpoint"]}`
	}
	spec := map[string]any{"selector": "host-firewall.io/release == 'fw' && host-endpoint == 'ingress'", "order": 10.0}
	w.policy("fw-allow", map[string]string{endpoint.ReleaseLabel: "fw"}, spec)
	said := w.look()
	assert.False(t, said.IsGone(endpoint.Before), "Helm has not come to them yet")
	why, _ := said.Hold("n1")
	assert.NotEmpty(t, why, "what an endpoint of the new set would have as well")

	spec["selector"] = spec["selector"].(string) + " && (!has(host-firewall.io/set) || host-firewall.io/set contains 'before')"
	w.policy("fw-allow", map[string]string{endpoint.ReleaseLabel: "fw", endpoint.SetLabel: endpoint.Before}, spec)
	said = w.look()
	assert.Equal(t, []string{"A", endpoint.Before}, said.Present)
	assert.Empty(t, said.Held)
	assert.Empty(t, said.Drift)
	w.agent("n1", "A", endpoint.Before)
	said = w.after(settle)
	assert.Equal(t, "n1", said.Canary)
	assert.Empty(t, said.Held)
	w.agent("n1", "A", "A")
	assert.Contains(t, w.after(time.Hour).Present, endpoint.Before, "an agent of then keeps n2 at it")
	w.agent("n2", "A", "A")
	assert.Contains(t, w.after(unusedFor-time.Millisecond).Present, endpoint.Before)
	assert.Equal(t, []string{"A"}, w.after(time.Millisecond).Present)
}

func TestUpgradeAndRollbackGoByACanaryEach(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1", "n2")
	w.install("B")
	w.restart("B")
	w.agent("n2", "B", "A")
	said := w.after(settle)
	assert.Equal(t, "n2", said.Canary, "n1's agent is not of set B yet")
	assert.False(t, mayArm(said, "n1", "A"), "the old set is not armed anew")
	w.roll("B", "n1", "n2")

	w.restart("A")
	said = w.look()
	assert.Equal(t, setOf("B"), said.Before)
	assert.Equal(t, clearance.NoCanary, w.after(settle).Reason, "no agent is of set A yet")
	w.roll("A", "n1", "n2")
}

func TestSetGoesWhenNobodyHasUsedItForAWhile(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	for _, set := range []string{"B", "C", "D"} {
		w.install(set)
	}
	w.roll("A", "n1", "n2")
	w.restart("D")
	w.agent("n2", "D", "B")
	said := w.after(unusedFor)
	assert.Equal(t, []string{"A", "B", "D"}, said.Present, "C alone is neither wanted nor armed anywhere")
	w.agent("n2", "D", "D")
	w.agent("n1", "D", "D")
	assert.Equal(t, []string{"A", "B", "D"}, w.after(unusedFor-time.Millisecond).Present)
	assert.Equal(t, []string{"D"}, w.after(time.Millisecond).Present)

	w.install("B")
	w.after(unusedFor - time.Second)
	w.agent("n1", "D", "B")
	w.after(time.Minute)
	w.agent("n1", "D", "D")
	assert.Contains(t, w.after(unusedFor-time.Millisecond).Present, "B", "its time begins again when it was used")
}

func TestYieldsToANewerControllerOfAnotherSet(t *testing.T) {
	w := newWorld(t, "n1")
	w.install("B")
	w.look()
	old, remembered := w.Config, w.memory
	w.now = w.now.Add(time.Second)
	w.restart("B")
	w.look()
	newer, newerRemembers := w.Config, w.memory

	w.Config, w.memory = old, remembered
	w.trusted = nil
	w.look()
	assert.Equal(t, Yielding, w.last.status.State)
	assert.False(t, w.last.status.Ready)
	assert.Contains(t, w.last.status.Reason, "set B")
	assert.Empty(t, w.trusted, "it writes nothing at all")

	w.Config, w.memory = newer, newerRemembers
	assert.Equal(t, "B", w.look().Wanted.Revision)
	assert.Len(t, w.ofNodes(), 1)
}

func TestWhoComesLaterIsNewerWhateverTheClocksSay(t *testing.T) {
	w := newWorld(t, "n1")
	w.install("B")
	w.look()
	w.now = w.now.Add(-10 * time.Minute)
	w.restart("B")
	assert.Equal(t, "B", w.look().Wanted.Revision)
}

func TestTwoOfTheSameDoNotFight(t *testing.T) {
	w := newWorld(t, "n1")
	w.look()
	first, remembered := w.Config, w.memory
	w.now = w.now.Add(time.Second)
	w.restart("A")
	said := w.after(time.Minute)
	w.Config, w.memory = first, remembered
	before := w.configMap
	w.after(time.Second)
	assert.Same(t, before, w.configMap)
	assert.Equal(t, said, w.said())
}

func TestClosedWhileRunningWritesNothing(t *testing.T) {
	w := newWorld(t, "n1")
	w.look()
	w.trusted = nil
	w.configMap.Data = maps.Clone(w.configMap.Data)
	maps.Copy(w.configMap.Data, clearance.Closing())
	w.after(time.Hour)
	assert.Equal(t, Closed, w.last.status.State)
	assert.Empty(t, w.trusted)
	assert.True(t, w.said().Closed)

	w.configMap = nil
	w.after(time.Hour)
	assert.Nil(t, w.configMap, "the uninstall is over, and its kubelet may be dead")
	assert.Empty(t, w.trusted)
	assert.Contains(t, w.last.status.Reason, "kubectl -n ns rollout restart deployment fw-controller")
}

func TestClosedAtTheStartIsANewInstallation(t *testing.T) {
	w := newWorld(t, "n1")
	w.configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1"}, Data: clearance.Closing()}
	said := w.after(time.Minute)
	assert.False(t, said.Closed)
	assert.Equal(t, "A", said.Wanted.Revision)
	w.configMap.Data["closed"] = "true"
	w.after(time.Minute)
	assert.True(t, w.said().Closed, "the next one is another uninstall")
}

func TestWayOutStaysOpenAndIsSaid(t *testing.T) {
	w := newWorld(t, "n1")
	w.configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1", Annotations: map[string]string{clearance.OpenAnnotation: "locked out"}}}
	w.facts.trusted = nil
	d := w.decide(w.facts, &w.memory)
	require.NotEmpty(t, d.writes)
	assert.NotContains(t, string(d.writes[0].patch), "annotations", "nothing but data is written")
	assert.Equal(t, Opened, d.status.State)
	assert.False(t, d.status.Ready)
	said := w.after(time.Minute)
	assert.True(t, said.Opened)
	assert.Equal(t, "locked out", said.Open)
}

func TestPausedDatastoreIsNotWrittenTo(t *testing.T) {
	w := newWorld(t, "n1")
	w.paused = true
	said := w.after(time.Minute)
	assert.True(t, said.Paused)
	assert.Empty(t, w.trusted)
	assert.Contains(t, w.last.status.Reason, "Calico's datastore is not ready")
	assert.False(t, w.last.status.Ready)
	w.paused = false
	assert.False(t, w.look().Paused)
	assert.Len(t, w.ofNodes(), 1)
}

func TestNonsenseInTheConfigMapIsWrittenOver(t *testing.T) {
	w := newWorld(t, "n1")
	w.look()
	w.configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: w.next()}, Data: map[string]string{"set": "A", "held": "[", "more": "x"}}
	said := w.look()
	assert.Equal(t, "A", said.Wanted.Revision)
	assert.NotContains(t, w.configMap.Data, "more")
}

// foreignEndpoint makes somebody else's endpoint that wins on a node.
func (w *world) foreignEndpoint(node string) {
	w.endpoints = append(slices.Clone(w.endpoints), &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{Name: "a-" + node, ResourceVersion: w.next()},
		Spec:       v3.HostEndpointSpec{Node: node, InterfaceName: "*"},
	})
}

// holdCase is something that may hold node n1 back.
type holdCase struct {
	by             func(*world)
	armed          string
	held, conflict string // a part of the reason, on n1
	alsoN2         bool
}

func holdCases() map[string]holdCase {
	foreign := func(selector string) func(*world) {
		return func(w *world) { w.policy("theirs", nil, map[string]any{"selector": selector}) }
	}
	ports := func(w *world) {
		w.APIServerPorts = []uint16{6443}
		w.facts.apiServers.closed = map[string][]uint16{"n1": {8443}}
	}
	return map[string]holdCase{
		"nothing": {by: func(*world) {}},
		"a policy that would select its endpoint": {
			by: foreign("all()"), alsoN2: true,
			held: "GlobalNetworkPolicies of others would apply to this node as soon as it has an endpoint: theirs. Change their selectors, or list them in hostEndpoint.acceptPolicies",
		},
		"a policy that would select it armed":   {by: foreign("host-endpoint == 'ingress'"), held: "theirs", alsoN2: true},
		"a policy that would select it unarmed": {by: foreign("!has(host-endpoint)"), held: "theirs", alsoN2: true},
		"a policy that selects it by its node":  {by: foreign("host-firewall.io/node == 'n1'"), held: "theirs"},
		"a policy for somebody else":            {by: foreign("app == 'db'")},
		"a policy that is accepted":             {by: func(w *world) { w.AcceptPolicies = []string{"theirs"}; foreign("all()")(w) }},
		"a policy that selects its armed endpoint": {
			by: foreign("host-firewall.io/node == 'n1'"), armed: "A",
			held: "GlobalNetworkPolicies of others apply to this node, or would as soon as it is armed: theirs",
		},
		"an endpoint that wins": {by: func(w *world) { w.foreignEndpoint("n1") }, conflict: "HostEndpoint a-n1 of this node"},
		"an API server that would be lost": {
			by:   ports,
			held: "this node's API server is on tcp 8443, to which neither essential.apiServerPorts nor Calico's failsafe lets anybody in: write essential.apiServerPorts: [6443, 8443]",
		},
		"an API server that would be lost in mode off": {by: func(w *world) { ports(w); w.Off = true }},
		"an API server that nobody asks about":         {by: func(w *world) { ports(w); w.APIServerPorts = nil }},
	}
}

func TestNodesAreHeldBackByNameAndReason(t *testing.T) {
	for name, test := range holdCases() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1", "n2")
			if test.armed != "" {
				w.agent("n1", "A", test.armed)
			}
			w.look()
			test.by(w)
			said := w.after(knownFor)
			held, conflict := said.Hold("n1")
			if test.held+test.conflict == "" {
				assert.Empty(t, held)
			}
			assert.Contains(t, held, test.held)
			assert.Contains(t, held, test.conflict)
			assert.Equal(t, test.conflict != "", conflict)
			also, _ := said.Hold("n2")
			assert.Equal(t, test.alsoN2, also != "", also)
			told := slices.ContainsFunc(w.last.notices, func(n notice) bool { return n.kind == eventHeld && n.node == "n1" && n.uid == "uid-n1" })
			assert.Equal(t, test.armed != "", told, "an Event tells it where the node is armed already")
			assert.Equal(t, test.held+test.conflict != "", said.MayCreate("n1", w.nodes[0].CreationTimestamp.Time) != "")
		})
	}
}

func TestPolicyThatFelixCannotReadHoldsNobodyBackAndIsTold(t *testing.T) {
	w := newWorld(t, "n1")
	w.policy("broken", nil, map[string]any{"selector": "app ="})
	assert.Empty(t, w.look().Held)
	assert.True(t, slices.ContainsFunc(w.last.notices, func(n notice) bool { return n.kind == eventUnreadable }))
	w.remove("broken")
	w.after(settle)
	assert.Empty(t, w.last.notices)
}

func TestWhatHeldBackLetsGo(t *testing.T) {
	w := newWorld(t, "n1")
	w.policy("theirs", nil, map[string]any{"selector": "all()"})
	w.foreignEndpoint("n1")
	said := w.look()
	assert.NotEmpty(t, said.Held)
	assert.NotEmpty(t, said.Conflicts)
	w.remove("theirs")
	w.endpoints = nil
	said = w.look()
	assert.Empty(t, said.Held)
	assert.Empty(t, said.Conflicts)
}

func TestEndpointThatIsTakenOverKeepsItsPolicies(t *testing.T) {
	w := newWorld(t, "n1")
	w.Adopt = true
	w.policy("theirs", nil, map[string]any{"selector": "role == 'node'"})
	w.policy("new", nil, map[string]any{"selector": "role == 'node' && has(host-endpoint)"})
	w.endpoints = []*v3.HostEndpoint{{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", ResourceVersion: w.next(), Labels: map[string]string{"role": "node"}},
		Spec:       v3.HostEndpointSpec{Node: "n1", InterfaceName: "*"},
	}}
	held, _ := w.look().Hold("n1")
	assert.Contains(t, held, "endpoint: new. ")
}

func TestReasonsAreNotMoreThanAConfigMapHolds(t *testing.T) {
	var names []string
	for i := range mostReasons + 20 {
		names = append(names, "n"+string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	w := newWorld(t, names...)
	for _, name := range names {
		w.foreignEndpoint(name)
	}
	said := w.look()
	assert.Len(t, said.Conflicts, mostReasons+1)
	for _, name := range names {
		why, conflict := said.Hold(name)
		assert.NotEmpty(t, why)
		assert.True(t, conflict)
	}
}

func TestNodeWithoutAddressesBlocksNobody(t *testing.T) {
	w := newWorld(t, "n1")
	w.node("kwok", start.Add(-time.Hour))
	w.agent("n1", "A", "")
	assert.True(t, mayArm(w.after(time.Minute), "n1", "A"))
	assert.Len(t, w.ofNodes(), 1)
}

func TestNothingIsClearedBeforeEveryNodeIsTrusted(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.agent("n1", "A", "")
	w.now = w.now.Add(time.Minute)
	d := w.decide(w.facts, &w.memory)
	require.Len(t, d.writes, 5)
	w.apply(d.writes[0])
	w.apply(d.writes[1])
	w.now = w.now.Add(settle)
	d = w.decide(w.facts, &w.memory)
	assert.Equal(t, "the addresses of some Nodes are not trusted yet: n2", d.status.Reason)
	assert.Equal(t, 1, d.status.Untrusted)
	assert.True(t, mayArm(w.look(), "n1", "A"))

	w.agent("n1", "A", "A")
	w.after(wellFor)
	w.node("n3", w.now, "192.0.2.3")
	d = w.decide(w.facts, &w.memory)
	assert.Equal(t, Cleared, d.status.State, "once a node is armed that takes back nothing")
	assert.Contains(t, d.notices, notice{kind: eventUntrusted, message: "the addresses of some Nodes are not trusted yet: n3"})
}

func TestSetOfAddressesThatLagsForAMomentTakesNothingBack(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.agent("n1", "A", "")
	w.after(time.Minute)
	hep := w.agent("n2", "A", "")
	hep.Spec.ExpectedIPs = append(hep.Spec.ExpectedIPs, "198.51.100.2")
	d := w.decide(w.facts, &w.memory)
	assert.Equal(t, Canary, d.status.State)
	assert.Equal(t, 1, d.status.Untrusted)
	assert.False(t, d.again.After(w.now.Add(lagTakes)))
	w.now = w.now.Add(lagTakes)
	d = w.decide(w.facts, &w.memory)
	assert.Equal(t, "the addresses of some Nodes are not trusted yet: n2", d.status.Reason, "but not for long")
	w.look()
	assert.Equal(t, Canary, w.last.status.State)
}

func TestNodeWhoseAddressesCannotBeTrustedHoldsUpNobodyForEver(t *testing.T) {
	const why = "GlobalNetworkSet fw-node-n2 may have lost its label"
	inForce := func(t *testing.T) (w *world, newcomer *v3.HostEndpoint) {
		w = newWorld(t, "n1", "n2")
		w.roll("A", "n1", "n2")
		w.trusted = slices.DeleteFunc(w.trusted, func(s *v3.GlobalNetworkSet) bool { return s.Name == "fw-node-n2" })
		w.failures = map[string]string{"GlobalNetworkSet fw-node-n2": why}
		w.node("n3", w.now, "192.0.2.3")
		w.after(knownFor)
		return w, w.agent("n3", "A", "")
	}
	t.Run("where the set is in force it is held alone", func(t *testing.T) {
		w, newcomer := inForce(t)
		said := w.after(brokenFor - knownFor - time.Second)
		assert.NotEmpty(t, said.MayArm("n3", "A", newcomer.ResourceVersion), "it may still be written")
		held, _ := said.Hold("n2")
		assert.Empty(t, held)
		said = w.after(time.Second + marksEvery)
		assert.Empty(t, said.MayArm("n3", "A", newcomer.ResourceVersion))
		held, _ = said.Hold("n2")
		assert.Equal(t, "the addresses of this Node cannot be trusted: "+why, held)
		assert.Contains(t, w.last.notices, notice{kind: eventUntrusted, message: "the addresses of some Nodes are not trusted yet: n2"})
		w.failures = nil
		held, _ = w.look().Hold("n2")
		assert.Empty(t, held)
	})
	t.Run("also after a policy was lost, and the controller has restarted meanwhile", func(t *testing.T) {
		for _, restarted := range []bool{false, true} {
			w, newcomer := inForce(t)
			w.remove("fw-drop-A")
			w.after(settle)
			if restarted {
				w.restart("A")
			}
			w.install("A")
			said := w.after(brokenFor + marksEvery)
			assert.Empty(t, said.MayArm("n3", "A", newcomer.ResourceVersion))
		}
	})
	t.Run("nor does the witness of another set wait for it", func(t *testing.T) {
		w, _ := inForce(t)
		w.install("B")
		w.restart("B")
		w.setReady("n2", corev1.ConditionUnknown)
		w.agent("n1", "B", "A")
		assert.NotContains(t, w.after(brokenFor-time.Second).Witnesses, "B")
		assert.Contains(t, w.after(time.Second).Witnesses, "B")
	})
	t.Run("where nothing has failed, that it takes long is no reason", func(t *testing.T) {
		w, newcomer := inForce(t)
		w.failures, w.paused = nil, true
		said := w.after(time.Hour)
		w.paused = false
		assert.NotEmpty(t, said.MayArm("n3", "A", newcomer.ResourceVersion))
		held, _ := said.Hold("n2")
		assert.Empty(t, held)
	})
	t.Run("before anything is closed to it nothing is", func(t *testing.T) {
		w := newWorld(t, "n1", "n2")
		w.failures = map[string]string{"GlobalNetworkSet fw-node-n2": why}
		w.agent("n1", "A", "")
		assert.Equal(t, "the addresses of some Nodes are not trusted yet: n2", w.after(time.Hour).Reason)
		w.setReady("n2", corev1.ConditionUnknown)
		assert.True(t, mayArm(w.after(time.Minute), "n1", "A"), "who is not Ready has nothing to lose")
	})
}

func TestWithoutTrustInNodesTheNetworksHaveToHoldThem(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.TrustNodes = false
	w.agent("n1", "A", "")
	w.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	said := w.after(time.Minute)
	assert.Equal(t, "Ready nodes are not in cluster.cidrs and would be shut out: n2. List their networks there, or set cluster.trustNodes: true", said.Reason)
	assert.Empty(t, w.ofNodes())
	w.setReady("n2", corev1.ConditionFalse)
	assert.True(t, mayArm(w.look(), "n1", "A"), "who is not Ready has nothing to lose")
	w.agent("n1", "A", "A")
	w.after(wellFor)
	w.setReady("n2", corev1.ConditionTrue)
	said = w.look()
	assert.Empty(t, said.Reason)
	assert.True(t, slices.ContainsFunc(w.last.notices, func(n notice) bool { return n.kind == eventUntrusted }), "but it is told")
}

func TestNodeThatIsArmedByHandClearsNothing(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.TrustNodes = false
	w.agent("n1", "A", "A")
	w.agent("n2", "A", "")
	w.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	said := w.after(time.Minute)
	assert.Contains(t, said.Reason, "would be shut out: n2")
	w.restart("A")
	assert.False(t, mayArm(w.after(time.Minute), "n2", "A"))
}

func TestSetsOfAddressesStayWhileANodeMayRelyOnThem(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1", "n2")
	w.install("B")
	w.restart("B")
	w.TrustNodes, w.ClusterCIDRs = false, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.agent("n1", "B", "B")
	w.after(time.Minute)
	assert.Len(t, w.ofNodes(), 2, "n2 is armed with set A, which trusts them")
	w.agent("n2", "B", "B")
	w.after(time.Minute)
	assert.Empty(t, w.ofNodes())
}

func TestSetOfAddressesIsKeptAsItShouldBe(t *testing.T) {
	for name, change := range map[string]func(w *world, set *v3.GlobalNetworkSet){
		"an address more":   func(_ *world, set *v3.GlobalNetworkSet) { set.Spec.Nets = append(set.Spec.Nets, "203.0.113.9/32") },
		"no address":        func(_ *world, set *v3.GlobalNetworkSet) { set.Spec.Nets = nil },
		"another owner":     func(_ *world, set *v3.GlobalNetworkSet) { set.OwnerReferences[0].UID = "uid-of-a-node-before" },
		"no owner":          func(_ *world, set *v3.GlobalNetworkSet) { set.OwnerReferences = nil },
		"without its label": func(_ *world, set *v3.GlobalNetworkSet) { delete(set.Labels, "host-firewall.io/trust") },
		"labels of calicoctl's": func(_ *world, set *v3.GlobalNetworkSet) {
			set.Annotations = map[string]string{endpoint.MetadataAnnotation: "{}"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1")
			w.look()
			should := w.trusted[0]
			is := should.DeepCopy()
			change(w, is)
			is.ResourceVersion = w.next()
			w.trusted[0] = is
			d := w.decide(w.facts, &w.memory)
			require.Len(t, d.writes, 1)
			assert.Equal(t, is.ResourceVersion, d.writes[0].seen)
			assert.Contains(t, string(d.writes[0].patch), `"resourceVersion":"`+is.ResourceVersion+`"`)
			w.look()
			assert.Equal(t, should.Spec, w.ofNodes()[0].Spec)
		})
	}
	w := newWorld(t, "n1", "n2")
	w.look()
	stray := &v3.GlobalNetworkSet{ObjectMeta: metav1.ObjectMeta{Name: "somebody-s", ResourceVersion: w.next(), Labels: map[string]string{endpoint.ReleaseLabel: "fw"}}}
	w.trusted = append(w.trusted, stray)
	w.nodes = w.nodes[:1]
	w.look()
	assert.Len(t, w.ofNodes(), 1, "that of a Node that is gone goes")
	assert.Contains(t, w.trusted, stray)
}

func TestNodesMarkComesToNodesThatAreKnownAndTrusted(t *testing.T) {
	w := newWorld(t, "n1")
	created := func() time.Time { return w.said().Nodes }
	w.look()
	assert.Zero(t, created())
	w.after(knownFor - time.Millisecond)
	assert.Zero(t, created())
	w.after(time.Millisecond)
	assert.Equal(t, w.nodes[0].CreationTimestamp.Time, created())

	n2 := w.node("n2", start.Add(time.Minute), "192.0.2.2")
	w.look()
	w.node("n3", start.Add(time.Minute), "192.0.2.3")
	w.now = w.now.Add(knownFor - time.Second)
	w.look()
	w.after(time.Second)
	assert.NotEqual(t, n2.CreationTimestamp.Time, created(), "another one of that second may not be known for long enough")
	w.after(time.Second)
	assert.Equal(t, n2.CreationTimestamp.Time, created())
	assert.Empty(t, w.said().MayCreate("n3", start.Add(time.Minute)))

	w.APIServerPorts = []uint16{6443}
	n4 := w.node("n4", start.Add(2*time.Minute), "192.0.2.4")
	w.look()
	w.now = w.now.Add(time.Minute)
	w.look()
	assert.NotEqual(t, n4.CreationTimestamp.Time, created(), "whether its API server stays open was not asked")
	w.facts.apiServers.answered = w.now
	w.look()
	assert.Equal(t, n4.CreationTimestamp.Time, created())
}

func TestEndpointsMarkFollowsWhileAnEndpointWaitsAndAllAreTrusted(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1", "n2")
	said := w.after(time.Minute)
	w.agent("n2", "A", "A")
	assert.Equal(t, said.Endpoints, w.after(time.Minute).Endpoints, "nobody waits")

	hep := w.agent("n2", "A", "")
	hep.Spec.ExpectedIPs = append(hep.Spec.ExpectedIPs, "198.51.100.2")
	d := w.decide(w.facts, &w.memory)
	require.NotEmpty(t, d.writes)
	assert.IsType(t, &v3.GlobalNetworkSet{}, d.writes[0].object, "its address comes first")
	w.apply(d.writes[0])
	assert.Equal(t, "", w.after(0).MayArm("n2", "A", hep.ResourceVersion))
	assert.Contains(t, w.trusted[len(w.trusted)-1].Spec.Nets, "198.51.100.2/32")

	before := w.configMap
	w.agent("n2", "A", "")
	w.look()
	assert.Same(t, before, w.configMap, "the marks alone change it once in a while")
	w.after(marksEvery)
	assert.NotSame(t, before, w.configMap)
	w.agent("n2", "A", "")
	w.foreignEndpoint("n1")
	before = w.configMap
	w.look()
	assert.NotSame(t, before, w.configMap, "with something else they go at once")
}

func TestManyNodesAreGivenTimeToBeArmed(t *testing.T) {
	var names []string
	for i := range 3 * armedPerSecond {
		names = append(names, fmt.Sprintf("n%03d", i))
	}
	w := newWorld(t, names...)
	for _, name := range names {
		w.agent(name, "A", "")
	}
	w.after(time.Second)
	w.agent(w.said().Canary, "A", "A")
	said := w.after(wellFor)
	require.True(t, said.ClearsAll("A"))
	assert.Equal(t, 2*time.Second, said.Spread, "one is armed already")
	w.roll("A", names...)
	before := w.configMap
	w.after(time.Hour)
	assert.Same(t, before, w.configMap, "that less time would do is no news")
	w.agent(names[0], "B", "A")
	w.foreignEndpoint(names[0])
	assert.Zero(t, w.after(time.Minute).Spread, "it goes along with news")
}

func TestOffArmsNobodyAndLooksAfterTheRest(t *testing.T) {
	w := newWorld(t, "n1")
	w.Off = true
	w.agent("n1", "A", "")
	said := w.after(time.Minute)
	assert.Equal(t, "mode is off", said.Canary+said.Reason, "an agent that has not heard of it arms nothing either")
	assert.Empty(t, said.MayCreate("n1", w.nodes[0].CreationTimestamp.Time))
	assert.Len(t, w.ofNodes(), 1)
	assert.Equal(t, Off, w.last.status.State)
	assert.True(t, w.last.status.Ready)
}

func TestNodesWithEndpointsOfOtherSettingsAreNamed(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1", "n2")
	assert.Empty(t, w.look().Leftovers)
	left := w.endpoints[0].DeepCopy()
	left.Name, left.Spec.InterfaceName, left.ResourceVersion = "n1-eth0", "eth0", w.next()
	w.endpoints = append(w.endpoints, left)
	assert.Equal(t, []string{"n1"}, w.look().Leftovers)
	w.Interfaces = []string{"*", "eth0"}
	assert.Empty(t, w.look().Leftovers, "agents see these themselves")
}

func TestAgentsOfAnUpgradeNeedNotWaitForTheMarkWhenTheirSetIsCleared(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1", "n2")
	w.install("B")
	w.restart("B")
	w.after(time.Minute)
	for range 3 {
		w.agent("n1", "B", endpoint.SetOf(w.endpoints[0]))
		w.after(4 * time.Second)
		w.armAll("B", "n1")
	}
	said := w.after(4 * time.Second)
	require.Empty(t, said.Canary+said.Reason)
	for _, hep := range w.endpoints {
		assert.False(t, clearance.Newer(hep.ResourceVersion, said.Endpoints), "%s", hep.Name)
	}
}

func TestNobodyIsHeldBackForWhatIsNotKnownButNobodyArmedEither(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1")
	w.restart("A")
	w.APIServerPorts = []uint16{6443}
	w.facts.apiServers = apiServers{asked: w.now, err: assert.AnError}
	said := w.look()
	assert.Contains(t, said.Reason, "cannot tell whether API servers of nodes stay open")
	why, _ := said.Hold("n1")
	assert.Empty(t, why, "its agent stays ready")
	assert.False(t, w.last.status.Ready)
}

func TestSetWhosePoliciesLostTheirLabelsIsNotGone(t *testing.T) {
	w := newWorld(t, "n1")
	w.roll("A", "n1")
	for _, purpose := range []string{"allow", "drop"} {
		w.policy("fw-"+purpose+"-A", nil, specOf(purpose, "A"))
	}
	said := w.after(time.Minute)
	assert.False(t, said.IsGone("A"), "Felix goes on enforcing it")
	assert.NotEmpty(t, said.Drift["A"])
}

func TestSetThatNodesAreArmedWithIsLookedAtAlsoAfterTwoUpgrades(t *testing.T) {
	w := newWorld(t, "n1")
	w.roll("A", "n1")
	w.upgrade("B", "C")
	w.remove("fw-drop-A")
	assert.Contains(t, w.after(time.Minute).Drift["A"], "fw-drop-A")
}

func TestControllerOfOtherValuesYieldsToo(t *testing.T) {
	w := newWorld(t, "n1")
	w.Rollout = "new"
	w.look()
	w.restart("A")
	w.memory, w.Rollout, w.Config.Started = memory{looked: true, started: start.Add(-time.Hour), carriedSince: map[string]time.Time{}, unusedSince: map[string]time.Time{}}, "old", start.Add(-time.Hour)
	assert.Equal(t, "new", w.after(time.Minute).Rollout)
	assert.Equal(t, Yielding, w.last.status.State)
}

func TestConfigMapOfSomebodyElseIsLeftAlone(t *testing.T) {
	w := newWorld(t, "n1")
	w.configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1"}, Data: map[string]string{"theirs": "data"}}
	w.decide(w.facts, &w.memory)
	d := w.decide(w.facts, &w.memory)
	assert.Empty(t, d.writes)
	assert.Contains(t, d.status.Reason, "somebody else's")
}

func TestMarkIsNotMovedForAnEndpointThatItHasPassed(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1")
	w.agent("n2", "A", "")
	before := w.after(time.Minute).Endpoints
	w.next()
	assert.Equal(t, before, w.after(time.Hour).Endpoints, "an agent that never arms its node wakes nobody")
}
