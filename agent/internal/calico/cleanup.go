package calico

import (
	"context"
	"net/http"
	"path"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// This file is what only the command cleanup asks for.

// Group is one of Calico's API groups, served or not.
type Group struct{ Direct }

// Groups returns both of them, first the quicker one, which may show the same objects:
// Calico's own API server makes 50 requests a second, and 5 up to v3.28.
func (d *Direct) Groups() (groups []cleanup.Group) {
	for _, name := range []string{GroupCRD, GroupV3} {
		groups = append(groups, &Group{Direct{&Cluster{options: d.options, client: d.client, caches: &caches{group: name}}}})
	}
	return groups
}

// Name returns the name and version of the group.
func (g *Group) Name() string { return g.known().group }

// FelixConfigurations returns all of them, none where they are not served.
func (g *Group) FelixConfigurations(ctx context.Context) ([]*failsafe.Configuration, error) {
	return whereServed(ofCalico[failsafe.Configuration](ctx, g.Cluster, felixConfigurations, metav1.ListOptions{}))
}

// Objects returns all objects of a kind, none where they are not served.
func (g *Group) Objects(ctx context.Context, kind string) ([]*metav1.PartialObjectMetadata, error) {
	return whereServed(ofCalico[metav1.PartialObjectMetadata](ctx, g.Cluster, resourceOf(kind), metav1.ListOptions{}))
}

func whereServed[T any](all []*T, err error) ([]*T, error) {
	if codeOf(err) == http.StatusNotFound {
		return nil, nil
	}
	return all, err
}

// PatchObject applies a JSON merge patch to the object with that name.
func (g *Group) PatchObject(ctx context.Context, kind, name string, patch []byte) error {
	return g.patch(ctx, resourceOf(kind), kind+" "+name, name, patch, nil)
}

// DeleteObject deletes an object, in the very version that is given.
func (g *Group) DeleteObject(ctx context.Context, kind string, object metav1.Object) error {
	return g.delete(ctx, resourceOf(kind), kind+" "+object.GetName(),
		metav1.ObjectMeta{Name: object.GetName(), UID: object.GetUID(), ResourceVersion: object.GetResourceVersion()})
}

// Annotations returns the annotations of an object, and whether it is there.
func (d *Direct) Annotations(ctx context.Context, o cleanup.Object) (annotations map[string]string, there bool, err error) {
	read, err := d.get(ctx, o)
	if read == nil {
		return nil, false, err
	}
	return read.Metadata.Annotations, true, nil
}

// Delete deletes an object. In the foreground it is there until what it owns is gone.
func (d *Direct) Delete(ctx context.Context, o cleanup.Object, foreground bool) error {
	where, resource := placeOf(o)
	options := metav1.DeleteOptions{TypeMeta: deleteOptions()}
	if foreground {
		policy := metav1.DeletePropagationForeground
		options.PropagationPolicy = &policy
	}
	return d.send(ctx, d.client.Delete().AbsPath(where), "delete", resource, o.String(), options, nil)
}

// SetData merges data into that of a ConfigMap, which it may create.
func (d *Direct) SetData(ctx context.Context, configMap cleanup.Object, data map[string]string, create bool) error {
	where, resource := placeOf(configMap)
	fields := map[string]any{"data": data}
	err := d.send(ctx, d.client.Patch(types.MergePatchType).AbsPath(where), "patch", resource, configMap.String(), fields, nil)
	if codeOf(err) != http.StatusNotFound || !create {
		return err
	}
	body := bodyOf("v1", configMap.Kind, metav1.ObjectMeta{Name: configMap.Name, Labels: map[string]string{endpoint.ReleaseLabel: d.options.Release}}, fields)
	return d.send(ctx, d.client.Post().AbsPath(path.Dir(where)), "create", resource, configMap.String(), body, nil)
}
