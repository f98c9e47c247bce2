package keeper

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/host-firewall/host-firewall/agent/internal/gate"
)

const (
	askFirst = time.Second
	askMost  = 30 * time.Second

	// perObject is how long an answer is left alone for each object that it took the
	// API server to read and write out: many agents ask the same.
	perObject = 20 * time.Millisecond

	// fewNodes is up to how many nodes the agents just list all of them. Beyond,
	// that is n times n objects, so they count first.
	fewNodes = 250
)

// question is a question to the API server that is asked seldom and more seldom.
type question struct {
	asked bool
	err   error // why there is no answer
	last  time.Time
	next  time.Time
	delay time.Duration
}

// answered notes the answer, for which so many objects were read.
func (q *question) answered(now time.Time, objects int, err error) {
	q.asked, q.err, q.last = true, err, now
	q.delay = min(max(2*q.delay, askFirst), askMost)
	delay := max(q.delay, time.Duration(objects)*perObject)
	if seconds, told := apierrors.SuggestsClientDelay(err); told {
		delay = max(delay, time.Duration(seconds)*time.Second)
	}
	q.next = now.Add(wait.Jitter(delay, jitter))
}

// due tells whether to ask.
func (q *question) due(now time.Time) bool { return !now.Before(q.next) }

// peers is the last answer to the question whom an armed node would shut out.
type peers struct {
	question
	strangers []string // names of nodes
	uncertain string   // what is known when that is not enough
	exactNext time.Time
}

// rivals is the last answer to the question who else keeps endpoints on this node.
type rivals struct {
	question
	here []*v3.HostEndpoint // not labelled as the release's
	own  []*v3.HostEndpoint // the release's, when it was looked for them
	// swept tells that nothing is left that the caches don't show.
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
func (k *Keeper) askRivals(ctx context.Context, now time.Time) {
	here, all, err := k.api.ListForeignEndpoints(ctx)
	if err == nil {
		k.rivals.here = here
		if !k.config.Named() && !k.rivals.swept {
			// What other settings have left behind.
			k.rivals.own, err = k.api.ListOwnEndpoints(ctx)
			k.rivals.swept = err == nil
		}
	}
	k.rivals.answered(now, all, err)
	k.rivals.again = false
}

// askPeers finds out whom an armed node would shut out.
func (k *Keeper) askPeers(ctx context.Context, now time.Time) {
	k.peers.strangers, k.peers.uncertain = nil, ""
	objects, err := k.countPeers(ctx, now)
	if err == nil && objects < 0 {
		objects, err = k.listPeers(ctx)
		k.peers.exactNext = now.Add(wait.Jitter(time.Duration(objects)*perObject, jitter))
	}
	k.peers.answered(now, objects, err)
}

// countPeers answers by counting where there are many nodes: as many endpoints of
// the release as Nodes, and none of anybody else, leave out nobody. It returns -1
// where only a look at each of them can tell, and it is time for that.
func (k *Keeper) countPeers(ctx context.Context, now time.Time) (objects int, err error) {
	nodes, err := k.api.CountNodes(ctx)
	if err != nil || nodes <= fewNodes {
		return -1, err
	}
	if !k.config.Named() {
		endpoints, err := k.api.CountEndpoints(ctx)
		if err != nil {
			return 0, err
		}
		if endpoints == nodes {
			_, others, err := k.api.ListForeignEndpoints(ctx)
			if err != nil || others == 0 {
				return 0, err
			}
		}
		k.peers.uncertain = fmt.Sprintf("%d Nodes and %d endpoints: it takes a closer look to tell which nodes would be shut out", nodes, endpoints)
	}
	if k.peers.exactNext.IsZero() {
		k.peers.exactNext = now.Add(rand.N(2 * time.Duration(nodes) * perObject))
	}
	if now.Before(k.peers.exactNext) {
		if k.peers.uncertain == "" {
			k.peers.uncertain = fmt.Sprintf("%d Nodes: waiting for the turn to look which of them would be shut out", nodes)
		}
		return 0, nil
	}
	k.peers.uncertain = ""
	return -1, nil
}

// listPeers answers by a look at each node. The nodes come first: an endpoint that
// comes meanwhile is then seen, and a node that comes meanwhile finds this node's
// agent already waiting for it or armed.
func (k *Keeper) listPeers(ctx context.Context) (objects int, err error) {
	nodes, err := k.api.ListNodes(ctx)
	if err != nil {
		return 0, err
	}
	endpoints, err := k.api.ListEndpoints(ctx)
	if err != nil {
		return len(nodes), err
	}
	k.peers.strangers = gate.Peers(nodes, endpoints, k.config.Release, k.config.TrustedCIDRs)
	return len(nodes) + len(endpoints), nil
}
