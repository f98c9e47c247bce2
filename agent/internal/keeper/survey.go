package keeper

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/gate"
)

const (
	askFirst = time.Second
	askMost  = 30 * time.Second

	// Many agents may ask at once. All of them together shall make the API server
	// read about one object in so long,
	perObject = 500 * time.Microsecond
	// and look, mostly at what they have followed, whether one is armed once in so long.
	perPoll = time.Millisecond
	// perRival is how long an agent leaves endpoints of others alone for each of them.
	perRival = 20 * time.Millisecond
	// Most other nodes are armed, which comes first, so long for each Node after it was
	// asked about them: then the failsafe is narrowed, and what is no hurry is done.
	perNarrowing, perCalm = 5 * time.Millisecond, 20 * time.Millisecond
	// surveyTimeout is how long the requests of one question may take together.
	surveyTimeout = time.Minute
	// With fewer Nodes any endpoint is looked at each time, with more mostly one is
	// followed, and any looked at in one of so many times.
	manyNodes, anyOnce = 500, 32
	// missingAfter is how long the followed one may not be there.
	missingAfter = time.Minute
	// rolledAtOnce is which part of the agents is taken to start at once where their
	// endpoints are there already, as in a rolling update: one in so many.
	rolledAtOnce = 100
)

// question is a question to the API server that is asked seldom and more seldom.
type question struct {
	asked bool
	err   error // why there is no answer
	last  time.Time
	next  time.Time
	delay time.Duration
}

// answered notes the answer, and that the question is to be left alone for at least
// a while.
func (q *question) answered(now time.Time, least time.Duration, err error) {
	q.asked, q.err, q.last = true, err, now
	if seconds, told := apierrors.SuggestsClientDelay(err); told {
		// Whoever has said so goes on counting, and does not have to be asked more seldom.
		q.next = now.Add(wait.Jitter(max(least, time.Duration(seconds)*time.Second), jitter))
		return
	}
	q.delay = min(max(2*q.delay, askFirst), askMost)
	q.next = now.Add(wait.Jitter(max(q.delay, least), jitter))
}

// due tells whether to ask.
func (q *question) due(now time.Time) bool { return !now.Before(q.next) }

// peers is what is known of whom this node would shut out if it were armed.
//
// A node may be armed the first time when an endpoint of the release is armed
// already, or else when a look at each Node has shown that none would be shut out.
// Where one is armed, somebody has looked before, or the release has been at work
// for long. A node that has no endpoint is shut out there anyway, and to wait for
// it would only leave open who waits. That one is cheap to ask. A look at each Node
// costs the API server as much as there are Nodes, so thousands of agents take
// turns, and the first that finds nobody opens the gate for all.
//
// So at an install, when the mode goes from off to enforce, and when the arming
// labels change, nobody is armed, and all wait until one has looked. A node that
// joins armed ones closes at once, whoever else is just joining. Two agents that look
// at the same time see the same nodes. An endpoint that was left armed by a release
// of the same name, uninstalled without its hook, counts: Felix enforces the policies
// there as soon as they are back, whatever any agent does.
type peers struct {
	question
	armed     bool      // an endpoint of the release is
	looked    bool      // strangers is known
	strangers []string  // names of nodes that would be shut out, when this agent last looked
	turn      time.Time // when it is this agent's turn to look; zero: it is not known
	// drawnOf and drawnAs are how many Nodes and endpoints there were when that was drawn.
	drawnOf, drawnAs int
	nodes            int       // how many there were when they were last counted
	first            string    // the name of the endpoint that all may follow
	since            time.Time // when that was found out
	// followed is the endpoint whose cache tells whether it is armed; empty: none.
	followed string
}

// nobody tells that nobody would be shut out who is not already.
func (p *peers) nobody() bool { return p.armed || p.looked && len(p.strangers) == 0 }

// rivals is the last answer to the question who else keeps endpoints on this node.
type rivals struct {
	question
	here []*v3.HostEndpoint // not labelled as the release's
	own  []*v3.HostEndpoint // the release's, as swept found them
	// swept tells that own is known.
	swept bool
	// again tells that something has come in between.
	again bool
}

