// Package helm_test renders the chart as Helm does and holds what comes out against what the chart promises. It needs
// nothing but Go: no cluster, no helm binary, no network.
package helm_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	projectcalico "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

var update = flag.Bool("update", false, "write the files that tests compare with instead of comparing")

const (
	chartDir = "../../charts/host-firewall"

	apiV3 = "projectcalico.org/v3"
	apiV1 = "crd.projectcalico.org/v1"

	oldestKubernetes = "v1.27.0"
	newestKubernetes = "v1.36.3"

	servesAdmission = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
	servesFairness  = "flowcontrol.apiserver.k8s.io/v1/FlowSchema"
	monitoringV1    = "monitoring.coreos.com/v1"
)

// clusterWithoutCalico is what Helm knows of a real cluster, in short: versions and kinds.
func clusterWithoutCalico() chartutil.VersionSet {
	return chartutil.VersionSet{"v1", "v1/Node", "v1/Pod", "apps/v1", "apps/v1/DaemonSet", servesAdmission, servesFairness}
}

// operated is a cluster that serves what Prometheus Operator brings, too.
func operated(served chartutil.VersionSet) chartutil.VersionSet {
	return append(served, monitoringV1+"/PodMonitor", monitoringV1+"/PrometheusRule")
}

func clusterServing(groups ...string) chartutil.VersionSet {
	served := clusterWithoutCalico()
	for _, group := range groups {
		served = append(served, group, group+"/GlobalNetworkPolicy", group+"/HostEndpoint")
	}
	return served
}

// setting is everything that a render depends on. The zero value is `helm template host-firewall` in a namespace of that name,
// on the newest Kubernetes, without a cluster and without values.
type setting struct {
	release    string
	namespace  string
	kubernetes string
	served     chartutil.VersionSet
	values     string // YAML, as a user's file
	reused     string // YAML, all values of an older chart as --reuse-values brings them: in place of the defaults of this one
}

// rendered is a release, decoded.
type rendered struct {
	manifest string
	notes    string

	// kinds in the order in which Helm writes them, without what the controller, helm test and the uninstall hook need.
	kinds               []string
	objects             []runtime.Object
	serviceAccounts     []corev1.ServiceAccount
	clusterRoles        []rbacv1.ClusterRole
	clusterRoleBindings []rbacv1.ClusterRoleBinding
	roles               []rbacv1.Role
	roleBindings        []rbacv1.RoleBinding
	daemonSets          []appsv1.DaemonSet
	podTemplates        []corev1.PodTemplate
	policies            []projectcalico.GlobalNetworkPolicy
	admissionPolicies   []admissionv1.ValidatingAdmissionPolicy
	admissionBindings   []admissionv1.ValidatingAdmissionPolicyBinding
	flowSchemas         []flowcontrolv1.FlowSchema
	priorityLevels      []flowcontrolv1.PriorityLevelConfiguration
	podMonitors         []monitoring.PodMonitor
	prometheusRules     []monitoring.PrometheusRule
	dashboards          []corev1.ConfigMap
	// controlling are the objects of the controller, testing those that helm test needs, but for its Pod, and cleaning those that the
	// uninstall hook needs, but for its Job.
	controlling, testing, cleaning []runtime.Object

	// hooks of the uninstall, and those of helm test.
	hooks     []hook
	testHooks []hook
}

// hook is an object that Helm writes apart from the others.
type hook struct {
	*release.Hook
	object runtime.Object
}

// Rendering leaves a chart as it is, so one is enough for all.
var loadOnce = sync.OnceValues(func() (*chart.Chart, error) { return loader.Load(chartDir) })

func loadChart(t testing.TB) *chart.Chart {
	t.Helper()
	loaded, err := loadOnce()
	require.NoError(t, err)
	return loaded
}

// chartWith returns the chart with other default values, where there are any.
func chartWith(t testing.TB, values string) *chart.Chart {
	t.Helper()
	loaded := loadChart(t)
	if values == "" {
		return loaded
	}
	changed := *loaded
	changed.Values = nil
	require.NoError(t, yaml.Unmarshal([]byte(values), &changed.Values))
	return &changed
}

// Tests ask for the same release again and again. What they get is theirs to read, not to change.
var renders sync.Map // a setting's text: its func() (*rendered, error)

func tryRender(t testing.TB, s setting) (*rendered, error) {
	t.Helper()
	once, _ := renders.LoadOrStore(fmt.Sprintf("%q", s), sync.OnceValues(func() (*rendered, error) {
		return tryRenderChart(t, chartWith(t, s.reused), s)
	}))
	return once.(func() (*rendered, error))()
}

