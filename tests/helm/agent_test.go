package helm_test

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func selectorLabels(release string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": "host-firewall", "app.kubernetes.io/instance": release}
}

func objectLabels(release, id string) map[string]string {
	labels := selectorLabels(release)
	labels["app.kubernetes.io/version"] = "0.1.0"
	labels["app.kubernetes.io/managed-by"] = "Helm"
	labels["helm.sh/chart"] = "host-firewall-0.1.0"
	labels["host-firewall.io/release"] = id
	return labels
}

// argumentsOf parses the agent's arguments as the agent does: with these flags and no others. A flag that is given twice, is
// unknown or has a value that its type does not take fails the test.
func argumentsOf(t testing.TB, r *rendered) map[string]string {
	t.Helper()
	return parsed(t, r.container(t).Args, "node-name", "ssh-cidrs", "ssh-ports", "narrow-failsafe", "watch-peers")
}

// parsed are arguments of agent or controller, which have these flags beside those that both have.
func parsed(t testing.TB, arguments []string, more ...string) map[string]string {
	t.Helper()
	flags := flag.NewFlagSet("host-firewall-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Uint("health-port", 0, "")
	flags.Duration("resync", time.Hour, "")
	for _, name := range append(more, "release", "namespace", "mode", "api-group", "set", "rollout", "verify", "interfaces", "node-labels", "adopt", "endpoint-labels",
		"kubeconfig", "metrics-address", "log-level", "log-format") {
		if slices.Contains([]string{"adopt", "narrow-failsafe", "trust-nodes", "verify"}, name) {
			flags.Bool(name, false, "")
		} else {
			flags.String(name, "", "")
		}
	}
	require.NoError(t, flags.Parse(arguments))
	require.Empty(t, flags.Args())
	given := map[string]string{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = f.Value.String() })
	require.Len(t, arguments, len(given), "a flag is given twice: %v", arguments)
	return given
}

func TestDaemonSetIsAWholeObject(t *testing.T) {
	t.Parallel()
	for _, group := range []string{apiV3, apiV1} {
		for _, kubernetes := range []string{oldestKubernetes, newestKubernetes} {
			for _, names := range []struct{ release, namespace, id string }{
				{"host-firewall", "host-firewall", "host-firewall"},
				{"edge.eu", "kube-system", "edge-eu-host-firewall"},
			} {
				t.Run(group+"/"+kubernetes+"/"+names.release, func(t *testing.T) {
					r := render(t, setting{
						release: names.release, namespace: names.namespace, kubernetes: kubernetes, served: clusterServing(group),
					})
					require.Equal(t, wantDaemonSet(names.release, names.namespace, names.id, []string{
						"--release=" + names.id,
						"--namespace=" + names.namespace,
						"--mode=enforce",
						"--api-group=" + group,
						"--set=" + r.policies[0].Labels[setLabel],
						"--ssh-ports=22",
						"--rollout=" + controllerArguments(t, r)["rollout"],
						"--verify=true",
						"--endpoint-labels=host-endpoint=ingress",
						"--interfaces=*",
						"--health-port=9097",
						"--resync=10m",
						"--log-level=info",
						"--log-format=text",
					}), r.daemonSet(t))
				})
			}
		}
	}
}

