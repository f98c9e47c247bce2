// Package calico is the only one that talks to the API server. It finds out by
// which API group Calico is reached, keeps caches of what the agent looks at by
// watches, and writes endpoints.
package calico

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// The groups by which Calico can be reached, and the resources in them.
const (
	GroupV3  = "projectcalico.org/v3"
	GroupCRD = "crd.projectcalico.org/v1"

	hostEndpoints         = "hostendpoints"
	globalNetworkPolicies = "globalnetworkpolicies"
)

const (
	// The keeper's own backoff holds it back after failures. These limits only
	// keep a mistake in it from becoming a burden to the API server, and leave a
	// repair alone.
	requestsPerSecond = 50
	requestBurst      = 100

	// The keeper makes at most two lists and a write in one pass, and calls itself
	// stuck after a minute: these have to add up to less.
	writeTimeout = 10 * time.Second
	listTimeout  = 15 * time.Second

	// firstRead is what the caches wait for when nothing is wrong.
	firstRead = "reading the API server for the first time"

	// pageSize bounds the memory for listing all nodes of a large cluster.
	pageSize = 250
)

// Options is what the package has to know of the agent.
type Options struct {
	// Node is the name of the agent's Node, and of its endpoint.
	Node string
	// Release is the value of endpoint.ReleaseLabel on what belongs to the release.
	Release string
	// APIGroup is GroupV3, GroupCRD, or empty to find out.
	APIGroup string
	// UserAgent names the agent to the API server.
	UserAgent string
	Log       *slog.Logger
}

// Cluster is the API server as the agent sees it. Its methods may be called from
// any goroutine; all but Run and Problem only once Problem has returned an empty
// string.
type Cluster struct {
	options Options
	client  rest.Interface

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
	config.NegotiatedSerializer = serializer.NewCodecFactory(newScheme()).WithoutConversion()
	// Custom resources are served as JSON only.
	config.ContentType = runtime.ContentTypeJSON
	config.AcceptContentTypes = runtime.ContentTypeJSON
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client for the API server: %w", err)
	}
	return &Cluster{options: options, client: client, problem: firstRead}, nil
}

// newScheme knows Calico's v3 types in both groups, where they look the same, so
// that one client serves both.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, group := range []string{GroupV3, GroupCRD} {
		gv := groupVersion(group)
		scheme.AddKnownTypes(gv,
			&v3.HostEndpoint{}, &v3.HostEndpointList{},
			&v3.GlobalNetworkPolicy{}, &v3.GlobalNetworkPolicyList{},
		)
		metav1.AddToGroupVersion(scheme, gv)
	}
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Node{}, &corev1.NodeList{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	return scheme
}

// groupVersion takes one of the group constants apart.
func groupVersion(group string) schema.GroupVersion {
	name, version := path.Split(group)
	return schema.GroupVersion{Group: path.Clean(name), Version: version}
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
	caches := c.newCaches(group, wake)
	c.mu.Lock()
	c.caches = caches
	c.mu.Unlock()
	caches.run(ctx, wake)
}

// Problem says why the caches are not complete; empty: they are.
func (c *Cluster) Problem() string {
	if caches := c.known(); caches != nil {
		return caches.problem()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problem
}

// Node returns the agent's Node from the cache, nil when there is none. Like all
// that comes from a cache it must not be changed.
func (c *Cluster) Node() *corev1.Node {
	return first[*corev1.Node](c.known().node)
}

// Endpoint returns the endpoint with the name of the Node from the cache,
// whosever it is, nil when there is none.
func (c *Cluster) Endpoint() *v3.HostEndpoint {
	return first[*v3.HostEndpoint](c.known().endpoint)
}

// Policies returns the policies of the release from the cache.
func (c *Cluster) Policies() []*v3.GlobalNetworkPolicy {
	return all[*v3.GlobalNetworkPolicy](c.known().policies)
}

// known returns the caches, nil before Calico's API group is known.
func (c *Cluster) known() *caches {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caches
}

// CreateEndpoint creates an endpoint. An error keeps the API server's reason:
// apierrors.IsAlreadyExists tells that the cache was behind.
func (c *Cluster) CreateEndpoint(ctx context.Context, hep *v3.HostEndpoint) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	group := c.known().group
	hep = hep.DeepCopy()
	hep.TypeMeta = metav1.TypeMeta{APIVersion: group, Kind: v3.KindHostEndpoint}
	body, err := json.Marshal(hep)
	if err != nil {
		return fmt.Errorf("encode HostEndpoint %s: %w", hep.Name, err)
	}
	err = c.client.Post().AbsPath(resourcePath(group, hostEndpoints)).
		SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("create HostEndpoint %s: %w", hep.Name, explain(err, "create", hostEndpoints))
	}
	return nil
}

// PatchEndpoint applies a JSON merge patch to the endpoint with that name. An error
// keeps the API server's reason: apierrors.IsConflict tells that the patch was
// made from a version that isn't the newest.
func (c *Cluster) PatchEndpoint(ctx context.Context, name string, patch []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := c.client.Patch(types.MergePatchType).AbsPath(resourcePath(c.known().group, hostEndpoints), name).
		Body(patch).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("patch HostEndpoint %s: %w", name, explain(err, "patch", hostEndpoints))
	}
	return nil
}

// ListNodes returns all Nodes, not from a cache, each with its name, conditions
// and addresses only.
func (c *Cluster) ListNodes(ctx context.Context) ([]corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var nodes []corev1.Node
	options := metav1.ListOptions{Limit: pageSize}
	for {
		var page corev1.NodeList
		if err := c.list(ctx, resourcePath("v1", "nodes"), options).Into(&page); err != nil {
			return nil, fmt.Errorf("list Nodes: %w", explain(err, "list", "nodes"))
		}
		for i := range page.Items {
			nodes = append(nodes, corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: page.Items[i].Name},
				Status: corev1.NodeStatus{
					Conditions: page.Items[i].Status.Conditions,
					Addresses:  page.Items[i].Status.Addresses,
				},
			})
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return nodes, nil
		}
	}
}

// ListEndpoints returns all endpoints of the release, not from a cache.
func (c *Cluster) ListEndpoints(ctx context.Context) ([]v3.HostEndpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var endpoints []v3.HostEndpoint
	options := metav1.ListOptions{Limit: pageSize, LabelSelector: c.ofRelease()}
	for {
		var page v3.HostEndpointList
		if err := c.list(ctx, resourcePath(c.known().group, hostEndpoints), options).Into(&page); err != nil {
			return nil, fmt.Errorf("list HostEndpoints: %w", explain(err, "list", hostEndpoints))
		}
		endpoints = append(endpoints, page.Items...)
		if options.Continue = page.Continue; options.Continue == "" {
			return endpoints, nil
		}
	}
}

// list asks for one page.
func (c *Cluster) list(ctx context.Context, path string, options metav1.ListOptions) rest.Result {
	return c.client.Get().AbsPath(path).VersionedParams(&options, metav1.ParameterCodec).Do(ctx)
}

// ofRelease is the label selector for what belongs to the release.
func (c *Cluster) ofRelease() string { return endpoint.ReleaseLabel + "=" + c.options.Release }

// resourcePath is where the API server serves a cluster-scoped resource.
func resourcePath(group, resource string) string {
	if group == "v1" {
		return path.Join("/api", group, resource)
	}
	return path.Join("/apis", group, resource)
}
