package kind

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// operated are values without agents: the controller keeps all nodes itself.
func operated(values map[string]any) map[string]any {
	agent, _ := values["agent"].(map[string]any)
	return changed(values, map[string]any{"agent": changed(agent, map[string]any{"enabled": false})})
}

func TestControllerKeepsAllNodesWhereNoAgentsRun(t *testing.T) {
	local(t, "add a node")
	r := prepare(t)
	open := reached(t, place.Select(scene.Protected))
	armed, stop := closesInTime(t)
	_, err := r.Install(t.Context(), operated(with(map[string]any{"rollout": map[string]any{"verify": true}})))
	require.NoError(t, err)
	armed()
	for _, node := range nodeNames() {
		hep, err := endpointOf(t.Context(), t, node)
		require.NoError(t, err)
		require.Contains(t, hep.Annotations["host-firewall.io/trial"], `"baseline":["API server from the controller's host",`, "what %s was tried by", node)
	}
	requireArmed(t)
	stop()
	requireTestPasses(t, r)
	requireWritesNothingElse(t)
	requireComesBack(t, worker(t, 1))
	requireProtected(t, "repaired")
	closed := unreached(t, place.Select(func(c scene.Cell) bool { return !scene.Protected(c) && !strangersSSH(c) }))

	t.Run("agents come and go", func(t *testing.T) {
		stop := stayArmed(t, clearedSet(t))
		for _, values := range []map[string]any{values(), operated(values())} {
			_, err := r.Upgrade(t.Context(), values)
			require.NoError(t, err)
			requireArmed(t)
			requireProtected(t, "with agents, or without them again")
		}
		stop()
	})
	want := func(c scene.Cell) bool { return scene.Protected(c) || strangersSSH(c) }
	t.Run("another set", func(t *testing.T) {
		_, err := r.Upgrade(t.Context(), operated(with(map[string]any{"ssh": map[string]any{"cidrs": strangersToo(t)}})))
		require.NoError(t, err)
		requireArmed(t)
		requireTable(t, want, "with another set")
	})
	t.Run("a node that joins", func(t *testing.T) {
		m, err := nodes.AddNode("worker-3")
		require.NoError(t, err)
		t.Cleanup(func() {
			ctx := context.WithoutCancel(t.Context())
			require.NoError(t, nodes.RemoveNode(ctx, m.Name))
			require.NoError(t, place.Refresh(ctx))
		})
		joins := try(t, record.Promise{Kind: record.Closed, Within: shared(time.Minute)}, place.Newcomer(m), probe.Rhythm{Every: pause / 10})
		joins.Due()
		require.NoError(t, nodes.WaitNode(t.Context(), m))
		requireArmed(t)
		eventually(t, "it to be closed to the stranger", func(context.Context) error {
			if a := probe.Ask(place.Newcomer(m))[0]; !a.Closed() {
				return fmt.Errorf("it is reached: %s", a)
			}
			return nil
		})
		kept(t, joins)
	})
	closed()

	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	open()
	requireNothingLeft(t)
}

// openByHand takes the way out, and closeByHand comes back.
func openByHand(t *testing.T) {
	t.Helper()
	_, err := kubectl(t.Context(), "", "annotate", "configmap", name, "--namespace", namespace, "host-firewall.io/open=a test")
	require.NoError(t, err)
}

func closeByHand(t *testing.T) {
	t.Helper()
	_, err := kubectl(t.Context(), "", "annotate", "configmap", name, "--namespace", namespace, "host-firewall.io/open-")
	require.NoError(t, err)
}

