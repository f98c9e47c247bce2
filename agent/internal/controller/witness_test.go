package controller

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// witnesses returns the orders of those that are there, by their sets.
func (w *world) witnesses() map[string]float64 {
	orders := map[string]float64{}
	for _, policy := range w.policies {
		if policy.Witness != "" {
			orders[policy.Witness] = policy.Order
		}
	}
	for set, order := range maps.Clone(orders) {
		if !strings.HasSuffix(set, witness.Moved) {
			assert.Equal(w.t, order, orders[set+witness.Moved], "there are two for each set")
			delete(orders, set+witness.Moved)
		}
	}
	return orders
}

// seenFrom returns where the connections come from that the network set has denied.
func (w *world) seenFrom() []string {
	for _, set := range w.trusted {
		if set.Name == "fw-witness" {
			return set.Spec.Nets
		}
	}
	return nil
}

// saidOf is what is said of these sets' witnesses.
func saidOf(sets ...string) map[string]clearance.Witness {
	said := map[string]clearance.Witness{}
	for _, set := range sets {
		said[set] = witness.Of("fw", set)
	}
	return said
}

// oneStep makes a pass and what it has written, and returns what it wrote beside the ConfigMap.
func (w *world) oneStep() (wrote []string) {
	for _, one := range w.decide(w.facts, &w.memory).writes {
		if one.subject != w.subject() {
			wrote = append(wrote, one.subject)
		}
		w.apply(one)
	}
	return wrote
}

// Each step is made when the cache shows the one before: Felix learns of them in that order, so what it shows last proves the rest.
func TestWitnessComesAfterTheSetAndTheAddressesOfAllNodes(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.remove("fw-drop-A")
	assert.Equal(t, []string{"GlobalNetworkSet fw-node-n1", "GlobalNetworkSet fw-node-n2"}, w.oneStep())
	assert.Empty(t, w.oneStep(), "the set is not complete")
	w.install("A")
	w.node("n3", w.now, "192.0.2.3")
	assert.Equal(t, []string{"GlobalNetworkSet fw-node-n3", "GlobalNetworkPolicy fw-witness-A", "GlobalNetworkPolicy fw-witness-A-moved"}, w.oneStep())
	assert.Equal(t, map[string]float64{"A": 9}, w.witnesses(), "just below the lowest of the set")
	w.node("n4", w.now, "192.0.2.4")
	assert.Equal(t, []string{"GlobalNetworkSet fw-node-n4"}, w.oneStep(), "not everybody is trusted")
	assert.Equal(t, []string{"GlobalNetworkSet fw-witness"}, w.oneStep())
	assert.Equal(t, witness.NewSet("fw", []string{"A"}).Spec.Nets, w.seenFrom())
	assert.Empty(t, w.said().Witnesses)
	assert.Empty(t, w.oneStep())
	assert.Equal(t, saidOf("A"), w.said().Witnesses)
	w.node("n5", w.now, "192.0.2.5")
	assert.Equal(t, []string{"GlobalNetworkSet fw-node-n5"}, w.oneStep())
	assert.Equal(t, saidOf("A"), w.said().Witnesses, "who comes later takes nothing back")
	assert.Equal(t, 5, w.decide(w.facts, &w.memory).status.TrustSets, "the set of witnesses is no node's")
}

func TestEachSetHasItsWitnessUntilItGoes(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.roll("A", "n1", "n2")
	w.install("B")
	w.restart("B")
	assert.Equal(t, saidOf("A", "B"), w.look().Witnesses)
	w.agent("n1", "B", "A")
	w.after(time.Minute)
	assert.Equal(t, map[string]float64{"A": 9, "B": 9}, w.witnesses())
	assert.Equal(t, witness.NewSet("fw", []string{"A", "B"}).Spec.Nets, w.seenFrom())
	w.roll("B", "n1", "n2")
	assert.Equal(t, saidOf("A", "B"), w.said().Witnesses, "a node may go back to A")
	said := w.after(unusedFor)
	require.Equal(t, []string{"B"}, said.Present)
	assert.Equal(t, saidOf("B"), said.Witnesses)
	assert.Equal(t, map[string]float64{"B": 9}, w.witnesses())
	assert.Equal(t, witness.NewSet("fw", []string{"B"}).Spec.Nets, w.seenFrom())
}

