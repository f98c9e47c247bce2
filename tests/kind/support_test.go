package kind

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
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
	soon = shared(45 * time.Second)
	// closing is how long packets may still come through once an endpoint is armed, or the agent of a new node runs.
	closing = shared(5 * time.Second)
	// recoveryTime is what docs/recovery.md promises of each of its commands.
	recoveryTime = shared(10 * time.Second)
	// upgradeTime is what it promises of the one that takes the nodes to other policies: the first of them tries those for ten seconds, then the others do.
	upgradeTime = shared(30 * time.Second)
)

// shared is how long something may take that takes so long on a machine of its own.
func shared(alone time.Duration) time.Duration {
	parts, err := strconv.Atoi(cmp.Or(os.Getenv("E2E_PARTS"), "1"))
	if err != nil || parts < 1 {
		panic(fmt.Sprintf("E2E_PARTS=%s: how many parts of the suite run beside each other is wanted", os.Getenv("E2E_PARTS")))
	}
	return alone * time.Duration(parts)
}

// values of most tests: the admin's networks may reach SSH. Agents are replaced all at once, and try nothing, which is quicker.
func values() map[string]any { return atOnce(rolling()) }

// rolling is values() with agents that are replaced, and try a set, as the chart has it: for tests of an upgrade.
func rolling() map[string]any {
	return release.Values(map[string]any{"ssh": map[string]any{"cidrs": nodes.AdminCIDRs()}})
}

