package calico

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	kubejson "sigs.k8s.io/json"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// The lists here come from the API server's own cache (resourceVersion 0), which
// spares etcd when thousands of agents ask at once, and are read object by object
// as they arrive, so that the answer never is in memory as a whole.

// CountNodes returns how many Nodes there are, and the name of the first one. The API
// server sends only that, but goes through all.
func (c *Cluster) CountNodes(ctx context.Context) (count int, first string, err error) {
	return c.count(ctx, "v1", "nodes")
}

// CountEndpoints returns how many endpoints there are, whosever they are, in the same
// way.
func (c *Cluster) CountEndpoints(ctx context.Context) (int, error) {
	count, _, err := c.count(ctx, c.known().group, hostEndpoints)
	return count, err
}

// FirstEndpoint returns the name of the release's first endpoint, empty when there is
// none.
func (c *Cluster) FirstEndpoint(ctx context.Context) (name string, err error) {
	err = c.first(ctx, c.ofRelease(), func(hep *v3.HostEndpoint) { name = hep.Name })
	return name, err
}

// AnyArmed tells whether any endpoint is the release's and has these labels too. It
// reads no more than the first that is.
func (c *Cluster) AnyArmed(ctx context.Context, arming map[string]string) (armed bool, err error) {
	err = c.first(ctx, c.ofRelease()+","+labels.Set(arming).String(), func(*v3.HostEndpoint) { armed = true })
	return armed, err
}

// first passes on the first endpoint with such labels, if there is one, and reads no
// other.
func (c *Cluster) first(ctx context.Context, selector string, found func(*v3.HostEndpoint)) error {
	selection := byLabel("")
	if c.known().group != GroupV3 {
		selection = firstOne()
	}
	selection.LabelSelector = selector
	return list(ctx, c, c.known().group, hostEndpoints, selection, func(hep *v3.HostEndpoint) error {
		found(hep)
		return errEnough
	})
}

// ListNodes returns the Node with that name, or all when it is empty, each with its
// name, conditions and addresses only.
func (c *Cluster) ListNodes(ctx context.Context, name string) ([]corev1.Node, error) {
	selection := metav1.ListOptions{ResourceVersion: fromCache}
	if name != "" {
		selection.FieldSelector = byName(name).FieldSelector
	}
	var nodes []corev1.Node
	err := list(ctx, c, "v1", "nodes", selection, func(n *node) error {
		nodes = append(nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}, Status: n.whole().Status})
		return nil
	})
	return nodes, err
}

// ListEndpoints returns the endpoints of the release on that Node, or on all when
// it is empty, each with its node, addresses and the label of the release only.
func (c *Cluster) ListEndpoints(ctx context.Context, node string) ([]v3.HostEndpoint, error) {
	selector := c.ofRelease()
	if node != "" {
		selector = c.ofNode(node)
	}
	var endpoints []v3.HostEndpoint
	err := list(ctx, c, c.known().group, hostEndpoints, byLabel(selector), func(hep *v3.HostEndpoint) error {
		endpoints = append(endpoints, v3.HostEndpoint{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{endpoint.ReleaseLabel: c.options.Release}},
			Spec:       v3.HostEndpointSpec{Node: hep.Spec.Node, ExpectedIPs: hep.Spec.ExpectedIPs},
		})
		return nil
	})
	return endpoints, err
}

// ListOwnEndpoints returns the endpoints of the release on the agent's Node.
func (c *Cluster) ListOwnEndpoints(ctx context.Context) (own []*v3.HostEndpoint, err error) {
	group := c.known().group
	err = list(ctx, c, group, hostEndpoints, byLabel(c.ofNode(c.options.Node)), func(hep *v3.HostEndpoint) error {
		trim(group, hep)
		own = append(own, hep)
		return nil
	})
	return own, err
}

// ListForeignEndpoints returns the endpoints of the agent's Node that are not
// labelled as the release's, and how many there are of all nodes.
func (c *Cluster) ListForeignEndpoints(ctx context.Context) (here []*v3.HostEndpoint, all int, err error) {
	group := c.known().group
	err = list(ctx, c, group, hostEndpoints, byLabel(c.notOfRelease()), func(hep *v3.HostEndpoint) error {
		all++
		if hep.Spec.Node == c.options.Node {
			trim(group, hep)
			here = append(here, hep)
		}
		return nil
	})
	return here, all, err
}

