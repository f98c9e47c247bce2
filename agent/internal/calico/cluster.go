// Package calico is the only one that talks to the API server. It finds out by
// which API group Calico is reached, keeps caches of what the agent looks at by
// watches, and writes endpoints.
package calico

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/transport"
)

// The groups by which Calico can be reached.
const (
	GroupV3  = "projectcalico.org/v3"
	GroupCRD = "crd.projectcalico.org/v1"
)

const (
	// The keeper's own backoff holds it back after failures. These limits only
	// keep a mistake in it from becoming a burden to the API server, and leave a
	// repair alone.
	requestsPerSecond = 50
	requestBurst      = 100

	// requestTimeout is what a pass of the keeper may wait for. It calls itself stuck
	// after two minutes of one pass.
	requestTimeout = 20 * time.Second

	// firstRead is what the caches wait for when nothing is wrong.
	firstRead = "reading the API server for the first time"
)

// Options is what the package has to know of the agent.
type Options struct {
	// Node is the name of the agent's Node, and of its endpoint; empty: it is no agent.
	Node string
	// Release is the value of endpoint.ReleaseLabel on what belongs to the release.
	Release string
	// Namespace is where the release keeps what belongs to a namespace.
	Namespace string
	// ByLabel makes KnownEndpoints return every endpoint of the release on the node, and
	// not only the one with the name of the Node. It costs the API server a look at
	// every event of every endpoint in the cluster, so it is for who needs it.
	ByLabel bool
	// APIGroup is GroupV3, GroupCRD, or empty to find out.
	APIGroup string
	// UserAgent names the agent to the API server.
	UserAgent string
	// Count is told of every answer of the API server, by verb and HTTP status; the
	// status is 0 when there was none. It may be nil.
	Count func(verb string, code int)
	Log   *slog.Logger
}

// Cluster is the API server as the agent sees it: with caches, kept by watches, of what it
// looks at. Its methods may be called from any goroutine; all but Run and Problem only once
// Problem has returned an empty string.
type Cluster struct {
	options Options
	client  rest.Interface
	wake    func()
	group   string        // of Calico's objects; it and wake are set before anything is followed
	turn    chan struct{} // had by one cache at a time

	// always are followed from the start, among them the next three and, in a controller, the
	// three after them. felix are the FelixConfigurations of the Node and for all nodes, which
	// are followed while the failsafe is narrowed; a controller always follows the second.
	always                           []*source
	node, endpoints, clearance       *source
	policies, trustSets, information *source
	felix                            [2]*source

	problem   atomic.Value   // text: why nothing is followed yet
	following sync.WaitGroup // the goroutines of all caches
	mu        sync.Mutex
	ctx       context.Context // nil: no cache may be started, not yet or not any more
	started   []*source
}

// New returns a Cluster for the API server of config. It makes no request. An
// error means that config can't be used.
func New(config *rest.Config, options Options) (*Cluster, error) {
	c, err := open(config, options)
	if err != nil {
		return nil, err
	}
	c.node = follow[node](c, cleanup.Object{Kind: "Node", Name: options.Node}, "")
	c.endpoints = follow[v3.HostEndpoint](c, cleanup.Object{Kind: v3.KindHostEndpoint, Name: options.Node}, "")
	if options.ByLabel {
		c.endpoints = follow[v3.HostEndpoint](c, cleanup.Object{Kind: v3.KindHostEndpoint}, c.ofNode(options.Node))
	}
	c.felix[0] = follow[failsafe.Configuration](c, cleanup.Object{Kind: v3.KindFelixConfiguration, Name: failsafe.Name(options.Node)}, "")
	c.always = []*source{c.endpoints, c.node, c.clearance}
	return c, nil
}

// open returns a Cluster that follows nothing yet.
func open(config *rest.Config, options Options) (*Cluster, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = options.UserAgent
	config.QPS, config.Burst = requestsPerSecond, requestBurst
	if options.Node == "" {
		// Who looks at all nodes says itself how many requests are made at a time.
		config.RateLimiter = flowcontrol.NewFakeAlwaysRateLimiter()
	}
	// The API server has better things to do than to save bytes inside a cluster.
	config.DisableCompression = true
	count := options.Count
	if count == nil {
		count = func(string, int) {}
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return transport.New(next, count) })
	config.NegotiatedSerializer = serializer.NewCodecFactory(newScheme()).WithoutConversion()
	// Custom resources are served as JSON only.
	config.ContentType = runtime.ContentTypeJSON
	config.AcceptContentTypes = runtime.ContentTypeJSON
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client for the API server: %w", err)
	}
	c := &Cluster{options: options, client: client, turn: make(chan struct{}, 1)}
	c.problem.Store(firstRead)
	c.clearance = follow[configMap](c, cleanup.Object{Kind: "ConfigMap", Namespace: options.Namespace, Name: options.Release}, "")
	c.felix[1] = follow[failsafe.Configuration](c, cleanup.Object{Kind: v3.KindFelixConfiguration, Name: failsafe.ForAll}, "")
	return c, nil
}

// Run finds Calico's API group and then keeps the caches up to date, until the
// context ends. It calls wake whenever a cache, or the answer of Problem, has
// changed. Nothing that goes wrong ends it: it is logged once and tried again.
func (c *Cluster) Run(ctx context.Context, wake func()) {
	c.wake, c.group = wake, c.options.APIGroup
	if c.group == "" {
		c.group = c.awaitGroup(ctx)
		if ctx.Err() != nil {
			return
		}
	}
	c.options.Log.Info("reaching Calico", "group", c.group)
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	c.problem.Store("")
	for _, s := range c.always {
		c.start(s)
	}
	<-ctx.Done()
	c.mu.Lock()
	c.ctx = nil
	c.mu.Unlock()
	c.following.Wait()
}

// start begins to keep one cache, once.
func (c *Cluster) start(s *source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx := c.ctx; ctx != nil && !slices.Contains(c.started, s) {
		c.started = append(c.started, s)
		c.following.Go(func() { s.reflector.RunWithContext(ctx) })
	}
}

// ofRelease is the label selector for what belongs to the release.
func (c *Cluster) ofRelease() string { return endpoint.ReleaseLabel + "=" + c.options.Release }

// ofNode is the label selector for the release's endpoints of a Node.
func (c *Cluster) ofNode(name string) string {
	return c.ofRelease() + "," + endpoint.NodeLabel + "=" + endpoint.NodeLabelValue(name)
}
