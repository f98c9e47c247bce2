// Package keeper keeps the endpoints and the failsafe of one node as they should be. It
// is a level-triggered loop: any event wakes it, and each pass compares what is with what
// should be and writes only a difference. Of other nodes it knows nothing: the clearance
// says whether the node may be armed.
package keeper

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/host-firewall/host-firewall/agent/internal/agenda"
	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/loop"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/proof"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	// troubleAfter is how long a cache may be out of order before the node counts
	// as not looked after: an API server that restarts is back by then.
	troubleAfter = 30 * time.Second

	// leftoversEvery is how often leftovers are looked for while there are some, and foundFor
	// how long an endpoint that no cache shows is taken to be there.
	leftoversEvery = 10 * time.Second
	foundFor       = 30 * time.Second

	// resync is the pass that is made without any reason.
	resync = "resync"
)

// API is what the keeper needs of the API server.
type API interface {
	Cluster
	Endpoints
	Failsafes
	// CreateEvent creates an Event about the Node.
	CreateEvent(ctx context.Context, event *corev1.Event) error
}

// Cluster is what is known of the cluster. It comes from caches, may be behind, and is not
// changed; all but Problem is called only when that returns an empty string.
type Cluster interface {
	// Problem says why the caches are not complete; empty: they are.
	Problem() string
	// Trouble says what keeps a complete cache from following, and since when.
	Trouble() (problem string, since time.Time)
	// Node returns the keeper's Node, nil when there is none.
	Node() *corev1.Node
	// Clearance returns what the controller says, or why that is not known.
	Clearance() (said *clearance.Clearance, problem string)
}

// Endpoints are those of the node. They are changed by a JSON merge patch and deleted in
// the version that is given. What is stored comes back.
type Endpoints interface {
	// KnownEndpoints returns from a cache the endpoint named as the Node, whosever it is, or
	// where Config.Named holds those that are labelled as the release's on the Node, and up
	// to which version the cache has followed.
	KnownEndpoints() (heps []*v3.HostEndpoint, version string)
	CreateEndpoint(ctx context.Context, hep *v3.HostEndpoint) (*v3.HostEndpoint, error)
	PatchEndpoint(ctx context.Context, name string, patch []byte) (*v3.HostEndpoint, error)
	DeleteEndpoint(ctx context.Context, hep *v3.HostEndpoint) error
	// ReadEndpoint returns the endpoint with that name, whosever it is; nil: there is none.
	ReadEndpoint(ctx context.Context, name string) (*v3.HostEndpoint, error)
	// ListOwnEndpoints returns those of the release on the Node.
	ListOwnEndpoints(ctx context.Context) ([]*v3.HostEndpoint, error)
}

// Failsafes are the FelixConfigurations of the Node and for all nodes.
type Failsafes interface {
	// FollowFelix starts their caches; to call it again does nothing.
	FollowFelix()
	// Felix returns them from the caches, or why they are not known.
	Felix() (own, forAll *failsafe.Configuration, problem string)
	// ReadFelix returns the one with that name, nil when there is none.
	ReadFelix(ctx context.Context, name string) (*failsafe.Configuration, error)
	CreateFelix(ctx context.Context, configuration *failsafe.Configuration) (*failsafe.Configuration, error)
	PatchFelix(ctx context.Context, name string, patch []byte) (*failsafe.Configuration, error)
	DeleteFelix(ctx context.Context, configuration *failsafe.Configuration) error
}

// Config says what the keeper keeps.
type Config struct {
	Node    string
	Release string
	// Set is the revision of the policies that the node is armed with when it may be.
	Set string
	// Rollout stands for the values by which the controller has to judge the node.
	Rollout string
	// Off keeps every endpoint unarmed and the failsafe as it was without us.
	Off bool
	// Audit leaves the failsafe as it was without us, too: the policies of the release
	// drop nothing, so nothing else may be closed.
	Audit bool
	// Patterns are the interfaces that want an endpoint, as endpoint.Select takes them.
	Patterns []string
	// Links returns the interfaces that the node has.
	Links func() ([]endpoint.Link, error)
	// Untracked tells whether the node has connections whose packets Calico drops as invalid
	// once there is an endpoint. Nil: nobody asks.
	Untracked func() bool
	// Verify makes the node try a set before it counts as armed with it, as package trial says.
	Verify bool
	// Self looks at the node.
	Self Node
	// Labels are what an armed endpoint carries for policies of the user's own, NodeLabels
	// which of the Node's labels each has.
	Labels     map[string]string
	NodeLabels []string
	// Adopt takes over an endpoint with the right name that is nobody's release's.
	Adopt bool
	// Failsafe is how Felix's failsafe is narrowed when the node is armed; nil: not.
	Failsafe *failsafe.Want
	// Resync is the time after which a pass is made without an event.
	Resync time.Duration
	// Meter is told what happens; nil: nobody is.
	Meter Meter
}

// Meter counts.
type Meter interface {
	// Passed tells how long a pass took.
	Passed(d time.Duration)
	// Repaired tells that an endpoint was set right, and why it was wrong.
	Repaired(reason string)
	// Contested tells that a repair waits because somebody else keeps undoing it.
	Contested()
}

