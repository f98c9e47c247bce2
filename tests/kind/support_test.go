package kind

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/storage/driver"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

const (
	namespace = "host-firewall"
	name      = "host-firewall"
	// pause between two connections of a watcher along the same path.
	pause = time.Second
)

// What is promised within some time is promised of a machine that has one cluster. Of a machine that make e2e shares among parts of
// this suite it is asked as many times later.
var (
	// soon is how long anything may take that should follow by itself.
	soon = shared(30 * time.Second)
	// closing is how long packets may still come through once an endpoint carries the arming label, or the agent of a new node runs.
	closing = shared(5 * time.Second)
	// recoveryTime is what docs/recovery.md promises of each of its commands.
	recoveryTime = shared(10 * time.Second)
)

// shared is how long something may take that takes so long on a machine of its own.
func shared(alone time.Duration) time.Duration {
	parts, err := strconv.Atoi(cmp.Or(os.Getenv("E2E_PARTS"), "1"))
	if err != nil || parts < 1 {
		panic(fmt.Sprintf("E2E_PARTS=%s: how many parts of the suite run beside each other is wanted", os.Getenv("E2E_PARTS")))
	}
	return alone * time.Duration(parts)
}

// values of most tests: the admin's networks may reach SSH.
func values() map[string]any {
	return release.Values(map[string]any{"ssh": map[string]any{"cidrs": nodes.AdminCIDRs()}})
}

// prepare returns a release that isn't installed, on a cluster that is clean and open. When the test ends the cluster
// is made clean again.
func prepare(t *testing.T) *release.Release {
	t.Helper()
	for _, node := range nodeNames() {
		// After a test in which the API server was away its kubelet may not have reported yet.
		require.NoError(t, nodes.WaitNodeReady(t.Context(), node))
	}
	requireOpen(t, "before the test")
	r, err := release.New(root, nodes.Kubeconfig(), namespace, name)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			diagnose(t)
		}
		clean(t, r)
	})
	return r
}

// install returns a release that is installed, and whose policies every node enforces. That takes a moment longer than to be
// armed: Felix starts anew when its failsafe changes.
func install(t *testing.T) *release.Release {
	t.Helper()
	r := prepare(t)
	_, err := r.Install(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "installed")
	return r
}

func requireArmed(t *testing.T) {
	t.Helper()
	require.NoError(t, release.WaitArmed(t.Context(), nodes, namespace))
}

func requireOpen(t *testing.T, when string) { t.Helper(); requireTable(t, scene.Everything, when) }

func requireProtected(t *testing.T, when string) { t.Helper(); requireTable(t, scene.Protected, when) }

func requireTable(t *testing.T, want scene.Expectation, when string) {
	t.Helper()
	table := place.MeasureUntil(t.Context(), want, soon)
	require.Empty(t, table.Surprises(want), "%s:\n%s", when, table)
}

// undisturbed watches, until stop is called, that everything that is to be open can be reached with new connections all
// the time.
func undisturbed(t *testing.T, want scene.Expectation) (stop func()) {
	t.Helper()
	open := reached(t, place.Select(want))
	ready, err := nodes.WatchReady(t.Context())
	require.NoError(t, err)
	return func() {
		t.Helper()
		open()
		require.Empty(t, ready(), "nodes that were not Ready")
	}
}

// requireNoFailure shows each failure that a watcher has seen; what says what it did.
func requireNoFailure(t *testing.T, tally probe.Tally, what string) {
	t.Helper()
	require.NotZero(t, tally.Attempts)
	var failed []string
	for _, f := range tally.Failures {
		failed = append(failed, fmt.Sprintf("%s: %v", f.At.Format(time.TimeOnly+".000"), f.Err))
	}
	assert.Empty(t, failed, what)
	t.Logf("%d %s, %d failed", tally.Attempts, what, len(tally.Failures))
}

// eventually polls to a deadline, and says what it last saw.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	require.NoError(t, cluster.Poll(t.Context(), soon, what, check))
}

// calico is the API for a resource of Calico's.
func calico(t *testing.T, resource string) dynamic.ResourceInterface {
	t.Helper()
	client, err := release.Calico(nodes, resource)
	require.NoError(t, err)
	return client
}

// endpointOf reads a node's endpoint.
func endpointOf(ctx context.Context, t *testing.T, node string) (*v3.HostEndpoint, error) {
	t.Helper()
	raw, err := calico(t, "hostendpoints").Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	hep := &v3.HostEndpoint{}
	require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(raw.Object, hep))
	return hep, nil
}

