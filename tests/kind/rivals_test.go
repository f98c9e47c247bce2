package kind

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

func TestEndpointsOfOthersAreReportedAndNeverMakeUsOpenANode(t *testing.T) {
	install(t)
	node := worker(t, 1)

	t.Run("one that ours wins over", func(t *testing.T) {
		stop := protected(t)
		remove := createEndpoint(t, node+"-other", node, "*")
		requireConflict(t, node, node+"-other")
		requireProtected(t, "beside it")
		remove()
		requireArmed(t)
		stop()
	})

	t.Run("Calico's own", func(t *testing.T) {
		stop := protected(t)
		remove := startKubeControllers(t)
		for _, node := range nodeNames() {
			requireConflict(t, node, node+"-auto-hep")
		}
		requireProtected(t, "beside Calico's own endpoints")
		stop()
		requireRepairs(t)
		requireProtected(t, "repaired beside Calico's own endpoints")
		remove()
		requireArmed(t)
	})

	// Calico takes the one whose name comes first, and one of an interface before that of all. That opens the node, and nobody but its owner may
	// take it away.
	for what, rival := range map[string][2]string{
		"one that wins by its name":      {"a-" + node, "*"},
		"one that wins by its interface": {"z-" + node, "eth0"},
	} {
		t.Run(what, func(t *testing.T) {
			open := undisturbed(t, scene.Protected)
			remove := createEndpoint(t, rival[0], node, rival[1])
			requireConflict(t, node, rival[0])
			remove()
			requireArmed(t)
			requireProtected(t, "without it")
			open()
		})
	}
}

// requireConflict waits until the agent says whose endpoint is in the way, and wants its node to stay armed.
func requireConflict(t *testing.T, node, rival string) {
	t.Helper()
	requireAgent(t, node, report{State: "Conflict", Reason: rival})
	hep, err := endpointOf(t.Context(), t, node)
	require.NoError(t, err)
	require.NoError(t, release.Armed(hep))
}

// createEndpoint makes an endpoint of somebody else, that no policy applies to, until remove is called or the test ends.
func createEndpoint(t *testing.T, endpoint, node, iface string) (remove func()) {
	t.Helper()
	putEndpoint(t, endpoint, node, iface, nil)
	remove = func() {
		err := calico(t, "hostendpoints").Delete(context.WithoutCancel(t.Context()), endpoint, metav1.DeleteOptions{})
		require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
	}
	t.Cleanup(remove)
	return remove
}

// putEndpoint creates an endpoint that nothing closes as long as no policy selects it.
func putEndpoint(t *testing.T, endpoint, node, iface string, labels map[string]any) {
	t.Helper()
	_, err := calico(t, "hostendpoints").Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": "HostEndpoint",
		"metadata": map[string]any{"name": endpoint, "labels": labels},
		"spec":     map[string]any{"node": node, "interfaceName": iface, "profiles": []any{"projectcalico-default-allow"}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// startKubeControllers runs Calico's kube-controllers with automatic host endpoints, until remove is called or the test ends.
func startKubeControllers(t *testing.T) (remove func()) {
	t.Helper()
	const namespace, path = "bench", "/usr/bin/kube-controllers"
	programs, err := binaries.Ensure(t.Context(), filepath.Join(root, "tests", "cluster", "modules"), t.Output(), binaries.KubeControllers)
	require.NoError(t, err)
	archive := filepath.Join(cluster.Folder(root), "kube-controllers.tar")
	require.NoError(t, image.PackFiles([]image.File{{Path: path, Source: programs[binaries.KubeControllers]}},
		"host-firewall.test/kube-controllers:dev", archive, image.Config{Entrypoint: path}))
	require.NoError(t, nodes.Load(t.Context(), archive))
	manifest, err := os.ReadFile(filepath.Join(root, "tests", "cluster", "bench", "manifests", "kube-controllers.yaml"))
	require.NoError(t, err)
	_, err = kubectl(t.Context(), "", "create", "namespace", namespace)
	require.NoError(t, err)
	remove = func() {
		ctx := context.WithoutCancel(t.Context())
		_, err := kubectl(ctx, string(manifest), "delete", "--ignore-not-found", "--namespace", namespace, "--filename", "-")
		require.NoError(t, err)
		_, err = kubectl(ctx, "", "delete", "--ignore-not-found", "namespace", namespace)
		require.NoError(t, err)
		for _, node := range nodeNames() {
			err := calico(t, "hostendpoints").Delete(ctx, node+"-auto-hep", metav1.DeleteOptions{})
			require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
		}
	}
	t.Cleanup(remove)
	_, err = kubectl(t.Context(), string(manifest), "apply", "--namespace", namespace, "--filename", "-")
	require.NoError(t, err)
	return remove
}
