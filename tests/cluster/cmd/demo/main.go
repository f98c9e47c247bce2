// Command demo shows host-firewall at work: it starts a real cluster on this machine, installs the chart, measures who
// reaches what before, with, and after it, and takes everything away again. It ends with 0 only if everything that it
// prints was measured so.
package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

func main() { os.Exit(run(os.Stdout, os.Stderr)) }

func run(out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	d := &demo{out: out}
	err := d.play(ctx)
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	if err != nil {
		fmt.Fprintln(errs, "demo:", err)
	}
	if d.cluster != nil {
		if downErr := d.end(err != nil || len(d.broken) > 0); downErr != nil {
			fmt.Fprintln(errs, "demo:", downErr)
			return 1
		}
	}
	if err != nil {
		return 1
	}
	if len(d.broken) > 0 {
		fmt.Fprintf(errs, "\ndemo: %d things were not as promised:\n  %s\n", len(d.broken), strings.Join(d.broken, "\n  "))
		return 1
	}
	fmt.Fprintf(out, "\nEverything above was measured just now, in %s.\n", time.Since(start).Round(time.Second))
	return 0
}

// demo is one showing.
type demo struct {
	out     io.Writer
	root    string
	cluster *cluster.Cluster
	scene   *scene.Scene
	release *release.Release
	broken  []string // promises that were not kept
}

const (
	namespace   = "host-firewall"
	releaseName = "host-firewall"
	newNode     = "worker-3"
	// settle is how long a change may take to reach every kernel.
	settle = 30 * time.Second
	// pause between two connections of a watcher along the same path. There are hundreds of paths, so that some are tried all the
	// time, and machines where more of them would leave nothing for the cluster.
	pause = time.Second
)

func (d *demo) play(ctx context.Context) error {
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	d.root = root
	d.head("A real cluster: control plane, kubelets, containerd, Felix, pods, and two outsiders")
	d.say("this takes a minute, and some more when its programs have to be built first")
	steps := &steps{out: d.out, start: time.Now()}
	if d.cluster, err = cluster.Up(ctx, root, steps); err != nil {
		return err
	}
	if err := release.LoadAgent(ctx, root, d.cluster, steps); err != nil {
		return err
	}
	fmt.Fprintln(steps, "starting the pods that are connected to")
	if d.scene, err = scene.Set(ctx, d.cluster); err != nil {
		return err
	}
	for _, m := range d.cluster.Members() {
		d.say("%-14s %-14s %-15s %s", m.Name, m.Role, m.Addresses.V4, m.Addresses.V6)
	}
	if d.release, err = release.New(root, d.cluster.Kubeconfig(), namespace, releaseName); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.before, d.install, d.logs, d.upgrade, d.undo, d.repair, d.join, d.uninstall} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) before(ctx context.Context) error {
	d.head("Before: who reaches what, new connections over IPv4 and IPv6")
	d.legend()
	d.show(ctx, scene.Everything)
	return nil
}

// legend says how to read the tables.
func (d *demo) legend() {
	d.say("A line is who connects, a column where to, on every node: yes, no, or a dash where the question makes no sense.")
	d.say("admin is in ssh.cidrs, stranger is anybody else; the other lines are the cluster's own, seen from the node that is asked.")
	d.say("ordinary port: a program on the node that nobody has allowed; failsafe port: one that Calico lets everybody in to;")
	d.say("NodePort near, far: its pod is on the node that is asked, or on another one; the outside: what nodes and pods connect to out there.")
}

// install puts the chart in while everything that has to stay open is tried without a pause.
func (d *demo) install(ctx context.Context) error {
	values := setA()
	d.head("helm install %s charts/host-firewall --set ssh.cidrs={%s}", releaseName, strings.Join(cluster.AdminCIDRs(), ","))
	ready, err := d.cluster.WatchReady(ctx, record.New(io.Discard), "demo")
	if err != nil {
		return err
	}
	watch := d.watch(ctx, scene.Protected)
	start := time.Now()
	_, err = d.release.Install(ctx, values)
	if err == nil {
		err = release.WaitArmed(ctx, d.cluster, namespace)
	}
	armed := time.Since(start)
	if err != nil {
		watch.End()
		return err
	}
	d.say("every node was armed %s after helm install began", round(armed))
	d.show(ctx, scene.Protected)
	d.tell(watch.End())
	d.say("The API server's port stays open to everybody: it is one of Felix's failsafe ports. So was SSH's, until the agent narrowed it.")
	unready := ready.End().Broken
	d.broken = append(d.broken, unready...)
	if len(unready) == 0 {
		d.say("every node stayed Ready")
	}
	return nil
}

// setA are the values of the installation, and setB those of the upgrade: a web server on the nodes for everybody.
func setA() map[string]any {
	return release.Values(map[string]any{"ssh": map[string]any{"cidrs": cluster.AdminCIDRs()}})
}

func setB() map[string]any {
	values := setA()
	values["ingress"] = []any{map[string]any{
		"name": "web", "cidrs": []any{"0.0.0.0/0", "::/0"}, "protocol": "TCP", "ports": []any{cluster.OrdinaryPort},
	}}
	return values
}

