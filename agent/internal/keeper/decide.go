package keeper

import (
	"fmt"
	"maps"
	"slices"
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

// shown is how many names of one kind a reason holds.
const shown = 5

// facts are what one pass knows of the world.
type facts struct {
	now     time.Time
	problem string // why the caches are not complete; then the rest is unknown
	paused  bool   // Calico does not want its datastore to be written to
	node    *corev1.Node
	// interfaces are those that want an endpoint, and lack says why not all of them
	// are known; present are the names of all that the node has.
	interfaces []endpoint.Interface
	present    []string
	lack       string
	// endpoints are those of this node that matter, whosever they are, by name.
	endpoints map[string]*v3.HostEndpoint
	policies  []*v3.GlobalNetworkPolicy
	foreign   others
	rivals    rivals
	apiServer apiServer
	peers     peers
}

// others is what is known of the policies of others.
type others struct {
	policies []*v3.GlobalNetworkPolicy
	problem  string // why they are not known
}

// memory is what a pass hands on to the next one.
type memory struct {
	// completeSince is when the policies were first seen complete without having
	// been incomplete since; zero: they are not.
	completeSince time.Time
	// armed tells that this process has seen or made an endpoint armed.
	armed bool
	// ours are the endpoints that were last seen to be the release's, by name. Once
	// there is one, what others' policies would do to it is done.
	ours map[string]types.UID
}

// decision is what one pass comes to.
type decision struct {
	state  State
	ready  bool
	reason string
	// arm tells to arm every endpoint. Otherwise those that are armed stay so,
	// unless the state is Off.
	arm bool
	// change tells that endpoints of ours may be changed, and create that those
	// that are missing may be created, or taken over.
	change, create bool
	// askRivals, askAPIServer and askPeers tell that only such an answer is missing.
	askRivals, askAPIServer, askPeers bool
	// blockers are policies of others for which the node waits, and unreadable says of
	// which of them it can't be told whom they select.
	blockers   []string
	unreadable string
	// again is when to look again without an event; zero: not before the resync.
	again time.Duration
}

// decide says what should be, from what is known and remembered.
func (c Config) decide(f facts, m memory) (decision, memory) {
	switch {
	case f.problem != "":
		return decision{state: Waiting, reason: f.problem}, m
	case f.node == nil:
		return decision{state: Waiting, reason: fmt.Sprintf("Node %s is not in the cluster", c.Node)}, m
	}
	shape := c.shape()
	taken, missing, armed := "", false, false
	ours := map[string]types.UID{}
	maps.Copy(ours, m.ours)
	for _, iface := range f.interfaces {
		switch hep := f.endpoints[endpoint.Name(c.Node, iface.Name)]; {
		case hep == nil:
			missing = true
		case c.owns(hep, m):
			ours[hep.Name] = hep.UID
			armed = armed || shape.Armed(hep)
		case c.adopts(hep):
			missing = true
		default:
			taken = fmt.Sprintf("HostEndpoint %s is %s: %s", hep.Name, endpoint.Owner(hep), remedy(hep))
		}
	}
	if len(ours) > 0 {
		m.ours = ours
	}
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

	var d decision
	switch {
	case f.paused:
		d = decision{state: Waiting, reason: "Calico's datastore is not ready (ClusterInformation default): nothing is written until it is"}
		if armed {
			d.state = Armed
		}
		return d, m
	case c.Off:
		d = decision{state: Off, ready: true, reason: "mode is off, no endpoint is armed"}
	case taken != "":
		d = decision{state: Conflict, reason: taken}
	case len(f.interfaces) == 0:
		d = decision{state: Waiting, reason: f.lack}
	case armed && !complete:
		// A firewall does not open because a rule was lost.
		d = decision{state: Armed, reason: "stays armed, but " + lack}
	case !complete:
		d = decision{state: Waiting, reason: lack}
	default:
		d = c.mayArm(f, m, missing)
	}
	d.change = true
	if missing {
		d = c.mayCreate(f, m, armed, d)
	}
	if rival := c.rival(f); rival != "" && d.state != Off && taken == "" {
		d.state, d.ready, d.reason = Conflict, false, rival
		d.askRivals, d.again = true, until(f.now, f.rivals.next)
		if m.armed {
			d.reason = "stays armed, but " + rival
		} else {
			d.arm = false
		}
	}
	if d.ready && d.state == Armed {
		d.reason = fmt.Sprintf("%d policies at revision %s", len(c.Policies), c.Revision)
		if c.Audit {
			d.reason = "mode is audit, nothing is dropped: " + d.reason
		}
		if f.lack != "" {
			d.reason, d.ready = f.lack, false
		}
		if lost := c.lost(f); lost != "" {
			d.reason, d.ready = "stays armed, but "+lost, false
			d.askAPIServer, d.again = true, until(f.now, f.apiServer.next)
		}
	}
	return d, m
}

// until returns how long it is until then. What is due already is due at once, and not
// never, which zero would be: answers may take longer than what they put off.
func until(now, then time.Time) time.Duration { return max(then.Sub(now), 1) }

// owns tells whether an endpoint is the release's: it says so, or it has lost the
// label that says so since this process knows it. That node is open, for the
// policies don't select the endpoint any more, and nobody has claimed it.
func (c Config) owns(hep *v3.HostEndpoint, m memory) bool {
	return c.shape().Owns(hep) || hep.UID != "" && hep.UID == m.ours[hep.Name] && endpoint.ReleaseOf(hep) == ""
}

// adopts tells whether an endpoint of somebody else is to be made the release's.
func (c Config) adopts(hep *v3.HostEndpoint) bool {
	return c.Adopt && endpoint.ReleaseOf(hep) == ""
}

// mayArm says whether the node may be armed, now that the policies are complete.
func (c Config) mayArm(f facts, m memory, missing bool) decision {
	if left := settle - f.now.Sub(m.completeSince); left > 0 {
		return decision{state: Waiting, reason: "policies are complete, Felix gets a moment to read them", again: left}
	}
	// The one place where a node is armed.
	armed := decision{state: Armed, ready: true, arm: true}
	switch lose := c.mayLose(f); {
	case m.armed:
		return armed
	case missing && c.AwaitNodes:
		// Others wait for these, so they come before any question.
		return decision{state: Waiting, reason: "the endpoint has to be there before it is armed"}
	case lose != "":
		return decision{state: Waiting, reason: lose, again: until(f.now, f.apiServer.next), askAPIServer: true}
	case !c.AwaitNodes:
		return armed
	}
	waiting := decision{state: Waiting, again: until(f.now, f.peers.next), askPeers: true}
	switch {
	case !f.peers.asked:
		waiting.reason = "policies are complete, asking for nodes that would be shut out"
	case f.peers.nobody():
		return armed
	case f.peers.err != nil:
		waiting.reason = "cannot tell which nodes would be shut out: " + f.peers.err.Error()
	case len(f.peers.strangers) > 0:
		waiting.reason = fmt.Sprintf("Ready nodes without an endpoint of this release would be shut out: %s. "+
			"Start an agent there, list their addresses in cluster.cidrs, or set cluster.trustNodes: false", some(f.peers.strangers))
	default:
		waiting.reason = "no node is armed yet, waiting until one of the agents has looked at all Nodes for some that would be shut out"
	}
	return waiting
}

// mayCreate adds to the decision whether endpoints that are missing may be
// created, or else what they wait for.
func (c Config) mayCreate(f facts, m memory, armed bool, d decision) decision {
	if len(m.ours) > 0 {
		// An endpoint of one interface beats the one of all interfaces there. Not
		// armed beside an armed one, it would open its interface.
		d.create = d.arm || !armed
		return d
	}
	blockers, unreadable := c.blockers(f)
	reason := ""
	d.unreadable = unreadable
	switch {
	case d.state == Conflict || c.rival(f) != "":
		// What is there may be what protects the node now.
		return d
	case f.rivals.err != nil:
		reason = "cannot tell whose endpoints the node has: " + f.rivals.err.Error()
		d.askRivals, d.again = true, until(f.now, f.rivals.next)
	case !f.rivals.asked:
		reason, d.askRivals = "asking for endpoints of others on this node", true
	case f.foreign.problem != "":
		reason = "policies of others are not known: " + f.foreign.problem
	case len(blockers) > 0:
		d.blockers = blockers
		reason = fmt.Sprintf("GlobalNetworkPolicies of others would apply to this node as soon as it has an endpoint: %s. "+
			"Change their selectors, or list them in hostEndpoint.acceptPolicies", some(blockers))
	default:
		d.create = true
		return d
	}
	if d.state != Off {
		d.state, d.ready, d.arm, d.reason = Waiting, false, false, reason
	}
	return d
}

// blockers returns the policies of others that would select an endpoint of ours,
// armed or not, and are not accepted. Those that select an endpoint that is taken
// over do so already. It says, too, which policies it can't read.
func (c Config) blockers(f facts) (blockers []string, unreadable string) {
	if f.foreign.problem != "" || len(f.interfaces) == 0 {
		return nil, ""
	}
	for _, iface := range f.interfaces {
		desired, _ := c.shape().Desired(f.node, iface, false)
		before := map[string]string{}
		already := map[string]bool{}
		if hep := f.endpoints[desired.Name]; hep != nil {
			maps.Copy(before, endpoint.LabelsOf(hep))
			names, _ := gate.Foreign(f.foreign.policies, c.Release, []map[string]string{before}, nil)
			for _, name := range names {
				already[name] = true
			}
		}
		unarmed, armed := maps.Clone(before), maps.Clone(before)
		maps.Copy(unarmed, desired.Labels)
		maps.Copy(armed, desired.Labels)
		maps.Copy(armed, c.ArmingLabels)
		names, err := gate.Foreign(f.foreign.policies, c.Release, []map[string]string{unarmed, armed}, c.AcceptPolicies)
		if err != nil {
			unreadable = err.Error()
		}
		for _, name := range names {
			if !already[name] {
				blockers = append(blockers, name)
			}
		}
		if len(before) == 0 {
			// All others have the same labels.
			break
		}
	}
	return blockers, unreadable
}

// rival says which endpoint of somebody else would win or fight; empty: none.
func (c Config) rival(f facts) string {
	for _, hep := range f.rivals.here {
		wanted := slices.ContainsFunc(f.interfaces, func(iface endpoint.Interface) bool { return endpoint.Name(c.Node, iface.Name) == hep.Name })
		if wanted || c.shape().Owns(hep) {
			// The cache tells better whose that is.
			continue
		}
		for _, iface := range f.interfaces {
			if hep.Spec.InterfaceName == iface.Name || endpoint.ReleaseOf(hep) != "" {
				return fmt.Sprintf("HostEndpoint %s of this node (interface %q) is %s: %s", hep.Name, hep.Spec.InterfaceName, endpoint.Owner(hep), remedy(hep))
			}
		}
	}
	return ""
}

// remedy says what to do about an endpoint of somebody else.
func remedy(hep *v3.HostEndpoint) string {
	if endpoint.ReleaseOf(hep) != "" {
		return "uninstall one of the two releases from this node"
	}
	return "delete it, or uninstall host-firewall from this node"
}

// some names a few and counts the rest.
func some(names []string) string {
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}
