package calico

import (
	"context"
	"encoding/json"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// Controller is the API server as the controller of a release sees it: with caches of
// what matters to the release on all nodes.
type Controller struct {
	*Cluster
}

// NewController returns a Controller for the API server of config. It makes no request.
// An error means that config can't be used.
func NewController(config *rest.Config, options Options) (*Controller, error) {
	c, err := open(config, options)
	if err != nil {
		return nil, err
	}
	c.node = follow[node](c, cleanup.Object{Kind: "Node"}, "")
	c.endpoints = follow[v3.HostEndpoint](c, cleanup.Object{Kind: v3.KindHostEndpoint}, "")
	c.policies = follow[policy](c, cleanup.Object{Kind: v3.KindGlobalNetworkPolicy}, "")
	c.information = follow[v3.ClusterInformation](c, cleanup.Object{Kind: v3.KindClusterInformation, Name: "default"}, "")
	c.trustSets = follow[v3.GlobalNetworkSet](c, cleanup.Object{Kind: v3.KindGlobalNetworkSet}, c.ofRelease())
	c.felix[0] = follow[failsafe.Configuration](c, cleanup.Object{Kind: v3.KindFelixConfiguration}, "")
	c.always = []*source{c.node, c.endpoints, c.policies, c.information, c.trustSets, c.felix[1], c.clearance}
	return &Controller{c}, nil
}

// Nodes returns all Nodes. Like all that comes from a cache they must not be changed.
func (c *Controller) Nodes() []*corev1.Node { return objectsOf[*corev1.Node](c.node) }

// Endpoints returns all endpoints, whosever they are, and up to which version the cache has
// followed them.
func (c *Controller) Endpoints() (heps []*v3.HostEndpoint, version string) {
	return versioned[*v3.HostEndpoint](c.endpoints)
}

// Policies returns all policies, whosever they are.
func (c *Controller) Policies() []*policyset.Policy {
	return objectsOf[*policyset.Policy](c.policies)
}

// TrustSets returns the sets of addresses of the release, that of witnesses too.
func (c *Controller) TrustSets() []*v3.GlobalNetworkSet {
	return objectsOf[*v3.GlobalNetworkSet](c.trustSets)
}

// Information returns what Calico says of the cluster, nil when it says nothing.
func (c *Controller) Information() *v3.ClusterInformation {
	return first[*v3.ClusterInformation](c.information)
}

// FelixForAll returns the FelixConfiguration for all nodes, nil when there is none.
func (c *Controller) FelixForAll() *failsafe.Configuration {
	return first[*failsafe.Configuration](c.felix[1])
}

// Failsafes returns all FelixConfigurations, or why they are not known: FollowFelix starts their cache.
func (c *Controller) Failsafes() (all []*failsafe.Configuration, problem string) {
	return objectsOf[*failsafe.Configuration](c.felix[0]), problemOf(c.felix[0])
}

// ConfigMap returns that of the clearance, nil when there is none.
func (c *Controller) ConfigMap() *corev1.ConfigMap {
	read := first[*saying](c.clearance)
	if read == nil {
		return nil
	}
	return &corev1.ConfigMap{ObjectMeta: read.ObjectMeta, Data: read.Data}
}

// Create creates a set of addresses, a witness or the ConfigMap of the clearance. An error
// keeps the API server's reason, as those of the next two do.
func (c *Controller) Create(ctx context.Context, object metav1.Object) error {
	var body any = object
	if made, ok := object.(*witness.Policy); ok {
		body = &policy{ObjectMeta: made.ObjectMeta, Spec: made.Spec}
	}
	return c.send(ctx, "create", targetOf(object), body, nil)
}

// Patch applies a JSON merge patch to a set of addresses or the ConfigMap.
func (c *Controller) Patch(ctx context.Context, object metav1.Object, patch []byte) error {
	return c.send(ctx, "patch", targetOf(object), json.RawMessage(patch), nil)
}

// Delete deletes a set of addresses or a policy, in the very version that is given.
func (c *Controller) Delete(ctx context.Context, object metav1.Object) error {
	return c.delete(ctx, targetOf(object).Kind, object)
}

// targetOf says what such an object is called.
func targetOf(object metav1.Object) cleanup.Object {
	kind := v3.KindGlobalNetworkSet
	switch object.(type) {
	case *corev1.ConfigMap:
		kind = "ConfigMap"
	case *policyset.Policy, *witness.Policy:
		kind = v3.KindGlobalNetworkPolicy
	}
	return cleanup.Object{Kind: kind, Namespace: object.GetNamespace(), Name: object.GetName()}
}
