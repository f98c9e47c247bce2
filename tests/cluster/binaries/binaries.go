// Package binaries provides the programs of a test cluster. Each is built once, from a pinned module version, into a cache
// outside the tree; each can be replaced by another binary that an environment variable names.
package binaries

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/term"
)

// module is a Go module of ours that does nothing but pin another project's version. One each, because their
// requirements exclude each other.
type module struct {
	dir     string // below tests/cluster/modules
	path    string // the module that it pins
	tags    string
	ldflags func(version string) string
}

// plain is what every program is linked with.
func plain(string) string { return "-s -w" }

var (
	kubernetes = module{dir: "kubernetes", path: "k8s.io/kubernetes", ldflags: func(version string) string {
		// An unstamped kubelet or API server calls itself v0.0.0, and charts refuse such a cluster.
		major, minor, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
		minor, _, _ = strings.Cut(minor, ".")
		const x = " -X k8s.io/component-base/version."
		return plain(version) + x + "gitVersion=" + version + x + "gitMajor=" + major + x + "gitMinor=" + minor
	}}
	etcd       = module{dir: "etcd", path: "go.etcd.io/etcd/server/v3", ldflags: plain}
	containerd = module{dir: "containerd", path: "github.com/containerd/containerd/v2", tags: "no_btrfs,no_devmapper", ldflags: plain}
	calico     = module{dir: "calico", path: "github.com/projectcalico/calico", ldflags: plain}
	helm4      = module{dir: "helm4", path: "helm.sh/helm/v4", ldflags: plain}
	flux       = module{dir: "flux", path: "github.com/fluxcd/helm-controller/api", ldflags: plain}
	argo       = module{dir: "argo", path: "github.com/argoproj/argo-cd/v3", ldflags: plain}
)

// program is one binary of the cluster.
type program struct {
	name   string
	module module
	pkg    string // below the module's path; from "./" on, below our own module's
}

// Programs of a cluster, in the order in which they are built.
var programs = []program{
	{"etcd", etcd, ""},
	{"kube-apiserver", kubernetes, "cmd/kube-apiserver"},
	{"kube-controller-manager", kubernetes, "cmd/kube-controller-manager"},
	{"kube-scheduler", kubernetes, "cmd/kube-scheduler"},
	{"kubelet", kubernetes, "cmd/kubelet"},
	{"kube-proxy", kubernetes, "cmd/kube-proxy"},
	{"kubectl", kubernetes, "cmd/kubectl"},
	{"containerd", containerd, "cmd/containerd"},
	{"containerd-shim-runc-v2", containerd, "cmd/containerd-shim-runc-v2"},
	{"ctr", containerd, "cmd/ctr"},
	{"calico-felix", calico, "felix/cmd/calico-felix"},
	{"calico-cni", calico, "cni-plugin/cmd/calico"},
}

// Names of the extras.
const (
	// KubeControllers is Calico's kube-controllers.
	KubeControllers = "calico-kube-controllers"
	// CalicoAPIServer is Calico's aggregated API server.
	CalicoAPIServer = "calico-apiserver"
	// Helm4 is the helm of its version 4. That of version 3 is in the tests themselves.
	Helm4 = "helm4"
	// Flux is our stand-in for Flux's helm-controller.
	Flux = "flux"
	// ArgoCD is Argo CD's application controller and repository server.
	ArgoCD = "argocd"
)

// extras are no part of a cluster; they are built for those who ask for them.
var extras = []program{
	{KubeControllers, calico, "kube-controllers/cmd/kube-controllers"},
	{CalicoAPIServer, calico, "apiserver/cmd/apiserver"},
	{Helm4, helm4, "cmd/helm"},
	{Flux, flux, "./"},
	{ArgoCD, argo, "./"},
}

// crds is the name, among the binaries, of the folder of Calico's custom resource definitions.
const crds = "calico-crds"

// Set says where each program of a cluster is.
type Set map[string]string

// CRDs is the folder of Calico's custom resource definitions.
func (s Set) CRDs() string { return s[crds] }

// Variable is the environment variable that replaces a program: CLUSTER_ and its name in upper case with underscores.
func Variable(name string) string {
	return "CLUSTER_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Names lists everything that can be replaced through Variable.
func Names() []string {
	names := []string{}
	for _, p := range slices.Concat(programs, extras) {
		names = append(names, p.name)
	}
	return append(names, crds)
}

// Versions are those of the modules that the programs are built from, by the name of the project.
func Versions(modules string) (map[string]string, error) {
	versions := map[string]string{}
	for name, m := range map[string]module{"Kubernetes": kubernetes, "etcd": etcd, "containerd": containerd, "Calico": calico} {
		version, err := m.version(modules)
		if err != nil {
			return nil, err
		}
		versions[name] = version
	}
	return versions, nil
}

// Ensure returns all programs of a cluster and those of the extras that are named, building what is missing. modules is
// the folder tests/cluster/modules; what is built, how many are left and how long each took goes to out.
func Ensure(ctx context.Context, modules string, out io.Writer, also ...string) (Set, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(cache, "lock"), out)
	if err != nil {
		return nil, err
	}
	defer unlock()

	set := Set{}
	var missing []program
	var bad []error
	wanted := slices.DeleteFunc(slices.Clone(extras), func(p program) bool { return !slices.Contains(also, p.name) })
	for _, p := range slices.Concat(programs, wanted) {
		path, replaced, err := replacement(p.name)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		if !replaced {
			folder, err := p.module.folder(modules, cache)
			if err != nil {
				return nil, err
			}
			path = filepath.Join(folder, p.name)
			if _, err := os.Stat(path); err != nil {
				missing = append(missing, p)
			}
		}
		set[p.name] = path
	}
	path, replaced, err := replacement(crds)
	bad = append(bad, err)
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		fmt.Fprintf(out, "%d programs of the test cluster have to be built; this is done once and takes some minutes (cache: %s)\n", len(missing), cache)
	}
	for i, p := range missing {
		if err := p.build(ctx, modules, set[p.name], fmt.Sprintf("[%d/%d]", i+1, len(missing)), out); err != nil {
			return nil, err
		}
	}
	set[crds] = path
	if !replaced {
		if set[crds], err = calicoCRDs(ctx, modules, cache); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// replacement is what the user put in a program's place.
func replacement(name string) (path string, replaced bool, err error) {
	path = os.Getenv(Variable(name))
	if path == "" {
		return "", false, nil
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", true, fmt.Errorf("%s: %w", Variable(name), err)
	}
	if _, err := os.Stat(path); err != nil {
		return "", true, fmt.Errorf("%s names a file that can't be used: %w", Variable(name), err)
	}
	return path, true, nil
}

// cacheDir is HOST_FIREWALL_CACHE or a folder in the user's cache.
func cacheDir() (string, error) {
	dir := os.Getenv("HOST_FIREWALL_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a cache folder (HOST_FIREWALL_CACHE names one): %w", err)
		}
		dir = filepath.Join(user, "host-firewall")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	return filepath.Abs(dir)
}

