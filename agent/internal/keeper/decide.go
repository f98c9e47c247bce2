package keeper

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/proof"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// facts are what one pass knows of the world.
type facts struct {
	now     time.Time
	problem string // why the caches are not complete; then the rest is unknown
	node    *corev1.Node
	// said is what the controller says: nothing where that is not known, for the reason in unsaid.
	said   *clearance.Clearance
	unsaid string
	// proof and results are what was seen of the node itself, these in a round that began when
	// taken says.
	proof   proof.Proof
	results []trial.Result
	taken   time.Time
	// both tells that endpoints carry two sets, and moves that they have to, still.
	both, moves bool
	// early tells that many nodes are armed, and that this one's moment is still to come.
	early bool
	// interfaces are those that want an endpoint, and lack says why not all of them
	// are known; present are the names of all that the node has, and addresses those by
	// which it may come to others.
	interfaces []endpoint.Interface
	present    []string
	addresses  []netip.Addr
	lack       string
	// failsafe is why that was not as it should be in the pass before; empty: it was.
	failsafe string
	// endpoints are those of this node that matter, whosever they are, by name.
	endpoints map[string]*v3.HostEndpoint
}

// memory is what a pass hands on to the next one.
type memory struct {
	// set is what the endpoints were last armed with, as far as this process has seen; empty:
	// they were not.
	set string
	// trial is how far it is; nil: as the endpoints say.
	trial *trial.Status
	// node is the UID of the Node that all of this is about.
	node types.UID
	// ours are the endpoints that were last seen to be the release's, by name: one that was
	// there before may come back at once.
	ours  map[string]types.UID
	peers string // what is told of who is connected
}

// decision is what one pass comes to.
type decision struct {
	state  State
	ready  bool
	reason string
	// set is what the endpoints are to be armed with; empty: not at all.
	set string
	// change tells that endpoints of ours may be changed, create that those that are missing
	// may be created or taken over, and remove that all of ours are to go.
	change, create, remove bool
	// trial is how far it is; nil: as it was. probe tells that a round of probes is wanted, and again when to
	// decide again without an event; zero: never.
	trial *trial.Status
	probe bool
	again time.Time
	// urgent tells that the controller has to see at once what this agent waits for.
	urgent bool
}

// decide says what should be, from what is known and remembered.
func (c Config) decide(f facts, m memory) (decision, memory) {
	switch {
	case f.problem != "":
		return decision{state: Waiting, reason: f.problem, set: m.set}, m
	case f.node == nil:
		return decision{state: Waiting, reason: fmt.Sprintf("Node %s is not in the cluster", c.Node), set: m.set}, m
	}
	if m.node != "" && m.node != f.node.UID {
		// It was registered anew, and nobody has looked at this one yet.
		m = memory{ours: map[string]types.UID{}}
	}
	m.node = f.node.UID
	s := c.sort(f, &m)
	if s.version == "" && f.said.Drift[s.carried] != "" {
		// An endpoint that comes back closes the node anew, and not with rules that lack some.
		s.carried = ""
	}
	switch {
	case f.said.Opened || f.said.Closed:
		// What comes after that is looked at anew.
		m.trial = nil
		return c.open(f), m
	case f.said.Paused:
		d := decision{state: Waiting, reason: "Calico's datastore is not ready (ClusterInformation default): nothing is written until it is", set: s.carried}
		if s.carried == c.Set {
			d.state = Armed
		}
		return d, m
	case s.taken != "":
		return decision{state: Conflict, reason: s.taken, set: s.carried, change: true}, m
	case len(f.interfaces) == 0:
		return decision{state: Waiting, reason: f.lack, set: s.carried, change: true}, m
	}
	d := c.arm(f, m, s)
	d.change = true
	if s.missing {
		d = c.mayCreate(f, m, d)
	}
	switch {
	case d.ready && f.lack != "":
		d.ready, d.reason = false, f.lack
	case d.ready && f.failsafe != "":
		// The endpoints are ready: whether the node is, is seen anew in this pass.
		d.reason = f.failsafe
	}
	return d, m
}