func wantDaemonSet(release, namespace, id string, arguments []string) appsv1.DaemonSet {
	probe := func(path string, period int32) *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{
				HTTPGet: &corev1.HTTPGetAction{Host: "127.0.0.1", Port: intstr.FromInt32(9097), Path: path},
			},
			PeriodSeconds:  period,
			TimeoutSeconds: 5,
		}
	}
	return appsv1.DaemonSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: metav1.ObjectMeta{Name: id, Namespace: namespace, Labels: objectLabels(release, id)},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: selectorLabels(release)},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: pointer(intstr.FromString("25%"))},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: selectorLabels(release)},
				Spec: corev1.PodSpec{
					ServiceAccountName:            id,
					AutomountServiceAccountToken:  pointer(true),
					PriorityClassName:             "system-node-critical",
					HostNetwork:                   true,
					DNSPolicy:                     corev1.DNSClusterFirstWithHostNet,
					EnableServiceLinks:            pointer(false),
					TerminationGracePeriodSeconds: pointer[int64](10),
					NodeSelector:                  map[string]string{"kubernetes.io/os": "linux"},
					Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
						RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
							NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
								{Key: "type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual-kubelet"}},
								{Key: "eks.amazonaws.com/compute-type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"fargate"}},
							}}},
						},
					}},
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					SecurityContext: &corev1.PodSecurityContext{
						RunAsNonRoot:   pointer(true),
						RunAsUser:      pointer[int64](65532),
						RunAsGroup:     pointer[int64](65532),
						SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
					},
					Containers: []corev1.Container{{
						Name:            "agent",
						Image:           "host-firewall/agent:0.1.0",
						ImagePullPolicy: corev1.PullIfNotPresent,
						Args:            arguments,
						Env: []corev1.EnvVar{{
							Name:      "HOST_FIREWALL_NODE_NAME",
							ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}},
						}},
						LivenessProbe:  probe("/livez", 10),
						ReadinessProbe: probe("/readyz", 2),
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

// What Pod Security itself says of them is asked in the package validator.
func TestPodsAreRestrictedWhateverTheValues(t *testing.T) {
	t.Parallel()
	for name, values := range ciFiles(t) {
		t.Run(name, func(t *testing.T) {
			r := render(t, setting{values: values})
			for _, pod := range []corev1.PodSpec{r.daemonSet(t).Spec.Template.Spec, r.deployment(t).Spec.Template.Spec} {
				require.False(t, pod.HostPID)
				require.False(t, pod.HostIPC)
				require.Empty(t, pod.Volumes)
				require.Empty(t, pod.InitContainers)
				require.True(t, *pod.SecurityContext.RunAsNonRoot)
				require.Positive(t, *pod.SecurityContext.RunAsUser)
				require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type)
				container := pod.Containers[0]
				if !strings.Contains(values, "metrics:") {
					require.Empty(t, container.Ports, "a port of a pod on the host network is a port of the host")
				}
				require.Equal(t, &corev1.SecurityContext{
					AllowPrivilegeEscalation: pointer(false),
					ReadOnlyRootFilesystem:   pointer(true),
					Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				}, container.SecurityContext)
			}
		})
	}
}

func TestAgentIsToldWhatTheValuesSay(t *testing.T) {
	t.Parallel()
	requireTold(t, argumentsOf, map[string]told{
		"policies are none of its business":              {`policies: {dropOther: {order: 30}}`, map[string]string{}},
		"nor are the networks of the cluster":            {`cluster: {cidrs: [10.0.0.0/8], trustNodes: false}`, map[string]string{}},
		"nor are policies of others, and the API server": {`{hostEndpoint: {acceptPolicies: ["*"]}, essential: {apiServerPorts: []}}`, map[string]string{}},
		"nor is who confirms, the clearance has it":      {`rollout: {confirm: 15m}`, map[string]string{}},
		"SSH's failsafe": {
			`ssh: {cidrs: [192.0.2.0/24, "2001:DB8::/32", 192.0.2.0/24], ports: [22, "2200:2299", 22]}`,
			map[string]string{"narrow-failsafe": "true", "ssh-cidrs": "192.0.2.0/24,2001:db8::/32", "ssh-ports": "22,2200:2299"},
		},
		"where SSH is, also where it is not narrowed": {`ssh: {ports: [2222]}`, map[string]string{"ssh-ports": "2222"}},
		"to look at nobody":                           {`rollout: {watchPeers: never}`, map[string]string{"watch-peers": "never"}},
		"to look at them always":                      {`rollout: {watchPeers: always}`, map[string]string{"watch-peers": "always"}},
		"not to narrow it":                            {`ssh: {cidrs: [192.0.2.0/24], narrowFailsafe: false}`, map[string]string{}},
		"its ports": {
			`agent: {health: {port: 19097}, metrics: {enabled: true, address: 127.0.0.1, port: 9198}}`,
			map[string]string{"health-port": "19097", "metrics-address": "127.0.0.1:9198"},
		},
	}, map[string]string{"health-port": "9097", "ssh-ports": "22"}, "9096")
}

// told is what a program is told otherwise than by default.
type told struct {
	values  string
	changed map[string]string
}

