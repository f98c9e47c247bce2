package calico

import (
	"context"
	"fmt"
	"path"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Direct is the API server as a command sees it: without caches, for it runs once
// and looks at all nodes. Its methods may be called from any goroutine; those on
// Calico's objects only once Served has returned true.
type Direct struct {
	*Cluster
}

// NewDirect returns a Direct for the API server of config. It makes no request.
// An error means that config can't be used.
func NewDirect(config *rest.Config, options Options) (*Direct, error) {
	config = rest.CopyConfig(config)
	// A command says itself how many requests it makes at a time.
	config.RateLimiter = unlimited{}
	cluster, err := New(config, options)
	if err != nil {
		return nil, err
	}
	return &Direct{cluster}, nil
}

// Served tells whether the API server serves Calico's objects at all.
func (d *Direct) Served(ctx context.Context) (bool, error) {
	groups := []string{GroupV3, GroupCRD}
	if d.options.APIGroup != "" {
		groups = []string{d.options.APIGroup}
	}
	for _, group := range groups {
		served, err := d.serves(ctx, group)
		if err != nil {
			return false, err
		}
		if served {
			d.mu.Lock()
			d.caches = &caches{group: group}
			d.mu.Unlock()
			return true, nil
		}
	}
	return false, nil
}

// Endpoints returns all HostEndpoints, whosever they are, as the API server has
// them now.
func (d *Direct) Endpoints(ctx context.Context) ([]*v3.HostEndpoint, error) {
	return ofCalico[v3.HostEndpoint](ctx, d, hostEndpoints, "")
}

// ofCalico lists the objects of one of Calico's resources with the labels.
func ofCalico[T any](ctx context.Context, d *Direct, resource, labels string) ([]*T, error) {
	group := d.known().group
	objects, err := newest[T](ctx, d, resourcePath(group, resource), labels)
	for _, object := range objects {
		trim(group, any(object).(metav1.Object))
	}
	return objects, err
}

// newest lists the objects with the labels, not from the API server's cache.
func newest[T any](ctx context.Context, d *Direct, where, labels string) (objects []*T, err error) {
	resource := path.Base(where)
	options := metav1.ListOptions{LabelSelector: labels}
	request := d.client.Get().AbsPath(where).VersionedParams(&options, metav1.ParameterCodec).MaxRetries(0)
	err = streamItems(ctx, request, func(object *T) error { objects = append(objects, object); return nil })
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", resource, explain(err, "list", resource))
	}
	return objects, nil
}

const (
	daemonSets      = "daemonsets"
	endpointSlices  = "endpointslices"
	pods            = "pods"
	serviceAccounts = "serviceaccounts"
)

// daemonSet is what the commands look at. The whole type is a large part of
// Kubernetes' API.
type daemonSet struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Selector metav1.LabelSelector `json:"selector"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration     int64 `json:"observedGeneration"`
		CurrentNumberScheduled int   `json:"currentNumberScheduled"`
		DesiredNumberScheduled int   `json:"desiredNumberScheduled"`
		UpdatedNumberScheduled int   `json:"updatedNumberScheduled"`
	} `json:"status"`
}

// daemonSet reads a DaemonSet, nil where there is none.
func (d *Direct) daemonSet(ctx context.Context, namespace, name string) (*daemonSet, error) {
	set := &daemonSet{}
	found, err := d.read(ctx, daemonSetPath(namespace, name), daemonSets, "DaemonSet "+namespace+"/"+name, set)
	if !found {
		return nil, err
	}
	return set, nil
}

func daemonSetPath(namespace, name string) string {
	return path.Join(namespacePath("apps/v1", namespace, daemonSets), name)
}

// namespacePath is where the API server serves a resource of a namespace.
func namespacePath(group, namespace, resource string) string {
	return path.Join(resourcePath(group, "namespaces"), namespace, resource)
}

// unlimited is a rate limiter that does not limit.
type unlimited struct{}

// TryAccept takes every request.
func (unlimited) TryAccept() bool { return true }

// Accept takes every request.
func (unlimited) Accept() {}

// Stop has nothing to stop.
func (unlimited) Stop() {}

// QPS is the limit that there is not.
func (unlimited) QPS() float32 { return -1 }

// Wait does not.
func (unlimited) Wait(ctx context.Context) error { return ctx.Err() }
