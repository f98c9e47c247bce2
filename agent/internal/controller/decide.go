package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/event"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/trust"
)

const (
	// settle is how long a set has to be complete before it is cleared. Felix reads
	// policies and endpoints by separate watches and has to know the policies first, or for
	// a moment it enforces half of them.
	settle = time.Second
	// knownFor is how long a Node is known before it counts as looked after. The time of
	// its creation is in seconds: others of the same second are known by then.
	knownFor = 2 * time.Second
	// canaryTakes is how long the first node has to become armed, before it is the next
	// one's turn, and wellFor how long it has to be well then.
	canaryTakes, wellFor = 5 * time.Second, 3 * time.Second
	// unusedFor is how long nobody uses a set before it goes.
	unusedFor = 5 * time.Minute
	// marksEvery is the least time between two changes of the marks alone, and longer the
	// longer agents take anyway: each wakes every agent.
	marksEvery = time.Second
	marksTimes = 5
	// armedPerSecond is how many nodes are armed together where many wait for it.
	armedPerSecond = 200
	// clocksDiffer is by how much those of two nodes may. What is further ahead nobody's clock
	// has written.
	clocksDiffer = time.Minute
	// mostReasons is how many reasons of one kind a ConfigMap holds: its size has a limit.
	mostReasons = 500
)

// mended says what to do about policies that are not as they were rendered: Helm sends what
// differs between two renderings only.
const mended = " (helm upgrade makes those that are missing; change others back, or delete them before)"

// noCanary is the reason while there is no node that could go first.
const noCanary = "waiting for a first node: none that is Ready and not held back has an endpoint whose agent was rolled out with this set"

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
	late map[string]time.Time
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
	unusedSince  map[string]time.Time // by set
	marked       time.Time            // when the marks were last changed
}

// decision is what one pass comes to.
type decision struct {
	status  Status
	writes  []write
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
	if d.status = c.standsBack(f, m, was); d.status.State != "" {
		return d
	}
	c.lookAtNodes(f, m)
	carried, present := c.carried(f), policyset.Present(c.Release, f.policies)
	now := c.sets(f, m, was, carried, present)
	if m.unreadable != "" {
		d.notices = append(d.notices, notice{kind: eventUnreadable, message: m.unreadable})
	}
	now.Held, now.Conflicts = c.held(f, m, &d)
	c.keepTrust(f, m, carried, &d)
	c.removeUnused(f, m, now, present, carried, &d)
	now.Reason = c.mayNotArm(f, m, carried[c.Wanted.Revision] > 0, &d)
	c.keepWitnesses(f, m, carried, present, &now, &d)
	if f.paused {
		d.writes = nil
	}
	m.cleared = m.cleared || now.Reason == ""
	if now.Reason == "" && !c.Off {
		now.Canary, now.Reason = c.canary(f, m, &d)
	}
	if was.Opened {
		now.Reason, now.Canary = "all nodes are open until the annotation "+clearance.OpenAnnotation+" goes", ""
	}
	now.Leftovers = c.leftovers(m)
	c.mark(f, m, was, &now, &d)
	c.publish(f, m, was, now, &d)
	c.conclude(was, now, &d)
	d.status.Untrusted, d.status.Sets = len(m.late), len(present)
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

// sets says which sets there are, and how those that nodes are armed with have changed.
func (c Config) sets(f facts, m *memory, was clearance.Clearance, carried map[string]int, present map[string][]*policyset.Policy) clearance.Clearance {
	again := was.Wanted.Revision == c.Wanted.Revision
	now := clearance.Clearance{
		Wanted: c.Wanted, Before: was.Wanted, Rollout: c.Rollout, Drift: map[string]string{},
		Nodes: was.Nodes, Endpoints: was.Endpoints, Paused: f.paused, Controller: m.started,
	}
	if again || carried[was.Before.Revision] > 0 && carried[was.Wanted.Revision] == 0 {
		// That is the one which nodes are armed with, or were last.
		now.Before = was.Before
	}
	now.Present = slices.AppendSeq(c.unlabelled(f, now), maps.Keys(present))
	slices.Sort(now.Present)
	if now.Present = slices.Compact(now.Present); len(now.Present) == 0 {
		now.Present = []string{clearance.None}
	}
	if again && was.Controller.After(m.started) {
		// Two of the same do the same, and don't fight over who says so.
		now.Controller = was.Controller
	}
	for _, set := range []clearance.Set{now.Wanted, now.Before} {
		if lack := policyset.Lack(c.Release, set, f.policies); lack != "" && carried[set.Revision] > 0 && !now.IsGone(set.Revision) {
			now.Drift[set.Revision] = lack + mended
		}
	}
	return now
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
		if was.Wanted.Revision == c.Wanted.Revision && was.Reason == "" {
			m.cleared, m.canary, m.canarySince, m.verified = true, was.Canary, f.now, was.Canary == ""
		}
	}
	if m.opening = m.opening && was.Closed; m.opening {
		return clearance.Clearance{Open: was.Open, Opened: was.Opened}
	}
	m.closed = m.closed || was.Closed
	return was
}