// Named tells whether there may be other endpoints than the one of all interfaces.
func (c Config) Named() bool { return !slices.Equal(c.Patterns, []string{endpoint.AllInterfaces}) }

// narrows tells whether the failsafe is to be narrowed.
func (c Config) narrows() bool { return c.Failsafe != nil && !c.Off && !c.Audit }

func (c Config) shape() endpoint.Shape {
	return endpoint.Shape{Release: c.Release, Labels: c.Labels, NodeLabels: c.NodeLabels}
}

// Keeper is the loop for one node.
type Keeper struct {
	*loop.Loop
	config Config
	api    API
	log    *slog.Logger

	linksChanged atomic.Bool

	// Only the loop touches these.
	memory     memory
	agenda     *agenda.Agenda
	links      links
	spread     time.Duration               // over which all are armed, when this node was among many
	wrote      map[string]*v3.HostEndpoint // as they should be when last looked at, by name
	fresh      map[string]*v3.HostEndpoint // as they came back and the cache has not shown yet
	found      map[string]*v3.HostEndpoint // were in the way, and no cache shows them
	felixWrote felixWrote
	lack       string    // why the failsafe was not as it should be in the last pass; empty: it was
	felixClean bool      // nothing of ours is in the failsafe, and nothing shall be
	felixReady time.Time // since when Felix is; zero: it was not when last asked
	looks      probe.Prober[probe.Enforcement]
	proofs     proof.Record
	rounds     probe.Prober[[]trial.Result]
	contested  string               // field of the last fight
	notes      *flowcontrol.Backoff // of those that are written alone
	told       map[string]string
	events     event.Queue

	mu     sync.Mutex
	status Status
}

// links is what was last read of the node's interfaces.
type links struct {
	selected  []endpoint.Interface
	present   []string
	addresses []netip.Addr
	err       error
	read      bool
}

// New returns a keeper that does nothing before Run.
func New(config Config, api API, log *slog.Logger) *Keeper {
	if config.Meter == nil {
		config.Meter = nobody{}
	}
	return &Keeper{
		Loop:   loop.New(),
		config: config,
		api:    api,
		log:    log,
		memory: memory{ours: map[string]types.UID{}},
		agenda: agenda.New(),
		notes:  flowcontrol.NewBackOff(noteDelay, noteMost),
		events: event.Queue{},
		wrote:  map[string]*v3.HostEndpoint{},
		fresh:  map[string]*v3.HostEndpoint{},
		found:  map[string]*v3.HostEndpoint{},
		told:   map[string]string{},
		status: Status{State: Waiting, Reason: "starting", Since: time.Now()},
	}
}

// LinksChanged makes the loop look at the node's interfaces again. It may be
// called from any goroutine.
func (k *Keeper) LinksChanged() {
	k.linksChanged.Store(true)
	k.Wake()
}

// Run keeps the endpoints until the context ends. It leaves them as they are: a
// rolling update must not open the node.
func (k *Keeper) Run(ctx context.Context) { k.Loop.Run(ctx, nil, k.turn) }

// turn makes one pass, and returns when to make another one without an event.
func (k *Keeper) turn(ctx context.Context) time.Duration {
	start := time.Now()
	k.agenda.Begin(resync)
	k.agenda.NotAfter(resync, start.Add(k.config.Resync))
	k.pass(ctx)
	k.config.Meter.Passed(time.Since(start))
	return k.agenda.Next(time.Now())
}

// pass compares once what is with what should be, and writes the difference.
func (k *Keeper) pass(ctx context.Context) {
	f := k.look(ctx)
	d, m := k.config.decide(f, k.memory)
	k.memory = m
	status := Status{State: d.state, Ready: d.ready, Reason: d.reason, Enforced: f.proof.Says}
	if f.problem != "" {
		k.tell(f.now, status)
		return
	}
	if k.agenda.Set(trialWork, d.again); d.probe {
		targets := probe.Targets(f.node, f.said, k.config.Set)
		k.rounds.Ask(ctx, func(ctx context.Context) []trial.Result { return k.config.Self.Round(ctx, targets) }, k.Wake)
	}
	k.memory.trial = cmp.Or(d.trial, k.memory.trial)
	matters := !k.config.Off && (k.config.Audit || d.set != k.config.Set && d.state != RolledBack || d.state == Trying)
	if !matters || k.memory.peers == "" || !k.config.isAboutToMove(f, d) {
		// To say more of a node that is about to be armed would make the controller look at it again first.
		k.memory.peers = k.config.Self.Peers(ctx, matters, k.Wake)
	}
	if err := k.writeEndpoints(ctx, f, d, &status); err == nil {
		k.memory.set = d.set
		k.writeFelix(ctx, f, d, &status)
	} else if !k.tellFailure(err, &status) {
		return
	}
	k.tellFights(f.now, &status)
	k.checkTrouble(f.now, &status)
	k.tellUntracked(f.now, status)
	k.tell(f.now, status)
	k.sendEvents(ctx, f)
}

