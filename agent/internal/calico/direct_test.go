package calico_test

import (
	"encoding/json"
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
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/verify"
)

const daemonSet = "/apis/apps/v1/namespaces/ns/daemonsets/fw"

func newDirect(t *testing.T, server *apiServer, group string) *calico.Direct {
	t.Helper()
	c, err := calico.NewDirect(&rest.Config{Host: server.URL}, calico.Options{Release: "fw", APIGroup: group, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return c
}

func TestCommandFindsOutWhetherThereIsCalico(t *testing.T) {
	all := resources("hostendpoints", "globalnetworkpolicies")
	for name, test := range map[string]struct {
		group string
		on    map[string]http.HandlerFunc
		want  bool
		words string
	}{
		"none":                        {"", nil, false, ""},
		"the older one":               {"", map[string]http.HandlerFunc{"GET /apis/crd.projectcalico.org/v1": all}, true, ""},
		"both":                        {"", map[string]http.HandlerFunc{"GET /apis/projectcalico.org/v3": all, "GET /apis/crd.projectcalico.org/v1": all}, true, ""},
		"only the one not asked for":  {calico.GroupV3, map[string]http.HandlerFunc{"GET /apis/crd.projectcalico.org/v1": all}, false, ""},
		"out of reach is not missing": {"", map[string]http.HandlerFunc{"GET /apis/projectcalico.org/v3": failure(503, metav1.StatusReasonServiceUnavailable)}, false, "get resources of projectcalico.org/v3"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newAPIServer(t)
			for what, answer := range test.on {
				server.on(what, answer)
			}
			served, err := newDirect(t, server, test.group).Served(t.Context())
			assert.Equal(t, test.want, served)
			if test.words == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, test.words)
			}
		})
	}
}

func TestDaemonSetIsDeletedOnceAndWatchedUntilItsPodsAreGone(t *testing.T) {
	server := newAPIServer(t)
	c := newDirect(t, server, calico.GroupCRD)
	metadata := map[string]any{"name": "fw", "uid": "u1"}
	set := map[string]any{"metadata": metadata, "status": map[string]any{"currentNumberScheduled": 3}}
	server.on("GET "+daemonSet, object(200, set))
	server.on("DELETE "+daemonSet, object(200, set))
	there, pods, err := c.StopDaemonSet(t.Context(), "ns", "fw")
	require.NoError(t, err)
	assert.True(t, there)
	assert.Equal(t, 3, pods)
	deletions := server.asked("DELETE " + daemonSet)
	require.Len(t, deletions, 1)
	var options metav1.DeleteOptions
	require.NoError(t, json.Unmarshal([]byte(deletions[0].body), &options))
	assert.Equal(t, metav1.DeletePropagationForeground, *options.PropagationPolicy, "it has to stay until its pods are gone")
	assert.EqualValues(t, "u1", *options.Preconditions.UID)

	metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
	there, _, err = c.StopDaemonSet(t.Context(), "ns", "fw")
	require.NoError(t, err)
	assert.True(t, there)
	assert.Len(t, server.asked("DELETE "+daemonSet), 1, "it is going already")

	server.on("GET "+daemonSet, failure(404, metav1.StatusReasonNotFound))
	there, _, err = c.StopDaemonSet(t.Context(), "ns", "fw")
	require.NoError(t, err)
	assert.False(t, there)
}

func TestDaemonSetThatMayNotBeDeletedIsAnError(t *testing.T) {
	server := newAPIServer(t)
	c := newDirect(t, server, calico.GroupCRD)
	server.on("GET "+daemonSet, failure(403, metav1.StatusReasonForbidden))
	there, _, err := c.StopDaemonSet(t.Context(), "ns", "fw")
	assert.True(t, there)
	assert.ErrorContains(t, err, "get DaemonSet ns/fw: ")
	server.on("GET "+daemonSet, object(200, map[string]any{"metadata": map[string]any{"uid": "u1"}}))
	server.on("DELETE "+daemonSet, failure(403, metav1.StatusReasonForbidden))
	there, _, err = c.StopDaemonSet(t.Context(), "ns", "fw")
	assert.True(t, there)
	assert.ErrorContains(t, err, "delete DaemonSet ns/fw: ")
}

func TestCommandReadsTheNewestAndDeletesWhatItHasReadInBothGroups(t *testing.T) {
	server := newAPIServer(t)
	groups := newDirect(t, server, calico.GroupCRD).Groups()
	require.Len(t, groups, 2)
	for i, name := range []string{calico.GroupV3, calico.GroupCRD} {
		t.Run(name, func(t *testing.T) {
			group := groups[i]
			assert.Equal(t, name, group.Name())
			_, err := group.Endpoints(t.Context())
			require.ErrorContains(t, err, "does not serve hostendpoints", "which may mean that they can't be seen")

			metadata := metav1.ObjectMeta{Name: "n1", UID: "u1", ResourceVersion: "5", Annotations: map[string]string{"projectcalico.org/metadata": "{}"}}
			server.on("GET /apis/"+name+"/hostendpoints", list(name, "HostEndpointList", v3.HostEndpoint{ObjectMeta: metadata}))
			endpoints, err := group.Endpoints(t.Context())
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
			require.NoError(t, group.DeleteEndpoint(t.Context(), endpoints[0]))
			assert.JSONEq(t, `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"u1","resourceVersion":"5"}}`,
				server.asked("DELETE /apis/" + name + "/hostendpoints/n1")[0].body)

			configurations, err := group.FelixConfigurations(t.Context())
			require.NoError(t, err, "where they are not served there are none")
			assert.Empty(t, configurations)
		})
	}
}

