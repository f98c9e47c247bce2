// Package controller is the loop of a release. It looks at the whole cluster, so that
// agents need not: it keeps the addresses of all Nodes trusted, says which set of
// policies may be armed and where, and removes sets that nobody uses any more. What it
// decides is pure and apart from the loop.
package controller

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/loop"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

const (
	// passFor is how long the requests of a pass may take together.
	passFor = time.Minute

	// troubleAfter is how long a cache may be out of order before the controller says that
	// it does not know the cluster any more: an API server that restarts is back by then.
	troubleAfter = 30 * time.Second

	// A pass looks at everything. So a wake-up waits for more of them, and for longer the
	// longer a pass takes: a busy cluster costs a fifth of one core at most.
	quietLeast = 20 * time.Millisecond
	quietTimes = 4
)

// Config says what the controller looks after.
type Config struct {
	Release, Namespace string
	// Wanted is the set that nodes are to be armed with.
	Wanted clearance.Set
	// Rollout stands for these settings, as agents are told it.
	Rollout string
	// Off arms no node.
	Off bool
	// TrustNodes keeps a set of addresses for each Node, which the policies trust. Without
	// it no Node may be outside of ClusterCIDRs.
	TrustNodes   bool
	ClusterCIDRs []netip.Prefix
	// APIServerPorts are TCP ports that the policies let everybody in to. None: whether API
	// servers of nodes stay open is not asked.
	APIServerPorts []uint16
	// AcceptPolicies are names of policies of others that may apply to nodes.
	AcceptPolicies []string
	// Shape, Interfaces and Adopt are as agents have them.
	Shape      endpoint.Shape
	Interfaces []string
	Adopt      bool
	// Resync is the time after which a pass is made without an event.
	Resync time.Duration
	// Started is when this process has.
	Started time.Time
	// Verify has nodes try the set for a while: it is well when an agent says so, and this
	// controller dials the kubelets of those that try.
	Verify bool
	// Confirm is how long a person has to confirm the set; zero: nobody has to.
	Confirm time.Duration
	// OwnNode is the Node that this controller runs on: what it dials there never leaves the
	// host, so that one is not tried from outside. Empty: nobody knows.
	OwnNode string
	// Audit tells that the set drops nothing, but logs what another mode would drop.
	Audit bool
	// Wait holds back a node where somebody who is connected would be cut off, but for Accept.
	Wait   bool
	Accept peers.Accept
	// Failsafe is how agents narrow it; nil: they don't.
	Failsafe *failsafe.Want
	// SSHPorts are the TCP ports of SSH.
	SSHPorts []uint16
	// Dial connects to a kubelet and ends the connection; nil: by TCP.
	Dial func(ctx context.Context, to netip.AddrPort) error
}

// Reader is the cluster as caches have it. What comes from it may be behind, and is not
// changed; all but Problem is read only while that returns an empty string.
type Reader interface {
	// Problem says why the caches are not complete; empty: they are.
	Problem() string
	// Trouble says what keeps a complete cache from following, and since when.
	Trouble() (problem string, since time.Time)
	Nodes() []*corev1.Node
	// Endpoints returns everybody's, and up to which version they are followed.
	Endpoints() (heps []*v3.HostEndpoint, version string)
	// Policies returns everybody's.
	Policies() []*policyset.Policy
	// TrustSets returns the sets of the release, that of witnesses too.
	TrustSets() []*v3.GlobalNetworkSet
	// Information returns what Calico says of the cluster, nil when it says nothing.
	Information() *v3.ClusterInformation
	// FelixForAll returns the FelixConfiguration for all nodes, nil when there is none.
	FelixForAll() *failsafe.Configuration
	// ConfigMap returns that of the clearance, nil when there is none.
	ConfigMap() *corev1.ConfigMap
}

// Writer changes what the controller keeps: GlobalNetworkSets and the ConfigMap; it creates
// witnesses, and deletes policies.
type Writer interface {
	Create(ctx context.Context, object metav1.Object) error
	// Patch applies a JSON merge patch.
	Patch(ctx context.Context, object metav1.Object, patch []byte) error
	// Delete deletes the object in the version that is given.
	Delete(ctx context.Context, object metav1.Object) error
	CreateEvent(ctx context.Context, event *corev1.Event) error
}

