package policyset_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

// The labels that an endpoint would have, unarmed and armed.
func bothStates() []map[string]string {
	return []map[string]string{
		{"host-firewall.io/release": "fw", "rack": "r7"},
		{"host-firewall.io/release": "fw", "rack": "r7", "host-endpoint": "ingress", "host-firewall.io/set": "b1"},
	}
}

func TestForeignPoliciesAreJudgedAsFelixJudgesThem(t *testing.T) {
	type spec = map[string]any
	for name, test := range map[string]struct {
		spec    spec
		selects bool
	}{
		"no selector is all()":                          {spec{}, true},
		"all()":                                         {spec{"selector": "all()"}, true},
		"global()":                                      {spec{"selector": "global()"}, true},
		"pods of any namespace":                         {spec{"selector": "has(projectcalico.org/namespace)"}, false},
		"a negation":                                    {spec{"selector": "!has(app)"}, true},
		"another value":                                 {spec{"selector": "app != 'db'"}, true},
		"not in a set":                                  {spec{"selector": "app not in {'db'}"}, true},
		"a label of others":                             {spec{"selector": "app == 'db'"}, false},
		"a label that is copied from the node":          {spec{"selector": "rack starts with 'r'"}, true},
		"armed endpoints only":                          {spec{"selector": "host-endpoint == 'ingress'"}, true},
		"endpoints of this set only":                    {spec{"selector": "host-firewall.io/set == 'b1'"}, true},
		"endpoints that are not armed":                  {spec{"selector": "!has(host-firewall.io/set)"}, true},
		"endpoints of another set":                      {spec{"selector": "host-firewall.io/set == 'a0'"}, false},
		"endpoints of another release":                  {spec{"selector": "host-firewall.io/release == 'other'"}, false},
		"pods, by a namespaceSelector":                  {spec{"namespaceSelector": "all()"}, false},
		"pods, by both":                                 {spec{"selector": "all()", "namespaceSelector": "env == 'prod'"}, false},
		"pods, by a service account":                    {spec{"serviceAccountSelector": "role == 'db'"}, false},
		"all pods, by both":                             {spec{"selector": "all()", "namespaceSelector": "env != 'prod'"}, false},
		"all pods with a service account":               {spec{"selector": "all()", "serviceAccountSelector": "role != 'db'"}, false},
		"a namespaceSelector that only forbids":         {spec{"namespaceSelector": "env != 'prod'"}, true},
		"negations in both":                             {spec{"selector": "!has(app)", "namespaceSelector": "!has(quarantine)"}, true},
		"a service account that is only forbidden":      {spec{"serviceAccountSelector": "role not in {'db'}"}, true},
		"a label of the namespace, not of the endpoint": {spec{"namespaceSelector": "rack == 'r7'"}, false},
		"a negation for pods":                           {spec{"selector": "!has(app)", "namespaceSelector": "all()"}, false},
		"one of the two demands a namespace":            {spec{"selector": "!has(app)", "namespaceSelector": "has(env) || !has(quarantine) && has(x)"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			read := policyset.Of(metav1.ObjectMeta{Name: "x"}, test.spec)
			made := &policyset.Policy{ObjectMeta: read.ObjectMeta, Selector: read.Selector,
				NamespaceSelector: read.NamespaceSelector, ServiceAccountSelector: read.ServiceAccountSelector}
			for _, policy := range []*policyset.Policy{read, made} {
				got, unreadable := policyset.Foreign([]*policyset.Policy{policy}, "fw", bothStates(), nil)
				assert.Empty(t, unreadable)
				if test.selects {
					assert.Equal(t, []string{"x"}, got)
				} else {
					assert.Empty(t, got)
				}
			}
		})
	}
}

// selecting returns a policy with such a selector.
func selecting(selector string, p *policyset.Policy) *policyset.Policy {
	p.Selector = selector
	return p
}

