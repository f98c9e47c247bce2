// Package operator keeps the endpoints and the failsafes of all nodes where no agents run: in the
// process of the controller, by one keeper for each Node. What becomes of a node is decided as an
// agent would decide it. But nobody is on the node who could see a packet there.
package operator

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/loop"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	// Unseen is why no node is known to enforce what it is armed with.
	Unseen = "no agent on this node"
	// quiet is how long a pass waits for more that has changed.
	quiet = 20 * time.Millisecond
	// atOnce is how many requests of keepers are made at a time.
	atOnce = 64
)

// API is what the operator needs of the API server: what each keeper does, and the caches of
// all nodes, whose objects are not changed.
type API interface {
	keeper.API
	Nodes() []*corev1.Node
	// Endpoints returns everybody's, and up to which version they are followed.
	Endpoints() (heps []*v3.HostEndpoint, version string)
	// Failsafes returns all FelixConfigurations once FollowFelix was called, or why they are
	// not known.
	Failsafes() (all []*failsafe.Configuration, problem string)
}

// Config says what the operator keeps.
type Config struct {
	// Keeper is what each agent would be told, but for the name of its Node.
	Keeper keeper.Config
	// Nodes selects those that are kept. A node that is not selected any more stays as it is.
	Nodes labels.Selector
	// MaxUnavailable is how many nodes may be on their way from one set to the other at a time, as a
	// DaemonSet has it for its agents.
	MaxUnavailable intstr.IntOrString
	// OwnNode is the Node that this process runs on.
	OwnNode string
	// Always is what is tried from there for each node that moves, and Try tries.
	Always []probe.Target
	Try    func(ctx context.Context, targets []probe.Target) []trial.Result
}

// Operator is a keeper for each Node.
type Operator struct {
	// Loop is alive as long as the caches are looked at. The passes of keepers don't count: where the API
	// server is slow they wait for each other, to be killed would make nothing faster, and each
	// request ends by itself.
	*loop.Loop
	config Config
	api    API
	log    *slog.Logger
	seen   atomic.Pointer[view]
	slots  chan struct{} // each holds one for a request

	round   chan struct{} // who has put one in tries what is the same for all, and has the next two
	began   time.Time
	results []trial.Result

	mu      sync.Mutex
	kept    map[string]*kept // by Node
	running sync.WaitGroup
}

// kept is a Node that is looked after.
type kept struct {
	*keeper.Keeper
	end context.CancelFunc
	// told are the addresses that an agent once found on the node. Nobody looks there any more, and to
	// take them away would shut the node out where it comes by them.
	told []corev1.NodeAddress
	sees sees // when it was last woken
}

// New returns an operator that does nothing before Run.
func New(config Config, api API, log *slog.Logger) *Operator {
	config.Keeper.Links = func() ([]endpoint.Link, error) { return nil, nil }
	config.Keeper.Untracked = nil
	return &Operator{Loop: loop.New(), config: config, api: api, log: log, slots: make(chan struct{}, atOnce), round: make(chan struct{}, 1), kept: map[string]*kept{}}
}

// Run keeps all nodes until the context ends, and leaves them as they are.
func (o *Operator) Run(ctx context.Context) {
	o.Loop.Run(ctx, func() time.Duration { return quiet }, func(ctx context.Context) time.Duration {
		o.pass(ctx)
		return o.config.Keeper.Resync
	})
	o.running.Wait()
}

// pass looks at the caches, and wakes the keepers that see something else there.
func (o *Operator) pass(ctx context.Context) {
	if o.api.Problem() != "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.look()
	o.seen.Store(now)
	for name, k := range o.kept {
		if _, there := now.nodes[name]; !there {
			k.end()
			delete(o.kept, name)
		}
	}
	for name, sees := range now.nodes {
		k := o.kept[name]
		if k.Keeper == nil {
			o.start(ctx, name, k)
		} else if k.sees != sees {
			k.Wake()
		}
		k.sees = sees
	}
}

// start begins to keep a Node.
func (o *Operator) start(ctx context.Context, name string, k *kept) {
	config := o.config.Keeper
	config.Node, config.Self = name, self{o, name}
	ctx, k.end = context.WithCancel(ctx)
	k.Keeper = keeper.New(config, ofNode{o.api, o, name}, o.log.With("node", name))
	o.running.Go(func() { k.Run(ctx) })
}