// upgrade puts another set of policies beside the one in force, the nodes move to it, and back.
func (d *demo) upgrade(ctx context.Context) error {
	d.head("helm upgrade %s charts/host-firewall, with an entry web in ingress: TCP %d for everybody", releaseName, cluster.OrdinaryPort)
	firewall, err := d.release.Firewall(ctx, setB())
	if err != nil {
		return err
	}
	want, err := d.scene.Expect(firewall)
	if err != nil {
		return err
	}
	if err := d.move(ctx, "helm upgrade", want, func() error {
		_, err := d.release.Upgrade(ctx, setB())
		return err
	}); err != nil {
		return err
	}
	d.head("helm rollback %s: the set before is still there", releaseName)
	return d.move(ctx, "helm rollback", scene.Protected, func() error { return d.release.Rollback(0) })
}

// undo shows a change that cuts what worked before, and what becomes of it with nobody at the keyboard.
func (d *demo) undo(ctx context.Context) error {
	d.head("A bad change that undoes itself")
	d.say("An administrator has a policy of his own that lets nobody in to kubelets. Ours let the nodes in before it is asked, so it harms nobody.")
	d.say("helm upgrade %s charts/host-firewall --set policies.allowCluster.order=16 --set hostEndpoint.acceptPolicies={%s}: now it is asked first.", releaseName, release.Hardened)
	if err := release.Harden(ctx, d.cluster); err != nil {
		return err
	}
	kubelets := func(c scene.Cell) bool { return scene.Protected(c) && c.Column == scene.Kubelet }
	others := d.watch(ctx, func(c scene.Cell) bool { return scene.Protected(c) && !kubelets(c) })
	undone, err := d.release.MeasureUndo(ctx, d.cluster, release.Slip(setA()), d.scene.Select(kubelets))
	verdict := others.End()
	if err != nil {
		return err
	}
	d.say("%5.1fs  %s moves to the new set, and tries what worked before", undone.Tried.Seconds(), undone.Node)
	d.say("%5.1fs  it has gone back to the set before: %s", undone.Back.Seconds(), strings.Join(undone.Trial.Cut, "; "))
	d.say("its kubelet was cut for %s; no other node had moved, and none will until there is another set, or a person says host-firewall.io/retry", round(undone.Cut))
	if len(undone.Moved) != 1 {
		d.breaks("a bad change was tried by %v", undone.Moved)
	}
	d.tell(verdict)
	if err := release.Soften(ctx, d.cluster); err != nil {
		return err
	}
	if err := d.release.Rollback(0); err != nil {
		return err
	}
	return release.WaitArmed(ctx, d.cluster, namespace)
}

// move shows how nodes go from one set of policies to another, and that nothing which both allow fails meanwhile.
func (d *demo) move(ctx context.Context, command string, want scene.Expectation, change func() error) error {
	heps, err := release.Calico(d.cluster, "hostendpoints")
	if err != nil {
		return err
	}
	endpoints, err := heps.Watch(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("watch host endpoints: %w", err)
	}
	start := time.Now()
	moves := make(chan []string, 1)
	go func() { moves <- movesOf(endpoints, start) }()
	watch := d.watch(ctx, scene.Protected)
	if err = change(); err == nil {
		err = d.sets(ctx)
	}
	if err == nil {
		err = release.WaitArmed(ctx, d.cluster, namespace)
	}
	endpoints.Stop()
	told := <-moves
	if err != nil {
		watch.End()
		return err
	}
	for _, move := range told {
		d.say("%s", move)
	}
	if nodes := len(d.cluster.Nodes()); len(told) != nodes {
		d.breaks("%d nodes were moved by %d changes of their labels", nodes, len(told))
	}
	d.say("every node had moved %s after %s began", round(time.Since(start)), command)
	d.show(ctx, want)
	d.tell(watch.End())
	return nil
}

// sets shows the policies that stand side by side.
func (d *demo) sets(ctx context.Context) error {
	policies, err := release.Calico(d.cluster, "globalnetworkpolicies")
	if err != nil {
		return err
	}
	list, err := policies.List(ctx, metav1.ListOptions{LabelSelector: release.SetLabel})
	if err != nil {
		return fmt.Errorf("list policies: %w", err)
	}
	sets := map[string]int{}
	for _, p := range list.Items {
		sets[p.GetLabels()[release.SetLabel]]++
	}
	for _, set := range slices.Sorted(maps.Keys(sets)) {
		d.say("set %s: %d policies", set, sets[set])
	}
	if len(sets) != 2 {
		d.breaks("there are %d sets of policies beside each other", len(sets))
	}
	return nil
}

// movesOf tells of each change of the set that an endpoint is armed with, until the watch is stopped.
func movesOf(endpoints watch.Interface, start time.Time) (moves []string) {
	at := map[string]string{}
	for e := range endpoints.ResultChan() {
		hep, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		set := release.CarriedBy(hep)
		if before, seen := at[hep.GetName()]; seen && before != set {
			moves = append(moves, fmt.Sprintf("%5.1fs  HostEndpoint %s: %s goes from %s to %s", time.Since(start).Seconds(), hep.GetName(), release.SetLabel, before, set))
		}
		at[hep.GetName()] = set
	}
	return moves
}

