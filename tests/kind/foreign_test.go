package kind

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// A policy that was meant for pods, and selects all(), applies to nodes the moment they have endpoints.
func TestPolicyOfSomebodyElseThatWouldCutNodesKeepsThemWaiting(t *testing.T) {
	r := prepare(t)
	const foreign = "deny-all-but-dns"
	_, err := calico(t, "globalnetworkpolicies").Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": "GlobalNetworkPolicy",
		"metadata": map[string]any{"name": foreign},
		// Behind everything of the pods' own, and of ours.
		"spec": map[string]any{"order": 5000, "selector": "all() && !has(app)", "types": []any{"Ingress", "Egress"}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	requireOpen(t, "with the foreign policy, before install")

	stop := undisturbed(t, scene.Everything)
	_, err = r.Install(t.Context(), values())
	require.NoError(t, err)
	for _, node := range nodeNames() {
		eventually(t, "the agent on "+node+" to wait because of "+foreign, func(ctx context.Context) error {
			got, err := agentOn(ctx, node)
			if err != nil {
				return err
			}
			if got.State != "Waiting" || !strings.Contains(got.Reason, foreign) {
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
		_, err := endpointOf(t.Context(), t, node)
		require.True(t, apierrors.IsNotFound(err), "there is no endpoint that the policy could apply to")
	}
	requireOpen(t, "waiting")
	stop()

	require.NoError(t, calico(t, "globalnetworkpolicies").Delete(t.Context(), foreign, metav1.DeleteOptions{}))
	requireArmed(t)
	requireProtected(t, "with the foreign policy gone")
}
