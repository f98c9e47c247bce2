package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// Who is a node is what the Nodes say, not who runs an agent: a machine is let in from when its Node has its address until it has not.
func TestNodeIsTrustedByItsNodeAlone(t *testing.T) {
	machines := local(t, "run machines that are no nodes yet")
	r := install(t)
	// The Nodes of this test are never Ready, which protected would complain about.
	open, closed, armed := reached(t, place.Select(scene.Protected)), unreached(t, place.Select(neither(scene.Protected, scene.Protected))), stayArmed(t, "")
	parent := t
	one, other := machine(t, machines, "machine-1", 88), machine(t, machines, "machine-2", 89)

	t.Run("without an agent", func(t *testing.T) {
		requireStranger(t, one.Source)
		register(parent, "no-agent", one.Addresses)
		requireTrusted(t, one.Source)
		requireStranger(t, other.Source)
	})
	t.Run("whose address changes", func(t *testing.T) {
		setAddresses(t, "no-agent", other.Addresses)
		requireTrusted(t, other.Source)
		requireStranger(t, one.Source)
	})
	t.Run("without any address, like those of kwok", func(t *testing.T) {
		register(t, "no-address", cluster.Addresses{})
		set := setInForce(t)
		_, err := r.Upgrade(t.Context(), changed(values(), map[string]any{"essential": map[string]any{"nodeLocalDNS": []any{"169.254.25.10/32"}}}))
		require.NoError(t, err)
		requireArmed(t)
		require.NotEqual(t, set, setInForce(t))
		_, err = r.Upgrade(t.Context(), values())
		require.NoError(t, err)
		requireArmed(t)
	})
	t.Run("that an endpoint of another one claims", func(t *testing.T) { requireClaimedInVain(t, worker(t, 2), other.V4.String()) })
	t.Run("that comes while the controller is away", func(t *testing.T) {
		scaleController(t, 0)
		kept := unreached(t, pathsOf(one.Source))
		register(t, "late", one.Addresses)
		requireTrusted(t, other.Source)
		kept()
		scaleController(t, 1)
		requireTrusted(t, one.Source)
		deleteNode(t, "late")
		requireStranger(t, one.Source)
	})
	armed()
	open()
	closed()
}

// requireClaimedInVain has the endpoint of a node claim the address of another Node. It is told, and trusted as that one's only.
func requireClaimedInVain(t *testing.T, liar, address string) {
	t.Helper()
	awake := asleep(t, liar)
	hep, err := endpointOf(t.Context(), t, liar)
	require.NoError(t, err)
	claimed := append(hep.Spec.ExpectedIPs, address)
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"expectedIPs": claimed}})
	require.NoError(t, err)
	patchEndpoint(t, liar, string(patch))
	requireEvent(t, "Node", liar, address)
	trust, err := calico(t, "globalnetworksets").Get(t.Context(), name+"-node-"+liar, metav1.GetOptions{})
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(trust.Object["spec"]), address)
	awake()
	eventually(t, "the endpoint to say what is true", func(ctx context.Context) error {
		now, err := endpointOf(ctx, t, liar)
		if err == nil && len(now.Spec.ExpectedIPs) != len(hep.Spec.ExpectedIPs) {
			err = fmt.Errorf("it says %v", now.Spec.ExpectedIPs)
		}
		return err
	})
}

// outsideHost is a machine among the nodes' network.
type outsideHost struct {
	probe.Source
	cluster.Addresses
}

// machine starts a machine beside the nodes, with the addresses of this number, for as long as the test lasts.
func machine(t *testing.T, machines *cluster.Cluster, name string, number byte) outsideHost {
	t.Helper()
	a := cluster.Addresses{V4: netip.AddrFrom4([4]byte{192, 0, 2, number}), V6: netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", number))}
	h, err := machines.TakeOver(name, a)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Kill()) })
	return outsideHost{probe.Source{Name: name, NetNS: h.NetNS()}, a}
}

// register creates a Node without a kubelet, which no pod comes to, for as long as the test lasts.
func register(t *testing.T, node string, a cluster.Addresses) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	_, err = client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"type": "virtual-kubelet"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "virtual-kubelet.io/provider", Effect: corev1.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { deleteNode(t, node) })
	if a.V4.IsValid() {
		setAddresses(t, node, a)
	}
}

