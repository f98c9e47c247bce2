package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

const (
	// armLimit is when keepers that are not all armed, or ready, are given up.
	armLimit = 5 * time.Minute
	// serverWindow is the longest that the idle API server is watched.
	serverWindow = time.Minute
	nodeCreators = 16
	// mostChanged is for how many nodes at most a release is changed while it runs.
	mostChanged = 1000
)

// What the first Node by name is: the controller would have it go first.
const (
	firstHealthy = "as the others"
	firstAbsent  = "without an agent"
	firstStuck   = "its agent has died before it was armed"
)

// scale measures a release for many nodes, a larger number each time.
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
	st, err := b.prepare(ctx)
	if err != nil {
		return nil, err
	}
	var results []Scale
	nodes := []string{cluster.ControlPlaneNode}
	for _, n := range slices.Sorted(slices.Values(b.settings.Scale)) {
		b.say("creating Nodes until there are %d", n)
		if nodes, err = b.addBareNodes(ctx, nodes, n); err != nil {
			return results, err
		}
		r, err := b.scaleTo(ctx, st, nodes)
		if err != nil {
			return results, fmt.Errorf("%d nodes: %w", n, err)
		}
		results = append(results, r)
	}
	return results, nil
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

func (b *bench) scaleTo(ctx context.Context, st *stage, nodes []string) (s Scale, err error) {
	s = Scale{Nodes: len(nodes)}
	pid, err := b.only(ctx, b.cluster.Binary("kube-apiserver"))
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
	for _, first := range []string{firstHealthy, firstAbsent, firstStuck} {
		l := &life{bench: b, stage: st, nodes: nodes, keepers: nodes, server: pid}
		if err := l.from(ctx, first, &s); err != nil {
			return s, fmt.Errorf("first Node %s: %w", first, err)
		}
	}
	return s, nil
}

// life is that of one release, from its installation to its end.
type life struct {
	*bench
	*stage
	nodes   []string // all
	keepers []string // those with a keeper
	server  int      // the API server's process

	fleet      *fleet
	controller *controller
}

// from installs the release, and measures it until it is uninstalled.
func (l *life) from(ctx context.Context, first string, s *Scale) (err error) {
	l.say("the first Node by name is %s", first)
	if err := l.apply(ctx, l.a.objects); err != nil {
		return err
	}
	if name := slices.Min(l.nodes); first != firstHealthy {
		l.keepers = slices.DeleteFunc(slices.Clone(l.nodes), func(node string) bool { return node == name })
		if first == firstStuck {
			if err := l.leaveNote(ctx, name); err != nil {
				return err
			}
		}
	}
	if l.fleet, err = l.startFleet(ctx, l.stage, l.keepers); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.fleet.stop()) }()
	before, err := l.fleet.ask("report")
	if err != nil {
		return err
	}
	start, err := l.arm(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.controller.stop()) }()
	start.First = first
	if first == firstHealthy {
		if err := l.rest(ctx, before, s); err != nil {
			return err
		}
		if len(l.nodes) <= mostChanged {
			if s.Changes, err = l.change(ctx); err != nil {
				return err
			}
		}
	}
	if start.Uninstall, err = l.uninstall(ctx); err != nil {
		return err
	}
	end, err := l.fleet.ask("status")
	start.TooMany, start.Disobeyed = end.TooMany, end.Disobeyed
	s.Starts = append(s.Starts, start)
	return err
}

// leaveNote makes an endpoint as an agent leaves it that waits for its turn.
func (l *life) leaveNote(ctx context.Context, node string) error {
	note, err := json.Marshal(map[string]string{"state": "Waiting", "wanted": l.a.set})
	if err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"node": node, "interfaceName": "*"}}}
	o.SetAPIVersion(l.cluster.CalicoGroup().String())
	o.SetKind("HostEndpoint")
	o.SetName(node)
	o.SetLabels(map[string]string{release.Label: releaseName})
	o.SetAnnotations(map[string]string{"host-firewall.io/state": string(note)})
	if _, err := l.calico("hostendpoints").Create(ctx, o, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create endpoint: %w", err)
	}
	return nil
}

