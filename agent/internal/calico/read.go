package calico

import (
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// Problem says why the caches are not complete; empty: they are.
func (c *Cluster) Problem() string {
	if problem := c.problem.Load().(string); problem != "" {
		return problem
	}
	return problemOf(c.always...)
}

// Trouble says what goes wrong with a complete cache, and since when; empty:
// nothing. What the cache holds may be old then.
func (c *Cluster) Trouble() (problem string, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.started {
		if text, from := s.trouble(); text != "" && (problem == "" || from.Before(since)) {
			problem, since = text, from
		}
	}
	return problem, since
}

// Node returns the agent's Node from the cache, nil when there is none. Like all
// that comes from a cache it must not be changed.
func (c *Cluster) Node() *corev1.Node { return first[*corev1.Node](c.node) }

// Clearance returns from the cache what the controller says, or why that is not known.
func (c *Cluster) Clearance() (said *clearance.Clearance, problem string) {
	return readClearance(first[*saying](c.clearance), c.options)
}

// KnownEndpoints returns from the cache the endpoint with the name of the Node,
// whosever it is, or with Options.ByLabel all that are labelled as the release's
// on the Node, and the version up to which the cache has followed.
func (c *Cluster) KnownEndpoints() (heps []*v3.HostEndpoint, version string) {
	return versioned[*v3.HostEndpoint](c.endpoints)
}

// FollowFelix starts the caches of the FelixConfiguration of the Node and of the
// one for all nodes, once.
func (c *Cluster) FollowFelix() {
	for _, s := range c.felix {
		c.start(s)
	}
}

// Felix returns from those caches the FelixConfiguration of the Node and the one for
// all nodes, nil where there is none, or why they are not known.
func (c *Cluster) Felix() (own, forAll *failsafe.Configuration, problem string) {
	if problem := problemOf(c.felix[:]...); problem != "" {
		return nil, nil, problem
	}
	return first[*failsafe.Configuration](c.felix[0]), first[*failsafe.Configuration](c.felix[1]), ""
}
