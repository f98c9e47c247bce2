package keeper

import (
	"fmt"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/gate"
)

// settle is how long the policies have to be complete before an endpoint is
// armed. Felix reads policies and endpoints by separate watches and has to know
// the policies first, or for a moment it enforces half of them.
const settle = time.Second

// shownPeers is how many nodes a reason names.
const shownPeers = 5

// facts are what one pass knows of the world.
type facts struct {
	now      time.Time
	problem  string // why the caches are not complete; then the rest is unknown
	node     *corev1.Node
	endpoint *v3.HostEndpoint
	policies []*v3.GlobalNetworkPolicy
	peers    peers
}

// peers is the last answer to the question whom an armed endpoint would shut out.
type peers struct {
	asked     bool
	strangers []string // names of nodes
	err       error    // why there is no answer
	next      time.Time
}

// memory is what a pass hands on to the next one.
type memory struct {
	// completeSince is when the policies were first seen complete without having
	// been incomplete since; zero: they are not.
	completeSince time.Time
	// armed tells that this process has seen or made the endpoint armed.
	armed bool
	// endpoint is the one that was last seen to be the release's; empty: none.
	endpoint types.UID
}

// decision is what one pass comes to.
type decision struct {
	state  State
	ready  bool
	reason string
	// desired is the endpoint that should be; nil: write nothing.
	desired *v3.HostEndpoint
	// invalid are addresses of the Node that the endpoint leaves out.
	invalid []string
	// again is when to look again without an event; zero: not before the resync.
	again time.Duration
	// askPeers tells that only the answer about the peers is missing.
	askPeers bool
}

// decide says what should be, from what is known and remembered.
func (c Config) decide(f facts, m memory) (decision, memory) {
	switch {
	case f.problem != "":
		return decision{state: Waiting, reason: f.problem}, m
	case f.node == nil:
		return decision{state: Waiting, reason: fmt.Sprintf("Node %s is not in the cluster", c.Node)}, m
	case f.endpoint != nil && !c.owns(f.endpoint, m):
		return decision{state: Conflict, reason: fmt.Sprintf("HostEndpoint %s is %s: delete it, or uninstall host-firewall from this node",
			f.endpoint.Name, endpoint.Owner(f.endpoint))}, m
	}

	m.endpoint = ""
	if f.endpoint != nil {
		m.endpoint = f.endpoint.UID
	}
	armed := f.endpoint != nil && c.shape().Owns(f.endpoint) && c.shape().Armed(f.endpoint)
	m.armed = m.armed || armed
	complete, lack := gate.Check(c.want(), f.policies)
	switch {
	case !complete:
		m.completeSince = time.Time{}
	case m.completeSince.IsZero() && armed:
		// Felix enforces them already.
		m.completeSince = f.now.Add(-settle)
	case m.completeSince.IsZero():
		m.completeSince = f.now
	}

	d := decision{state: Armed}
	switch {
	case armed && !complete:
		// A firewall does not open because a rule was lost.
		d.reason = "stays armed, but " + lack
	case !complete:
		d.state, d.reason = Waiting, lack
	case armed:
		d.ready = true
	default:
		d = c.mayArm(f, m)
	}
	if d.ready {
		d.reason = fmt.Sprintf("%d policies at revision %s", len(c.Policies), c.Revision)
	}
	// The one place where an endpoint is armed.
	d.desired, d.invalid = c.shape().Desired(f.node, d.state == Armed)
	return d, m
}

// owns tells whether an endpoint is the release's: it says so, or it has lost the
// label that says so since this process knows it. That node is open, for the
// policies don't select the endpoint any more, and nobody has claimed it.
func (c Config) owns(hep *v3.HostEndpoint, m memory) bool {
	return c.shape().Owns(hep) || hep.UID == m.endpoint && hep.UID != "" && endpoint.Unclaimed(hep)
}

// mayArm says whether an endpoint that is not armed may be, now that the
// policies are complete.
func (c Config) mayArm(f facts, m memory) decision {
	if left := settle - f.now.Sub(m.completeSince); left > 0 {
		return decision{state: Waiting, reason: "policies are complete, Felix gets a moment to read them", again: left}
	}
	if m.armed || !c.AwaitNodes {
		return decision{state: Armed, ready: true}
	}
	waiting := decision{state: Waiting, again: max(f.peers.next.Sub(f.now), 0)}
	switch {
	case f.endpoint == nil:
		// Others wait for this one, so it comes before any question.
		waiting.reason = "the endpoint has to be there before it is armed"
	case !f.peers.asked:
		waiting.reason, waiting.askPeers = "policies are complete, asking for nodes that would be shut out", true
	case f.peers.err != nil:
		waiting.reason, waiting.askPeers = "cannot tell which nodes would be shut out: "+f.peers.err.Error(), true
	case len(f.peers.strangers) > 0:
		waiting.reason, waiting.askPeers = strangersReason(f.peers.strangers), true
	default:
		return decision{state: Armed, ready: true}
	}
	return waiting
}

// strangersReason names nodes that would be shut out, and the ways to go on.
func strangersReason(names []string) string {
	shown, more := names, ""
	if len(names) > shownPeers {
		shown, more = names[:shownPeers], fmt.Sprintf(" and %d more", len(names)-shownPeers)
	}
	return fmt.Sprintf("Ready nodes without an endpoint of this release would be shut out: %s%s. "+
		"Start an agent there, list their addresses in cluster.cidrs, or set cluster.trustNodes: false",
		strings.Join(shown, ", "), more)
}
