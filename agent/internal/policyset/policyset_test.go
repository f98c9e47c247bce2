package policyset_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubejson "sigs.k8s.io/json"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

const ssh = `{
	"order": 3000000, "preDNAT": true, "applyOnForward": true, "types": ["Ingress"],
	"selector": "host-firewall.io/release == 'fw' && host-firewall.io/set == 'b1'",
	"ingress": [
		{"action": "Allow", "protocol": "TCP", "source": {"nets": ["192.0.2.0/24"]}, "destination": {"ports": [22, "2200:2210"]}},
		{"action": "Deny"}
	]
}`

func spec(t *testing.T, text string) map[string]any {
	t.Helper()
	var decoded map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &decoded))
	return decoded
}

// digest is that of a spec, with which something has been done.
func digest(t *testing.T, change func(spec map[string]any)) string {
	t.Helper()
	changed := spec(t, ssh)
	change(changed)
	return policyset.Digest(changed)
}

func rule(spec map[string]any, i int) map[string]any {
	return spec["ingress"].([]any)[i].(map[string]any)
}

// The chart computes the digest with `toJson | sha256sum | trunc 16`. Helm's toJson is
// Go's, which sorts keys and escapes the & of a selector.
func TestDigestIsWhatTheChartComputes(t *testing.T) {
	const rendered = `{"applyOnForward":true,"ingress":[{"action":"Allow","destination":{"ports":[22,"2200:2210"]},"protocol":"TCP",` +
		`"source":{"nets":["192.0.2.0/24"]}},{"action":"Deny"}],"order":3000000,"preDNAT":true,` +
		`"selector":"host-firewall.io/release == 'fw' \u0026\u0026 host-firewall.io/set == 'b1'","types":["Ingress"]}`
	sum := sha256.Sum256([]byte(rendered))
	assert.Equal(t, hex.EncodeToString(sum[:])[:16], policyset.Digest(spec(t, ssh)))
}

func TestDigestStaysWhateverAnAPIServerAdds(t *testing.T) {
	for name, decorate := range map[string]func(spec map[string]any){
		"nothing":          func(map[string]any) {},
		"the default tier": func(s map[string]any) { s["tier"] = "default" },
		"an empty source and destination": func(s map[string]any) {
			rule(s, 1)["source"], rule(s, 1)["destination"] = map[string]any{}, map[string]any{}
		},
		"an empty thing in a thing": func(s map[string]any) {
			rule(s, 1)["source"] = map[string]any{"services": map[string]any{"name": ""}}
		},
		"null":                    func(s map[string]any) { s["egress"], rule(s, 0)["icmp"] = nil, nil },
		"an empty list":           func(s map[string]any) { s["egress"], s["performanceHints"] = []any{}, []any{} },
		"an empty text":           func(s map[string]any) { s["namespaceSelector"], rule(s, 0)["metadata"] = "", map[string]any{"x": ""} },
		"what is false":           func(s map[string]any) { s["doNotTrack"] = false },
		"whole numbers as such":   func(s map[string]any) { s["order"], rule(s, 0)["ipVersion"] = int64(3000000), nil },
		"an order of another Go":  func(s map[string]any) { s["order"] = 3000000 },
		"everything at once":      func(s map[string]any) { s["tier"], s["egress"], s["doNotTrack"] = "default", nil, false },
		"empty fields and a tier": func(s map[string]any) { s["tier"], rule(s, 0)["notProtocol"] = "default", "" },
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, policyset.Digest(spec(t, ssh)), digest(t, decorate))
		})
	}
	t.Run("read as client-go reads it", func(t *testing.T) {
		var read map[string]any
		require.NoError(t, kubejson.UnmarshalCaseSensitivePreserveInts([]byte(ssh), &read))
		require.IsType(t, int64(0), read["order"])
		assert.Equal(t, policyset.Digest(spec(t, ssh)), policyset.Digest(read))
	})
}

