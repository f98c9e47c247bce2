package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

// The agent's image as the cluster has it.
const (
	agentRepository = "host-firewall.test/agent"
	agentTag        = "dev"
)

// Labels of a host endpoint that is armed, with the chart's own values.
var armingLabels = map[string]string{"host-endpoint": "ingress"}

// The FelixConfiguration that Calico's own installation makes.
const calicosOwn = "default"

// Cluster is what a release is installed into.
type Cluster interface {
	RESTConfig() (*rest.Config, error)
	Client() (kubernetes.Interface, error)
	Nodes() []cluster.Member
	// CalicoGroup is the API group that a release uses there.
	CalicoGroup() schema.GroupVersion
	// Load imports an image archive on every node.
	Load(ctx context.Context, archive string) error
}

// AgentImage is the agent's image with a tag.
func AgentImage(tag string) string { return agentRepository + ":" + tag }

// LoadAgent builds the agent's image and imports it on every node.
func LoadAgent(ctx context.Context, root string, c Cluster, out io.Writer) error {
	archive := filepath.Join(cluster.Folder(root), "agent.tar")
	if err := image.Agent(ctx, root, AgentImage(agentTag), archive, "", agentTag, out); err != nil {
		return err
	}
	return c.Load(ctx, archive)
}

// Values are a user's values, and those that make a release use the image of LoadAgent.
func Values(values map[string]any) map[string]any {
	merged := map[string]any{"agent": map[string]any{"image": map[string]any{
		"repository": agentRepository, "tag": agentTag, "pullPolicy": string(corev1.PullNever),
	}}}
	for k, v := range values {
		merged[k] = v
	}
	return merged
}

// Calico is the API for one of Calico's resources, such as hostendpoints, in the group that a release would use too.
func Calico(c Cluster, resource string) (dynamic.ResourceInterface, error) {
	config, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client.Resource(c.CalicoGroup().WithResource(resource)), nil
}

// Leftovers lists the objects of Calico's that a release makes and that are in the cluster.
func Leftovers(ctx context.Context, c Cluster) ([]string, error) {
	var left []string
	for _, resource := range []string{"hostendpoints", "globalnetworkpolicies", "felixconfigurations"} {
		client, err := Calico(c, resource)
		if err != nil {
			return nil, err
		}
		list, err := client.List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", resource, err)
		}
		for _, o := range list.Items {
			if o.GetName() == calicosOwn {
				continue
			}
			left = append(left, resource+" "+o.GetName())
		}
	}
	return left, nil
}

// Armed returns nil if the endpoint carries the arming labels, else what it has instead.
func Armed(endpoint metav1.Object) error {
	labels := endpoint.GetLabels()
	for k, v := range armingLabels {
		if labels[k] != v {
			return fmt.Errorf("host endpoint %s is not armed: its labels are %v", endpoint.GetName(), labels)
		}
	}
	return nil
}

// WaitArmed waits until every node has an armed endpoint and a ready agent.
func WaitArmed(ctx context.Context, c Cluster, namespace string) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	heps, err := Calico(c, "hostendpoints")
	if err != nil {
		return err
	}
	return cluster.Poll(ctx, time.Minute, "every node to be armed", func(ctx context.Context) error {
		for _, m := range c.Nodes() {
			e, err := heps.Get(ctx, m.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if err := Armed(e); err != nil {
				return err
			}
		}
		sets, err := client.AppsV1().DaemonSets(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, ds := range sets.Items {
			if ds.Status.NumberReady != int32(len(c.Nodes())) || ds.Status.ObservedGeneration != ds.Generation {
				return fmt.Errorf("%d of %d agents of %s are ready", ds.Status.NumberReady, len(c.Nodes()), ds.Name)
			}
		}
		return nil
	})
}

// MeasureRepair deletes a node's endpoint and returns how long it took until it was back and armed.
func MeasureRepair(ctx context.Context, c Cluster, node string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	heps, err := Calico(c, "hostendpoints")
	if err != nil {
		return 0, err
	}
	list, err := heps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list host endpoints: %w", err)
	}
	events, err := heps.Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, node).String(),
		ResourceVersion: list.GetResourceVersion(),
	})
	if err != nil {
		return 0, fmt.Errorf("watch host endpoint: %w", err)
	}
	defer events.Stop()
	start := time.Now()
	if err := heps.Delete(ctx, node, metav1.DeleteOptions{}); err != nil {
		return 0, fmt.Errorf("delete host endpoint: %w", err)
	}
	deleted, last := false, errors.New("it was not deleted")
	for e := range events.ResultChan() {
		endpoint, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			return 0, fmt.Errorf("watch host endpoint: %v", e.Object)
		}
		if e.Type == watch.Deleted {
			deleted, last = true, errors.New("it was deleted and has not come back")
		} else if deleted {
			if last = Armed(endpoint); last == nil {
				return time.Since(start), nil
			}
		}
	}
	return 0, fmt.Errorf("wait for the host endpoint of %s to come back: %w", node, last)
}