// sorted is what the endpoints of the node come to.
type sorted struct {
	taken   string // why one that is wanted is somebody else's
	missing bool
	carried string       // the set that ours are armed with, or were before they went
	version string       // of the newest of ours
	trial   trial.Status // as ours tell it
}

// sort looks through the endpoints, and remembers which are ours.
func (c Config) sort(f facts, m *memory) (s sorted) {
	ours := map[string]types.UID{}
	maps.Copy(ours, m.ours)
	var trials []string
	for _, iface := range f.interfaces {
		switch hep := f.endpoints[endpoint.Name(c.Node, iface.Name)]; {
		case hep == nil:
			s.missing = true
		case c.owns(hep, *m):
			ours[hep.Name] = hep.UID
			if set := endpoint.SetOf(hep); s.carried == "" || set == c.Set {
				s.carried = set
			}
			trials = append(trials, endpoint.AnnotationsOf(hep)[trial.Annotation])
			if s.version == "" || clearance.Newer(hep.ResourceVersion, s.version) {
				s.version = hep.ResourceVersion
			}
		case c.adopts(hep):
			s.missing = true
		default:
			s.taken = fmt.Sprintf("HostEndpoint %s is %s: %s", hep.Name, endpoint.Owner(hep), remedy(hep))
		}
	}
	m.ours, s.trial = ours, trial.Parse(trials...)
	for _, hep := range f.endpoints {
		// One that has to go covers what is to come until that is there.
		if s.carried == "" && c.shape().Owns(hep) && hep.Spec.Node == c.Node {
			s.carried = endpoint.SetOf(hep)
		}
	}
	if m.set != "" && s.carried != c.Set {
		// It was deleted, or its label changed, behind our back.
		s.carried = m.set
	}
	return s
}

// open is what becomes of the node when a person, or the uninstall, says so.
func (c Config) open(f facts) decision {
	// Also where Calico's datastore is not to be written to: whoever says so may be gone.
	d := decision{state: Waiting, change: true, remove: true}
	switch {
	case f.said.Closed:
		d.reason = "the release is being uninstalled"
	case f.said.Open == "":
		d.reason = "opened by the annotation " + clearance.OpenAnnotation + " on ConfigMap " + c.Release
	default:
		d.reason = fmt.Sprintf("opened by the annotation %s on ConfigMap %s: %s", clearance.OpenAnnotation, c.Release, f.said.Open)
	}
	return d
}

// arm says which set the endpoints are to carry, and how the node is then.
func (c Config) arm(f facts, m memory, s sorted) decision {
	if c.Off {
		return decision{state: Off, ready: true, reason: "mode is off, no endpoint is armed"}
	}
	blocked := c.blocked(f, s)
	if s.carried != "" && f.said.IsGone(s.carried) {
		// Nothing is enforced any more. What comes back is armed when it is complete.
		blocked, s.carried = fmt.Sprintf("no policy of set %s is left in the cluster", s.carried), ""
	}
	hold, conflict := f.said.Hold(c.Node)
	in := trial.Input{Now: f.now, Set: c.Set, Carried: s.carried, Blocked: blocked, Results: f.results, Taken: f.taken, Moves: f.both, Unseen: f.proof.Stays, Verify: c.Verify && !c.Audit,
		Held: cmp.Or(hold, f.said.Drift[c.Set]), Cut: f.said.CutOff(c.Node), Retry: f.said.Retry}
	if f.said.Wanted.Revision == c.Set {
		in.Deadline, in.Confirmed = f.said.Deadline, f.said.Confirmed == c.Set
	}
	t := trial.Decide(*cmp.Or(m.trial, &s.trial), in)
	d := decision{state: Waiting, reason: t.Reason, set: t.Carry, trial: &t.Status, probe: t.Probe, again: t.When}
	switch phase := t.Status.Phase; {
	case t.Status.Set == c.Set && phase == trial.Armed && t.Carry == c.Set:
		return c.stillArmed(f, d)
	case t.Status.Set == c.Set && phase == trial.Trying:
		d.state = Trying
	case t.Status.Set == c.Set && phase == trial.RolledBack:
		d.state = RolledBack
		if f.said.IsGone(d.set) {
			d.set = ""
		}
	default:
		// A controller that could clear this node is told at once that it waits.
		d.urgent = f.said.Wanted.Revision == c.Set
		if conflict {
			d.state = Conflict
		}
		if d.set != "" && d.set != c.Set {
			d.reason = fmt.Sprintf("stays armed with set %s, not with %s: %s", d.set, c.Set, d.reason)
		}
	}
	return d
}