func TestDigestChangesWithWhatAPolicyDoes(t *testing.T) {
	seen := map[string]string{policyset.Digest(spec(t, ssh)): "nothing"}
	for name, change := range map[string]func(spec map[string]any){
		"Deny becomes Allow":          func(s map[string]any) { rule(s, 1)["action"] = "Allow" },
		"Deny becomes Log":            func(s map[string]any) { rule(s, 1)["action"] = "Log" },
		"the rules are emptied":       func(s map[string]any) { s["ingress"] = []any{} },
		"a rule goes":                 func(s map[string]any) { s["ingress"] = s["ingress"].([]any)[:1] },
		"the rules change places":     func(s map[string]any) { r := s["ingress"].([]any); s["ingress"] = []any{r[1], r[0]} },
		"a rule without fields":       func(s map[string]any) { s["ingress"] = append(s["ingress"].([]any), map[string]any{}) },
		"it is for pods":              func(s map[string]any) { s["namespaceSelector"] = "all()" },
		"it is for service accounts":  func(s map[string]any) { s["serviceAccountSelector"] = "all()" },
		"its networks are everything": func(s map[string]any) { rule(s, 0)["source"] = map[string]any{"nets": []any{}} },
		"another network":             func(s map[string]any) { rule(s, 0)["source"] = map[string]any{"nets": []any{"192.0.2.0/25"}} },
		"no network but one": func(s map[string]any) {
			rule(s, 0)["source"] = map[string]any{"notNets": []any{"192.0.2.0/24"}}
		},
		"another port":      func(s map[string]any) { rule(s, 0)["destination"] = map[string]any{"ports": []any{23.0, "2200:2210"}} },
		"no protocol":       func(s map[string]any) { delete(rule(s, 0), "protocol") },
		"another order":     func(s map[string]any) { s["order"] = 3000000.5 },
		"the order is zero": func(s map[string]any) { s["order"] = 0 },
		"no order":          func(s map[string]any) { delete(s, "order") },
		"both directions":   func(s map[string]any) { delete(s, "types") },
		"after DNAT":        func(s map[string]any) { s["preDNAT"] = false },
		"another tier":      func(s map[string]any) { s["tier"] = "security" },
		"it selects all":    func(s map[string]any) { s["selector"] = "" },
		"an unknown field":  func(s map[string]any) { s["future"] = "yes" },
	} {
		got := digest(t, change)
		assert.NotContains(t, seen, got, "%s looks like %s", name, seen[got])
		seen[got] = name
	}
	assert.Len(t, policyset.Digest(nil), 16, "a policy without a spec has one, too")
}

func TestDigestLeavesTheSpecAlone(t *testing.T) {
	decorated := spec(t, ssh)
	decorated["tier"], decorated["doNotTrack"] = "default", false
	policyset.Digest(decorated)
	assert.Equal(t, "default", decorated["tier"])
	assert.Contains(t, decorated, "doNotTrack")
}

// Calico's own API server reads a policy into its types and writes them out again.
// Whatever the chart renders comes back with the same digest.
func TestDigestOfWhatTheChartRendersSurvivesCalicosTypes(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "..", "..", "tests", "helm", "testdata", "policies", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range append(paths, "") {
		text := []byte(`[{"metadata": {"name": "ssh"}, "spec": ` + ssh + `}]`)
		if path != "" {
			text, err = os.ReadFile(path)
			require.NoError(t, err)
		}
		var policies []struct {
			Metadata metav1.ObjectMeta
			Spec     map[string]any
		}
		require.NoError(t, json.Unmarshal(text, &policies))
		require.NotEmpty(t, policies)
		for _, policy := range policies {
			before, err := json.Marshal(policy.Spec)
			require.NoError(t, err)
			var typed v3.GlobalNetworkPolicySpec
			require.NoError(t, json.Unmarshal(before, &typed))
			after, err := json.Marshal(typed)
			require.NoError(t, err)
			assert.Equal(t, policyset.Digest(policy.Spec), policyset.Digest(spec(t, string(after))), "%s %s", filepath.Base(path), policy.Metadata.Name)
		}
	}
}

func TestOfKeepsWhatIsAskedFor(t *testing.T) {
	meta := metav1.ObjectMeta{
		Name: "fw-ssh-b1", UID: "u1", ResourceVersion: "7",
		Labels:        map[string]string{"a": "b"},
		Annotations:   map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "all of it once more"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "helm"}},
	}
	got := policyset.Of(meta, map[string]any{"selector": "a", "namespaceSelector": "b", "serviceAccountSelector": "c"})
	assert.Equal(t, []string{"a", "b", "c"}, []string{got.Selector, got.NamespaceSelector, got.ServiceAccountSelector})
	assert.Equal(t, metav1.ObjectMeta{Name: "fw-ssh-b1", UID: "u1", ResourceVersion: "7", Labels: map[string]string{"a": "b"}}, got.ObjectMeta)
	assert.NotEmpty(t, meta.ManagedFields, "what was read is left alone")

	broken := policyset.Of(metav1.ObjectMeta{Name: "x"}, map[string]any{"selector": 5.0})
	assert.Empty(t, broken.Selector)
	assert.Equal(t, policyset.Digest(map[string]any{"selector": 5.0}), broken.Digest)
}

// What was written through Calico's v3 API has its labels in an annotation in v1.
func TestOfReadsLabelsThatCalicoShadows(t *testing.T) {
	got := policyset.Of(metav1.ObjectMeta{
		Name: "default.fw-ssh-b1", Labels: map[string]string{"projectcalico.org/tier": "default"},
		Annotations: map[string]string{"projectcalico.org/metadata": `{"labels":{"host-firewall.io/release":"fw","host-firewall.io/set":"b1"}}`},
	}, nil)
	assert.Equal(t, map[string]string{"projectcalico.org/tier": "default", "host-firewall.io/release": "fw", "host-firewall.io/set": "b1"}, got.Labels)
}