// What a node has lets loopback in, and with that the packet of a witness that is asked later: the node would never see it, and never move.
func TestWitnessComesBeforeThePoliciesThatNodesHaveAlready(t *testing.T) {
	w := newWorld(t, "n1")
	w.roll("A", "n1")
	w.upgrade(early)
	assert.Equal(t, map[string]float64{"A": 9, early: 1}, w.witnesses(), "who is at A goes on seeing that of A")
	w.roll(early, "n1")
	w.upgrade("A")
	assert.Equal(t, map[string]float64{"A": 1, early: 1}, w.witnesses())
	assert.Equal(t, saidOf("A", early), w.said().Witnesses)
	w.roll("A", "n1")
	w.after(unusedFor)
	assert.Equal(t, map[string]float64{"A": 1}, w.witnesses(), "it stays as it is when the other set is gone")
}

func TestWitnessOfASetThatIsOlderThanTheOneBeforeStays(t *testing.T) {
	w := newWorld(t, "n1")
	w.roll("A", "n1")
	w.upgrade("B", "C")
	assert.Equal(t, saidOf("A", "B", "C"), w.said().Witnesses, "with which n1 is armed")
}

func TestOffHasNoWitness(t *testing.T) {
	w := newWorld(t, "n1")
	w.roll("A", "n1")
	require.Equal(t, saidOf("A"), w.said().Witnesses)
	w.restart("A")
	w.Off = true
	said := w.after(time.Minute)
	assert.Empty(t, said.Witnesses)
	assert.Empty(t, w.witnesses())
	assert.Nil(t, w.seenFrom())
}

// When the policies that were lost come back, one that Felix has seen before says nothing about them.
func TestWitnessOfABrokenSetIsForThoseWhoAreArmedWithIt(t *testing.T) {
	w := newWorld(t, "n1")
	w.agent("n1", "A", "")
	require.Equal(t, saidOf("A"), w.after(time.Second).Witnesses)
	w.remove("fw-drop-A")
	assert.Empty(t, w.look().Witnesses)
	assert.Empty(t, w.witnesses())
	w.install("A")
	assert.Equal(t, saidOf("A"), w.look().Witnesses)

	w.agent("n1", "A", "A")
	w.remove("fw-drop-A")
	assert.Equal(t, saidOf("A"), w.look().Witnesses)
	w.remove("fw-allow-A")
	assert.Empty(t, w.look().Witnesses, "nothing is left of it")
}

func TestWitnessThatIsNotAsItShouldBeIsMadeAnew(t *testing.T) {
	labels := map[string]string{endpoint.ReleaseLabel: "fw", witness.Label: "A"}
	for name, spec := range map[string]map[string]any{
		"it allows":             {"order": 9.0, "selector": "all()"},
		"it comes after others": witness.Spec("fw", "A", 15),
		"it is another set's":   witness.Spec("fw", "B", 9),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1")
			w.roll("A", "n1")
			should := w.witnessOf("A").Digest
			w.policy("fw-witness-A", labels, spec)
			assert.Contains(t, w.oneStep(), "GlobalNetworkPolicy fw-witness-A")
			assert.Empty(t, w.said().Witnesses)
			assert.Equal(t, saidOf("A"), w.after(time.Second).Witnesses)
			assert.Equal(t, should, w.witnessOf("A").Digest)
		})
	}
	w := newWorld(t, "n1")
	w.policy("fw2-witness-A", map[string]string{endpoint.ReleaseLabel: "fw2", witness.Label: "A"}, map[string]any{"selector": "app == 'x'"})
	w.after(time.Second)
	assert.True(t, slices.ContainsFunc(w.policies, func(p *policyset.Policy) bool { return p.Name == "fw2-witness-A" }), "another release's is its own")
}