// blocked says why the node may not move to the agent's set now; empty: it may.
func (c Config) blocked(f facts, s sorted) (why string) {
	switch {
	case f.unsaid != "":
		return f.unsaid
	case s.missing && s.version == "" && s.carried == "":
		// The controller sees it before it is armed.
		return "the endpoint has to be there before it is armed"
	}
	switch cut := f.said.CutOff(c.Node); {
	case cut != "":
		why = "the controller has not said yet that it reaches the node again: " + cut
	case f.early:
		why = "armed in a moment, as many others are"
	}
	return cmp.Or(f.said.MayArm(c.Node, c.Set, s.version), c.judged(f), why, f.proof.Lack)
}

// isAboutToMove tells whether nothing keeps the node from its set, but perhaps that the controller
// has to look at the endpoint as it is now.
func (c Config) isAboutToMove(f facts, d decision) bool {
	return d.set != c.Set && f.proof.Lack == "" && !f.early && f.said.Rollout == c.Rollout && f.said.MayArm(c.Node, c.Set, "") == ""
}

// judged says why the clearance is not known, not about this agent's values, or not about its
// Node yet; empty: it is about both.
func (c Config) judged(f facts) string {
	switch {
	case f.unsaid != "":
		return f.unsaid
	case f.said.Rollout != c.Rollout:
		return "controller and agent were rolled out with other values; one of them is about to be replaced"
	}
	return f.said.MayCreate(c.Node, f.node.CreationTimestamp.Time)
}

// stillArmed is an armed node, with what was seen since. A firewall does not open because
// something is wrong with it.
func (c Config) stillArmed(f facts, d decision) decision {
	wrong := f.proof.Lost
	d.state, d.reason = Armed, "armed with policy set "+c.Set
	switch hold, conflict := f.said.Hold(c.Node); {
	case hold != "" && f.said.Rollout == c.Rollout:
		// What new values hold against the node is for the agent that comes with them: if old
		// agents were not ready for it, all would be replaced at once.
		if wrong = hold; conflict {
			d.state = Conflict
		}
	case wrong == "":
		wrong = f.said.Drift[c.Set]
	}
	switch d.ready = wrong == ""; {
	case !d.ready:
		d.reason = "stays armed, but " + wrong
	case c.Audit:
		d.reason = "mode is audit, nothing is dropped: " + d.reason
	}
	return d
}

// mayCreate adds to the decision whether endpoints that are missing may be
// created, or else what they wait for.
func (c Config) mayCreate(f facts, m memory, d decision) decision {
	why := c.judged(f)
	// Where an endpoint of ours was here already, what is there has been looked at.
	if d.create = len(m.ours) > 0 || why == ""; d.create || d.state == Off {
		return d
	}
	d.state, d.ready, d.reason = Waiting, false, why
	if _, conflict := f.said.Hold(c.Node); conflict {
		d.state = Conflict
	}
	return d
}

// owns tells whether an endpoint is the release's: it says so, or it has lost the
// label that says so since an agent wrote to it, as this process or the agent's note
// remembers. That node is open, for the policies don't select the endpoint any more, and
// nobody has claimed it.
func (c Config) owns(hep *v3.HostEndpoint, m memory) bool {
	lost := endpoint.NoteOf(hep).Wanted != "" || hep.UID != "" && hep.UID == m.ours[hep.Name]
	return c.shape().Owns(hep) || lost && endpoint.ReleaseOf(hep) == ""
}

// adopts tells whether an endpoint of somebody else is to be made the release's.
func (c Config) adopts(hep *v3.HostEndpoint) bool {
	return c.Adopt && endpoint.ReleaseOf(hep) == ""
}

// remedy says what to do about an endpoint of somebody else.
func remedy(hep *v3.HostEndpoint) string {
	if endpoint.ReleaseOf(hep) != "" {
		return "uninstall one of the two releases from this node"
	}
	return "delete it, or uninstall host-firewall from this node"
}
