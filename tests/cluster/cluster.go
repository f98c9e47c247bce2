// Package cluster runs a real Kubernetes cluster with Calico on one Linux machine, out of network namespaces: etcd, the
// control plane, and on every node containerd, kubelet, kube-proxy, Felix and Calico's pod network. Two outsiders, admin
// and stranger, are hosts beyond a router. Nothing is faked but the machines.
//
//	router ── nodes    192.0.2.0/24     2001:db8:1::/64   control-plane, worker-1, worker-2
//	       ── admins   198.51.100.0/24  2001:db8:2::/64   admin
//	       ── outside  203.0.113.0/24   2001:db8:3::/64   stranger
package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
	"github.com/host-firewall/host-firewall/tests/cluster/pki"
)

// Names of the hosts that every cluster has.
const (
	ControlPlaneNode = "control-plane"
	AdminHost        = "admin"
	StrangerHost     = "stranger"
	routerHost       = "router"
)

// workers at the start.
const workers = 2

// Cluster is a running cluster.
type Cluster struct {
	Access
	layout  layout
	record  *saved
	options Options
	out     io.Writer
}

// Options change what is started. The zero value changes nothing.
type Options struct {
	// Programs are extras of package binaries that are to be had too.
	Programs []string
	// ControllerManager are further arguments of kube-controller-manager.
	ControllerManager []string
	// CalicoAPI adds Calico's aggregated API server; see AddCalicoAPI.
	CalicoAPI bool
}

// nameVariable names one of several clusters of a checkout; without it there is the one that people use.
const nameVariable = "CLUSTER_NAME"

// Folder is where the cluster of a checkout lies; root is the checkout. The environment variable CLUSTER_NAME tells several
// of them apart.
func Folder(root string) string {
	folder := filepath.Join(root, ".cluster")
	if name := os.Getenv(nameVariable); name != "" {
		folder += "-" + name
	}
	return folder
}

// Root is the checkout that the working directory is in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "charts", "host-firewall", "Chart.yaml")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the checkout: run this inside a clone of host-firewall")
		}
	}
}

// modules is the folder of the modules that the cluster's programs are built from.
func modules(root string) string { return filepath.Join(root, "tests", "cluster", "modules") }

// Versions are those of what the cluster of a checkout runs, by the name of the project.
func Versions(root string) (map[string]string, error) { return binaries.Versions(modules(root)) }

// Up starts the cluster of a checkout and returns when all of it works. What takes long is told to out. On failure, or
// when ctx ends, everything is removed again but the logs, which the error names.
func Up(ctx context.Context, root string, out io.Writer) (*Cluster, error) {
	return UpWith(ctx, root, out, Options{})
}

// UpWith is Up with options.
func UpWith(ctx context.Context, root string, out io.Writer, options Options) (*Cluster, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	l := layout(Folder(root))
	for _, hidden := range []string{"/var/lib/", "/run/"} {
		if strings.HasPrefix(string(l), hidden) {
			return nil, fmt.Errorf("the cluster's nodes have a %s of their own: use a clone that isn't below it", strings.TrimSuffix(hidden, "/"))
		}
	}
	hosts, err := host.Running(l.hosts())
	if err != nil {
		return nil, err
	}
	if len(hosts) > 0 {
		return nil, fmt.Errorf("a cluster is running in %s already (make cluster-down ends it)", string(l))
	}
	if err := errors.Join(remove(l), os.RemoveAll(l.failedLogs())); err != nil {
		return nil, err
	}
	bin, err := Build(ctx, root, out, options.Programs...)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Access: Access(l.kubeconfig()), layout: l, record: &saved{Binaries: bin, Next: 11}, options: options, out: out}
	if err := c.up(ctx, root); err != nil {
		_ = os.Rename(l.path("logs"), l.failedLogs())
		return nil, errors.Join(fmt.Errorf("%w (logs: %s)", err, l.failedLogs()), down(l))
	}
	return c, nil
}

// Build installs the Debian packages that a cluster needs, and builds its programs and the optional ones that are named, where
// they are missing. Up does that too, but two of them at once would both want to install.
func Build(ctx context.Context, root string, out io.Writer, optional ...string) (binaries.Set, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	if err := installPackages(out); err != nil {
		return nil, err
	}
	return binaries.Ensure(ctx, modules(root), out, optional...)
}

