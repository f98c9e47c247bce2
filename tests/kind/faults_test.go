package kind

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// away is how long the API server is away.
const away = time.Minute

func apiServer(c scene.Cell) bool { return c.Column == scene.APIServer }

func TestFaultsLeaveProtectionAsItIsAndHealByThemselves(t *testing.T) {
	local(t, "end programs of a node")
	install(t)

	t.Run("agents, Felix and etcd end", func(t *testing.T) {
		stop := protected(t)
		armed := stayArmed(t, "")
		_, err := kubectl(t.Context(), "", "delete", "pods", "--namespace", namespace, "--selector", ofAgents)
		require.NoError(t, err)
		requireArmed(t)
		crashAgent(t, worker(t, 1))
		controller, err := processOf(t.Context(), ofController, "")
		require.NoError(t, err)
		require.NoError(t, unix.Kill(controller, unix.SIGKILL))
		requireArmed(t)
		armed()
		for _, node := range nodeNames() {
			crash(t, node, cluster.Felix)
		}
		crash(t, cluster.ControlPlaneNode, cluster.Etcd)
		requireArmed(t)
		requireProtected(t, "after the crashes")
		stop()
		requireRepairs(t)
	})

	t.Run("the API server is away for a minute", func(t *testing.T) {
		// Kubernetes takes nodes for lost when the API server is back, and pods out of Services until their nodes have reported.
		service := scene.OfServices
		services := reached(t, place.Select(func(c scene.Cell) bool { return scene.Protected(c) && service(c) }))
		open := reached(t, place.Select(func(c scene.Cell) bool { return scene.Protected(c) && !apiServer(c) && !service(c) }))
		closed := unreached(t, place.Select(func(c scene.Cell) bool { return !scene.Protected(c) }))
		control := hostOf(t, cluster.ControlPlaneNode)
		killed := agentProcess(t, worker(t, 2))
		require.NoError(t, control.Stop(cluster.APIServerProgram))
		t.Cleanup(func() { require.NoError(t, control.Resume(cluster.APIServerProgram)) })
		back := time.Now().Add(away)
		crash(t, worker(t, 1), cluster.Felix)
		require.NoError(t, unix.Kill(killed, unix.SIGKILL))
		requireReady(t, false)
		<-time.After(time.Until(back))
		services()
		require.NoError(t, control.Resume(cluster.APIServerProgram))
		requireReady(t, true)
		requireArmed(t)
		requireProtected(t, "after the API server came back")
		open()
		closed()
		requireRepairs(t)
		requireKubeletServes(t)
	})
}

// requireReady waits until every agent is ready, or says that it can't follow. An agent tries again after twenty seconds at most, and an
// API server that has just started may not know its rights yet.
func requireReady(t *testing.T, ready bool) {
	t.Helper()
	require.NoError(t, cluster.Poll(t.Context(), 2*time.Minute, fmt.Sprintf("every agent to be ready: %t", ready), func(ctx context.Context) error {
		for _, node := range nodeNames() {
			got, err := agentOn(ctx, node)
			if err != nil {
				return fmt.Errorf("%s: %w", node, err)
			}
			if got.Ready != ready || got.Reason == "" {
				return fmt.Errorf("%s: %+v", node, got)
			}
		}
		return nil
	}))
}

func hostOf(t *testing.T, name string) *host.Host {
	t.Helper()
	h, err := nodes.Host(name)
	require.NoError(t, err)
	return h
}

// crash ends a program of a node; the node starts it again.
func crash(t *testing.T, node, program string) {
	t.Helper()
	require.NoError(t, hostOf(t, node).Crash(program))
}

// crashAgent ends the agent on a node as the kernel would for want of memory.
func crashAgent(t *testing.T, node string) {
	t.Helper()
	killed := agentProcess(t, node)
	require.NoError(t, unix.Kill(killed, unix.SIGKILL))
	eventually(t, "the agent on "+node+" to be back", func(ctx context.Context) error {
		got, err := agentOn(ctx, node)
		if err == nil && !got.Ready {
			err = fmt.Errorf("%+v", got)
		}
		return err
	})
}

// agentProcess is the id, on the machine, of the agent on a node.
func agentProcess(t *testing.T, node string) int {
	t.Helper()
	pid, err := processOf(t.Context(), ofAgents, "spec.nodeName="+node)
	require.NoError(t, err)
	return pid
}

// processOf is the id, on the machine, of what runs in one of the release's pods that is there to stay: one that ends is Running, too.
func processOf(ctx context.Context, labels, fields string) (int, error) {
	client, err := nodes.Client()
	if err != nil {
		return 0, err
	}
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: fields, LabelSelector: labels})
	if err != nil {
		return 0, err
	}
	for _, p := range pods.Items {
		if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
			return host.ProcessOf(p.Status.ContainerStatuses[0].ContainerID)
		}
	}
	return 0, fmt.Errorf("no pod with %s and %s runs", labels, fields)
}

// requireRepairs deletes every node's endpoint and waits until all are back and armed.
func requireRepairs(t *testing.T) {
	t.Helper()
	for _, node := range nodeNames() {
		var before metav1.Object
		eventually(t, "the endpoint of "+node+" to be deleted", func(ctx context.Context) error {
			hep, err := endpointOf(ctx, t, node)
			if err != nil {
				return err
			}
			before = hep
			return calico(t, "hostendpoints").Delete(ctx, node, metav1.DeleteOptions{})
		})
		eventually(t, "the endpoint of "+node+" to be back", func(ctx context.Context) error {
			hep, err := endpointOf(ctx, t, node)
			if err != nil {
				return err
			}
			if hep.UID == before.GetUID() {
				return errors.New("it has not been deleted yet")
			}
			return release.Armed(hep)
		})
	}
	// Felix has its own time to follow, and whoever watches next wants a node that is closed.
	requireProtected(t, "after the repairs")
}
