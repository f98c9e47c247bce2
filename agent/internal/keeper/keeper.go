// Package keeper keeps the endpoint of one node as it should be. It is a
// level-triggered loop: any event wakes it, and each pass compares what is with
// what should be and writes only a difference.
package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/gate"
)

const (
	// After a failure the loop waits, at first so briefly that losing a race
	// against the cache costs nothing.
	retryFirst = 5 * time.Millisecond
	retryMost  = 30 * time.Second
	// lostRaces is how often in a row a write may find the cache behind before
	// that is worth telling.
	lostRaces = 5

	peersFirst = time.Second
	peersMost  = 30 * time.Second

	// jitter spreads the retries of many agents by up to this part of the delay.
	jitter = 0.2

	// stuckAfter is the longest that a pass may take. All requests of one pass
	// together time out sooner.
	stuckAfter = time.Minute

	// work is the only key in the queue: there is one thing to do.
	work = "endpoint"
)

// State is how far the protection of the node is.
type State string

const (
	// Waiting means that something has to come first; the endpoint is not armed.
	Waiting State = "Waiting"
	// Armed means that the policies apply to the node.
	Armed State = "Armed"
	// Conflict means that the endpoint is somebody else's, and nothing is written.
	Conflict State = "Conflict"
)

// Status is the state of the node for people and probes.
type Status struct {
	State State
	// Ready tells that all is as the settings ask for.
	Ready  bool
	Reason string
	// Since is when State or Ready last changed.
	Since time.Time
}

// API is what the keeper needs of the API server. What Node, Endpoint and
// Policies return comes from caches, may be behind, and is not changed; they are
// called only when Problem returns an empty string.
type API interface {
	// Problem says why the caches are not complete; empty: they are.
	Problem() string
	// Node returns the keeper's Node, nil when there is none.
	Node() *corev1.Node
	// Endpoint returns the endpoint named as the Node, nil when there is none.
	Endpoint() *v3.HostEndpoint
	// Policies returns the policies of the release.
	Policies() []*v3.GlobalNetworkPolicy

	// CreateEndpoint creates an endpoint.
	CreateEndpoint(ctx context.Context, hep *v3.HostEndpoint) error
	// PatchEndpoint applies a JSON merge patch to an endpoint.
	PatchEndpoint(ctx context.Context, name string, patch []byte) error
	// ListNodes returns all Nodes as they are now.
	ListNodes(ctx context.Context) ([]corev1.Node, error)
	// ListEndpoints returns all endpoints of the release as they are now.
	ListEndpoints(ctx context.Context) ([]v3.HostEndpoint, error)
}

// Config says what the keeper keeps.
type Config struct {
	Node         string
	Release      string
	ArmingLabels map[string]string
	Profiles     []string
	// Policies and Revision are what has to be there before the node is armed.
	Policies []string
	Revision string
	// AwaitNodes delays the first arming until no Ready node would be shut out;
	// TrustedCIDRs are networks that the policies trust anyway.
	AwaitNodes   bool
	TrustedCIDRs []netip.Prefix
	// Resync is the time after which a pass is made without an event.
	Resync time.Duration
}

func (c Config) shape() endpoint.Shape {
	return endpoint.Shape{Release: c.Release, ArmingLabels: c.ArmingLabels, Profiles: c.Profiles}
}

func (c Config) want() gate.Want {
	return gate.Want{Release: c.Release, Revision: c.Revision, Policies: c.Policies}
}

// Keeper is the loop for one node.
type Keeper struct {
	config Config
	api    API
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[string]

	// Only the loop touches these.
	memory     memory
	peers      peers
	peersDelay time.Duration
	invalid    []string

	mu        sync.Mutex
	status    Status
	busySince time.Time // zero between passes
}

// New returns a keeper that does nothing before Run.
func New(config Config, api API, log *slog.Logger) *Keeper {
	return &Keeper{
		config: config,
		api:    api,
		log:    log,
		queue:  workqueue.NewTypedRateLimitingQueue[string](newBackoff()),
		status: Status{State: Waiting, Reason: "starting", Since: time.Now()},
	}
}

// Wake makes the loop look again. It may be called from any goroutine.
func (k *Keeper) Wake() { k.queue.Add(work) }

// Run keeps the endpoint until the context ends. It leaves the endpoint as it
// is: a rolling update must not open the node.
func (k *Keeper) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, k.queue.ShutDown)
	defer stop()
	k.Wake()
	for {
		key, shutdown := k.queue.Get()
		if shutdown || ctx.Err() != nil {
			return
		}
		k.turn(ctx)
		k.queue.Done(key)
	}
}

// Status returns how the node is. It may be called from any goroutine.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// Alive returns an error when the loop is stuck in a pass. It may be called from
// any goroutine.
func (k *Keeper) Alive() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busySince.IsZero() {
		return nil
	}
	if busy := time.Since(k.busySince); busy > stuckAfter {
		return fmt.Errorf("stuck in one pass for %s", busy.Round(time.Second))
	}
	return nil
}

