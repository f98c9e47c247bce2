package calico

import (
	"context"
	"net/http"
	"path"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// This file is what only the command cleanup asks for.

// StopDaemonSet deletes a DaemonSet. Kubernetes keeps the object until its pods
// are gone, so that there is nothing else to watch. It returns whether the
// DaemonSet is still there, and how many pods it had when it last looked.
func (d *Direct) StopDaemonSet(ctx context.Context, namespace, name string) (there bool, running int, err error) {
	set, err := d.daemonSet(ctx, namespace, name)
	if err != nil || set == nil {
		return err != nil, 0, err
	}
	running = set.Status.CurrentNumberScheduled
	if set.Metadata.DeletionTimestamp != nil {
		return true, running, nil
	}
	foreground := metav1.DeletePropagationForeground
	err = d.send(ctx, d.client.Delete().AbsPath(daemonSetPath(namespace, name)), "delete", daemonSets, "DaemonSet "+namespace+"/"+name,
		metav1.DeleteOptions{
			TypeMeta:          deleteOptions(),
			Preconditions:     &metav1.Preconditions{UID: &set.Metadata.UID},
			PropagationPolicy: &foreground,
		}, nil)
	if codeOf(err) == http.StatusNotFound {
		err = nil
	}
	return true, running, err
}

// DeletePod deletes a Pod. It does not wait until the Pod is gone.
func (d *Direct) DeletePod(ctx context.Context, namespace, name string) error {
	request := d.client.Delete().AbsPath(path.Join(namespacePath("v1", namespace, pods), name))
	return d.send(ctx, request, "delete", pods, "Pod "+namespace+"/"+name, metav1.DeleteOptions{TypeMeta: deleteOptions()}, nil)
}

// PatchEndpoint applies a JSON merge patch to the endpoint with that name.
func (d *Direct) PatchEndpoint(ctx context.Context, name string, patch []byte) error {
	_, err := d.Cluster.PatchEndpoint(ctx, name, patch)
	return err
}

// FelixConfigurations returns all FelixConfigurations, as the API server has them
// now.
func (d *Direct) FelixConfigurations(ctx context.Context) ([]*failsafe.Configuration, error) {
	return ofCalico[failsafe.Configuration](ctx, d, felixConfigurations, "")
}