// steps shows what is under way before there is anything to see, and how long it has taken so far.
type steps struct {
	out   io.Writer
	start time.Time
}

// Write shows one step.
func (s *steps) Write(text []byte) (int, error) {
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Fprintf(s.out, "  %3.0fs  %s\n", time.Since(s.start).Seconds(), strings.TrimSpace(line)); err != nil {
			return 0, err
		}
	}
	return len(text), nil
}

// logs goes the way API server, kubelet, container runtime.
func (d *demo) logs(ctx context.Context) error {
	d.head("kubectl logs still works, and shows what the agents did")
	cmd := cluster.Kubectl(ctx, d.cluster, "--namespace", namespace, "logs", "daemonset/"+releaseName, "--tail", "5")
	output, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(output))
	d.say("%s", strings.ReplaceAll(text, "\n", "\n  "))
	if err != nil || text == "" {
		d.breaks("kubectl logs: %v: %q", err, text)
	}
	return nil
}

func (d *demo) repair(ctx context.Context) error {
	d.head("Somebody deletes the host endpoint of worker-1")
	took, err := release.MeasureRepair(ctx, d.cluster, "worker-1")
	if err != nil {
		return err
	}
	d.say("it was back, and armed, after %.1f milliseconds", float64(took.Microseconds())/1000)
	return nil
}

// join adds a node and looks from outside when it becomes closed.
func (d *demo) join(ctx context.Context) error {
	d.head("A node joins")
	m, err := d.cluster.AddNode(newNode)
	if err != nil {
		return err
	}
	closed := record.New(io.Discard).Try(ctx, record.Promise{Kind: record.Closed, Within: settle}, d.scene.Newcomer(m), probe.Rhythm{Every: pause / 10})
	if err := d.cluster.WaitNode(ctx, m); err != nil {
		return err
	}
	if err := d.scene.Refresh(ctx); err != nil {
		return err
	}
	node, err := d.cluster.Node(ctx, newNode)
	if err != nil {
		return err
	}
	closed.Due()
	d.show(ctx, scene.Protected)
	verdict := closed.End()
	d.say("%s was closed to the stranger %s after its Node had registered", newNode, round(verdict.Over.Sub(node.CreationTimestamp.Time)))
	d.broken = append(d.broken, verdict.Broken...)
	return nil
}

func (d *demo) uninstall(ctx context.Context) error {
	d.head("helm uninstall %s", releaseName)
	watch := d.watch(ctx, scene.Protected)
	err := d.release.Uninstall()
	if err != nil {
		watch.End()
		return err
	}
	d.show(ctx, scene.Everything)
	d.tell(watch.End())
	left, err := release.Leftovers(ctx, d.cluster)
	if err != nil {
		return err
	}
	if len(left) == 0 {
		d.say("no host endpoint, policy, network set or Felix configuration is left")
	}
	for _, l := range left {
		d.breaks("left behind: %s", l)
	}
	return nil
}

// watch tries all the time what has to stay open.
func (d *demo) watch(ctx context.Context, open scene.Expectation) *record.Watch {
	return record.New(io.Discard).Try(ctx, record.Promise{Kind: record.Open}, d.scene.Select(open), probe.Rhythm{Every: pause})
}

// tell says what a watch has seen.
func (d *demo) tell(v record.Verdict) {
	d.say("during all this, what has to stay open was tried with %d new connections; it failed %d times", v.Tries, len(v.Broken))
	d.broken = append(d.broken, v.Broken...)
}

// end takes the cluster away, or says how to look around in it.
func (d *demo) end(failed bool) error {
	if !cluster.Keep(failed) {
		return cluster.Down(d.root, d.out)
	}
	d.head("KEEP is set: the cluster goes on running")
	d.say("export KUBECONFIG=%s", d.cluster.Kubeconfig())
	d.say("export PATH=$PATH:%s", filepath.Dir(d.cluster.Binary("kubectl")))
	d.say("kubectl get nodes,pods --all-namespaces --output wide")
	d.say("make cluster-status                                  hosts and addresses")
	d.say("go run ./tests/cluster/cmd/cluster exec stranger -- bash   a shell on a node or an outsider")
	d.say("ls %s   the logs of everything", d.cluster.Logs())
	d.say("make cluster-down                                    ends it")
	return nil
}

// show measures until it is as expected, prints the table, and notes what is not so.
func (d *demo) show(ctx context.Context, want scene.Expectation) {
	table := d.scene.MeasureUntil(ctx, want, settle)
	fmt.Fprintln(d.out)
	fmt.Fprintln(d.out, table)
	d.broken = append(d.broken, table.Surprises(want)...)
}

func (d *demo) breaks(format string, args ...any) {
	d.broken = append(d.broken, fmt.Sprintf(format, args...))
}
func (d *demo) head(format string, args ...any) { fmt.Fprintf(d.out, "\n== "+format+"\n", args...) }
func (d *demo) say(format string, args ...any)  { fmt.Fprintf(d.out, "  "+format+"\n", args...) }

func round(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
