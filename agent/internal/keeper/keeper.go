// Package keeper keeps the endpoints of one node as they should be. It is a
// level-triggered loop: any event wakes it, and each pass compares what is with
// what should be and writes only a difference.
package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/gate"
)

const (
	// stuckAfter is the longest that a pass may take. All requests of one pass
	// together time out sooner.
	stuckAfter = 3 * time.Minute

	// troubleAfter is how long a cache may be out of order before the node counts
	// as not looked after: an API server that restarts is back by then.
	troubleAfter = 30 * time.Second

	// startTakes is how long thousands of agents that start at once may take, and up to
	// as long again.
	startTakes = 2 * time.Minute
)

// API is what the keeper needs of the API server. What the methods of the first
// group return comes from caches, may be behind, and is not changed; all but
// Problem are called only when it returns an empty string.
type API interface {
	// Problem says why the caches are not complete; empty: they are.
	Problem() string
	// Trouble says what keeps a complete cache from following, and since when.
	Trouble() (problem string, since time.Time)
	// Node returns the keeper's Node, nil when there is none.
	Node() *corev1.Node
	// Endpoints returns the endpoint named as the Node, whosever it is, or where
	// Config.Named holds those that are labelled as the release's on the Node, and up
	// to which version the cache has followed.
	Endpoints() (heps []*v3.HostEndpoint, version string)
	// Policies returns the policies of the release.
	Policies() []*v3.GlobalNetworkPolicy
	// DatastoreReady tells whether Calico lets its datastore be written to.
	DatastoreReady() bool
	// Follow makes Node and DatastoreReady, which are read once, follow changes.
	Follow()
	// FollowForeign starts and ends a cache, FollowFelix starts one, that are not always
	// needed; FollowPeer starts that of the endpoint with a name, and ends any other.
	// That of FollowForeign is read once, and follows changes from when they are asked for.
	FollowForeign(on, changes bool)
	FollowFelix()
	FollowPeer(name string)
	// Foreign returns the policies that are not the release's, or why not.
	Foreign() (policies []*v3.GlobalNetworkPolicy, problem string)
	// Felix returns the FelixConfigurations of the Node and for all nodes, or why not.
	Felix() (own, forAll *failsafe.Configuration, problem string)
	// Peer returns the followed endpoint, nil when there is none or it is not known yet.
	Peer() *v3.HostEndpoint

	// Endpoints and FelixConfigurations are created, changed by a JSON merge patch, and
	// deleted in the version that is given. What is stored comes back.
	CreateEndpoint(ctx context.Context, hep *v3.HostEndpoint) (*v3.HostEndpoint, error)
	PatchEndpoint(ctx context.Context, name string, patch []byte) (*v3.HostEndpoint, error)
	DeleteEndpoint(ctx context.Context, hep *v3.HostEndpoint) error
	CreateFelix(ctx context.Context, configuration *failsafe.Configuration) (*failsafe.Configuration, error)
	PatchFelix(ctx context.Context, name string, patch []byte) (*failsafe.Configuration, error)
	DeleteFelix(ctx context.Context, configuration *failsafe.Configuration) error
	// CreateEvent creates an Event about the Node.
	CreateEvent(ctx context.Context, event *corev1.Event) error

	// ReadFelix returns the FelixConfiguration with that name, nil when there is none.
	ReadFelix(ctx context.Context, name string) (*failsafe.Configuration, error)
	// APIServer returns the addresses and TCP ports at which API servers listen.
	APIServer(ctx context.Context) (addresses []string, ports []uint16, err error)
	// AnyArmed tells whether any endpoint is the release's and has these labels too.
	AnyArmed(ctx context.Context, arming map[string]string) (bool, error)
	// CountNodes and CountEndpoints return how many there are of anybody, and the name of
	// the first Node in the API server's order; FirstEndpoint that of the release's first
	// endpoint, empty when there is none.
	CountNodes(ctx context.Context) (count int, first string, err error)
	CountEndpoints(ctx context.Context) (int, error)
	FirstEndpoint(ctx context.Context) (string, error)
	// ListNodes returns the Node with that name, ListEndpoints the endpoints of the
	// release on that Node; all of them where the name is empty.
	ListNodes(ctx context.Context, name string) ([]corev1.Node, error)
	ListEndpoints(ctx context.Context, node string) ([]v3.HostEndpoint, error)
	// ListOwnEndpoints returns those of the release on the Node.
	ListOwnEndpoints(ctx context.Context) ([]*v3.HostEndpoint, error)
	// ListForeignEndpoints returns those of others on the Node, and how many others
	// have on all Nodes.
	ListForeignEndpoints(ctx context.Context) (here []*v3.HostEndpoint, all int, err error)
}

