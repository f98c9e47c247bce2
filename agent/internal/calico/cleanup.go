package calico

import (
	"context"
	"net/http"
	"path"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// This file is what only the command cleanup asks for.

// Group is one of Calico's API groups, served or not.
type Group struct{ Direct }

// Groups returns both of them.
func (d *Direct) Groups() (groups []*Group) {
	for _, name := range []string{GroupV3, GroupCRD} {
		groups = append(groups, &Group{Direct{&Cluster{options: d.options, client: d.client, caches: &caches{group: name}}}})
	}
	return groups
}

// Name returns the name and version of the group.
func (g *Group) Name() string { return g.known().group }

// DaemonSet returns the annotations of a DaemonSet; of one that is not there it has none.
func (d *Direct) DaemonSet(ctx context.Context, namespace, name string) (annotations map[string]string, err error) {
	set, err := d.daemonSet(ctx, namespace, name)
	if set == nil {
		return nil, err
	}
	return set.Metadata.Annotations, nil
}

// Account returns the annotations of a ServiceAccount; of one that is not there it has
// none.
func (d *Direct) Account(ctx context.Context, namespace, name string) (annotations map[string]string, err error) {
	where := path.Join(namespacePath("v1", namespace, serviceAccounts), name)
	var account struct{ Metadata metav1.ObjectMeta }
	_, err = d.read(ctx, where, serviceAccounts, "ServiceAccount "+namespace+"/"+name, &account)
	return account.Metadata.Annotations, err
}

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
func (g *Group) PatchEndpoint(ctx context.Context, name string, patch []byte) error {
	_, err := g.Cluster.PatchEndpoint(ctx, name, patch)
	return err
}

// FelixConfigurations returns all FelixConfigurations, as the API server has them
// now. Where they are not served there are none.
func (g *Group) FelixConfigurations(ctx context.Context) ([]*failsafe.Configuration, error) {
	all, err := ofCalico[failsafe.Configuration](ctx, &g.Direct, felixConfigurations, "")
	if codeOf(err) == http.StatusNotFound {
		return nil, nil
	}
	return all, err
}
