package validator_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var chartDir = filepath.Join("..", "..", "..", "charts", "host-firewall")

// release renders the chart and returns its objects of these kinds, with those of the hooks.
func release(t *testing.T, values string, kinds ...string) ([]unstructured.Unstructured, error) {
	t.Helper()
	loaded, err := loader.Load(chartDir)
	require.NoError(t, err)
	given, err := chartutil.ReadValues([]byte(values))
	require.NoError(t, err)
	install := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	install.ClientOnly, install.DryRun = true, true
	install.ReleaseName, install.Namespace = "host-firewall", "host-firewall"
	install.KubeVersion = &chartutil.KubeVersion{Version: "v1.36.3", Major: "1", Minor: "36"}
	installed, err := install.Run(loaded, given)
	if err != nil {
		return nil, err
	}
	manifests := strings.Split(installed.Manifest, "\n---\n")
	for _, hook := range installed.Hooks {
		manifests = append(manifests, hook.Manifest)
	}
	var found []unstructured.Unstructured
	for _, manifest := range manifests {
		var object unstructured.Unstructured
		require.NoError(t, yaml.Unmarshal([]byte(manifest), &object.Object))
		if slices.Contains(kinds, object.GetKind()) {
			found = append(found, object)
		}
	}
	require.NotEmpty(t, found)
	return found, nil
}

// workloads are what runs pods.
func workloads(t *testing.T, values string) ([]unstructured.Unstructured, error) {
	t.Helper()
	return release(t, values, "DaemonSet", "Deployment", "Job", "Pod")
}

// askKubernetes says why the API server would not create an object, or with a level of Pod Security what that forbids.
func askKubernetes[T any](t *testing.T, objects []T, level ...string) []string {
	t.Helper()
	return ask(t, "kubernetes", objects, level...)
}

// Helm creates one object after the other, and what Kubernetes refuses in the middle leaves half a release.
func TestWhatTheChartTakesKubernetesTakes(t *testing.T) {
	var objects []unstructured.Unstructured
	var of []string
	refused := 0
	for _, values := range oddValues(t) {
		rendered, err := workloads(t, values)
		if err != nil {
			refused++
			continue
		}
		for _, object := range rendered {
			objects, of = append(objects, object), append(of, values)
		}
	}
	require.Positive(t, refused, "nothing is odd enough")
	for i, complaint := range askKubernetes(t, objects) {
		assert.Empty(t, complaint, "%s of %s", objects[i].GetKind(), of[i])
	}
}

