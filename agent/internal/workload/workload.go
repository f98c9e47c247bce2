// Package workload reads what runs the pods of a release, and prints the manifest of those that
// kubelets run by themselves, as static pods: the chart writes what these are into a PodTemplate.
package workload

import (
	"context"
	"errors"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// HashLabel is on the PodTemplate and on each static pod. Its value is a hash of all that the pod
// is: what has another one was written for another release.
const HashLabel = "host-firewall.io/pod-hash"

// DaemonSet runs the agents, or PodTemplate says what they are where they are static pods.
const DaemonSet, PodTemplate = "DaemonSet", "PodTemplate"

// Cluster is what the package needs of the API server.
type Cluster interface {
	// Read reads an object as JSON, and tells whether it is there.
	Read(ctx context.Context, kind, namespace, name string, into any) (found bool, err error)
}

// Read reads an object of the release's namespace, of the first of these kinds that is there, and
// returns which that is. To ask for others than the first may take a right that a release has not.
func Read(ctx context.Context, cluster Cluster, namespace, name string, into any, kinds ...string) (kind string, err error) {
	for i, kind := range kinds {
		var there bool
		if there, err = cluster.Read(ctx, kind, namespace, name, into); there || err != nil && i == 0 {
			return kind, err
		}
	}
	return "", errors.Join(fmt.Errorf("%s %s/%s is not there", kinds[0], namespace, name), err)
}

// pod is a static pod.
type pod struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       map[string]any `json:"spec"`
}

// Print writes the manifest of the release's static pod, the same for each node: the kubelet
// adds the node to its name.
func Print(ctx context.Context, cluster Cluster, told settings.Settings, out io.Writer) error {
	var read struct {
		Template pod `json:"template"`
	}
	there, err := cluster.Read(ctx, PodTemplate, told.Namespace, told.Release, &read)
	if err == nil && !there {
		err = fmt.Errorf(PodTemplate+" %s/%s is not there: agents are static pods only where the values say so, with agent.staticPods.enabled: true", told.Namespace, told.Release)
	}
	if err != nil {
		return err
	}
	agent := read.Template
	agent.APIVersion, agent.Kind = "v1", "Pod"
	agent.Metadata["name"], agent.Metadata["namespace"] = told.Release, told.Namespace
	delete(agent.Metadata, "creationTimestamp") // of a template that is null
	text, err := yaml.Marshal(agent)
	if err == nil {
		_, err = out.Write(text)
	}
	return err
}
