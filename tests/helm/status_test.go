package helm_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"helm.sh/helm/v3/pkg/release"
)

// testPod returns the Pod of helm test.
func (r *rendered) testPod(t testing.TB) *corev1.Pod {
	t.Helper()
	require.Len(t, r.testHooks, 1, "helm test --logs looks for a log of each hook")
	pod, isPod := r.testHooks[0].object.(*corev1.Pod)
	require.True(t, isPod)
	return pod
}

func TestHelmTestIsWholeObjects(t *testing.T) {
	eachNamed(t, func(t *testing.T, group string, names named, r *rendered) {
		require.Equal(t, wantTesting(names.release, names.namespace, names.id, group), r.testing)

		id := names.id + "-test"
		want := &corev1.Pod{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{
				Name: id, Namespace: names.namespace,
				Labels: map[string]string{"app.kubernetes.io/instance": names.release, "app.kubernetes.io/component": "status"},
				Annotations: map[string]string{
					"helm.sh/hook":                   "test",
					"helm.sh/hook-delete-policy":     "before-hook-creation",
					"helm.sh/hook-output-log-policy": "hook-failed",
				},
			},
			// It runs as and where the cleanup runs.
			Spec: *r.cleanup(t).Spec.Template.Spec.DeepCopy(),
		}
		want.Spec.ActiveDeadlineSeconds = pointer[int64](120)
		want.Spec.ServiceAccountName = id
		want.Spec.Containers[0].Name = "status"
		want.Spec.Containers[0].Args = []string{
			"status", "--release=" + names.id, "--namespace=" + names.namespace, "--mode=enforce", "--api-group=" + group,
			"--set=" + r.policies[0].Labels[setLabel], "--policies=" + controllerArguments(t, r)["policies"],
			"--wait=1m", "--output=wide", "--log-format=text",
		}
		require.Equal(t, want, r.testPod(t))
	})
}

// wantTesting is what belongs to the release for helm test, in the order in which Helm writes it.
func wantTesting(releaseName, namespace, id, group string) []runtime.Object {
	calico, _, _ := strings.Cut(group, "/")
	rules := []rbacv1.PolicyRule{rule(calico, "hostendpoints globalnetworkpolicies", "list")}
	if group == apiV3 {
		rules = append(rules, rule(calico, "tiers", "get"), rule(calico, "tier.globalnetworkpolicies", "list"))
	}
	rights := wantRights(releaseName, id, id+"-test", namespace, append(rules, rule("", "nodes", "list")), []rbacv1.PolicyRule{
		of(id, rule("apps", "daemonsets", "get")),
		of(id+"-controller", rule("apps", "deployments", "get")),
		of(id, rule("", "configmaps", "list")),
		rule("", "pods", "list"),
	})
	// The same command beside the controller, by kubectl exec. What it asks for in the whole cluster the controller may anyway.
	binding := rights[len(rights)-1].(*rbacv1.RoleBinding)
	binding.Subjects = append(slices.Clone(binding.Subjects), rbacv1.Subject{Kind: "ServiceAccount", Name: id + "-controller", Namespace: namespace})
	return rights
}

// The cleanup removes the Pod. Where there is no cleanup, nothing may be left that nobody removes.
func TestPodOfHelmTestGoesAtOnceWhereThereIsNoCleanup(t *testing.T) {
	r := render(t, setting{values: `cleanup: {enabled: false}`})
	require.Equal(t, "test", r.testPod(t).Annotations["helm.sh/hook"])
	require.Equal(t, []release.HookDeletePolicy{release.HookBeforeHookCreation, release.HookSucceeded, release.HookFailed}, r.testHooks[0].DeletePolicies)
	require.Equal(t, []release.HookOutputLogPolicy{release.HookOutputOnSucceeded, release.HookOutputOnFailed}, r.testHooks[0].OutputLogPolicies)
}

func TestPodOfHelmTestIsNoPodOfTheDaemonSet(t *testing.T) {
	t.Parallel()
	for name, values := range ciFiles(t) {
		r := render(t, setting{values: values})
		selector, err := metav1.LabelSelectorAsSelector(r.daemonSet(t).Spec.Selector)
		require.NoError(t, err)
		require.False(t, selector.Matches(labels.Set(r.testPod(t).Labels)), name)
	}
}

// What the test asks for is what the controller was told, by variables: so kubectl exec needs to tell the command nothing.
func TestHelmTestIsToldWhatTheControllerIsTold(t *testing.T) {
	t.Parallel()
	for name, values := range ciFiles(t) {
		r := render(t, setting{values: values})
		arguments := r.testPod(t).Spec.Containers[0].Args
		for flag, value := range controllerArguments(t, r) {
			if slices.Contains([]string{"release", "namespace", "mode", "api-group", "set", "policies"}, flag) {
				require.Contains(t, arguments, "--"+flag+"="+value, name)
			}
		}
	}
}

func TestRightsOfHelmTestCanBeBroughtAlong(t *testing.T) {
	r := render(t, setting{values: `rbac: {create: false}`})
	require.Len(t, r.testing, 1, "its rights are somebody else's")
	require.IsType(t, &corev1.ServiceAccount{}, r.testing[0])
	require.Equal(t, "host-firewall-test", r.testPod(t).Spec.ServiceAccountName)
}

// See TestRenderedArgumentsAreTheOnesTheAgentIsTestedWith.
func TestRenderedArgumentsOfHelmTestAreTheOnesItIsTestedWith(t *testing.T) {
	t.Parallel()
	files := valuesFiles(t)
	for name, values := range files {
		compareWithFile(t, filepath.Join("testdata", "status-args", name+".txt"),
			strings.Join(render(t, setting{values: values}).testPod(t).Spec.Containers[0].Args, "\n")+"\n")
	}
	kept, err := filepath.Glob(filepath.Join("testdata", "status-args", "*.txt"))
	require.NoError(t, err)
	require.Len(t, kept, len(files), "a file is left over from a values file that is gone")
}
