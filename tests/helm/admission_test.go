package helm_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestAdmissionPolicyIsWholeObjects(t *testing.T) {
	for _, group := range []string{apiV3, apiV1} {
		for _, names := range []struct{ release, namespace, id, values, account string }{
			{"host-firewall", "host-firewall", "host-firewall", ``, "host-firewall"},
			{"edge.eu", "kube-system", "edge-eu-host-firewall", `serviceAccount: {name: firewall}`, "firewall"},
		} {
			t.Run(group+"/"+names.release, func(t *testing.T) {
				r := render(t, setting{release: names.release, namespace: names.namespace, values: names.values, served: clusterServing(group)})
				kind := func(kind string) metav1.TypeMeta {
					return metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: kind}
				}
				want := func(name string, spec admissionv1.ValidatingAdmissionPolicySpec) (admissionv1.ValidatingAdmissionPolicy, admissionv1.ValidatingAdmissionPolicyBinding) {
					meta := metav1.ObjectMeta{Name: name, Labels: objectLabels(names.release, names.id)}
					return admissionv1.ValidatingAdmissionPolicy{TypeMeta: kind("ValidatingAdmissionPolicy"), ObjectMeta: meta, Spec: spec},
						admissionv1.ValidatingAdmissionPolicyBinding{
							TypeMeta: kind("ValidatingAdmissionPolicyBinding"), ObjectMeta: meta,
							Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
								PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
							},
						}
				}
				agents, agentsBinding := want(names.id, admissionSpec(names.namespace, names.account))
				sets, setsBinding := want(names.id+"-networksets", networkSetsSpec())
				require.ElementsMatch(t, []admissionv1.ValidatingAdmissionPolicy{agents, sets}, r.admissionPolicies)
				require.ElementsMatch(t, []admissionv1.ValidatingAdmissionPolicyBinding{agentsBinding, setsBinding}, r.admissionBindings)
				require.Equal(t, names.account, r.daemonSet(t).Spec.Template.Spec.ServiceAccountName, "the account that is held to it")

				// What it lets through is asked of Kubernetes in the package validator.
				policy := controlling[*admissionv1.ValidatingAdmissionPolicy](t, r)
				controller, binding := want(names.id+"-controller", policy.Spec)
				require.Equal(t, &controller, policy)
				require.Equal(t, &binding, controlling[*admissionv1.ValidatingAdmissionPolicyBinding](t, r))
				require.Equal(t, pointer(admissionv1.Fail), policy.Spec.FailurePolicy)
				require.Equal(t, []admissionv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionv1.RuleWithOperations{
						Operations: agents.Spec.MatchConstraints.ResourceRules[0].Operations,
						Rule: admissionv1.Rule{
							APIGroups: []string{"projectcalico.org", "crd.projectcalico.org"}, APIVersions: []string{"*"},
							Resources: []string{"hostendpoints", "felixconfigurations", "globalnetworkpolicies", "globalnetworksets"},
						},
					},
				}}, policy.Spec.MatchConstraints.ResourceRules)
				account := r.deployment(t).Spec.Template.Spec.ServiceAccountName
				require.Equal(t, []admissionv1.MatchCondition{{
					Name: "by-the-controller", Expression: "request.userInfo.username == 'system:serviceaccount:" + names.namespace + ":" + account + "'",
				}}, policy.Spec.MatchConditions)
			})
		}
	}
}

