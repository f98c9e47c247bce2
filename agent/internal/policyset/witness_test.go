package policyset_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubejson "sigs.k8s.io/json"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// witnessOf returns a witness as an API server has it, with which something has been done.
func witnessOf(t *testing.T, change func(p *witness.Policy, rule map[string]any)) *policyset.Policy {
	t.Helper()
	made := witness.NewPolicy("fw", "b1", 9)
	text, err := json.Marshal(made.Spec)
	require.NoError(t, err)
	made.Spec = nil
	require.NoError(t, kubejson.UnmarshalCaseSensitivePreserveInts(text, &made.Spec))
	change(made, made.Spec["ingress"].([]any)[0].(map[string]any))
	return policyset.Of(made.ObjectMeta, made.Spec)
}

func TestWitnessIsToldFromWhatOnlyPretendsToBeOne(t *testing.T) {
	type rule = map[string]any
	for name, test := range map[string]struct {
		change func(p *witness.Policy, first rule)
		is     bool
	}{
		"as it was written":  {func(*witness.Policy, rule) {}, true},
		"as Calico has it":   {func(p *witness.Policy, _ rule) { p.Spec["tier"], p.Spec["egress"] = "default", []any{} }, true},
		"of another order":   {func(p *witness.Policy, _ rule) { p.Spec["order"] = 0.5 }, true},
		"without an order":   {func(p *witness.Policy, _ rule) { delete(p.Spec, "order") }, false},
		"it allows":          {func(_ *witness.Policy, first rule) { first["action"] = "Allow" }, false},
		"to every port":      {func(_ *witness.Policy, first rule) { delete(first["destination"].(rule), "ports") }, false},
		"not before DNAT":    {func(p *witness.Policy, _ rule) { delete(p.Spec, "preDNAT") }, false},
		"of other endpoints": {func(p *witness.Policy, _ rule) { p.Spec["selector"] = "all()" }, false},
		"of another set":     {func(p *witness.Policy, _ rule) { p.Labels[witness.Label] = "a0" }, false},
		"of another release": {func(p *witness.Policy, _ rule) { p.Labels["host-firewall.io/release"] = "other" }, false},
		"without its label":  {func(p *witness.Policy, _ rule) { delete(p.Labels, witness.Label) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			policy := witnessOf(t, test.change)
			foreign, _ := policyset.Foreign([]*policyset.Policy{policy}, "fw", bothStates(), nil)
			if test.is {
				assert.Equal(t, "b1", policy.Witness)
				assert.Empty(t, foreign)
				return
			}
			assert.Empty(t, policy.Witness)
			assert.Equal(t, []string{policy.Name}, foreign, "whoever takes the label is still in the way")
		})
	}
}

func TestWitnessOfWhoCarriesASetIsOneAsWell(t *testing.T) {
	made := witness.NewPolicy("fw", "b1-moved", 9)
	policy := policyset.Of(made.ObjectMeta, made.Spec)
	assert.Equal(t, "b1-moved", policy.Witness)
	foreign, _ := policyset.Foreign([]*policyset.Policy{policy}, "fw", bothStates(), nil)
	assert.Empty(t, foreign)
	assert.Empty(t, policyset.Present("fw", []*policyset.Policy{policy}))
	made.Labels[witness.Label] = "b1"
	assert.Empty(t, policyset.Of(made.ObjectMeta, made.Spec).Witness, "neither is the other")
}

func TestWitnessIsNoPartOfASet(t *testing.T) {
	policy := witnessOf(t, func(*witness.Policy, map[string]any) {})
	assert.Equal(t, 9.0, policy.Order)
	assert.Empty(t, policyset.Present("fw", []*policyset.Policy{policy}))
	set := clearance.Set{Revision: "b1", Policies: map[string]string{"fw-drop-b1": "0123456789abcdef"}}
	assert.Equal(t, "GlobalNetworkPolicies are missing: fw-drop-b1", policyset.Lack("fw", set, []*policyset.Policy{policy}))
	others, _ := policyset.Foreign([]*policyset.Policy{policy}, "other", bothStates(), nil)
	assert.Equal(t, []string{policy.Name}, others, "another release's is somebody else's")
}

func TestOrderIsReadHoweverItWasDecoded(t *testing.T) {
	for _, order := range []any{10.0, int64(10)} {
		assert.Equal(t, 10.0, policyset.Of(metav1.ObjectMeta{}, map[string]any{"order": order}).Order)
	}
}