// requireTold holds what agents and controller are told alike, and what one of them is told alone. The set is told by others.
func requireTold(t *testing.T, arguments func(testing.TB, *rendered) map[string]string, tests map[string]told, alone map[string]string, metricsPort string) {
	t.Helper()
	tell := func(values string) map[string]string {
		given := arguments(t, render(t, setting{values: values}))
		delete(given, "set")
		delete(given, "rollout")
		delete(given, "policies")
		return given
	}
	defaults := map[string]string{
		"release": "host-firewall", "namespace": "host-firewall", "mode": "enforce", "api-group": apiV3, "endpoint-labels": "host-endpoint=ingress",
		"interfaces": "*", "verify": "true", "resync": "10m0s", "log-level": "info", "log-format": "text",
	}
	maps.Copy(defaults, alone)
	require.Equal(t, defaults, tell(""))
	maps.Copy(tests, map[string]told{
		"labels of an armed endpoint, sorted": {
			`hostEndpoint: {labels: {zone: dmz, a.example.org/firewall: ""}}`,
			map[string]string{"endpoint-labels": "a.example.org/firewall=,host-endpoint=ingress,zone=dmz"},
		},
		"no labels beside that of the set": {`hostEndpoint: {labels: null}`, map[string]string{"endpoint-labels": ""}},
		"to close nothing":                 {`mode: audit`, map[string]string{"mode": "audit"}},
		"to arm nothing":                   {`mode: "off"`, map[string]string{"mode": "off"}},
		"to arm nothing, as YAML reads it": {`mode: off`, map[string]string{"mode": "off"}},
		"interfaces, and labels of nodes": {
			`hostEndpoint: {interfaces: ["*", "eth*", "en[op]?"], nodeLabels: [zone, "rack.example.org/*"], adopt: true}`,
			map[string]string{"interfaces": "*,eth*,en[op]?", "node-labels": "zone,rack.example.org/*", "adopt": "true"},
		},
		"names as long as Linux has them, and globs that may match one": {
			`hostEndpoint: {interfaces: [abcdefghijklmno, "a*b*c*d*e*f*g*h*", "*[a-z]", "??????????????*?"]}`,
			map[string]string{"interfaces": "abcdefghijklmno,a*b*c*d*e*f*g*h*,*[a-z],??????????????*?"},
		},
		"that a move is not tried":           {`rollout: {verify: false}`, map[string]string{"verify": "false"}},
		"metrics on all addresses":           {`agent: {metrics: {enabled: true}}`, map[string]string{"metrics-address": ":" + metricsPort}},
		"metrics on an IPv6 address":         {`agent: {metrics: {enabled: true, address: "::1"}}`, map[string]string{"metrics-address": "[::1]:" + metricsPort}},
		"no metrics, wherever they would be": {`agent: {metrics: {address: 127.0.0.1}}`, map[string]string{}},
		"how to run": {
			`agent: {resync: 1h30m, log: {level: debug, format: json}}`,
			map[string]string{"resync": "1h30m0s", "log-level": "debug", "log-format": "json"},
		},
		"an API group that is given": {`calico: {apiGroup: crd.projectcalico.org/v1}`, map[string]string{"api-group": apiV1}},
	})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want := maps.Clone(defaults)
			maps.Copy(want, test.changed)
			require.Equal(t, want, tell(test.values))
		})
	}
}

// The agent's settings package is internal to the agent, so its own test cannot render this chart and this one cannot import
// it. These files stand between the two: here they are proven to be what the chart renders, there they are parsed.
func TestRenderedArgumentsAreTheOnesTheAgentIsTestedWith(t *testing.T) {
	t.Parallel()
	for name, values := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			compareWithFile(t, filepath.Join("testdata", "agent-args", name+".txt"),
				strings.Join(render(t, setting{values: values}).container(t).Args, "\n")+"\n")
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "agent-args", "*.txt"))
	require.NoError(t, err)
	require.Len(t, files, len(valuesFiles(t)), "a file is left over from a values file that is gone")
}

func compareWithFile(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "go test ./tests/helm -update writes %s anew", path)
}

