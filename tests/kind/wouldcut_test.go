package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// looked is how long a node waits that waits for who would be cut: its agent looks again a minute to two after the first time.
var looked = shared(150 * time.Second)

// guest is somebody who is connected to a node before anything is installed.
type guest struct {
	what   string
	from   probe.Source
	addr   string // that the node sees
	node   string
	to     netip.AddrPort
	cut    bool // by the set that is to come
	unseen bool // and nobody can tell before
}

func (g guest) address() probe.Address {
	return probe.Address{Protocol: probe.TCP, AddrPort: g.to}
}

// named is how the clearance has it.
func (g guest) named() string { return fmt.Sprintf("%s:%d from %s", g.node, g.to.Port(), g.addr) }

// What people have reported that they found out too late: each is said before a node is armed, nodes wait for it, and in the end those who were
// named are cut, and no others but who nobody can see.
func TestWhoWouldBeCutIsNamedBeforeAndThenCutAndNobodyElse(t *testing.T) {
	machines := local(t, "connect from all kinds of hosts")
	r := prepare(t)
	guests := guestsOf(t, machines)
	v := values()
	v["rollout"] = map[string]any{"verify": false, "onWouldCut": "wait"}
	_, err := r.Install(t.Context(), v)
	require.NoError(t, err)

	var want []string
	for _, g := range guests {
		if g.cut && !g.unseen {
			want = append(want, g.named())
		}
	}
	slices.Sort(want)
	eventually(t, "who would be cut to be named, and nobody else", func(ctx context.Context) error {
		got, err := namedCuts(ctx, t)
		if err == nil && !slices.Equal(want, got) {
			err = fmt.Errorf("%q are, and not %q", got, want)
		}
		return err
	})
	one, two := worker(t, 1), worker(t, 2)
	t.Run("nodes wait, and say for whom", func(t *testing.T) {
		requireAgent(t, one, report{State: "Waiting", Reason: "rollout.onWouldCut is wait, and set " + setInForce(t) + " would cut off "})
		requireAgent(t, two, report{State: "Waiting", Reason: "would cut off who was connected to tcp/"})
	})
	t.Run("everybody is told", func(t *testing.T) {
		requireEvent(t, "Node", one, "would cut tcp/9345 from ")
		text, err := kubectl(t.Context(), "", statusCommand()...)
		require.Error(t, err, "nodes are held back")
		t.Log(text)
		assert.Contains(t, text, fmt.Sprintf("Would be cut by set %s: ", setInForce(t)))
		for _, g := range guests {
			line := fmt.Sprintf("  - tcp/%d from %s (", g.to.Port(), g.addr)
			assert.Equal(t, g.cut && !g.unseen, strings.Contains(text, line), g.what)
		}
		assert.Contains(t, text, "tcp/25000 of MicroK8s")
	})
	t.Run("who is accepted is not waited for", func(t *testing.T) {
		v["rollout"].(map[string]any)["acceptCuts"] = map[string]any{"ports": []any{9100}, "cidrs": acceptedOf(guests)}
		_, err := r.Upgrade(t.Context(), v)
		require.NoError(t, err)
		for _, node := range []string{one, two} {
			require.NoError(t, cluster.Poll(t.Context(), looked, node+" to be armed", func(ctx context.Context) error {
				got, err := agentOn(ctx, node)
				if err == nil && got.State != "Armed" {
					err = fmt.Errorf("it is %+v", got)
				}
				return err
			}))
		}
	})
	for _, g := range guests {
		eventually(t, g.what+" to find it as it was said", func(context.Context) error {
			err := probe.Connect(g.from, g.address())
			if g.cut && !errors.Is(err, probe.ErrDropped) {
				return fmt.Errorf("it is not cut: %w", err)
			}
			if !g.cut {
				return err
			}
			return nil
		})
	}
}

