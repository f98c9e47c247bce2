package calico

import (
	"context"
	"encoding/json"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

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

// Create creates a set of addresses, or the ConfigMap of the clearance. An error keeps the
// API server's reason, as those of the next two do.
func (c *Controller) Create(ctx context.Context, object metav1.Object) error {
	where, resource, kind := c.where(object)
	group, fields := c.known().group, map[string]any{}
	switch o := object.(type) {
	case *v3.GlobalNetworkSet:
		fields["spec"] = map[string]any{"nets": o.Spec.Nets}
	case *corev1.ConfigMap:
		group, fields["data"] = "v1", o.Data
	}
	body := bodyOf(group, kind, metav1.ObjectMeta{
		Namespace: object.GetNamespace(), Name: object.GetName(), Labels: object.GetLabels(), OwnerReferences: object.GetOwnerReferences(),
	}, fields)
	return c.send(ctx, c.client.Post().AbsPath(where), "create", resource, kind+" "+object.GetName(), body, nil)
}

// Patch applies a JSON merge patch to a set of addresses or the ConfigMap.
func (c *Controller) Patch(ctx context.Context, object metav1.Object, patch []byte) error {
	where, resource, kind := c.where(object)
	return c.send(ctx, c.client.Patch(types.MergePatchType).AbsPath(where, object.GetName()), "patch", resource, kind+" "+object.GetName(), json.RawMessage(patch), nil)
}

// Delete deletes a set of addresses or a policy, in the very version that is given.
func (c *Controller) Delete(ctx context.Context, object metav1.Object) error {
	_, resource, kind := c.where(object)
	return c.delete(ctx, resource, kind+" "+object.GetName(), metav1.ObjectMeta{Name: object.GetName(), UID: object.GetUID(), ResourceVersion: object.GetResourceVersion()})
}

// where says where the API server serves such objects, and what they are called.
func (c *Controller) where(object metav1.Object) (where, resource, kind string) {
	switch object.(type) {
	case *corev1.ConfigMap:
		return namespacePath("v1", object.GetNamespace(), configMaps), configMaps, "ConfigMap"
	case *policyset.Policy:
		resource, kind = globalNetworkPolicies, v3.KindGlobalNetworkPolicy
	default:
		resource, kind = globalNetworkSets, v3.KindGlobalNetworkSet
	}
	return resourcePath(c.known().group, resource), resource, kind
}