// An agent that has to ask the cluster's DNS for the API server could neither start before it nor go back without it.
func TestAgentTriesTheClustersDNSUnlessItNeedsAName(t *testing.T) {
	t.Parallel()
	for values, want := range map[string]corev1.DNSPolicy{
		``:                                       corev1.DNSClusterFirstWithHostNet,
		`{kubernetesService: {host: 192.0.2.1}}`: corev1.DNSClusterFirstWithHostNet,
		`{kubernetesService: {host: "fd00::a"}}`: corev1.DNSClusterFirstWithHostNet,
		`{kubernetesService: {host: api.example.org}}`:                                     corev1.DNSDefault,
		`{extraEnv: [{name: NO_PROXY, value: 10.0.0.0/8}]}`:                                corev1.DNSClusterFirstWithHostNet,
		`{extraEnv: [{name: A, value: b}, {name: https_proxy, value: "http://proxy:80"}]}`: corev1.DNSDefault,
	} {
		r := render(t, setting{values: "agent: " + orElse(values, "{}")})
		require.Equal(t, want, r.daemonSet(t).Spec.Template.Spec.DNSPolicy, values)
		require.Equal(t, corev1.DNSDefault, r.deployment(t).Spec.Template.Spec.DNSPolicy, "the controller tries no names")
	}
}

func TestImageIsNamedByTagOrDigest(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	for values, want := range map[string]string{
		``:                                  "host-firewall/agent:0.1.0",
		`{tag: v2}`:                         "host-firewall/agent:v2",
		`{digest: "` + digest + `"}`:        "host-firewall/agent@" + digest,
		`{tag: v2, digest: ` + digest + `}`: "host-firewall/agent:v2@" + digest,
		`{repository: "mirror.example.org:5000/hf/agent"}`: "mirror.example.org:5000/hf/agent:0.1.0",
	} {
		require.Equal(t, want, render(t, setting{values: "agent: {image: " + orElse(values, "{}") + "}"}).container(t).Image)
	}
}

func TestRegistryTakesThePlaceOfTheOneThatIsNamed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ global, registry, repository, want string }{
		{"", "", "a/agent", "a/agent"},
		{"", "b.example.org", "a/agent", "b.example.org/a/agent"},
		{"", "b.example.org", "agent", "b.example.org/agent"},
		{"", "b.example.org:5000/hub", "a.example.org/agent", "b.example.org:5000/hub/agent"},
		{"", "b.example.org", "localhost/agent", "b.example.org/agent"},
		{"", "b.example.org", "a:5000/hf/agent", "b.example.org/hf/agent"},
		{"c.example.org", "", "a/agent", "c.example.org/a/agent"},
		{"c.example.org", "b.example.org", "a.example.org/hf/agent", "c.example.org/hf/agent"},
	} {
		r := render(t, setting{values: fmt.Sprintf("{global: {imageRegistry: %q}, agent: {image: {registry: %q, repository: %q}}}", test.global, test.registry, test.repository)})
		for _, pod := range r.pods(t) {
			require.Equal(t, test.want+":0.1.0", pod.Containers[0].Image, test)
		}
	}
}

// Kubernetes' server-side apply takes no secret twice.
func TestPullSecretsOfAParentChartComeWithTheAgents(t *testing.T) {
	for values, want := range map[string][]corev1.LocalObjectReference{
		``: nil,
		`{global: {imagePullSecrets: [a, {name: b}]}}`:                                                    {{Name: "a"}, {Name: "b"}},
		`{global: {imagePullSecrets: [a, {name: a}]}, agent: {imagePullSecrets: [{name: b}, {name: a}]}}`: {{Name: "a"}, {Name: "b"}},
	} {
		for _, pod := range render(t, setting{values: values}).pods(t) {
			require.Equal(t, want, pod.ImagePullSecrets, values)
		}
	}
}

