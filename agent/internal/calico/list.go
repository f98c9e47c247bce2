package calico

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubejson "sigs.k8s.io/json"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// ListOwnEndpoints returns the endpoints of the release on the agent's Node.
func (c *Cluster) ListOwnEndpoints(ctx context.Context) ([]*v3.HostEndpoint, error) {
	selection := metav1.ListOptions{LabelSelector: c.ofNode(c.options.Node), ResourceVersion: fromCache}
	return ofCalico[v3.HostEndpoint](ctx, c, hostEndpoints, selection)
}

// ReadEndpoint returns the endpoint with that name, whosever it is, nil when there is none.
func (c *Cluster) ReadEndpoint(ctx context.Context, name string) (*v3.HostEndpoint, error) {
	return one(ofCalico[v3.HostEndpoint](ctx, c, hostEndpoints, byName(name)))
}

// ReadFelix returns the FelixConfiguration with that name, nil when there is none.
func (c *Cluster) ReadFelix(ctx context.Context, name string) (*failsafe.Configuration, error) {
	selection := byName(name)
	selection.ResourceVersion = fromCache
	return one(ofCalico[failsafe.Configuration](ctx, c, felixConfigurations, selection))
}

// one returns the only object of a list, nil when it is empty.
func one[T any](all []*T, err error) (*T, error) {
	if len(all) == 0 {
		return nil, err
	}
	return all[0], err
}

// read reads one object, if there is one.
func (c *Cluster) read(ctx context.Context, where, resource, subject string, into any) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	body, err := c.client.Get().AbsPath(where).MaxRetries(0).DoRaw(ctx)
	if codeOf(err) == http.StatusNotFound {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		return false, fmt.Errorf("get %s: %w", subject, explain(err, "get", resource))
	}
	return true, nil
}

// fromCache is the version that asks for a list from the API server's cache, which spares
// etcd.
const fromCache = "0"

// ofCalico lists the selected objects of one of Calico's resources.
func ofCalico[T any](ctx context.Context, c *Cluster, resource string, selection metav1.ListOptions) ([]*T, error) {
	group := c.known().group
	objects, err := list[T](ctx, c, resourcePath(group, resource), selection)
	for _, object := range objects {
		trim(group, any(object).(metav1.Object))
	}
	return objects, err
}

// list lists the selected objects, as the client of the watches decodes them. The request
// is made once, as those of send.
func list[T any](ctx context.Context, c *Cluster, where string, selection metav1.ListOptions) ([]*T, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	body, err := c.client.Get().AbsPath(where).VersionedParams(&selection, metav1.ParameterCodec).MaxRetries(0).DoRaw(ctx)
	var read struct {
		Items []*T `json:"items"`
	}
	if err == nil {
		err = kubejson.UnmarshalCaseSensitivePreserveInts(body, &read)
	}
	if err != nil {
		resource := path.Base(where)
		return nil, fmt.Errorf("list %s: %w", resource, explain(err, "list", resource))
	}
	return read.Items, nil
}