// Config says what the keeper keeps.
type Config struct {
	Node    string
	Release string
	// Off keeps every endpoint unarmed and the failsafe as it was without us.
	Off bool
	// Audit leaves the failsafe as it was without us, too: the policies of the release
	// drop nothing, so nothing else may be closed.
	Audit bool
	// Interfaces returns the interfaces that want an endpoint and the names of all
	// that the node has. Nil: there is one endpoint for all interfaces.
	Interfaces func() (selected []endpoint.Interface, present []string, err error)
	// Untracked tells whether the node has connections whose packets Calico drops as invalid
	// once there is an endpoint. Nil: nobody asks.
	Untracked func() bool
	// Addresses returns those of all of the node's interfaces. Nil: only what its Node says
	// is known.
	Addresses    func() ([]netip.Addr, error)
	ArmingLabels map[string]string
	NodeLabels   []string
	// Adopt takes over an endpoint with the right name that is nobody's release's.
	Adopt bool
	// AcceptPolicies are names of policies of others that may apply to the node.
	AcceptPolicies []string
	// Policies and Revision are what has to be there before the node is armed.
	Policies []string
	Revision string
	// AwaitNodes delays the first arming until no Ready node would be shut out;
	// TrustedCIDRs are networks that the policies trust anyway.
	AwaitNodes   bool
	TrustedCIDRs []netip.Prefix
	// APIServerPorts are TCP ports that the policies let everybody in to. None: whether an API
	// server of the node stays open is not asked.
	APIServerPorts []uint16
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
func (c Config) Named() bool { return c.Interfaces != nil }

// narrows tells whether the failsafe is to be narrowed.
func (c Config) narrows() bool { return c.Failsafe != nil && !c.Off && !c.Audit }

func (c Config) shape() endpoint.Shape {
	return endpoint.Shape{Release: c.Release, ArmingLabels: c.ArmingLabels, NodeLabels: c.NodeLabels}
}

func (c Config) want() gate.Want {
	return gate.Want{Release: c.Release, Revision: c.Revision, Policies: c.Policies}
}

// Keeper is the loop for one node.
type Keeper struct {
	config Config
	api    API
	log    *slog.Logger
	woken  chan struct{} // holds what tells the loop to look again

	linksChanged atomic.Bool

	// Only the loop touches these.
	memory       memory
	peers        peers
	rivals       rivals
	apiServer    apiServer
	sweeping     question
	links        links
	holdEndpoint hold
	holdFelix    hold
	fights       fights
	wrote        map[string]*v3.HostEndpoint // as they should be when last looked at, by name
	fresh        map[string]*v3.HostEndpoint // as they came back and the cache has not shown yet
	created      bool                        // no endpoint was there before this process
	noteAt       time.Time                   // when a note may be written alone; zero: none waits
	narrowFrom   time.Time                   // when the failsafe may be narrowed
	calmFrom     time.Time                   // when leftovers may be looked for, and good news be told
	followFrom   time.Time                   // when a node that still waits counts as one that waits for long
	felixWrote   felixWrote
	felixClean   bool   // nothing of ours is in the failsafe, and nothing shall be
	failure      string // why endpoints are held back
	contested    string // field of the last fight
	untracked    bool   // that was told
	invalid      []string
	unreadable   string // what was last said of policies of others
	events       events
	eventsFail   bool

	mu        sync.Mutex
	status    Status
	busySince time.Time // zero between passes
}

// felixWrote is the last change of the node's FelixConfiguration: when it was made, of
// which version, and to which; empty: of none, to none.
type felixWrote struct {
	at     time.Time
	of, to string
}

// isAhead tells whether a cache that has this version has not shown the change yet.
func (w felixWrote) isAhead(version string) bool {
	return version == w.of || version != "" && w.to != "" && version != w.to && newer(w.to, version)
}

// links is what was last read of the node's interfaces.
type links struct {
	selected []endpoint.Interface
	present  []string
	err      error
	read     time.Time
}

// New returns a keeper that does nothing before Run.
func New(config Config, api API, log *slog.Logger) *Keeper {
	if config.Meter == nil {
		config.Meter = nobody{}
	}
	return &Keeper{
		config: config,
		api:    api,
		log:    log,
		woken:  make(chan struct{}, 1),
		fights: fights{},
		events: events{},
		wrote:  map[string]*v3.HostEndpoint{},
		fresh:  map[string]*v3.HostEndpoint{},
		status: Status{State: Waiting, Reason: "starting", Since: time.Now()},
	}
}

// Wake makes the loop look again. It may be called from any goroutine.
func (k *Keeper) Wake() {
	select {
	case k.woken <- struct{}{}:
	default:
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
func (k *Keeper) Run(ctx context.Context) {
	var next time.Time // when the timer rings
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-k.woken:
		case <-timer.C:
			next = time.Time{}
		}
		if ctx.Err() != nil {
			return
		}
		again := k.turn(ctx)
		if at := time.Now().Add(again); next.IsZero() || at.Before(next) {
			next = at
			timer.Reset(again)
		}
	}
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

// turn makes one pass, and returns when to make another one without an event.
func (k *Keeper) turn(ctx context.Context) time.Duration {
	start := time.Now()
	k.setBusy(start)
	defer k.setBusy(time.Time{})
	next := alarm{k.config.Resync}
	next.in(k.pass(ctx))
	k.config.Meter.Passed(time.Since(start))
	return next.next
}

// pass compares once what is with what should be, and writes the difference. It
// returns when to look again without an event.
func (k *Keeper) pass(ctx context.Context) (again time.Duration) {
	f := k.look()
	d, m := k.config.decide(f, k.memory)
	if k.ask(ctx, f, d, m) {
		// The answers may have taken long, and what was known before is old.
		f = k.look()
		d, m = k.config.decide(f, k.memory)
	}
	k.memory = m
	var alarm alarm
	alarm.in(d.again)
	status := Status{State: d.state, Ready: d.ready, Reason: d.reason, Foreign: d.blockers}
	if f.problem != "" {
		k.tell(f.now, status, nil)
		return alarm.next
	}
	k.tellUnreadable(d.unreadable)
	// Mostly what is read once is enough, for the endpoint is created at once.
	waits := f.foreign.problem == "" && (!d.create || k.holdEndpoint.failures > 0)
	k.api.FollowForeign(len(m.ours) == 0, waits)
	k.followLater(f, d, &alarm)
	if err := k.writeEndpoints(ctx, f, d, &status, &alarm); err != nil {
		if !k.failed(ctx, f, err, &status, &alarm) {
			return alarm.next
		}
	} else {
		k.memory.armed = m.armed || d.arm && status.Armed
		if !f.paused {
			k.writeFelix(ctx, f, d, &status, &alarm)
		}
	}
	if k.links.err != nil {
		alarm.in(askMost)
	}
	k.tellFights(f.now, &status, &alarm)
	if k.wantsSweep(f, d, k.memory) {
		alarm.at(f.now, k.whenCalm(k.sweeping.next))
	}
	k.checkTrouble(f.now, &status, &alarm)
	k.tellUntracked(f.now, status)
	k.tell(f.now, status, f.policies)
	k.sendEvents(ctx, f, &alarm)
	return alarm.next
}

// followLater begins to follow, or ends, what is no hurry while thousands of agents
// start: when most others are armed, or the node waits for long. A Node that has just
// come is still given its addresses.
func (k *Keeper) followLater(f facts, d decision, alarm *alarm) {
	if k.followFrom.IsZero() {
		k.followFrom = f.now.Add(wait.Jitter(startTakes, 1))
	}
	calm := k.calmFrom
	if d.state == Waiting {
		calm = k.followFrom
	}
	late := !f.now.Before(calm)
	if !late {
		alarm.at(f.now, calm)
	}
	few := k.peers.asked && k.peers.nodes < manyNodes
	if late || few || f.paused || f.node == nil || f.joins() {
		k.api.Follow()
	}
	if late || k.peers.followed != "" {
		k.api.FollowPeer(k.peers.followed)
	}
}

// ask puts the questions that the decision needs answered, and are due. It tells
// whether there is a new answer.
func (k *Keeper) ask(ctx context.Context, f facts, d decision, m memory) (asked bool) {
	if f.problem != "" || f.node == nil {
		return false
	}
	// Who else is here is asked at the start and now and then, too.
	overdue := !k.rivals.asked || k.rivals.again || f.now.Sub(k.rivals.last) >= k.config.Resync
	if (overdue || d.askRivals) && k.rivals.due(f.now) {
		k.askRivals(ctx)
		asked = true
	}
	// Others wait for the endpoint, so that comes first.
	overdue = len(m.ours) > 0 && (!k.apiServer.asked || f.now.Sub(k.apiServer.last) >= k.config.Resync)
	if k.config.guardsAPIServer() && (overdue || d.askAPIServer) && k.apiServer.due(f.now) {
		k.askAPIServer(ctx, f.node)
		asked = true
	}
	if k.wantsSweep(f, d, m) && !f.now.Before(k.whenCalm(k.sweeping.next)) {
		k.sweep(ctx)
		asked = true
	}
	switch {
	case d.askPeers && k.peers.due(f.now):
		k.askPeers(ctx, f)
		asked = true
	case !d.askPeers && (!d.arm || m.armed || f.now.Sub(k.peers.last) >= askMost):
		// What was found out counts until the node is armed, but not for long.
		k.peers = peers{}
	}
	return asked
}

// wantsSweep tells whether leftovers are to be looked for, as soon as they may be.
func (k *Keeper) wantsSweep(f facts, d decision, m memory) bool {
	return f.node != nil && !k.config.Named() && !k.rivals.swept && (m.armed || d.state == Off)
}

// whenCalm puts off what is no hurry until most others are armed.
func (k *Keeper) whenCalm(due time.Time) time.Time {
	if due.Before(k.calmFrom) {
		return k.calmFrom
	}
	return due
}

// checkTrouble says in the status that a cache does not follow any more.
func (k *Keeper) checkTrouble(now time.Time, status *Status, alarm *alarm) {
	problem, since := k.api.Trouble()
	switch {
	case problem == "":
	case now.Sub(since) < troubleAfter:
		alarm.at(now, since.Add(troubleAfter))
	case status.Ready:
		status.Ready, status.Reason = false, "as it was left, but "+problem
	}
}

// look collects the facts from the caches.
func (k *Keeper) look() facts {
	f := facts{now: time.Now(), problem: k.api.Problem(), rivals: k.rivals, apiServer: k.apiServer, peers: k.peers}
	if f.problem != "" {
		return f
	}
	k.readLinks(f.now)
	f.interfaces, f.present = k.links.selected, k.links.present
	switch {
	case k.links.err != nil:
		f.lack = "cannot read the interfaces of the node: " + k.links.err.Error()
	case len(f.interfaces) == 0:
		f.lack = "no interface of the node is one of hostEndpoint.interfaces"
	}
	f.paused = !k.api.DatastoreReady()
	f.node, f.endpoints, f.policies = k.api.Node(), k.endpoints(), k.api.Policies()
	f.foreign.policies, f.foreign.problem = k.api.Foreign()
	return f
}

// endpoints returns the endpoints of the node that matter: those of the cache,
// which is what counts, and what the last survey found beside them.
func (k *Keeper) endpoints() map[string]*v3.HostEndpoint {
	all := map[string]*v3.HostEndpoint{}
	if k.config.Named() {
		// The cache holds only what is labelled as the release's.
		for _, hep := range k.rivals.here {
			for _, iface := range k.links.selected {
				if endpoint.Name(k.config.Node, iface.Name) == hep.Name {
					all[hep.Name] = hep
				}
			}
		}
	}
	for _, hep := range k.rivals.own {
		if hep.Name != k.config.Node {
			all[hep.Name] = hep
		}
	}
	cached, version := k.api.Endpoints()
	for _, hep := range cached {
		all[hep.Name] = hep
	}
	for name, hep := range k.fresh {
		// Gone from the cache is gone only when the cache is past what came back.
		if cached := all[name]; cached != nil && !newer(hep.ResourceVersion, cached.ResourceVersion) || newer(version, hep.ResourceVersion) {
			delete(k.fresh, name)
			continue
		}
		all[name] = hep
	}
	return all
}

// newer tells whether version a is newer than b. Of versions that can't be compared
// each is taken for newer, so that the cache counts.
func newer(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX != nil || errY != nil || x > y
}

// readLinks reads the node's interfaces when they may have changed.
func (k *Keeper) readLinks(now time.Time) {
	if !k.config.Named() {
		k.links.selected = []endpoint.Interface{{Name: endpoint.AllInterfaces}}
		return
	}
	if !k.linksChanged.Swap(false) && k.links.err == nil && !k.links.read.IsZero() && now.Sub(k.links.read) < k.config.Resync {
		return
	}
	selected, present, err := k.config.Interfaces()
	k.links.read, k.links.err = now, err
	if err == nil {
		k.links.selected, k.links.present = slices.Clip(selected), present
	}
}

func (k *Keeper) setBusy(since time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busySince = since
}

// alarm is when to look again.
type alarm struct{ next time.Duration }

// in sets the alarm, unless it rings sooner anyway. Zero is never.
func (a *alarm) in(d time.Duration) {
	if d > 0 && (a.next == 0 || d < a.next) {
		a.next = d
	}
}

// at sets the alarm for a time, unless it rings sooner anyway. What is past rings at
// once, so only what still waits may be told.
func (a *alarm) at(now, then time.Time) { a.in(until(now, then)) }

// nobody is a Meter.
type nobody struct{}

func (nobody) Passed(time.Duration) {}
func (nobody) Repaired(string)      {}
func (nobody) Contested()           {}