// deleteNode deletes a Node that register has created.
func deleteNode(t *testing.T, node string) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	err = client.CoreV1().Nodes().Delete(context.WithoutCancel(t.Context()), node, metav1.DeleteOptions{})
	require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
}

// setAddresses says which addresses a Node has.
func setAddresses(t *testing.T, node string, a cluster.Addresses) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"addresses": []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: a.V4.String()}, {Type: corev1.NodeInternalIP, Address: a.V6.String()},
	}}})
	require.NoError(t, err)
	_, err = client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	require.NoError(t, err)
}

// asleep stops the agent on a node without ending it, until awake is called or the test ends.
func asleep(t *testing.T, node string) (awake func()) {
	t.Helper()
	pid := agentProcess(t, node)
	require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
	awake = func() { require.NoError(t, unix.Kill(pid, unix.SIGCONT)) }
	t.Cleanup(awake)
	return awake
}

// pathsOf are ways into these nodes, or all, that are closed to strangers, and open to nodes, over both families.
func pathsOf(from probe.Source, into ...string) []probe.Path {
	path := probe.Path{From: from, What: "nodes"}
	for _, m := range nodes.Nodes() {
		if len(into) > 0 && !slices.Contains(into, m.Name) {
			continue
		}
		for _, family := range []int{4, 6} {
			for _, port := range []uint16{cluster.SSHPort, cluster.OrdinaryPort} {
				path.To = append(path.To, probe.Address{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(m.Addresses.Of(family), port)})
			}
		}
	}
	return []probe.Path{path}
}

// requireTrusted waits until a host reaches what nodes reach, of every node.
func requireTrusted(t *testing.T, from probe.Source) {
	t.Helper()
	eventually(t, from.Name+" to be trusted", func(context.Context) error {
		return errors.Join(probe.Ask(pathsOf(from))[0].Errors...)
	})
}

// Without trust in Nodes it is cluster.cidrs that let them reach each other: as long as these don't hold every one of them nobody is armed, and an
// endpoint that somebody has armed by hand says nothing about the others.
func TestWithoutTrustedNodesNothingIsArmedUnlessTheNetworksHoldThemAll(t *testing.T) {
	r := prepare(t)
	without := func(cidrs []string) map[string]any {
		return with(map[string]any{"cluster": map[string]any{"trustNodes": false, "cidrs": cidrs}})
	}
	stop := undisturbed(t, scene.Everything)
	all := nodes.ClusterCIDRs()
	_, err := r.Install(t.Context(), without(all[1:]))
	require.NoError(t, err)
	requireAgents(t, report{State: "Waiting", Reason: "cluster.cidrs"})
	requireOpen(t, "without the nodes' IPv4 network")
	requireSet(t, "")
	stop()

	byHand := worker(t, 1)
	outside, err := nodes.Host(cluster.StrangerHost)
	require.NoError(t, err)
	from := probe.Source{Name: cluster.StrangerHost, NetNS: outside.NetNS()}
	others := reached(t, pathsOf(from, slices.DeleteFunc(nodeNames(), func(node string) bool { return node == byHand })...))
	patchEndpoint(t, byHand, fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, release.SetLabel, setInForce(t)))
	eventually(t, byHand+" to be closed", func(context.Context) error {
		if a := probe.Ask(pathsOf(from, byHand))[0]; a.Reached > len(a.To)/2 { // SSH is a failsafe
			return fmt.Errorf("reached %d of %d ports", a.Reached, len(a.To))
		}
		return nil
	})
	for _, node := range nodeNames() {
		if node != byHand {
			requireAgent(t, node, report{State: "Waiting", Reason: "cluster.cidrs"})
		}
	}
	others()

	_, err = r.Upgrade(t.Context(), without(all))
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "with both")
	trusted, err := calico(t, "globalnetworksets").List(t.Context(), metav1.ListOptions{LabelSelector: "host-firewall.io/trust=node"})
	require.NoError(t, err)
	require.Empty(t, trusted.Items)
}
