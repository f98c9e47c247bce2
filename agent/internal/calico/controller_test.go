package calico_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// runController runs a controller's caches against an API server that serves a group, and
// returns when they are complete.
func runController(t *testing.T, group string) (*apiServer, *calico.Controller) {
	t.Helper()
	s := newAPIServer(t)
	s.serveAll(group)
	base := "/apis/" + group
	for resource, l := range map[string]any{
		"globalnetworkpolicies": page(group, "GlobalNetworkPolicy", "", map[string]any{
			"apiVersion": group, "kind": "GlobalNetworkPolicy",
			"metadata": map[string]any{"name": "theirs", "uid": "u", "resourceVersion": "5", "annotations": map[string]any{
				"projectcalico.org/metadata": `{"labels":{"from":"calicoctl"}}`,
			}},
			"spec": map[string]any{"selector": "all()", "order": 10, "tier": "default"},
		}),
		"globalnetworksets": page(group, "GlobalNetworkSet", "", v3.GlobalNetworkSet{
			TypeMeta:   metav1.TypeMeta{APIVersion: group, Kind: "GlobalNetworkSet"},
			ObjectMeta: metav1.ObjectMeta{Name: "fw-node-n1", ResourceVersion: "6"},
			Spec:       v3.GlobalNetworkSetSpec{Nets: []string{"192.0.2.1/32"}},
		}),
		"felixconfigurations": page(group, "FelixConfiguration", "", map[string]any{
			"apiVersion": group, "kind": "FelixConfiguration",
			"metadata": map[string]any{"name": "default", "resourceVersion": "8"}, "spec": map[string]any{"bpfEnabled": true},
		}),
		"ippools": page(group, "IPPool", "", v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/16", AllowedUses: []v3.IPPoolAllowedUse{"Tunnel"}}}),
		"clusterinformations": page(group, "ClusterInformation", "", map[string]any{
			"apiVersion": group, "kind": "ClusterInformation",
			"metadata": map[string]any{"name": "default", "resourceVersion": "7"}, "spec": map[string]any{"datastoreReady": false},
		}),
	} {
		s.on("GET "+base+"/"+resource, object(200, l))
		s.on("watch "+base+"/"+resource, stream(nil))
	}
	c, err := calico.NewController(&rest.Config{Host: s.URL}, calico.Options{Release: "fw", Namespace: "ns", APIGroup: group, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(ctx, func() {}) }()
	t.Cleanup(func() { stop(); <-ended })
	require.Eventually(t, func() bool { return c.Problem() == "" }, deadline, time.Millisecond, "complete")
	return s, c
}

func TestControllerSeesTheWholeCluster(t *testing.T) {
	for _, group := range []string{calico.GroupV3, calico.GroupCRD} {
		t.Run(group, func(t *testing.T) {
			s, c := runController(t, group)
			require.Len(t, c.Nodes(), 1)
			assert.Equal(t, "192.0.2.1", c.Nodes()[0].Status.Addresses[0].Address)
			heps, version := c.Endpoints()
			assert.Len(t, heps, 1)
			assert.Equal(t, "10", version)
			require.Len(t, c.Policies(), 1)
			policy := c.Policies()[0]
			assert.Equal(t, "all()", policy.Selector)
			assert.Equal(t, policyset.Digest(map[string]any{"selector": "all()", "order": 10.0}), policy.Digest)
			assert.Equal(t, group == calico.GroupCRD, policy.Labels["from"] == "calicoctl", "that means something in the CRDs only")
			require.Len(t, c.TrustSets(), 1)
			assert.Equal(t, []string{"192.0.2.1/32"}, c.TrustSets()[0].Spec.Nets)
			assert.False(t, *c.Information().Spec.DatastoreReady)
			assert.Equal(t, map[string]any{"bpfEnabled": true}, c.FelixForAll().Spec)
			configurations, err := c.FelixConfigurations(t.Context())
			require.NoError(t, err)
			require.Len(t, configurations, 1)
			assert.Equal(t, "default", configurations[0].Name)
			pools, err := c.IPPools(t.Context())
			require.NoError(t, err)
			require.Len(t, pools, 1)
			assert.Equal(t, "10.0.0.0/16", pools[0].Spec.CIDR)
			assert.Equal(t, []v3.IPPoolAllowedUse{"Tunnel"}, pools[0].Spec.AllowedUses)
			assert.Equal(t, map[string]string{"set": "aaaa0001"}, c.ConfigMap().Data)
			assert.Equal(t, "1", c.ConfigMap().ResourceVersion)

			for what, selects := range map[string]string{
				"GET " + nodesPath:                              "",
				"GET " + sayingPath:                             "fieldSelector=metadata.name%3Dfw",
				"GET /apis/" + group + "/hostendpoints":         "",
				"GET /apis/" + group + "/globalnetworkpolicies": "",
				"GET /apis/" + group + "/clusterinformations":   "fieldSelector=metadata.name%3Ddefault",
				"GET /apis/" + group + "/felixconfigurations":   "fieldSelector=metadata.name%3Ddefault",
				"GET /apis/" + group + "/globalnetworksets":     "labelSelector=host-firewall.io%2Frelease%3Dfw",
			} {
				require.NotEmpty(t, s.asked(what), what)
				assert.Contains(t, s.asked(what)[0].query, selects, what)
				if selects == "" {
					assert.NotContains(t, s.asked(what)[0].query, "Selector", what)
				}
			}
		})
	}
}

func TestControllerWritesWhatIsItsOwn(t *testing.T) {
	s, c := runController(t, calico.GroupCRD)
	set := &v3.GlobalNetworkSet{
		ObjectMeta: metav1.ObjectMeta{Name: "fw-node-n2", Labels: map[string]string{"a": "b"}},
		Spec:       v3.GlobalNetworkSetSpec{Nets: []string{"192.0.2.2/32"}},
	}
	stored := set.DeepCopy()
	stored.UID, stored.ResourceVersion = "u2", "8"
	made := witness.NewPolicy("fw", "aaaa0001", 9)
	spec, err := json.Marshal(made.Spec)
	require.NoError(t, err)
	policy := policyset.Of(metav1.ObjectMeta{Name: "fw-drop-old", UID: "u3", ResourceVersion: "9"}, nil)
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "fw"}, Data: map[string]string{"set": "x"}}
	patch := []byte(`{"data":{"a":null}}`)
	for _, test := range []struct {
		what, body string
		do         func(context.Context) error
	}{
		{
			"POST " + inCRD + "/globalnetworksets",
			`{"apiVersion":"crd.projectcalico.org/v1","kind":"GlobalNetworkSet","metadata":{"name":"fw-node-n2","labels":{"a":"b"}},"spec":{"nets":["192.0.2.2/32"]}}`,
			func(ctx context.Context) error { return c.Create(ctx, set) },
		},
		{"PATCH " + inCRD + "/globalnetworksets/fw-node-n2", string(patch), func(ctx context.Context) error { return c.Patch(ctx, stored, patch) }},
		{
			"DELETE " + inCRD + "/globalnetworksets/fw-node-n2",
			`{"preconditions":{"uid":"u2","resourceVersion":"8"}}`,
			func(ctx context.Context) error { return c.Delete(ctx, stored) },
		},
		{
			"DELETE " + inCRD + "/globalnetworkpolicies/fw-drop-old",
			`{"preconditions":{"uid":"u3","resourceVersion":"9"}}`,
			func(ctx context.Context) error { return c.Delete(ctx, policy) },
		},
		{
			"POST " + inCRD + "/globalnetworkpolicies",
			`{"apiVersion":"crd.projectcalico.org/v1","kind":"GlobalNetworkPolicy","metadata":{"name":"fw-witness-aaaa0001","labels":` +
				`{"host-firewall.io/release":"fw","host-firewall.io/witness":"aaaa0001"}},"spec":` + string(spec) + `}`,
			func(ctx context.Context) error { return c.Create(ctx, made) },
		},
		{
			"POST " + sayingPath, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"fw","namespace":"ns"},"data":{"set":"x"}}`,
			func(ctx context.Context) error { return c.Create(ctx, m) },
		},
		{"PATCH " + sayingPath + "/fw", string(patch), func(ctx context.Context) error { return c.Patch(ctx, m, patch) }},
	} {
		t.Run(test.what, func(t *testing.T) {
			s.on(test.what, failure(409, metav1.StatusReasonConflict))
			assert.True(t, apierrors.IsConflict(test.do(t.Context())), "the reason is kept")
			s.on(test.what, object(200, map[string]any{}))
			require.NoError(t, test.do(t.Context()))
			asked := s.asked(test.what)
			require.Len(t, asked, 2)
			assert.JSONEq(t, test.body, asked[1].body)
			assert.Equal(t, slices.Contains([]byte(test.what[:2]), 'A'), asked[1].contentType == "application/merge-patch+json")
		})
	}
}
