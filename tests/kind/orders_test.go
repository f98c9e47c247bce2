package kind

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// definitions are Calico's, of what a release is made of.
func definitions() []string {
	group := nodes.StorageGroup().Group
	return []string{"hostendpoints." + group, "globalnetworkpolicies." + group, "globalnetworksets." + group}
}

func TestReleaseWaitsForItsRights(t *testing.T) {
	r := prepare(t)
	policies, rest, err := r.Render(t.Context(), values())
	require.NoError(t, err)
	createNamespace(t)
	open := undisturbed(t, scene.Protected)
	apply(t, policies...)
	requireOpen(t, "with policies alone")

	var rights, others []*unstructured.Unstructured
	for _, o := range rest {
		if strings.HasPrefix(o.GetKind(), "ClusterRole") {
			rights = append(rights, o)
		} else {
			others = append(others, o)
		}
	}
	require.NotEmpty(t, rights)
	apply(t, others...)
	requireAgents(t, report{State: "Waiting", Reason: "lacks the right"})
	requireOpen(t, "without rights")
	armed, closed := closesInTime(t)
	apply(t, rights...)
	armed()
	requireArmed(t)
	closed()
	open()
}

func TestReleaseWaitsForCalico(t *testing.T) {
	r := prepare(t)
	policies, rest, err := r.Render(t.Context(), values())
	require.NoError(t, err)
	createNamespace(t)
	open := undisturbed(t, scene.Protected)
	comeBack := removeDefinitions(t)
	// Helm remembers what the API server has served; the next command doesn't know.
	next, err := release.New(root, nodes.Kubeconfig(), namespace, name)
	require.NoError(t, err)
	_, err = next.Install(t.Context(), values())
	require.ErrorContains(t, err, "Calico is not installed")
	apply(t, rest...)
	requireAgents(t, report{State: "Waiting", Reason: "Calico"})
	requireOpen(t, "without Calico's definitions")
	comeBack()
	requireAgents(t, report{State: "Waiting", Reason: forPurpose(t, policies, "drop-other").GetName()})
	apply(t, policies...)
	requireArmed(t)
	requireProtected(t, "with Calico's definitions")
	open()
}

func createNamespace(t *testing.T) {
	t.Helper()
	if _, err := kubectl(t.Context(), "", "create", "namespace", namespace); err != nil {
		require.ErrorContains(t, err, "AlreadyExists")
	}
}

// removeDefinitions makes the API server forget host endpoints and policies, until comeBack is called or the test ends.
func removeDefinitions(t *testing.T) (comeBack func()) {
	t.Helper()
	client, err := nodes.Dynamic()
	require.NoError(t, err)
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	var removed []*unstructured.Unstructured
	restore := func() {
		ctx := context.WithoutCancel(t.Context())
		for _, o := range removed {
			_, err := crds.Create(ctx, o, metav1.CreateOptions{})
			require.True(t, err == nil || apierrors.IsAlreadyExists(err), "%v", err)
		}
		require.NoError(t, cluster.Poll(ctx, soon, "Calico's definitions to be served", func(ctx context.Context) error {
			_, err := release.Leftovers(ctx, nodes)
			return err
		}))
	}
	t.Cleanup(restore)
	for _, name := range definitions() {
		o, err := crds.Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		unstructured.RemoveNestedField(o.Object, "status")
		for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"} {
			unstructured.RemoveNestedField(o.Object, "metadata", field)
		}
		removed = append(removed, o)
		require.NoError(t, crds.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	for _, name := range definitions() {
		eventually(t, name+" to be gone", func(ctx context.Context) error {
			_, err := crds.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(errors.New("it is still there"), err)
		})
	}
	return restore
}