// checkTrouble says in the status that a cache does not follow any more.
func (k *Keeper) checkTrouble(now time.Time, status *Status) {
	problem, since := k.api.Trouble()
	switch {
	case problem == "":
	case now.Sub(since) < troubleAfter:
		k.agenda.Set("trouble", since.Add(troubleAfter))
	case status.Ready:
		status.Ready, status.Reason = false, "as it was left, but "+problem
	}
}

// look collects the facts from the caches.
func (k *Keeper) look(ctx context.Context) facts {
	f := facts{now: time.Now(), problem: k.api.Problem(), failsafe: k.lack}
	if f.problem != "" {
		return f
	}
	k.readLinks(f.now)
	f.interfaces, f.present, f.addresses = k.links.selected, k.links.present, k.links.addresses
	switch {
	case k.links.err != nil:
		f.lack = "cannot read the interfaces of the node: " + k.links.err.Error()
	case len(f.interfaces) == 0:
		f.lack = "no interface of the node is one of hostEndpoint.interfaces"
	}
	f.node = k.api.Node()
	if f.said, f.unsaid = k.api.Clearance(); f.unsaid != "" {
		f.said = &clearance.Clearance{}
	}
	if len(k.found) > 0 && k.agenda.Begin("found") {
		// No cache tells when these go.
		clear(k.found)
		k.agenda.Set("found", f.now.Add(foundFor))
	}
	f.early = k.isEarly(f)
	f.proof = k.prove(ctx, f)
	f.results, f.taken = k.rounds.Last()
	k.lookForLeftovers(ctx, f)
	f.endpoints = k.endpoints()
	for _, hep := range f.endpoints {
		f.both = f.both || endpoint.LeavesOf(hep) != ""
	}
	if !f.both {
		k.agenda.Done(moveWork)
		return f
	}
	k.agenda.NotAfter(moveWork, f.now.Add(moment))
	f.moves = k.agenda.Waits(moveWork)
	return f
}

// isEarly tells whether the moment at which this node is armed, of those over which many
// are spread, is still to come.
func (k *Keeper) isEarly(f facts) bool {
	if f.said.Spread == 0 || !f.said.ClearsAll(k.config.Set) {
		return false
	}
	if !k.agenda.Has(turnWork) {
		k.spread = f.said.Spread
		k.agenda.Set(turnWork, f.now.Add(rand.N(k.spread)))
	}
	return k.agenda.Waits(turnWork)
}

// lookForLeftovers finds the endpoints that other settings have left, where the controller
// has seen any: the cache holds only the one with the name of the Node.
func (k *Keeper) lookForLeftovers(ctx context.Context, f facts) {
	if !f.said.HasLeftovers(k.config.Node) || k.config.Named() || !k.agenda.Begin("leftovers") {
		return
	}
	own, err := k.api.ListOwnEndpoints(ctx)
	if err != nil {
		k.agenda.Failed("leftovers", f.now, err)
		return
	}
	k.agenda.Set("leftovers", f.now.Add(leftoversEvery))
	for _, hep := range own {
		if hep.Name != k.config.Node {
			k.found[hep.Name] = hep
		}
	}
}

// endpoints returns the endpoints of the node that matter: those of the cache, which is
// what counts, what was found beside them, and what was just written.
func (k *Keeper) endpoints() map[string]*v3.HostEndpoint {
	all := maps.Clone(k.found)
	cached, version := k.api.KnownEndpoints()
	for _, hep := range cached {
		all[hep.Name] = hep
		delete(k.found, hep.Name)
	}
	for name, hep := range k.fresh {
		// Gone from the cache is gone only when the cache is past what came back.
		if cached := all[name]; cached != nil && !clearance.Newer(hep.ResourceVersion, cached.ResourceVersion) || clearance.Newer(version, hep.ResourceVersion) {
			delete(k.fresh, name)
			continue
		}
		all[name] = hep
	}
	return all
}

// readLinks reads the node's interfaces when they may have changed.
func (k *Keeper) readLinks(now time.Time) {
	overdue := k.agenda.Begin("links")
	if !k.linksChanged.Swap(false) && k.links.read && !overdue {
		return
	}
	all, err := k.config.Links()
	k.links.err = err
	if err != nil {
		k.agenda.Failed("links", now, err)
		return
	}
	k.agenda.Done("links")
	k.lookAgain(now)
	k.agenda.Set("links", now.Add(k.config.Resync))
	selected, invalid := endpoint.Select(k.config.Patterns, all)
	k.tellOnce("interfaces left out, Calico does not take their names", invalid)
	k.links = links{selected: slices.Clip(selected), addresses: endpoint.Reached(all), read: true}
	for _, link := range all {
		k.links.present = append(k.links.present, link.Name)
	}
}

// nobody is a Meter.
type nobody struct{}

func (nobody) Passed(time.Duration) {}
func (nobody) Repaired(string)      {}
func (nobody) Contested()           {}

// errWaits tells that a write waits after a failure.
var errWaits = errors.New("held back after a failure")