func admissionSpec(namespace, account string) admissionv1.ValidatingAdmissionPolicySpec {
	return admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy: pointer(admissionv1.Fail),
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
			RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete},
				Rule: admissionv1.Rule{
					APIGroups:   []string{"projectcalico.org", "crd.projectcalico.org"},
					APIVersions: []string{"*"},
					Resources:   []string{"hostendpoints", "felixconfigurations"},
				},
			},
		}}},
		MatchConditions: []admissionv1.MatchCondition{{
			Name: "by-an-agent", Expression: "request.userInfo.username == 'system:serviceaccount:" + namespace + ":" + account + "'",
		}},
		Variables: []admissionv1.Variable{
			{Name: "node", Expression: "request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('')"},
			{Name: "objects", Expression: "[object, oldObject].filter(o, o != null)"},
			{Name: "kept", Expression: "object.metadata.?annotations[?'projectcalico.org/metadata'].orValue('')"},
			{Name: "interface", Expression: "object.?spec.?interfaceName.orValue('')"},
			{Name: "fitted", Expression: "([variables.node] + variables.interface.lowerAscii().replace('_', '-').replace('.', '-').split('-')" +
				".filter(part, part != '')).join('-')"},
		},
		Validations: []admissionv1.Validation{
			{
				Expression: "variables.node != ''",
				Message:    "an agent's token has to be bound to a pod on a node, and this one is not",
			},
			{
				Expression: "size(variables.objects) > 0",
				Message:    "agents write one object at a time",
			},
			{
				Expression:        "request.resource.resource != 'hostendpoints' || variables.objects.all(o, o.?spec.?node.orValue('') == variables.node)",
				MessageExpression: "'the agent of node ' + variables.node + ' writes host endpoints of that node only'",
			},
			{
				Expression: "request.resource.resource != 'hostendpoints' || object == null || object.metadata.name == variables.node" +
					" || object.metadata.name == variables.node + '-' + variables.interface && variables.interface.matches('^[a-z0-9]+([.][a-z0-9]+)*$')" +
					" || object.metadata.name.matches('^.+-[0-9a-f]{12}$') && [object.metadata.name.substring(0, size(object.metadata.name) - 13)].all(head," +
					" head == variables.fitted || size(variables.fitted) > 240 && variables.fitted.startsWith(head))",
				MessageExpression: "'the agent of node ' + variables.node + ' names a host endpoint by that node and the interface only'",
			},
			{
				Expression: "request.resource.resource != 'hostendpoints' || object == null || !object.metadata.?labels[?'host-firewall.io/trust'].hasValue()" +
					` && !variables.kept.matches('host-firewall[.]io/trust|[\\\\](/|u00(2[d-fD-F]|[4-7]))')`,
				MessageExpression: "'the agent of node ' + variables.node + ' gives no host endpoint the label host-firewall.io/trust'",
			},
			{
				Expression:        "request.resource.resource != 'felixconfigurations' || variables.objects.all(o, o.metadata.name == 'node.' + variables.node)",
				MessageExpression: "'the agent of node ' + variables.node + ' writes the FelixConfiguration node.' + variables.node + ' only'",
			},
		},
	}
}

func networkSetsSpec() admissionv1.ValidatingAdmissionPolicySpec {
	return admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy: pointer(admissionv1.Fail),
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
			RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule: admissionv1.Rule{
					APIGroups:   []string{"projectcalico.org", "crd.projectcalico.org"},
					APIVersions: []string{"*"},
					Resources:   []string{"networksets"},
				},
			},
		}}},
		Variables: []admissionv1.Variable{
			{Name: "kept", Expression: "object.metadata.?annotations[?'projectcalico.org/metadata'].orValue('')"},
		},
		Validations: []admissionv1.Validation{{
			Expression: "!object.metadata.?labels[?'projectcalico.org/orchestrator'].hasValue()" +
				` && !variables.kept.matches('projectcalico[.]org/orchestrator|[\\\\](/|u00(2[d-fD-F]|[4-7]))')`,
			Message: "a NetworkSet with the label projectcalico.org/orchestrator would count as a pod, and host-firewall lets pods in to every node",
		}},
	}
}

func TestAdmissionPolicyIsThereWhereTheClusterServesIt(t *testing.T) {
	t.Parallel()
	without := chartutil.VersionSet{"v1", "v1/Node", apiV1 + "/GlobalNetworkPolicy"}
	for name, test := range map[string]struct {
		setting
		want int // that of the agents, and that of NetworkSets
	}{
		"served":                     {setting{kubernetes: "v1.30.0", served: clusterServing(apiV1)}, 2},
		"served by a vendor's build": {setting{kubernetes: "v1.30.1-gke.5", served: clusterServing(apiV1)}, 2},
		"served, tokens do not name their node yet": {setting{kubernetes: "v1.29.9", served: clusterServing(apiV1)}, 0},
		"not served":                            {setting{kubernetes: newestKubernetes, served: without}, 0},
		"no cluster to ask, new Kubernetes":     {setting{kubernetes: newestKubernetes}, 2},
		"no cluster to ask, old Kubernetes":     {setting{kubernetes: oldestKubernetes}, 0},
		"switched off":                          {setting{served: clusterServing(apiV1), values: `admissionPolicy: {enabled: false}`}, 0},
		"switched off, and no cluster to ask":   {setting{values: `admissionPolicy: {enabled: false}`}, 0},
		"pods are not trusted":                  {setting{served: clusterServing(apiV1), values: `cluster: {trustPods: false}`}, 1},
		"with rights that somebody else grants": {setting{served: clusterServing(apiV1), values: `rbac: {create: false}`}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, test.setting)
			require.Len(t, r.admissionPolicies, test.want)
			require.Len(t, r.admissionBindings, test.want, "one without the other says nothing")
			controllers := slices.ContainsFunc(r.controlling, func(o runtime.Object) bool {
				_, is := o.(*admissionv1.ValidatingAdmissionPolicy)
				return is
			})
			require.Equal(t, test.want > 0, controllers)
			if wanted := !strings.Contains(test.values, "admissionPolicy"); wanted && test.want == 0 {
				require.Contains(t, r.notes, "ATTENTION: who takes over one node can open all others", "a promise that is not kept is owned up to")
			} else {
				require.NotContains(t, r.notes, "ATTENTION")
			}
		})
	}
}