func tryRenderChart(t testing.TB, c *chart.Chart, s setting) (*rendered, error) {
	t.Helper()
	kubernetes, err := chartutil.ParseKubeVersion(orElse(s.kubernetes, newestKubernetes))
	require.NoError(t, err)
	values, err := chartutil.ReadValues([]byte(s.values))
	require.NoError(t, err)

	install := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	install.ClientOnly = true
	install.DryRun = true
	install.ReleaseName = orElse(s.release, "host-firewall")
	install.Namespace = orElse(s.namespace, "host-firewall")
	install.KubeVersion = kubernetes
	install.APIVersions = s.served
	installed, err := install.Run(c, values)
	if err != nil {
		return nil, err
	}
	r := &rendered{manifest: installed.Manifest, notes: installed.Info.Notes}
	r.decode(t)
	for _, h := range installed.Hooks {
		objects := decodeAll(t, h.Manifest)
		require.Len(t, objects, 1, h.Path)
		if slices.Contains(h.Events, release.HookTest) {
			r.testHooks = append(r.testHooks, hook{h, objects[0]})
		} else {
			r.hooks = append(r.hooks, hook{h, objects[0]})
		}
		r.manifest += "\n---\n" + h.Manifest
	}
	return r, nil
}

// named is what a release is called, and its id.
type named struct{ release, namespace, id string }

// eachNamed tests what is rendered for either API group, with the chart's own name and with another one.
func eachNamed(t *testing.T, test func(t *testing.T, group string, names named, r *rendered)) {
	t.Helper()
	for _, group := range []string{apiV3, apiV1} {
		for _, names := range []named{{"host-firewall", "host-firewall", "host-firewall"}, {"edge.eu", "kube-system", "edge-eu-host-firewall"}} {
			t.Run(group+"/"+names.release, func(t *testing.T) {
				test(t, group, names, render(t, setting{release: names.release, namespace: names.namespace, served: clusterServing(group)}))
			})
		}
	}
}

func render(t testing.TB, s setting) *rendered {
	t.Helper()
	r, err := tryRender(t, s)
	require.NoError(t, err)
	return r
}

// decode reads every document into the type of its kind.
func (r *rendered) decode(t testing.TB) {
	t.Helper()
	for _, object := range decodeAll(t, r.manifest) {
		kind := object.GetObjectKind().GroupVersionKind()
		r.objects = append(r.objects, object)
		switch name := object.(metav1.Object).GetName(); {
		case strings.HasSuffix(name, "-controller") || strings.HasSuffix(name, "-endpointslices"):
			r.controlling = append(r.controlling, object)
			continue
		case strings.HasSuffix(name, "-test"):
			r.testing = append(r.testing, object)
			continue
		case strings.HasSuffix(name, "-cleanup"):
			r.cleaning = append(r.cleaning, object)
			continue
		}
		r.kinds = append(r.kinds, kind.Kind)
		switch o := object.(type) {
		case *corev1.ServiceAccount:
			r.serviceAccounts = append(r.serviceAccounts, *o)
		case *rbacv1.ClusterRole:
			r.clusterRoles = append(r.clusterRoles, *o)
		case *rbacv1.ClusterRoleBinding:
			r.clusterRoleBindings = append(r.clusterRoleBindings, *o)
		case *rbacv1.Role:
			r.roles = append(r.roles, *o)
		case *rbacv1.RoleBinding:
			r.roleBindings = append(r.roleBindings, *o)
		case *appsv1.DaemonSet:
			r.daemonSets = append(r.daemonSets, *o)
		case *corev1.PodTemplate:
			r.podTemplates = append(r.podTemplates, *o)
		case *projectcalico.GlobalNetworkPolicy:
			r.policies = append(r.policies, *o)
		case *admissionv1.ValidatingAdmissionPolicy:
			r.admissionPolicies = append(r.admissionPolicies, *o)
		case *admissionv1.ValidatingAdmissionPolicyBinding:
			r.admissionBindings = append(r.admissionBindings, *o)
		case *flowcontrolv1.FlowSchema:
			r.flowSchemas = append(r.flowSchemas, *o)
		case *flowcontrolv1.PriorityLevelConfiguration:
			r.priorityLevels = append(r.priorityLevels, *o)
		case *monitoring.PodMonitor:
			r.podMonitors = append(r.podMonitors, *o)
		case *monitoring.PrometheusRule:
			r.prometheusRules = append(r.prometheusRules, *o)
		case *corev1.ConfigMap:
			r.dashboards = append(r.dashboards, *o)
		default:
			t.Fatalf("nobody expects a %s here", kind)
		}
	}
}