// The first policy says nothing of the second one that came after it, until the address comes anew.
func TestWitnessIsSaidWhenBothOfItsPoliciesAreThere(t *testing.T) {
	for _, lost := range []string{"fw-witness-A", "fw-witness-A-moved"} {
		w := newWorld(t, "n1")
		w.roll("A", "n1")
		require.Equal(t, saidOf("A"), w.said().Witnesses)
		w.remove(lost)
		assert.Equal(t, []string{"GlobalNetworkPolicy " + lost, "GlobalNetworkSet fw-witness"}, w.oneStep())
		assert.Empty(t, w.said().Witnesses)
		assert.Equal(t, []string{"GlobalNetworkSet fw-witness"}, w.oneStep())
		assert.Equal(t, saidOf("A"), w.look().Witnesses)
	}
}

// witnessOf is the policy of a set's witness.
func (w *world) witnessOf(set string) *policyset.Policy {
	at := slices.IndexFunc(w.policies, func(p *policyset.Policy) bool { return p.Name == "fw-witness-"+set })
	require.GreaterOrEqual(w.t, at, 0)
	return w.policies[at]
}

func TestNetworkSetOfWitnessesIsKeptAsItShouldBe(t *testing.T) {
	for name, change := range map[string]func(set *v3.GlobalNetworkSet){
		"without its address": func(set *v3.GlobalNetworkSet) { set.Spec.Nets = nil },
		"without its label":   func(set *v3.GlobalNetworkSet) { delete(set.Labels, "host-firewall.io/trust") },
		"one of Nodes":        func(set *v3.GlobalNetworkSet) { set.Labels["host-firewall.io/trust"] = "node" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1")
			w.after(time.Second)
			is := w.trusted[len(w.trusted)-1].DeepCopy()
			require.Equal(t, "fw-witness", is.Name)
			change(is)
			w.trusted[len(w.trusted)-1] = is
			assert.Equal(t, []string{"GlobalNetworkSet fw-witness"}, w.oneStep())
			assert.Empty(t, w.said().Witnesses)
			assert.Equal(t, saidOf("A"), w.look().Witnesses)
			assert.Equal(t, witness.NewSet("fw", []string{"A"}).Labels, w.trusted[len(w.trusted)-1].Labels)
		})
	}
	w := newWorld(t, "n1")
	w.after(time.Second)
	is := w.trusted[len(w.trusted)-1].DeepCopy()
	is.Spec.Nets = append(is.Spec.Nets, "127.66.1.1/32")
	w.trusted[len(w.trusted)-1] = is
	w.oneStep()
	assert.Equal(t, saidOf("A"), w.said().Witnesses, "what is too much in it takes nothing back")
	assert.Equal(t, witness.NewSet("fw", []string{"A"}).Spec.Nets, w.seenFrom())
}

func TestPausedDatastoreGetsNoWitness(t *testing.T) {
	w := newWorld(t, "n1")
	w.paused = true
	w.after(time.Minute)
	assert.Empty(t, w.witnesses())
}

func TestItIsSaidWhereNobodyCanSeeAWitness(t *testing.T) {
	w := newWorld(t, "n1")
	said := func(spec map[string]any) string {
		w.felix = &failsafe.Configuration{Spec: spec}
		return w.look().Unproven
	}
	assert.Empty(t, w.look().Unproven)
	assert.Empty(t, said(map[string]any{"bpfEnabled": false}))
	assert.Equal(t, "FelixConfiguration default has bpfEnabled, and with eBPF Felix asks no policy on loopback: "+
		"nodes are armed some seconds after they may be, and nobody sees whether the rules are in their kernels", said(map[string]any{"bpfEnabled": true}))
	w.Interfaces = []string{"*", "eth0"}
	assert.Empty(t, said(nil))
	w.Interfaces = []string{"eth0"}
	assert.Contains(t, said(nil), "hostEndpoint.interfaces has no *")
}
