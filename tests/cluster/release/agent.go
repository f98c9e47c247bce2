package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
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

// Labels of what belongs to a release.
const (
	// SetLabel is on every policy, and on an endpoint that is armed: its value is the revision of the set of policies, and on an endpoint that
	// moves, behind a dot, that of the set it comes from.
	SetLabel = "host-firewall.io/set"
	// Label is on every endpoint, policy and network set; its value is the release's id.
	Label = "host-firewall.io/release"
)

// CarriedBy returns the set that an endpoint is armed with, or moves to; empty: it is not armed.
func CarriedBy(endpoint metav1.Object) string {
	set, _, _ := strings.Cut(endpoint.GetLabels()[SetLabel], ".")
	return set
}

// armLimit is how long all nodes may take to move to a set of policies: one after the other, where agents are replaced so, and each of them tries it
// for ten seconds first.
const armLimit = 3 * time.Minute

// armedLabels are those that an armed endpoint carries beside SetLabel, with the chart's own values.
var armedLabels = map[string]string{"host-endpoint": "ingress"}

// The FelixConfiguration that Calico's own installation makes.
const calicosOwn = "default"

// Cluster is what a release is installed into.
type Cluster interface {
	RESTConfig() (*rest.Config, error)
	Dynamic() (dynamic.Interface, error)
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
	return chartutil.CoalesceTables(map[string]any{"agent": map[string]any{"image": map[string]any{
		"repository": agentRepository, "tag": agentTag, "pullPolicy": string(corev1.PullNever),
	}}}, values)
}

// Calico is the API for one of Calico's resources, such as hostendpoints, in the group that a release would use too.
func Calico(c Cluster, resource string) (dynamic.ResourceInterface, error) {
	client, err := c.Dynamic()
	if err != nil {
		return nil, err
	}
	return client.Resource(c.CalicoGroup().WithResource(resource)), nil
}

// Leftovers lists the objects of Calico's that a release makes and that are in the cluster.
func Leftovers(ctx context.Context, c Cluster) ([]string, error) {
	var left []string
	for _, resource := range []string{"hostendpoints", "globalnetworkpolicies", "globalnetworksets", "felixconfigurations"} {
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

// Armed returns nil if the endpoint is armed, with whichever set of policies, else what labels it has instead.
func Armed(endpoint metav1.Object) error {
	if endpoint.GetLabels()[SetLabel] == "" {
		return fmt.Errorf("host endpoint %s is not armed: its labels are %v", endpoint.GetName(), endpoint.GetLabels())
	}
	return nil
}

// WaitArmed waits until every node has a ready agent and endpoints that are armed, with the chart's own labels.
func WaitArmed(ctx context.Context, c Cluster, namespace string) error {
	return Wait(ctx, c, namespace, Wanted{Armed: true, Labels: armedLabels})
}

// Wanted is what a release is to make of every node.
type Wanted struct {
	// Armed is false in mode off: then no endpoint is to be armed.
	Armed bool
	// Labels are those that an armed endpoint carries beside SetLabel, and no other one.
	Labels map[string]string
}

// Wait waits until the controller and an agent on every node are ready, of the newest template, and all endpoints are as wanted: armed with
// the set that the agents were rolled out with.
func Wait(ctx context.Context, c Cluster, namespace string, want Wanted) error {
	heps, err := Calico(c, "hostendpoints")
	if err != nil {
		return err
	}
	return cluster.Poll(ctx, armLimit, "every node to be as wanted", func(ctx context.Context) error {
		set, err := rolledOut(ctx, c, namespace)
		if err != nil {
			return err
		}
		list, err := heps.List(ctx, metav1.ListOptions{LabelSelector: Label})
		if err != nil {
			return err
		}
		covered := map[string]bool{}
		for _, e := range list.Items {
			if err := want.of(&e, set); err != nil {
				return err
			}
			node, _, err := unstructured.NestedString(e.Object, "spec", "node")
			if err != nil {
				return fmt.Errorf("read host endpoint %s: %w", e.GetName(), err)
			}
			covered[node] = true
		}
		for _, m := range c.Nodes() {
			if !covered[m.Name] {
				return fmt.Errorf("node %s has no host endpoint", m.Name)
			}
		}
		return nil
	})
}

// of returns nil if an endpoint is as wanted, of agents that were rolled out with the set.
func (want Wanted) of(endpoint metav1.Object, set string) error {
	if !want.Armed {
		set = ""
	}
	labels := endpoint.GetLabels()
	if got := labels[SetLabel]; got != set {
		return fmt.Errorf("host endpoint %s is to be armed with %q: its labels are %v", endpoint.GetName(), set, labels)
	}
	for k, v := range want.Labels {
		if got, ok := labels[k]; want.Armed != (ok && got == v) {
			return fmt.Errorf("host endpoint %s is to have the label %s, %t: its labels are %v", endpoint.GetName(), k, want.Armed, labels)
		}
	}
	return nil
}

// rolledOut returns the set of policies that the agents were rolled out with, once all of them and their controller are of the newest template and ready.
func rolledOut(ctx context.Context, c Cluster, namespace string) (set string, err error) {
	client, err := c.Client()
	if err != nil {
		return "", err
	}
	controllers, err := client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, d := range controllers.Items {
		if s := d.Status; s.ObservedGeneration != d.Generation || s.Replicas != 1 || s.UpdatedReplicas != 1 || s.ReadyReplicas != 1 {
			return "", fmt.Errorf("of %d controllers of %s %d are updated and %d ready", s.Replicas, d.Name, s.UpdatedReplicas, s.ReadyReplicas)
		}
		for _, env := range d.Spec.Template.Spec.Containers[0].Env {
			if env.Name == "HOST_FIREWALL_SET" {
				set = env.Value
			}
		}
	}
	agents, err := client.AppsV1().DaemonSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, ds := range agents.Items {
		nodes, s := int32(len(c.Nodes())), ds.Status
		if s.ObservedGeneration != ds.Generation || s.UpdatedNumberScheduled != nodes || s.NumberReady != nodes {
			return "", fmt.Errorf("of %d agents of %s %d are updated and %d ready", nodes, ds.Name, s.UpdatedNumberScheduled, s.NumberReady)
		}
		set = SetOf(ds.Spec.Template.Spec.Containers[0].Args)
	}
	if len(controllers.Items) == 0 || set == "" {
		return "", fmt.Errorf("there are %d controllers, and agents of the set %q", len(controllers.Items), set)
	}
	return set, nil
}

// SetOf returns the set of policies that an agent or a controller with these arguments looks after.
func SetOf(args []string) string {
	for _, arg := range args {
		if set, ok := strings.CutPrefix(arg, "--set="); ok {
			return set
		}
	}
	return ""
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
