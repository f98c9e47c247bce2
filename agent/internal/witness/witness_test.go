package witness_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// What agents of one version are told, controllers of the next have to go on with: a set keeps its addresses.
func TestAddressesOfASetStayTheSame(t *testing.T) {
	assert.Equal(t, clearance.Witness{
		From: netip.MustParseAddr("127.66.57.27"), To: netip.MustParseAddr("127.66.91.47"), Control: netip.MustParseAddr("127.66.161.5"),
		Moved: netip.MustParseAddr("127.66.229.149"),
	}, witness.Of("fw", "aaaa0001"))
	assert.NotEqual(t, witness.Of("fw", "aaaa0001"), witness.Of("fw", "aaaa0002"))
	assert.NotEqual(t, witness.Of("fw", "aaaa0001"), witness.Of("fw2", "aaaa0001"))
}

func TestNoAddressHasTwoMeanings(t *testing.T) {
	loopback, meaning := netip.MustParsePrefix("127.66.0.0/16"), map[netip.Addr]string{}
	for i := range 20000 {
		w := witness.Of("fw", fmt.Sprintf("%08x", i))
		for what, addr := range map[string]netip.Addr{"from": w.From, "to": w.To, "moved": w.Moved, "control": w.Control} {
			last := addr.As4()[3]
			if !loopback.Contains(addr) || last == 0 || last == 255 || meaning[addr] != "" && meaning[addr] != what {
				t.Fatalf("%s has %s, which is also %q", what, addr, meaning[addr])
			}
			meaning[addr] = what
		}
	}
	assert.Greater(t, len(meaning), 40000, "they are spread over all that there are")
}

func TestPolicyDeniesOneConnectionOfEachFamilyAndNothingElse(t *testing.T) {
	w := witness.Of("fw", "aaaa0001")
	policy := witness.NewPolicy("fw", "aaaa0001", 9.5)
	assert.Equal(t, "fw-witness-aaaa0001", policy.Name)
	assert.Equal(t, map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/witness": "aaaa0001"}, policy.Labels)
	assert.Equal(t, map[string]any{
		"order": 9.5, "selector": "host-firewall.io/release == 'fw'", "types": []any{"Ingress"}, "preDNAT": true, "applyOnForward": true,
		"ingress": []any{
			map[string]any{
				"action": "Deny", "protocol": "TCP",
				"source": map[string]any{
					"nets":     []any{w.From.String() + "/32"},
					"selector": "host-firewall.io/release == 'fw' && host-firewall.io/trust == 'witness'", "namespaceSelector": "global()",
				},
				"destination": map[string]any{"nets": []any{w.To.String() + "/32"}, "ports": []any{9}},
			},
			map[string]any{
				"action": "Deny", "protocol": "TCP",
				"source":      map[string]any{"nets": []any{"::1/128"}},
				"destination": map[string]any{"nets": []any{"::1/128"}, "ports": []any{9}},
			},
		},
	}, policy.Spec)
}

func TestSecondPolicyDeniesOneConnectionOfWhoCarriesTheSet(t *testing.T) {
	w, first := witness.Of("fw", "aaaa0001"), witness.NewPolicy("fw", "aaaa0001", 9.5)
	policy := witness.NewPolicy("fw", "aaaa0001-moved", 9.5)
	assert.Equal(t, "fw-witness-aaaa0001-moved", policy.Name)
	assert.Equal(t, map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/witness": "aaaa0001-moved"}, policy.Labels)
	rule := first.Spec["ingress"].([]any)[0].(map[string]any)
	rule["destination"] = map[string]any{"nets": []any{w.Moved.String() + "/32"}, "ports": []any{9}}
	first.Spec["ingress"], first.Spec["selector"] = []any{rule}, "host-firewall.io/release == 'fw' && host-firewall.io/set contains 'aaaa0001'"
	assert.Equal(t, first.Spec, policy.Spec, "it comes at the same place, and from the same address")
}

func TestNetworkSetHoldsWhereConnectionsComeFromInOneOrder(t *testing.T) {
	set, turned := witness.NewSet("fw", []string{"a", "b", "c"}), witness.NewSet("fw", []string{"c", "b", "a"})
	assert.Equal(t, "fw-witness", set.Name)
	assert.Equal(t, map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/trust": "witness"}, set.Labels)
	assert.Equal(t, set, turned)
	assert.ElementsMatch(t, []string{
		witness.Of("fw", "a").From.String() + "/32", witness.Of("fw", "b").From.String() + "/32", witness.Of("fw", "c").From.String() + "/32",
	}, set.Spec.Nets)
}
