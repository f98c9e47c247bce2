package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

const (
	loadAccount = "load" // in the namespace of the same name: cluster.LoadUser
	// armLimit is when keepers that are not all armed, or ready, are given up.
	armLimit = 5 * time.Minute
	// newsPerNode is how much longer agents keep what they have to tell for each of so many, and look for leftovers: twice
	// perCalm of package keeper.
	newsPerNode = 40 * time.Millisecond
	// serverWindow is the longest that the idle API server is watched.
	serverWindow = time.Minute
	nodeCreators = 16
)

// scale measures the agent's keepers for many nodes, a larger number each time.
func (b *bench) scale(ctx context.Context) ([]Scale, error) {
	b.head("at scale")
	// The workers would only take time away.
	for _, w := range b.workers() {
		if err := b.cluster.RemoveNode(ctx, w); err != nil {
			return nil, err
		}
	}
	// So would who looks at all Nodes and endpoints: nobody runs these Nodes, and no kernel enforces their endpoints.
	control, err := b.cluster.Host(cluster.ControlPlaneNode)
	if err != nil {
		return nil, err
	}
	for _, program := range []string{cluster.ControllerManager, cluster.Scheduler, cluster.Felix} {
		if err := control.Stop(program); err != nil {
			return nil, err
		}
	}
	objects, args, err := b.releaseWithoutAgents(ctx)
	if err != nil {
		return nil, err
	}
	kubeconfig, err := b.loadKubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	program := filepath.Join(cluster.Folder(b.root), "bin", "scalebench")
	if err := image.Binary(ctx, b.root, "./agent/internal/scalebench", program, ""); err != nil {
		return nil, err
	}
	var results []Scale
	nodes := []string{cluster.ControlPlaneNode}
	for _, n := range slices.Sorted(slices.Values(b.settings.Scale)) {
		if len(results) > 0 {
			if err := b.clear(ctx); err != nil {
				return results, err
			}
		}
		b.say("creating Nodes until there are %d", n)
		if nodes, err = b.addBareNodes(ctx, nodes, n); err != nil {
			return results, err
		}
		// A release comes to Nodes that are there.
		if err := b.kubectl(ctx, objects, "apply", "--filename", "-"); err != nil {
			return results, err
		}
		r, err := b.scaleTo(ctx, nodes, program, kubeconfig, args)
		if err != nil {
			return results, fmt.Errorf("%d nodes: %w", n, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// releaseWithoutAgents returns all of a release but the DaemonSet, with its rights for the account of the load, which it
// creates, and the arguments of the agents.
func (b *bench) releaseWithoutAgents(ctx context.Context) (objects string, args []string, err error) {
	r, err := b.release()
	if err != nil {
		return "", nil, err
	}
	policies, rest, err := r.Render(ctx, values())
	if err != nil {
		return "", nil, err
	}
	text, err := manifest(loadAccount)
	if err != nil {
		return "", nil, err
	}
	if err := b.kubectl(ctx, text, "apply", "--filename", "-"); err != nil {
		return "", nil, err
	}
	wanted := policies
	for _, o := range rest {
		switch o.GetKind() {
		case "DaemonSet":
			if args, err = agentArgs(o); err != nil {
				return "", nil, err
			}
		case "ClusterRole", "PriorityLevelConfiguration":
			wanted = append(wanted, o)
		case "FlowSchema":
			changed, err := with(o, func(schema *flowcontrolv1.FlowSchema) {
				schema.Spec.Rules[0].Subjects[0].ServiceAccount = &flowcontrolv1.ServiceAccountSubject{Name: loadAccount, Namespace: loadAccount}
			})
			if err != nil {
				return "", nil, err
			}
			wanted = append(wanted, changed)
		case "ClusterRoleBinding":
			changed, err := with(o, func(binding *rbacv1.ClusterRoleBinding) {
				binding.Subjects = []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: loadAccount, Namespace: loadAccount}}
			})
			if err != nil {
				return "", nil, err
			}
			wanted = append(wanted, changed)
		}
	}
	if args == nil {
		return "", nil, errors.New("the chart has rendered no DaemonSet")
	}
	objects, err = textOf(wanted)
	return objects, args, err
}

// with returns a rendered object, changed.
func with[T any](o *unstructured.Unstructured, change func(*T)) (*unstructured.Unstructured, error) {
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, typed); err != nil {
		return nil, fmt.Errorf("read %s: %w", o.GetKind(), err)
	}
	change(typed)
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", o.GetKind(), err)
	}
	return &unstructured.Unstructured{Object: object}, nil
}

