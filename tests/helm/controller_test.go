package helm_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// controllerArguments parses the controller's arguments as it does, see argumentsOf.
func controllerArguments(t testing.TB, r *rendered) map[string]string {
	t.Helper()
	return parsed(t, controllerTold(t, r)[1:], "policies", "trust-nodes", "cluster-cidrs", "api-server-ports", "accept-policies", "confirm",
		"agents", "nodes", "max-unavailable", "on-would-cut", "accept-cuts-ports", "accept-cuts-cidrs", "ssh-ports", "ssh-cidrs", "narrow-failsafe")
}

// controllerTold are the controller's arguments, with those in their place that it gets as variables.
func controllerTold(t testing.TB, r *rendered) (told []string) {
	t.Helper()
	container := r.deployment(t).Spec.Template.Spec.Containers[0]
	require.Equal(t, "controller", container.Args[0])
	for _, variable := range container.Env {
		if name, ours := strings.CutPrefix(variable.Name, "HOST_FIREWALL_"); ours && variable.ValueFrom == nil {
			told = append(told, "--"+strings.ReplaceAll(strings.ToLower(name), "_", "-")+"="+variable.Value)
		}
	}
	return slices.Concat(container.Args[:1], told, container.Args[1:])
}

func controllerLabels(id string) map[string]string {
	return map[string]string{"app.kubernetes.io/component": "controller", "host-firewall.io/release": id}
}

func TestDeploymentIsAWholeObject(t *testing.T) {
	t.Parallel()
	eachNamed(t, func(t *testing.T, group string, names named, r *rendered) {
		require.Equal(t, wantDeployment(names.release, names.namespace, names.id, []corev1.EnvVar{
			{Name: "HOST_FIREWALL_OWN_NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
			{Name: "HOST_FIREWALL_RELEASE", Value: names.id},
			{Name: "HOST_FIREWALL_NAMESPACE", Value: names.namespace},
			{Name: "HOST_FIREWALL_MODE", Value: "enforce"},
			{Name: "HOST_FIREWALL_API_GROUP", Value: group},
			{Name: "HOST_FIREWALL_SET", Value: r.policies[0].Labels[setLabel]},
			{Name: "HOST_FIREWALL_POLICIES", Value: controllerArguments(t, r)["policies"]},
		}, []string{
			"controller",
			"--trust-nodes=true",
			"--api-server-ports=6443",
			"--rollout=" + argumentsOf(t, r)["rollout"],
			"--verify=true",
			"--endpoint-labels=host-endpoint=ingress",
			"--interfaces=*",
			"--health-port=9095",
			"--resync=10m",
			"--log-level=info",
			"--log-format=text",
		}), r.deployment(t))
	})
}

func wantDeployment(release, namespace, id string, variables []corev1.EnvVar, arguments []string) *appsv1.Deployment {
	agent := wantDaemonSet(release, namespace, id, nil).Spec.Template.Spec
	probe := func(like *corev1.Probe) *corev1.Probe {
		like.HTTPGet.Port = intstr.FromInt32(9095)
		return like
	}
	dead := func(taint string) corev1.Toleration {
		return corev1.Toleration{
			Key: "node.kubernetes.io/" + taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: pointer[int64](60),
		}
	}
	pod := *agent.DeepCopy()
	pod.ServiceAccountName = id + "-controller"
	pod.PriorityClassName = "system-cluster-critical"
	pod.DNSPolicy = corev1.DNSDefault
	pod.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.PreferredSchedulingTerm{{
		Weight: 100,
		Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.NodeSelectorOpExists},
		}},
	}}
	pod.Tolerations = append([]corev1.Toleration{dead("not-ready"), dead("unreachable")}, agent.Tolerations...)
	pod.Containers = []corev1.Container{{
		Name:            "controller",
		Image:           agent.Containers[0].Image,
		ImagePullPolicy: agent.Containers[0].ImagePullPolicy,
		Args:            arguments,
		Env:             variables,
		LivenessProbe:   probe(agent.Containers[0].LivenessProbe),
		ReadinessProbe:  probe(agent.Containers[0].ReadinessProbe),
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("10m"),
			corev1.ResourceMemory: resource.MustParse("64Mi"),
		}},
		SecurityContext: agent.Containers[0].SecurityContext,
	}}
	podLabels := controllerLabels(id)
	podLabels["app.kubernetes.io/instance"] = release
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: id + "-controller", Namespace: namespace, Labels: objectLabels(release, id)},
		Spec: appsv1.DeploymentSpec{
			Replicas: pointer[int32](1),
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(0)), MaxUnavailable: ptr.To(intstr.FromInt32(1))},
			},
			Selector: &metav1.LabelSelector{MatchLabels: controllerLabels(id)},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: podLabels}, Spec: pod},
		},
	}
}