func TestAPIServerIsReachedWithoutTheServiceWhereAnAddressIsGiven(t *testing.T) {
	environment := func(values string) []corev1.EnvVar { return render(t, setting{values: values}).container(t).Env[1:] }
	require.Empty(t, environment(`agent: {kubernetesService: {port: 8443}}`))
	require.Equal(t, []corev1.EnvVar{
		{Name: "KUBERNETES_SERVICE_HOST", Value: "api.example.org"},
		{Name: "KUBERNETES_SERVICE_PORT", Value: "6443"},
		{Name: "HTTPS_PROXY", Value: "http://192.0.2.1:3128"},
	}, environment(`agent: {kubernetesService: {host: api.example.org}, extraEnv: [{name: HTTPS_PROXY, value: "http://192.0.2.1:3128"}]}`))
	require.Equal(t, []corev1.EnvVar{
		{Name: "KUBERNETES_SERVICE_HOST", Value: "2001:db8::1"},
		{Name: "KUBERNETES_SERVICE_PORT", Value: "443"},
	}, environment(`agent: {kubernetesService: {host: "2001:db8::1", port: 443}}`))
}

func TestPodsCarryWhatThePlatformAsksFor(t *testing.T) {
	r := render(t, setting{values: ciFiles(t)["agent"]})
	want := wantDaemonSet("host-firewall", "host-firewall", "host-firewall", r.container(t).Args)
	want.Labels["app.kubernetes.io/part-of"] = "platform"
	want.Annotations = map[string]string{"example.org/owner": "network"}
	want.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = pointer(intstr.FromInt32(1))
	pod := &want.Spec.Template
	pod.Labels["app.kubernetes.io/part-of"] = "platform"
	pod.Labels["team"] = "network"
	pod.Annotations = map[string]string{"example.org/owner": "network", "example.org/reviewed": "yes"}
	pod.Spec.NodeSelector["kubernetes.io/arch"] = "amd64"
	pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: "NO_PROXY", Value: "10.0.0.0/8"})
	require.Equal(t, want, r.daemonSet(t))
}

func TestNullTakesAFieldOfThePodAway(t *testing.T) {
	r := render(t, setting{values: `
agent:
  resources: null
  tolerations: null
  nodeSelector: null
  affinity: null
  priorityClassName: null
  updateStrategy: null`})
	want := wantDaemonSet("host-firewall", "host-firewall", "host-firewall", r.container(t).Args)
	want.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{}
	pod := &want.Spec.Template.Spec
	pod.Containers[0].Resources = corev1.ResourceRequirements{}
	pod.Tolerations, pod.NodeSelector, pod.Affinity, pod.PriorityClassName = nil, nil, nil, ""
	require.Equal(t, want, r.daemonSet(t))
}

// Helm keeps a null where the chart has no default to take away.
func TestNullIsAsGoodAsAbsent(t *testing.T) {
	t.Parallel()
	for null, absent := range map[string]string{
		`agent: {resources: {limits: null}}`:                                                ``,
		`agent: {resources: {limits: {cpu: null}}}`:                                         ``,
		`agent: {resources: {limits: {cpu: null, memory: 64Mi}}}`:                           `agent: {resources: {limits: {memory: 64Mi}}}`,
		`ingress: [{name: vrrp, cidrs: [10.0.0.0/8], protocol: 112, ports: null}]`:          `ingress: [{name: vrrp, cidrs: [10.0.0.0/8], protocol: 112}]`,
		`agent: {resources: {requests: {cpu: null, memory: null}, limits: {memory: null}}}`: `agent: {resources: null}`,
	} {
		require.Equal(t, render(t, setting{values: absent}).manifest, render(t, setting{values: null}).manifest, null)
	}
}

func TestPodsNameNoUserWhereItIsNull(t *testing.T) {
	r := render(t, setting{values: `agent: {runAsUser: null}`})
	for _, pod := range r.pods(t) {
		require.Equal(t, &corev1.PodSecurityContext{
			RunAsNonRoot:   pointer(true),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}, pod.SecurityContext)
	}
}

