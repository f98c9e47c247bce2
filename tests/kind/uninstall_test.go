package kind

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// Whoever is dead can't get in the way of an uninstall: agents, the controller, a kubelet whose agent goes on and on.
func TestUninstallWhateverIsDeadLeavesNothing(t *testing.T) {
	local(t, "stop the API server and a kubelet")
	r := install(t)

	t.Run("agents and controller, and the API server is slow", func(t *testing.T) {
		for _, workload := range []string{"daemonset/" + name, "deployment/" + name + "-controller"} {
			_, err := kubectl(t.Context(), "", "patch", workload, "--namespace", namespace, "--type", "merge",
				"--patch", `{"spec":{"template":{"spec":{"nodeSelector":{"no":"node"}}}}}`)
			require.NoError(t, err)
		}
		eventually(t, "agents and controller to be gone", func(ctx context.Context) error {
			out, err := kubectl(ctx, "", "get", "pods", "--namespace", namespace, "--field-selector", "status.phase=Running", "--output", "name")
			if err == nil && strings.Contains(out, "pod/") {
				err = fmt.Errorf("there are %s", out)
			}
			return err
		})
		requireProtected(t, "without agents")

		open := reached(t, place.Select(func(c scene.Cell) bool { return scene.Protected(c) && !apiServer(c) }))
		recover := slowAPIServer(t)
		require.NoError(t, r.Uninstall())
		recover()
		requireOpen(t, "after uninstall")
		requireNothingLeft(t)
		require.ErrorContains(t, r.Uninstall(), "not found", "a second time")
		requireOpen(t, "after the second uninstall")
		open()
	})

	t.Run("a kubelet", func(t *testing.T) {
		_, err := r.Install(t.Context(), values())
		require.NoError(t, err)
		requireArmed(t)
		requireProtected(t, "installed again")
		node := hostOf(t, worker(t, 2))
		alive := agentProcess(t, node.Name)
		require.NoError(t, node.Stop(cluster.Kubelet))
		t.Cleanup(func() { require.NoError(t, node.Resume(cluster.Kubelet)) })
		require.NoError(t, r.UninstallWithin(3*time.Minute))
		require.NoError(t, unix.Kill(alive, 0), "its agent goes on")
		requireOpenBut(t, scene.Kubelet)
		left, err := release.Leftovers(t.Context(), nodes)
		require.NoError(t, err)
		require.Empty(t, left)
		require.NoError(t, node.Resume(cluster.Kubelet))
		require.NoError(t, nodes.WaitNodeReady(t.Context(), node.Name))
		requireNothingLeft(t)
		requireOpen(t, "with its kubelet back")
	})
}

// requireOpenBut waits until everything is open, but for what is not there.
func requireOpenBut(t *testing.T, away string) {
	t.Helper()
	eventually(t, "everything to be open", func(context.Context) error {
		for _, a := range probe.Ask(place.Select(func(c scene.Cell) bool { return c.Column != away })) {
			if !a.Open() {
				return errors.Join(a.Errors...)
			}
		}
		return nil
	})
}

// slowAPIServer lets the API server work a third of the time, until recover is called or the test ends.
func slowAPIServer(t *testing.T) (recover func()) {
	t.Helper()
	control := hostOf(t, cluster.ControlPlaneNode)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		stopped := false
		turn := func(signal unix.Signal) {
			assert.NoError(t, control.Signal(cluster.APIServerProgram, signal))
			stopped = signal == unix.SIGSTOP
		}
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			switch i % 3 {
			case 0:
				turn(unix.SIGSTOP)
			case 2:
				turn(unix.SIGCONT)
			}
			<-tick.C
		}
		if stopped {
			turn(unix.SIGCONT)
		}
	})
	recover = func() { cancel(); group.Wait() }
	t.Cleanup(recover)
	return recover
}

// The hook needs the same image as the agents.
func TestUninstallWithoutItsImageChangesNothingAndCanBeRepeated(t *testing.T) {
	local(t, "give an image another tag")
	admin := adminsShell(t)
	r := install(t)
	stop := protected(t)
	_, err := r.Upgrade(t.Context(), ofImage("gone"))
	require.NoError(t, err)
	requireBrokenAgent(t)
	require.Error(t, r.UninstallWithin(5*time.Second))
	_, err = r.Upgrade(t.Context(), ofImage("gone"))
	require.ErrorContains(t, err, "no deployed releases", "which is what the page has a way out of")
	require.NoError(t, admin(t.Context(), waysBack(t)[hookIsAway]))
	_, err = r.Upgrade(t.Context(), ofImage("gone"))
	require.NoError(t, err)
	require.Error(t, r.UninstallWithin(5*time.Second))
	requireProtected(t, "after an uninstall that failed")
	stop()

	tagImage(t, "gone")
	open := undisturbed(t, scene.Protected)
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	requireNothingLeft(t)
	open()
}

