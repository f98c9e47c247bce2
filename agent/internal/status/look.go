package status

import (
	"context"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/workload"
)

// Cluster is what the package needs of the API server.
type Cluster interface {
	// Find finds out by which API group Calico is reached.
	Find(ctx context.Context) error
	// Read reads an object as JSON, and tells whether it is there.
	Read(ctx context.Context, kind, namespace, name string, into any) (found bool, err error)
	// List reads the selected objects of a kind, each as JSON, into a slice of pointers.
	List(ctx context.Context, kind, namespace string, selected metav1.ListOptions, into any) error
}

// object is what is read of one. The whole types are a large part of Kubernetes' API.
type object[S, T any] struct {
	metav1.ObjectMeta `json:"metadata"`
	Data              map[string]string `json:"data"`
	Spec              S                 `json:"spec"`
	Status            T                 `json:"status"`
}

// pods is that of what runs pods, and of pods.
type pods = object[struct {
	NodeName string               `json:"nodeName"`
	Selector metav1.LabelSelector `json:"selector"`
}, struct {
	Conditions             []corev1.PodCondition `json:"conditions"`
	ObservedGeneration     int64                 `json:"observedGeneration"`
	DesiredNumberScheduled int                   `json:"desiredNumberScheduled"`
	UpdatedNumberScheduled int                   `json:"updatedNumberScheduled"`
	Replicas               int                   `json:"replicas"`
	ReadyReplicas          int                   `json:"readyReplicas"`
	UpdatedReplicas        int                   `json:"updatedReplicas"`
}]

// Look reads once how the release is. That what runs its pods is not there is an error.
func Look(ctx context.Context, cluster Cluster, told settings.Settings) (s Seen, err error) {
	if err = cluster.Find(ctx); err != nil {
		return s, err
	}
	var controller pods
	var said []*object[struct{}, struct{}]
	var nodes []*metav1.PartialObjectMetadata
	var policies []*object[map[string]any, struct{}]
	reading, ctx := errgroup.WithContext(ctx)
	list := func(kind, namespace string, selected metav1.ListOptions, into any) {
		reading.Go(func() error { return cluster.List(ctx, kind, namespace, selected, into) })
	}
	if s.Observed = !told.Agents; told.Agents {
		reading.Go(func() error { return s.lookAtAgents(ctx, cluster, told) })
	}
	reading.Go(func() error {
		_, err := workload.Read(ctx, cluster, told.Namespace, told.Release+"-controller", &controller, "Deployment")
		return err
	})
	list("ConfigMap", told.Namespace, metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + told.Release}, &said)
	list("Node", "", metav1.ListOptions{}, &nodes)
	list(v3.KindHostEndpoint, "", metav1.ListOptions{}, &s.Endpoints)
	list(v3.KindGlobalNetworkPolicy, "", metav1.ListOptions{LabelSelector: endpoint.ReleaseLabel + "=" + told.Release}, &policies)
	if err = reading.Wait(); err != nil {
		return s, err
	}
	s.Controller = controller.Status.ObservedGeneration >= controller.Generation && controller.Status.UpdatedReplicas > 0 && controller.Status.ReadyReplicas >= controller.Status.Replicas
	if len(said) > 0 {
		s.Data, s.Annotations = said[0].Data, said[0].Annotations
	}
	for _, node := range nodes {
		s.Nodes = append(s.Nodes, node.Name)
		if !told.Agents && told.Nodes.Matches(labels.Set(node.Labels)) {
			s.Agents = append(s.Agents, Agent{Node: node.Name, Pod: controller.Name, Ready: true}) // stands in for one
			s.Wanted, s.Updated = len(s.Agents), len(s.Agents)
		}
	}
	for _, p := range policies {
		s.Policies = append(s.Policies, policyset.Of(p.ObjectMeta, p.Spec))
	}
	return s, nil
}

// lookAtAgents reads how far the DaemonSet is, and its pods; or the static pods, which nobody replaces.
func (s *Seen) lookAtAgents(ctx context.Context, cluster Cluster, told settings.Settings) error {
	var agents pods
	kind, err := workload.Read(ctx, cluster, told.Namespace, told.Release, &agents, workload.DaemonSet, workload.PodTemplate)
	if err != nil {
		return err
	}
	s.Wanted, s.Static = agents.Status.DesiredNumberScheduled, kind == workload.PodTemplate
	s.Created = agents.CreationTimestamp.Time
	if s.Observed = agents.Status.ObservedGeneration >= agents.Generation; s.Observed {
		s.Updated = agents.Status.UpdatedNumberScheduled
	}
	selector, hash := metav1.FormatLabelSelector(&agents.Spec.Selector), agents.Labels[workload.HashLabel]
	if s.Static {
		selector = workload.HashLabel + "," + endpoint.ReleaseLabel + "=" + told.Release
	}
	var all []*pods
	err = cluster.List(ctx, "Pod", told.Namespace, metav1.ListOptions{LabelSelector: selector}, &all)
	for _, p := range all {
		agent := Agent{Node: p.Spec.NodeName, Pod: p.Name, Old: s.Static && p.Labels[workload.HashLabel] != hash}
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
