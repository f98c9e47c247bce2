package calico

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// CreateEndpoint creates an endpoint and returns it as it is stored. An error of this and
// the next ones keeps the API server's reason: apierrors.IsAlreadyExists and IsConflict tell
// that the cache was behind.
func (c *Cluster) CreateEndpoint(ctx context.Context, hep *v3.HostEndpoint) (*v3.HostEndpoint, error) {
	return write(ctx, c, "create", v3.KindHostEndpoint, hep.Name, hep, &v3.HostEndpoint{})
}

// PatchEndpoint applies a JSON merge patch to the endpoint with that name and
// returns it as it is stored.
func (c *Cluster) PatchEndpoint(ctx context.Context, name string, patch []byte) (*v3.HostEndpoint, error) {
	return write(ctx, c, "patch", v3.KindHostEndpoint, name, json.RawMessage(patch), &v3.HostEndpoint{})
}

// DeleteEndpoint deletes an endpoint, in the very version that is given.
func (c *Cluster) DeleteEndpoint(ctx context.Context, hep *v3.HostEndpoint) error {
	return c.delete(ctx, v3.KindHostEndpoint, hep)
}

// CreateFelix creates a FelixConfiguration and returns it as it is stored.
func (c *Cluster) CreateFelix(ctx context.Context, configuration *failsafe.Configuration) (*failsafe.Configuration, error) {
	return write(ctx, c, "create", v3.KindFelixConfiguration, configuration.Name, configuration, &failsafe.Configuration{})
}

// PatchFelix applies a JSON merge patch to the FelixConfiguration with that name and
// returns it as it is stored.
func (c *Cluster) PatchFelix(ctx context.Context, name string, patch []byte) (*failsafe.Configuration, error) {
	return write(ctx, c, "patch", v3.KindFelixConfiguration, name, json.RawMessage(patch), &failsafe.Configuration{})
}

// DeleteFelix deletes a FelixConfiguration, in the very version that is given.
func (c *Cluster) DeleteFelix(ctx context.Context, configuration *failsafe.Configuration) error {
	return c.delete(ctx, v3.KindFelixConfiguration, configuration)
}

// CreateEvent creates an Event.
func (c *Cluster) CreateEvent(ctx context.Context, event *corev1.Event) error {
	// By its own name each of them would be another trouble.
	return c.send(ctx, "create", cleanup.Object{Kind: "Event", Namespace: event.Namespace, Name: event.InvolvedObject.Name}, event, nil)
}

// write sends a change of one of Calico's objects and returns that as it is stored, without
// what is of no use.
func write[T any, P kind[T]](ctx context.Context, c *Cluster, verb, what, name string, body any, stored P) (P, error) {
	err := c.send(ctx, verb, cleanup.Object{Kind: what, Name: name}, body, stored)
	if err == nil {
		trim(c.group, stored)
	}
	return stored, err
}

// delete deletes one of Calico's objects, in the very version that is given.
func (c *Cluster) delete(ctx context.Context, kind string, object metav1.Object) error {
	uid, version := object.GetUID(), object.GetResourceVersion()
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}
	return c.send(ctx, "delete", cleanup.Object{Kind: kind, Name: object.GetName()}, options, nil)
}

// send makes one request, once: to obey an API server that says when to come again
// is the keeper's business, which has other things to do meanwhile. The body of "create" is
// an object. The one that comes back is kept in stored, unless that is nil.
func (c *Cluster) send(ctx context.Context, verb string, o cleanup.Object, body any, stored runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	where, method, contentType := c.pathOf(o), http.MethodDelete, runtime.ContentTypeJSON
	switch verb {
	case "create":
		where, method = path.Dir(where), http.MethodPost
		object := body.(runtime.Object).DeepCopyObject()
		object.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(c.groupOf(o.Kind), o.Kind))
		body = object
	case "patch":
		method, contentType = http.MethodPatch, string(types.MergePatchType)
	}
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode %s: %w", o, err)
	}
	result := c.client.Verb(method).AbsPath(where).SetHeader("Content-Type", contentType).MaxRetries(0).Body(data).Do(ctx)
	if err = result.Error(); err == nil && stored != nil {
		err = result.Into(stored)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, o, explain(err, verb, resourceOf(o.Kind)))
	}
	return nil
}
