package bench

import (
	"context"
	"debug/elf"
	"embed"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

//go:embed manifests
var manifests embed.FS

// Names of the contenders.
const (
	Agent   = "host-firewall"
	Floor   = "bare watch and create"
	Article = "the article's script"
	Calico  = "Calico's automatic host endpoints"
)

// contender is one way to keep host endpoints.
type contender struct {
	name, what string
	start      func(context.Context) error
	stop       func(context.Context) error
	archive    string // of its image

	namespace, pods string // where its pods are, and the labels that select them
	user            string // whose requests are its
	perNode         bool   // a pod on every node, or one for the cluster

	endpoint func(node string) string
	armed    func(*unstructured.Unstructured) bool
	rounds   int
	limit    time.Duration
	sleeps   time.Duration // between two looks, for a loop that does
	tells    time.Duration // how long it may keep what it has to tell of rounds that last longer than firstNews
}

// node is where the pod that is measured runs; empty: the contender has only one.
func (c *contender) node(b *bench) string {
	if !c.perNode {
		return ""
	}
	return b.workers()[0]
}

const (
	namespace         = "bench"
	releaseName       = "host-firewall"
	releaseNamespace  = "host-firewall"
	hostEndpointsName = "hostendpoints.crd.projectcalico.org"
	policiesName      = "globalnetworkpolicies.crd.projectcalico.org"
	// scriptRounds is how often the article's script is waited for: up to ten seconds each time.
	scriptRounds = 10
	scriptSleeps = 10 * time.Second
	// patience with what should come at once, and with what need not.
	eventLimit  = 30 * time.Second
	unsureLimit = 90 * time.Second
)

func itself(node string) string { return node }

// armed tells whether the release's policies apply to an endpoint.
func armed(endpoint *unstructured.Unstructured) bool { return release.Armed(endpoint) == nil }

// labelled tells whether an endpoint carries the label of the article.
func labelled(endpoint *unstructured.Unstructured) bool {
	return endpoint.GetLabels()["host-endpoint"] == "ingress"
}

// contenders are all, in the order in which they are measured.
func (b *bench) contenders() []*contender {
	account := func(namespace, name string) string { return "system:serviceaccount:" + namespace + ":" + name }
	archive := func(name string) string { return filepath.Join(cluster.Folder(b.root), name+".tar") }
	all := []*contender{
		{
			name: Floor,
			what: "the least that can be done with the agent's client: one watch, one create, in a pod on the host's network like the agent, " +
				"and host-firewall's policies apply to what it creates, so that Felix has the same to do",
			start: b.startFloor, stop: b.stopFloor,
			archive: archive("floor"), namespace: namespace, pods: "name=floor", user: account(namespace, "floor"), perNode: true,
			endpoint: itself, armed: armed, rounds: b.settings.Rounds, limit: eventLimit,
		},
		{
			name:  Agent,
			what:  "installed with the chart, `ssh.cidrs` given",
			start: b.startAgent, stop: b.stopAgent,
			archive: archive("agent"), namespace: releaseNamespace, pods: "app.kubernetes.io/name=host-firewall,app.kubernetes.io/component!=controller", user: account(releaseNamespace, releaseName), perNode: true,
			endpoint: itself, armed: armed, rounds: b.settings.Rounds, limit: eventLimit, tells: repairsOut,
		},
		{
			name: Article,
			what: "its script, policies, role and DaemonSet in pods; the image has busybox's shell and kubectl, built from the Kubernetes module, in the place of alpine's and v1.17; " +
				"the deletions are spread evenly over the ten seconds of its sleep",
			start: b.startArticle, stop: func(ctx context.Context) error { return b.remove(ctx, "article") },
			archive: archive("article"), namespace: namespace, pods: "name=hep-ds", user: account(namespace, "hep-sa"), perNode: true,
			endpoint: itself, armed: labelled, rounds: min(scriptRounds, b.settings.Rounds), limit: unsureLimit, sleeps: scriptSleeps,
		},
		{
			name:  Calico,
			what:  "kube-controllers with `autoCreate: Enabled` and only its node controller, built from Calico's module: one pod for the cluster; its endpoints take effect without a label",
			start: b.startCalico, stop: func(ctx context.Context) error { return b.remove(ctx, "kube-controllers") },
			archive: archive("kube-controllers"), namespace: namespace, pods: "k8s-app=calico-kube-controllers", user: account(namespace, "calico-kube-controllers"),
			endpoint: func(node string) string { return node + "-auto-hep" }, armed: present, rounds: b.settings.Rounds, limit: unsureLimit,
		},
	}
	return slices.DeleteFunc(all, func(c *contender) bool { return len(b.settings.Only) > 0 && !slices.Contains(b.settings.Only, c.name) })
}

func (b *bench) startFloor(ctx context.Context) error {
	policies, set, err := b.policies(ctx)
	if err != nil {
		return err
	}
	if err := b.apply(ctx, policies); err != nil {
		return err
	}
	binary := filepath.Join(cluster.Folder(b.root), "bin", "floor")
	if err := image.Binary(ctx, b.root, "./tests/cluster/cmd/floor", binary, ""); err != nil {
		return err
	}
	return b.run(ctx, "floor", []image.File{{Path: "/floor", Source: binary}}, "host-firewall.test/floor:dev", "/floor", "POLICY_SET", set)
}

// stopFloor removes it, and the policies when no endpoint is left that they apply to.
func (b *bench) stopFloor(ctx context.Context) error {
	if err := b.remove(ctx, "floor"); err != nil {
		return err
	}
	return b.kubectl(ctx, "", "delete", "--all", policiesName)
}

// release is the one that is measured.
func (b *bench) release() (*release.Release, error) {
	return release.New(b.root, b.cluster.Kubeconfig(), releaseNamespace, releaseName)
}

// policies are those of the release that is measured, and the label that they select.
func (b *bench) policies(ctx context.Context) (objects, set string, err error) {
	r, err := b.release()
	if err != nil {
		return "", "", err
	}
	policies, _, err := r.Render(ctx, values())
	if err != nil {
		return "", "", err
	}
	objects, err = textOf(policies)
	return objects, policies[0].GetLabels()[release.SetLabel], err
}

// textOf returns objects as kubectl reads them.
func textOf(objects []*unstructured.Unstructured) (string, error) {
	var all strings.Builder
	for _, o := range objects {
		raw, err := o.MarshalJSON()
		if err != nil {
			return "", fmt.Errorf("write objects: %w", err)
		}
		fmt.Fprintf(&all, "%s\n---\n", raw)
	}
	return all.String(), nil
}

// values are those of the release that is measured.
func values() map[string]any {
	return release.Values(map[string]any{"ssh": map[string]any{"cidrs": cluster.AdminCIDRs()}})
}

func (b *bench) startAgent(ctx context.Context) error {
	if err := release.LoadAgent(ctx, b.root, b.cluster, b.out); err != nil {
		return err
	}
	r, err := b.release()
	if err != nil {
		return err
	}
	if _, err := r.Install(ctx, values()); err != nil {
		return err
	}
	return release.WaitArmed(ctx, b.cluster, releaseNamespace)
}

// stopAgent uninstalls the release. An endpoint that it leaves behind goes too.
func (b *bench) stopAgent(ctx context.Context) error {
	r, err := b.release()
	if err != nil {
		return err
	}
	if err := r.Uninstall(); err != nil {
		return err
	}
	return b.removeEndpoints(ctx)
}

func (b *bench) startArticle(ctx context.Context) error {
	if err := cluster.Install("busybox", "busybox-static", b.out); err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("find a shell for the article's image: %w", err)
	}
	if err := requireStatic(busybox); err != nil {
		return err
	}
	script, err := manifests.ReadFile("manifests/run.sh")
	if err != nil {
		return err
	}
	return b.run(ctx, "article", []image.File{
		{Path: "/bin/busybox", Source: busybox},
		{Path: "/bin/sh", Link: "busybox"},
		{Path: "/bin/sleep", Link: "busybox"},
		{Path: "/usr/local/bin/kubectl", Source: b.cluster.Binary("kubectl")},
		{Path: "/app/run.sh", Content: string(script)},
	}, "host-firewall.test/hepinstall:v1", "/app/run.sh")
}

