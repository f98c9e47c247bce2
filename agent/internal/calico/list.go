package calico

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"reflect"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubejson "sigs.k8s.io/json"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// ListOwnEndpoints returns the endpoints of the release on the agent's Node.
func (c *Cluster) ListOwnEndpoints(ctx context.Context) ([]*v3.HostEndpoint, error) {
	return list[v3.HostEndpoint](ctx, c, v3.KindHostEndpoint, metav1.ListOptions{LabelSelector: c.ofNode(c.options.Node), ResourceVersion: fromCache})
}

// ReadEndpoint returns the endpoint with that name, whosever it is, nil when there is none.
func (c *Cluster) ReadEndpoint(ctx context.Context, name string) (*v3.HostEndpoint, error) {
	return one(list[v3.HostEndpoint](ctx, c, v3.KindHostEndpoint, byName(name)))
}

// ReadFelix returns the FelixConfiguration with that name, nil when there is none.
func (c *Cluster) ReadFelix(ctx context.Context, name string) (*failsafe.Configuration, error) {
	selection := byName(name)
	selection.ResourceVersion = fromCache
	return one(list[failsafe.Configuration](ctx, c, v3.KindFelixConfiguration, selection))
}

// fromCache is the version that asks for a list from the API server's cache, which spares
// etcd.
const fromCache = "0"

// one returns the only object of a list, nil when it is empty.
func one[T any](all []*T, err error) (*T, error) {
	if len(all) == 0 {
		return nil, err
	}
	return all[0], err
}

// list lists the selected objects of a kind of Calico's.
func list[T any](ctx context.Context, c *Cluster, kind string, selected metav1.ListOptions) (items []*T, err error) {
	err = c.List(ctx, kind, "", selected, &items)
	return items, err
}

// List lists the selected objects of a kind, as the client of the watches decodes them, into a
// slice of pointers to what is to be read of each.
func (c *Cluster) List(ctx context.Context, kind, namespace string, selected metav1.ListOptions, into any) error {
	read := struct {
		Items any `json:"items"`
	}{into}
	resource := resourceOf(kind)
	err := c.ask(ctx, "list", resource, resource, c.pathOf(cleanup.Object{Kind: kind, Namespace: namespace}), &selected, &read)
	items := reflect.ValueOf(into).Elem()
	for i := range items.Len() {
		if object, ok := items.Index(i).Interface().(metav1.Object); ok {
			trim(c.group, object)
		}
	}
	return err
}

// Read reads an object as JSON, and tells whether it is there.
func (c *Cluster) Read(ctx context.Context, kind, namespace, name string, into any) (found bool, err error) {
	o := cleanup.Object{Kind: kind, Namespace: namespace, Name: name}
	err = c.ask(ctx, "get", o.String(), resourceOf(o.Kind), c.pathOf(o), &metav1.ListOptions{}, into)
	if codeOf(err) == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// ask makes one request, once, as send does. An error names the subject.
func (c *Cluster) ask(ctx context.Context, verb, subject, resource, where string, selection *metav1.ListOptions, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := c.client.Get().AbsPath(where).VersionedParams(selection, metav1.ParameterCodec).MaxRetries(0).DoRaw(ctx)
	if err == nil {
		err = kubejson.UnmarshalCaseSensitivePreserveInts(body, into)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, subject, explain(err, verb, resource))
	}
	return nil
}

// pathOf is where the API server serves an object, or without a name all of a kind.
func (c *Cluster) pathOf(o cleanup.Object) string {
	group := c.groupOf(o.Kind)
	where := path.Join("/apis", group)
	if group == "v1" {
		where = "/api/v1"
	}
	if o.Namespace != "" {
		where = path.Join(where, "namespaces", o.Namespace)
	}
	return path.Join(where, resourceOf(o.Kind), o.Name)
}

// groupOf is the group and version of a kind.
func (c *Cluster) groupOf(kind string) string {
	switch kind {
	case "ConfigMap", "Event", "Node", "Pod", "PodTemplate", "ServiceAccount":
		return "v1"
	case "DaemonSet", "Deployment":
		return "apps/v1"
	case "EndpointSlice":
		return "discovery.k8s.io/v1"
	}
	return c.group
}

// resourceOf is how the API server calls the objects of a kind.
func resourceOf(kind string) string {
	plural, _ := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Kind: kind})
	return plural.Resource
}