// forget drops an endpoint that is not as it was any more.
func (r *rivals) forget(hep *v3.HostEndpoint) {
	other := func(o *v3.HostEndpoint) bool { return o.Name == hep.Name }
	r.here, r.own = slices.DeleteFunc(slices.Clone(r.here), other), slices.DeleteFunc(slices.Clone(r.own), other)
}

// askRivals finds out who else keeps endpoints on this node. No event tells that: a
// watch that could would bring every agent every event of every endpoint.
func (k *Keeper) askRivals(ctx context.Context) {
	here, all, err := k.api.ListForeignEndpoints(ctx)
	if err == nil {
		k.rivals.here = here
	}
	if err == nil && len(here) == 0 {
		// Then it is asked at each resync, which is seldom enough.
		k.rivals.delay = 0
	}
	k.rivals.answered(time.Now(), time.Duration(all)*perRival, err)
	k.rivals.again = false
}

// sweep finds endpoints that other settings have left behind on this node. It can
// wait until the node is as it should be.
func (k *Keeper) sweep(ctx context.Context) {
	own, err := k.api.ListOwnEndpoints(ctx)
	if err == nil {
		k.rivals.own, k.rivals.swept = own, true
	}
	k.sweeping.answered(time.Now(), 0, err)
}

// askPeers finds out whether anybody would be shut out.
func (k *Keeper) askPeers(ctx context.Context, f facts) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	p := &k.peers
	err := k.askArmed(ctx, f)
	if err == nil && !p.armed {
		err = k.lookForStrangers(ctx, f.now)
	}
	now := time.Now()
	if err == nil && len(p.strangers) == 0 {
		// It is another one's turn, and soon: the number of agents alone says how often to ask.
		p.delay = 0
	}
	agents := time.Duration(p.nodes)
	// At random, for agents that start side by side would ask side by side.
	least := rand.N(2*agents*perPoll + 1)
	if k.isFirst() {
		// Others find out from this one.
		least = 0
	}
	p.answered(now, least, err)
	k.narrowFrom, k.calmFrom = now.Add(wait.Jitter(agents*perNarrowing, 1)), now.Add(wait.Jitter(agents*perCalm, 1))
	if p.turn.After(now) && p.turn.Before(p.next) {
		p.next = p.turn
	}
}

// askArmed finds out whether an endpoint is armed. To say whether any is, or how many
// there are, the API server goes through all of them. So where there are many, and a
// release was installed on their nodes, nearly everybody follows only the one of the
// first Node, whose own agent asks about any. No event of it is waited for, so that not
// all arm in one moment.
func (k *Keeper) askArmed(ctx context.Context, f facts) (err error) {
	p := &k.peers
	joins := false
	if p.first == "" {
		node := ""
		if p.nodes, node, err = k.api.CountNodes(ctx); err != nil {
			return err
		}
		// All have the same interface, as a rule.
		p.first, p.since = endpoint.Name(node, k.links.selected[0].Name), f.now
		joins = f.joins()
	}
	p.followed = ""
	if p.nodes >= manyNodes && !joins && !k.isFirst() {
		p.followed = p.first
	}
	if p.followed != "" && rand.N(anyOnce) != 0 {
		return k.askFollowed(ctx, f.now)
	}
	p.armed, err = k.api.AnyArmed(ctx, k.config.ArmingLabels)
	return err
}

// askFollowed finds out whether the followed endpoint is armed. When it does not come,
// its Node has none, and the first that is there is followed.
func (k *Keeper) askFollowed(ctx context.Context, now time.Time) error {
	p, shape := &k.peers, k.config.shape()
	hep := k.api.Peer()
	p.armed = hep != nil && hep.Name == p.followed && shape.Owns(hep) && shape.Armed(hep)
	if p.armed || hep != nil && shape.Owns(hep) || now.Sub(p.since) < missingAfter {
		return nil
	}
	first, err := k.api.FirstEndpoint(ctx)
	if err != nil {
		return err
	}
	if p.since = now; first != "" {
		p.first = first
	}
	return nil
}

