package kind

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

func TestNodeThatJoinsIsProtectedAndOneThatLeavesTakesItsTrustAway(t *testing.T) {
	machines := local(t, "give the address of a node that has left to another host")
	install(t)
	open := reached(t, place.Select(scene.Protected))
	shut := unreached(t, place.Select(func(c scene.Cell) bool { return !scene.Protected(c) }))
	hostile(t)
	m, err := nodes.AddNode("worker-3")
	require.NoError(t, err)
	t.Cleanup(func() {
		if _, err := nodes.Member(m.Name); err == nil {
			require.NoError(t, nodes.RemoveNode(context.WithoutCancel(t.Context()), m.Name))
		}
		require.NoError(t, place.Refresh(context.WithoutCancel(t.Context())))
	})
	closed := try(t, record.Promise{Kind: record.Closed, Within: closing}, place.Newcomer(m), probe.Rhythm{Every: pause / 10})
	require.NoError(t, cluster.Poll(t.Context(), time.Minute, "the agent of the new node to start", func(ctx context.Context) error {
		_, err := agentOn(ctx, m.Name)
		return err
	}))
	started := time.Now()
	closed.Due()
	require.NoError(t, nodes.WaitNode(t.Context(), m))
	require.NoError(t, place.Refresh(t.Context()), "pods run on the new node")
	requireArmed(t)
	requireProtected(t, "with the new node")
	_, err = felixOf(t.Context(), t, m.Name)
	require.NoError(t, err, "its failsafe is narrowed")

	t.Logf("closed %.1fs after the start of its agent was seen", kept(t, closed).Over.Sub(started).Seconds())
	open() // a NodePort may lead to the pod of a node that is switched off

	require.NoError(t, nodes.RemoveNode(t.Context(), m.Name))
	requireCollected(t, m.Name, "")
	require.NoError(t, place.Refresh(t.Context()))
	// Whoever gets the address next was trusted a moment ago: the table said so of the node.
	next, err := machines.TakeOver("taken-over", m.Addresses)
	require.NoError(t, err)
	defer func() { require.NoError(t, next.Kill()) }()
	from := probe.Source{Name: "whoever has the address now", NetNS: next.NetNS()}
	requireStranger(t, from)
	requireProtected(t, "after the node left")
	shut()
}

// requireStranger waits until a host reaches what every stranger reaches, and nothing else, of every node.
func requireStranger(t *testing.T, from probe.Source) {
	t.Helper()
	var open, closed []probe.Address
	for _, m := range nodes.Nodes() {
		for _, family := range []int{4, 6} {
			if m.Role == cluster.ControlPlane {
				open = append(open, probe.Address{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(m.Addresses.Of(family), cluster.APIPort)})
			}
			for _, port := range []uint16{cluster.SSHPort, cluster.OrdinaryPort} {
				closed = append(closed, probe.Address{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(m.Addresses.Of(family), port)})
			}
		}
	}
	eventually(t, from.Name+" to be a stranger", func(context.Context) error {
		for _, a := range probe.Ask([]probe.Path{{From: from, What: "the API server", To: open}}) {
			if !a.Open() {
				return errors.Join(a.Errors...)
			}
		}
		for _, a := range probe.Ask([]probe.Path{{From: from, What: "nodes", To: closed}}) {
			if !a.Closed() {
				return fmt.Errorf("reached %d of %d ports that are to be closed", a.Reached, len(a.To))
			}
		}
		return nil
	})
}

func felixOf(ctx context.Context, t *testing.T, node string) (*unstructured.Unstructured, error) {
	t.Helper()
	return calico(t, "felixconfigurations").Get(ctx, "node."+node, metav1.GetOptions{})
}

// requireCollected waits until what was made for a Node is gone with it, but for what belongs to the Node of the same
// name with this id, if any.
func requireCollected(t *testing.T, node string, now types.UID) {
	t.Helper()
	for resource, object := range map[string]string{"hostendpoints": node, "felixconfigurations": "node." + node, "globalnetworksets": name + "-node-" + node} {
		eventually(t, resource+" "+object+" to be the Node's that is there", func(ctx context.Context) error {
			o, err := calico(t, resource).Get(ctx, object, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err) && now == "":
				return nil
			case err != nil:
				return err
			case !slices.ContainsFunc(o.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return o.UID == now }):
				return fmt.Errorf("it is owned by %v", o.GetOwnerReferences())
			}
			return nil
		})
	}
}

func TestNodeThatRebootsStaysArmedAndOneThatRegistersAgainIsProtectedAgain(t *testing.T) {
	machines := local(t, "reboot a node")
	node := worker(t, 2)
	r := install(t)
	m, err := nodes.Member(node)
	require.NoError(t, err)
	// The pods of the node are gone for a while. The one that NodePorts lead to is on another node.
	others := func(want bool) (paths []probe.Path) {
		for _, p := range place.Select(func(c scene.Cell) bool {
			return scene.Protected(c) == want && c.Row != scene.PodNear && c.Row != scene.PodFar && c.Column != scene.Pods
		}) {
			p.To = slices.DeleteFunc(slices.Clone(p.To), func(to probe.Address) bool {
				return to.Addr() == m.Addresses.V4 || to.Addr() == m.Addresses.V6
			})
			if p.From.Name != node {
				paths = append(paths, p)
			}
		}
		return paths
	}
	open, closed := reached(t, others(true)), unreached(t, others(false))

	t.Run("reboot", func(t *testing.T) {
		armed := stayArmed(t, "")
		require.NoError(t, machines.Reboot(node))
		require.NoError(t, nodes.WaitNode(t.Context(), m))
		requireArmed(t)
		require.NoError(t, place.Refresh(t.Context()))
		requireProtected(t, "after the reboot")
		armed()
	})

	t.Run("registered again, while the controller is away", func(t *testing.T) {
		// First, for on a node without a Node it would go on for a while.
		scaleController(t, 0)
		register := deregister(t, node)
		register()
		requireAgent(t, node, report{State: "Waiting", Reason: "has not looked at this Node yet"})
		scaleController(t, 1)
		now, err := nodes.Node(t.Context(), node)
		require.NoError(t, err)
		requireCollected(t, node, now.UID)
		require.NoError(t, place.Refresh(t.Context()))
		requireArmed(t)
		requireProtected(t, "registered again")
	})
	open()
	closed()

	t.Run("an API server that is no Node", func(t *testing.T) {
		requireServedByAPIServerThatIsNoNode(t, r)
		requireArmed(t)
		requireProtected(t, "with its Node back")
	})
}
