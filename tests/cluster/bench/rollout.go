package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

const (
	loadAccount       = "load" // in the namespace of the same name: cluster.LoadUser
	controllerAccount = releaseName + "-controller"
	cleanupAccount    = releaseName + "-cleanup"
)

// rollout is a release as the chart renders it with some values, but for its workloads: those run as processes here.
type rollout struct {
	set                        string // of policies
	objects                    string
	agent, controller, cleanup []string // arguments
}

// stage is what is needed for each number of nodes.
type stage struct {
	agent, keepers string            // programs: the product, and what runs its keepers
	kubeconfigs    map[string]string // by account
	a, b, off      rollout           // with one set of policies, with another one, and with that switched off
}

// prepare makes the stage.
func (b *bench) prepare(ctx context.Context) (*stage, error) {
	folder := cluster.Folder(b.root)
	st := &stage{
		agent: filepath.Join(folder, "bin", "agent"), keepers: filepath.Join(folder, "bin", "scalebench"),
		kubeconfigs: map[string]string{},
	}
	for program, pkg := range map[string]string{st.agent: "./agent", st.keepers: "./agent/internal/scalebench"} {
		if err := image.Binary(ctx, b.root, pkg, program, ""); err != nil {
			return nil, err
		}
	}
	other := values()
	other["ingress"] = []any{map[string]any{"name": "web", "cidrs": cluster.AdminCIDRs(), "protocol": "TCP", "ports": []any{443}}}
	off := values()
	off["ingress"], off["mode"] = other["ingress"], "off"
	for into, values := range map[*rollout]map[string]any{&st.a: values(), &st.b: other, &st.off: off} {
		var err error
		if *into, err = b.rollout(ctx, values); err != nil {
			return nil, err
		}
	}
	load, err := manifest(loadAccount)
	if err != nil {
		return nil, err
	}
	for _, objects := range []string{load, st.a.objects} {
		if err := b.apply(ctx, objects); err != nil {
			return nil, err
		}
	}
	for account, namespace := range map[string]string{loadAccount: loadAccount, controllerAccount: releaseNamespace, cleanupAccount: releaseNamespace} {
		if st.kubeconfigs[account], err = b.kubeconfigOf(ctx, namespace, account); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func (b *bench) apply(ctx context.Context, objects string) error {
	return b.kubectl(ctx, objects, "apply", "--filename", "-")
}

// rollout renders a release. The rights of its agents are the load's, and it says that Helm has installed it.
func (b *bench) rollout(ctx context.Context, values map[string]any) (r rollout, err error) {
	chart, err := b.release()
	if err != nil {
		return r, err
	}
	policies, rest, err := chart.Render(ctx, values)
	if err != nil {
		return r, err
	}
	text, err := chart.UninstallHooks(ctx, values)
	if err != nil {
		return r, err
	}
	hooks, err := cluster.DecodeObjects([]byte(text))
	if err != nil {
		return r, fmt.Errorf("read hooks: %w", err)
	}
	wanted := append([]*unstructured.Unstructured{namespaceOf(releaseNamespace)}, policies...)
	for _, o := range slices.Concat(rest, hooks) {
		switch o.GetKind() {
		case "DaemonSet":
			r.agent, err = argsOf(o)
		case "Deployment":
			r.controller, err = argsOf(o)
		case "Job":
			r.cleanup, err = argsOf(o)
		case "ServiceAccount":
			o.SetAnnotations(map[string]string{"meta.helm.sh/release-name": releaseName})
			wanted = append(wanted, o)
		case "FlowSchema":
			giveToLoad(o.Object["spec"])
			wanted = append(wanted, o)
		case "ClusterRoleBinding", "RoleBinding":
			giveToLoad(o.Object["subjects"])
			wanted = append(wanted, o)
		default:
			wanted = append(wanted, o)
		}
		if err != nil {
			return r, err
		}
	}
	if len(r.agent) == 0 || len(r.controller) == 0 || len(r.cleanup) == 0 {
		return r, errors.New("the chart has rendered no DaemonSet, no Deployment or no Job")
	}
	r.set = release.SetOf(r.agent)
	r.objects, err = textOf(wanted)
	return r, err
}

func namespaceOf(name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("v1")
	o.SetKind("Namespace")
	o.SetName(name)
	return o
}

// argsOf are what a rendered workload starts its container with.
func argsOf(o *unstructured.Unstructured) ([]string, error) {
	raw, _, err := unstructured.NestedMap(o.Object, "spec", "template")
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", o.GetKind(), err)
	}
	template := &corev1.PodTemplateSpec{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, template); err != nil {
		return nil, fmt.Errorf("read %s: %w", o.GetKind(), err)
	}
	if len(template.Spec.Containers) != 1 {
		return nil, fmt.Errorf("read %s: it has %d containers", o.GetKind(), len(template.Spec.Containers))
	}
	return template.Spec.Containers[0].Args, nil
}

// giveToLoad writes the account of the load in the place of the agents'.
func giveToLoad(part any) {
	switch p := part.(type) {
	case map[string]any:
		if p["name"] == releaseName && p["namespace"] == releaseNamespace {
			p["name"], p["namespace"] = loadAccount, loadAccount
		}
		for _, value := range p {
			giveToLoad(value)
		}
	case []any:
		for _, value := range p {
			giveToLoad(value)
		}
	}
}

// kubeconfigOf writes a kubeconfig of an account, for use on the control plane's host.
func (b *bench) kubeconfigOf(ctx context.Context, namespace, account string) (string, error) {
	seconds := int64((12 * time.Hour).Seconds())
	token, err := b.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create token: %w", err)
	}
	config, err := clientcmd.LoadFromFile(b.cluster.Kubeconfig())
	if err != nil {
		return "", fmt.Errorf("read kubeconfig: %w", err)
	}
	for _, c := range config.Clusters {
		c.Server = "https://" + localAPI
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	}
	path := filepath.Join(cluster.Folder(b.root), account+".kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return "", fmt.Errorf("write kubeconfig: %w", err)
	}
	return path, nil
}
