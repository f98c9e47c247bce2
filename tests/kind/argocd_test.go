package kind

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// argoManifest is what Argo CD itself needs on a cluster. Of the definitions of its own objects it has no more than their names.
//
//go:embed testdata/argocd.yaml
var argoManifest string

// argoProject is what an Application is in that may do everything. Argo CD makes it where it is installed with its user interface.
const argoProject = `{"apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject", "metadata": {"name": "default", "namespace": "argocd"}, "spec": {
	"sourceRepos": ["*"], "destinations": [{"server": "*", "namespace": "*"}], "clusterResourceWhitelist": [{"group": "*", "kind": "*"}]}}`

// argo is an Argo CD at work, with the chart in a Git repository, and one Application at most: that of docs/gitops.md.
type argo struct {
	applications dynamic.ResourceInterface
	application  map[string]any
	repository   string
}

// startArgo runs Argo CD until the test ends.
func startArgo(t *testing.T) argo {
	t.Helper()
	programs, err := binaries.Ensure(t.Context(), filepath.Join(root, "tests", "cluster", "modules"), t.Output(), binaries.ArgoCD)
	require.NoError(t, err)
	client, err := nodes.Dynamic()
	require.NoError(t, err)
	helm, home := helm3(t), t.TempDir()
	a := argo{
		applications: client.Resource(schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "applications"}).Namespace("argocd"),
		application:  fromPage(t, "Application"),
		repository:   chartInGit(t),
	}
	// Argo CD's image has a script of this name, by which it looks for signatures. Commits of the test have none, and need none.
	require.NoError(t, os.WriteFile(filepath.Join(helm.home, "git-verify-wrapper.sh"), []byte("#!/bin/sh\n"), 0o700))
	applyUntilEnd(t, argoManifest)
	_, err = kubectl(t.Context(), "", "wait", "--for", "condition=Established", "crd/applications.argoproj.io", "crd/appprojects.argoproj.io")
	require.NoError(t, err)
	_, err = kubectl(t.Context(), argoProject, "apply", "--filename", "-")
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, programs[binaries.ArgoCD])
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = host.Environment("HOME="+home, "TMPDIR="+home, "PATH="+filepath.Dir(helm.program)+":"+host.Path, "KUBECONFIG="+nodes.Kubeconfig(),
		"ARGOCD_FAKE_IN_CLUSTER=true", // Argo CD is on this machine, and the cluster is its own all the same
		"ARGOCD_ASK_PASS_SOCK="+filepath.Join(home, "ask-pass"), "ARGOCD_GPG_ENABLED=false")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("Argo CD:\n%s", log.Bytes()[max(0, log.Len()-20_000):])
		}
		a.forget(t)
	})
	return a
}

// chartInGit makes a Git repository that has the chart.
func chartInGit(t *testing.T) string {
	t.Helper()
	repository := t.TempDir()
	chart := filepath.Join("charts", "host-firewall")
	require.NoError(t, os.CopyFS(filepath.Join(repository, chart), os.DirFS(filepath.Join(root, chart))))
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch", "main"}, {"add", "."},
		{"-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message", "chart"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = repository
		require.NoError(t, told(cmd))
	}
	return repository
}

// forget takes an Application away that a test has left, without what it has deployed.
func (a argo) forget(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	_, err := a.applications.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
	err = a.applications.Delete(ctx, name, metav1.DeleteOptions{})
	require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
}

// deploy makes the Application, or gives it other values, and waits until Argo CD has synced it, and finds nothing more to do.
func (a argo) deploy(t *testing.T, values map[string]any) {
	t.Helper()
	source := a.application["spec"].(map[string]any)["source"].(map[string]any)
	maps.Copy(source, map[string]any{"repoURL": "file://" + a.repository, "helm": map[string]any{"valuesObject": values}})
	raw, err := (&unstructured.Unstructured{Object: a.application}).MarshalJSON()
	require.NoError(t, err)
	_, err = kubectl(t.Context(), string(raw), "apply", "--filename", "-")
	require.NoError(t, err)
	a.requireSynced(t)
}

// requireSynced waits until Argo CD has applied what the Application asks for now. Then nothing may be left that it sees as different: it would
// sync again and again, or somebody would learn not to look.
func (a argo) requireSynced(t *testing.T) {
	t.Helper()
	last := a.eventually(t, "Argo CD to have synced", func(app *unstructured.Unstructured) error {
		wanted, _, _ := unstructured.NestedMap(app.Object, "spec", "source")
		compared, _, _ := unstructured.NestedMap(app.Object, "status", "sync", "comparedTo", "source")
		phase, _, _ := unstructured.NestedString(app.Object, "status", "operationState", "phase")
		if !equality.Semantic.DeepEqual(wanted, compared) || phase != "Succeeded" || app.Object["operation"] != nil {
			return fmt.Errorf("%s", summary(app))
		}
		return synced(app)
	})
	_, err := a.applications.Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"argocd.argoproj.io/refresh":"hard"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	again := a.eventually(t, "Argo CD to have looked again", func(app *unstructured.Unstructured) error {
		if app.GetAnnotations()["argocd.argoproj.io/refresh"] != "" {
			return fmt.Errorf("it has not")
		}
		return nil
	})
	require.NoError(t, synced(again), "it has looked again")
	require.Equal(t, syncedAt(last), syncedAt(again), "when it has synced last: it was done")
}

