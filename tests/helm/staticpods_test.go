package helm_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

const staticPods = "agent: {staticPods: {enabled: true}, imagePullSecrets: [{name: pull}], podLabels: {team: agents}}\n"

// A static pod is what the DaemonSet's would be, but for all that a kubelet takes from an API server. It has a folder of the node instead, and no
// other right there: it runs as nobody, like the others.
func TestStaticPodIsThatOfTheDaemonSetWithoutWhatComesFromTheAPIServer(t *testing.T) {
	of, static := render(t, setting{values: "agent: {imagePullSecrets: [{name: pull}], podLabels: {team: agents}}\n"}), render(t, setting{values: staticPods})
	require.Empty(t, static.daemonSets)
	require.Len(t, static.podTemplates, 1)
	agents := of.daemonSet(t)
	got, want := static.podTemplates[0].Template, *agents.Spec.Template.DeepCopy()
	require.Equal(t, static.podTemplates[0].Labels["host-firewall.io/pod-hash"], got.Labels["host-firewall.io/pod-hash"])
	want.Labels["host-firewall.io/pod-hash"], want.Labels["host-firewall.io/release"] = got.Labels["host-firewall.io/pod-hash"], "host-firewall"
	spec, container := &want.Spec, &want.Spec.Containers[0]
	spec.ServiceAccountName, spec.AutomountServiceAccountToken, spec.ImagePullSecrets = "", pointer(false), nil
	spec.NodeSelector, spec.Affinity = nil, nil
	spec.DNSPolicy = corev1.DNSDefault // the API server's name may be one
	directory := corev1.HostPathDirectory
	spec.Volumes = []corev1.Volume{{Name: "credentials", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc/host-firewall", Type: &directory}}}}
	container.VolumeMounts = []corev1.VolumeMount{{Name: "credentials", MountPath: "/etc/host-firewall", ReadOnly: true}}
	require.Contains(t, got.Spec.Containers[0].Args, "--kubeconfig=/etc/host-firewall/kubeconfig")
	require.ElementsMatch(t, append(container.Args, "--kubeconfig=/etc/host-firewall/kubeconfig"), got.Spec.Containers[0].Args)
	container.Args = got.Spec.Containers[0].Args
	require.Equal(t, want, got)
}

// All that is not the pods themselves stays: the account, whose token a kubeconfig holds, its rights, and what binds it to its node.
func TestReleaseOfStaticPodsHasAllElse(t *testing.T) {
	kinds := func(r *rendered) (kinds []string) {
		for _, object := range r.objects {
			if kind := object.GetObjectKind().GroupVersionKind().Kind; kind != "DaemonSet" && kind != "PodTemplate" {
				kinds = append(kinds, kind)
			}
		}
		return kinds
	}
	of, static := render(t, setting{values: metricsAndAlerts}), render(t, setting{values: metricsAndAlerts + "  staticPods: {enabled: true}\n"})
	require.Equal(t, kinds(of), kinds(static))
	require.Equal(t, of.admissionPolicies, static.admissionPolicies)
	require.Equal(t, of.clusterRoles, static.clusterRoles)
	require.Equal(t, of.flowSchemas, static.flowSchemas)
	require.NotContains(t, static.manifest, "daemonset host-firewall", "nobody is sent to what is not there")
	require.Contains(t, static.notes, "exec deploy/host-firewall-controller -- /host-firewall-agent manifest")
	require.NotContains(t, of.notes, "static pod")

	var rules []rbacv1.PolicyRule
	for _, object := range static.testing {
		if role, is := object.(*rbacv1.Role); is {
			rules = role.Rules
		}
	}
	require.Contains(t, rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"podtemplates"}, ResourceNames: []string{"host-firewall"}, Verbs: []string{"get"}},
		"the controller's account, with which the command manifest runs")
}

const metricsAndAlerts = "prometheusRule: {enabled: true}\nagent:\n  metrics: {enabled: true}\n"

// By the hash status knows those that were written for another release: whatever is different in them, and nothing else.
func TestHashOfAStaticPodIsThatOfAllItIs(t *testing.T) {
	hash := func(values string) string {
		return render(t, setting{values: values}).podTemplates[0].Labels["host-firewall.io/pod-hash"]
	}
	same := hash("agent: {staticPods: {enabled: true}}")
	for _, other := range []string{"image: {tag: other}", "log: {level: debug}", "podLabels: {a: b}", "podAnnotations: {a: b}", "resources: {limits: {memory: 1Gi}}"} {
		require.NotEqual(t, same, hash("agent: {staticPods: {enabled: true}, "+other+"}"), other)
	}
	require.NotEqual(t, same, hash("agent: {staticPods: {enabled: true}}\nssh: {cidrs: [192.0.2.0/24]}"), "another set")
	require.Equal(t, same, hash("agent: {staticPods: {enabled: true}}\ncontroller: {priorityClassName: other}"))
}

// Before Kubernetes 1.31 no token is bound to a Node, and one that is bound to nothing is refused.
func TestStaticPodsWaitForAKubernetesThatBindsTokensToNodes(t *testing.T) {
	for kubernetes, words := range map[string]string{
		"v1.29.0": "", // has no admission policy
		"v1.30.4": "agent.staticPods.enabled is true, and this is Kubernetes v1.30.4",
		"v1.31.0": "",
	} {
		_, err := tryRender(t, setting{values: staticPods, kubernetes: kubernetes})
		if words == "" {
			require.NoError(t, err, kubernetes)
			continue
		}
		require.ErrorContains(t, err, words)
	}
	_, err := tryRender(t, setting{values: staticPods + "admissionPolicy: {enabled: false}", kubernetes: "v1.30.4"})
	require.NoError(t, err)
}