func TestRightsAreExactlyWhatTheAgentCalls(t *testing.T) {
	t.Parallel()
	watch := []string{"list", "watch"}
	const cidrs = `cidrs: [192.0.2.0/24]`
	for values, narrows := range map[string]bool{
		``:                                   false,
		`hostEndpoint: {interfaces: [eth0]}`: false,
		`ssh: {` + cidrs + `}`:               true,
		`ssh: {narrowFailsafe: false, ` + cidrs + `}`:   false,
		"mode: audit\nssh: {" + cidrs + `}`:             true,
		"mode: off\nhostEndpoint: {interfaces: [eth0]}": false,
	} {
		for _, group := range []string{apiV3, apiV1} {
			t.Run(group+"/"+values, func(t *testing.T) {
				r := render(t, setting{release: "edge", namespace: "kube-system", served: clusterServing(group), values: values})
				felix := slices.Concat(watch, []string{"patch", "delete"})
				if narrows {
					felix = slices.Concat(watch, []string{"create", "patch", "delete"})
				}
				id := "edge-host-firewall"
				calico, _, _ := strings.Cut(group, "/")
				require.Equal(t, wantRights("edge", id, id, "kube-system",
					[]rbacv1.PolicyRule{
						rule(calico, "hostendpoints", slices.Concat(watch, []string{"create", "patch", "delete"})...),
						rule(calico, "felixconfigurations", felix...),
						rule("", "nodes", watch...),
						rule("", "events", "create"),
					},
					[]rbacv1.PolicyRule{of(id, rule("", "configmaps", watch...))},
				), r.rights(id))
			})
		}
	}
}

// rights are the account of this name and what it may do, in the order in which Helm writes them.
func (r *rendered) rights(name string) (objects []runtime.Object) {
	for _, object := range r.objects {
		switch object.(type) {
		case *corev1.ServiceAccount, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *rbacv1.Role, *rbacv1.RoleBinding:
			if object.(metav1.Object).GetName() == name {
				objects = append(objects, object)
			}
		}
	}
	return objects
}

// wantRights are those of an account of a release, in the whole cluster and in its namespace.
func wantRights(releaseName, id, name, namespace string, cluster, own []rbacv1.PolicyRule) []runtime.Object {
	meta := metav1.ObjectMeta{Name: name, Labels: objectLabels(releaseName, id)}
	inside := meta
	inside.Namespace = namespace
	kind := func(kind string) metav1.TypeMeta { return metav1.TypeMeta{APIVersion: rbac + "/v1", Kind: kind} }
	account := []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: namespace}}
	return []runtime.Object{
		&corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: inside, AutomountServiceAccountToken: pointer(false)},
		&rbacv1.ClusterRole{TypeMeta: kind("ClusterRole"), ObjectMeta: meta, Rules: cluster},
		&rbacv1.ClusterRoleBinding{
			TypeMeta: kind("ClusterRoleBinding"), ObjectMeta: meta, Subjects: account, RoleRef: rbacv1.RoleRef{APIGroup: rbac, Kind: "ClusterRole", Name: name},
		},
		&rbacv1.Role{TypeMeta: kind("Role"), ObjectMeta: inside, Rules: own},
		&rbacv1.RoleBinding{TypeMeta: kind("RoleBinding"), ObjectMeta: inside, Subjects: account, RoleRef: rbacv1.RoleRef{APIGroup: rbac, Kind: "Role", Name: name}},
	}
}

const rbac = "rbac.authorization.k8s.io"

func rule(groups, resources string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: strings.Split(groups, " "), Resources: strings.Split(resources, " "), Verbs: verbs}
}

// of is a rule for one object.
func of(name string, rule rbacv1.PolicyRule) rbacv1.PolicyRule {
	rule.ResourceNames = []string{name}
	return rule
}

func TestAccountAndRightsCanBeBroughtAlong(t *testing.T) {
	r := render(t, setting{values: `{rbac: {create: false}, serviceAccount: {create: false, name: "1e3"}}`})
	require.Empty(t, r.rights("host-firewall"))
	require.Len(t, r.rights("host-firewall-controller"), 1, "its account")
	require.Equal(t, "1e3", r.daemonSet(t).Spec.Template.Spec.ServiceAccountName)

	r = render(t, setting{values: `{commonAnnotations: {owner: all, only: common}, serviceAccount: {name: firewall, annotations: {owner: account}}}`})
	require.Equal(t, "firewall", r.serviceAccounts[0].Name)
	require.Equal(t, map[string]string{"owner": "account", "only": "common"}, r.serviceAccounts[0].Annotations)
	require.Equal(t, "firewall", r.clusterRoleBindings[0].Subjects[0].Name)
	require.Equal(t, "firewall", r.daemonSet(t).Spec.Template.Spec.ServiceAccountName)
}
