package gate_test

import (
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/gate"
)

// The labels that an endpoint would have, unarmed and armed.
func bothStates() []map[string]string {
	return []map[string]string{
		{"host-firewall.io/release": "fw", "rack": "r7"},
		{"host-firewall.io/release": "fw", "rack": "r7", "host-endpoint": "ingress"},
	}
}

func TestForeignPoliciesAreJudgedAsFelixJudgesThem(t *testing.T) {
	for name, test := range map[string]struct {
		spec    v3.GlobalNetworkPolicySpec
		selects bool
	}{
		"no selector is all()":                          {v3.GlobalNetworkPolicySpec{}, true},
		"all()":                                         {v3.GlobalNetworkPolicySpec{Selector: "all()"}, true},
		"global()":                                      {v3.GlobalNetworkPolicySpec{Selector: "global()"}, true},
		"pods of any namespace":                         {v3.GlobalNetworkPolicySpec{Selector: "has(projectcalico.org/namespace)"}, false},
		"a negation":                                    {v3.GlobalNetworkPolicySpec{Selector: "!has(app)"}, true},
		"another value":                                 {v3.GlobalNetworkPolicySpec{Selector: "app != 'db'"}, true},
		"not in a set":                                  {v3.GlobalNetworkPolicySpec{Selector: "app not in {'db'}"}, true},
		"a label of others":                             {v3.GlobalNetworkPolicySpec{Selector: "app == 'db'"}, false},
		"a label that is copied from the node":          {v3.GlobalNetworkPolicySpec{Selector: "rack starts with 'r'"}, true},
		"armed endpoints only":                          {v3.GlobalNetworkPolicySpec{Selector: "host-endpoint == 'ingress'"}, true},
		"endpoints that are not armed":                  {v3.GlobalNetworkPolicySpec{Selector: "!has(host-endpoint)"}, true},
		"endpoints of another release":                  {v3.GlobalNetworkPolicySpec{Selector: "host-firewall.io/release == 'other'"}, false},
		"pods, by a namespaceSelector":                  {v3.GlobalNetworkPolicySpec{NamespaceSelector: "all()"}, false},
		"pods, by both":                                 {v3.GlobalNetworkPolicySpec{Selector: "all()", NamespaceSelector: "env == 'prod'"}, false},
		"pods, by a service account":                    {v3.GlobalNetworkPolicySpec{ServiceAccountSelector: "role == 'db'"}, false},
		"all pods, by both":                             {v3.GlobalNetworkPolicySpec{Selector: "all()", NamespaceSelector: "env != 'prod'"}, false},
		"all pods with a service account":               {v3.GlobalNetworkPolicySpec{Selector: "all()", ServiceAccountSelector: "role != 'db'"}, false},
		"a namespaceSelector that only forbids":         {v3.GlobalNetworkPolicySpec{NamespaceSelector: "env != 'prod'"}, true},
		"negations in both":                             {v3.GlobalNetworkPolicySpec{Selector: "!has(app)", NamespaceSelector: "!has(quarantine)"}, true},
		"a service account that is only forbidden":      {v3.GlobalNetworkPolicySpec{ServiceAccountSelector: "role not in {'db'}"}, true},
		"a label of the namespace, not of the endpoint": {v3.GlobalNetworkPolicySpec{NamespaceSelector: "rack == 'r7'"}, false},
		"a negation for pods":                           {v3.GlobalNetworkPolicySpec{Selector: "!has(app)", NamespaceSelector: "all()"}, false},
		"one of the two demands a namespace":            {v3.GlobalNetworkPolicySpec{Selector: "!has(app)", NamespaceSelector: "has(env) || !has(quarantine) && has(x)"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := gate.Foreign([]*v3.GlobalNetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: test.spec}}, "fw", bothStates(), nil)
			assert.NoError(t, err)
			if test.selects {
				assert.Equal(t, []string{"x"}, got)
			} else {
				assert.Empty(t, got)
			}
		})
	}
}

func TestForeignIsWhatIsNeitherOursNorAccepted(t *testing.T) {
	everything := func(name, release string) *v3.GlobalNetworkPolicy {
		p := policy(name, release, "r1")
		p.Spec.Selector = "all()"
		return p
	}
	policies := []*v3.GlobalNetworkPolicy{
		everything("fw-drop-other", "fw"),
		everything("zone.deny", ""),
		everything("other-drop-other", "other"),
		everything("default.deny", ""),
	}
	for name, test := range map[string]struct {
		accepted, want []string
	}{
		"none is accepted":                 {nil, []string{"default.deny", "other-drop-other", "zone.deny"}},
		"by its name":                      {[]string{"default.deny"}, []string{"other-drop-other", "zone.deny"}},
		"by its name without the tier":     {[]string{"deny"}, []string{"other-drop-other", "zone.deny"}},
		"by its name with the tier":        {[]string{"default.other-drop-other"}, []string{"default.deny", "zone.deny"}},
		"another tier is no default tier":  {[]string{"zone", "other"}, []string{"default.deny", "other-drop-other", "zone.deny"}},
		"a part of a name accepts nothing": {[]string{"default.", "", "den"}, []string{"default.deny", "other-drop-other", "zone.deny"}},
		"all":                              {[]string{"*"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := gate.Foreign(policies, "fw", bothStates(), test.accepted)
			assert.NoError(t, err)
			assert.Equal(t, test.want, got)
		})
	}
}

func TestPolicyThatFelixCannotReadSelectsNothingAndIsNamed(t *testing.T) {
	broken := func(name string, spec v3.GlobalNetworkPolicySpec) *v3.GlobalNetworkPolicy {
		return &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	}
	got, err := gate.Foreign([]*v3.GlobalNetworkPolicy{
		broken("b", v3.GlobalNetworkPolicySpec{Selector: "app ="}),
		broken("c", v3.GlobalNetworkPolicySpec{Selector: "all()"}),
		broken("a", v3.GlobalNetworkPolicySpec{NamespaceSelector: "env =="}),
	}, "fw", bothStates(), nil)
	assert.Equal(t, []string{"c"}, got)
	assert.ErrorContains(t, err, "GlobalNetworkPolicy a has a selector that cannot be read")
	assert.ErrorContains(t, err, "GlobalNetworkPolicy b has a selector that cannot be read")
	_, err = gate.Foreign([]*v3.GlobalNetworkPolicy{broken("b", v3.GlobalNetworkPolicySpec{Selector: "app ="})}, "fw", bothStates(), []string{"b"})
	assert.NoError(t, err, "an accepted one is of no interest")
}
