// Command flux does once, for a HelmRelease on standard input, what Flux's helm-controller does at each interval, and says on standard output
// what it did. helm-controller is no module that others can build. So its own parts are used, where they are modules: Helm's library, the types of
// its API, its status readers, and what it finds differences with. How it puts them together is as in helm-controller v1.6: server-side apply that
// takes every field over, its own way to wait, a rollback where the HelmRelease asks for one, and drift detection.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

func main() {
	folder := flag.String("chart", "", "the folder of the chart, which helm-controller has from a source")
	kubeconfig := flag.String("kubeconfig", "", "the cluster")
	deleted := flag.Bool("deleted", false, "the HelmRelease has been deleted")
	flag.Parse()
	r, err := newReconciler(os.Stdin, *folder, *kubeconfig)
	if err == nil && *deleted {
		err = r.uninstall()
	} else if err == nil {
		err = r.reconcile(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// reconciler is for one HelmRelease.
type reconciler struct {
	of     *v2.HelmRelease
	chart  *chart.Chart
	config *action.Configuration
}

func newReconciler(manifest io.Reader, folder, kubeconfig string) (*reconciler, error) {
	raw, err := io.ReadAll(manifest)
	if err != nil {
		return nil, fmt.Errorf("read HelmRelease: %w", err)
	}
	r := &reconciler{of: &v2.HelmRelease{}, config: action.NewConfiguration()}
	if err := yaml.UnmarshalStrict(raw, r.of); err != nil {
		return nil, fmt.Errorf("read HelmRelease: %w", err)
	}
	if r.chart, err = loader.Load(folder); err != nil {
		return nil, fmt.Errorf("load chart: %w", err)
	}
	kube.ManagedFieldsManager = "helm-controller"
	namespace := r.of.GetReleaseNamespace()
	getter := genericclioptions.NewConfigFlags(true)
	getter.KubeConfig, getter.Namespace = &kubeconfig, &namespace
	getter.WrapConfigFn = func(c *rest.Config) *rest.Config {
		c.QPS, c.Burst = 50, 300 // helm-controller's
		return c
	}
	if err := r.config.Init(getter, r.of.GetStorageNamespace(), "secret"); err != nil {
		return nil, fmt.Errorf("prepare helm: %w", err)
	}
	if r.config.KubeClient, err = waiting(kube.New(getter)); err != nil {
		return nil, err
	}
	return r, nil
}

// reconcile takes the release one step towards what the HelmRelease wants: as there, only one step is made at a time.
func (r *reconciler) reconcile(ctx context.Context) error {
	found, err := r.config.Releases.Last(r.of.GetReleaseName())
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return r.install(ctx)
	}
	if err != nil {
		return fmt.Errorf("find release: %w", err)
	}
	last := found.(*release.Release) // the only kind that a chart of the second version makes
	if last.Info.Status != common.StatusDeployed || last.Chart.Metadata.Version != r.chart.Metadata.Version || !reflect.DeepEqual(last.Config, r.of.GetValues()) {
		return r.upgrade(ctx)
	}
	return r.correct(ctx, last)
}

func (r *reconciler) install(ctx context.Context) error {
	spec, install := r.of.GetInstall(), action.NewInstall(r.config)
	install.ServerSideApply, install.ForceConflicts, install.TakeOwnership = true, true, !spec.DisableTakeOwnership
	install.ReleaseName, install.Namespace, install.CreateNamespace = r.of.GetReleaseName(), r.of.GetReleaseNamespace(), spec.CreateNamespace
	install.Timeout, install.WaitStrategy, install.WaitForJobs = spec.GetTimeout(r.of.GetTimeout()).Duration, kube.StatusWatcherStrategy, true
	install.SkipCRDs = true // there are none
	if _, err := install.RunWithContext(ctx, r.chart, r.of.GetValues()); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	fmt.Println("installed")
	return nil
}

// upgrade goes back by itself where it fails and the HelmRelease says that it shall be tried again.
func (r *reconciler) upgrade(ctx context.Context) error {
	spec, upgrade := r.of.GetUpgrade(), action.NewUpgrade(r.config)
	upgrade.ServerSideApply, upgrade.ForceConflicts, upgrade.TakeOwnership = "true", true, !spec.DisableTakeOwnership
	upgrade.Namespace, upgrade.ResetValues, upgrade.MaxHistory = r.of.GetReleaseNamespace(), true, r.of.GetMaxHistory()
	upgrade.Timeout, upgrade.WaitStrategy, upgrade.WaitForJobs = spec.GetTimeout(r.of.GetTimeout()).Duration, kube.StatusWatcherStrategy, true
	_, err := upgrade.RunWithContext(ctx, r.of.GetReleaseName(), r.chart, r.of.GetValues())
	if err == nil {
		fmt.Println("upgraded")
		return nil
	}
	err = fmt.Errorf("upgrade: %w", err)
	if spec.GetRemediation().MustRemediateLastFailure() {
		return errors.Join(err, r.rollback())
	}
	return err
}

func (r *reconciler) rollback() error {
	rollback := action.NewRollback(r.config)
	rollback.ServerSideApply, rollback.ForceConflicts = "true", true
	rollback.Timeout, rollback.WaitStrategy, rollback.WaitForJobs = r.of.GetRollback().GetTimeout(r.of.GetTimeout()).Duration, kube.StatusWatcherStrategy, true
	if err := rollback.Run(r.of.GetReleaseName()); err != nil {
		return fmt.Errorf("rollback: %w", err)
	}
	fmt.Println("rolled back")
	return nil
}

func (r *reconciler) uninstall() error {
	spec, uninstall := r.of.GetUninstall(), action.NewUninstall(r.config)
	uninstall.Timeout, uninstall.WaitStrategy = spec.GetTimeout(r.of.GetTimeout()).Duration, kube.StatusWatcherStrategy
	uninstall.DeletionPropagation, uninstall.DisableHooks = spec.GetDeletionPropagation(), spec.DisableHooks
	if _, err := uninstall.Run(r.of.GetReleaseName()); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	fmt.Println("uninstalled")
	return nil
}
