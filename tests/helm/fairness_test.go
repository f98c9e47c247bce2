package helm_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestQueueOfTheAgentsIsWholeObjects(t *testing.T) {
	for _, names := range []struct{ release, namespace, id, values, account string }{
		{"host-firewall", "host-firewall", "host-firewall", ``, "host-firewall"},
		{"edge.eu", "kube-system", "edge-eu-host-firewall", `serviceAccount: {name: firewall}`, "firewall"},
	} {
		t.Run(names.release, func(t *testing.T) {
			r := render(t, setting{release: names.release, namespace: names.namespace, values: names.values, served: clusterServing(apiV1)})
			kind := func(kind string) metav1.TypeMeta {
				return metav1.TypeMeta{APIVersion: "flowcontrol.apiserver.k8s.io/v1", Kind: kind}
			}
			meta := metav1.ObjectMeta{Name: names.id, Labels: objectLabels(names.release, names.id)}
			share, lent := int32(10), int32(100)
			require.Equal(t, []flowcontrolv1.PriorityLevelConfiguration{{
				TypeMeta: kind("PriorityLevelConfiguration"), ObjectMeta: meta,
				Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
					Type: flowcontrolv1.PriorityLevelEnablementLimited,
					Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
						NominalConcurrencyShares: &share, LendablePercent: &lent,
						LimitResponse: flowcontrolv1.LimitResponse{
							Type:    flowcontrolv1.LimitResponseTypeQueue,
							Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 1, HandSize: 1, QueueLengthLimit: 10000},
						},
					},
				},
			}}, r.priorityLevels)
			every := []string{"*"}
			require.Equal(t, []flowcontrolv1.FlowSchema{{
				TypeMeta: kind("FlowSchema"), ObjectMeta: meta,
				Spec: flowcontrolv1.FlowSchemaSpec{
					PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: names.id},
					MatchingPrecedence:         850,
					DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
					Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
						Subjects: []flowcontrolv1.Subject{
							{Kind: rbacv1.ServiceAccountKind, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Name: names.account, Namespace: names.namespace}},
						},
						ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: every, APIGroups: every, Resources: every, ClusterScope: true, Namespaces: every}},
						NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: every, NonResourceURLs: every}},
					}},
				},
			}}, r.flowSchemas)
			require.Equal(t, names.account, r.daemonSet(t).Spec.Template.Spec.ServiceAccountName, "the account whose requests wait there")
			require.NotEqual(t, names.account, r.deployment(t).Spec.Template.Spec.ServiceAccountName, "the agents wait for the controller, which must not wait behind them")
		})
	}
}

func TestQueueOfTheAgentsIsThereWhereTheClusterServesIt(t *testing.T) {
	without := chartutil.VersionSet{"v1", "v1/Node", apiV1 + "/GlobalNetworkPolicy"}
	for name, test := range map[string]struct {
		setting
		want int
	}{
		"served":                              {setting{kubernetes: "v1.29.0", served: clusterServing(apiV1)}, 1},
		"not served":                          {setting{served: without}, 0},
		"served in an older version":          {setting{kubernetes: "v1.28.9", served: clusterServing(apiV1)}, 0},
		"no cluster to ask, new Kubernetes":   {setting{}, 1},
		"no cluster to ask, old Kubernetes":   {setting{kubernetes: oldestKubernetes}, 0},
		"switched off":                        {setting{served: clusterServing(apiV1), values: `priorityAndFairness: {enabled: false}`}, 0},
		"switched off, and no cluster to ask": {setting{values: `priorityAndFairness: {enabled: false}`}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, test.setting)
			require.Len(t, r.flowSchemas, test.want)
			require.Len(t, r.priorityLevels, test.want, "one without the other says nothing")
		})
	}
}