// arm starts controller and keepers together, and waits until the endpoints of all keepers are armed, and they are ready.
func (l *life) arm(ctx context.Context) (s Start, err error) {
	s.Keepers = len(l.keepers)
	before, err := statOf(l.server)
	if err != nil {
		return s, err
	}
	l.endpoints.forget()
	begin := time.Now()
	if l.controller, err = l.startController(ctx, l.stage, l.a.controller); err != nil {
		return s, err
	}
	if _, err := l.fleet.ask("start"); err != nil {
		return s, err
	}
	m, err := l.follow(ctx, begin, func(endpoint *unstructured.Unstructured) bool {
		return release.CarriedBy(endpoint) == l.a.set
	})
	if err != nil {
		return s, err
	}
	s.Armed, s.ArmedSeconds, s.ArmedP50, s.ArmedP99 = len(m.after), m.seconds(), m.percentile(50), m.percentile(99)
	after, err := statOf(l.server)
	if err != nil {
		return s, err
	}
	s.ServerCPU = (after.cpu - before.cpu).Seconds()
	l.say("%d of %d armed after %.1f s (p50 %.1f, p99 %.1f), of the API server %.1f s CPU", s.Armed, s.Keepers, s.ArmedSeconds, s.ArmedP50, s.ArmedP99, s.ServerCPU)
	r, err := l.fleet.ask("status")
	if err != nil {
		return s, err
	}
	s.Requests = r.Requests
	r, err = l.fleet.awaitReady(ctx, s.Keepers, begin.Add(armLimit))
	if err != nil {
		return s, err
	}
	s.Ready, s.ReadySeconds = r.Ready, time.Since(begin).Seconds()
	if s.Controller, err = l.use(l.controller); err != nil {
		return s, err
	}
	l.say("%d of %d ready after %.0f s; requests until armed: %s", s.Ready, s.Keepers, s.ReadySeconds, counts(s.Requests))
	l.say("controller: %.1f s CPU, %.1f MB resident, %.1f at most, requests: %s", s.Controller.CPU, megabytes(s.Controller.Resident), megabytes(s.Controller.Peak), counts(s.Controller.Requests))
	if s.Ready < s.Keepers {
		l.say("most of the others: %s", counts(most(r.Reasons, 5)))
	}
	return s, nil
}

// milestones are when the endpoints came to be as they should, and how many were seen without any set meanwhile.
type milestones struct {
	after   map[string]time.Duration
	unarmed int
}

func (m milestones) seconds() float64 { return m.percentile(100) }

// percentile is in seconds.
func (m milestones) percentile(p float64) float64 {
	var sorted []float64
	for _, d := range slices.Sorted(maps.Values(m.after)) {
		sorted = append(sorted, d.Seconds())
	}
	return percentile(sorted, p)
}

// follow watches the endpoints of all keepers until they are as they should be.
func (l *life) follow(ctx context.Context, begin time.Time, should func(*unstructured.Unstructured) bool) (milestones, error) {
	m := milestones{after: map[string]time.Duration{}}
	kept := map[string]bool{}
	for _, name := range l.keepers {
		kept[name] = true
	}
	said := time.Now()
	err := l.endpoints.await(ctx, time.Until(begin.Add(armLimit)), func(e event) bool {
		name := e.object.GetName()
		if !kept[name] {
			return false
		}
		if e.kind == watch.Deleted || release.Armed(e.object) != nil {
			m.unarmed++
		}
		if _, was := m.after[name]; e.kind == watch.Deleted || !should(e.object) {
			delete(m.after, name)
		} else if !was {
			m.after[name] = e.at.Sub(begin)
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			l.say("%d of %d after %.0f s", len(m.after), len(kept), e.at.Sub(begin).Seconds())
		}
		return len(m.after) == len(kept)
	})
	if errors.Is(err, errMissed) {
		err = nil
	}
	return m, err
}

// rest measures what keepers cost that have nothing to do, and then how quick they are.
func (l *life) rest(ctx context.Context, before fleetReport, s *Scale) error {
	l.say("waiting %s, until everything is told", newsOut)
	if err := sleep(ctx, newsOut); err != nil {
		return err
	}
	calm, err := l.fleet.ask("status")
	if err != nil {
		return err
	}
	controllerBefore, err := statOf(l.controller.pid)
	if err != nil {
		return err
	}
	idle, window, resident, err := l.watchServer(ctx, l.server)
	if err != nil {
		return err
	}
	s.ServerCPU, s.IdleSeconds, s.ServerMemory = idle.Seconds(), window.Seconds(), resident
	if s.Controller, err = l.use(l.controller); err != nil {
		return err
	}
	s.Controller.CPU -= controllerBefore.cpu.Seconds()
	rested, err := l.fleet.ask("report")
	if err != nil {
		return err
	}
	s.RequestsIdle, s.Watches = difference(rested.Requests, calm.Requests), rested.Watches
	keepers := int64(len(l.keepers))
	s.BytesPerKeeper, s.AnonymousPer = (rested.Resident-before.Resident)/keepers, (rested.Anonymous-before.Anonymous)/keepers
	l.say("%.0f kB and %.2f watches per keeper; API server %.1f%% of a core (%.1f%% without keepers); requests meanwhile: %s", float64(s.BytesPerKeeper)/1000,
		float64(s.Watches)/float64(keepers), 100*s.ServerCPU/s.IdleSeconds, 100*s.ServerCPUWithout/s.IdleSeconds, counts(s.RequestsIdle))
	l.say("controller: %.2f s CPU meanwhile, %.1f MB resident", s.Controller.CPU, megabytes(s.Controller.Resident))
	if s.Repair, err = l.scaleRepairs(ctx); err != nil {
		return err
	}
	l.say("back, ms: %s", s.Repair.text())
	return nil
}

func (l *life) scaleRepairs(ctx context.Context) (Distribution, error) {
	var samples []time.Duration
	missed := 0
	for i := 0; i < l.settings.Rounds && missed < mostMissed; i++ {
		if err := sleep(ctx, betweenBare); err != nil {
			return Distribution{}, err
		}
		// A prime far from all of the numbers: nodes from everywhere, none twice.
		took, err := l.endpoints.repair(ctx, l.nodes[i*7919%len(l.nodes)], eventLimit, armed)
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
