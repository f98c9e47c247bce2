package calico

import (
	"context"
	"fmt"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/status"
)

// Look reads once, for the command status, what says how the release is. That its DaemonSet
// or its Deployment is not there is an error.
func (d *Direct) Look(ctx context.Context) (s status.Seen, err error) {
	if err = d.Find(ctx); err != nil {
		return s, err
	}
	var controller *object
	var said []*configMap
	var all []*metav1.PartialObjectMetadata
	var policies []*policy
	reading, ctx := errgroup.WithContext(ctx)
	reading.Go(func() error { return d.lookAtAgents(ctx, &s) })
	reading.Go(func() (err error) {
		controller, err = d.workload(ctx, "Deployment", d.options.Release+"-controller")
		return err
	})
	listInto(ctx, reading, d, &said, cleanup.Object{Kind: "ConfigMap", Namespace: d.options.Namespace}, byName(d.options.Release))
	listInto(ctx, reading, d, &all, cleanup.Object{Kind: "Node"}, metav1.ListOptions{})
	listInto(ctx, reading, d, &s.Endpoints, cleanup.Object{Kind: v3.KindHostEndpoint}, metav1.ListOptions{})
	listInto(ctx, reading, d, &policies, cleanup.Object{Kind: v3.KindGlobalNetworkPolicy}, metav1.ListOptions{LabelSelector: d.ofRelease()})
	if err = reading.Wait(); err != nil {
		return s, err
	}
	s.Controller = observed(controller) && controller.Status.UpdatedReplicas > 0 && controller.Status.ReadyReplicas >= controller.Status.Replicas
	if len(said) > 0 {
		s.Data, s.Annotations = said[0].Data, said[0].Annotations
	}
	for _, node := range all {
		s.Nodes = append(s.Nodes, node.Name)
	}
	for _, p := range policies {
		s.Policies = append(s.Policies, policyset.Of(p.ObjectMeta, p.Spec))
	}
	return s, nil
}

// listInto lists beside others, and keeps what is listed.
func listInto[T any, P kind[T]](ctx context.Context, reading *errgroup.Group, d *Direct, into *[]*T, of cleanup.Object, selection metav1.ListOptions) {
	reading.Go(func() (err error) {
		*into, err = list[T, P](ctx, d.Cluster, of.Kind, of.Namespace, selection)
		return err
	})
}

// lookAtAgents reads how far the DaemonSet is, and its pods.
func (d *Direct) lookAtAgents(ctx context.Context, s *status.Seen) error {
	agents, err := d.workload(ctx, "DaemonSet", d.options.Release)
	if err != nil {
		return err
	}
	s.Wanted = agents.Status.DesiredNumberScheduled
	if observed(agents) {
		s.Updated = agents.Status.UpdatedNumberScheduled
	}
	selected := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(&agents.Spec.Selector)}
	pods, err := list[object](ctx, d.Cluster, "Pod", d.options.Namespace, selected)
	for _, p := range pods {
		agent := status.Agent{Node: p.Spec.NodeName, Pod: p.Name}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				agent.Ready, agent.Since = c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
			}
		}
		if p.DeletionTimestamp == nil && agent.Node != "" {
			s.Agents = append(s.Agents, agent)
		}
	}
	return err
}

// workload reads what runs pods of the release.
func (d *Direct) workload(ctx context.Context, kind, name string) (*object, error) {
	o := cleanup.Object{Kind: kind, Namespace: d.options.Namespace, Name: name}
	read, err := d.get(ctx, o)
	if err == nil && read == nil {
		err = fmt.Errorf("%s is not there", o)
	}
	return read, err
}
