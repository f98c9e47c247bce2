package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// witnessOf waits until the controller says by what nodes see that a set is enforced, and returns it.
func witnessOf(t *testing.T, set string) (w struct{ From, To, Moved, Control netip.Addr }) {
	t.Helper()
	eventually(t, "the witness of set "+set, func(ctx context.Context) error {
		said, err := clearances(t).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		all := map[string]json.RawMessage{}
		if err := json.Unmarshal([]byte(said.Data["witnesses"]), &all); err != nil {
			return fmt.Errorf("it says %v: %w", said.Data, err)
		}
		return json.Unmarshal(all[set], &w)
	})
	return w
}

// connectOn opens a connection on a node from one of its addresses to another, as an agent does.
func connectOn(node string, from netip.Addr, to netip.AddrPort) error {
	h, err := nodes.Host(node)
	if err != nil {
		return err
	}
	return host.InNetNS(h.NetNS(), func() error {
		dialer := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		conn, err := dialer.Dial("tcp", to.String())
		if err == nil {
			err = errors.Join(fmt.Errorf("%s is open", to), conn.Close())
		}
		return err
	})
}

// timedOut tells of what came of a connection that it was dropped.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// requireMoved waits until the connection is dropped, or is not, that is denied on nodes whose Felix has applied the set to them.
func requireMoved(t *testing.T, set string, moved bool, on ...string) {
	t.Helper()
	w := witnessOf(t, set)
	for _, node := range on {
		eventually(t, "what "+node+" meets of set "+set, func(context.Context) error {
			if err := connectOn(node, w.From, netip.AddrPortFrom(w.Moved, 9)); timedOut(err) != moved || !moved && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
			return nil
		})
	}
}

// requireWitness waits until, on each of these nodes, exactly the connections that a set's witness denies are dropped, or none of them. All others are
// refused, as nobody listens.
func requireWitness(t *testing.T, set string, denied bool, on ...string) {
	t.Helper()
	w := witnessOf(t, set)
	requireDenied(t, w.From, w.To, w.Control, denied, on...)
}

func requireDenied(t *testing.T, from, to, control netip.Addr, denied bool, on ...string) {
	t.Helper()
	localhost, other, v6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.66.250.1"), netip.IPv6Loopback()
	for _, node := range on {
		eventually(t, "what is dropped on "+node, func(context.Context) error {
			for _, c := range []struct {
				from, to netip.Addr
				port     uint16
				dropped  bool
			}{
				{from, to, 9, denied}, {v6, v6, 9, denied},
				{from, control, 9, false}, {v6, v6, 19, false},
				{from, to, 19, false}, {to, from, 9, false}, {other, to, 9, false}, {localhost, to, 9, false}, {localhost, localhost, 9, false},
			} {
				err := connectOn(node, c.from, netip.AddrPortFrom(c.to, c.port))
				dropped := timedOut(err)
				if dropped != c.dropped || !dropped && !errors.Is(err, unix.ECONNREFUSED) {
					return fmt.Errorf("from %s to %s, port %d: %w", c.from, c.to, c.port, err)
				}
			}
			return nil
		})
	}
}

// What a node sees of its witness is true whether it is armed or not, and nothing else on loopback is any different.
func TestWitnessIsSeenOnEveryNodeArmedOrNotAndGoesWithTheRelease(t *testing.T) {
	r := install(t)
	set, free := setInForce(t), worker(t, 1)
	w := witnessOf(t, set)
	requireWitness(t, set, true, nodeNames()...)
	requireMoved(t, set, true, nodeNames()...)

	// Nobody arms it again.
	_, err := kubectl(t.Context(), "", "patch", "daemonset/"+name, "--namespace", namespace, "--type", "merge",
		"--patch", `{"spec":{"template":{"spec":{"nodeSelector":{"no":"node"}}}}}`)
	require.NoError(t, err)
	eventually(t, "the agents to be gone", func(ctx context.Context) error {
		out, err := kubectl(ctx, "", "get", "pods", "--namespace", namespace, "--selector", ofAgents, "--field-selector", "status.phase=Running", "--output", "name")
		if err == nil && out != "" {
			err = fmt.Errorf("there are %s", out)
		}
		return err
	})
	patchEndpoint(t, free, `{"metadata":{"labels":{"host-firewall.io/set":null}}}`)
	requireWitness(t, set, true, nodeNames()...)
	requireMoved(t, set, false, free)

	// It follows its addresses, without which nobody knows whether those of the nodes have arrived.
	scaleController(t, 0)
	sets, witnesses := calico(t, "globalnetworksets"), name+"-witness"
	require.NoError(t, sets.Delete(t.Context(), witnesses, metav1.DeleteOptions{}))
	eventually(t, "IPv4 to be free again", func(context.Context) error {
		if err := connectOn(free, w.From, netip.AddrPortFrom(w.To, 9)); !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		return nil
	})
	scaleController(t, 1)
	requireWitness(t, set, true, nodeNames()...)

	require.NoError(t, r.Uninstall())
	requireDenied(t, w.From, w.To, w.Control, false, nodeNames()...)
	requireNothingLeft(t)
}

func TestOffHasNoWitness(t *testing.T) {
	r := install(t)
	w := witnessOf(t, setInForce(t))
	off := values()
	off["mode"] = "off"
	_, err := r.Upgrade(t.Context(), off)
	require.NoError(t, err)
	requireAgents(t, report{State: "Off", Ready: true})
	requireDenied(t, w.From, w.To, w.Control, false, nodeNames()...)
	_, err = r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireWitness(t, setInForce(t), true, nodeNames()...)
}

