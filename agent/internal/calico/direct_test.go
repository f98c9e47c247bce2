package calico_test

import (
	"log/slog"
	"maps"
	"net/http"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/status"
)

const (
	daemonSet  = "/apis/apps/v1/namespaces/ns/daemonsets/fw"
	deployment = "/apis/apps/v1/namespaces/ns/deployments/fw-controller"
	configMap  = "/api/v1/namespaces/ns/configmaps/fw"
)

func newDirect(t *testing.T, server *apiServer, group string) *calico.Direct {
	t.Helper()
	c, err := calico.NewDirect(&rest.Config{Host: server.URL}, calico.Options{Release: "fw", Namespace: "ns", APIGroup: group, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return c
}

func TestCommandFindsOutWhetherThereIsCalico(t *testing.T) {
	all := resources("hostendpoints", "globalnetworkpolicies")
	for name, test := range map[string]struct {
		group string
		on    map[string]http.HandlerFunc
		words string
	}{
		"none":                        {"", nil, "install Calico or its CRDs"},
		"the older one":               {"", map[string]http.HandlerFunc{"GET /apis/crd.projectcalico.org/v1": all}, ""},
		"both":                        {"", map[string]http.HandlerFunc{"GET /apis/projectcalico.org/v3": all, "GET /apis/crd.projectcalico.org/v1": all}, ""},
		"only the one not asked for":  {calico.GroupV3, map[string]http.HandlerFunc{"GET /apis/crd.projectcalico.org/v1": all}, "does not serve hostendpoints, Calico's CRD may be missing"},
		"out of reach is not missing": {"", map[string]http.HandlerFunc{"GET /apis/projectcalico.org/v3": failure(503, metav1.StatusReasonServiceUnavailable)}, "get resources of projectcalico.org/v3"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newAPIServer(t)
			for what, answer := range test.on {
				server.on(what, answer)
			}
			server.on("GET /apis/crd.projectcalico.org/v1/hostendpoints", list(calico.GroupCRD, "HostEndpointList"))
			server.on("GET /apis/projectcalico.org/v3/hostendpoints", failure(404, metav1.StatusReasonNotFound))
			if test.on["GET /apis/projectcalico.org/v3"] != nil {
				server.on("GET /apis/projectcalico.org/v3/hostendpoints", list(calico.GroupV3, "HostEndpointList"))
			}
			d := newDirect(t, server, test.group)
			err := d.Find(t.Context())
			if err == nil {
				_, err = d.Objects(t.Context(), v3.KindHostEndpoint)
			}
			if test.words == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, test.words)
			}
		})
	}
}

var (
	agents       = cleanup.Object{Kind: "DaemonSet", Namespace: "ns", Name: "fw"}
	itsConfigMap = cleanup.Object{Kind: "ConfigMap", Namespace: "ns", Name: "fw"}
)

func TestObjectIsDeletedInTheForegroundOnlyWhereThatIsAsked(t *testing.T) {
	server := newAPIServer(t)
	c := newDirect(t, server, calico.GroupCRD)
	for what, where := range map[cleanup.Object]string{
		agents: daemonSet,
		{Kind: "Deployment", Namespace: "ns", Name: "fw-controller"}: deployment,
		itsConfigMap: configMap,
		{Kind: "Pod", Namespace: "ns", Name: "fw-test"}: "/api/v1/namespaces/ns/pods/fw-test",
	} {
		assert.True(t, apierrors.IsNotFound(c.Delete(t.Context(), what, true)), what)
		server.on("DELETE "+where, object(200, metav1.Status{}))
		require.NoError(t, c.Delete(t.Context(), what, true))
		require.NoError(t, c.Delete(t.Context(), what, false))
		asked := server.asked("DELETE " + where)
		require.Len(t, asked, 3)
		assert.JSONEq(t, `{"propagationPolicy":"Foreground"}`, asked[1].body)
		assert.JSONEq(t, `{}`, asked[2].body)
		server.on("DELETE "+where, failure(403, metav1.StatusReasonForbidden))
		assert.ErrorContains(t, c.Delete(t.Context(), what, false), "delete "+what.String()+": ")
	}
}

