package calico

import (
	"context"
	"fmt"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/verify"
)

// This file is what only the command verify asks for.

// pod is what is looked at of a Pod.
type pod struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Conditions []corev1.PodCondition `json:"conditions"`
	} `json:"status"`
}

// ready tells whether the Pod is ready, and since when it is or is not; zero where
// nobody has said yet.
func (p *pod) ready() (ready bool, since time.Time) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
	}
	return false, time.Time{}
}

// Rollout returns how far the agents of a DaemonSet are rolled out. Its absence is
// an error.
func (d *Direct) Rollout(ctx context.Context, namespace, name string) (verify.Rollout, error) {
	set, err := d.daemonSet(ctx, namespace, name)
	if err == nil && set == nil {
		err = fmt.Errorf("DaemonSet %s/%s is not there", namespace, name)
	}
	if err != nil {
		return verify.Rollout{}, err
	}
	running, err := newest[pod](ctx, d, namespacePath("v1", namespace, pods), metav1.FormatLabelSelector(&set.Spec.Selector))
	if err != nil {
		return verify.Rollout{}, err
	}
	rollout := verify.Rollout{Wanted: set.Status.DesiredNumberScheduled}
	if set.Status.ObservedGeneration >= set.Metadata.Generation {
		rollout.Updated = set.Status.UpdatedNumberScheduled
	}
	for _, p := range running {
		if p.Metadata.DeletionTimestamp == nil && p.Spec.NodeName != "" {
			ready, since := p.ready()
			rollout.Agents = append(rollout.Agents, verify.Agent{Node: p.Spec.NodeName, Pod: p.Metadata.Name, Ready: ready, Since: since})
		}
	}
	return rollout, nil
}

// Nodes returns the names of all Nodes.
func (d *Direct) Nodes(ctx context.Context) (names []string, err error) {
	nodes, err := newest[struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}](ctx, d, resourcePath("v1", "nodes"), "")
	for _, node := range nodes {
		names = append(names, node.Metadata.Name)
	}
	return names, err
}

// Policies returns the policies of the release, as the API server has them now.
func (d *Direct) Policies(ctx context.Context) (policies []*v3.GlobalNetworkPolicy, err error) {
	read, err := ofCalico[policy](ctx, d, globalNetworkPolicies, d.ofRelease())
	for _, p := range read {
		policies = append(policies, p.whole())
	}
	return policies, err
}
