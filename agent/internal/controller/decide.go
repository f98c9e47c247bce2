package controller

import (
	"fmt"
	"maps"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

const (
	// settle is how long a set has to be complete before it is cleared. Felix reads
	// policies and endpoints by separate watches and has to know the policies first, or for
	// a moment it enforces half of them.
	settle = time.Second
	// clocksDiffer is by how much those of two nodes may. What is further ahead nobody's clock
	// has written.
	clocksDiffer = time.Minute
	// knownFor is how long a Node is known before it counts as looked after. The time of
	// its creation is in seconds: others of the same second are known by then.
	knownFor = 2 * time.Second
	// marksEvery is the least time between two changes of the marks alone, and longer the
	// longer agents take anyway: each wakes every agent.
	marksEvery = time.Second
	marksTimes = 5
	// armedPerSecond is how many nodes are armed together where many wait for it.
	armedPerSecond = 200
	// mostReasons is how many reasons of one kind a ConfigMap holds: its size has a limit.
	mostReasons = 500
)

// mended says what to do about policies that are not as they were rendered: Helm 3 sends what
// differs between two renderings only.
const mended = " (helm upgrade makes those that are missing; change others back, delete them before, or have Helm 4 write them with --server-side=true --force-conflicts)"

// facts are what one pass knows of the world. Nothing in them is changed.
type facts struct {
	now        time.Time
	nodes      []*corev1.Node
	endpoints  []*v3.HostEndpoint // everybody's
	version    string             // up to which they are followed
	policies   []*policyset.Policy
	trusted    []*v3.GlobalNetworkSet
	paused     bool
	felix      *failsafe.Configuration // for all nodes
	configMap  *corev1.ConfigMap
	apiServers apiServers
	around     around
	calico     string            // its version
	failures   map[string]string // of writes, by their subjects
	answers    []answer          // of kubelets, that have come since the last pass
}

// memory is what a pass hands on to the next one.
type memory struct {
	looked  bool      // a pass was made
	opening bool      // an uninstall that is over has left the clearance closed
	closed  bool      // an uninstall has begun, and may have removed the clearance by now
	started time.Time // later than any controller before
	nodes   map[string]*node
	// policies are the versions of all, as last looked at; unreadable says which of others'
	// can't be read.
	policies   map[types.UID]string
	unreadable string
	// late are Nodes whose addresses are not trusted as they should be: see keepTrust.
	late map[string]lag
	// completeSince is since when the wanted set is complete; zero: it is not. cleared tells
	// that nothing has forbidden to arm nodes with it at least once.
	completeSince time.Time
	cleared       bool
	lacked        bool // the set was seen incomplete
	// canary goes first, since then. verified tells that a node is armed with the wanted set
	// and well, carriedSince when each that is armed with it was first seen so.
	canary       string
	canarySince  time.Time
	carriedSince map[string]time.Time
	verified     bool
	kubelets     map[string]*kubelet  // by node: see reach
	unusedSince  map[string]time.Time // by set
	marked       time.Time            // when the marks were last changed
	toldCuts     time.Time            // when it was last told who would be cut, and advice
	watched      map[string]*watched  // by node
	judge        *judge               // nil: nobody can be judged
	refused      map[string][]string  // addresses that are not trusted, by node
}

// decision is what one pass comes to.
type decision struct {
	status  Status
	writes  []write
	dials   []dial
	notices []notice
	again   time.Time // when to look again without an event; zero: not before the resync
}

// at makes the loop look again then, unless it does so sooner.
func (d *decision) at(then time.Time) {
	if d.again.IsZero() || then.Before(d.again) {
		d.again = then
	}
}

// decide says what should be, from what is known and remembered.
func (c Config) decide(f facts, m *memory) (d decision) {
	was := m.remember(c, f)
	m.hear(f.answers)
	if d.status = c.standsBack(f, m, was); d.status.State != "" {
		return d
	}
	c.lookAtNodes(f, m)
	carried, present := c.carried(f), policyset.Present(c.Release, f.policies)
	now := c.sets(f, m, was, carried, present)
	if m.unreadable != "" {
		d.notices = append(d.notices, notice{kind: eventUnreadable, message: m.unreadable})
	}
	c.keepDeadline(m, was, &now)
	others := c.others(m, now, carried)
	c.keepTrust(f, m, len(others) > 0, &d)
	c.lookAtPeers(f, m, was, present, &d)
	now.Held, now.Conflicts = c.held(f, m, &d)
	c.tellCuts(f, m, &now, &d)
	c.removeUnused(f, m, now, present, others, &d)
	now.Reason = c.mayNotArm(f, m, carried[c.Wanted.Revision] > 0, &d)
	c.keepWitnesses(f, m, carried, present, &now, &d)
	if f.paused {
		d.writes = nil
	}
	m.cleared = m.cleared || now.Reason == ""
	if now.Reason == "" && !c.Off {
		now.Canary, now.Reason = c.wave(f, m, was, now, &d)
	}
	if was.Opened {
		now.Reason, now.Canary = "all nodes are open until the annotation "+clearance.OpenAnnotation+" goes", ""
	}
	c.setDeadline(f, &now, carried[c.Wanted.Revision] > 0)
	c.reach(f, m, was, &now, &d)
	now.Leftovers = c.leftovers(m)
	c.mark(f, m, was, &now, &d)
	c.publish(f, m, was, now, &d)
	c.conclude(was, now, &d)
	c.noticeCuts(m, &d)
	d.status.Untrusted, d.status.Sets = len(m.late), len(present)
	d.status.count(m.nodes)
	return d
}

// standsBack says why this controller writes nothing at all; without a State: it does.
func (c Config) standsBack(f facts, m *memory, was clearance.Clearance) Status {
	another := was.Wanted.Revision != c.Wanted.Revision || was.Rollout != c.Rollout
	newer := was.Controller.After(m.started) && was.Controller.Before(f.now.Add(clocksDiffer))
	switch {
	case m.closed:
		return Status{State: Closed, Reason: fmt.Sprintf("the release is being uninstalled, as %s says or has said: nothing is written any more. "+
			"If it is not, write kubectl -n %s rollout restart deployment %s-controller", c.subject(), c.Namespace, c.Release)}
	case was.Wanted.Revision != "" && another && newer:
		return Status{State: Yielding, Reason: fmt.Sprintf("a newer controller looks after set %s (%s): this one, of set %s, writes nothing", was.Wanted.Revision, c.subject(), c.Wanted.Revision)}
	case f.configMap != nil && len(f.configMap.Data) > 0 && was.Wanted.Revision == "" && f.configMap.Labels[endpoint.ReleaseLabel] != c.Release && !m.opening:
		return Status{State: Waiting, Reason: c.subject() + " is there already and somebody else's: delete it, or install under another name"}
	}
	return Status{}
}

// remember reads the clearance as it is, and at first what a controller before has left.
func (m *memory) remember(c Config, f facts) (was clearance.Clearance) {
	if f.configMap != nil {
		// Where somebody has written nonsense into it, that is written over.
		was, _ = clearance.Parse(f.configMap.Data, f.configMap.Annotations)
	}
	if !m.looked {
		*m = memory{looked: true, opening: was.Closed, started: c.Started, carriedSince: map[string]time.Time{}, unusedSince: map[string]time.Time{}}
		if !was.Controller.Before(m.started) {
			// Clocks of nodes differ, but whoever comes later is newer.
			m.started = was.Controller.Add(1)
		}
		again := was.Wanted.Revision == c.Wanted.Revision
		if m.cleared = again && !was.Cleared.IsZero(); again && was.Reason == "" {
			m.cleared, m.canary, m.canarySince, m.verified = true, was.Canary, f.now, was.Canary == ""
		}
	}
	if m.opening = m.opening && was.Closed; m.opening {
		return clearance.Clearance{Open: was.Open, Opened: was.Opened}
	}
	m.closed = m.closed || was.Closed
	return was
}

// leftovers are the Nodes with endpoints that other settings have left there. Where single
// interfaces have endpoints, agents see that themselves.
func (c Config) leftovers(m *memory) (names []string) {
	if !slices.Equal(c.Interfaces, []string{endpoint.AllInterfaces}) {
		return nil
	}
	for name, n := range m.nodes {
		if n.leftovers {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// held says which nodes are held back.
func (c Config) held(f facts, m *memory, d *decision) (held, conflicts map[string][]string) {
	held, conflicts = map[string][]string{}, map[string][]string{}
	if c.guardsAPIServers() {
		d.at(c.nextAsk(f, m))
	}
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		n := m.nodes[name]
		reasons := c.holds(name, n, f, m)
		if why := c.waits(name, n, f, m, d); why != "" {
			reasons = append(reasons, why)
		}
		for _, reason := range reasons {
			held[reason] = append(held[reason], name)
		}
		for _, reason := range n.rivals {
			conflicts[reason] = append(conflicts[reason], name)
		}
		if n.held = len(reasons)+len(n.rivals) > 0; !n.held {
			continue
		}
		d.status.Held++
		if n.armed {
			d.notices = append(d.notices, notice{eventHeld, name, n.uid, slices.Concat(n.rivals, reasons)[0]})
		}
	}
	for _, all := range []map[string][]string{held, conflicts} {
		reasons := slices.Sorted(maps.Keys(all))
		for _, reason := range reasons[min(len(reasons), mostReasons):] {
			const other = "held back, as more nodes are than there is room for reasons: what holds the others back may hold this one, too"
			all[other] = append(all[other], all[reason]...)
			delete(all, reason)
		}
	}
	return held, conflicts
}

// mayNotArm says why no node may be armed with the wanted set; empty: nothing forbids it.
// Once it was cleared and a node is armed with it, addresses that are not trusted take back
// nothing. That a node is armed alone clears nothing: somebody may have done that by hand.
func (c Config) mayNotArm(f facts, m *memory, carried bool, d *decision) string {
	if lack := policyset.Lack(c.Release, c.Wanted, f.policies); lack != "" {
		m.completeSince, m.lacked = time.Time{}, true
		return lack
	}
	if m.completeSince.IsZero() {
		m.completeSince = f.now
		if carried && !m.lacked {
			// Felix enforces it already.
			m.completeSince = f.now.Add(-settle)
		}
	}
	if settled := m.completeSince.Add(settle); f.now.Before(settled) && !c.Off {
		d.at(settled)
		return "policies are complete, Felix gets a moment to read them"
	}
	if c.Off {
		return "mode is off"
	}
	if c.guardsAPIServers() && f.apiServers.answered.IsZero() {
		return fmt.Sprintf("cannot tell whether API servers of nodes stay open: %v", f.apiServers.err)
	}
	untrusted := c.untrusted(f, m, d)
	if m.cleared && carried {
		if untrusted != "" {
			d.notices = append(d.notices, notice{kind: eventUntrusted, message: untrusted})
		}
		return ""
	}
	return untrusted
}

// mark says which Nodes and endpoints are looked after by now. For endpoints that is news
// only to agents that wait, or comes along with other news.
func (c Config) mark(f facts, m *memory, was clearance.Clearance, now *clearance.Clearance, d *decision) {
	waits, many := now.Reason != was.Reason || now.Canary != was.Canary, 0
	var first time.Time // creation of the oldest that is not looked after yet
	for _, n := range m.nodes {
		if n.wants && !n.carries && !n.held {
			many++
			waits = waits || clearance.Newer(n.newest, now.Endpoints)
		}
		known := n.known.Add(knownFor)
		unasked := c.guardsAPIServers() && f.apiServers.answered.Before(n.known)
		if (unasked || f.now.Before(known)) && (first.IsZero() || n.created.Before(first)) {
			first = n.created
		}
		if f.now.Before(known) {
			d.at(known)
		}
	}
	now.Spread = time.Duration(many/armedPerSecond) * time.Second
	for name, n := range m.nodes {
		if _, late := m.late[name]; !late && n.created.After(now.Nodes) && (first.IsZero() || n.created.Before(first)) {
			now.Nodes = n.created
		}
	}
	if waits && !c.Off && !m.lags(f) && clearance.Newer(f.version, now.Endpoints) {
		now.Endpoints = f.version
	}
}

// publish adds to the decision the change of the ConfigMap, before all others. What marks, or
// who would be cut and advice, alone would change can wait a little.
func (c Config) publish(f facts, m *memory, was, now clearance.Clearance, d *decision) {
	if f.configMap != nil {
		if maps.Equal(now.Data(), f.configMap.Data) {
			return
		}
		rest, told := now, now
		rest.Nodes, rest.Endpoints, rest.Spread = was.Nodes, was.Endpoints, was.Spread
		rest.Findings, told.Findings = was.Findings, was.Findings
		marks, tells := !now.Nodes.Equal(was.Nodes) || now.Endpoints != was.Endpoints, !maps.Equal(told.Data(), now.Data())
		if maps.Equal(rest.Data(), f.configMap.Data) {
			var due time.Time
			if tells {
				due = m.toldCuts.Add(tellCutsEvery)
				if now.Findings.Alike(was.Findings) {
					due = m.toldCuts.Add(tellCountsEvery)
				}
			}
			if soon := m.marked.Add(max(marksEvery, now.Spread/marksTimes)); marks && (!tells || soon.Before(due)) {
				due = soon
			}
			if !marks && !tells {
				return
			}
			if f.now.Before(due) {
				d.at(due)
				return
			}
		}
		if marks {
			m.marked = f.now
		}
		if tells {
			m.toldCuts = f.now
		}
	}
	d.writes = slices.Insert(d.writes, 0, c.writeOfConfigMap(f.configMap, now.Data()))
}
