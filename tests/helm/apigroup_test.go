package helm_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	discoveryfake "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestAPIGroupIsTheOneThatIsServed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		served chartutil.VersionSet
		values string
		want   string
	}{
		"without a cluster":          {nil, ``, apiV3},
		"v1 only":                    {clusterServing(apiV1), ``, apiV1},
		"v3 only":                    {clusterServing(apiV3), ``, apiV3},
		"v3 before v1":               {clusterServing(apiV1, apiV3), ``, apiV3},
		"v1 where v3 lacks the kind": {append(clusterServing(apiV1), apiV3), ``, apiV1},
		"without a cluster, v1 named by its group":  {chartutil.VersionSet{apiV1}, ``, apiV1},
		"without a cluster, v1 named by its kind":   {chartutil.VersionSet{apiV1 + "/GlobalNetworkPolicy"}, ``, apiV1},
		"without a cluster, both named":             {chartutil.VersionSet{apiV1, apiV3}, ``, apiV3},
		"v1 by value where both are served":         {clusterServing(apiV1, apiV3), `calico: {apiGroup: crd.projectcalico.org/v1}`, apiV1},
		"v3 by value where only v1 is served":       {clusterServing(apiV1), `calico: {apiGroup: projectcalico.org/v3}`, apiV3},
		"v1 by value where nothing of it is served": {clusterWithoutCalico(), `calico: {apiGroup: crd.projectcalico.org/v1}`, apiV1},
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, setting{served: test.served, values: test.values})
			for _, policy := range r.policies {
				require.Equal(t, test.want, policy.APIVersion)
			}
			require.Equal(t, test.want, argumentsOf(t, r)["api-group"])
			group := map[string]string{apiV3: "projectcalico.org", apiV1: "crd.projectcalico.org"}[test.want]
			require.Equal(t, []string{group}, r.clusterRoles[0].Rules[0].APIGroups)
			require.Equal(t, test.want, controllerArguments(t, r)["api-group"])
			require.Contains(t, r.notes, "kubectl get hostendpoints."+group+" ")
		})
	}
}

func TestClusterWithoutCalicoIsRefusedInWords(t *testing.T) {
	for name, served := range map[string]chartutil.VersionSet{
		"nothing of Calico": clusterWithoutCalico(),
		"some other CRD":    append(clusterWithoutCalico(), apiV1, apiV1+"/IPPool"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRender(t, setting{served: served})
			require.ErrorContains(t, err, "This cluster serves GlobalNetworkPolicy neither in projectcalico.org/v3 nor in crd.projectcalico.org/v1")
			require.ErrorContains(t, err, "Install Calico first")
		})
	}
}

// The chart takes v1/Node for the mark of a real cluster. Both halves of that are Helm's doing, so both are asked of Helm.
func TestHelmTellsARealClusterFromNone(t *testing.T) {
	require.NotContains(t, chartutil.DefaultCapabilities.APIVersions, "v1/Node", "what helm template knows without a cluster")

	served, err := action.GetVersionSet(&discoveryfake.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "nodes", Kind: "Node"}, {Name: "nodes/status", Kind: "Node"}}},
		{GroupVersion: apiV1, APIResources: []metav1.APIResource{{Name: "globalnetworkpolicies", Kind: "GlobalNetworkPolicy"}}},
	}}})
	require.NoError(t, err)
	require.Subset(t, served, []string{"v1/Node", apiV1, apiV1 + "/GlobalNetworkPolicy"}, "what helm install finds in one")
}