func (c *Cluster) up(ctx context.Context, root string) error {
	ctx, done := c.whileAllLive(ctx)
	defer done()
	c.say("building the programs of the hosts")
	if err := c.buildOwn(ctx, root); err != nil {
		return err
	}
	if err := errors.Join(c.linkCNI(), linkFelixPrograms(c.layout)); err != nil {
		return err
	}
	crds, err := readObjects(binaries.Set(c.record.Binaries).CRDs())
	if err != nil {
		return err
	}
	groups := groupsOf(crds)
	if len(groups) == 0 {
		return fmt.Errorf("%s has no definition of Calico's ClusterInformation", binaries.Set(c.record.Binaries).CRDs())
	}
	c.record.Storage = groups[len(groups)-1]
	c.say("starting the control plane")
	if err := c.layout.write(c.record); err != nil { // the nodes read where the programs are
		return err
	}
	if err := c.makeIdentities(); err != nil {
		return err
	}
	if err := c.startOutside(); err != nil {
		return err
	}
	if err := c.startNode(ControlPlaneNode, ControlPlane); err != nil {
		return err
	}
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	if err := waitAPI(ctx, config); err != nil {
		return err
	}
	if err := installCalico(ctx, config, crds); err != nil {
		return err
	}
	c.say("starting %d nodes", workers+1)
	for i := range workers {
		if err := c.startNode(fmt.Sprintf("worker-%d", i+1), Worker); err != nil {
			return err
		}
	}
	for _, m := range c.Nodes() {
		if err := c.WaitNode(ctx, m); err != nil {
			return err
		}
		c.say("%s is Ready", m.Name)
	}
	if c.options.CalicoAPI {
		c.say("starting Calico's API server")
		if err := c.AddCalicoAPI(ctx, root); err != nil {
			return err
		}
	}
	return c.layout.write(c.record)
}

// startOutside starts the router, and the hosts that are no nodes.
func (c *Cluster) startOutside() error {
	router, err := c.startHost(&host.Spec{Name: routerHost, Sysctls: forwarding()}, nil, connectRouter)
	if err != nil {
		return err
	}
	for number, o := range []Member{
		{Name: AdminHost, Role: Outsider, Addresses: admins.address(10)},
		{Name: StrangerHost, Role: Outsider, Addresses: outside.address(10)},
	} {
		spec := &host.Spec{Name: o.Name, Sysctls: forwarding(), Components: []host.Component{listener(c.layout, OutsidePort, DNSPort)}}
		if _, err := c.startHost(spec, nil, func(h *host.Host) error {
			return connect(router, h, []segment{admins, outside}[number], o.Addresses)
		}); err != nil {
			return err
		}
		c.record.Members = append(c.record.Members, o)
	}
	return nil
}

// buildOwn builds the programs of ours that run on the hosts, and the image of the pods' sandboxes.
func (c *Cluster) buildOwn(ctx context.Context, root string) error {
	for name, pkg := range map[string]string{"cluster": "./tests/cluster/cmd/cluster", "workload": "./tests/cluster/cmd/workload"} {
		if err := image.Binary(ctx, root, pkg, c.layout.bin(name), ""); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.layout.images(), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return image.Pack(c.layout.bin("workload"), WorkloadImage, filepath.Join(c.layout.images(), "workload.tar"), image.Config{Entrypoint: "/workload"})
}

// linkCNI makes a folder with Calico's plugin under both of its names: it does what it is called.
func (c *Cluster) linkCNI() error {
	dir := filepath.Join(c.layout.cni(), "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for _, name := range []string{"calico", "calico-ipam"} {
		if err := os.Symlink(c.record.Binaries["calico-cni"], filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("link CNI plugin: %w", err)
		}
	}
	return nil
}

// apiServer is where nodes and pods' node components reach it.
func apiServer() string {
	return "https://" + net.JoinHostPort(nodes.address(11).V4.String(), fmt.Sprint(APIPort))
}

func (c *Cluster) makeIdentities() error {
	ca, err := pki.Create(c.layout.pki())
	if err != nil {
		return err
	}
	api := nodes.address(11)
	admin := []string{"system:masters"}
	for file, id := range map[string]pki.Identity{
		"apiserver": {User: "kube-apiserver",
			Names: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
			IPs:   []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, api.V4.AsSlice(), api.V6.AsSlice(), net.ParseIP(serviceIP)}},
		"apiserver-kubelet": {User: "kube-apiserver-kubelet", Groups: admin},
		"front-proxy":       {User: "front-proxy"},
	} {
		if err := ca.Issue(file, id); err != nil {
			return err
		}
	}
	for file, id := range map[string]pki.Identity{
		"controller-manager.kubeconfig": {User: "system:kube-controller-manager"},
		"scheduler.kubeconfig":          {User: "system:kube-scheduler"},
		"kube-proxy.kubeconfig":         {User: "system:kube-proxy"},
		"calico.kubeconfig":             {User: "calico", Groups: admin},
	} {
		if err := ca.Kubeconfig(ca.Path(file), apiServer(), id); err != nil {
			return err
		}
	}
	return nil
}