func TestForeignIsWhatIsNeitherOursNorAccepted(t *testing.T) {
	policies := []*policyset.Policy{
		selecting("host-firewall.io/set == 'b1'", policy("fw-drop-b1", "fw", "b1", "")),
		selecting("all()", policy("zone.deny", "", "", "")),
		selecting("all()", policy("other-drop-b1", "other", "b1", "")),
		selecting("all()", policy("default.deny", "", "", "")),
		selecting("all()", policy("default.deny", "", "", "")),
	}
	for name, test := range map[string]struct {
		accepted, want []string
	}{
		"none is accepted":                 {nil, []string{"default.deny", "other-drop-b1", "zone.deny"}},
		"by its name":                      {[]string{"default.deny"}, []string{"other-drop-b1", "zone.deny"}},
		"by its name without the tier":     {[]string{"deny"}, []string{"other-drop-b1", "zone.deny"}},
		"by its name with the tier":        {[]string{"default.other-drop-b1"}, []string{"default.deny", "zone.deny"}},
		"another tier is no default tier":  {[]string{"zone", "other"}, []string{"default.deny", "other-drop-b1", "zone.deny"}},
		"a part of a name accepts nothing": {[]string{"default.", "", "den"}, []string{"default.deny", "other-drop-b1", "zone.deny"}},
		"all":                              {[]string{"*"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, unreadable := policyset.Foreign(policies, "fw", bothStates(), test.accepted)
			assert.Empty(t, unreadable)
			assert.Equal(t, test.want, got)
		})
	}
}

// A policy of the set that somebody has edited so that it selects endpoints that are not armed
// would close a node that nothing is allowed to yet.
func TestPolicyOfTheSetThatSelectsUnarmedEndpointsIsInTheWay(t *testing.T) {
	policies := []*policyset.Policy{selecting("all()", policy("fw-drop-b1", "fw", "b1", ""))}
	got, _ := policyset.Foreign(policies, "fw", bothStates(), nil)
	assert.Equal(t, []string{"fw-drop-b1"}, got)
}

// A label of ours does not make a policy ours: what the labels don't arm with is judged by
// whom it selects, and the sets beside this one don't select its endpoints.
func TestOnlyTheSetThatArmsIsNotForeign(t *testing.T) {
	const ofA, ofB = "host-firewall.io/release == 'fw' && host-firewall.io/set == 'a0'", "host-firewall.io/release == 'fw' && host-firewall.io/set == 'b1'"
	got, unreadable := policyset.Foreign([]*policyset.Policy{
		selecting(ofA, policy("fw-drop-a0", "fw", "a0", "")),
		selecting(ofB, policy("fw-drop-b1", "fw", "b1", "")),
		selecting("all()", policy("fw-edited-a0", "fw", "a0", "")),
		selecting("all()", policy("fw-without-a-set", "fw", "", "")),
		selecting(ofB, policy("stranger", "", "b1", "")),
	}, "fw", bothStates(), nil)
	assert.Empty(t, unreadable)
	assert.Equal(t, []string{"fw-edited-a0", "fw-without-a-set", "stranger"}, got)

	unarmed := bothStates()[:1]
	got, _ = policyset.Foreign([]*policyset.Policy{selecting("all()", policy("fw-without-a-set", "fw", "", ""))}, "fw", unarmed, nil)
	assert.Equal(t, []string{"fw-without-a-set"}, got, "no set is none that arms")
}

func TestPolicyThatFelixCannotReadSelectsNothingAndIsNamed(t *testing.T) {
	of := func(name string, spec map[string]any) *policyset.Policy {
		return policyset.Of(metav1.ObjectMeta{Name: name}, spec)
	}
	got, unreadable := policyset.Foreign([]*policyset.Policy{
		of("b", map[string]any{"selector": "app ="}),
		of("c", map[string]any{"selector": "all()"}),
		of("a", map[string]any{"namespaceSelector": "env =="}),
	}, "fw", bothStates(), nil)
	assert.Equal(t, []string{"c"}, got)
	assert.Regexp(t, "^GlobalNetworkPolicy a has a selector that cannot be read, so Felix ignores it: .+; GlobalNetworkPolicy b has a selector that cannot be read", unreadable)

	_, unreadable = policyset.Foreign([]*policyset.Policy{of("b", map[string]any{"selector": "app ="})}, "fw", bothStates(), []string{"b"})
	assert.Empty(t, unreadable, "an accepted one is of no interest")
}
