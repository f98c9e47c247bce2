package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

var (
	// undone is how long what a set cuts is cut at most: 45 seconds of Trying, and what it takes to see that and to write and enforce a label.
	undone = shared(55 * time.Second)
	// wentBack is how long it takes from an upgrade to the first node that has gone back. Another one may have gone first, and stayed.
	wentBack = shared(2 * time.Minute)
	// givenUp is how long a node takes from its first move to the end of its second attempt.
	givenUp = shared(3 * time.Minute)
)

// step is a change of what an endpoint carries and says.
type step struct {
	at        time.Time
	node, set string
	trial     release.Trial
}

func (s step) String() string {
	return fmt.Sprintf("%s %s carries %q, %+v", s.at.Format(time.TimeOnly+".000"), s.node, s.set, s.trial)
}

// diary has every step of every endpoint since it was begun.
type diary struct {
	watch *record.Watch // the steps are beside the packets in the test's record
	mu    sync.Mutex
	steps []step
}

// begin begins a diary, which goes on until the test ends, also over times without the API server.
func begin(t *testing.T) *diary {
	t.Helper()
	heps, d := calico(t, "hostendpoints"), &diary{watch: recordOf(t).Begin(record.Promise{Test: t.Name(), Kind: record.Seen})}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return heps.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return heps.Watch(ctx, o) },
		},
		ObjectType: &unstructured.Unstructured{},
		Handler:    cache.ResourceEventHandlerFuncs{AddFunc: d.note, UpdateFunc: func(_, now any) { d.note(now) }},
	})
	go informer.RunWithContext(t.Context())
	eventually(t, "all endpoints to be read", func(context.Context) error {
		if !informer.HasSynced() {
			return errors.New("they are not")
		}
		return nil
	})
	return d
}

func (d *diary) note(endpoint any) {
	hep, ok := endpoint.(*unstructured.Unstructured)
	if !ok {
		return
	}
	s := step{time.Now(), hep.GetName(), release.CarriedBy(hep), release.TrialOf(hep)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watch.Note(s.at, s.node, fmt.Sprintf("carries %q, %+v", s.set, s.trial)) {
		d.steps = append(d.steps, s)
	}
}

// all are the steps so far.
func (d *diary) all() []step {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.steps)
}

// await waits for a step, which may be one that was made already.
func (d *diary) await(t *testing.T, limit time.Duration, what string, is func(step) bool) (found step) {
	t.Helper()
	require.NoError(t, cluster.Poll(t.Context(), limit, what, func(context.Context) error {
		steps := d.all()
		i := slices.IndexFunc(steps, is)
		if i < 0 {
			return fmt.Errorf("there were the steps %v", steps)
		}
		found = steps[i]
		return nil
	}))
	return found
}

// tries waits until a node tries the set for the so-manieth time.
func (d *diary) tries(t *testing.T, set string, attempt int) step {
	t.Helper()
	return d.await(t, wentBack, fmt.Sprintf("a node to try set %s, %d", set, attempt), func(s step) bool {
		return s.trial.Set == set && s.trial.Phase == release.Trying && s.trial.Attempt == attempt
	})
}

// goesBack waits until a node has gone back from the set so often.
func (d *diary) goesBack(t *testing.T, set string, attempt int) step {
	t.Helper()
	return d.await(t, givenUp, fmt.Sprintf("a node to go back from set %s, %d", set, attempt), func(s step) bool {
		return s.trial.Set == set && s.trial.Phase == release.RolledBack && s.trial.Attempt == attempt
	})
}

