package calico

import (
	"context"
	"fmt"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/verify"
)

// This file is what only the command verify asks for.

// Rollout returns how far agents and controller are.
func (d *Direct) Rollout(ctx context.Context, namespace, daemonSet, deployment string) (r verify.Rollout, err error) {
	set, err := d.mustGet(ctx, cleanup.Object{Kind: "DaemonSet", Namespace: namespace, Name: daemonSet})
	if err != nil {
		return r, err
	}
	controller, err := d.mustGet(ctx, cleanup.Object{Kind: "Deployment", Namespace: namespace, Name: deployment})
	if err != nil {
		return r, err
	}
	pods, err := list[object](ctx, d.Cluster, "Pod", namespace, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(&set.Spec.Selector)})
	if err != nil {
		return r, err
	}
	status := controller.Status
	r.Controller = controller.observed() && status.UpdatedReplicas > 0 && status.ReadyReplicas >= status.Replicas
	r.Wanted = set.Status.DesiredNumberScheduled
	if set.observed() {
		r.Updated = set.Status.UpdatedNumberScheduled
	}
	for _, p := range pods {
		if p.Metadata.DeletionTimestamp == nil && p.Spec.NodeName != "" {
			ready, since := p.ready()
			r.Agents = append(r.Agents, verify.Agent{Node: p.Spec.NodeName, Pod: p.Metadata.Name, Ready: ready, Since: since})
		}
	}
	return r, nil
}

// ready tells whether a Pod is ready, and since when it is or is not; zero where nobody
// has said yet.
func (o *object) ready() (ready bool, since time.Time) {
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
	}
	return false, time.Time{}
}

// mustGet is get where absence is an error.
func (d *Direct) mustGet(ctx context.Context, o cleanup.Object) (*object, error) {
	read, err := d.get(ctx, o)
	if err == nil && read == nil {
		err = fmt.Errorf("%s is not there", o)
	}
	return read, err
}

// ConfigMap returns what a ConfigMap says, nothing where there is none.
func (d *Direct) ConfigMap(ctx context.Context, namespace, name string) (data, annotations map[string]string, err error) {
	read, err := d.get(ctx, cleanup.Object{Kind: "ConfigMap", Namespace: namespace, Name: name})
	if read == nil {
		return nil, nil, err
	}
	return read.Data, read.Metadata.Annotations, nil
}

// Nodes returns the names of all Nodes.
func (d *Direct) Nodes(ctx context.Context) (names []string, err error) {
	all, err := list[metav1.PartialObjectMetadata](ctx, d.Cluster, "Node", "", metav1.ListOptions{})
	for _, node := range all {
		names = append(names, node.Name)
	}
	return names, err
}

// Policies returns the policies of the release, as the API server has them now.
func (d *Direct) Policies(ctx context.Context) (policies []*policyset.Policy, err error) {
	all, err := list[policy](ctx, d.Cluster, v3.KindGlobalNetworkPolicy, "", metav1.ListOptions{LabelSelector: d.ofRelease()})
	for _, p := range all {
		policies = append(policies, p.whole())
	}
	return policies, err
}