func TestControllerIsToldWhatTheValuesSay(t *testing.T) {
	t.Parallel()
	requireTold(t, controllerArguments, map[string]told{
		"networks of the cluster, each once": {
			`cluster: {cidrs: [10.0.0.0/8, "2001:DB8::/32", 10.0.0.0/8]}`,
			map[string]string{"cluster-cidrs": "10.0.0.0/8,2001:db8::/32"},
		},
		"not to trust nodes but by these": {
			`cluster: {cidrs: [10.0.0.0/8], trustNodes: false}`,
			map[string]string{"cluster-cidrs": "10.0.0.0/8", "trust-nodes": "false"},
		},
		"ports of the API server, each once": {
			`essential: {apiServerPorts: [443, 6443, 443]}`,
			map[string]string{"api-server-ports": "443,6443"},
		},
		"what to put up with":              {`hostEndpoint: {acceptPolicies: [baseline, default.x]}`, map[string]string{"accept-policies": "baseline,default.x"}},
		"how long a person has to confirm": {`rollout: {confirm: 1h30m}`, map[string]string{"confirm": "1h30m"}},
		"how SSH will be": {
			`ssh: {cidrs: [192.0.2.0/24], ports: [22, 2222]}`,
			map[string]string{"ssh-cidrs": "192.0.2.0/24", "ssh-ports": "22,2222", "narrow-failsafe": "true"},
		},
		"where SSH is":                   {`ssh: {cidrs: [192.0.2.0/24], ports: [2222], narrowFailsafe: false}`, map[string]string{"ssh-ports": "2222"}},
		"to wait, and not for whom":      {`rollout: {onWouldCut: wait, acceptCuts: {ports: [9100, "9200:9300"], cidrs: [10.4.0.0/16, 10.4.0.0/16]}}`, map[string]string{"on-would-cut": "wait", "accept-cuts-ports": "9100,9200:9300", "accept-cuts-cidrs": "10.4.0.0/16"}},
		"to tell who would be cut":       {`rollout: {onWouldCut: report, acceptCuts: null}`, map[string]string{}},
		"nor of what is the agents' own": {`agent: {health: {port: 19097}}`, map[string]string{}},
		"its ports": {
			`{agent: {metrics: {enabled: true, address: 127.0.0.1}}, controller: {health: {port: 19095}, metrics: {port: 19094}}}`,
			map[string]string{"health-port": "19095", "metrics-address": "127.0.0.1:19094"},
		},
	}, map[string]string{"health-port": "9095", "trust-nodes": "true", "api-server-ports": "6443"}, "9094")
}

func TestControllerWaitsForEveryPolicy(t *testing.T) {
	t.Parallel()
	for name, values := range valuesFiles(t) {
		r := render(t, setting{values: values})
		var names []string
		for _, policy := range strings.Split(controllerArguments(t, r)["policies"], ",") {
			name, digest, _ := strings.Cut(policy, "=")
			require.Regexp(t, `^[0-9a-f]{16}$`, digest)
			names = append(names, name)
		}
		require.Equal(t, r.policyNames(), names, name)
	}
}