// Most documents are the same in most releases.
var documentsRead sync.Map // a document: its runtime.Object

// decodeAll reads documents strictly: a field that the type does not have, one that is written twice or in another case, or a
// kind that nobody knows, fails the test.
func decodeAll(t testing.TB, manifest string) (objects []runtime.Object) {
	t.Helper()
	documents := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifest)))
	decoder := strictDecoder()
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		require.NoError(t, err)
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		if object, known := documentsRead.Load(string(document)); known {
			objects = append(objects, object.(runtime.Object))
			continue
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		require.NoErrorf(t, err, "decode strictly:\n%s", document)
		object.GetObjectKind().SetGroupVersionKind(*kind)
		documentsRead.Store(string(document), object)
		objects = append(objects, object)
	}
}

// strictDecoder knows every kind that may be rendered.
var strictDecoder = sync.OnceValue(func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, rbacv1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, admissionv1.AddToScheme, flowcontrolv1.AddToScheme, monitoring.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	// The types of both groups are the same; only projectcalico.org comes with a registration.
	for _, group := range []string{apiV3, apiV1} {
		group, version, _ := strings.Cut(group, "/")
		scheme.AddKnownTypes(schema.GroupVersion{Group: group, Version: version}, &projectcalico.GlobalNetworkPolicy{})
	}
	return jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, scheme, scheme,
		jsonserializer.SerializerOptions{Yaml: true, Strict: true})
})

func (r *rendered) daemonSet(t testing.TB) appsv1.DaemonSet {
	t.Helper()
	require.Len(t, r.daemonSets, 1)
	return r.daemonSets[0]
}

func (r *rendered) container(t testing.TB) corev1.Container {
	t.Helper()
	containers := r.daemonSet(t).Spec.Template.Spec.Containers
	require.Len(t, containers, 1)
	return containers[0]
}

// all objects, those of hooks too.
func (r *rendered) all() []runtime.Object {
	objects := slices.Clone(r.objects)
	for _, hook := range slices.Concat(r.hooks, r.testHooks) {
		objects = append(objects, hook.object)
	}
	return objects
}

// deployment is that of the controller.
func (r *rendered) deployment(t testing.TB) *appsv1.Deployment {
	t.Helper()
	return controlling[*appsv1.Deployment](t, r)
}

// controlling returns the controller's object of a kind that it has one of.
func controlling[T runtime.Object](t testing.TB, r *rendered) T {
	t.Helper()
	var found []T
	for _, object := range r.controlling {
		if of, is := object.(T); is {
			found = append(found, of)
		}
	}
	require.Len(t, found, 1)
	return found[0]
}

// pods that the release runs: the agent's, the controller's, and those of its hooks.
func (r *rendered) pods(t testing.TB) []corev1.PodSpec {
	t.Helper()
	pods := []corev1.PodSpec{r.daemonSet(t).Spec.Template.Spec, r.deployment(t).Spec.Template.Spec}
	for _, object := range r.all() {
		switch o := object.(type) {
		case *batchv1.Job:
			pods = append(pods, o.Spec.Template.Spec)
		case *corev1.Pod:
			pods = append(pods, o.Spec)
		}
	}
	require.Len(t, pods, 4)
	return pods
}

func (r *rendered) policyNames() []string {
	var names []string
	for _, policy := range r.policies {
		names = append(names, policy.Name)
	}
	return names
}

// policy finds a policy by its purpose, such as "allow-ssh".
func (r *rendered) policy(t testing.TB, purpose string) projectcalico.GlobalNetworkPolicy {
	t.Helper()
	for _, policy := range r.policies {
		if strings.Contains(policy.Name, "-"+purpose+"-") {
			return policy
		}
	}
	t.Fatalf("no policy %s among %v", purpose, r.policyNames())
	return projectcalico.GlobalNetworkPolicy{}
}

// ciFiles are the values files of chart-testing, by name.
func ciFiles(t testing.TB) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(chartDir, "ci", "*-values.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	files := map[string]string{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		files[strings.TrimSuffix(filepath.Base(path), "-values.yaml")] = string(content)
	}
	return files
}

func orElse(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func pointer[T any](value T) *T { return &value }