func TestAnnotationsTellWhoHasInstalledTheRelease(t *testing.T) {
	server := newAPIServer(t)
	d := newDirect(t, server, calico.GroupCRD)
	const account = "/api/v1/namespaces/ns/serviceaccounts/fw-cleanup"
	none, err := d.DaemonSet(t.Context(), "ns", "fw")
	require.NoError(t, err)
	assert.Empty(t, none)
	none, err = d.Account(t.Context(), "ns", "fw-cleanup")
	require.NoError(t, err)
	assert.Empty(t, none)

	marked := object(200, map[string]any{"metadata": map[string]any{"annotations": map[string]any{"by": "helm"}}})
	server.on("GET "+daemonSet, marked)
	server.on("GET "+account, marked)
	onSet, err := d.DaemonSet(t.Context(), "ns", "fw")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"by": "helm"}, onSet)
	onAccount, err := d.Account(t.Context(), "ns", "fw-cleanup")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"by": "helm"}, onAccount)

	server.on("GET "+account, failure(403, metav1.StatusReasonForbidden))
	_, err = d.Account(t.Context(), "ns", "fw-cleanup")
	require.ErrorContains(t, err, "get ServiceAccount ns/fw-cleanup: ")
}

func TestRolloutIsReadFromTheDaemonSetAndItsPods(t *testing.T) {
	server := newAPIServer(t)
	d := newDirect(t, server, calico.GroupCRD)
	_, err := d.Rollout(t.Context(), "ns", "fw")
	require.ErrorContains(t, err, "DaemonSet ns/fw is not there")

	set := map[string]any{
		"metadata": map[string]any{"name": "fw", "generation": 4},
		"spec":     map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "fw", "of": "a"}}},
		"status":   map[string]any{"observedGeneration": 3, "desiredNumberScheduled": 3, "updatedNumberScheduled": 2},
	}
	server.on("GET "+daemonSet, object(200, set))
	pod := func(name, node, ready string, more map[string]any) map[string]any {
		metadata := map[string]any{"name": name}
		maps.Copy(metadata, more)
		return map[string]any{
			"metadata": metadata, "spec": map[string]any{"nodeName": node},
			"status": map[string]any{"conditions": []any{map[string]any{"type": "PodScheduled", "status": "True"}, map[string]any{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-02T03:04:05Z"}}},
		}
	}
	const podsOf = "/api/v1/namespaces/ns/pods"
	server.on("GET "+podsOf, list("v1", "PodList",
		pod("p1", "n1", "True", nil), pod("p2", "n2", "False", nil), pod("p3", "", "False", nil),
		pod("p0", "n1", "True", map[string]any{"deletionTimestamp": "2026-01-01T00:00:00Z"})))
	rollout, err := d.Rollout(t.Context(), "ns", "fw")
	require.NoError(t, err)
	since := rollout.Agents[0].Since
	require.True(t, since.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)))
	want := verify.Rollout{Wanted: 3, Agents: []verify.Agent{{Node: "n1", Pod: "p1", Ready: true, Since: since}, {Node: "n2", Pod: "p2", Since: since}}}
	assert.Equal(t, want, rollout, "what the controller has not seen yet nobody has")
	assert.Equal(t, "labelSelector=app%3Dfw%2Cof%3Da", server.asked("GET " + podsOf)[0].query)

	set["status"].(map[string]any)["observedGeneration"] = 4
	rollout, err = d.Rollout(t.Context(), "ns", "fw")
	require.NoError(t, err)
	want.Updated = 2
	assert.Equal(t, want, rollout)

	server.on("GET "+podsOf, failure(403, metav1.StatusReasonForbidden))
	_, err = d.Rollout(t.Context(), "ns", "fw")
	require.ErrorContains(t, err, "list pods: ")
}

func TestNodesAndPoliciesOfTheReleaseAreRead(t *testing.T) {
	server := newAPIServer(t)
	d := newDirect(t, server, calico.GroupV3)
	server.on("GET /apis/"+calico.GroupV3, resources("hostendpoints", "globalnetworkpolicies"))
	_, err := d.Served(t.Context())
	require.NoError(t, err)
	server.on("GET /api/v1/nodes", list("v1", "NodeList", map[string]any{"metadata": map[string]any{"name": "n1"}}, map[string]any{"metadata": map[string]any{"name": "n2"}}))
	nodes, err := d.Nodes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"n1", "n2"}, nodes)

	const where = "/apis/" + calico.GroupV3 + "/globalnetworkpolicies"
	server.on("GET "+where, list(calico.GroupV3, "GlobalNetworkPolicyList", v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "fw-ssh"}}))
	policies, err := d.Policies(t.Context())
	require.NoError(t, err)
	require.Len(t, policies, 1)
	assert.Equal(t, "fw-ssh", policies[0].Name)
	assert.Equal(t, "labelSelector=host-firewall.io%2Frelease%3Dfw", server.asked("GET " + where)[0].query)
}

func TestPodIsDeletedByItsName(t *testing.T) {
	server := newAPIServer(t)
	d := newDirect(t, server, calico.GroupCRD)
	assert.True(t, apierrors.IsNotFound(d.DeletePod(t.Context(), "ns", "fw-test")))
	server.on("DELETE /api/v1/namespaces/ns/pods/fw-test", object(200, metav1.Status{}))
	require.NoError(t, d.DeletePod(t.Context(), "ns", "fw-test"))
}