// requireStatic says what to install if a program needs libraries that its image won't have.
func requireStatic(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("read %s: %w", program, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: install the Debian package busybox-static in its place", program)
		}
	}
	return nil
}

func (b *bench) startCalico(ctx context.Context) error {
	const path = "/usr/bin/kube-controllers"
	return b.run(ctx, "kube-controllers", []image.File{{Path: path, Source: b.cluster.Binary(binaries.KubeControllers)}}, "host-firewall.test/kube-controllers:dev", path)
}

// run packs an image, loads it and applies the manifest of the same name, with words replaced as strings.NewReplacer does.
func (b *bench) run(ctx context.Context, name string, files []image.File, ref, entrypoint string, replaced ...string) error {
	archive := filepath.Join(cluster.Folder(b.root), name+".tar")
	if err := image.PackFiles(files, ref, archive, image.Config{Entrypoint: entrypoint}); err != nil {
		return err
	}
	if err := b.cluster.Load(ctx, archive); err != nil {
		return err
	}
	manifest, err := manifest(name)
	if err != nil {
		return err
	}
	return b.kubectl(ctx, strings.NewReplacer(replaced...).Replace(manifest), "apply", "--namespace", namespace, "--filename", "-")
}

// manifest reads one of the manifests for this cluster.
func manifest(name string) (string, error) {
	raw, err := manifests.ReadFile("manifests/" + name + ".yaml")
	if err != nil {
		return "", fmt.Errorf("read manifest: %w", err)
	}
	var v4, v6 []string
	for _, c := range cluster.ClusterCIDRs() {
		if netip.MustParsePrefix(c).Addr().Is4() {
			v4 = append(v4, c)
		} else {
			v6 = append(v6, c)
		}
	}
	quote := func(cidrs []string) string { return `"` + strings.Join(cidrs, `", "`) + `"` }
	return strings.NewReplacer("IPV4_NETWORKS", quote(v4), "IPV6_NETWORKS", quote(v6)).Replace(string(raw)), nil
}

// remove takes away what run has applied, and all endpoints: what acts goes before what
// it acts with.
func (b *bench) remove(ctx context.Context, name string) error {
	objects, err := manifest(name)
	if err != nil {
		return err
	}
	if err := b.kubectl(ctx, "", "delete", "daemonsets,deployments", "--all", "--namespace", namespace); err != nil {
		return err
	}
	if err := b.awaitNoPods(ctx); err != nil {
		return err
	}
	if err := b.removeEndpoints(ctx); err != nil {
		return err
	}
	return b.kubectl(ctx, objects, "delete", "--ignore-not-found", "--namespace", namespace, "--filename", "-")
}

func (b *bench) removeEndpoints(ctx context.Context) error {
	return b.kubectl(ctx, "", "delete", "--all", hostEndpointsName)
}

func (b *bench) awaitNoPods(ctx context.Context) error {
	return b.kubectl(ctx, "", "wait", "--for=delete", "pods", "--all", "--namespace", namespace, "--timeout=60s")
}