// policy is one of a set of a release.
func policy(name, release, set, digest string) *policyset.Policy {
	return &policyset.Policy{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"host-firewall.io/release": release, "host-firewall.io/set": set}},
		Digest:     digest,
	}
}

func leaving(p *policyset.Policy) *policyset.Policy {
	p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	return p
}

func TestSetLacksWhatIsMissingChangedOrStrange(t *testing.T) {
	drop, ssh := policy("fw-drop-b1", "fw", "b1", "d1"), policy("fw-ssh-b1", "fw", "b1", "d2")
	for name, test := range map[string]struct {
		have []*policyset.Policy
		want string
	}{
		"nothing there":          {nil, "GlobalNetworkPolicies are missing: fw-drop-b1, fw-ssh-b1"},
		"complete":               {[]*policyset.Policy{ssh, drop}, ""},
		"beside another set":     {[]*policyset.Policy{policy("fw-drop-a0", "fw", "a0", "x"), drop, ssh}, ""},
		"beside another release": {[]*policyset.Policy{policy("other-drop-b1", "other", "b1", "x"), drop, ssh}, ""},
		"beside anybody's":       {[]*policyset.Policy{{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}, drop, ssh}, ""},
		"one missing":            {[]*policyset.Policy{drop}, "GlobalNetworkPolicies are missing: fw-ssh-b1"},
		"one being deleted": {
			[]*policyset.Policy{drop, leaving(policy("fw-ssh-b1", "fw", "b1", "d2"))},
			"GlobalNetworkPolicies are missing: fw-ssh-b1",
		},
		"one being deleted, and there again": {[]*policyset.Policy{drop, leaving(policy("fw-ssh-b1", "fw", "b1", "d9")), ssh}, ""},
		"one edited": {
			[]*policyset.Policy{drop, policy("fw-ssh-b1", "fw", "b1", "d9")},
			"GlobalNetworkPolicies are not as the chart has rendered them: fw-ssh-b1",
		},
		"one without labels": {
			[]*policyset.Policy{drop, {ObjectMeta: metav1.ObjectMeta{Name: "fw-ssh-b1"}, Digest: "d2"}},
			"GlobalNetworkPolicies are not as the chart has rendered them: fw-ssh-b1",
		},
		"one labelled for another set": {
			[]*policyset.Policy{drop, policy("fw-ssh-b1", "fw", "a0", "d2")},
			"GlobalNetworkPolicies are not as the chart has rendered them: fw-ssh-b1",
		},
		"one labelled for another release": {
			[]*policyset.Policy{drop, policy("fw-ssh-b1", "other", "b1", "d2")},
			"GlobalNetworkPolicies are not as the chart has rendered them: fw-ssh-b1",
		},
		// Calico's API server shows what was written underneath it by the same name.
		"one there twice, once edited": {
			[]*policyset.Policy{drop, ssh, policy("fw-ssh-b1", "fw", "b1", "d9"), policy("fw-ssh-b1", "fw", "b1", "d8")},
			"GlobalNetworkPolicies are not as the chart has rendered them: fw-ssh-b1",
		},
		"one too many": {
			[]*policyset.Policy{drop, ssh, policy("allow-me", "fw", "b1", "d3")},
			"GlobalNetworkPolicies have the labels of set b1 and do not belong to it: allow-me",
		},
		"all of it": {
			[]*policyset.Policy{policy("fw-drop-b1", "fw", "b1", "d9"), policy("y", "fw", "b1", ""), policy("x", "fw", "b1", "")},
			"GlobalNetworkPolicies are missing: fw-ssh-b1; GlobalNetworkPolicies are not as the chart has rendered them: fw-drop-b1; " +
				"GlobalNetworkPolicies have the labels of set b1 and do not belong to it: x, y",
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := clearance.Set{Revision: "b1", Policies: map[string]string{"fw-drop-b1": "d1", "fw-ssh-b1": "d2"}}
			assert.Equal(t, test.want, policyset.Lack("fw", set, test.have))
		})
	}
}

func TestPresentIsWhatIsLeftOfTheSetsOfTheRelease(t *testing.T) {
	a, b, more := policy("fw-drop-a0", "fw", "a0", ""), policy("fw-drop-b1", "fw", "b1", ""), policy("fw-ssh-b1", "fw", "b1", "")
	got := policyset.Present("fw", []*policyset.Policy{
		a, b, more,
		leaving(policy("fw-drop-c2", "fw", "c2", "")), leaving(policy("fw-ssh-a0", "fw", "a0", "")),
		policy("other-drop-d3", "other", "d3", ""), policy("fw-drop", "fw", "", ""), {ObjectMeta: metav1.ObjectMeta{Name: "deny"}},
	})
	assert.Equal(t, map[string][]*policyset.Policy{"a0": {a}, "b1": {b, more}}, got)
}
