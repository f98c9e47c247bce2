package main

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/kstatus/polling/clusterreader"
	"github.com/fluxcd/cli-utils/pkg/kstatus/polling/engine"
	"github.com/fluxcd/cli-utils/pkg/kstatus/polling/statusreaders"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/cli-utils/pkg/object"
	jobs "github.com/fluxcd/pkg/runtime/statusreaders"
	"github.com/fluxcd/pkg/ssa"
	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// interval of helm-controller's polling, and of that for what is to go.
const (
	interval         = 5 * time.Second
	intervalOfDelete = 2 * time.Second
)

// waiter is Helm's client, with helm-controller's way to wait: it polls, by kstatus, and gives up at the first object that has failed.
type waiter struct {
	*kube.Client
	api    client.Client
	mapper meta.RESTMapper
}

// Helm asks for either.
var (
	_ kube.InterfaceWaitOptions = (*waiter)(nil)
	_ kube.Waiter               = (*waiter)(nil)
)

func waiting(helm *kube.Client) (*waiter, error) {
	config, err := helm.Factory.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	api, err := client.New(config, client.Options{})
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return &waiter{Client: helm, api: api, mapper: api.RESTMapper()}, nil
}

// GetWaiter returns itself for each strategy: that of helm-controller has no name in Helm.
func (w *waiter) GetWaiter(kube.WaitStrategy) (kube.Waiter, error) { return w, nil }

// GetWaiterWithOptions returns itself, too.
func (w *waiter) GetWaiterWithOptions(kube.WaitStrategy, ...kube.WaitOption) (kube.Waiter, error) {
	return w, nil
}

// Wait returns when all objects are as their controllers want them.
func (w *waiter) Wait(objects kube.ResourceList, timeout time.Duration) error {
	return w.wait(objects, timeout, true)
}

// WaitWithJobs waits for the end of each Job, too.
func (w *waiter) WaitWithJobs(objects kube.ResourceList, timeout time.Duration) error {
	return w.wait(objects, timeout, true, jobs.NewCustomJobStatusReader(w.mapper))
}

// WatchUntilReady waits for hooks: for Jobs, while everything else is ready as soon as it is there. The chart has no Pod for a hook but the test's,
// which helm-controller runs only for those who ask.
func (w *waiter) WatchUntilReady(objects kube.ResourceList, timeout time.Duration) error {
	ready := statusreaders.NewGenericStatusReader(w.mapper, func(*unstructured.Unstructured) (*status.Result, error) {
		return &status.Result{Status: status.CurrentStatus}, nil
	})
	return w.wait(objects, timeout, false, jobs.NewCustomJobStatusReader(w.mapper), ready)
}

// WaitForDelete returns when none is left.
func (w *waiter) WaitForDelete(objects kube.ResourceList, timeout time.Duration) error {
	var gone []*unstructured.Unstructured
	for _, o := range objects {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(o.Object.GetObjectKind().GroupVersionKind())
		u.SetNamespace(o.Namespace)
		u.SetName(o.Name)
		gone = append(gone, u)
	}
	return w.manager().WaitForTermination(gone, ssa.WaitOptions{Interval: intervalOfDelete, Timeout: timeout})
}

func (w *waiter) wait(objects kube.ResourceList, timeout time.Duration, failFast bool, readers ...engine.StatusReader) error {
	var all object.ObjMetadataSet
	for _, o := range objects {
		id, err := object.RuntimeToObjMeta(o.Object)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", o.Name, err)
		}
		all = append(all, id)
	}
	return w.manager(readers...).WaitForSetWithContext(context.Background(), all, ssa.WaitOptions{Interval: interval, Timeout: timeout, FailFast: failFast})
}

func (w *waiter) manager(readers ...engine.StatusReader) *ssa.ResourceManager {
	return ssa.NewResourceManager(w.api, polling.NewStatusPoller(w.api, w.mapper, polling.Options{
		CustomStatusReaders: readers, ClusterReaderFactory: engine.ClusterReaderFactoryFunc(clusterreader.NewDirectClusterReader),
	}), ssa.Owner{})
}