// Asker reads what is needed too seldom for a cache.
type Asker interface {
	// APIServer returns the addresses and TCP ports at which API servers listen.
	APIServer(ctx context.Context) (addresses []netip.Addr, ports []uint16, err error)
	// ReadFelix returns the FelixConfiguration with that name, nil when there is none.
	ReadFelix(ctx context.Context, name string) (*failsafe.Configuration, error)
	// FelixConfigurations returns all of them, and IPPools all networks of Calico's.
	FelixConfigurations(ctx context.Context) ([]*failsafe.Configuration, error)
	IPPools(ctx context.Context) ([]*v3.IPPool, error)
}

// API is all that the controller needs of the API server.
type API interface {
	Reader
	Writer
	Asker
}

// Controller is the loop.
type Controller struct {
	*loop.Loop
	config Config
	api    API
	log    *slog.Logger

	// Only the loop touches these.
	memory     memory
	apiServers apiServers
	around     around
	writing    writing
	events     events
	took       time.Duration // by the last pass, without its requests

	mu      sync.Mutex
	status  Status
	answers []answer // of kubelets, that no pass has seen yet
}

// New returns a controller that does nothing before Run.
func New(config Config, api API, log *slog.Logger) *Controller {
	if config.Dial == nil {
		config.Dial = connect
	}
	return &Controller{
		Loop:    loop.New(),
		config:  config,
		api:     api,
		log:     log,
		writing: writing{backoff: flowcontrol.NewBackOffWithJitter(retryFirst, retryMost, 0.2)},
		events:  events{noticed: map[notice]*noticed{}, limit: flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventsBurst)},
		status:  Status{State: Waiting, Reason: "starting", Since: config.Started},
	}
}

// Run looks after the release until the context ends. It leaves everything as it is:
// agents go on without it.
func (k *Controller) Run(ctx context.Context) {
	quiet := func() time.Duration { return max(quietLeast, quietTimes*k.took) }
	k.Loop.Run(ctx, quiet, func(ctx context.Context) time.Duration { return time.Until(k.pass(ctx, time.Now())) })
}

// pass compares once what is with what should be, and writes the difference. It returns
// when to look again without an event.
func (k *Controller) pass(all context.Context, now time.Time) (again time.Time) {
	ctx, cancel := context.WithTimeout(all, passFor)
	defer cancel()
	resync := now.Add(k.config.Resync)
	if problem := k.api.Problem(); problem != "" {
		k.tell(now, Status{State: Waiting, Reason: problem})
		return resync
	}
	f := k.facts(now)
	if k.config.asksAPIServers(f, &k.memory) {
		// A Node that has come meanwhile is not asked about, so it is not looked at either.
		f.apiServers = k.askAPIServers(ctx, f)
		k.apiServers = f.apiServers
	}
	if asks, _ := k.memory.looksAround(f); asks {
		f.around = k.lookAround(ctx, f)
		k.around = f.around
	}
	begin := time.Now()
	d := k.config.decide(f, &k.memory)
	d.at(resync)
	k.took = time.Since(begin)
	k.dial(all, d.dials)
	k.write(ctx, f, &d)
	k.checkTrouble(now, &d)
	k.tell(now, d.status)
	k.sendEvents(ctx, f, &d)
	return d.again
}

// facts collects what is known.
func (k *Controller) facts(now time.Time) facts {
	f := facts{
		now:        now,
		nodes:      k.api.Nodes(),
		policies:   k.api.Policies(),
		trusted:    k.api.TrustSets(),
		felix:      k.api.FelixForAll(),
		configMap:  k.api.ConfigMap(),
		apiServers: k.apiServers,
		around:     k.around,
		failures:   map[string]string{},
	}
	f.endpoints, f.version = k.api.Endpoints()
	if information := k.api.Information(); information != nil {
		ready := information.Spec.DatastoreReady
		f.calico, f.paused = information.Spec.CalicoVersion, ready != nil && !*ready
	}
	for subject, waits := range k.writing.waits {
		if waits.failure != "" {
			f.failures[subject] = waits.failure
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	f.answers, k.answers = k.answers, nil
	return f
}

// checkTrouble says in the status that a cache does not follow any more.
func (k *Controller) checkTrouble(now time.Time, d *decision) {
	problem, since := k.api.Trouble()
	switch {
	case problem == "":
	case now.Sub(since) < troubleAfter:
		d.at(since.Add(troubleAfter))
	case d.status.Ready:
		d.status.Ready, d.status.Reason = false, "as it was left, but "+problem
	}
}