// carried are the nodes whose endpoints have carried the set.
func (d *diary) carried(set string) (names []string) {
	for _, s := range d.all() {
		if s.set == set {
			names = append(names, s.node)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// tried are values with nodes that try a set.
func tried(values map[string]any) map[string]any {
	return changed(values, map[string]any{"rollout": map[string]any{"verify": true}})
}

// accepting is values() where such policies are accepted, and sets are tried.
func accepting(changes map[string]any) map[string]any {
	return changed(tried(with(map[string]any{"hostEndpoint": map[string]any{"acceptPolicies": []any{release.Hardened}}})), changes)
}

// harden creates that policy, for nodes that are armed, behind ours: between those that let in and the one that drops. remove deletes it, as the
// end of the test does.
func harden(t *testing.T, spec map[string]any) (remove func()) {
	t.Helper()
	full := changed(map[string]any{"order": 15, "selector": "host-endpoint == 'ingress'"}, spec)
	applyUntilEnd(t, manifestOf(t, "GlobalNetworkPolicy", release.Hardened, full))
	return func() {
		require.NoError(t, calico(t, "globalnetworkpolicies").Delete(t.Context(), release.Hardened, metav1.DeleteOptions{}))
	}
}

func manifestOf(t *testing.T, kind, name string, spec map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
	})
	require.NoError(t, err)
	return string(raw)
}

// inbound and outbound are policies that deny what has this protocol and port, whoever it is from; inbound may name networks that it is from,
// and others that it is for.
func inbound(protocol string, port int, fromTo ...[]string) map[string]any {
	rule := func() map[string]any {
		return map[string]any{"action": "Deny", "protocol": protocol, "destination": map[string]any{"ports": []any{port}}}
	}
	rules := []any{rule()}
	if len(fromTo) > 0 {
		rules = nil
		for _, keep := range []func([]string) []string{ofFamily(false), ofFamily(true)} { // a rule is of one family
			r := rule()
			r["source"], r["destination"].(map[string]any)["nets"] = map[string]any{"nets": keep(fromTo[0])}, keep(fromTo[1])
			rules = append(rules, r)
		}
	}
	return map[string]any{"types": []any{"Ingress"}, "preDNAT": true, "applyOnForward": true, "ingress": rules}
}

func outbound(protocol string, port int) map[string]any {
	return map[string]any{"types": []any{"Egress"}, "egress": []any{
		map[string]any{"action": "Deny", "protocol": protocol, "destination": map[string]any{"ports": []any{port}}},
	}}
}

// ofFamily keeps the networks of IPv6, or of IPv4.
func ofFamily(v6 bool) func([]string) []string {
	return func(cidrs []string) []string {
		return slices.DeleteFunc(slices.Clone(cidrs), func(c string) bool { return strings.Contains(c, ":") != v6 })
	}
}

// addressesOf are those of nodes, as networks.
func addressesOf(t *testing.T, names []string) (cidrs []string) {
	t.Helper()
	for _, name := range names {
		m, err := nodes.Member(name)
		require.NoError(t, err)
		for _, a := range []netip.Addr{m.Addresses.V4, m.Addresses.V6} {
			cidrs = append(cidrs, netip.PrefixFrom(a, a.BitLen()).String())
		}
	}
	return cidrs
}

// orderOf is the values of one more policy, ours, behind theirs: the slip by which theirs comes to be asked first.
func orderOf(policy string, order int) map[string]any {
	return map[string]any{"policies": map[string]any{policy: map[string]any{"order": order}}}
}

// cutting is a slip by which what worked before is cut.
type cutting struct {
	name   string
	policy map[string]any // of the administrator's own
	slip   map[string]any // values
	cut    scene.Expectation
	paths  []probe.Path // instead of those of cut
	hurt   []string     // nodes
	says   string
}

func cuttings(t *testing.T) []cutting {
	t.Helper()
	kubelets := func(c scene.Cell) bool { return c.Column == scene.Kubelet && scene.Protected(c) }
	outToAPI := func(c scene.Cell) bool { return apiServer(c) && (c.Row == scene.Node || c.Row == scene.Itself) }
	control := []string{controlPlane(t).Name}
	workers := slices.DeleteFunc(nodeNames(), func(name string) bool { return slices.Contains(control, name) })
	labelled := changed(outbound("TCP", 10250), map[string]any{"selector": "role == 'kept-in'", "order": 0})
	label := map[string]any{"hostEndpoint": map[string]any{"acceptPolicies": []any{release.Hardened}, "labels": map[string]any{"role": "kept-in"}}}
	return []cutting{
		{name: "kubelets from the API server", policy: inbound("TCP", 10250, addressesOf(t, control), addressesOf(t, workers)),
			slip: orderOf("allowCluster", 16), cut: kubelets, hurt: workers, says: "kubelet"},
		{name: "nodes from kubelets of others, by a label", policy: labelled, slip: label, cut: kubelets, hurt: nodeNames(), says: "kubelets of other nodes"},
		{name: "nodes from the API server", policy: outbound("TCP", cluster.APIPort), slip: orderOf("allowOutbound", 18), cut: outToAPI, hurt: nodeNames(), says: "API server"},
		{name: "nodes from DNS", policy: outbound("UDP", cluster.DNSPort), slip: orderOf("allowOutbound", 19), cut: neither(scene.Everything, scene.Everything), paths: toDNS(t), hurt: nodeNames(), says: "DNS"},
	}
}

// A policy of the administrator's own denies what ours let through before it is asked; new values move ours behind it, or give endpoints the label
// that it selects. That passes every check of values and policies, for each is right by itself. Whichever node finds out first goes back by itself, and those that would be cut as well have
// not moved, or go back too.
func TestSetThatCutsWhatWorkedIsTakenBackByTheNodeItself(t *testing.T) {
	local(t, "ask from the network of a node")
	r := install(t)
	// Calico lets nodes out to API server and DNS whatever any policy says, unless it is told not to.
	felixForAll(t, map[string]any{"failsafeOutboundHostPorts": []any{map[string]any{"protocol": "UDP", "port": int64(67)}}})
	upgradeTo(t, r, accepting(nil))
	for _, c := range cuttings(t) {
		t.Run(c.name, func(t *testing.T) {
			remove := harden(t, c.policy)
			requireTakenBack(t, r, c, accepting(c.slip))
			remove()
			upgradeTo(t, r, accepting(nil))
		})
	}
	upgradeTo(t, r, values())
}

// requireTakenBack upgrades to values with a slip, and wants the nodes that would be cut to be where they were in the end.
func requireTakenBack(t *testing.T, r *release.Release, c cutting, bad map[string]any) {
	t.Helper()
	d, old := begin(t), setInForce(t)
	_, next := setOf(t, r, bad)
	others := undisturbed(t, func(cell scene.Cell) bool { return scene.Protected(cell) && !c.cut(cell) })
	closed := unreached(t, place.Select(neither(scene.Protected, scene.Protected)))
	if c.paths == nil {
		c.paths = place.Select(c.cut)
	}
	cut := try(t, record.Promise{Kind: record.Cut, Within: undone}, c.paths, probe.Rhythm{Every: pause})
	_, err := r.Upgrade(t.Context(), bad)
	require.NoError(t, err)
	back := d.goesBack(t, next, 1)
	require.Contains(t, strings.Join(back.trial.Cut, ", "), c.says)
	require.Contains(t, c.hurt, back.node)
	requireAgent(t, back.node, report{State: release.RolledBack, Reason: c.says})
	requireTable(t, scene.Protected, "gone back")
	took := kept(t, cut).Longest
	t.Logf("cut for %s, on %v; %s", took.Round(100*time.Millisecond), d.carried(next), back)
	for _, s := range d.all() {
		require.False(t, s.trial.Set == next && s.trial.Phase == release.Verified && slices.Contains(c.hurt, s.node), "%s", s)
		require.Contains(t, []string{old, next}, s.set, "%s", s)
	}
	others()
	closed()
}

// upgradeTo upgrades and waits until every node is armed.
func upgradeTo(t *testing.T, r *release.Release, values map[string]any) {
	t.Helper()
	_, err := r.Upgrade(t.Context(), values)
	require.NoError(t, err)
	requireArmed(t)
}

// toDNS are the ways of the nodes to what their resolv.conf names.
func toDNS(t *testing.T) (paths []probe.Path) {
	t.Helper()
	for _, node := range nodeNames() {
		paths = append(paths, probe.Path{From: probe.Source{Name: node, NetNS: hostOf(t, node).NetNS()}, What: "DNS", To: []probe.Address{
			{Protocol: probe.UDP, AddrPort: netip.AddrPortFrom(stranger(t).V4, cluster.DNSPort)},
		}})
	}
	return paths
}

// One node goes first. While what it has tried stands against it, nobody else moves, whoever of the release is killed at whichever step; it tries
// twice and then no more, until a person says so.
func TestSetThatFailsIsTriedByOneNodeTwiceAndThenWhenAPersonSaysRetry(t *testing.T) {
	local(t, "end programs of a node")
	admin := adminsShell(t)
	r := install(t)
	upgradeTo(t, r, accepting(nil))
	remove, d, old := harden(t, inbound("TCP", 10250)), begin(t), setInForce(t)
	bad := accepting(orderOf("allowCluster", 16))
	_, next := setOf(t, r, bad)
	others := undisturbed(t, func(c scene.Cell) bool { return scene.Protected(c) && c.Column != scene.Kubelet })
	closed := unreached(t, place.Select(neither(scene.Protected, scene.Protected)))
	kubelets := place.Select(func(c scene.Cell) bool { return scene.Protected(c) && c.Column == scene.Kubelet })
	cut := try(t, record.Promise{Kind: record.Cut, Within: undone}, kubelets, probe.Rhythm{Every: pause})
	kill := func(node string) {
		require.NoError(t, endPod(t.Context(), ofAgents, "spec.nodeName="+node))
		require.NoError(t, endPod(t.Context(), ofController, ""))
	}
	// The kubelet would let who ends again and again wait for long.
	replace := func(node string) {
		for _, which := range [][]string{{"--selector", ofAgents, "--field-selector", "spec.nodeName=" + node}, {"--selector", ofController}} {
			_, err := kubectl(t.Context(), "", append([]string{"delete", "pods", "--namespace", namespace}, which...)...)
			require.NoError(t, err)
		}
	}
	_, err := r.Upgrade(t.Context(), bad)
	require.NoError(t, err)
	first := d.tries(t, next, 1)
	kill(first.node)
	back := d.goesBack(t, next, 1)
	replace(first.node)
	again := d.tries(t, next, 2)
	kill(first.node)
	last := d.goesBack(t, next, 2)
	replace(first.node)
	requireProtected(t, "given up")
	took := kept(t, cut).Longest
	t.Logf("tried for %s, left alone for %s, tried for %s; cut for %s; %s", back.at.Sub(first.at), again.at.Sub(back.at), last.at.Sub(again.at), took, last)
	for _, node := range nodeNames() {
		want := report{State: "Waiting", Reason: first.node}
		if node == first.node {
			want = report{State: release.RolledBack, Reason: "kubelet"}
		}
		requireAgent(t, node, want)
	}
	requireClearance(t, "reason", first.node)
	requireSet(t, old)
	// Longer than between its attempts: this is over.
	<-time.After(2 * again.at.Sub(back.at))
	require.Equal(t, []string{first.node}, d.carried(next))
	require.Equal(t, release.RolledBack, d.all()[len(d.all())-1].trial.Phase)
	others()

	remove()
	require.NoError(t, admin(t.Context(), waysBack(t)[tryAgain]))
	requireArmed(t)
	requireSet(t, next)
	requireProtected(t, "retried")
	closed()
	upgradeTo(t, r, values())
}

// Nothing is closed, nor said to be, where nobody programs the kernel.
func TestNodeWithoutFelixStaysWhereItIsAndSaysWhy(t *testing.T) {
	local(t, "stop programs of a node")
	r := install(t)
	old, node := setInForce(t), worker(t, 1)
	stop, h := between(t, scene.Protected, expected(t, openToMore())), hostOf(t, node)
	require.NoError(t, h.Stop(cluster.Felix))
	t.Cleanup(func() { require.NoError(t, h.Resume(cluster.Felix)) })
	_, next := setOf(t, r, openToMore())
	_, err := r.Upgrade(t.Context(), tried(atOnce(openToMore())))
	require.NoError(t, err)
	for _, other := range nodeNames() {
		want := report{State: release.Verified, Ready: true}
		if other == node {
			want = report{State: "Waiting", Reason: "Felix"}
		}
		requireAgent(t, other, want)
	}
	hep, err := endpointOf(t.Context(), t, node)
	require.NoError(t, err)
	require.Equal(t, old, release.CarriedBy(hep))
	require.NoError(t, h.Resume(cluster.Felix))
	requireArmed(t)
	requireSet(t, next)
	requireTable(t, expected(t, openToMore()), "with Felix back")
	upgradeTo(t, r, values())
	requireProtected(t, "back")
	stop()
}

// Felix leaves IPv6 out where its configuration says so. The node is armed, and nobody is told that all of it is protected.
func TestOpenIPv6OfAFelixThatLeavesItOutIsTold(t *testing.T) {
	local(t, "start Felix anew")
	r := prepare(t)
	felixForAll(t, map[string]any{"ipv6Support": false})
	_, err := r.Install(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireTable(t, func(c scene.Cell) bool { return c.Family == 6 || scene.Protected(c) }, "without IPv6")
	for _, node := range nodeNames() {
		requireEnforced(t, node, "IPv4, and IPv6 is not protected")
	}
}

// requireSays waits until the reason that an agent gives has these words, however its node is.
func requireSays(t *testing.T, node, words string) {
	t.Helper()
	eventually(t, "the agent on "+node+" to say "+words, func(ctx context.Context) error {
		got, err := agentOn(ctx, node)
		if err == nil && !strings.Contains(got.Reason, words) {
			err = fmt.Errorf("it says %+v", got)
		}
		return err
	})
}

// A person has to say that all is well. Who can't, as he has cut himself off, has all nodes back by himself.
func TestSetThatNobodyConfirmsIsLeftAgain(t *testing.T) {
	r := install(t)
	old := setInForce(t)
	to := changed(atOnce(openToMore()), map[string]any{"rollout": map[string]any{"confirm": shared(time.Minute).String()}})
	_, next := setOf(t, r, to)
	stop := between(t, scene.Protected, expected(t, openToMore()))
	notes, err := r.Upgrade(t.Context(), to)
	require.NoError(t, err)
	requireArmed(t)
	requireTable(t, expected(t, openToMore()), "not confirmed yet")
	stays := stayArmed(t, next)
	until := deadline(t)
	<-time.After(time.Until(until))
	stays()
	// The clocks of nodes may differ by a minute: none goes back too soon.
	<-time.After(time.Until(until.Add(time.Minute)))
	requireAgents(t, report{State: release.RolledBack, Reason: "not confirmed"})
	requireSet(t, old)
	requireProtected(t, "not confirmed in time")
	requireClearance(t, "reason", "host-firewall.io/retry")

	retry(t, "again")
	requireArmed(t)
	requireSet(t, next)
	require.True(t, deadline(t).After(until), "there is a new one")
	_, err = kubectl(t.Context(), "", confirmation(t, notes)...)
	require.NoError(t, err)
	eventually(t, "the controller to know of no deadline any more", func(ctx context.Context) error {
		said, err := clearances(t).Get(ctx, name, metav1.GetOptions{})
		if err == nil && said.Data["confirm-until"] != "" {
			err = fmt.Errorf("it says %v", said.Data)
		}
		return err
	})
	requireAgents(t, report{State: release.Verified, Ready: true})
	requireTable(t, expected(t, openToMore()), "confirmed")
	stop()
	upgradeTo(t, r, values())
}

// deadline is when the nodes will leave the set that nobody has confirmed.
func deadline(t *testing.T) (until time.Time) {
	t.Helper()
	eventually(t, "the controller to say until when", func(ctx context.Context) error {
		said, err := clearances(t).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		until, err = time.Parse(time.RFC3339Nano, said.Data["confirm-until"])
		return err
	})
	return until
}

// confirmation is the command that the notes of an upgrade name, without kubectl itself.
func confirmation(t *testing.T, notes string) []string {
	t.Helper()
	for line := range strings.Lines(notes) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "kubectl" && strings.Contains(line, "host-firewall.io/confirm=") {
			return words[1:]
		}
	}
	require.FailNow(t, "no command that confirms", notes)
	return nil
}

// Whoever is logged in shows which networks the administrators have.
func TestWrongNetworkOfWhoeverIsLoggedInDoesNotCloseSSHOnHim(t *testing.T) {
	r := install(t)
	hand := func(c scene.Cell) bool { return c.Row == scene.Admin && c.Column == scene.SSH }
	sessions := hold(t, place.Select(hand))
	in := reached(t, place.Select(scene.Protected))
	admin, err := nodes.Member(cluster.AdminHost)
	require.NoError(t, err)
	_, err = r.Upgrade(t.Context(), with(map[string]any{"ssh": map[string]any{"cidrs": []any{"203.0.113.128/25", "2001:db8:3:1::/64"}}}))
	require.NoError(t, err)
	for _, node := range nodeNames() {
		requireSays(t, node, admin.Addresses.V4.String())
	}
	requireProtected(t, "with the wrong networks")
	in()
	sessions()
	upgradeTo(t, r, values())
}

// retry tells the nodes that have gone back to try once more.
func retry(t *testing.T, text string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"host-firewall.io/retry":%q}}}`, text)
	_, err := clearances(t).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
}
