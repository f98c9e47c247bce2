package calico

import (
	"context"
	"encoding/json"
	"net/http"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// This file is what only the command cleanup asks for.

// Groups returns both of Calico's API groups, served or not, first the quicker one, which
// may show the same objects: Calico's own API server makes 50 requests a second, and 5 up
// to v3.28.
func (d *Direct) Groups() (groups []cleanup.Group) {
	for _, name := range []string{GroupCRD, GroupV3} {
		groups = append(groups, &Direct{&Cluster{options: d.options, client: d.client, group: name}})
	}
	return groups
}

// Name returns the name and version of the group.
func (d *Direct) Name() string { return d.group }

// FelixConfigurations returns all of them.
func (d *Direct) FelixConfigurations(ctx context.Context) ([]*failsafe.Configuration, error) {
	return list[failsafe.Configuration](ctx, d.Cluster, v3.KindFelixConfiguration, metav1.ListOptions{})
}

// Objects returns all objects of a kind.
func (d *Direct) Objects(ctx context.Context, kind string) ([]*metav1.PartialObjectMetadata, error) {
	return list[metav1.PartialObjectMetadata](ctx, d.Cluster, kind, metav1.ListOptions{})
}

// PatchObject applies a JSON merge patch to the object with that name.
func (d *Direct) PatchObject(ctx context.Context, kind, name string, patch []byte) error {
	return d.send(ctx, "patch", cleanup.Object{Kind: kind, Name: name}, json.RawMessage(patch), nil)
}

// DeleteObject deletes an object, in the very version that is given.
func (d *Direct) DeleteObject(ctx context.Context, kind string, object metav1.Object) error {
	return d.delete(ctx, kind, object)
}

// Annotations returns the annotations of an object, and whether it is there.
func (d *Direct) Annotations(ctx context.Context, o cleanup.Object) (annotations map[string]string, there bool, err error) {
	var read metav1.PartialObjectMetadata
	there, err = d.Read(ctx, o.Kind, o.Namespace, o.Name, &read)
	return read.Annotations, there, err
}

// Delete deletes an object. In the foreground it is there until what it owns is gone.
func (d *Direct) Delete(ctx context.Context, o cleanup.Object, foreground bool) error {
	var options metav1.DeleteOptions
	if foreground {
		options.PropagationPolicy = new(metav1.DeletePropagationForeground)
	}
	return d.send(ctx, "delete", o, options, nil)
}

// SetData merges data into that of a ConfigMap, which it may create.
func (d *Direct) SetData(ctx context.Context, o cleanup.Object, data map[string]string, create bool) error {
	err := d.send(ctx, "patch", o, map[string]any{"data": data}, nil)
	if codeOf(err) != http.StatusNotFound || !create {
		return err
	}
	labels := map[string]string{endpoint.ReleaseLabel: d.options.Release}
	return d.send(ctx, "create", o, &configMap{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, Labels: labels}, Data: data}, nil)
}
