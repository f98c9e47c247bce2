package calico

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// Cleaner is the API server as the command cleanup sees it: without caches, for
// it looks once. Its methods may be called from any goroutine; those on Calico's
// objects only once Served has returned true.
type Cleaner struct {
	*Cluster
}

// NewCleaner returns a Cleaner for the API server of config. It makes no request.
// An error means that config can't be used.
func NewCleaner(config *rest.Config, options Options) (*Cleaner, error) {
	config = rest.CopyConfig(config)
	// It works on all nodes at once, and says itself how many requests at a time.
	config.RateLimiter = unlimited{}
	cluster, err := New(config, options)
	if err != nil {
		return nil, err
	}
	return &Cleaner{cluster}, nil
}

// Served tells whether the API server serves Calico's objects at all.
func (c *Cleaner) Served(ctx context.Context) (bool, error) {
	groups := []string{GroupV3, GroupCRD}
	if c.options.APIGroup != "" {
		groups = []string{c.options.APIGroup}
	}
	for _, group := range groups {
		served, err := c.serves(ctx, group)
		if err != nil {
			return false, err
		}
		if served {
			c.mu.Lock()
			c.caches = &caches{group: group}
			c.mu.Unlock()
			return true, nil
		}
	}
	return false, nil
}

// StopDaemonSet deletes a DaemonSet. Kubernetes keeps the object until its pods
// are gone, so that there is nothing else to watch. It returns whether the
// DaemonSet is still there, and how many pods it had when it last looked.
func (c *Cleaner) StopDaemonSet(ctx context.Context, namespace, name string) (there bool, pods int, err error) {
	const resource = "daemonsets"
	subject := fmt.Sprintf("DaemonSet %s/%s", namespace, name)
	where := path.Join("/apis/apps/v1/namespaces", namespace, resource, name)
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	body, err := c.client.Get().AbsPath(where).MaxRetries(0).DoRaw(ctx)
	if codeOf(err) == http.StatusNotFound {
		return false, 0, nil
	}
	// The whole type is a large part of Kubernetes' API.
	var set struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Status   struct {
			CurrentNumberScheduled int `json:"currentNumberScheduled"`
		} `json:"status"`
	}
	if err == nil {
		err = json.Unmarshal(body, &set)
	}
	if err != nil {
		return true, 0, fmt.Errorf("get %s: %w", subject, explain(err, "get", resource))
	}
	pods = set.Status.CurrentNumberScheduled
	if set.Metadata.DeletionTimestamp != nil {
		return true, pods, nil
	}
	foreground := metav1.DeletePropagationForeground
	options, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions:     &metav1.Preconditions{UID: &set.Metadata.UID},
		PropagationPolicy: &foreground,
	})
	if err != nil {
		return true, pods, fmt.Errorf("encode deletion of %s: %w", subject, err)
	}
	err = c.client.Delete().AbsPath(where).SetHeader("Content-Type", runtime.ContentTypeJSON).MaxRetries(0).Body(options).Do(ctx).Error()
	if err != nil && codeOf(err) != http.StatusNotFound {
		return true, pods, fmt.Errorf("delete %s: %w", subject, explain(err, "delete", resource))
	}
	return true, pods, nil
}

// Endpoints returns all HostEndpoints, whosever they are, as the API server has
// them now.
func (c *Cleaner) Endpoints(ctx context.Context) ([]*v3.HostEndpoint, error) {
	return newest[v3.HostEndpoint](ctx, c, hostEndpoints)
}

// PatchEndpoint applies a JSON merge patch to the endpoint with that name.
func (c *Cleaner) PatchEndpoint(ctx context.Context, name string, patch []byte) error {
	_, err := c.Cluster.PatchEndpoint(ctx, name, patch)
	return err
}

// FelixConfigurations returns all FelixConfigurations, as the API server has them
// now.
func (c *Cleaner) FelixConfigurations(ctx context.Context) ([]*v3.FelixConfiguration, error) {
	return newest[v3.FelixConfiguration](ctx, c, felixConfigurations)
}

// newest lists all objects of a resource, not from the API server's cache.
func newest[T any](ctx context.Context, c *Cleaner, resource string) (objects []*T, err error) {
	group := c.known().group
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	body, err := c.get(group, resource, metav1.ListOptions{}).Stream(ctx)
	if err == nil {
		defer body.Close()
		err = decodeItems(body, func(object *T) {
			_, _ = strip(group)(object)
			objects = append(objects, object)
		})
	}
	switch {
	case codeOf(err) == http.StatusNotFound:
		return nil, nil // where the resource is not served there are none
	case err != nil:
		return nil, fmt.Errorf("list %s: %w", resource, explain(err, "list", resource))
	}
	return objects, nil
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