// atOnce makes an upgrade replace all agents at once, and nodes move without trying for ten seconds what worked before, unless the values say how.
func atOnce(values map[string]any) map[string]any {
	return chartutil.CoalesceTables(values, map[string]any{
		"agent":   map[string]any{"updateStrategy": map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": "100%"}}},
		"rollout": map[string]any{"verify": false},
	})
}

// missing are values with an image that no node has, which every Helm waits for in vain. Helm 3 is content as soon as all agents are new, whether
// they run or not, where all may be unavailable: here one stays the old one.
func missing(values map[string]any) map[string]any {
	return chartutil.CoalesceTables(map[string]any{"agent": map[string]any{
		"image":          map[string]any{"tag": "missing"},
		"updateStrategy": map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": len(nodeNames()) - 1}},
	}}, values)
}

// with returns values() with some of them changed.
func with(changes map[string]any) map[string]any { return changed(values(), changes) }

func changed(values, changes map[string]any) map[string]any {
	maps.Copy(values, changes)
	return values
}

// standing is the release of the last test that has called install, and the group in which it was installed. None: its Release is nil.
var standing struct {
	*release.Release
	group schema.GroupVersion
}

// prepare returns a release that isn't installed, on a cluster that is clean and open. When the test ends the cluster
// is made clean again.
func prepare(t *testing.T) *release.Release {
	t.Helper()
	removeAll(t)
	for _, node := range nodeNames() {
		// After a test in which the API server was away its kubelet may not have reported yet.
		require.NoError(t, nodes.WaitNodeReady(t.Context(), node))
	}
	requireOpen(t, "before the test")
	r, err := release.New(root, nodes.Kubeconfig(), namespace, name)
	require.NoError(t, err)
	t.Cleanup(func() {
		switch {
		case t.Failed():
			afterFailure(t)
		case r != standing.Release:
			removeAll(t)
		}
	})
	return r
}

// install returns a release that is installed with values(), and whose policies every node enforces. It may be that of the test before,
// where that has left it as it was.
func install(t *testing.T) *release.Release {
	t.Helper()
	if isAsInstalled(t) {
		t.Cleanup(func() {
			if t.Failed() {
				afterFailure(t)
			}
		})
		return standing.Release
	}
	r := prepare(t)
	standing.Release, standing.group = r, nodes.CalicoGroup()
	_, err := r.Install(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	// That takes a moment longer than to be armed: Felix starts anew when its failsafe changes.
	requireProtected(t, "installed")
	return r
}

// isAsInstalled tells whether the standing release is as install would return it.
func isAsInstalled(t *testing.T) bool {
	t.Helper()
	if standing.Release == nil || standing.group != nodes.CalicoGroup() {
		return false
	}
	same, err := standing.Has(values())
	return err == nil && same && release.WaitArmed(t.Context(), nodes, namespace) == nil &&
		len(place.MeasureUntil(t.Context(), scene.Protected, soon).Surprises(scene.Protected)) == 0
}

// removeAll is for what wants a cluster without a release.
func removeAll(t *testing.T) {
	t.Helper()
	require.NoError(t, clean(context.WithoutCancel(t.Context())))
}

// afterFailure shows what there is to see, and removes it unless somebody wants to look at it.
func afterFailure(t *testing.T) {
	diagnose(t)
	if !cluster.Keep(true) {
		removeAll(t)
	}
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
	ready, err := nodes.WatchReady(t.Context(), recordOf(t), t.Name())
	require.NoError(t, err)
	return func() {
		t.Helper()
		open()
		kept(t, ready)
	}
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
	// Enforced says by which families of addresses packets meet the rules.
	Enforced string `json:"enforced"`
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

// requireAgent waits until the agent on a node says so: its state, whether it is ready, and words of its reason.
func requireAgent(t *testing.T, node string, want report) {
	t.Helper()
	eventually(t, fmt.Sprintf("the agent on %s to be %+v", node, want), func(ctx context.Context) error {
		got, err := agentOn(ctx, node)
		if err == nil && (got.State != want.State || got.Ready != want.Ready || !strings.Contains(got.Reason, want.Reason)) {
			err = fmt.Errorf("it is %+v", got)
		}
		return err
	})
}

// requireAgents waits until every agent says so.
func requireAgents(t *testing.T, want report) {
	t.Helper()
	for _, node := range nodeNames() {
		requireAgent(t, node, want)
	}
}

// setInForce is the set of policies that the release was rolled out with last.
func setInForce(t *testing.T) string {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	ds, err := client.AppsV1().DaemonSets(namespace).Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	set := release.SetOf(ds.Spec.Template.Spec.Containers[0].Args)
	require.NotEmpty(t, set, "%v", ds.Spec.Template.Spec.Containers[0].Args)
	return set
}

// policyName is the name of the policy for one purpose in a set.
func policyName(purpose, set string) string { return name + "-" + purpose + "-" + set }

// requireSet wants the endpoint of every node to be armed with a set now; empty: not to be armed.
func requireSet(t *testing.T, set string) {
	t.Helper()
	for _, node := range nodeNames() {
		hep, err := endpointOf(t.Context(), t, node)
		require.NoError(t, err)
		require.Equal(t, set, release.CarriedBy(hep), node)
	}
}

// kubectl runs the cluster's own kubectl.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := cluster.Kubectl(ctx, nodes, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

// clean removes the release, whatever a test made of it, and everything that could decide over the next test. The hook that
// would wait for it has tests of its own.
func clean(ctx context.Context) error {
	standing.Release = nil
	client, err := nodes.Dynamic()
	if err != nil {
		return err
	}
	ofHelm := metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=Helm"}
	rbac, admission, fairness := rbacv1.SchemeGroupVersion, admissionv1.SchemeGroupVersion, flowcontrolv1.SchemeGroupVersion
	remove := func(what schema.GroupVersionResource, namespace string, which metav1.ListOptions) error {
		background := metav1.DeletePropagationBackground
		err := client.Resource(what).Namespace(namespace).DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, which)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("clean up %s: %w", what.Resource, err)
		}
		return nil
	}
	if err := endAgents(ctx, client, remove); err != nil {
		return err
	}
	group, everything := nodes.CalicoGroup(), metav1.ListOptions{}
	return errors.Join(
		removeOverrides(ctx, client.Resource(group.WithResource("felixconfigurations"))),
		// The policies go last: without them an endpoint is harmless, the other way round is not asked for here.
		remove(group.WithResource("hostendpoints"), "", everything),
		remove(group.WithResource("globalnetworkpolicies"), "", everything),
		remove(group.WithResource("globalnetworksets"), "", everything),
		remove(corev1.SchemeGroupVersion.WithResource("configmaps"), namespace, metav1.ListOptions{FieldSelector: "metadata.name=" + name}),
		remove(corev1.SchemeGroupVersion.WithResource("serviceaccounts"), namespace, ofHelm),
		remove(rbac.WithResource("roles"), namespace, ofHelm),
		remove(rbac.WithResource("rolebindings"), namespace, ofHelm),
		remove(rbac.WithResource("roles"), metav1.NamespaceDefault, ofHelm),
		remove(rbac.WithResource("rolebindings"), metav1.NamespaceDefault, ofHelm),
		remove(rbac.WithResource("clusterroles"), "", ofHelm),
		remove(rbac.WithResource("clusterrolebindings"), "", ofHelm),
		remove(admission.WithResource("validatingadmissionpolicies"), "", ofHelm),
		remove(admission.WithResource("validatingadmissionpolicybindings"), "", ofHelm),
		remove(fairness.WithResource("flowschemas"), "", ofHelm),
		remove(fairness.WithResource("prioritylevelconfigurations"), "", ofHelm),
		remove(corev1.SchemeGroupVersion.WithResource("secrets"), namespace, metav1.ListOptions{LabelSelector: "owner=helm"}),
	)
}

// endAgents removes everything that runs pods in the release's namespace, and waits until none is left.
func endAgents(ctx context.Context, client dynamic.Interface, remove func(schema.GroupVersionResource, string, metav1.ListOptions) error) error {
	pods, everything := corev1.SchemeGroupVersion.WithResource("pods"), metav1.ListOptions{}
	if err := errors.Join(
		remove(appsv1.SchemeGroupVersion.WithResource("daemonsets"), namespace, everything),
		remove(appsv1.SchemeGroupVersion.WithResource("deployments"), namespace, everything),
		remove(appsv1.SchemeGroupVersion.WithResource("replicasets"), namespace, everything),
		remove(batchv1.SchemeGroupVersion.WithResource("jobs"), namespace, everything),
	); err != nil {
		return err
	}
	// An agent makes its endpoint again, so all are to have ended before that is deleted. A controller that has not heard of the end of
	// its DaemonSet makes a pod again.
	return cluster.Poll(ctx, soon, "the agents to be gone", func(ctx context.Context) error {
		if err := remove(pods, namespace, everything); err != nil {
			return err
		}
		left, err := client.Resource(pods).Namespace(namespace).List(ctx, everything)
		if err == nil && len(left.Items) > 0 {
			return fmt.Errorf("there are %d pods, among them %s", len(left.Items), left.Items[0].GetName())
		}
		return err
	})
}

// removeOverrides removes what an agent sets for its own node's Felix.
func removeOverrides(ctx context.Context, felix dynamic.ResourceInterface) error {
	overrides, err := felix.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	for _, o := range overrides.Items {
		if !strings.HasPrefix(o.GetName(), "node.") {
			continue
		}
		if err := felix.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("clean up: %w", err)
		}
	}
	return nil
}