// agentArgs are what a rendered DaemonSet starts the agent with.
func agentArgs(o *unstructured.Unstructured) ([]string, error) {
	ds := &appsv1.DaemonSet{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, ds); err != nil {
		return nil, fmt.Errorf("read DaemonSet: %w", err)
	}
	return ds.Spec.Template.Spec.Containers[0].Args, nil
}

// loadKubeconfig writes a kubeconfig of the load's account, for use on the control plane's host.
func (b *bench) loadKubeconfig(ctx context.Context) (string, error) {
	seconds := int64((12 * time.Hour).Seconds())
	token, err := b.client.CoreV1().ServiceAccounts(loadAccount).CreateToken(ctx, loadAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create token: %w", err)
	}
	config, err := clientcmd.LoadFromFile(b.cluster.Kubeconfig())
	if err != nil {
		return "", fmt.Errorf("read kubeconfig: %w", err)
	}
	for _, c := range config.Clusters {
		c.Server = "https://" + localAPI
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	}
	path := filepath.Join(cluster.Folder(b.root), "load.kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return "", fmt.Errorf("write kubeconfig: %w", err)
	}
	return path, nil
}

// addBareNodes creates Nodes until there are so many, and returns the names of all.
func (b *bench) addBareNodes(ctx context.Context, names []string, count int) ([]string, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(nodeCreators)
	for i := len(names); i < count; i++ {
		name := fmt.Sprintf("node-%05d", i)
		names = append(names, name)
		group.Go(func() error {
			if _, err := b.client.CoreV1().Nodes().Create(ctx, bareNode(i, name), metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("create node: %w", err)
			}
			return nil
		})
	}
	return names, group.Wait()
}