// ReadFelix returns the FelixConfiguration with that name, nil when there is none.
func (c *Cluster) ReadFelix(ctx context.Context, name string) (found *failsafe.Configuration, err error) {
	group := c.known().group
	selection := byName(name)
	selection.ResourceVersion = fromCache
	err = list(ctx, c, group, felixConfigurations, selection, func(configuration *failsafe.Configuration) error {
		trim(group, configuration)
		found = configuration
		return nil
	})
	return found, err
}

// APIServer returns the addresses and TCP ports at which API servers listen, as they say
// themselves. Where they say nothing, nobody can tell.
func (c *Cluster) APIServer(ctx context.Context) (addresses []string, ports []uint16, err error) {
	const namespace, name = "default", "kubernetes"
	var slice struct {
		Endpoints []struct{ Addresses []string }
		Ports     []struct{ Port uint16 }
	}
	where := path.Join(namespacePath("discovery.k8s.io/v1", namespace, endpointSlices), name)
	if _, err := c.read(ctx, where, endpointSlices, "EndpointSlice "+namespace+"/"+name, &slice); err != nil {
		return nil, nil, err
	}
	for _, endpoint := range slice.Endpoints {
		addresses = append(addresses, endpoint.Addresses...)
	}
	for _, port := range slice.Ports {
		ports = append(ports, port.Port)
	}
	return addresses, ports, nil
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

// count asks for one object, whose name it returns, and for how many more there are.
func (c *Cluster) count(ctx context.Context, group, resource string) (count int, first string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var page struct {
		Metadata struct {
			Continue           string
			RemainingItemCount *int
		}
		Items []struct{ Metadata struct{ Name string } }
	}
	selection := metav1.ListOptions{Limit: 1}
	if group != GroupV3 {
		selection = firstOne()
	}
	body, err := c.get(group, resource, selection).DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(body, &page)
	}
	if err != nil {
		return 0, "", fmt.Errorf("count %s: %w", resource, explain(err, "list", resource))
	}
	if count = len(page.Items); count > 0 {
		first = page.Items[0].Metadata.Name
	}
	if page.Metadata.Continue == "" {
		return count, first, nil
	}
	if page.Metadata.RemainingItemCount == nil {
		return 0, "", fmt.Errorf("count %s: the API server does not say how many there are", resource)
	}
	return count + *page.Metadata.RemainingItemCount, first, nil
}

// fromCache is the version that asks for a list from the API server's cache.
const fromCache = "0"

// byLabel selects from the API server's cache.
func byLabel(selector string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: selector, ResourceVersion: fromCache}
}

// firstOne selects the first object, from the API server's cache too: there a list
// ends after Limit objects only when it asks for a version, and any is as new as this
// one. Calico's own API server may take a version at its word, and has no limits.
func firstOne() metav1.ListOptions {
	return metav1.ListOptions{ResourceVersion: "1", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, Limit: 1}
}

// errEnough ends a list before its end.
var errEnough = errors.New("enough")

// list passes on the selected objects, one by one.
func list[T any](ctx context.Context, c *Cluster, group, resource string, selection metav1.ListOptions, each func(*T) error) error {
	err := streamItems(ctx, c.get(group, resource, selection), each)
	if err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("list %s: %w", resource, explain(err, "list", resource))
	}
	return nil
}

// streamItems passes on what a request lists, as it arrives.
func streamItems[T any](ctx context.Context, request *rest.Request, each func(*T) error) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	body, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	return decodeItems(body, each)
}

// get is a request for some objects, made once as those of send.
func (c *Cluster) get(group, resource string, options metav1.ListOptions) *rest.Request {
	return c.client.Get().AbsPath(resourcePath(group, resource)).VersionedParams(&options, metav1.ParameterCodec).MaxRetries(0)
}

// decodeItems reads a list in JSON, as the client of the watches does, and passes on
// its items as they come, until there is an error.
func decodeItems[T any](body io.Reader, each func(*T) error) error {
	decoder := kubejson.NewDecoderCaseSensitivePreserveInts(body)
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return errors.Join(errors.New("the answer is not a list"), err)
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		if key != "items" {
			if err := decoder.Decode(&json.RawMessage{}); err != nil {
				return err
			}
			continue
		}
		if start, err := decoder.Token(); err != nil || start != json.Delim('[') {
			return errors.Join(errors.New("the items of the answer are no list"), err)
		}
		for decoder.More() {
			item := new(T)
			if err := decoder.Decode(item); err != nil {
				return err
			}
			if err := each(item); err != nil {
				return err
			}
		}
		if _, err := decoder.Token(); err != nil {
			return err
		}
	}
	_, err := decoder.Token()
	return err
}