func (a argo) eventually(t *testing.T, what string, check func(*unstructured.Unstructured) error) (app *unstructured.Unstructured) {
	t.Helper()
	eventually(t, what, func(ctx context.Context) (err error) {
		if app, err = a.applications.Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		return check(app)
	})
	return app
}

// synced is an error where Argo CD sees a difference, which it names.
func synced(app *unstructured.Unstructured) error {
	if status, _, _ := unstructured.NestedString(app.Object, "status", "sync", "status"); status != "Synced" {
		return fmt.Errorf("%s", summary(app))
	}
	return nil
}

// syncedAt is when the last sync began.
func syncedAt(app *unstructured.Unstructured) string {
	at, _, _ := unstructured.NestedString(app.Object, "status", "operationState", "startedAt")
	return at
}

// summary is what a person would look for in an Application: what differs, what the last sync says, and what is wrong.
func summary(app *unstructured.Unstructured) string {
	status, _, _ := unstructured.NestedString(app.Object, "status", "sync", "status")
	operation, _, _ := unstructured.NestedString(app.Object, "status", "operationState", "message")
	conditions, _, _ := unstructured.NestedSlice(app.Object, "status", "conditions")
	resources, _, _ := unstructured.NestedSlice(app.Object, "status", "resources")
	var differ []any
	for _, r := range resources {
		if resource, ok := r.(map[string]any); ok && resource["status"] != "Synced" && resource["status"] != nil {
			differ = append(differ, resource)
		}
	}
	return fmt.Sprintf("it is %s; last sync: %s; conditions: %v; not synced: %v", status, operation, conditions, differ)
}

// delete deletes the Application, and waits until Argo CD has let it go.
func (a argo) delete(t *testing.T) {
	t.Helper()
	require.NoError(t, a.applications.Delete(t.Context(), name, metav1.DeleteOptions{}))
	require.NoError(t, cluster.Poll(t.Context(), 3*time.Minute, "the Application to be gone", func(ctx context.Context) error {
		app, err := a.applications.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("it has finalizers %v; %s", app.GetFinalizers(), summary(app))
	}))
}

// Argo CD does with the chart what Helm does, and mends what somebody has changed: nothing that must be open is cut by it, nothing that is closed
// opened, and it sees no difference when it is done. It leaves the ways out alone, and when the Application is deleted the nodes open.
func TestArgoCDKeepsTheReleaseAsItWantsItAndLetsItGo(t *testing.T) {
	admin, out, page := adminsShell(t), waysBack(t), commandsOf(t, "gitops.md")
	prepare(t)
	a := startArgo(t)
	more, hookless := atOnce(openToMore()), with(map[string]any{"cleanup": map[string]any{"enabled": false}})
	openedToMore := expected(t, more)
	open := undisturbed(t, scene.Protected)
	a.deploy(t, values())
	requireArmed(t)
	requireProtected(t, "installed")
	first := setInForce(t)

	closed := unreached(t, place.Select(neither(scene.Protected, openedToMore)))
	a.deploy(t, more)
	requireArmed(t)
	requireTable(t, openedToMore, "upgraded")
	closed()
	a.requireHeals(t, policyName("drop-other", setInForce(t)), policyName("allow-ingress", setInForce(t)))
	requireTable(t, openedToMore, "healed")

	require.NoError(t, admin(t.Context(), page["What undoes a way out"]))
	requireOpenedBy(t, out[deleteEndpoints], admin.inSpite, scene.Everything)
	a.deploy(t, hookless)
	_, err := kubectl(t.Context(), "", "get", "serviceaccount", name+"-cleanup", "--namespace", namespace)
	require.ErrorContains(t, err, "NotFound", "what the chart does not have any more is pruned")
	requireArmed(t)
	requireProtected(t, "back at the values before")
	requireSet(t, first)
	requireOpenedBy(t, out[annotate], admin, scene.Everything)
	a.requireSynced(t)
	a.delete(t)
	require.NoError(t, admin(t.Context(), page["Delete it without the hook"]))
	requireOpen(t, "deleted without the hook")
	requireNothingLeft(t)

	a.deploy(t, values())
	requireArmed(t)
	requireProtected(t, "installed again")
	a.delete(t)
	require.NoError(t, admin(t.Context(), page["Delete the Application"]))
	requireOpen(t, "deleted with the hook")
	requireNothingLeft(t)
	open()
}

// requireHeals edits one policy and deletes another, and wants both to be as they were.
func (a argo) requireHeals(t *testing.T, edited, lost string) {
	t.Helper()
	policies := calico(t, "globalnetworkpolicies")
	specs := func(ctx context.Context) (both [2]any, err error) {
		for i, policy := range []string{edited, lost} {
			got, err := policies.Get(ctx, policy, metav1.GetOptions{})
			if err != nil {
				return both, err
			}
			both[i] = got.Object["spec"]
		}
		return both, nil
	}
	before, err := specs(t.Context())
	require.NoError(t, err)
	_, err = policies.Patch(t.Context(), edited, types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/ingress/0/action","value":"Allow"}]`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.NoError(t, policies.Delete(t.Context(), lost, metav1.DeleteOptions{}))
	eventually(t, "both policies to be as they were", func(ctx context.Context) error {
		now, err := specs(ctx)
		if err == nil && !equality.Semantic.DeepEqual(before, now) {
			err = fmt.Errorf("they are %v", now)
		}
		return err
	})
	a.requireSynced(t)
}
