package kind

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// Something happens to the node that goes first, just after it has moved to a set that is well. In the end every node is at it, and says so no
// sooner than it is true.
func TestMoveThatIsDisturbedIsMadeAfterAll(t *testing.T) {
	local(t, "end programs of a node")
	r := install(t)
	old := setInForce(t)
	_, next := setOf(t, r, openToMore())
	turn := 0
	for what, disturb := range map[string]func(t *testing.T, node string) (heal func()){
		"agent and controller are killed": func(t *testing.T, node string) func() {
			require.NoError(t, endPod(t.Context(), ofAgents, "spec.nodeName="+node))
			require.NoError(t, endPod(t.Context(), ofController, ""))
			return func() {}
		},
		"Felix is stopped":                              stopsFelix,
		"somebody creates an endpoint that wins":        createsRival,
		"the API server is away for longer than Trying": stopsAPIServer,
	} {
		t.Run(what, func(t *testing.T) {
			to, set, open := tried(atOnce(openToMore())), next, expected(t, openToMore())
			if turn++; turn%2 == 0 {
				to, set, open = tried(values()), old, scene.Protected
			}
			d := begin(t)
			// Connections to an API server that has ended are refused, and it takes pods out of Services when it is back.
			reached := reached(t, place.Select(func(c scene.Cell) bool { return scene.Protected(c) && !apiServer(c) && !scene.OfServices(c) }))
			_, err := r.Upgrade(t.Context(), to)
			require.NoError(t, err)
			first := d.tries(t, set, 1)
			heal := disturb(t, first.node)
			heal()
			requireArmed(t)
			requireSet(t, set)
			requireTable(t, open, what)
			reached()
			for _, s := range d.all() {
				if s.node == first.node && s.trial.Set == set {
					t.Log(s)
				}
			}
		})
	}
	upgradeTo(t, r, values())
}

// Felix has the set, and is stopped before the node moves. Its rules stay in the kernel: nothing is cut, for nothing of the new set is in force.
func TestMoveThatIsDisturbedByFelixThatDoesNotFollowIsUndone(t *testing.T) {
	local(t, "stop Felix")
	r := install(t)
	_, next := setOf(t, r, openToMore())
	d, allow := begin(t), putForeign(t, "host-firewall.io/set contains '"+next+"'")
	_, err := r.Upgrade(t.Context(), tried(atOnce(openToMore())))
	require.NoError(t, err)
	requireWitness(t, next, true, nodeNames()...)
	for _, node := range nodeNames() {
		requireSays(t, node, foreign)
		h := hostOf(t, node)
		require.NoError(t, h.Stop(cluster.Felix))
		t.Cleanup(func() { require.NoError(t, h.Resume(cluster.Felix)) })
	}
	allow()
	first := d.tries(t, next, 1)
	requireMoved(t, next, false, first.node)
	back := d.goesBack(t, next, 1)
	require.Equal(t, first.node, back.node)
	require.Contains(t, strings.Join(back.trial.Cut, "; "), "Felix on this node has not followed the label")
	for _, s := range d.all() {
		require.False(t, s.trial.Set == next && s.trial.Phase == "Armed", "%s", s)
	}
	for _, node := range nodeNames() {
		require.NoError(t, hostOf(t, node).Resume(cluster.Felix))
	}
	requireArmed(t)
	requireSet(t, next)
	requireMoved(t, next, true, nodeNames()...)
	upgradeTo(t, r, values())
}

// stopsFelix stops it on the node until that has decided what becomes of its trial.
func stopsFelix(t *testing.T, node string) (heal func()) {
	d, h := begin(t), hostOf(t, node)
	require.NoError(t, h.Stop(cluster.Felix))
	t.Cleanup(func() { require.NoError(t, h.Resume(cluster.Felix)) })
	return func() {
		decided := d.await(t, undone, node+" to decide", func(s step) bool { return s.node == node && s.trial.Phase != release.Trying })
		// Whether Felix has followed the label before it was stopped is seen now, and nothing changes it.
		requireMoved(t, decided.trial.Set, decided.trial.Phase == "Armed", node)
		require.NoError(t, h.Resume(cluster.Felix))
	}
}

// createsRival creates an endpoint that comes before the node's own, and takes it away when the agent has said so.
func createsRival(t *testing.T, node string) (heal func()) {
	remove := createEndpoint(t, "a-"+node, node, "*")
	return func() {
		requireSays(t, node, "a-"+node)
		remove()
	}
}

// stopsAPIServer stops it for longer than a node tries a set.
func stopsAPIServer(t *testing.T, _ string) (heal func()) {
	control := hostOf(t, cluster.ControlPlaneNode)
	require.NoError(t, control.Stop(cluster.APIServerProgram))
	t.Cleanup(func() { require.NoError(t, control.Resume(cluster.APIServerProgram)) })
	back := time.Now().Add(away)
	return func() {
		<-time.After(time.Until(back))
		require.NoError(t, control.Resume(cluster.APIServerProgram))
	}
}
