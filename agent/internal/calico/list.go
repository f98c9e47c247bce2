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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	kubejson "sigs.k8s.io/json"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// The lists here come from the API server's own cache (resourceVersion 0), which
// spares etcd when thousands of agents ask at once, and are read object by object
// as they arrive, so that the answer never is in memory as a whole.

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

// ReadEndpoint returns the endpoint with that name, whosever it is, nil when there is none.
func (c *Cluster) ReadEndpoint(ctx context.Context, name string) (found *v3.HostEndpoint, err error) {
	group := c.known().group
	err = list(ctx, c, group, hostEndpoints, byName(name), func(hep *v3.HostEndpoint) error {
		trim(group, hep)
		found = hep
		return nil
	})
	return found, err
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
	const namespace, name, endpointSlices = "default", "kubernetes", "endpointslices"
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

// fromCache is the version that asks for a list from the API server's cache.
const fromCache = "0"

// byLabel selects from the API server's cache.
func byLabel(selector string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: selector, ResourceVersion: fromCache}
}

// list passes on the selected objects, one by one.
func list[T any](ctx context.Context, c *Cluster, group, resource string, selection metav1.ListOptions, each func(*T) error) error {
	err := streamItems(ctx, c.get(group, resource, selection), each)
	if err != nil {
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
