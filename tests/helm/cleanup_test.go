package helm_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"

	"helm.sh/helm/v3/pkg/release"
)

// cleanup returns the Job of the uninstall hook.
func (r *rendered) cleanup(t testing.TB) *batchv1.Job {
	t.Helper()
	require.Len(t, r.hooks, 1, "Argo CD can't remove hooks that belong to no namespace")
	job, isJob := r.hooks[0].object.(*batchv1.Job)
	require.True(t, isJob)
	return job
}

func TestUninstallHookIsWholeObjects(t *testing.T) {
	eachNamed(t, func(t *testing.T, group string, names named, r *rendered) {
		require.Equal(t, wantCleaning(names.release, names.namespace, names.id), r.cleaning)
		require.Equal(t, wantCleanup(names.release, names.namespace, names.id, group), r.cleanup(t))
		require.Equal(t, []release.HookEvent{release.HookPreDelete}, r.hooks[0].Events)
		require.Equal(t, []release.HookDeletePolicy{release.HookBeforeHookCreation, release.HookSucceeded}, r.hooks[0].DeletePolicies)
	})
}

// wantCleaning is what belongs to the release for its uninstall, in the order in which Helm writes it.
func wantCleaning(releaseName, namespace, id string) []runtime.Object {
	name := id + "-cleanup"
	objects := wantRights(releaseName, id, name, namespace,
		[]rbacv1.PolicyRule{
			rule("projectcalico.org crd.projectcalico.org", "hostendpoints felixconfigurations", "list", "patch", "delete"),
			rule("projectcalico.org crd.projectcalico.org", "globalnetworkpolicies globalnetworksets", "list", "delete"),
			rule("projectcalico.org", "tiers", "get"),
			rule("projectcalico.org", "tier.globalnetworkpolicies", "list", "delete"),
		},
		[]rbacv1.PolicyRule{
			of(id, rule("", "configmaps", "patch", "delete")),
			of(id+"-controller", rule("apps", "deployments", "get", "delete")),
			of(id, rule("apps", "daemonsets", "get", "delete")),
			of(name, rule("", "serviceaccounts", "get")),
			of(id+"-test", rule("", "pods", "delete")),
			rule("", "configmaps", "create"),
		})
	for _, object := range objects {
		object.(metav1.Object).SetAnnotations(map[string]string{"argocd.argoproj.io/sync-options": "Delete=false"})
	}
	return objects
}

// wantCleanup is the Job of the uninstall hook.
func wantCleanup(releaseName, namespace, id, group string) *batchv1.Job {
	name := id + "-cleanup"
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: objectLabels(releaseName, id), Annotations: map[string]string{
			"argocd.argoproj.io/sync-options": "Delete=false",
			"helm.sh/hook":                    "pre-delete",
			"helm.sh/hook-delete-policy":      "before-hook-creation,hook-succeeded",
			"helm.sh/hook-output-log-policy":  "hook-failed",
		}},
		Spec: batchv1.JobSpec{
			BackoffLimit: pointer[int32](2),
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:      batchv1.PodFailurePolicyActionFailJob,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{2}},
			}}},
			ActiveDeadlineSeconds:   pointer[int64](285),
			TTLSecondsAfterFinished: pointer[int32](86400),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{
					"app.kubernetes.io/instance": releaseName, "app.kubernetes.io/component": "cleanup",
				}},
				Spec: corev1.PodSpec{
					RestartPolicy:                 corev1.RestartPolicyNever,
					ServiceAccountName:            name,
					AutomountServiceAccountToken:  pointer(true),
					HostNetwork:                   true,
					DNSPolicy:                     corev1.DNSDefault,
					EnableServiceLinks:            pointer(false),
					TerminationGracePeriodSeconds: pointer[int64](10),
					NodeSelector:                  map[string]string{"kubernetes.io/os": "linux"},
					Tolerations: []corev1.Toleration{
						{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists},
						{Key: "CriticalAddonsOnly", Operator: corev1.TolerationOpExists},
						{Key: "node.kubernetes.io/network-unavailable", Operator: corev1.TolerationOpExists},
					},
					SecurityContext: &corev1.PodSecurityContext{
						RunAsNonRoot:   pointer(true),
						RunAsUser:      pointer[int64](65532),
						RunAsGroup:     pointer[int64](65532),
						SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
					},
					Containers: []corev1.Container{{
						Name:            "cleanup",
						Image:           "host-firewall/agent:0.1.0",
						ImagePullPolicy: corev1.PullIfNotPresent,
						Args: []string{
							"cleanup", "--release=" + id, "--namespace=" + namespace, "--account=" + name, "--test-pod=" + id + "-test", "--api-group=" + group,
							"--timeout=240s", "--daemonset=" + id, "--deployment=" + id + "-controller", "--log-level=info", "--log-format=text",
						},
						Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
							corev1.ResourceCPU:    resource.MustParse("10m"),
							corev1.ResourceMemory: resource.MustParse("32Mi"),
						}},
						SecurityContext: &corev1.SecurityContext{
							AllowPrivilegeEscalation: pointer(false),
							ReadOnlyRootFilesystem:   pointer(true),
							Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
						},
					}},
				},
			},
		},
	}
}