// patchEndpoint changes a node's endpoint as somebody else would.
func patchEndpoint(t *testing.T, node, patch string) {
	t.Helper()
	_, err := calico(t, "hostendpoints").Patch(t.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(t, err)
}

// report is what an agent's /readyz says.
type report struct {
	State  string `json:"state"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"`
}

// agentOn asks the agent on a node how it is.
func agentOn(ctx context.Context, node string) (report, error) {
	var r report
	h, err := nodes.Host(node)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9097/readyz", nil)
	if err != nil {
		return r, err
	}
	response, err := h.HTTPClient().Do(request)
	if err != nil {
		return r, err
	}
	defer response.Body.Close()
	return r, json.NewDecoder(response.Body).Decode(&r)
}

// kubectl runs the cluster's own kubectl.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, nodes.Binary("kubectl"), append([]string{"--kubeconfig", nodes.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

// clean removes the release, whatever the test made of it, and everything that could decide over the next test.
func clean(t *testing.T, r *release.Release) {
	ctx := context.WithoutCancel(t.Context())
	if err := r.Uninstall(); err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Logf("clean up: %v", err)
	}
	config, err := nodes.RESTConfig()
	require.NoError(t, err)
	client, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	ofHelm := metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=Helm"}
	rbac, admission, fairness := rbacv1.SchemeGroupVersion, admissionv1.SchemeGroupVersion, flowcontrolv1.SchemeGroupVersion
	for _, what := range []struct {
		schema.GroupVersionResource
		namespace string
		which     metav1.ListOptions
	}{
		{appsv1.SchemeGroupVersion.WithResource("daemonsets"), namespace, metav1.ListOptions{}},
		{batchv1.SchemeGroupVersion.WithResource("jobs"), namespace, metav1.ListOptions{}},
		{corev1.SchemeGroupVersion.WithResource("pods"), namespace, metav1.ListOptions{}},
		{corev1.SchemeGroupVersion.WithResource("serviceaccounts"), namespace, ofHelm},
		{rbac.WithResource("roles"), namespace, ofHelm},
		{rbac.WithResource("rolebindings"), namespace, ofHelm},
		{rbac.WithResource("clusterroles"), "", ofHelm},
		{rbac.WithResource("clusterrolebindings"), "", ofHelm},
		{admission.WithResource("validatingadmissionpolicies"), "", ofHelm},
		{admission.WithResource("validatingadmissionpolicybindings"), "", ofHelm},
		{fairness.WithResource("flowschemas"), "", ofHelm},
		{fairness.WithResource("prioritylevelconfigurations"), "", ofHelm},
		{corev1.SchemeGroupVersion.WithResource("secrets"), namespace, metav1.ListOptions{LabelSelector: "owner=helm"}},
	} {
		background := metav1.DeletePropagationBackground
		require.NoError(t, client.Resource(what.GroupVersionResource).Namespace(what.namespace).
			DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, what.which), what.Resource)
	}
	overrides, err := calico(t, "felixconfigurations").List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, o := range overrides.Items {
		if strings.HasPrefix(o.GetName(), "node.") {
			err := calico(t, "felixconfigurations").Delete(ctx, o.GetName(), metav1.DeleteOptions{})
			require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
		}
	}
	// The policies go last: without them an endpoint is harmless, the other way round is not asked for here.
	for _, resource := range []string{"hostendpoints", "globalnetworkpolicies"} {
		err := calico(t, resource).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
	}
	require.NoError(t, cluster.Poll(ctx, soon, "the agents to be gone", func(ctx context.Context) error {
		pods, err := client.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			return fmt.Errorf("there are %d pods, among them %s", len(pods.Items), pods.Items[0].GetName())
		}
		return err
	}))
}

// diagnose shows what a failed test left, and keeps what is too long to be shown.
func diagnose(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	dir := filepath.Join(root, "dist", "diagnostics", strings.ReplaceAll(t.Name(), "/", "_"))
	t.Logf("logs and rules: %s (%v)", dir, nodes.Collect(ctx, dir))
	for _, args := range [][]string{
		{"get", "nodes,pods", "--all-namespaces", "--output", "wide"},
		{"get", "hostendpoints.crd.projectcalico.org,globalnetworkpolicies.crd.projectcalico.org", "--output", "yaml"},
		{"logs", "--namespace", namespace, "--selector", "app.kubernetes.io/name=host-firewall", "--prefix", "--tail", "30"},
	} {
		out, err := kubectl(ctx, "", args...)
		t.Logf("kubectl %s (%v)\n%s", strings.Join(args, " "), err, out)
	}
	for _, m := range nodes.Nodes() {
		r, err := agentOn(ctx, m.Name)
		t.Logf("agent on %s: %+v (%v)", m.Name, r, err)
	}
}

// nodeNames are the cluster's.
func nodeNames() []string {
	names := []string{}
	for _, m := range nodes.Nodes() {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names
}

// apply does what `kubectl apply` does.
func apply(t *testing.T, objects ...*unstructured.Unstructured) {
	t.Helper()
	var text strings.Builder
	for _, o := range objects {
		raw, err := o.MarshalJSON()
		require.NoError(t, err)
		fmt.Fprintf(&text, "%s\n---\n", raw)
	}
	_, err := kubectl(t.Context(), text.String(), "apply", "--namespace", namespace, "--filename", "-")
	require.NoError(t, err)
}

func byName(t *testing.T, objects []*unstructured.Unstructured, name string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range objects {
		if o.GetName() == name {
			return o
		}
	}
	t.Fatalf("no %s was rendered", name)
	return nil
}
