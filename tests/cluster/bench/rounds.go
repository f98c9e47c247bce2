package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

const (
	// between two rounds there is time for everything to come to rest.
	between = 300 * time.Millisecond
	// betweenBare is that for Nodes without a Felix that follows.
	betweenBare = 100 * time.Millisecond
	// mostMissed rounds are enough to know that there is nothing to wait for.
	mostMissed = 2
	// joined is how long a node that joins may take to be armed.
	joined = 3 * time.Minute
)

// repairs deletes endpoints of the workers in turn and measures how long each takes to come back.
func (b *bench) repairs(ctx context.Context, c *contender) (Distribution, error) {
	workers := b.workers()
	var samples []time.Duration
	missed, lost := 0, false
	for i := 0; i < c.rounds && missed < mostMissed; i++ {
		if lost {
			if err := b.restart(ctx, c); err != nil {
				return Distribution{}, err
			}
		}
		// A loop that sleeps is met at any moment of its sleep.
		if err := sleep(ctx, between+c.sleeps*time.Duration(i)/time.Duration(c.rounds)); err != nil {
			return Distribution{}, err
		}
		took, err := b.endpoints.repair(ctx, c.endpoint(workers[i%len(workers)]), c.limit, c.armed)
		switch lost = errors.Is(err, errMissed); {
		case lost:
			missed++
			b.say("round %d: not back within %s", i+1, c.limit)
		case err != nil:
			return Distribution{}, err
		default:
			samples = append(samples, took)
			if (i+1)%50 == 0 || c.limit > eventLimit {
				b.say("round %d of %d: %.1f ms", i+1, c.rounds, milliseconds(took))
			}
		}
	}
	return distribution(samples, missed, c.limit), nil
}

// restart makes a contender that doesn't bring its endpoints back begin anew.
func (b *bench) restart(ctx context.Context, c *contender) error {
	if err := b.kubectl(ctx, "", "delete", "pods", "--namespace", c.namespace, "--selector", c.pods); err != nil {
		return err
	}
	return b.awaitArmed(ctx, c)
}

// awaitArmed waits until the endpoints of all workers are armed.
func (b *bench) awaitArmed(ctx context.Context, c *contender) error {
	names := []string{}
	for _, w := range b.workers() {
		names = append(names, c.endpoint(w))
	}
	return cluster.Poll(ctx, 2*time.Minute, "every worker's endpoint", func(ctx context.Context) error {
		return b.endpoints.missing(ctx, names, c.armed)
	})
}

// joins starts nodes and measures from the moment in which each has registered.
func (b *bench) joins(ctx context.Context, c *contender) (*Joins, error) {
	var created, armed, own []time.Duration
	for i := range b.settings.Joins {
		name := fmt.Sprintf("joining-%d", i+1)
		j, err := b.join(ctx, c, name)
		if err != nil {
			return nil, fmt.Errorf("join %s: %w", name, err)
		}
		b.say("%s: endpoint after %.0f ms, armed after %.0f ms, which is %.0f ms after the process started",
			name, milliseconds(j.created), milliseconds(j.armed), milliseconds(j.own))
		created, armed, own = append(created, j.created), append(armed, j.armed), append(own, j.own)
	}
	return &Joins{
		Created: distribution(created, 0, joined), Armed: distribution(armed, 0, joined), FromProcess: distribution(own, 0, joined),
	}, nil
}

// joining is how long a node took: from its registration to its endpoint and to its arming, and from the start of the
// contender's process on it to its arming.
type joining struct{ created, armed, own time.Duration }

func (b *bench) join(ctx context.Context, c *contender, name string) (j joining, err error) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	nodes, err := observe(watching, b.dynamic.Resource(nodesResource))
	if err != nil {
		return j, err
	}
	b.endpoints.forget()
	m, err := b.cluster.AddNode(name)
	if err != nil {
		return j, err
	}
	defer func() { err = errors.Join(err, b.leave(context.WithoutCancel(ctx), c, name)) }()
	var registered, created, armed time.Time
	if err := nodes.await(ctx, joined, func(e event) bool {
		registered = e.at
		return e.object.GetName() == name && e.kind == watch.Added
	}); err != nil {
		return j, fmt.Errorf("wait for Node: %w", err)
	}
	if err := b.endpoints.await(ctx, joined, func(e event) bool {
		if e.object.GetName() != c.endpoint(name) || e.kind == watch.Deleted {
			return false
		}
		if created.IsZero() {
			created = e.at
		}
		armed = e.at
		return c.armed(e.object)
	}); err != nil {
		return j, fmt.Errorf("wait for endpoint: %w", err)
	}
	i, err := b.find(ctx, c, name)
	if err != nil {
		return j, err
	}
	started, err := startOf(i.pid)
	if err != nil {
		return j, err
	}
	// Not until Felix is ready: it is asked over loopback, which the article's policies cut.
	return joining{created.Sub(registered), armed.Sub(registered), armed.Sub(started)}, b.cluster.WaitNodeReady(ctx, m.Name)
}