// guestsOf connects all kinds of people to workers. The Node of the control plane is taken away: its API server is no Node's.
func guestsOf(t *testing.T, machines *cluster.Cluster) []guest {
	t.Helper()
	one, two, outside := worker(t, 1), worker(t, 2), controlPlane(t).Name
	hosts := map[string]*host.Host{}
	for _, name := range []string{one, two, outside, cluster.AdminHost, cluster.StrangerHost} {
		h, err := machines.Host(name)
		require.NoError(t, err)
		hosts[name] = h
	}
	addressOf := func(name string) netip.Addr {
		m, err := nodes.Member(name)
		require.NoError(t, err)
		return m.Addresses.V4
	}
	on := func(name string) probe.Source { return probe.Source{Name: name, NetNS: hosts[name].NetNS()} }
	deregister(t, outside)
	secondNetwork(t, hosts[one], hosts[cluster.StrangerHost], "198.51.100.129/25", "198.51.100.130/25")
	joining := cluster.Addresses{V4: netip.MustParseAddr("192.0.2.77"), V6: netip.MustParseAddr("2001:db8:1::77")}
	newcomer, err := machines.TakeOver("newcomer", joining)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, newcomer.Kill()) })
	_, err = kubectl(t.Context(), "", "label", "node", one, "microk8s.io/cluster=true")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := kubectl(context.WithoutCancel(t.Context()), "", "label", "node", one, "microk8s.io/cluster-")
		require.NoError(t, err)
	})
	for _, at := range []struct {
		node string
		port uint16
	}{{one, 3260}, {one, 9345}, {one, 25000}, {one, 9100}, {two, 9100}} {
		echoTCP(t, hosts[at.node].NetNS(), at.port)
	}

	stranger, admin := on(cluster.StrangerHost), on(cluster.AdminHost)
	strange := addressOf(cluster.StrangerHost).String()
	pod := place.PodOn(two)
	nodePort := place.Paths(scene.Cell{Row: scene.Stranger, Column: scene.NodePortNear, Family: 4})[0].To[0].AddrPort
	guests := []guest{
		{what: "an administrator", from: admin, addr: addressOf(cluster.AdminHost).String(), node: one, to: netip.AddrPortFrom(addressOf(one), cluster.SSHPort)},
		{what: "an administrator whose network was forgotten", from: stranger, addr: strange, node: one, to: netip.AddrPortFrom(addressOf(one), cluster.SSHPort), cut: true},
		{what: "a scraper on a node", from: on(two), addr: addressOf(two).String(), node: one, to: netip.AddrPortFrom(addressOf(one), 9100)},
		{what: "a scraper outside", from: stranger, addr: strange, node: two, to: netip.AddrPortFrom(addressOf(two), 9100), cut: true},
		{what: "a pod", from: pod.Source, addr: pod.Addresses.V4.String(), node: one, to: netip.AddrPortFrom(addressOf(one), cluster.OrdinaryPort)},
		{what: "an API server that is no Node", from: on(outside), addr: addressOf(outside).String(), node: one, to: netip.AddrPortFrom(addressOf(one), 10250)},
		{what: "storage over a second NIC", from: stranger, addr: "198.51.100.130", node: one, to: netip.MustParseAddrPort("198.51.100.129:3260"), cut: true},
		{what: "a server that joins", from: probe.Source{Name: "newcomer", NetNS: newcomer.NetNS()}, addr: joining.V4.String(), node: one, to: netip.AddrPortFrom(addressOf(one), 9345), cut: true},
		{what: "a client of a NodePort", from: stranger, addr: strange, node: one, to: nodePort, cut: true, unseen: true},
	}
	for _, g := range guests {
		stayConnected(t, g)
	}
	return guests
}

// acceptedOf are the addresses of all who would be cut off from other ports than 9100.
func acceptedOf(guests []guest) (cidrs []any) {
	for _, g := range guests {
		if g.cut && g.to.Port() != 9100 {
			cidrs = append(cidrs, g.addr+"/32")
		}
	}
	return cidrs
}

// stayConnected connects somebody until the test ends.
func stayConnected(t *testing.T, g guest) {
	t.Helper()
	var conn net.Conn
	require.NoError(t, host.InNetNS(g.from.NetNS, func() (err error) {
		conn, err = net.DialTimeout("tcp", g.to.String(), 10*time.Second)
		return err
	}), g.what)
	t.Cleanup(func() { _ = conn.Close() })
}

// echoTCP sends back on a port of a host what it gets there.
func echoTCP(t *testing.T, netNS string, port uint16) {
	t.Helper()
	listenTCP(t, netNS, port, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
}

// namedCuts are all who are named in what the controller tells the agents, in order.
func namedCuts(ctx context.Context, t *testing.T) (named []string, err error) {
	t.Helper()
	said, err := clearances(t).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var cuts []struct {
		Node string
		Port uint16
		From string
	}
	if text := said.Data["would-cut"]; text != "" {
		err = json.Unmarshal([]byte(text), &cuts)
	}
	for _, cut := range cuts {
		named = append(named, fmt.Sprintf("%s:%d from %s", cut.Node, cut.Port, cut.From))
	}
	slices.Sort(named)
	return named, err
}