// unlabelled are the known sets of which a policy is there, whatever became of its labels:
// Felix does not ask for them.
func (c Config) unlabelled(f facts, now clearance.Clearance) (sets []string) {
	for _, set := range []clearance.Set{now.Wanted, now.Before} {
		if slices.ContainsFunc(f.policies, func(p *policyset.Policy) bool { return set.Policies[p.Name] != "" }) {
			sets = append(sets, set.Revision)
		}
	}
	return sets
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

// carried counts the release's endpoints by the set that they are armed with.
func (c Config) carried(f facts) map[string]int {
	carried := map[string]int{}
	for _, hep := range f.endpoints {
		if set := endpoint.SetOf(hep); set != "" && endpoint.ReleaseOf(hep) == c.Release {
			carried[set]++
		}
	}
	return carried
}

// held says which nodes are held back.
func (c Config) held(f facts, m *memory, d *decision) (held, conflicts map[string][]string) {
	held, conflicts = map[string][]string{}, map[string][]string{}
	if c.guardsAPIServers() {
		d.at(c.nextAsk(f, m))
	}
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		n := m.nodes[name]
		reasons := c.holds(name, n, f)
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
	var late []string
	for name, since := range m.late {
		if over := since.Add(lagTakes); f.now.Before(over) {
			d.at(over)
			continue
		}
		late = append(late, name)
	}
	untrusted := ""
	if slices.Sort(late); len(late) > 0 {
		untrusted = "the addresses of some Nodes are not trusted yet: " + event.Some(late)
	} else if strangers := trust.Uncovered(f.nodes, c.ClusterCIDRs); len(strangers) > 0 && !c.TrustNodes {
		untrusted = fmt.Sprintf("Ready nodes are not in cluster.cidrs and would be shut out: %s. List their networks there, or set cluster.trustNodes: true", event.Some(strangers))
	}
	if m.cleared && carried {
		if untrusted != "" {
			d.notices = append(d.notices, notice{kind: eventUntrusted, message: untrusted})
		}
		return ""
	}
	return untrusted
}

// canary returns the one node that goes first with the wanted set; empty: a node is armed
// with it and well, so all may, or there is a reason why none may.
func (c Config) canary(f facts, m *memory, d *decision) (name, reason string) {
	candidates := m.candidates()
	m.verify(f.now, d)
	switch {
	case m.verified:
		m.canary = ""
		return "", ""
	case len(candidates) == 0:
		return "", noCanary
	}
	at := slices.Index(candidates, m.canary)
	still, over := at >= 0, m.canarySince.Add(canaryTakes)
	switch {
	case still && m.nodes[m.canary].carries:
		return m.canary, ""
	case still && f.now.Before(over):
		d.at(over)
		return m.canary, ""
	}
	m.canary, m.canarySince = candidates[(at+1)%len(candidates)], f.now
	d.at(f.now.Add(canaryTakes))
	return m.canary, ""
}

// candidates are the nodes that may go first. Whose agent has written last comes first: one
// that has died would only take time.
func (m *memory) candidates() (names []string) {
	for name, n := range m.nodes {
		if n.wants && n.ready && !n.held {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		switch x, y := m.nodes[a].newest, m.nodes[b].newest; {
		case clearance.Newer(x, y):
			return -1
		case clearance.Newer(y, x):
			return 1
		}
		return strings.Compare(a, b)
	})
	return names
}

// verify finds out whether a node is armed with the wanted set and well.
func (m *memory) verify(now time.Time, d *decision) {
	carries := false
	for name, n := range m.nodes {
		if !n.carries {
			delete(m.carriedSince, name)
			continue
		}
		carries = true
		if m.carriedSince[name].IsZero() {
			m.carriedSince[name] = now
		}
		well := m.carriedSince[name].Add(wellFor)
		m.verified = m.verified || n.ready && !now.Before(well)
		if now.Before(well) {
			d.at(well)
		}
	}
	m.verified = m.verified && carries
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
	if waits && !c.Off && len(m.late) == 0 && clearance.Newer(f.version, now.Endpoints) {
		now.Endpoints = f.version
	}
}

// removeUnused removes the sets that nobody has used for a while, the one before too: a
// `helm rollback` makes it anew.
func (c Config) removeUnused(f facts, m *memory, now clearance.Clearance, present map[string][]*policyset.Policy, carried map[string]int, d *decision) {
	used := func(set string) bool {
		return set == now.Wanted.Revision || carried[set] > 0
	}
	maps.DeleteFunc(m.unusedSince, func(set string, _ time.Time) bool { return now.IsGone(set) || used(set) })
	for set, policies := range present {
		if used(set) {
			continue
		}
		if m.unusedSince[set].IsZero() {
			m.unusedSince[set] = f.now
		}
		if over := m.unusedSince[set].Add(unusedFor); f.now.Before(over) {
			d.at(over)
			continue
		}
		for _, policy := range policies {
			d.writes = append(d.writes, write{subject: "GlobalNetworkPolicy " + policy.Name, seen: policy.ResourceVersion, object: policy, gone: true})
		}
	}
}

// publish adds to the decision the change of the ConfigMap, before all others. What marks
// alone would change can wait a little.
func (c Config) publish(f facts, m *memory, was, now clearance.Clearance, d *decision) {
	if f.configMap != nil {
		if maps.Equal(now.Data(), f.configMap.Data) {
			return
		}
		rest := now
		rest.Nodes, rest.Endpoints, rest.Spread = was.Nodes, was.Endpoints, was.Spread
		if maps.Equal(rest.Data(), f.configMap.Data) && now.Nodes.Equal(was.Nodes) && now.Endpoints == was.Endpoints {
			return
		}
		if due := m.marked.Add(max(marksEvery, now.Spread/marksTimes)); maps.Equal(rest.Data(), f.configMap.Data) && f.now.Before(due) {
			d.at(due)
			return
		}
		if !now.Nodes.Equal(was.Nodes) || now.Endpoints != was.Endpoints {
			m.marked = f.now
		}
	}
	d.writes = slices.Insert(d.writes, 0, c.writeOfConfigMap(f.configMap, now.Data()))
}
