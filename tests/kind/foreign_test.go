package kind

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// foreign is the name of a policy that was meant for pods, and denies them all that nothing else allows.
const foreign = "deny-all-but-dns"

// putForeign creates the policy, behind everything of the pods' own, and of ours.
func putForeign(t *testing.T, selector string) (remove func()) {
	t.Helper()
	policies := calico(t, "globalnetworkpolicies")
	_, err := policies.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": "GlobalNetworkPolicy",
		"metadata": map[string]any{"name": foreign},
		"spec":     map[string]any{"order": 5000, "selector": selector, "types": []any{"Ingress", "Egress"}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	remove = func() {
		err := policies.Delete(context.WithoutCancel(t.Context()), foreign, metav1.DeleteOptions{})
		require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
	}
	t.Cleanup(remove)
	return remove
}

// A policy that was meant for pods, and selects all(), applies to nodes the moment they have endpoints.
func TestPolicyOfSomebodyElseThatWouldCutNodesKeepsThemWaiting(t *testing.T) {
	r := prepare(t)
	remove := putForeign(t, "all() && !has(app)")
	requireOpen(t, "with the foreign policy, before install")

	stop := undisturbed(t, scene.Everything)
	_, err := r.Install(t.Context(), values())
	require.NoError(t, err)
	requireAgents(t, report{State: "Waiting", Reason: foreign})
	for _, node := range nodeNames() {
		_, err := endpointOf(t.Context(), t, node)
		require.True(t, apierrors.IsNotFound(err), "there is no endpoint that the policy could apply to")
	}
	requireOpen(t, "waiting")
	stop()

	remove()
	requireArmed(t)
	requireProtected(t, "with the foreign policy gone")
}

// Somebody applies it later: after the nodes are armed, or while they have endpoints that are not.
func TestPolicyOfSomebodyElseThatComesLaterIsToldAndArmsNothing(t *testing.T) {
	r := install(t)

	t.Run("armed", func(t *testing.T) {
		stop, armed := protected(t), stayArmed(t, setInForce(t))
		remove := putForeign(t, "all() && !has(app)")
		requireAgents(t, report{State: "Armed", Reason: foreign})
		requireEvent(t, "Node", worker(t, 1), foreign)
		requireProtected(t, "what our policies allow is not asked again by one that comes behind them")
		remove()
		requireArmed(t)
		armed()
		stop()
	})

	t.Run("off, and then to be armed", func(t *testing.T) {
		off := values()
		off["mode"] = "off"
		_, err := r.Upgrade(t.Context(), off)
		require.NoError(t, err)
		requireAsAskedFor(t, r, off)
		requireOpen(t, "off")
		stop := undisturbed(t, scene.Everything)
		remove := putForeign(t, "has(host-firewall.io/set)") // those that are armed
		_, err = r.Upgrade(t.Context(), values())
		require.NoError(t, err)
		requireAgents(t, report{State: "Waiting", Reason: foreign})
		requireSet(t, "")
		requireOpen(t, "held back")
		stop()
		remove()
		requireArmed(t)
		requireProtected(t, "with the foreign policy gone")
	})
}
