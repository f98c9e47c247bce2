// Package calico is the only one that talks to the API server. It finds out by
// which API group Calico is reached, keeps caches of what the agent looks at by
// watches, and writes endpoints.
package calico

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/transport"
)

// The groups by which Calico can be reached, and the resources in them.
const (
	GroupV3  = "projectcalico.org/v3"
	GroupCRD = "crd.projectcalico.org/v1"

	hostEndpoints         = "hostendpoints"
	globalNetworkPolicies = "globalnetworkpolicies"
	felixConfigurations   = "felixconfigurations"
	clusterInformations   = "clusterinformations"
	configMaps            = "configmaps"
	nodes                 = "nodes"

	// defaultName is how Calico calls the one ClusterInformation.
	defaultName = "default"
)

const (
	// The keeper's own backoff holds it back after failures. These limits only
	// keep a mistake in it from becoming a burden to the API server, and leave a
	// repair alone.
	requestsPerSecond = 50
	requestBurst      = 100

	// What a pass of the keeper may wait for. It calls itself stuck after two
	// minutes of one pass.
	writeTimeout = 20 * time.Second
	listTimeout  = 20 * time.Second

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

// Cluster is the API server as the agent sees it. Its methods may be called from
// any goroutine; all but Run and Problem only once Problem has returned an empty
// string.
type Cluster struct {
	options Options
	client  rest.Interface
	open    func(group string, wake func()) *caches

	mu      sync.Mutex
	problem string  // why there are no caches yet
	caches  *caches // nil until Calico's API group is known
}

// New returns a Cluster for the API server of config. It makes no request. An
// error means that config can't be used.
func New(config *rest.Config, options Options) (*Cluster, error) {
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
	c := &Cluster{options: options, client: client, problem: firstRead}
	c.open = c.ofAgent
	return c, nil
}

// Run finds Calico's API group and then keeps the caches up to date, until the
// context ends. It calls wake whenever a cache, or the answer of Problem, has
// changed. Nothing that goes wrong ends it: it is logged once and tried again.
func (c *Cluster) Run(ctx context.Context, wake func()) {
	group := c.options.APIGroup
	if group == "" {
		group = c.awaitGroup(ctx, wake)
		if ctx.Err() != nil {
			return
		}
	}
	c.options.Log.Info("reaching Calico", "group", group)
	caches := c.open(group, wake)
	c.mu.Lock()
	c.caches = caches
	c.mu.Unlock()
	caches.run(ctx)
}

// known returns the caches, nil before Calico's API group is known.
func (c *Cluster) known() *caches {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caches
}

// ofRelease is the label selector for what belongs to the release.
func (c *Cluster) ofRelease() string { return endpoint.ReleaseLabel + "=" + c.options.Release }

// ofNode is the label selector for the release's endpoints of a Node.
func (c *Cluster) ofNode(name string) string {
	return c.ofRelease() + "," + endpoint.NodeLabel + "=" + endpoint.NodeLabelValue(name)
}

// resourcePath is where the API server serves a cluster-scoped resource.
func resourcePath(group, resource string) string {
	if group == "v1" {
		return path.Join("/api", group, resource)
	}
	return path.Join("/apis", group, resource)
}