func TestRightsAreExactlyWhatTheControllerCalls(t *testing.T) {
	t.Parallel()
	for _, group := range []string{apiV3, apiV1} {
		for _, namespace := range []string{"kube-system", "default"} {
			t.Run(group+"/"+namespace, func(t *testing.T) {
				r := render(t, setting{release: "edge", namespace: namespace, served: clusterServing(group)})
				id, name := "edge-host-firewall", "edge-host-firewall-controller"
				calico, _, _ := strings.Cut(group, "/")
				rules := []rbacv1.PolicyRule{
					rule("", "nodes", "list", "watch"),
					rule(calico, "hostendpoints clusterinformations", "list", "watch"),
					rule(calico, "felixconfigurations", "list", "watch"),
					rule(calico, "ippools", "list"),
					rule(calico, "globalnetworkpolicies", "list", "watch", "create", "delete"),
				}
				if group == apiV3 {
					rules = append(rules, rule(calico, "tiers", "get"), rule(calico, "tier.globalnetworkpolicies", "list", "watch", "create", "delete"))
				}
				rules = append(rules, rule(calico, "globalnetworksets", "list", "watch", "create", "patch", "delete"), rule("", "events", "create"))
				require.Equal(t, wantRights("edge", id, name, namespace, rules, []rbacv1.PolicyRule{
					rule("", "configmaps", "create"),
					of(id, rule("", "configmaps", "list", "watch", "patch")),
				}), r.rights(name))

				elsewhere := wantRights("edge", id, id+"-endpointslices", "default", nil, []rbacv1.PolicyRule{
					of("kubernetes", rule("discovery.k8s.io", "endpointslices", "get")),
				})[3:]
				elsewhere[1].(*rbacv1.RoleBinding).Subjects = []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: namespace}}
				require.Equal(t, elsewhere, r.rights(id+"-endpointslices"))
			})
		}
	}
	r := render(t, setting{values: `essential: {apiServerPorts: []}`})
	require.NotContains(t, controllerArguments(t, r), "api-server-ports")
	require.Len(t, render(t, setting{values: `rbac: {create: false}`}).rights("host-firewall-controller"), 1, "its account; its rights are somebody else's")
}

func TestPodOfTheControllerIsItsAlone(t *testing.T) {
	t.Parallel()
	for name, values := range valuesFiles(t) {
		r := render(t, setting{values: values})
		selects := func(selector *metav1.LabelSelector, set map[string]string) bool {
			of, err := metav1.LabelSelectorAsSelector(selector)
			require.NoError(t, err)
			return of.Matches(labels.Set(set))
		}
		deployment, agents := r.deployment(t).Spec, r.daemonSet(t).Spec
		require.True(t, selects(deployment.Selector, deployment.Template.Labels), name)
		require.False(t, selects(agents.Selector, deployment.Template.Labels), name)
		require.False(t, selects(deployment.Selector, agents.Template.Labels), name)
	}
	labelled := render(t, setting{values: `commonLabels: {app.kubernetes.io/component: controller}`})
	require.NotContains(t, labelled.daemonSet(t).Spec.Template.Labels, releaseLabel, "what the Deployment selects by")
}