// Lack says which nodes are not as the settings ask for, and of one of them why; empty: all are.
func (o *Operator) Lack() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var lack []string
	for _, name := range slices.Sorted(maps.Keys(o.kept)) {
		if !o.kept[name].Status().Ready {
			lack = append(lack, name)
		}
	}
	if len(lack) == 0 {
		return ""
	}
	first := o.kept[lack[0]].Status()
	return fmt.Sprintf("not as the values ask for: %s. Node %s is %s: %s", event.Some(lack), lack[0], first.State, first.Reason)
}

// view is the cluster as a pass has seen it.
type view struct {
	version string // up to which endpoints are followed
	unsaid  string // why the clearance is not known
	from    *clearance.Clearance
	said    *clearance.Clearance // what is said to nodes that have their turn, and those that wait for it
	waits   *clearance.Clearance
	nodes   map[string]sees
}

// sees is what the keeper of a Node sees.
type sees struct {
	object, node *corev1.Node // as it is in the cache, and with what agents have told
	endpoint     *v3.HostEndpoint
	place        place // what that says
	said         *clearance.Clearance
	own, forAll  *failsafe.Configuration
	unknown      string // why these two are not known
	trouble      string
}

// look reads the caches. Where nothing has changed it returns the same pointers again.
func (o *Operator) look() *view {
	before := cmp.Or(o.seen.Load(), &view{})
	now := &view{nodes: map[string]sees{}}
	named := map[string]*v3.HostEndpoint{}
	var heps []*v3.HostEndpoint
	heps, now.version = o.api.Endpoints()
	for _, hep := range heps {
		named[hep.Name] = hep
	}
	configurations, unknown := o.api.Failsafes()
	felix := map[string]*failsafe.Configuration{}
	for _, configuration := range configurations {
		felix[configuration.Name] = configuration
	}
	trouble, _ := o.api.Trouble()
	for _, node := range o.api.Nodes() {
		if !o.config.Nodes.Matches(labels.Set(node.Labels)) {
			continue
		}
		s := sees{object: node, endpoint: named[node.Name], own: felix[failsafe.Name(node.Name)], forAll: felix[failsafe.ForAll], unknown: unknown, trouble: trouble}
		was := before.nodes[node.Name]
		k := o.kept[node.Name]
		if k == nil || was.object != nil && was.object.UID != node.UID {
			if k != nil {
				k.end()
			}
			k = &kept{told: o.toldOf(node, s.endpoint)}
			o.kept[node.Name] = k
		}
		if s.place = was.place; s.endpoint != was.endpoint {
			s.place = o.placeOf(s.endpoint)
		}
		switch s.node = node; {
		case was.object == node:
			s.node = was.node
		case len(k.told) > 0:
			s.node = node.DeepCopy()
			s.node.Status.Addresses = append(s.node.Status.Addresses, k.told...)
		}
		now.nodes[node.Name] = s
	}
	o.say(before, now)
	return now
}

// toldOf returns the addresses that an endpoint of the Node has and the Node does not say.
func (o *Operator) toldOf(node *corev1.Node, hep *v3.HostEndpoint) (told []corev1.NodeAddress) {
	owner := endpoint.NodeOwner(node.Name, node.UID)
	if hep == nil || endpoint.ReleaseOf(hep) != o.config.Keeper.Release || !slices.Contains(hep.OwnerReferences, owner) {
		return nil
	}
	says := endpoint.Says(node)
	for _, address := range hep.Spec.ExpectedIPs {
		if !slices.Contains(says, address) {
			told = append(told, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: address})
		}
	}
	return told
}

// say tells each node what the controller says, and those whose turn it is not that another one
// goes first.
func (o *Operator) say(before, now *view) {
	if now.from, now.unsaid = o.api.Clearance(); now.from == nil {
		return
	}
	if now.said = before.said; now.from != before.from {
		said := *now.from
		said.Unproven = cmp.Or(said.Unproven, Unseen)
		now.said = &said
	}
	ahead, wait := o.wave(now)
	if now.waits = before.waits; now.said != before.said || before.waits == nil || before.waits.Canary != ahead {
		waits := *now.said
		waits.Canary = ahead
		now.waits = &waits
	}
	for name, s := range now.nodes {
		if s.said = now.said; wait[name] {
			s.said = now.waits
		}
		now.nodes[name] = s
	}
}