// turn makes one pass and arranges for the next one.
func (k *Keeper) turn(ctx context.Context) {
	k.setBusy(time.Now())
	defer k.setBusy(time.Time{})

	again, err := k.pass(ctx)
	if err != nil {
		k.queue.AddRateLimited(work)
		return
	}
	k.queue.Forget(work)
	k.queue.AddAfter(work, k.config.Resync)
	if again > 0 {
		k.queue.AddAfter(work, again)
	}
}

// pass compares once what is with what should be, and writes the difference.
func (k *Keeper) pass(ctx context.Context) (again time.Duration, err error) {
	f := k.look()
	d, m := k.config.decide(f, k.memory)
	if d.askPeers && !f.now.Before(k.peers.next) {
		k.askPeers(ctx, f.now)
		f.peers = k.peers
		d, m = k.config.decide(f, k.memory)
	}
	if !d.askPeers {
		k.peers, k.peersDelay = peers{}, 0
	}
	k.memory = m
	k.tellInvalid(d.invalid)

	if err := k.write(ctx, f.endpoint, d); err != nil {
		k.tellFailure(ctx, f.endpoint, err)
		return 0, err
	}
	if d.state == Armed {
		k.memory.armed = true
	}
	k.tell(Status{State: d.state, Ready: d.ready, Reason: d.reason})
	return d.again, nil
}

// look collects the facts from the caches.
func (k *Keeper) look() facts {
	f := facts{now: time.Now(), problem: k.api.Problem(), peers: k.peers}
	if f.problem == "" {
		f.node, f.endpoint, f.policies = k.api.Node(), k.api.Endpoint(), k.api.Policies()
	}
	return f
}

// askPeers finds out whom an armed endpoint would shut out. It is asked seldom
// and more seldom: the question costs a list of all nodes.
func (k *Keeper) askPeers(ctx context.Context, now time.Time) {
	k.peersDelay = min(max(2*k.peersDelay, peersFirst), peersMost)
	answer := peers{asked: true, next: now.Add(wait.Jitter(k.peersDelay, jitter))}
	// The nodes first: an endpoint that comes meanwhile is then seen, and a node
	// that comes meanwhile finds this node's agent already waiting for it or armed.
	nodes, err := k.api.ListNodes(ctx)
	if err != nil {
		answer.err = err
	} else if endpoints, err := k.api.ListEndpoints(ctx); err != nil {
		answer.err = err
	} else {
		answer.strangers = gate.Peers(nodes, endpoints, k.config.Release, k.config.TrustedCIDRs)
	}
	k.peers = answer
}

// write makes current what the decision desires.
func (k *Keeper) write(ctx context.Context, current *v3.HostEndpoint, d decision) error {
	switch {
	case d.desired == nil:
		return nil
	case current == nil:
		if err := k.api.CreateEndpoint(ctx, d.desired); err != nil {
			return err
		}
		k.log.Info("endpoint created", "name", d.desired.Name, "armed", d.state == Armed, "expectedIPs", d.desired.Spec.ExpectedIPs)
		return nil
	}
	patch, err := k.config.shape().Patch(current, d.desired)
	if err != nil || patch == nil {
		return err
	}
	if err := k.api.PatchEndpoint(ctx, current.Name, patch); err != nil {
		return err
	}
	k.log.Info("endpoint changed", "name", current.Name, "armed", d.state == Armed, "patch", string(patch))
	return nil
}

// tellFailure makes a failed write the status of the node, which is then as
// current says. Losing a race is part of the work: the cache was behind, and the
// event that brings it forward is on its way.
func (k *Keeper) tellFailure(ctx context.Context, current *v3.HostEndpoint, err error) {
	race := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
	if ctx.Err() != nil || race && k.queue.NumRequeues(work) < lostRaces {
		k.log.Debug("write failed", "error", err)
		return
	}
	state := Waiting
	if current != nil && k.config.shape().Armed(current) {
		state = Armed
	}
	k.tell(Status{State: state, Reason: err.Error()})
}

// tellInvalid logs addresses that are none, when they are others than before.
func (k *Keeper) tellInvalid(invalid []string) {
	if !slices.Equal(invalid, k.invalid) && len(invalid) > 0 {
		k.log.Warn("addresses of the Node left out", "invalid", invalid)
	}
	k.invalid = invalid
}

// tell sets the status and logs it when it is news.
func (k *Keeper) tell(status Status) {
	k.mu.Lock()
	before := k.status
	status.Since = before.Since
	if status.State != before.State || status.Ready != before.Ready {
		status.Since = time.Now()
	}
	k.status = status
	k.mu.Unlock()

	if status == before {
		return
	}
	level := slog.LevelInfo
	if before.Ready && !status.Ready || status.State == Conflict {
		level = slog.LevelWarn
	}
	k.log.Log(context.Background(), level, "node is "+string(status.State), "ready", status.Ready, "reason", status.Reason)
}

func (k *Keeper) setBusy(since time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busySince = since
}

// backoff is an exponential backoff with jitter.
type backoff struct {
	workqueue.TypedRateLimiter[string]
}

func newBackoff() backoff {
	return backoff{workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryFirst, retryMost)}
}

// When returns how long to wait after one more failure.
func (b backoff) When(key string) time.Duration {
	return wait.Jitter(b.TypedRateLimiter.When(key), jitter)
}