func TestControllerRunsWhereItIsToldElseWhereTheAgentsDo(t *testing.T) {
	pod := func(values string) corev1.PodSpec {
		return render(t, setting{values: values}).deployment(t).Spec.Template.Spec
	}
	agents := pod(`
agent:
  nodeSelector: {zone: edge}
  affinity: {nodeAffinity: null, podAntiAffinity: {}}
  tolerations: [{key: dedicated, operator: Exists}]
  priorityClassName: ""`)
	require.Equal(t, "edge", agents.NodeSelector["zone"])
	require.NotNil(t, agents.Affinity.PodAntiAffinity)
	require.Len(t, agents.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	require.Equal(t, corev1.Toleration{Key: "dedicated", Operator: corev1.TolerationOpExists}, agents.Tolerations[2])
	require.Equal(t, "system-cluster-critical", agents.PriorityClassName)

	own := pod(`
controller:
  nodeSelector: {zone: core}
  affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: a, operator: Exists}]}}]}}
  tolerations: [{key: core, operator: Exists}]
  priorityClassName: ""
  resources: {requests: null, limits: {memory: 1Gi}}`)
	require.Equal(t, map[string]string{"zone": "core"}, own.NodeSelector)
	require.Equal(t, "a", own.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].Preference.MatchExpressions[0].Key)
	require.Nil(t, own.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	require.Equal(t, "core", own.Tolerations[2].Key)
	require.Empty(t, own.PriorityClassName)
	require.Equal(t, resource.MustParse("1Gi"), own.Containers[0].Resources.Limits[corev1.ResourceMemory])
	require.Empty(t, own.Containers[0].Resources.Requests)
}

// What tolerates everything stays where it is when its node dies: Kubernetes takes the first toleration that matches.
func TestControllerLeavesADeadNode(t *testing.T) {
	for _, values := range []string{``, `controller: {tolerations: [{operator: Exists}]}`} {
		tolerations := render(t, setting{values: values}).deployment(t).Spec.Template.Spec.Tolerations
		for _, taint := range []string{"not-ready", "unreachable"} {
			first := slices.IndexFunc(tolerations, func(toleration corev1.Toleration) bool {
				return toleration.ToleratesTaint(klog.Background(), &corev1.Taint{Key: "node.kubernetes.io/" + taint, Effect: corev1.TaintEffectNoExecute}, false)
			})
			require.Equal(t, int64(60), *tolerations[first].TolerationSeconds)
		}
	}
}

func TestControllerRunsAsTheAgentsDo(t *testing.T) {
	r := render(t, setting{values: `
commonLabels: {team: network, example.org/who: all}
commonAnnotations: {example.org/owner: network}
controller: {podLabels: {example.org/who: controller}, podAnnotations: {example.org/reviewed: "yes"}}
agent:
  image: {tag: v2, pullPolicy: Always}
  imagePullSecrets: [{name: pull}]
  runAsUser: 10001
  kubernetesService: {host: api.example.org}
  extraEnv: [{name: HTTPS_PROXY, value: "http://192.0.2.1:3128"}]
  metrics: {enabled: true}`})
	pod, agent := r.deployment(t).Spec.Template, r.daemonSet(t).Spec.Template.Spec
	require.Subset(t, pod.Labels, map[string]string{"team": "network", "example.org/who": "controller"})
	require.Equal(t, map[string]string{"example.org/owner": "network", "example.org/reviewed": "yes"}, pod.Annotations)
	require.Equal(t, agent.ImagePullSecrets, pod.Spec.ImagePullSecrets)
	require.Equal(t, agent.SecurityContext, pod.Spec.SecurityContext)
	container := pod.Spec.Containers[0]
	require.Equal(t, agent.Containers[0].Image, container.Image)
	require.Equal(t, corev1.PullAlways, container.ImagePullPolicy)
	require.Subset(t, container.Env, agent.Containers[0].Env[1:], "all but the name of the node")
	require.Equal(t, []corev1.ContainerPort{{Name: "metrics", ContainerPort: 9094}}, container.Ports)
}

// See TestRenderedArgumentsAreTheOnesTheAgentIsTestedWith.
func TestRenderedArgumentsOfTheControllerAreTheOnesItIsTestedWith(t *testing.T) {
	t.Parallel()
	files := valuesFiles(t)
	for name, values := range files {
		compareWithFile(t, filepath.Join("testdata", "controller-args", name+".txt"),
			strings.Join(controllerTold(t, render(t, setting{values: values})), "\n")+"\n")
	}
	kept, err := filepath.Glob(filepath.Join("testdata", "controller-args", "*.txt"))
	require.NoError(t, err)
	require.Len(t, kept, len(files), "a file is left over from a values file that is gone")
}

// An agent heeds what the controller holds against its node only where both were told alike.
func TestAgentsAndControllerAreToldAlikeByWhichValuesNodesAreJudged(t *testing.T) {
	rollouts := map[string]string{}
	for _, values := range []string{
		"", "mode: off", "hostEndpoint: {acceptPolicies: [x]}", "hostEndpoint: {labels: {a: b}}", "hostEndpoint: {interfaces: [eth0]}", "hostEndpoint: {adopt: true}",
		"cluster: {trustNodes: false, cidrs: [192.0.2.0/24]}", "essential: {apiServerPorts: [443]}", "ssh: {cidrs: [192.0.2.0/24]}",
		"rollout: {verify: false}", "rollout: {confirm: 15m}",
	} {
		r := render(t, setting{values: values})
		rollout := argumentsOf(t, r)["rollout"]
		require.Equal(t, rollout, controllerArguments(t, r)["rollout"])
		require.Empty(t, rollouts[rollout], "as with other values: %s", values)
		rollouts[rollout] = "values " + values
	}
	for _, values := range []string{"agent: {log: {level: debug}}", "agent: {metrics: {enabled: true}}"} {
		require.Equal(t, "values ", rollouts[argumentsOf(t, render(t, setting{values: values}))["rollout"]], values)
	}
}