// Somebody flushes rules, with whichever program, while Felix is stuck and does not put them back.
func TestNodeWhoseRulesAreFlushedSaysWhichAndStaysArmed(t *testing.T) {
	local(t, "stop Felix")
	install(t)
	node := worker(t, 1)
	h, set := hostOf(t, node), setInForce(t)
	requireEnforced(t, node, "IPv4 and IPv6")
	stay := stayArmed(t, set)
	require.NoError(t, h.Signal(cluster.Felix, unix.SIGSTOP))
	t.Cleanup(func() { require.NoError(t, h.Signal(cluster.Felix, unix.SIGCONT)) })

	on(t, node, "sh", "-c", "ip6tables-nft --table mangle --flush cali-from-host-endpoint || nft flush chain ip6 calico mangle-cali-from-host-endpoint")
	requireEnforced(t, node, "IPv4, and IPv6 is not protected")
	requireSays(t, node, "packets over IPv6 do not meet its rules any more")
	requireEvent(t, "Node", node, "packets over IPv6 do not meet its rules any more")
	flushed := time.Now()
	_, flush, _ := strings.Cut(waysBack(t)[emptyRules], "\n") // without the line that freezes programs
	on(t, node, "sh", "-c", flush+"true")
	require.NoError(t, cluster.Poll(t.Context(), shared(2*time.Minute), "the agent on "+node+" not to be ready", func(ctx context.Context) error {
		got, err := agentOn(ctx, node)
		if err == nil && (got.State != "Armed" || got.Ready || !strings.Contains(got.Reason, "packets do not meet its rules any more")) {
			err = fmt.Errorf("it is %+v", got)
		}
		return err
	}))
	t.Logf("told %s after the rules were flushed", time.Since(flushed).Round(time.Second))
	requireEnforced(t, node, "not enforced")

	require.NoError(t, h.Signal(cluster.Felix, unix.SIGCONT))
	crash(t, node, cluster.Felix) // that it writes all of them again
	requireAgent(t, node, report{State: "Armed", Ready: true})
	requireEnforced(t, node, "IPv4 and IPv6")
	stay()
	requireProtected(t, "with the rules again")
}

// requireEnforced waits until a node says by which families of addresses its set is enforced. It looks every 45 seconds.
func requireEnforced(t *testing.T, node, want string) {
	t.Helper()
	require.NoError(t, cluster.Poll(t.Context(), 2*soon, "the agent on "+node+" to say "+want, func(ctx context.Context) error {
		got, err := agentOn(ctx, node)
		if err == nil && got.Enforced != want {
			err = fmt.Errorf("it says %+v", got)
		}
		return err
	}))
}

// Whoever has the controller's token creates what denies one connection over loopback, and no policy that lets anybody in or closes anything.
func TestControllersTokenCreatesWitnessesAndNoOtherPolicy(t *testing.T) {
	install(t)
	set := setInForce(t)
	policies := asAccount(t, name+"-controller", nil)("globalnetworkpolicies")
	is, err := calico(t, "globalnetworkpolicies").Get(t.Context(), name+"-witness-"+set, metav1.GetOptions{})
	require.NoError(t, err)
	create := func(change func(o *unstructured.Unstructured, rule map[string]any)) error {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": is.GetAPIVersion(), "kind": is.GetKind(), "spec": is.DeepCopy().Object["spec"]}}
		o.SetName(name + "-witness-00000000")
		o.SetLabels(map[string]string{"host-firewall.io/release": name, "host-firewall.io/witness": "00000000"})
		rules, _, err := unstructured.NestedSlice(o.Object, "spec", "ingress")
		require.NoError(t, err)
		change(o, rules[0].(map[string]any))
		require.NoError(t, unstructured.SetNestedSlice(o.Object, rules, "spec", "ingress"))
		_, err = policies.Create(t.Context(), o, metav1.CreateOptions{})
		return err
	}
	const only, label = "of policies the controller only creates witnesses", "names and labels a witness"
	type rule = map[string]any
	to := func(first rule) rule { return first["destination"].(rule) }
	for what, test := range map[string]struct {
		change func(o *unstructured.Unstructured, first rule)
		words  string
	}{
		"it allows":       {func(_ *unstructured.Unstructured, first rule) { first["action"] = "Allow" }, only},
		"another port":    {func(_ *unstructured.Unstructured, first rule) { to(first)["ports"] = []any{int64(10250)} }, only},
		"every address":   {func(_ *unstructured.Unstructured, first rule) { delete(to(first), "nets") }, only},
		"a drop at last":  {func(o *unstructured.Unstructured, _ rule) { delete(o.Object["spec"].(rule), "preDNAT") }, only},
		"another policy":  {func(o *unstructured.Unstructured, _ rule) { o.SetName(name + "-allow-more-" + set) }, label},
		"one of the set":  {func(o *unstructured.Unstructured, _ rule) { o.SetLabels(is.GetLabels()) }, label},
		"another release": {func(o *unstructured.Unstructured, _ rule) { o.SetName("other-witness-00000000") }, label},
	} {
		assertRefusedBy(t, name+"-controller", create(test.change), test.words, what)
	}
	_, err = policies.Patch(t.Context(), is.GetName(), types.MergePatchType, []byte(`{"spec":{"order":1}}`), metav1.PatchOptions{})
	assert.True(t, apierrors.IsForbidden(err), "it changes none: %v", err)

	require.NoError(t, create(func(*unstructured.Unstructured, map[string]any) {}))
	eventually(t, "that of no set to be gone", func(ctx context.Context) error {
		_, err := calico(t, "globalnetworkpolicies").Get(ctx, name+"-witness-00000000", metav1.GetOptions{})
		if err == nil {
			return errors.New("it is there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	require.NoError(t, policies.Delete(t.Context(), is.GetName(), metav1.DeleteOptions{}))
	requireWitness(t, set, true, nodeNames()...)
	requireProtected(t, "after all of this")
}
