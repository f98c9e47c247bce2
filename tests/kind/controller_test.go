package kind

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

// ofController selects the controller's pods, and ofAgents those of the agents.
const (
	ofController = "app.kubernetes.io/component=controller"
	ofAgents     = "app.kubernetes.io/name=host-firewall"
)

// Two at once write the same, for they see the same; without any, what is armed stays so and is repaired. What wants a controller waits for it, and says so.
func TestControllersMayBeTwoOrNone(t *testing.T) {
	r := install(t)
	set := setInForce(t)
	armed := stayArmed(t, set)
	scaleController(t, 2)
	// A Node whose trust somebody takes away is cut until it is back, so nobody watches who reaches whom.
	trust := name + "-node-" + worker(t, 1)
	require.NoError(t, calico(t, "globalnetworksets").Delete(t.Context(), trust, metav1.DeleteOptions{}))
	eventually(t, "the trust in "+worker(t, 1)+" to be back", func(ctx context.Context) error {
		_, err := calico(t, "globalnetworksets").Get(ctx, trust, metav1.GetOptions{})
		return err
	})
	requireProtected(t, "with the trust back")
	stop := protected(t)

	t.Run("two", func(t *testing.T) {
		require.NoError(t, clearances(t).Delete(t.Context(), name, metav1.DeleteOptions{}))
		requireClearance(t, "set", set)
		requireAgents(t, report{State: "Armed", Ready: true})
	})

	t.Run("none", func(t *testing.T) {
		scaleController(t, 0)
		requireAgents(t, report{State: "Armed", Ready: true})
		// Helm counts one again, which finds no node to run on.
		_, err := r.Upgrade(t.Context(), changed(openToMore(), map[string]any{"controller": map[string]any{"nodeSelector": map[string]any{"no": "node"}}}))
		require.NoError(t, err)
		requireOneWaits(t, set)
		requireSet(t, set)
		armed()
		stop()
		requireRepairs(t)
		requireSet(t, set)
	})

	_, err := r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "with a controller again")
}

// requireOneWaits waits until one agent was replaced, and waits because of these words, while all others go on as before.
func requireOneWaits(t *testing.T, words string) {
	t.Helper()
	eventually(t, "one agent to wait because of "+words, func(ctx context.Context) error {
		var waiting []report
		for _, node := range nodeNames() {
			got, err := agentOn(ctx, node)
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", node, err)
			case !got.Ready:
				waiting = append(waiting, got)
			}
		}
		if len(waiting) != 1 || waiting[0].State != "Waiting" || !strings.Contains(waiting[0].Reason, words) {
			return fmt.Errorf("not ready are %+v", waiting)
		}
		return nil
	})
}

// scaleController runs so many controllers, and waits until they are ready and no other one is left.
func scaleController(t *testing.T, replicas int) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	_, err = client.AppsV1().Deployments(namespace).Patch(t.Context(), name+"-controller", types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas), metav1.PatchOptions{})
	require.NoError(t, err)
	eventually(t, fmt.Sprintf("%d controllers to be ready", replicas), func(ctx context.Context) error {
		ready := 0
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofController})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if len(pods.Items) != replicas || ready != replicas {
			return fmt.Errorf("of %d %d are", len(pods.Items), ready)
		}
		return nil
	})
}

// clearances is the API for what the controller tells the agents.
func clearances(t *testing.T) typedcorev1.ConfigMapInterface {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	return client.CoreV1().ConfigMaps(namespace)
}

// requireClearance waits until the controller says these words under a key of what it tells the agents.
func requireClearance(t *testing.T, key, words string) {
	t.Helper()
	eventually(t, "the controller to say "+words, func(ctx context.Context) error {
		said, err := clearances(t).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !strings.Contains(said.Data[key], words) {
			return fmt.Errorf("it says %v", said.Data)
		}
		return nil
	})
}

// requireEvent waits until an Event about an object has these words.
func requireEvent(t *testing.T, kind, object, words string) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	eventually(t, "an Event about "+object+" with "+words, func(ctx context.Context) error {
		events, err := client.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + object})
		if err != nil {
			return err
		}
		var told []string
		for _, e := range events.Items {
			if strings.Contains(e.Message, words) {
				return nil
			}
			told = append(told, e.Message)
		}
		return fmt.Errorf("there are %q", told)
	})
}

// openToMore is rolling() with an ingress list: another set, which opens TCP to the ordinary port to everybody, UDP to it to the stranger, and NodePorts
// over TCP to the one of IPv4.
func openToMore() map[string]any {
	return changed(rolling(), map[string]any{"ingress": []any{
		listed("web", "TCP", cluster.OrdinaryPort, "0.0.0.0/0", "::/0"),
		listed("dns", "UDP", cluster.OrdinaryPort, nodes.StrangerCIDRs()...),
		listed("node-ports", "TCP", "30000:32767", nodes.StrangerCIDRs()[0]),
	}})
}