// startHost starts a host whose folder and logs are the cluster's.
func (c *Cluster) startHost(spec *host.Spec, console *net.TCPListener, network func(*host.Host) error) (*host.Host, error) {
	spec.Logs = c.layout.logs(spec.Name)
	return host.Start(c.layout.bin("cluster"), c.layout.host(spec.Name), spec, console, network)
}

// startNode starts a host that will register as a node.
func (c *Cluster) startNode(name string, role Role) error {
	m := Member{Name: name, Role: role, Addresses: nodes.address(c.record.Next)}
	c.record.Next++
	if err := os.MkdirAll(c.layout.host(name), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	ca, err := pki.Open(c.layout.pki())
	if err != nil {
		return err
	}
	if err := ca.Kubeconfig(ca.Path(kubeletIdentity(name)), apiServer(), pki.Identity{User: "system:node:" + name, Groups: []string{"system:nodes"}}); err != nil {
		return err
	}
	if err := writeNodeFiles(c.layout, m, c.record.Storage); err != nil {
		return err
	}
	if err := makeCgroups(c.layout, name); err != nil {
		return err
	}
	spec := &host.Spec{Name: name, State: c.layout.state(name), Sysctls: forwarding(), Components: node(c.layout, c.record.Binaries, m, c.record.Storage)}
	var console *net.TCPListener
	if role == ControlPlane {
		spec.Components = append(controlPlane(c.layout, c.record.Binaries, m, c.options), spec.Components...)
		spec.Console = fmt.Sprintf("127.0.0.1:%d", APIPort)
		if console, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			return fmt.Errorf("listen for the console: %w", err)
		}
		defer console.Close() // the host has it
		c.record.Console = console.Addr().String()
		if err := ca.Kubeconfig(c.layout.kubeconfig(), "https://"+c.record.Console, pki.Identity{User: "kubernetes-admin", Groups: []string{"system:masters"}}); err != nil {
			return err
		}
	}
	router, err := c.Host(routerHost)
	if err != nil {
		return err
	}
	if _, err := c.startHost(spec, console, func(h *host.Host) error { return connect(router, h, nodes, m.Addresses) }); err != nil {
		return err
	}
	c.record.Members = append(c.record.Members, m)
	return nil
}

