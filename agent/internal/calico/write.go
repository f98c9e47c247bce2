package calico

import (
	"context"
	"encoding/json"
	"fmt"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// CreateEndpoint creates an endpoint and returns it as it is stored. An error of this and
// the next ones keeps the API server's reason: apierrors.IsAlreadyExists and IsConflict tell
// that the cache was behind.
func (c *Cluster) CreateEndpoint(ctx context.Context, hep *v3.HostEndpoint) (*v3.HostEndpoint, error) {
	into := &v3.HostEndpoint{}
	return stored(c, into, c.create(ctx, hostEndpoints, v3.KindHostEndpoint, hep.ObjectMeta, hep.Spec, into))
}

// PatchEndpoint applies a JSON merge patch to the endpoint with that name and
// returns it as it is stored.
func (c *Cluster) PatchEndpoint(ctx context.Context, name string, patch []byte) (*v3.HostEndpoint, error) {
	into := &v3.HostEndpoint{}
	return stored(c, into, c.patch(ctx, hostEndpoints, "HostEndpoint "+name, name, patch, into))
}

// DeleteEndpoint deletes an endpoint, in the very version that is given.
func (c *Cluster) DeleteEndpoint(ctx context.Context, hep *v3.HostEndpoint) error {
	return c.delete(ctx, hostEndpoints, "HostEndpoint "+hep.Name, hep.ObjectMeta)
}

// CreateFelix creates a FelixConfiguration and returns it as it is stored.
func (c *Cluster) CreateFelix(ctx context.Context, configuration *failsafe.Configuration) (*failsafe.Configuration, error) {
	into := &failsafe.Configuration{}
	return stored(c, into, c.create(ctx, felixConfigurations, v3.KindFelixConfiguration, configuration.ObjectMeta, configuration.Spec, into))
}

// PatchFelix applies a JSON merge patch to the FelixConfiguration with that name and
// returns it as it is stored.
func (c *Cluster) PatchFelix(ctx context.Context, name string, patch []byte) (*failsafe.Configuration, error) {
	into := &failsafe.Configuration{}
	return stored(c, into, c.patch(ctx, felixConfigurations, "FelixConfiguration "+name, name, patch, into))
}

// stored returns what came back of a write, without what is of no use.
func stored[T metav1.Object](c *Cluster, object T, err error) (_ T, _ error) {
	if err == nil {
		trim(c.known().group, object)
	}
	return object, err
}

// DeleteFelix deletes a FelixConfiguration, in the very version that is given.
func (c *Cluster) DeleteFelix(ctx context.Context, configuration *failsafe.Configuration) error {
	return c.delete(ctx, felixConfigurations, "FelixConfiguration "+configuration.Name, configuration.ObjectMeta)
}

// CreateEvent creates an Event. Of its series, action and related object nothing is
// sent.
func (c *Cluster) CreateEvent(ctx context.Context, event *corev1.Event) error {
	about := event.InvolvedObject
	body := bodyOf("v1", "Event", event.ObjectMeta, map[string]any{
		"involvedObject":     map[string]any{"apiVersion": about.APIVersion, "kind": about.Kind, "namespace": about.Namespace, "name": about.Name, "uid": about.UID},
		"reason":             event.Reason,
		"message":            event.Message,
		"source":             map[string]any{"component": event.Source.Component, "host": event.Source.Host},
		"firstTimestamp":     event.FirstTimestamp,
		"lastTimestamp":      event.LastTimestamp,
		"count":              event.Count,
		"type":               event.Type,
		"reportingComponent": event.ReportingController,
		"reportingInstance":  event.ReportingInstance,
	})
	return c.send(ctx, c.client.Post().AbsPath("/api/v1/namespaces", event.Namespace, "events"), "create", "events", "Event", body, nil)
}

func (c *Cluster) create(ctx context.Context, resource, kind string, metadata metav1.ObjectMeta, spec any, stored runtime.Object) error {
	group := c.known().group
	request := c.client.Post().AbsPath(resourcePath(group, resource))
	body := bodyOf(group, kind, metadata, map[string]any{"spec": spec})
	return c.send(ctx, request, "create", resource, kind+" "+metadata.Name, body, stored)
}

// bodyOf returns what is sent to create an object: of its metadata what the agent ever
// gives one, and these fields. As the decoder, an encoder keeps what it knows of a type
// for as long as the process lives, and all of ObjectMeta is much.
func bodyOf(apiVersion, kind string, metadata metav1.ObjectMeta, fields map[string]any) map[string]any {
	given := map[string]any{"name": metadata.Name}
	if metadata.Namespace != "" {
		given["namespace"] = metadata.Namespace
	}
	if len(metadata.Labels) > 0 {
		given["labels"] = metadata.Labels
	}
	if len(metadata.Annotations) > 0 {
		given["annotations"] = metadata.Annotations
	}
	if len(metadata.OwnerReferences) > 0 {
		given["ownerReferences"] = metadata.OwnerReferences
	}
	fields["apiVersion"], fields["kind"], fields["metadata"] = apiVersion, kind, given
	return fields
}

func (c *Cluster) patch(ctx context.Context, resource, subject, name string, patch []byte, stored runtime.Object) error {
	request := c.client.Patch(types.MergePatchType).AbsPath(resourcePath(c.known().group, resource), name)
	return c.send(ctx, request, "patch", resource, subject, json.RawMessage(patch), stored)
}

func (c *Cluster) delete(ctx context.Context, resource, subject string, object metav1.ObjectMeta) error {
	request := c.client.Delete().AbsPath(resourcePath(c.known().group, resource), object.Name)
	return c.send(ctx, request, "delete", resource, subject, metav1.DeleteOptions{
		TypeMeta:      deleteOptions(),
		Preconditions: &metav1.Preconditions{UID: &object.UID, ResourceVersion: &object.ResourceVersion},
	}, nil)
}

// deleteOptions is the kind of the body of a deletion.
func deleteOptions() metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}
}

// send makes one request, once: to obey an API server that says when to come again
// is the keeper's business, which has other things to do meanwhile. The object that
// comes back is kept in stored, unless that is nil.
func (c *Cluster) send(ctx context.Context, request *rest.Request, verb, resource, subject string, body any, stored runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode %s: %w", subject, err)
	}
	if verb != "patch" {
		request = request.SetHeader("Content-Type", runtime.ContentTypeJSON)
	}
	result := request.MaxRetries(0).Body(data).Do(ctx)
	if err = result.Error(); err == nil && stored != nil {
		err = result.Into(stored)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, subject, explain(err, verb, resource))
	}
	return nil
}