// joins tells whether the Node came after a policy of the release: others are armed
// already, as a rule.
func (f facts) joins() bool {
	return slices.ContainsFunc(f.policies, func(p *v3.GlobalNetworkPolicy) bool {
		return p.CreationTimestamp.Before(&f.node.CreationTimestamp)
	})
}

// isFirst tells whether the endpoint that all may follow is this agent's.
func (k *Keeper) isFirst() bool {
	return slices.ContainsFunc(k.links.selected, func(i endpoint.Interface) bool {
		return k.peers.first == endpoint.Name(k.config.Node, i.Name)
	})
}

// lookForStrangers looks for nodes that would be shut out, when it is this agent's
// turn: at first at each, and then at the one that it has found, as long as that
// would be.
func (k *Keeper) lookForStrangers(ctx context.Context, now time.Time) error {
	p := &k.peers
	if len(p.strangers) > 0 {
		still, err := k.strangers(ctx, p.strangers[0])
		if err != nil || len(still) > 0 {
			return err
		}
	} else if mine, err := k.drawTurn(ctx, now); err != nil || !mine {
		return err
	}
	strangers, err := k.strangers(ctx, "")
	if err == nil {
		p.strangers, p.looked, p.turn = strangers, true, time.Time{}
	}
	return err
}

// drawTurn tells whether it is this agent's turn to look at each Node. When there are
// more endpoints than when the turn was drawn, others are still on their way, nobody has
// to look to know that, and it was drawn as one of too few. When there are as many as
// Nodes, the one that others follow does not wait for its turn.
func (k *Keeper) drawTurn(ctx context.Context, now time.Time) (mine bool, err error) {
	p := &k.peers
	if p.turn.IsZero() && p.nodes >= manyNodes {
		// Mostly another one has looked before it has to be drawn.
		p.turn = now.Add(rand.N(time.Duration(p.nodes) * perCalm))
	}
	early, first := now.Before(p.turn), k.isFirst()
	if early && !first {
		return false, nil
	}
	endpoints, err := k.api.CountEndpoints(ctx)
	if err != nil {
		return false, err
	}
	if p.asked && (first || endpoints <= p.drawnAs) {
		if p.nodes, _, err = k.api.CountNodes(ctx); err != nil {
			return false, err
		}
	}
	switch {
	case first && endpoints >= p.nodes:
		return true, nil
	case early:
		return false, nil
	case p.nodes <= p.drawnOf && endpoints <= p.drawnAs:
		return true, nil
	}
	p.turn = now.Add(turnIn(p.nodes, endpoints, !k.created))
	p.drawnOf, p.drawnAs = p.nodes, endpoints
	return !now.Before(p.turn), nil
}

// turnIn returns a random time after which an agent may look at each Node, as one
// of as many agents as there are endpoints; found tells that its own was there
// before it.
func turnIn(nodes, endpoints int, found bool) time.Duration {
	agents := endpoints
	if found {
		agents = 1 + endpoints/rolledAtOnce
	}
	share := time.Duration(agents) * time.Duration(nodes+endpoints) * perObject
	if share <= askFirst {
		return 0
	}
	return rand.N(share)
}

// strangers returns the names of the nodes, or only that one if it is, that would be
// shut out. The nodes come first: an endpoint that comes meanwhile is then seen, and
// a node that comes meanwhile finds this node's agent already waiting for it or
// armed.
func (k *Keeper) strangers(ctx context.Context, node string) ([]string, error) {
	nodes, err := k.api.ListNodes(ctx, node)
	if err != nil {
		return nil, err
	}
	endpoints, err := k.api.ListEndpoints(ctx, node)
	if err != nil {
		return nil, err
	}
	return gate.Peers(nodes, endpoints, k.config.Release, k.config.TrustedCIDRs), nil
}