// waitAPI waits until the API server says that it is ready.
func waitAPI(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	return Poll(ctx, 2*time.Minute, "the API server to be ready", func(ctx context.Context) error {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

// Poll calls check until it returns nil, and says on failure what it waited for and what it last saw.
func Poll(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	last := errors.New("not looked at yet")
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, limit, true, func(ctx context.Context) (bool, error) {
		if err := check(ctx); err != nil {
			if ctx.Err() == nil {
				last = err
			}
			return false, nil
		}
		return true, nil
	})
	if ctx.Err() != nil {
		return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("waited %s for %s: %w", limit, what, last)
	}
	return nil
}

// whileAllLive is a context that ends when a component ends again and again: what needs it is waited for in vain.
func (c *Cluster) whileAllLive(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go wait.UntilWithContext(ctx, func(context.Context) {
		hosts, err := host.Running(c.layout.hosts())
		for _, h := range hosts {
			err = errors.Join(err, h.Dying())
		}
		if err != nil {
			cancel(err)
		}
	}, time.Second)
	return ctx, func() { cancel(nil) }
}

// WaitNode waits until a node has registered, is Ready, and its Felix has programmed it.
func (c *Cluster) WaitNode(ctx context.Context, m Member) error {
	ctx, done := c.whileAllLive(ctx)
	defer done()
	if err := c.WaitNodeReady(ctx, m.Name); err != nil {
		return err
	}
	if m.Role == ControlPlane {
		client, err := c.Client()
		if err != nil {
			return err
		}
		// What a kubelet may not say of itself, kubeadm says for it.
		patch := []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`)
		if _, err := client.CoreV1().Nodes().Patch(ctx, m.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("label node %s: %w", m.Name, err)
		}
	}
	return Poll(ctx, 2*time.Minute, "Felix on "+m.Name+" to be ready", func(ctx context.Context) error {
		h, err := c.Host(m.Name)
		if err != nil {
			return err
		}
		return FelixReady(ctx, h)
	})
}

// Open returns the running cluster of a checkout.
func Open(root string, out io.Writer) (*Cluster, error) {
	l := layout(Folder(root))
	r, err := l.read()
	if err != nil {
		return nil, err
	}
	return &Cluster{Access: Access(l.kubeconfig()), layout: l, record: r, out: out}, nil
}

// Keep tells whether whoever started the cluster wants it to go on when its work is done, which may have failed: the environment
// variable KEEP is on-failure, or anything else for always.
func Keep(failed bool) bool {
	switch os.Getenv("KEEP") {
	case "":
		return false
	case "on-failure":
		return failed
	}
	return true
}

// Down removes everything that Up made, also after an Up that was cut off.
func Down(root string, out io.Writer) error {
	l := layout(Folder(root))
	hosts, err := host.Running(l.hosts())
	if err != nil {
		return err
	}
	if _, err := os.Stat(string(l)); len(hosts) == 0 && errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(out, "no cluster is running")
	} else if err := requireRoot(); err != nil {
		return err
	}
	return errors.Join(down(l), os.RemoveAll(l.failedLogs()))
}

// down ends the hosts and removes what they leave.
func down(l layout) error {
	hosts, err := host.Running(l.hosts())
	if err != nil {
		return err
	}
	var ends errgroup.Group
	for _, h := range hosts {
		ends.Go(h.Kill)
	}
	if err := ends.Wait(); err != nil {
		return err
	}
	return remove(l)
}

// remove deletes what dead hosts leave: control groups and files.
func remove(l layout) error {
	if err := removeCgroups(l); err != nil {
		return err
	}
	if err := os.RemoveAll(string(l)); err != nil {
		return fmt.Errorf("remove the cluster's files: %w", err)
	}
	return nil
}

// cgroupRoot is the control group of a node's pods, told apart from those of a cluster in another checkout.
func cgroupRoot(l layout, node string) string {
	sum := sha256.Sum256([]byte(l))
	return "/host-firewall-" + hex.EncodeToString(sum[:])[:8] + "/" + node
}

// makeCgroups makes a node's control group in every hierarchy that the machine has; kubelet wants it to be there.
func makeCgroups(l layout, node string) error {
	hierarchies := []string{"/sys/fs/cgroup"} // version 2
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		if hierarchies, err = filepath.Glob("/sys/fs/cgroup/*"); err != nil {
			return fmt.Errorf("list control groups: %w", err)
		}
	}
	for _, h := range hierarchies {
		if err := os.MkdirAll(h+cgroupRoot(l, node), 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
	}
	return nil
}

// removeCgroups removes the cluster's control groups, in every hierarchy that the machine has, the deepest first.
func removeCgroups(l layout) error {
	name := filepath.Dir(cgroupRoot(l, "any"))
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + name)
	if err != nil {
		return fmt.Errorf("list control groups: %w", err)
	}
	for _, root := range append(roots, "/sys/fs/cgroup"+name) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove control group: %w", err)
			}
		}
	}
	return nil
}

// Binary is the path of one of the cluster's programs, such as kubectl.
func (c *Cluster) Binary(name string) string { return c.record.Binaries[name] }

// Logs is the folder with the logs of every component.
func (c *Cluster) Logs() string { return c.layout.path("logs") }

// Collect copies the logs of every component, and what every node's kernel has of rules, into a new folder.
func (c *Cluster) Collect(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("collect diagnostics: %w", err)
	}
	if err := os.CopyFS(dir, os.DirFS(c.Logs())); err != nil {
		return fmt.Errorf("collect logs: %w", err)
	}
	return CollectRules(ctx, c, dir)
}

// Members are the nodes and outsiders, in the order in which they came.
func (c *Cluster) Members() []Member { return slices.Clone(c.record.Members) }

// Nodes are the members that are nodes.
func (c *Cluster) Nodes() []Member {
	return slices.DeleteFunc(c.Members(), func(m Member) bool { return m.Role == Outsider })
}

// Member returns the member with this name.
func (c *Cluster) Member(name string) (Member, error) {
	for _, m := range c.record.Members {
		if m.Name == name {
			return m, nil
		}
	}
	return Member{}, fmt.Errorf("no host %q in this cluster; there are %s", name, strings.Join(c.names(), ", "))
}

func (c *Cluster) names() []string {
	names := make([]string, len(c.record.Members))
	for i, m := range c.record.Members {
		names[i] = m.Name
	}
	return names
}

// Host returns the running host with this name.
func (c *Cluster) Host(name string) (*host.Host, error) {
	hosts, err := host.Running(c.layout.hosts())
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("host %q is not running; there are %s", name, strings.Join(c.names(), ", "))
}

// AddNode starts one more worker; WaitNode waits until it works.
func (c *Cluster) AddNode(name string) (Member, error) {
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		return Member{}, fmt.Errorf("add node: %q can't be a node's name: %s", name, strings.Join(problems, "; "))
	}
	if _, err := c.Member(name); err == nil || name == routerHost {
		return Member{}, fmt.Errorf("add node: there is a host %q already", name)
	}
	if err := c.startNode(name, Worker); err != nil {
		return Member{}, err
	}
	if err := c.layout.write(c.record); err != nil {
		return Member{}, err
	}
	return c.Member(name)
}

// RemoveNode ends a worker as a machine that is switched off ends, and deletes its Node and its pods, which Kubernetes
// would find out about, and send connections to, for another minute.
func (c *Cluster) RemoveNode(ctx context.Context, name string) error {
	m, err := c.Member(name)
	if err != nil {
		return err
	}
	if m.Role != Worker {
		return fmt.Errorf("remove node: %s is no worker (%s)", name, m.Role)
	}
	h, err := c.Host(name)
	if err != nil {
		return err
	}
	if err := h.Kill(); err != nil {
		return err
	}
	if err := c.DeleteNode(ctx, name); err != nil {
		return err
	}
	if err := os.RemoveAll(c.layout.host(name)); err != nil {
		return fmt.Errorf("remove the node's files: %w", err)
	}
	c.record.Members = slices.DeleteFunc(c.record.Members, func(m Member) bool { return m.Name == name })
	return c.layout.write(c.record)
}

// Load imports an image archive on every node, and on those that join later.
func (c *Cluster) Load(ctx context.Context, archive string) error {
	raw, err := os.ReadFile(archive)
	if err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	kept := filepath.Join(c.layout.images(), filepath.Base(archive))
	if kept != archive {
		if err := os.WriteFile(kept, raw, 0o644); err != nil {
			return fmt.Errorf("load image: %w", err)
		}
	}
	var loads errgroup.Group
	for _, m := range c.Nodes() {
		loads.Go(func() error { return c.loadOn(ctx, m.Name, kept) })
	}
	return loads.Wait()
}

func (c *Cluster) loadOn(ctx context.Context, node, archive string) error {
	h, err := c.Host(node)
	if err != nil {
		return err
	}
	return Poll(ctx, time.Minute, "containerd on "+node+" to import "+filepath.Base(archive), func(ctx context.Context) error {
		return run(h.Command(ctx, c.record.Binaries["ctr"], importArgs(archive)...))
	})
}

// Command is a command that will run on a node or an outsider.
func (c *Cluster) Command(ctx context.Context, hostName, name string, args ...string) (*exec.Cmd, error) {
	h, err := c.Host(hostName)
	if err != nil {
		return nil, err
	}
	return h.Command(ctx, name, args...), nil
}

func (c *Cluster) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }
