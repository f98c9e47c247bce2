package calico

import (
	"context"
	"encoding/json"
	"path"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

const globalNetworkSets = "globalnetworksets"

// Controller is the API server as the controller of a release sees it: with caches of
// what matters to the release on all nodes.
type Controller struct {
	*Cluster
}

// NewController returns a Controller for the API server of config. It makes no request.
// An error means that config can't be used.
func NewController(config *rest.Config, options Options) (*Controller, error) {
	config = rest.CopyConfig(config)
	// It says itself how many requests it makes at a time.
	config.RateLimiter = flowcontrol.NewFakeAlwaysRateLimiter()
	cluster, err := New(config, options)
	if err != nil {
		return nil, err
	}
	cluster.open = cluster.ofController
	return &Controller{cluster}, nil
}

// ofController returns the caches of a controller, which are still to be run.
func (c *Cluster) ofController(group string, wake func()) *caches {
	made := c.newSources(wake)
	of := func(what, resource string, selection metav1.ListOptions, object, list runtime.Object) *source {
		return made.of(what, group, resource, selection, object, list, kept(group))
	}
	all := &caches{
		group:       group,
		node:        made.of("Nodes", "v1", nodes, metav1.ListOptions{}, &node{}, &listOf[node]{}, kept("v1")),
		endpoints:   of("HostEndpoints", hostEndpoints, metav1.ListOptions{}, &v3.HostEndpoint{}, &v3.HostEndpointList{}),
		policies:    of("GlobalNetworkPolicies", globalNetworkPolicies, metav1.ListOptions{}, &policy{}, &listOf[policy]{}),
		information: of("ClusterInformation "+defaultName, clusterInformations, byName(defaultName), &v3.ClusterInformation{}, &v3.ClusterInformationList{}),
		trustSets: of("GlobalNetworkSets of release "+c.options.Release, globalNetworkSets,
			metav1.ListOptions{LabelSelector: c.ofRelease()}, &v3.GlobalNetworkSet{}, &v3.GlobalNetworkSetList{}),
		clearance: made.ofClearance(),
	}
	all.always = []*source{all.node, all.endpoints, all.policies, all.information, all.trustSets, all.clearance}
	return all
}

// Nodes returns all Nodes. Like all that comes from a cache they must not be changed.
func (c *Controller) Nodes() []*corev1.Node { return objectsOf[*corev1.Node](c.known().node) }

// Endpoints returns all endpoints, whosever they are, and up to which version the cache has
// followed them.
func (c *Controller) Endpoints() (heps []*v3.HostEndpoint, version string) {
	return versioned[*v3.HostEndpoint](c.known().endpoints)
}

// Policies returns all policies, whosever they are.
func (c *Controller) Policies() []*policyset.Policy {
	return objectsOf[*policyset.Policy](c.known().policies)
}

// TrustSets returns the sets of addresses of the release.
func (c *Controller) TrustSets() []*v3.GlobalNetworkSet {
	return objectsOf[*v3.GlobalNetworkSet](c.known().trustSets)
}

// DatastoreReady tells whether Calico lets its datastore be written to.
func (c *Controller) DatastoreReady() bool {
	information := first[*v3.ClusterInformation](c.known().information)
	return information == nil || information.Spec.DatastoreReady == nil || *information.Spec.DatastoreReady
}

// ConfigMap returns that of the clearance, nil when there is none.
func (c *Controller) ConfigMap() *corev1.ConfigMap {
	read := first[*configMap](c.known().clearance)
	if read == nil {
		return nil
	}
	return &corev1.ConfigMap{ObjectMeta: read.ObjectMeta, Data: read.Data}
}

// CreateTrustSet creates a set of addresses. An error keeps the API server's reason, as
// those of the other writes do.
func (c *Controller) CreateTrustSet(ctx context.Context, set *v3.GlobalNetworkSet) error {
	return c.create(ctx, globalNetworkSets, v3.KindGlobalNetworkSet, set.ObjectMeta, map[string]any{"nets": set.Spec.Nets}, nil)
}

// PatchTrustSet applies a JSON merge patch to the set with that name.
func (c *Controller) PatchTrustSet(ctx context.Context, name string, patch []byte) error {
	return c.patch(ctx, globalNetworkSets, v3.KindGlobalNetworkSet+" "+name, name, patch, nil)
}

// DeleteTrustSet deletes a set, in the very version that is given.
func (c *Controller) DeleteTrustSet(ctx context.Context, set *v3.GlobalNetworkSet) error {
	return c.delete(ctx, globalNetworkSets, v3.KindGlobalNetworkSet+" "+set.Name, set.ObjectMeta)
}

// DeletePolicy deletes a policy, in the very version that is given.
func (c *Controller) DeletePolicy(ctx context.Context, policy *policyset.Policy) error {
	return c.delete(ctx, globalNetworkPolicies, v3.KindGlobalNetworkPolicy+" "+policy.Name, policy.ObjectMeta)
}

// CreateConfigMap creates the ConfigMap of the clearance.
func (c *Controller) CreateConfigMap(ctx context.Context, configMap *corev1.ConfigMap) error {
	body := bodyOf("v1", "ConfigMap", configMap.ObjectMeta, map[string]any{"data": configMap.Data})
	request := c.client.Post().AbsPath(namespacePath("v1", configMap.Namespace, configMaps))
	return c.send(ctx, request, "create", configMaps, "ConfigMap "+configMap.Namespace+"/"+configMap.Name, body, nil)
}

// PatchConfigMap applies a JSON merge patch to the ConfigMap of the clearance.
func (c *Controller) PatchConfigMap(ctx context.Context, patch []byte) error {
	namespace, name := c.options.Namespace, c.options.Release
	where := path.Join(namespacePath("v1", namespace, configMaps), name)
	return c.send(ctx, c.client.Patch(types.MergePatchType).AbsPath(where), "patch", configMaps, "ConfigMap "+namespace+"/"+name, json.RawMessage(patch), nil)
}
