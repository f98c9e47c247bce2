package calico

import (
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// Problem says why the caches are not complete; empty: they are.
func (c *Cluster) Problem() string {
	if caches := c.known(); caches != nil {
		return problemOf(caches.always())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problem
}

// Trouble says what goes wrong with a complete cache, and since when; empty:
// nothing. What the cache holds may be old then.
func (c *Cluster) Trouble() (problem string, since time.Time) {
	for _, s := range c.known().all() {
		if text, from := s.trouble(); text != "" && (problem == "" || from.Before(since)) {
			problem, since = text, from
		}
	}
	return problem, since
}

// Node returns the agent's Node from the cache, nil when there is none. Like all
// that comes from a cache it must not be changed.
func (c *Cluster) Node() *corev1.Node {
	return first[*corev1.Node](c.known().node)
}

// Endpoints returns from the cache the endpoint with the name of the Node,
// whosever it is, or with Options.ByLabel all that are labelled as the release's
// on the Node, and the version up to which the cache has followed.
func (c *Cluster) Endpoints() (heps []*v3.HostEndpoint, version string) {
	return versioned[*v3.HostEndpoint](c.known().endpoints)
}

// Policies returns the policies of the release from the cache.
func (c *Cluster) Policies() []*v3.GlobalNetworkPolicy {
	return objectsOf[*v3.GlobalNetworkPolicy](c.known().policies)
}

// DatastoreReady tells whether Calico lets its datastore be written to.
func (c *Cluster) DatastoreReady() bool {
	information := first[*v3.ClusterInformation](c.known().information)
	return information == nil || information.Spec.DatastoreReady == nil || *information.Spec.DatastoreReady
}

// Follow keeps up to date from now on what Node and DatastoreReady return. Before, that
// is read once, which costs the API server less. To call it again does nothing.
func (c *Cluster) Follow() { c.known().follow() }

// FollowForeign starts or ends the cache of the policies that are not the release's.
// It is read once, and kept up to date from when changes are first asked for. To ask
// for what is already so does nothing.
func (c *Cluster) FollowForeign(on, changes bool) {
	foreign := c.known().foreign
	if !on {
		foreign.follow("")
		return
	}
	foreign.follow("of others")
	if changes {
		foreign.current().followChanges()
	}
}

// Foreign returns those policies from the cache, each with what says whom it
// selects only, or why they are not all known.
func (c *Cluster) Foreign() (policies []*v3.GlobalNetworkPolicy, problem string) {
	s := c.known().foreign.current()
	if s == nil {
		return nil, firstRead
	}
	if problem := problemOf([]*source{s}); problem != "" {
		return nil, problem
	}
	return objectsOf[*v3.GlobalNetworkPolicy](s), ""
}

// FollowFelix starts the caches of the FelixConfiguration of the Node and of the
// one for all nodes, once.
func (c *Cluster) FollowFelix() {
	c.known().felix.follow(c.felixName())
	c.known().felixDefault.follow(failsafe.ForAll)
}

// Felix returns from those caches the FelixConfiguration of the Node and the one for
// all nodes, nil where there is none, or why they are not known.
func (c *Cluster) Felix() (own, forAll *failsafe.Configuration, problem string) {
	for _, read := range []struct {
		from *source
		into **failsafe.Configuration
	}{{c.known().felix.current(), &own}, {c.known().felixDefault.current(), &forAll}} {
		if read.from == nil {
			return nil, nil, firstRead
		}
		if problem := problemOf([]*source{read.from}); problem != "" {
			return nil, nil, problem
		}
		*read.into = first[*failsafe.Configuration](read.from)
	}
	return own, forAll, ""
}

// FollowPeer starts the cache of one more endpoint, in the place of the one before;
// without a name it ends that. Its changes wake nobody.
func (c *Cluster) FollowPeer(name string) { c.known().peer.follow(name) }

// Peer returns that endpoint from the cache, whosever it is, nil when there is none or
// it is not known yet.
func (c *Cluster) Peer() *v3.HostEndpoint {
	if s := c.known().peer.current(); s != nil {
		return first[*v3.HostEndpoint](s)
	}
	return nil
}

// felixName is the name of the FelixConfiguration of the agent's Node.
func (c *Cluster) felixName() string { return failsafe.Name(c.options.Node) }