// What docs/recovery.md advises against.
func TestNamespaceThatIsDeletedAndReleaseIDThatIsChangedAreMendedByHelm(t *testing.T) {
	r := install(t)
	_, err := kubectl(t.Context(), "", "delete", "namespace", namespace)
	require.NoError(t, err)
	requireProtected(t, "without the namespace")
	_, err = r.Install(t.Context(), values())
	require.NoError(t, err, "it takes over what is left")
	requireArmed(t)

	_, err = r.Upgrade(t.Context(), with(map[string]any{"fullnameOverride": "other"}))
	require.NoError(t, err)
	requireAgents(t, report{State: "Conflict", Reason: name})
	requireProtected(t, "with another id: the policies of the old one are kept")
	require.NoError(t, r.Rollback(0))
	requireArmed(t)
	requireProtected(t, "with the old id")
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	for _, left := range []string{"globalnetworkpolicies." + nodes.CalicoGroup().Group, "globalnetworksets." + nodes.CalicoGroup().Group, "configmaps"} {
		_, err = kubectl(t.Context(), "", "delete", left, "--selector", release.Label+"=other", "--namespace", namespace)
		require.NoError(t, err, "what the page says of the other id")
	}
	requireNothingLeft(t)
}

// requireNothingLeft looks for every kind of object that a release ever makes.
func requireNothingLeft(t *testing.T) {
	t.Helper()
	left, err := release.Leftovers(t.Context(), nodes)
	require.NoError(t, err)
	assert.Empty(t, left)
	_, err = clearances(t).Get(t.Context(), name, metav1.GetOptions{})
	assert.True(t, apierrors.IsNotFound(err), "the ConfigMap %s: %v", name, err)
	for kind, selector := range map[string]string{
		"clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings":          release.Label,
		"daemonsets,deployments,jobs,pods,serviceaccounts,roles,rolebindings,configmaps,secrets --all-namespaces": "app.kubernetes.io/instance=" + name,
	} {
		eventually(t, kind+" to be gone", func(ctx context.Context) error {
			out, err := kubectl(ctx, "", append([]string{"get", "--output", "name", "--selector", selector}, strings.Fields(kind)...)...)
			if err != nil {
				return err
			}
			if left := strings.TrimSpace(out); left != "" && !strings.HasPrefix(left, "No resources") {
				return fmt.Errorf("there are %s", left)
			}
			return nil
		})
	}
}

func TestModeOffDisarmsEveryNodeAndKeepsItsEndpoint(t *testing.T) {
	r := install(t)
	stop := undisturbed(t, scene.Protected)
	off := values()
	off["mode"] = "off"
	_, err := r.Upgrade(t.Context(), off)
	require.NoError(t, err)
	requireOpen(t, "off")
	requireAgents(t, report{State: "Off", Ready: true})
	requireSet(t, "")
	_, err = r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "on again")
	stop()
}

func TestNamedInterfacesGetEndpointsOfTheirOwn(t *testing.T) {
	r := prepare(t)
	v := release.Values(map[string]any{
		"ssh":          map[string]any{"cidrs": nodes.AdminCIDRs()},
		"hostEndpoint": map[string]any{"interfaces": []any{"eth*"}},
	})
	stop := undisturbed(t, scene.Protected)
	_, err := r.Install(t.Context(), v)
	require.NoError(t, err)
	for _, node := range nodeNames() {
		eventually(t, "the endpoint of eth0 on "+node, func(ctx context.Context) error {
			hep, err := endpointOf(ctx, t, node+"-eth0")
			if err != nil {
				return err
			}
			m, err := nodes.Member(node)
			require.NoError(t, err)
			if hep.Spec.InterfaceName != "eth0" || len(hep.Spec.ExpectedIPs) < 2 {
				return fmt.Errorf("%+v", hep.Spec)
			}
			require.Contains(t, hep.Spec.ExpectedIPs, m.Addresses.V4.String())
			require.Contains(t, hep.Spec.ExpectedIPs, m.Addresses.V6.String())
			return release.Armed(hep)
		})
	}
	requireProtected(t, "with named interfaces")
	stop()
}