// lock keeps two builds from running at once; the second waits for the first and then finds its work done.
func lock(path string, out io.Writer) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		fmt.Fprintf(out, "waiting for another run that is building into %s\n", filepath.Dir(path))
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			return nil, fmt.Errorf("lock cache: %w", err)
		}
	}
	return func() { f.Close() }, nil
}

// version of the module that is pinned in go.mod.
func (m module) version(modules string) (string, error) {
	path := filepath.Join(modules, m.dir, "go.mod")
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read pinned version: %w", err)
	}
	file, err := modfile.Parse(path, raw, nil)
	if err != nil {
		return "", fmt.Errorf("read pinned version: %w", err)
	}
	for _, r := range file.Require {
		if r.Mod.Path == m.path {
			return r.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("read pinned version: %s doesn't require %s", path, m.path)
}

// folder of the module's programs in the cache. Another version, another dependency or another way to build is another
// folder.
func (m module) folder(modules, cache string) (string, error) {
	version, err := m.version(modules)
	if err != nil {
		return "", err
	}
	own, err := filepath.Glob(filepath.Join(modules, m.dir, "*.go"))
	if err != nil {
		return "", fmt.Errorf("find our own part of a program: %w", err)
	}
	sum := sha256.New()
	for _, file := range append(own, filepath.Join(modules, m.dir, "go.mod"), filepath.Join(modules, m.dir, "go.sum")) {
		raw, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read pinned version: %w", err)
		}
		sum.Write(raw)
	}
	fmt.Fprint(sum, m.tags, m.ldflags(version))
	return filepath.Join(cache, fmt.Sprintf("%s-%s-%s", m.dir, version, hex.EncodeToString(sum.Sum(nil))[:8])), nil
}

func (p program) build(ctx context.Context, modules, target, count string, out io.Writer) error {
	version, err := p.module.version(modules)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("build %s: %w", p.name, err)
	}
	pkg := p.pkg
	if !strings.HasPrefix(pkg, "./") {
		pkg = path.Join(p.module.path, pkg)
	}
	half := target + ".part" // a build that was cut off leaves no binary that looks whole
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", p.module.tags, "-ldflags", p.module.ldflags(version),
		"-o", half, pkg)
	cmd.Dir = filepath.Join(modules, p.module.dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false")
	done := progress(out, fmt.Sprintf("%s %s %s", count, p.name, version))
	output, err := cmd.CombinedOutput()
	done(err)
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", p.name, err, output)
	}
	if err := os.Rename(half, target); err != nil {
		return fmt.Errorf("build %s: %w", p.name, err)
	}
	return nil
}

// progress shows that something long is under way: with a running clock on a terminal, with a line at its end elsewhere.
func progress(out io.Writer, what string) (done func(error)) {
	start := time.Now()
	took := func() time.Duration { return time.Since(start).Round(time.Second) }
	f, ok := out.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		if !terminal {
			return
		}
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			fmt.Fprintf(out, "\r  %s ... %s ", what, took())
			select {
			case <-stop:
				fmt.Fprint(out, "\r\x1b[K")
				return
			case <-tick.C:
			}
		}
	}()
	return func(err error) {
		close(stop)
		<-stopped
		if err != nil {
			fmt.Fprintf(out, "  %s failed after %s\n", what, took())
			return
		}
		fmt.Fprintf(out, "  %s built in %s\n", what, took())
	}
}

// calicoCRDs copies Calico's definitions out of its module, so that a later run needs no module download.
func calicoCRDs(ctx context.Context, modules, cache string) (string, error) {
	folder, err := calico.folder(modules, cache)
	if err != nil {
		return "", err
	}
	target := filepath.Join(folder, "crds")
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", calico.path)
	cmd.Dir = filepath.Join(modules, calico.dir)
	source, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find Calico's module: %w", err)
	}
	half := target + ".part"
	if err := os.RemoveAll(half); err != nil {
		return "", fmt.Errorf("copy Calico's definitions: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("copy Calico's definitions: %w", err)
	}
	if err := os.CopyFS(half, os.DirFS(filepath.Join(strings.TrimSpace(string(source)), "libcalico-go", "config", "crd"))); err != nil {
		return "", fmt.Errorf("copy Calico's definitions: %w", err)
	}
	if err := os.Rename(half, target); err != nil {
		return "", fmt.Errorf("copy Calico's definitions: %w", err)
	}
	return target, nil
}
