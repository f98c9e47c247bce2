package operator

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// ofNode is the API server as the keeper of one Node sees it.
type ofNode struct {
	API
	all  *Operator
	name string
}

func (n ofNode) sees() sees { return n.all.seen.Load().nodes[n.name] }

// inTurn asks when there is room for one more request.
func inTurn[T any](ctx context.Context, n ofNode, ask func() (T, error)) (answer T, err error) {
	select {
	case <-ctx.Done():
		return answer, ctx.Err()
	case n.all.slots <- struct{}{}:
	}
	defer func() { <-n.all.slots }()
	return ask()
}

// Node returns it with the addresses that an agent has told.
func (n ofNode) Node() *corev1.Node { return n.sees().node }

// Clearance returns what is said to the Node. One that has left may have a pass to the end.
func (n ofNode) Clearance() (said *clearance.Clearance, problem string) {
	now := n.all.seen.Load()
	if said = now.nodes[n.name].said; said == nil {
		problem = cmp.Or(now.unsaid, "Node "+n.name+" is not kept any more")
	}
	return said, problem
}

func (n ofNode) KnownEndpoints() (heps []*v3.HostEndpoint, version string) {
	if hep := n.sees().endpoint; hep != nil {
		heps = append(heps, hep)
	}
	return heps, n.all.seen.Load().version
}

func (n ofNode) ListOwnEndpoints(context.Context) (own []*v3.HostEndpoint, err error) {
	heps, _ := n.API.Endpoints()
	for _, hep := range heps {
		if hep.Spec.Node == n.name && endpoint.ReleaseOf(hep) == n.all.config.Keeper.Release {
			own = append(own, hep)
		}
	}
	return own, nil
}

func (n ofNode) Felix() (own, forAll *failsafe.Configuration, problem string) {
	s := n.sees()
	return s.own, s.forAll, s.unknown
}

func (n ofNode) ReadEndpoint(ctx context.Context, name string) (*v3.HostEndpoint, error) {
	return inTurn(ctx, n, func() (*v3.HostEndpoint, error) { return n.API.ReadEndpoint(ctx, name) })
}

func (n ofNode) CreateEndpoint(ctx context.Context, hep *v3.HostEndpoint) (*v3.HostEndpoint, error) {
	return inTurn(ctx, n, func() (*v3.HostEndpoint, error) { return n.API.CreateEndpoint(ctx, hep) })
}

func (n ofNode) PatchEndpoint(ctx context.Context, name string, patch []byte) (*v3.HostEndpoint, error) {
	return inTurn(ctx, n, func() (*v3.HostEndpoint, error) { return n.API.PatchEndpoint(ctx, name, patch) })
}

func (n ofNode) DeleteEndpoint(ctx context.Context, hep *v3.HostEndpoint) error {
	_, err := inTurn(ctx, n, func() (none struct{}, err error) { return none, n.API.DeleteEndpoint(ctx, hep) })
	return err
}

func (n ofNode) ReadFelix(ctx context.Context, name string) (*failsafe.Configuration, error) {
	return inTurn(ctx, n, func() (*failsafe.Configuration, error) { return n.API.ReadFelix(ctx, name) })
}

func (n ofNode) CreateFelix(ctx context.Context, configuration *failsafe.Configuration) (*failsafe.Configuration, error) {
	return inTurn(ctx, n, func() (*failsafe.Configuration, error) { return n.API.CreateFelix(ctx, configuration) })
}

func (n ofNode) PatchFelix(ctx context.Context, name string, patch []byte) (*failsafe.Configuration, error) {
	return inTurn(ctx, n, func() (*failsafe.Configuration, error) { return n.API.PatchFelix(ctx, name, patch) })
}

func (n ofNode) DeleteFelix(ctx context.Context, configuration *failsafe.Configuration) error {
	_, err := inTurn(ctx, n, func() (none struct{}, err error) { return none, n.API.DeleteFelix(ctx, configuration) })
	return err
}

func (n ofNode) CreateEvent(ctx context.Context, event *corev1.Event) error {
	event.ReportingController = "host-firewall.io/controller"
	_, err := inTurn(ctx, n, func() (none struct{}, err error) { return none, n.API.CreateEvent(ctx, event) })
	return err
}

// self is a node that nobody looks at from the inside, but for the one that this process runs on.
type self struct {
	all  *Operator
	name string
}

// Round tries what says something of any node: that the controller's host still reaches the API server
// and DNS, which may be on the node, and that the caches follow. On the own node it tries what an agent
// would. That the kubelet of another one is reached the controller tries by itself.
func (s self) Round(ctx context.Context, targets []probe.Target) []trial.Result {
	results := s.all.fromHere(ctx)
	ready := trial.Result{Probe: "the Node's condition Ready"}
	if node := (ofNode{all: s.all, name: s.name}).Node(); node == nil || !isReady(node) {
		ready.Problem = "it is not"
		return []trial.Result{ready} // it does not move, and so nothing else counts
	}
	follows := trial.Result{Probe: "what the API server tells the controller"}
	follows.Problem, _ = s.all.api.Trouble()
	if results = append(results, ready, follows); s.name == s.all.config.OwnNode {
		results = append(results, s.all.config.Try(ctx, targets)...)
	}
	return results
}

// fromHere tries what is the same for all nodes. Who asks gets a round that began after that, and
// those who wait share one: thousands of nodes may move at a time.
func (o *Operator) fromHere(ctx context.Context) []trial.Result {
	asked := time.Now()
	o.round <- struct{}{}
	defer func() { <-o.round }()
	if o.began.Before(asked) {
		// It is others' too, and ends by itself.
		o.began = time.Now()
		o.results = o.config.Try(context.WithoutCancel(ctx), o.config.Always)
	}
	return slices.Clone(o.results)
}

// Witness is not called: the clearance says that none can be seen.
func (self) Witness(context.Context, clearance.Witness) probe.Enforcement { return probe.Enforcement{} }

// Sessions returns nobody, as nobody can see who is logged in.
func (self) Sessions([]uint16) ([]netip.AddrPort, error) { return nil, nil }

// FelixReady does not know.
func (self) FelixReady(context.Context) (probe.Readiness, error) { return probe.Silent, nil }

// Peers tells nothing.
func (self) Peers(context.Context, bool, func()) string { return "" }