// diagnose shows what a failed test left, and keeps what is too long to be shown.
func diagnose(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	dir := filepath.Join(root, "dist", "diagnostics", strings.ReplaceAll(t.Name(), "/", "_"))
	t.Logf("logs and rules: %s (%v)", dir, nodes.Collect(ctx, dir))
	for _, args := range [][]string{
		{"get", "nodes,pods", "--all-namespaces", "--output", "wide"},
		{"get", "hostendpoints." + nodes.StorageGroup().Group + ",globalnetworkpolicies." + nodes.StorageGroup().Group + ",globalnetworksets." + nodes.StorageGroup().Group, "--output", "yaml"},
		{"get", "configmap", name, "--namespace", namespace, "--output", "yaml"},
		{"logs", "--namespace", namespace, "--selector", "app.kubernetes.io/instance=" + name, "--prefix", "--tail", "30"},
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
	_, err := kubectl(t.Context(), text.String(), "apply", "--filename", "-")
	require.NoError(t, err)
}

// forPurpose is the policy for one purpose, of those that were rendered.
func forPurpose(t *testing.T, policies []*unstructured.Unstructured, purpose string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range policies {
		if strings.HasPrefix(o.GetName(), name+"-"+purpose+"-") {
			return o
		}
	}
	t.Fatalf("no policy %s was rendered", purpose)
	return nil
}