// oddValues are the files of chart-testing, and values of the kind that only Kubernetes would know to be wrong.
func oddValues(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(chartDir, "ci", "*-values.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var all []string
	for _, path := range append(paths, filepath.Join("..", "testdata", "everything-values.yaml")) {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		all = append(all, string(content))
	}
	for key, values := range map[string][]string{
		"updateStrategy": {
			"{type: OnDelete}", "{type: Recreate}", "{rollingUpdate: null}", "{rollingUpdate: {maxUnavailable: 1}}", "{rollingUpdate: {maxUnavailable: 0}}",
			"{rollingUpdate: {maxUnavailable: 100%}}", "{rollingUpdate: {maxUnavailable: 0%}}", "{rollingUpdate: {maxSurge: 1}}", `{rollingUpdate: {maxUnavailable: ""}}`,
		},
		"extraEnv": {
			"[{name: a.b-c_D}]", "[{name: A, value: 1}]", "[{name: A}, {name: A}]", `[{name: ""}]`, "[{name: A=}]", "[{name: 1A}]",
			"[{name: A, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]", "[{name: A, valueFrom: {fieldRef: {fieldPath: spec.hostNetwork}}}]",
			`[{name: A, valueFrom: {fieldRef: {fieldPath: "metadata.labels['a']"}}}]`, `[{name: A, value: "", valueFrom: {secretKeyRef: {name: a, key: b}}}]`,
			"[{name: A, value: a, valueFrom: {secretKeyRef: {name: a, key: b}}}]", "[{name: A, valueFrom: {}}]",
			"[{name: A, valueFrom: {configMapKeyRef: {name: a, key: b, optional: true}, secretKeyRef: {name: a, key: b}}}]",
			"[{name: A, valueFrom: {configMapKeyRef: {name: a}}}]", "[{name: A, valueFrom: {configMapKeyRef: {name: a, key: a/b}}}]",
			"[{name: A, valueFrom: {secretKeyRef: {name: A_, key: b}}}]", "[{name: A, valueFrom: {resourceFieldRef: {resource: limits.memory}}}]",
			"[{name: A, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}]", "[{name: A, valueFrom: {resourceFieldRef: {resource: memory}}}]",
			"[{name: A, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 2Gi}}}]",
			"[{name: A, valueFrom: {resourceFieldRef: {containerName: agent, resource: limits.memory}}}]",
		},
		"imagePullSecrets": {"[{name: a}]", "[{name: a}, {name: a}]", "[{}]"},
		"tolerations": {
			"[]", "[{operator: Exists}]", "[{}]", "[{key: a}]", "[{key: a, operator: Equal, value: b}]", "[{key: a, operator: Exists, value: b}]", "[{key: a b}]",
			"[{key: a, value: b c}]", "[{operator: Is, key: a}]", "[{key: a, effect: Never}]", `[{key: a, effect: ""}]`, "[{key: a, effect: NoExecute, tolerationSeconds: 3}]",
			`[{key: "", operator: Exists}]`, `[{key: ""}]`, "[{key: a, value: true}]", "[{key: a, tolerationSeconds: 3}]", "[{key: a, effect: NoSchedule, tolerationSeconds: 3}]",
		},
		"nodeSelector": {"{a: b}", "{a: b c}", "{a b: c}", "{a: 1}"},
		"affinity": {
			"{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}",
			"{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is}]}]}}}",
			"{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}]}]}}}",
			"{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]}}}",
			"{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Gt, values: [b, c]}]}]}}}",
			"{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Gt}]}]}}}",
			"{podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: a, labelSelector: {matchLabels: {a: true}}}]}}",
			"{nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: a, operator: In, values: [b]}]}}]}}",
			"{nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, preference: {}}]}}",
			"{nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1}]}}",
			"{podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: a, labelSelector: {matchLabels: {a: b}}}]}}",
			"{podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {a: b}}}]}}",
			"{podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, podAffinityTerm: {topologyKey: a}}]}}",
		},
		"resources": {
			"{}", "{limits: {memory: 64Mi, cpu: 0.5}}", "{limits: {memory: 16Mi}}", "{limits: {cpu: 5m}}", "{limits: {memory: 64MB}}", "{limits: {memory: 134217728}}", "{limits: {memory: 1e9}}", `{limits: {memory: "64e6"}}`,
			"{requests: {memory: 67108864}, limits: {memory: 32Mi}}", `{requests: {memory: "1e8"}, limits: {memory: 64Mi}}`, "{limits: {memory: -1}}",
			"{limits: {nvidia.com/gpu: 1}}", "{claims: [{name: a}]}", "{requests: {cpu: 0.0001}}", "{requests: {memory: 1.5Mi}}", "{requests: {ephemeral-storage: 1Gi}}",
			"{limits: null}", "{limits: {cpu: null, memory: 64Mi}}", "{limits: {cpu: null}, requests: null}", "null", `{limits: {memory: ""}}`, "{limits: {cpu: 0}}",
		},
		"priorityClassName": {`""`, "high", "High", "a_b"},
		"podLabels":         {"{a: b c}", "{a/b/c: d}"},
		"podAnnotations":    {"{a b: c}", "{a: 1}", "{a: true}"},
		"runAsUser":         {"0", "2147483648", "null"},
		"health":            {"{port: 70000}"},
		"metrics":           {"{enabled: true, port: 9097}", "{enabled: true, port: 9099}"},
	} {
		for _, value := range values {
			all = append(all, "agent: {"+key+": "+value+"}")
		}
	}
	return append(all, "controller: {affinity: {podAntiAffinity: {}}, tolerations: [{key: a, operator: Exists}]}", "controller: {tolerations: [{}]}",
		"controller: {nodeSelector: {a: b c}}", "controller: {resources: {limits: {memory: 1Mi}}}", "controller: {podLabels: {a: b c}}",
		"controller: {priorityClassName: a_b}", "controller: {health: {port: 9097}}", "controller: {podAnnotations: {a: 1}}",
		"cleanup: {tolerations: [{}]}", "serviceAccount: {name: a_b}", "commonLabels: {a: b c}")
}

// Kubernetes is asked, and it answers.
func TestKubernetesRefusesWhatIsWrong(t *testing.T) {
	objects, err := workloads(t, "")
	require.NoError(t, err)
	paths := map[string][]string{
		"DaemonSet": {"spec", "updateStrategy", "type"}, "Deployment": {"spec", "strategy", "type"},
		"Job": {"spec", "template", "spec", "restartPolicy"}, "Pod": {"spec", "restartPolicy"},
	}
	require.Len(t, objects, len(paths))
	for _, object := range objects {
		require.NoError(t, unstructured.SetNestedField(object.Object, "Sometimes", paths[object.GetKind()]...))
	}
	for i, complaint := range askKubernetes(t, objects) {
		require.Contains(t, complaint, "Sometimes", objects[i].GetKind())
	}
}

// What the chart's README says about namespaces with a Pod Security Standard.
func TestPodsAreRestrictedButForWhatTheReadmeNames(t *testing.T) {
	objects, err := workloads(t, "agent: {metrics: {enabled: true}}")
	require.NoError(t, err)
	var pods []map[string]any
	for _, object := range objects {
		pod := map[string]any{"metadata": metav1.ObjectMeta{Name: object.GetKind()}, "spec": object.Object["spec"]}
		if template, found, _ := unstructured.NestedMap(object.Object, "spec", "template"); found {
			pod = template
		}
		pods = append(pods, pod)
	}
	found := askKubernetes(t, pods, "restricted")
	require.Equal(t, found, askKubernetes(t, pods, "baseline"), "all that is forbidden is so by baseline already")
	for i, object := range objects {
		want := "host namespaces"
		if object.GetKind() == "DaemonSet" || object.GetKind() == "Deployment" {
			want = "host namespaces, hostPort, probe or lifecycle host"
		}
		require.Equal(t, want, found[i], object.GetKind())
	}
}