// clear removes what the keepers have made, and the policies.
func (b *bench) clear(ctx context.Context) error {
	ours := metav1.ListOptions{LabelSelector: "host-firewall.io/release"}
	for _, resource := range []string{"hostendpoints", "felixconfigurations", "globalnetworkpolicies"} {
		client := b.calico(resource)
		// One request may give up before all is done.
		err := cluster.Poll(ctx, 5*time.Minute, "all "+resource+" to be gone", func(ctx context.Context) error {
			return client.DeleteCollection(ctx, metav1.DeleteOptions{}, ours)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// server is the process of the API server.
func (b *bench) server() (int, error) {
	h, err := b.cluster.Host(cluster.ControlPlaneNode)
	if err != nil {
		return 0, err
	}
	pids, err := h.Processes(b.cluster.Binary("kube-apiserver"))
	if err != nil {
		return 0, err
	}
	if len(pids) != 1 {
		return 0, fmt.Errorf("find the API server's process: there are %d", len(pids))
	}
	return pids[0], nil
}

// watchServer measures the API server while nobody wants anything of it.
func (b *bench) watchServer(ctx context.Context, pid int) (cpu, window time.Duration, resident int64, err error) {
	window = min(b.settings.Idle, serverWindow)
	before, err := statOf(pid)
	if err != nil {
		return 0, 0, 0, err
	}
	if err := sleep(ctx, window); err != nil {
		return 0, 0, 0, err
	}
	after, err := statOf(pid)
	if err != nil {
		return 0, 0, 0, err
	}
	m, err := memoryOf(pid)
	return after.cpu - before.cpu, window, m.resident, err
}

func (b *bench) scaleTo(ctx context.Context, nodes []string, program, kubeconfig string, args []string) (s Scale, err error) {
	s = Scale{Nodes: len(nodes)}
	pid, err := b.server()
	if err != nil {
		return s, err
	}
	if err := sleep(ctx, quiet); err != nil {
		return s, err
	}
	without, _, empty, err := b.watchServer(ctx, pid)
	if err != nil {
		return s, err
	}
	s.ServerCPUWithout, s.ServerMemoryEmpty = without.Seconds(), empty

	f, err := b.startFleet(ctx, nodes, program, kubeconfig, args)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	before, err := f.ask("report")
	if err != nil {
		return s, err
	}
	if err := b.arm(ctx, f, pid, &s); err != nil {
		return s, err
	}
	settle := newsOut + time.Duration(s.Nodes)*newsPerNode
	b.say("waiting %.0f s, until everything is told", settle.Seconds())
	if err := sleep(ctx, settle); err != nil {
		return s, err
	}
	calm, err := f.ask("status")
	if err != nil {
		return s, err
	}
	idle, window, resident, err := b.watchServer(ctx, pid)
	if err != nil {
		return s, err
	}
	s.ServerCPU, s.IdleSeconds, s.ServerMemory = idle.Seconds(), window.Seconds(), resident
	rested, err := f.ask("report")
	if err != nil {
		return s, err
	}
	s.RequestsIdle = difference(rested.Requests, calm.Requests)
	keepers := int64(len(nodes))
	s.BytesPerKeeper, s.AnonymousPer = (rested.Resident-before.Resident)/keepers, (rested.Anonymous-before.Anonymous)/keepers
	b.say("%.0f kB per keeper; API server %.1f%% of a core (%.1f%% without keepers); requests meanwhile: %s", float64(s.BytesPerKeeper)/1000,
		100*s.ServerCPU/s.IdleSeconds, 100*s.ServerCPUWithout/s.IdleSeconds, counts(s.RequestsIdle))

	if s.Repair, err = b.scaleRepairs(ctx, nodes); err != nil {
		return s, err
	}
	b.say("back, ms: %s", s.Repair.text())
	end, err := f.ask("report")
	s.TooMany, s.Disobeyed = end.TooMany, end.Disobeyed
	return s, err
}

// arm starts the keepers and waits until the endpoints of all nodes are armed, and the keepers are ready.
func (b *bench) arm(ctx context.Context, f *fleet, server int, s *Scale) error {
	before, err := statOf(server)
	if err != nil {
		return err
	}
	b.endpoints.forget()
	start := time.Now()
	if _, err := f.ask("start"); err != nil {
		return err
	}
	there, armed := map[string]bool{}, map[string]bool{}
	told, last := start, start
	err = b.endpoints.await(ctx, armLimit, func(e event) bool {
		name := e.object.GetName()
		there[name] = true
		if e.kind == watch.Deleted || !labelled(e.object) {
			delete(armed, name)
		} else if !armed[name] {
			armed[name], last = true, e.at
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			b.say("%d endpoints, %d armed, of %d after %.0f s", len(there), len(armed), s.Nodes, time.Since(start).Seconds())
		}
		return len(armed) == s.Nodes
	})
	s.Armed, s.ArmedSeconds = len(armed), last.Sub(start).Seconds()
	if errors.Is(err, errMissed) {
		s.ArmedSeconds = armLimit.Seconds()
	} else if err != nil {
		return err
	}
	after, err := statOf(server)
	if err != nil {
		return err
	}
	s.ServerCPUToArm = (after.cpu - before.cpu).Seconds()
	b.say("%d of %d armed after %.1f s", s.Armed, s.Nodes, s.ArmedSeconds)
	r, err := f.ask("status")
	s.RequestsToArm = r.Requests
	for err == nil && r.Ready < s.Nodes && time.Since(start) < armLimit {
		if err = sleep(ctx, time.Second); err == nil {
			r, err = f.ask("status")
		}
	}
	s.Ready, s.ReadySeconds = r.Ready, time.Since(start).Seconds()
	b.say("%d of %d ready after %.0f s", s.Ready, s.Nodes, s.ReadySeconds)
	if s.Ready < s.Nodes {
		b.say("most of the others: %s; requests: %s", counts(most(r.Reasons, 5)), counts(r.Requests))
	}
	return err
}

func (b *bench) scaleRepairs(ctx context.Context, nodes []string) (Distribution, error) {
	var samples []time.Duration
	missed := 0
	for i := 0; i < b.settings.Rounds && missed < mostMissed; i++ {
		if err := sleep(ctx, betweenBare); err != nil {
			return Distribution{}, err
		}
		// A prime far from all of the numbers: nodes from everywhere, none twice.
		took, err := b.endpoints.repair(ctx, nodes[i*7919%len(nodes)], eventLimit, labelled)
		switch {
		case errors.Is(err, errMissed):
			missed++
		case err != nil:
			return Distribution{}, err
		default:
			samples = append(samples, took)
		}
	}
	return distribution(samples, missed, eventLimit), nil
}

// most keeps the largest of the numbers.
func most(kinds map[string]int, n int) map[string]int {
	order := slices.SortedFunc(maps.Keys(kinds), func(a, b string) int { return kinds[b] - kinds[a] })
	kept := map[string]int{}
	for _, kind := range order[:min(n, len(order))] {
		kept[kind] = kinds[kind]
	}
	return kept
}

func difference(after, before map[string]int) map[string]int {
	d := map[string]int{}
	for kind, n := range after {
		d[kind] = n - before[kind]
	}
	maps.DeleteFunc(d, func(_ string, n int) bool { return n == 0 })
	return d
}

// fleet is the process with all keepers.
type fleet struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *bufio.Scanner
	log     *os.File
}

// fleetReport is what it answers; see agent/internal/scalebench.
type fleetReport struct {
	Ready     int            `json:"ready"`
	Reasons   map[string]int `json:"reasons"`
	Resident  int64          `json:"residentBytes"`
	Anonymous int64          `json:"anonymousBytes"`
	Requests  map[string]int `json:"requests"`
	TooMany   int            `json:"tooManyRequests"`
	Disobeyed map[string]int `json:"retryAfterDisobeyed"`
}

func (b *bench) startFleet(ctx context.Context, nodes []string, program, kubeconfig string, args []string) (*fleet, error) {
	list := filepath.Join(cluster.Folder(b.root), "nodes.txt")
	if err := os.WriteFile(list, []byte(strings.Join(nodes, "\n")), 0o644); err != nil {
		return nil, fmt.Errorf("write names of nodes: %w", err)
	}
	f := &fleet{}
	var err error
	if f.cmd, err = b.cluster.Command(ctx, cluster.ControlPlaneNode, program, append([]string{list, kubeconfig}, args...)...); err != nil {
		return nil, err
	}
	if f.log, err = os.Create(filepath.Join(b.cluster.Logs(), fmt.Sprintf("scale-%d.log", len(nodes)))); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	f.cmd.Stderr = f.log
	if f.stdin, err = f.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start keepers: %w", err)
	}
	stdout, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start keepers: %w", err)
	}
	f.answers = bufio.NewScanner(stdout)
	f.answers.Buffer(nil, 1<<20)
	if err := f.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start keepers: %w", err)
	}
	return f, nil
}

// ask says a word and returns the answer.
func (f *fleet) ask(word string) (r fleetReport, err error) {
	if _, err := fmt.Fprintln(f.stdin, word); err != nil {
		return r, fmt.Errorf("tell the keepers to %s: %w", word, err)
	}
	if !f.answers.Scan() {
		return r, errors.Join(fmt.Errorf("the keepers have ended: see %s", f.log.Name()), f.answers.Err())
	}
	if err := json.Unmarshal(f.answers.Bytes(), &r); err != nil {
		return r, fmt.Errorf("read the keepers' answer: %w", err)
	}
	return r, nil
}

// stop ends the process.
func (f *fleet) stop() error {
	defer f.log.Close()
	_ = f.stdin.Close() // it ends with its input
	if err := f.cmd.Wait(); err != nil {
		return fmt.Errorf("end keepers: %w", err)
	}
	return nil
}
