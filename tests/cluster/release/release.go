// Package release installs the chart into a cluster, with Helm's own library.
package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

// patience is how long Helm may wait for what it was told to wait for.
const patience = 3 * time.Minute

// Release is a name in a namespace of a cluster, installed or not.
type Release struct {
	Name, Namespace string
	chart           *chart.Chart
	config          *action.Configuration
}

// New prepares a release of the chart in a checkout.
func New(root, kubeconfig, namespace, name string) (*Release, error) {
	c, err := loader.Load(filepath.Join(root, "charts", "host-firewall"))
	if err != nil {
		return nil, fmt.Errorf("load chart: %w", err)
	}
	flags := genericclioptions.NewConfigFlags(true)
	cache := filepath.Join(filepath.Dir(kubeconfig), ".kube", "cache") // in the home folder there may be what other clusters serve
	flags.KubeConfig, flags.Namespace, flags.CacheDir = &kubeconfig, &namespace, &cache
	flags.WrapConfigFn = func(c *rest.Config) *rest.Config {
		c.QPS = -1 // no limit, which would be that of a client-go that nobody has told anything
		return c
	}
	config := &action.Configuration{}
	debug := func(format string, args ...any) { slog.Debug(fmt.Sprintf(format, args...)) }
	if err := config.Init(flags, namespace, "secret", debug); err != nil {
		return nil, fmt.Errorf("prepare helm: %w", err)
	}
	return &Release{Name: name, Namespace: namespace, chart: c, config: config}, nil
}

// Install does what `helm install --create-namespace` does, and returns the notes that a user would read.
func (r *Release) Install(ctx context.Context, values map[string]any) (notes string, err error) {
	install := action.NewInstall(r.config)
	install.ReleaseName, install.Namespace, install.CreateNamespace = r.Name, r.Namespace, true
	install.Timeout = patience
	values, err = asFile(values)
	if err != nil {
		return "", err
	}
	done, err := install.RunWithContext(ctx, r.chart, values)
	return notesOf(done), wrap("install", err)
}

// Render returns what Install would create, the policies apart from all else. Nothing is created.
func (r *Release) Render(ctx context.Context, values map[string]any) (policies, rest []*unstructured.Unstructured, err error) {
	done, err := r.dryRun(ctx, values)
	if err != nil {
		return nil, nil, err
	}
	objects, err := cluster.DecodeObjects([]byte(done.Manifest))
	if err != nil {
		return nil, nil, fmt.Errorf("read what helm rendered: %w", err)
	}
	for _, o := range objects {
		if o.GetKind() == "GlobalNetworkPolicy" {
			policies = append(policies, o)
		} else {
			rest = append(rest, o)
		}
	}
	return policies, rest, nil
}

// UninstallHooks returns what Uninstall would run of a release with these values.
func (r *Release) UninstallHooks(ctx context.Context, values map[string]any) (string, error) {
	done, err := r.dryRun(ctx, values)
	if err != nil {
		return "", err
	}
	var hooks strings.Builder
	for _, h := range done.Hooks {
		if slices.Contains(h.Events, helmrelease.HookPreDelete) || slices.Contains(h.Events, helmrelease.HookPostDelete) {
			hooks.WriteString(h.Manifest)
		}
	}
	return hooks.String(), nil
}

// dryRun renders as `helm install --dry-run=server` does.
func (r *Release) dryRun(ctx context.Context, values map[string]any) (*helmrelease.Release, error) {
	install := action.NewInstall(r.config)
	install.ReleaseName, install.Namespace = r.Name, r.Namespace
	install.DryRun, install.DryRunOption = true, "server"
	values, err := asFile(values)
	if err != nil {
		return nil, err
	}
	done, err := install.RunWithContext(ctx, r.chart, values)
	return done, wrap("install --dry-run", err)
}

// Upgrade does what `helm upgrade` does.
func (r *Release) Upgrade(ctx context.Context, values map[string]any) (notes string, err error) {
	upgrade := action.NewUpgrade(r.config)
	upgrade.Namespace, upgrade.Timeout = r.Namespace, patience
	values, err = asFile(values)
	if err != nil {
		return "", err
	}
	done, err := upgrade.RunWithContext(ctx, r.Name, r.chart, values)
	return notesOf(done), wrap("upgrade", err)
}

// Test does what `helm test --logs` does, and returns the log of the test's pod. Where the pod is gone already its log is what
// Helm printed before.
func (r *Release) Test() (log string, err error) {
	var printed bytes.Buffer
	r.config.SetHookOutputFunc(func(_, _, _ string) io.Writer { return &printed })
	test := action.NewReleaseTesting(r.config)
	test.Namespace, test.Timeout = r.Namespace, patience
	done, err := test.Run(r.Name)
	if printed.Len() == 0 && done != nil {
		err = errors.Join(err, test.GetPodLogs(&printed, done))
	}
	return printed.String(), wrap("test", err)
}

// Effective returns the values as the templates see them: the chart's own under those that are given.
func (r *Release) Effective(values map[string]any) (map[string]any, error) {
	values, err := asFile(values)
	if err != nil {
		return nil, err
	}
	effective, err := chartutil.CoalesceValues(r.chart, values)
	if err != nil {
		return nil, fmt.Errorf("merge values: %w", err)
	}
	return effective, nil
}

// Has tells whether the release is installed with these values.
func (r *Release) Has(values map[string]any) (bool, error) {
	values, err := asFile(values)
	if err != nil {
		return false, err
	}
	last, err := r.config.Releases.Last(r.Name)
	if err != nil {
		return false, wrap("get values", err)
	}
	return last.Info.Status == helmrelease.StatusDeployed && equality.Semantic.DeepEqual(values, last.Config), nil
}

// Uninstall does what `helm uninstall --wait` does.
func (r *Release) Uninstall() error {
	uninstall := action.NewUninstall(r.config)
	uninstall.Wait, uninstall.Timeout = true, patience
	_, err := uninstall.Run(r.Name)
	return wrap("uninstall", err)
}

// asFile gives values the types that they would have out of a user's file.
func asFile(values map[string]any) (map[string]any, error) {
	raw, err := yaml.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("read values: %w", err)
	}
	read, err := chartutil.ReadValues(raw)
	if err != nil {
		return nil, fmt.Errorf("read values: %w", err)
	}
	return read, nil
}

func notesOf(r *helmrelease.Release) string {
	if r == nil || r.Info == nil {
		return ""
	}
	return r.Info.Notes
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("helm %s: %w", what, err)
	}
	return nil
}