func TestDataIsMergedIntoAConfigMapThatIsMadeWhereThatIsAsked(t *testing.T) {
	server := newAPIServer(t)
	c := newDirect(t, server, calico.GroupCRD)
	data := map[string]string{"closed": "true"}
	assert.True(t, apierrors.IsNotFound(c.SetData(t.Context(), itsConfigMap, data, false)))
	server.on("POST /api/v1/namespaces/ns/configmaps", object(201, map[string]any{}))
	require.NoError(t, c.SetData(t.Context(), itsConfigMap, data, true))
	assert.JSONEq(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"fw","namespace":"ns","labels":{"host-firewall.io/release":"fw"}},"data":{"closed":"true"}}`,
		server.asked("POST /api/v1/namespaces/ns/configmaps")[0].body)

	server.on("PATCH "+configMap, object(200, map[string]any{}))
	require.NoError(t, c.SetData(t.Context(), itsConfigMap, data, true))
	patches := server.asked("PATCH " + configMap)
	last := patches[len(patches)-1]
	assert.JSONEq(t, `{"data":{"closed":"true"}}`, last.body)
	assert.Equal(t, "application/merge-patch+json", last.contentType)
	assert.Len(t, server.asked("POST /api/v1/namespaces/ns/configmaps"), 1)
}

func TestCommandReadsTheNewestAndDeletesWhatItHasReadInBothGroups(t *testing.T) {
	server := newAPIServer(t)
	groups := newDirect(t, server, calico.GroupCRD).Groups()
	require.Len(t, groups, 2)
	for i, name := range []string{calico.GroupCRD, calico.GroupV3} {
		t.Run(name, func(t *testing.T) {
			group := groups[i]
			assert.Equal(t, name, group.Name())
			_, err := group.Objects(t.Context(), v3.KindHostEndpoint)
			require.ErrorContains(t, err, "does not serve hostendpoints", "which may mean that they can't be seen")

			metadata := metav1.ObjectMeta{Name: "n1", UID: "u1", ResourceVersion: "5", Annotations: map[string]string{"projectcalico.org/metadata": "{}"}}
			server.on("GET /apis/"+name+"/hostendpoints", list(name, "HostEndpointList", v3.HostEndpoint{ObjectMeta: metadata}))
			endpoints, err := group.Objects(t.Context(), v3.KindHostEndpoint)
			require.NoError(t, err)
			require.Len(t, endpoints, 1)
			asked := server.asked("GET /apis/" + name + "/hostendpoints")
			assert.Empty(t, asked[0].query, "no label selector, for calicoctl hides labels, and no old version")
			if name == calico.GroupV3 {
				assert.Empty(t, endpoints[0].Annotations, "it means nothing there")
			} else {
				assert.Len(t, endpoints[0].Annotations, 1)
			}

			server.on("DELETE /apis/"+name+"/hostendpoints/n1", object(200, metav1.Status{}))
			require.NoError(t, group.DeleteObject(t.Context(), v3.KindHostEndpoint, endpoints[0]))
			assert.JSONEq(t, `{"preconditions":{"uid":"u1","resourceVersion":"5"}}`,
				server.asked("DELETE /apis/" + name + "/hostendpoints/n1")[0].body)

			_, err = group.FelixConfigurations(t.Context())
			assert.True(t, apierrors.IsNotFound(err), err)
			_, err = group.Objects(t.Context(), v3.KindGlobalNetworkPolicy)
			assert.True(t, apierrors.IsNotFound(err), err)

			where := "/apis/" + name + "/globalnetworkpolicies"
			server.on("GET "+where, list(name, "GlobalNetworkPolicyList", v3.GlobalNetworkPolicy{ObjectMeta: metadata}))
			policies, err := group.Objects(t.Context(), v3.KindGlobalNetworkPolicy)
			require.NoError(t, err)
			require.Len(t, policies, 1)
			assert.Empty(t, server.asked("GET " + where)[0].query, "no label selector here either")
			server.on("DELETE "+where+"/n1", object(200, metav1.Status{}))
			require.NoError(t, group.DeleteObject(t.Context(), v3.KindGlobalNetworkPolicy, policies[0]))
			assert.JSONEq(t, `{"preconditions":{"uid":"u1","resourceVersion":"5"}}`, server.asked("DELETE " + where + "/n1")[0].body)

			server.on("PATCH /apis/"+name+"/hostendpoints/n1", object(200, endpoints[0]))
			require.NoError(t, group.PatchObject(t.Context(), v3.KindHostEndpoint, "n1", []byte(`{"x":1}`)))
			assert.Equal(t, request{"PATCH /apis/" + name + "/hostendpoints/n1", "", "application/merge-patch+json", `{"x":1}`},
				server.asked("PATCH /apis/" + name + "/hostendpoints/n1")[0])
			_, err = group.Objects(t.Context(), v3.KindGlobalNetworkSet)
			require.Error(t, err)
			assert.Len(t, server.asked("GET /apis/"+name+"/globalnetworksets"), 1)
		})
	}
}

func TestAnnotationsTellWhoHasInstalledTheRelease(t *testing.T) {
	server := newAPIServer(t)
	d := newDirect(t, server, calico.GroupCRD)
	const account = "/api/v1/namespaces/ns/serviceaccounts/fw-cleanup"
	marked := object(200, map[string]any{"metadata": map[string]any{"annotations": map[string]any{"by": "helm"}}})
	ofCleanup := cleanup.Object{Kind: "ServiceAccount", Namespace: "ns", Name: "fw-cleanup"}
	for object, where := range map[cleanup.Object]string{agents: daemonSet, ofCleanup: account} {
		none, there, err := d.Annotations(t.Context(), object)
		require.NoError(t, err)
		assert.False(t, there)
		assert.Empty(t, none)

		server.on("GET "+where, marked)
		annotations, there, err := d.Annotations(t.Context(), object)
		require.NoError(t, err)
		assert.True(t, there)
		assert.Equal(t, map[string]string{"by": "helm"}, annotations)

		server.on("GET "+where, failure(403, metav1.StatusReasonForbidden))
		_, _, err = d.Annotations(t.Context(), object)
		require.ErrorContains(t, err, "get "+object.String()+": ")
	}
}

// looking serves all that the command status asks for.
func looking(t *testing.T, group string) (*apiServer, *calico.Direct) {
	t.Helper()
	server := newAPIServer(t)
	server.on("GET "+daemonSet, object(200, map[string]any{
		"metadata": map[string]any{"name": "fw", "generation": 4},
		"spec":     map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "fw", "of": "a"}}},
		"status":   map[string]any{"observedGeneration": 4, "desiredNumberScheduled": 3, "updatedNumberScheduled": 2},
	}))
	server.on("GET "+deployment, object(200, map[string]any{
		"metadata": map[string]any{"generation": 2},
		"status":   map[string]any{"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1},
	}))
	server.on("GET "+podsOf, list("v1", "PodList"))
	server.on("GET "+configMaps, list("v1", "ConfigMapList"))
	server.on("GET /api/v1/nodes", list("v1", "NodeList"))
	server.on("GET /apis/"+group+"/hostendpoints", list(group, "HostEndpointList"))
	server.on("GET /apis/"+group+"/globalnetworkpolicies", list(group, "GlobalNetworkPolicyList"))
	return server, newDirect(t, server, group)
}

// look is one look of the command status.
func look(t *testing.T, d *calico.Direct) (status.Seen, error) {
	t.Helper()
	return status.Look(t.Context(), d, settings.Settings{Release: "fw", Namespace: "ns", Agentless: settings.Agentless{Agents: true}})
}

const podsOf, configMaps, podTemplate = "/api/v1/namespaces/ns/pods", "/api/v1/namespaces/ns/configmaps", "/api/v1/namespaces/ns/podtemplates/fw"

func TestLookReadsEverything(t *testing.T) {
	server, d := looking(t, calico.GroupV3)
	pod := func(name, node, ready string, more map[string]any) map[string]any {
		metadata := map[string]any{"name": name}
		maps.Copy(metadata, more)
		return map[string]any{
			"metadata": metadata, "spec": map[string]any{"nodeName": node},
			"status": map[string]any{"conditions": []any{map[string]any{"type": "PodScheduled", "status": "True"}, map[string]any{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-02T03:04:05Z"}}},
		}
	}
	server.on("GET "+podsOf, list("v1", "PodList",
		pod("p1", "n1", "True", nil), pod("p2", "n2", "False", nil), pod("p3", "", "False", nil),
		pod("p0", "n1", "True", map[string]any{"deletionTimestamp": "2026-01-01T00:00:00Z"})))
	server.on("GET "+configMaps, list("v1", "ConfigMapList", map[string]any{"metadata": map[string]any{"annotations": map[string]any{"a": "b"}}, "data": map[string]any{"set": "s1"}}))
	server.on("GET /api/v1/nodes", list("v1", "NodeList", map[string]any{"metadata": map[string]any{"name": "n1"}}, map[string]any{"metadata": map[string]any{"name": "n2"}}))
	server.on("GET /apis/"+calico.GroupV3+"/hostendpoints", list(calico.GroupV3, "HostEndpointList", v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}))
	const policies = "/apis/" + calico.GroupV3 + "/globalnetworkpolicies"
	server.on("GET "+policies, list(calico.GroupV3, "GlobalNetworkPolicyList",
		map[string]any{"metadata": map[string]any{"name": "fw-ssh"}, "spec": map[string]any{"order": 100, "selector": "all()", "tier": "default"}}))

	seen, err := look(t, d)
	require.NoError(t, err)
	since := seen.Agents[0].Since
	require.True(t, since.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)))
	assert.Equal(t, []status.Agent{{Node: "n1", Pod: "p1", Ready: true, Since: since}, {Node: "n2", Pod: "p2", Since: since}}, seen.Agents)
	assert.True(t, seen.Controller)
	assert.Equal(t, 3, seen.Wanted)
	assert.Equal(t, 2, seen.Updated)
	assert.Equal(t, map[string]string{"set": "s1"}, seen.Data)
	assert.Equal(t, map[string]string{"a": "b"}, seen.Annotations)
	assert.Equal(t, []string{"n1", "n2"}, seen.Nodes)
	require.Len(t, seen.Endpoints, 1)
	assert.Equal(t, "n1", seen.Endpoints[0].Name)
	require.Len(t, seen.Policies, 1)
	assert.Equal(t, "fw-ssh", seen.Policies[0].Name)
	assert.Equal(t, policyset.Digest(map[string]any{"order": 100., "selector": "all()"}), seen.Policies[0].Digest, "whatever numbers are read as")

	assert.Equal(t, "labelSelector=app%3Dfw%2Cof%3Da", server.asked("GET " + podsOf)[0].query)
	assert.Equal(t, "labelSelector=host-firewall.io%2Frelease%3Dfw", server.asked("GET " + policies)[0].query)
	assert.Equal(t, "fieldSelector=metadata.name%3Dfw", server.asked("GET " + configMaps)[0].query, "the right is to that one only")
}

// A static pod is the release's own where its hash is that of the PodTemplate.
func TestLookFindsStaticPodsByTheirLabels(t *testing.T) {
	server, d := looking(t, calico.GroupCRD)
	server.on("GET "+daemonSet, failure(404, metav1.StatusReasonNotFound))
	server.on("GET "+podTemplate, object(200, map[string]any{"metadata": map[string]any{"labels": map[string]any{"host-firewall.io/pod-hash": "b"}}}))
	pod := func(node, hash string) map[string]any {
		return map[string]any{"metadata": map[string]any{"name": "fw-" + node, "labels": map[string]any{"host-firewall.io/pod-hash": hash}}, "spec": map[string]any{"nodeName": node}}
	}
	server.on("GET "+podsOf, list("v1", "PodList", pod("n1", "b"), pod("n2", "a")))
	seen, err := look(t, d)
	require.NoError(t, err)
	assert.True(t, seen.Static)
	assert.Equal(t, []status.Agent{{Node: "n1", Pod: "fw-n1"}, {Node: "n2", Pod: "fw-n2", Old: true}}, seen.Agents)
	assert.Equal(t, "labelSelector=host-firewall.io%2Fpod-hash%2Chost-firewall.io%2Frelease%3Dfw", server.asked("GET " + podsOf)[0].query)
}

func TestLookTakesTheControllerForTheAgentsThatItStandsInFor(t *testing.T) {
	server, d := looking(t, calico.GroupCRD)
	server.on("GET "+deployment, object(200, map[string]any{"metadata": map[string]any{"name": "fw-controller"}}))
	of := func(name, os string) map[string]any {
		return map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"os": os}}}
	}
	server.on("GET /api/v1/nodes", list("v1", "NodeList", of("n1", "linux"), of("n2", "windows")))
	seen, err := status.Look(t.Context(), d, settings.Settings{Release: "fw", Namespace: "ns", Agentless: settings.Agentless{Nodes: labels.SelectorFromSet(labels.Set{"os": "linux"})}})
	require.NoError(t, err)
	assert.Equal(t, []status.Agent{{Node: "n1", Pod: "fw-controller", Ready: true}}, seen.Agents)
	assert.Equal(t, []int{1, 1}, []int{seen.Wanted, seen.Updated})
	assert.Equal(t, []string{"n1", "n2"}, seen.Nodes)
	assert.Empty(t, server.asked("GET "+daemonSet), "there is none")
}

func TestLookTakesNoStatusForThatOfAnObjectWhichHasChangedSince(t *testing.T) {
	server, d := looking(t, calico.GroupCRD)
	server.on("GET "+daemonSet, object(200, map[string]any{
		"metadata": map[string]any{"generation": 4}, "status": map[string]any{"observedGeneration": 3, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3},
	}))
	seen, err := look(t, d)
	require.NoError(t, err)
	assert.Equal(t, 3, seen.Wanted)
	assert.Zero(t, seen.Updated, "what the controller of DaemonSets has not seen yet nobody has")
	assert.Nil(t, seen.Data, "there is no ConfigMap")
	for field, damage := range map[string]int{"observedGeneration": 1, "updatedReplicas": 0, "readyReplicas": 0} {
		controller := map[string]any{"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
		controller[field] = damage
		server.on("GET "+deployment, object(200, map[string]any{"metadata": map[string]any{"generation": 2}, "status": controller}))
		seen, err = look(t, d)
		require.NoError(t, err)
		assert.False(t, seen.Controller, field)
	}
}

func TestLookThatFailsSaysAtWhat(t *testing.T) {
	for where, words := range map[string]string{
		daemonSet: "get DaemonSet ns/fw: ", deployment: "get Deployment ns/fw-controller: ", podsOf: "list pods: ", configMaps: "list configmaps: ",
		"/api/v1/nodes": "list nodes: ", "/apis/" + calico.GroupCRD + "/hostendpoints": "list hostendpoints: ", "/apis/" + calico.GroupCRD + "/globalnetworkpolicies": "list globalnetworkpolicies: ",
	} {
		server, d := looking(t, calico.GroupCRD)
		server.on("GET "+where, failure(403, metav1.StatusReasonForbidden))
		_, err := look(t, d)
		require.ErrorContains(t, err, words)
	}
	server, d := looking(t, calico.GroupCRD)
	server.on("GET "+daemonSet, failure(404, metav1.StatusReasonNotFound))
	server.on("GET "+podTemplate, failure(403, metav1.StatusReasonForbidden))
	_, err := look(t, d)
	require.ErrorContains(t, err, "DaemonSet ns/fw is not there", "without the right to ask for what is not this release's")
	for where, words := range map[string]string{daemonSet: "DaemonSet ns/fw is not there", deployment: "Deployment ns/fw-controller is not there"} {
		server, d := looking(t, calico.GroupCRD)
		server.on("GET "+where, failure(404, metav1.StatusReasonNotFound))
		_, err := look(t, d)
		require.ErrorContains(t, err, words)
	}
}