// leave takes a node away, and its endpoint where nobody else does.
func (b *bench) leave(ctx context.Context, c *contender, name string) error {
	if err := b.cluster.RemoveNode(ctx, name); err != nil {
		return err
	}
	return b.kubectl(ctx, "", "delete", "--ignore-not-found", hostEndpointsName, c.endpoint(name))
}

// bareNodes creates Node objects that no machine is behind, and measures how long each takes to get its endpoint.
func (b *bench) bareNodes(ctx context.Context, c *contender) (*Distribution, error) {
	var samples []time.Duration
	missed := 0
	for i := 0; i < b.settings.BareNodes && missed < mostMissed; i++ {
		name := fmt.Sprintf("bare-%d", i+1)
		if err := sleep(ctx, betweenBare); err != nil {
			return nil, err
		}
		b.endpoints.forget()
		start, took := time.Now(), time.Duration(0)
		if _, err := b.client.CoreV1().Nodes().Create(ctx, bareNode(i, name), metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create node: %w", err)
		}
		err := b.endpoints.await(ctx, c.limit, func(e event) bool {
			took = e.at.Sub(start)
			return e.object.GetName() == c.endpoint(name) && e.kind == watch.Added
		})
		switch {
		case errors.Is(err, errMissed):
			missed++
		case err != nil:
			return nil, err
		default:
			samples = append(samples, took)
		}
		if err := b.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return nil, fmt.Errorf("delete node: %w", err)
		}
	}
	d := distribution(samples, missed, c.limit)
	return &d, nil
}

// bareNode is a Node that says it is Ready. Its addresses are of the cluster's pods, of a part that no node gets to.
func bareNode(number int, name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{bareLabel: "true", corev1.LabelHostname: name}},
		Spec:       corev1.NodeSpec{Unschedulable: true},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Bench", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}},
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("198.18.%d.%d", 128+number/250, 1+number%250)},
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("2001:db8:c::%x", 1+number)},
				{Type: corev1.NodeHostName, Address: name},
			},
		},
	}
}

const bareLabel = "host-firewall.test/bare"

// idle measures a contender that has nothing to do, nor to tell from that time on.
func (b *bench) idle(ctx context.Context, c *contender, told time.Time) (*Idle, error) {
	i, err := b.find(ctx, c, c.node(b))
	if err != nil {
		return nil, err
	}
	b.say("idle for %s", b.settings.Idle)
	if err := sleep(ctx, max(quiet, time.Until(told))); err != nil {
		return nil, err
	}
	before, err := statOf(i.pid)
	if err != nil {
		return nil, err
	}
	since := time.Now()
	if err := sleep(ctx, b.settings.Idle); err != nil {
		return nil, err
	}
	until := time.Now()
	after, err := statOf(i.pid)
	if err != nil {
		return nil, err
	}
	m, err := memoryOf(i.pid)
	if err != nil {
		return nil, err
	}
	result := &Idle{Seconds: until.Sub(since).Seconds(), CPU: (after.cpu - before.cpu).Seconds(), Resident: m.resident, Anonymous: m.anonymous, Requests: map[string]int{}}
	if c.sleeps > 0 {
		least, most, err := sample(ctx, i.container, 2*c.sleeps)
		if err != nil {
			return nil, err
		}
		result.Resident, result.Anonymous = least.resident, least.anonymous
		result.PeakResident, result.PeakAnonymous = most.resident, most.anonymous
	}
	requests, err := b.cluster.Requests(c.user)
	if err != nil {
		return nil, err
	}
	known := false
	for _, r := range requests {
		if r.Pod != i.pod {
			continue
		}
		known = true
		if r.At.After(since) && r.At.Before(until) {
			result.Requests[kind(r.Call)]++
		}
	}
	if !known {
		return nil, fmt.Errorf("the audit log knows no request of pod %s as %s: nothing can be said of its requests", i.pod, c.user)
	}
	b.say("%.2f s CPU, %.2f MB resident, %.2f MB anonymous, requests: %s", result.CPU, megabytes(result.Resident), megabytes(result.Anonymous), counts(result.Requests))
	return result, nil
}

// kind is a request's verb and what it was for.
func kind(c cluster.Call) string {
	if c.Resource == "" {
		return c.Verb + " (discovery)"
	}
	return c.Verb + " " + c.Resource
}

const (
	// quiet is how long everything has to settle before it is measured idle.
	quiet = 15 * time.Second
	// newsOut is how long an agent may keep what it has to tell of its arming: two minutes, in a note on its endpoint.
	newsOut = 130 * time.Second
	// firstNews is how long an agent gathers repairs before it tells of them, and repairsOut how long it may keep those that come
	// after that: one Event tells of those of five minutes.
	firstNews  = 10 * time.Second
	repairsOut = 6 * time.Minute
)

// present is armed for an endpoint that takes effect without a label.
func present(*unstructured.Unstructured) bool { return true }