// The names of the release have to be the ones that the Role lets the cleanup touch.
func TestCleanupStopsWhatTheReleaseRuns(t *testing.T) {
	for _, values := range []string{``, `fullnameOverride: other`, `nameOverride: other`} {
		r := render(t, setting{release: "edge", namespace: "kube-system", values: values})
		role, isRole := r.cleaning[3].(*rbacv1.Role)
		require.True(t, isRole)
		require.Equal(t, r.daemonSet(t).Namespace, role.Namespace)
		arguments := r.cleanup(t).Spec.Template.Spec.Containers[0].Args
		require.Contains(t, arguments, "--namespace="+role.Namespace)
		for i, touched := range []struct{ flag, name string }{
			{"release", argumentsOf(t, r)["release"]},
			{"deployment", r.deployment(t).Name},
			{"daemonset", r.daemonSet(t).Name},
			{"account", r.cleanup(t).Spec.Template.Spec.ServiceAccountName},
			{"test-pod", r.testHooks[0].Name},
		} {
			require.Equal(t, []string{touched.name}, role.Rules[i].ResourceNames, touched.flag)
			require.Contains(t, arguments, "--"+touched.flag+"="+touched.name)
		}
	}
}

func TestPodOfTheCleanupIsNoPodOfTheDaemonSet(t *testing.T) {
	t.Parallel()
	for name, values := range ciFiles(t) {
		r := render(t, setting{values: values})
		if len(r.hooks) == 0 {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(r.daemonSet(t).Spec.Selector)
		require.NoError(t, err)
		require.False(t, selector.Matches(labels.Set(r.cleanup(t).Spec.Template.Labels)), name)
	}
}

func TestCleanupRunsAsTheAgentRuns(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	r := render(t, setting{values: `
cleanup: {timeoutSeconds: 600}
commonLabels: {team: network}
commonAnnotations: {example.org/owner: network}
agent:
  image: {digest: "` + digest + `", pullPolicy: Always}
  imagePullSecrets: [{name: pull}]
  runAsUser: 10001
  resources: null
  kubernetesService: {host: api.example.org}
  extraEnv: [{name: HTTPS_PROXY, value: "http://192.0.2.1:3128"}]
  log: {level: debug, format: json}`})
	job, agent := r.cleanup(t), r.daemonSet(t).Spec.Template.Spec
	require.Equal(t, int64(645), *job.Spec.ActiveDeadlineSeconds)
	require.Equal(t, "network", job.Spec.Template.Labels["team"])
	require.Equal(t, map[string]string{"example.org/owner": "network"}, job.Spec.Template.Annotations)
	pod := job.Spec.Template.Spec
	require.Equal(t, agent.ImagePullSecrets, pod.ImagePullSecrets)
	require.Equal(t, agent.SecurityContext, pod.SecurityContext)
	container := pod.Containers[0]
	require.Equal(t, agent.Containers[0].Image, container.Image)
	require.Equal(t, corev1.PullAlways, container.ImagePullPolicy)
	require.Equal(t, agent.Containers[0].Env[1:], container.Env, "all but the name of the node")
	require.Len(t, container.Env, 3)
	require.Equal(t, agent.Containers[0].SecurityContext, container.SecurityContext)
	require.Empty(t, container.Resources)
	require.Subset(t, container.Args, []string{
		"--timeout=600s", "--log-level=debug", "--log-format=json",
	})
}

// What the agents ask for may match no node, and a pod that tolerates everything is put on a dead node, too.
func TestHooksRunOnAnyNodeThatIsAlive(t *testing.T) {
	r := render(t, setting{values: `
cleanup: {tolerations: [{key: dedicated, operator: Exists}]}
agent:
  nodeSelector: {zone: nowhere}
  affinity: {nodeAffinity: {}}
  tolerations: [{operator: Exists}]
  priorityClassName: missing`})
	for _, pod := range []corev1.PodSpec{r.cleanup(t).Spec.Template.Spec, r.testPod(t).Spec, render(t, setting{}).cleanup(t).Spec.Template.Spec} {
		require.Equal(t, map[string]string{"kubernetes.io/os": "linux"}, pod.NodeSelector)
		require.Nil(t, pod.Affinity)
		require.Empty(t, pod.PriorityClassName)
		for _, taint := range []string{"unreachable", "not-ready", "unschedulable", "out-of-service"} {
			for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
				require.False(t, slices.ContainsFunc(pod.Tolerations, func(toleration corev1.Toleration) bool {
					return toleration.ToleratesTaint(klog.Background(), &corev1.Taint{Key: "node.kubernetes.io/" + taint, Effect: effect}, false)
				}), taint)
			}
		}
	}
	require.Contains(t, r.testPod(t).Spec.Tolerations, corev1.Toleration{Key: "dedicated", Operator: corev1.TolerationOpExists})
}

func TestCleanupCanBeSwitchedOff(t *testing.T) {
	r := render(t, setting{values: `cleanup: {enabled: false}`})
	require.Empty(t, r.hooks)
	require.Empty(t, r.cleaning)

	r = render(t, setting{values: `rbac: {create: false}`})
	require.Len(t, r.cleaning, 1, "its account; its rights are somebody else's")
	require.Equal(t, "host-firewall-cleanup", r.cleanup(t).Spec.Template.Spec.ServiceAccountName)
}

// See TestRenderedArgumentsAreTheOnesTheAgentIsTestedWith.
func TestRenderedArgumentsOfTheCleanupAreTheOnesItIsTestedWith(t *testing.T) {
	t.Parallel()
	rendered := 0
	for name, values := range valuesFiles(t) {
		if r := render(t, setting{values: values}); len(r.hooks) > 0 {
			rendered++
			compareWithFile(t, filepath.Join("testdata", "cleanup-args", name+".txt"),
				strings.Join(r.cleanup(t).Spec.Template.Spec.Containers[0].Args, "\n")+"\n")
		}
	}
	files, err := filepath.Glob(filepath.Join("testdata", "cleanup-args", "*.txt"))
	require.NoError(t, err)
	require.Len(t, files, rendered, "a file is left over from a values file that is gone")
}
