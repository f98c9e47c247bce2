package operator

import (
	"context"
	"net/netip"
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

// request waits until there is room for one more, and returns what makes room again.
func (n ofNode) request() (done func()) {
	n.all.slots <- struct{}{}
	return func() { <-n.all.slots }
}

// Node returns it with the addresses that an agent has told.
func (n ofNode) Node() *corev1.Node { return n.sees().node }

func (n ofNode) Clearance() (said *clearance.Clearance, problem string) {
	return n.sees().said, n.all.seen.Load().unsaid
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

func (n ofNode) ReadFelix(ctx context.Context, name string) (*failsafe.Configuration, error) {
	defer n.request()()
	return n.API.ReadFelix(ctx, name)
}

func (n ofNode) CreateEndpoint(ctx context.Context, hep *v3.HostEndpoint) (*v3.HostEndpoint, error) {
	defer n.request()()
	return n.API.CreateEndpoint(ctx, hep)
}

func (n ofNode) PatchEndpoint(ctx context.Context, name string, patch []byte) (*v3.HostEndpoint, error) {
	defer n.request()()
	return n.API.PatchEndpoint(ctx, name, patch)
}

func (n ofNode) DeleteEndpoint(ctx context.Context, hep *v3.HostEndpoint) error {
	defer n.request()()
	return n.API.DeleteEndpoint(ctx, hep)
}

func (n ofNode) CreateEvent(ctx context.Context, event *corev1.Event) error {
	defer n.request()()
	event.ReportingController = "host-firewall.io/controller"
	return n.API.CreateEvent(ctx, event)
}

// self is a node that nobody looks at from the inside.
type self struct {
	all  *Operator
	name string
}

// behind is how far a cache may be.
const behind = 100 * time.Millisecond

// Round finds the Node Ready or not, as it is said after the round has begun: that is all that a
// move can be judged by here. That its kubelet is still reached the controller tries by itself.
func (s self) Round(ctx context.Context, _ []probe.Target) []trial.Result {
	select {
	case <-ctx.Done():
	case <-time.After(behind):
	}
	result := trial.Result{Probe: "the Node's condition Ready"}
	if node := (ofNode{all: s.all, name: s.name}).Node(); node == nil || !isReady(node) {
		result.Problem = "it is not"
	}
	return []trial.Result{result}
}

// Witness is not called: the clearance says that none can be seen.
func (self) Witness(context.Context, clearance.Witness) probe.Enforcement { return probe.Enforcement{} }

// Sessions returns nobody, as nobody can see who is logged in.
func (self) Sessions([]uint16) ([]netip.AddrPort, error) { return nil, nil }

// FelixReady does not know.
func (self) FelixReady(context.Context) (probe.Readiness, error) { return probe.Silent, nil }

// Peers tells nothing.
func (self) Peers(context.Context, bool, func()) string { return "" }