// requireWritesNothingElse wants the admission policy to refuse what the controller never writes, though its role would let it.
func requireWritesNothingElse(t *testing.T) {
	t.Helper()
	controller, node := asAccount(t, name+"-controller", nil), worker(t, 1)
	endpoints, felix := controller("hostendpoints"), controller("felixconfigurations")
	create := func(client dynamic.ResourceInterface, kind, object string, labels, spec map[string]any) error {
		_, err := client.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": nodes.CalicoGroup().String(), "kind": kind, "metadata": map[string]any{"name": object, "labels": labels}, "spec": spec,
		}}, metav1.CreateOptions{})
		return err
	}
	patch := func(client dynamic.ResourceInterface, object, patch string) error {
		_, err := client.Patch(t.Context(), object, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	ours, all := map[string]any{"host-firewall.io/release": name}, map[string]any{"node": node, "interfaceName": "*"}
	putEndpoint(t, "by-hand", "by-hand", "*", nil)
	_, err := calico(t, "felixconfigurations").Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": "FelixConfiguration", "metadata": map[string]any{"name": "node.by-hand"}, "spec": map[string]any{"logSeverityScreen": "Info"},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	for what, err := range map[string]error{
		"an endpoint that denies everything":              patch(endpoints, node, `{"spec":{"profiles":[]}}`),
		"an endpoint that was made by hand, deleted":      endpoints.Delete(t.Context(), "by-hand", metav1.DeleteOptions{}),
		"a Felix configuration made by hand, deleted":     felix.Delete(t.Context(), "node.by-hand", metav1.DeleteOptions{}),
		"another field of a Felix configuration":          patch(felix, "node."+node, `{"spec":{"logSeverityScreen":"Debug"}}`),
		"an annotation of it that overrides":              patch(felix, "node."+node, `{"metadata":{"annotations":{"config.projectcalico.org/IptablesRefreshInterval":"0"}}}`),
		"a Felix configuration with more than a failsafe": create(felix, "FelixConfiguration", "node.more", ours, map[string]any{"logSeverityScreen": "Debug"}),
		"an endpoint by another name":                     create(endpoints, "HostEndpoint", node+"-more", ours, all),
		"an endpoint of one interface":                    create(endpoints, "HostEndpoint", "more", ours, map[string]any{"node": "more", "interfaceName": "eth0"}),
		"an endpoint of no release":                       create(endpoints, "HostEndpoint", "more", nil, map[string]any{"node": "more", "interfaceName": "*"}),
		"an endpoint that leaves the release":             patch(endpoints, node, `{"metadata":{"labels":{"host-firewall.io/release":null}}}`),
		"an endpoint that is trusted":                     patch(endpoints, node, `{"metadata":{"labels":{"host-firewall.io/trust":"node"}}}`),
		"a Felix configuration of all nodes":              create(felix, "FelixConfiguration", "default", ours, map[string]any{}),
	} {
		assertRefusedBy(t, name+"-controller", err, "controller", what)
	}
	require.NoError(t, calico(t, "hostendpoints").Delete(t.Context(), "by-hand", metav1.DeleteOptions{}))
	require.NoError(t, calico(t, "felixconfigurations").Delete(t.Context(), "node.by-hand", metav1.DeleteOptions{}))
}

// clearedSet is the set that the controller looks after.
func clearedSet(t *testing.T) string {
	t.Helper()
	said, err := clearances(t).Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	return said.Data["set"]
}

// requireComesBack deletes and edits what the controller keeps for a node, and waits until it is as it was.
func requireComesBack(t *testing.T, node string) {
	t.Helper()
	took, err := release.MeasureRepair(t.Context(), nodes, node)
	require.NoError(t, err)
	t.Logf("%s: deleted, back and armed after %s", node, took)
	before, err := endpointOf(t.Context(), t, node)
	require.NoError(t, err)
	patchEndpoint(t, node, `{"metadata":{"labels":{"host-firewall.io/set":null}},"spec":{"expectedIPs":["203.0.113.77"]}}`)
	eventually(t, "the endpoint of "+node+" to be as it was", func(ctx context.Context) error {
		now, err := endpointOf(ctx, t, node)
		if err == nil && !(reflect.DeepEqual(now.Spec, before.Spec) && reflect.DeepEqual(now.Labels, before.Labels) && reflect.DeepEqual(now.OwnerReferences, before.OwnerReferences)) {
			err = fmt.Errorf("it is %v, %v", now.Labels, now.Spec)
		}
		return err
	})
	require.NoError(t, calico(t, "felixconfigurations").Delete(t.Context(), "node."+node, metav1.DeleteOptions{}))
	eventually(t, "the failsafe of "+node+" to be narrowed again", func(ctx context.Context) error {
		_, err := felixOf(ctx, t, node)
		return err
	})
}
