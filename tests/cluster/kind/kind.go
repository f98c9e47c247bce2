// Package kind runs a cluster of the kind project (Kubernetes in Docker) with Calico, as tests/kind needs it: three nodes
// and, on their network, the outsiders admin and stranger. It drives the programs docker and kind of whoever runs it.
// Docker has to be on this machine, and the caller root: what happens on a node is done in its container's namespaces.
package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

// name is the cluster's, its network's, and what the names of all its containers begin with.
const name = "host-firewall"

// The network of all containers. Docker gives the nodes addresses of the smaller ranges only: the outsiders are in the
// network, and in no range of the nodes. All of it is reserved for documentation and benchmarks, as in package cluster.
const (
	network4, nodes4 = "192.0.2.0/24", "192.0.2.0/25"
	network6, nodes6 = "2001:db8:1::/64", "2001:db8:1::/80"
	pods4, services4 = "198.18.0.0/16", "198.19.0.0/16"
	pods6, services6 = "2001:db8:a::/56", "2001:db8:b::/112"
)

// outsiders of every cluster.
func outsiders() []cluster.Member {
	at := func(v4, v6 string) cluster.Addresses {
		return cluster.Addresses{V4: netip.MustParseAddr(v4), V6: netip.MustParseAddr(v6)}
	}
	return []cluster.Member{
		{Name: cluster.AdminHost, Role: cluster.Outsider, Addresses: at("192.0.2.210", "2001:db8:1:0:1::10")},
		{Name: cluster.StrangerHost, Role: cluster.Outsider, Addresses: at("192.0.2.220", "2001:db8:1:0:1::20")},
	}
}

// Cluster is a running cluster.
type Cluster struct {
	cluster.Access
	folder string
	nodes  []cluster.Member
	loaded []string // the image archives that every node has
}

func folder(root string) string { return filepath.Join(cluster.Folder(root), "kind") }

func newCluster(root string) *Cluster {
	return &Cluster{Access: cluster.Access(filepath.Join(folder(root), "kubeconfig")), folder: folder(root)}
}

func (c *Cluster) workloadImage() string { return filepath.Join(c.folder, "workload.tar") }

// workload is the path of the program that listens, on the machine and in every container.
func (c *Cluster) workload() string { return filepath.Join(c.folder, "workload") }

const workloadInside = "/usr/local/bin/workload"

// Options say which versions a cluster has.
type Options struct {
	// Kubernetes is that of the node image, such as v1.36.3; empty: what kind takes by itself.
	Kubernetes string
	// Calico is a release, such as v3.32.1; empty: DefaultCalico.
	Calico string
}

// FromEnvironment reads the options from KUBERNETES_VERSION and CALICO_VERSION.
func FromEnvironment() Options {
	return Options{Kubernetes: os.Getenv("KUBERNETES_VERSION"), Calico: os.Getenv("CALICO_VERSION")}
}

// Up creates the cluster and returns when all of it works. On failure everything is removed again.
func Up(ctx context.Context, root string, out io.Writer, o Options) (*Cluster, error) {
	manifest, err := calicoManifest(ctx, o.Calico)
	if err != nil {
		return nil, err
	}
	c := newCluster(root)
	if err := c.up(ctx, root, out, o, manifest); err != nil {
		return nil, errors.Join(err, Down(root))
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context, root string, out io.Writer, o Options, manifest string) error {
	if err := os.MkdirAll(c.folder, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := image.Binary(ctx, root, "./tests/cluster/cmd/workload", c.workload(), ""); err != nil {
		return err
	}
	if err := image.Pack(c.workload(), cluster.WorkloadImage, c.workloadImage(), image.Config{Entrypoint: "/workload"}); err != nil {
		return err
	}
	fmt.Fprintln(out, "creating the kind cluster "+name)
	for _, step := range []struct {
		stdin string
		args  []string
	}{
		{args: networkArgs()},
		{stdin: configuration, args: createArgs(c.Kubeconfig(), o)},
		{stdin: manifest, args: []string{"kubectl", "--kubeconfig", c.Kubeconfig(), "apply", "--server-side", "--filename", "-"}},
	} {
		if _, err := call(ctx, step.stdin, step.args...); err != nil {
			return err
		}
	}
	if err := c.refresh(ctx); err != nil {
		return err
	}
	for _, m := range c.Nodes() {
		if err := c.prepare(ctx, m); err != nil {
			return err
		}
	}
	nodeImage, err := inspect(ctx, container(c.nodes[0].Name), "{{.Config.Image}}")
	if err != nil {
		return err
	}
	for _, o := range outsiders() {
		if _, err := call(ctx, "", c.outsiderArgs(o, nodeImage)...); err != nil {
			return err
		}
	}
	return c.Load(ctx, c.workloadImage())
}

// prepare makes a node what the tests expect of one: something listens on its ports, and it works.
func (c *Cluster) prepare(ctx context.Context, m cluster.Member) error {
	if err := c.listen(ctx, m.Name); err != nil {
		return err
	}
	return c.WaitNode(ctx, m)
}

// listen starts what stands for the services of a node.
func (c *Cluster) listen(ctx context.Context, node string) error {
	if _, err := call(ctx, "", "docker", "cp", c.workload(), container(node)+":"+workloadInside); err != nil {
		return err
	}
	_, err := call(ctx, "", append([]string{"docker", "exec", "--detach", container(node), workloadInside, "listen"},
		ports(cluster.ListenPorts()...)...)...)
	return err
}

// Open returns the cluster that runs.
func Open(ctx context.Context, root string) (*Cluster, error) {
	clusters, err := call(ctx, "", "kind", "get", "clusters")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(strings.Fields(clusters), name) {
		return nil, fmt.Errorf("no kind cluster %s is running", name)
	}
	c := newCluster(root)
	c.loaded = []string{c.workloadImage()}
	return c, c.refresh(ctx)
}

// Down removes everything that Up made, also after an Up that was cut off.
func Down(root string) error {
	ctx := context.Background()
	_, err := call(ctx, "", "kind", "delete", "cluster", "--name", name)
	errs := []error{err}
	for _, o := range outsiders() {
		_, err := call(ctx, "", "docker", "rm", "--force", "--volumes", container(o.Name))
		errs = append(errs, err)
	}
	networks, err := call(ctx, "", "docker", "network", "ls", "--format", "{{.Name}}")
	if errs = append(errs, err); slices.Contains(strings.Fields(networks), name) {
		_, err := call(ctx, "", "docker", "network", "rm", name)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(folder(root)))...)
}

// refresh asks the API server which nodes there are.
func (c *Cluster) refresh(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	c.nodes = nil
	for _, n := range list.Items {
		m, err := memberOf(&n)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, m)
	}
	return nil
}

// memberOf reads what a Node says of itself.
func memberOf(n *corev1.Node) (cluster.Member, error) {
	m := cluster.Member{Name: n.Name, Role: cluster.Worker}
	if _, ok := n.Labels["node-role.kubernetes.io/control-plane"]; ok {
		m.Role = cluster.ControlPlane
	}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			return m, fmt.Errorf("read address of node %s: %w", n.Name, err)
		}
		if ip.Is4() {
			m.Addresses.V4 = ip
		} else {
			m.Addresses.V6 = ip
		}
	}
	if !m.Addresses.V4.IsValid() || !m.Addresses.V6.IsValid() {
		return m, fmt.Errorf("node %s has no address of each family: is IPv6 switched on in Docker?", n.Name)
	}
	return m, nil
}

// Binary is the path of a program of the machine's, such as kubectl.
func (c *Cluster) Binary(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return program // running it says what is wrong
	}
	return path
}

// Members are the outsiders and the nodes.
func (c *Cluster) Members() []cluster.Member { return append(outsiders(), c.nodes...) }

// Nodes are the members that are nodes.
func (c *Cluster) Nodes() []cluster.Member { return slices.Clone(c.nodes) }

// Member returns the member with this name.
func (c *Cluster) Member(name string) (cluster.Member, error) {
	for _, m := range c.Members() {
		if m.Name == name {
			return m, nil
		}
	}
	return cluster.Member{}, fmt.Errorf("no host %q in this cluster", name)
}

// AdminCIDRs are the networks of the outsider admin, and of nobody else.
func (c *Cluster) AdminCIDRs() []string { return onlyFor(outsiders()[0]) }

// StrangerCIDRs are the networks of the outsider stranger, and of nobody else, IPv4 first.
func (c *Cluster) StrangerCIDRs() []string { return onlyFor(outsiders()[1]) }

func onlyFor(m cluster.Member) []string {
	return []string{netip.PrefixFrom(m.Addresses.V4, 32).String(), netip.PrefixFrom(m.Addresses.V6, 128).String()}
}

// Route makes the outsiders send what is for a network to a node, as hosts do that have learnt it from Calico (BGP).
func (c *Cluster) Route(to netip.Prefix, node string) error {
	via, err := c.Member(node)
	if err != nil {
		return err
	}
	for _, o := range outsiders() {
		h, err := c.Host(o.Name)
		if err != nil {
			return err
		}
		if err := cluster.RouteOn(h, to, via.Addresses); err != nil {
			return err
		}
	}
	return nil
}

// CalicoGroup is the API group by which Calico is to be reached: its manifest installs no API server.
func (c *Cluster) CalicoGroup() schema.GroupVersion {
	return schema.GroupVersion{Group: "crd.projectcalico.org", Version: "v1"}
}

// StorageGroup is the API group of Calico's custom resources.
func (c *Cluster) StorageGroup() schema.GroupVersion { return c.CalicoGroup() }

// ClusterCIDRs are the networks of the nodes and of the pods.
func (c *Cluster) ClusterCIDRs() []string { return []string{nodes4, nodes6, pods4, pods6} }

// Host returns the running container of a node or an outsider.
func (c *Cluster) Host(name string) (*host.Host, error) {
	state, err := inspect(context.Background(), container(name), "{{.State.Pid}}")
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(state)
	if err != nil {
		return nil, fmt.Errorf("read process of %s: %w", name, err)
	}
	if pid == 0 {
		return nil, fmt.Errorf("host %q is not running", name)
	}
	return &host.Host{Spec: host.Spec{Name: name}, PID: pid}, nil
}

// Command is a command that will run on a node or an outsider.
func (c *Cluster) Command(ctx context.Context, hostName, program string, args ...string) (*exec.Cmd, error) {
	h, err := c.Host(hostName)
	if err != nil {
		return nil, err
	}
	return h.Command(ctx, program, args...), nil
}

// Load imports an image archive on every node, and on those that join later.
func (c *Cluster) Load(ctx context.Context, archive string) error {
	if !slices.Contains(c.loaded, archive) {
		c.loaded = append(c.loaded, archive)
	}
	_, err := call(ctx, "", loadArgs(archive)...)
	return err
}

// WaitNode waits until a node is Ready and its Felix has programmed it.
func (c *Cluster) WaitNode(ctx context.Context, m cluster.Member) error {
	if err := c.WaitNodeReady(ctx, m.Name); err != nil {
		return err
	}
	return cluster.Poll(ctx, 5*time.Minute, "Felix on "+m.Name+" to be ready", func(ctx context.Context) error {
		h, err := c.Host(m.Name)
		if err != nil {
			return err
		}
		return cluster.FelixReady(ctx, h)
	})
}

// AddNode starts one more worker, as kind itself starts one, which it can do only while it creates a cluster: a container
// like a worker's, with a worker's configuration for kubeadm under its own name and addresses.
func (c *Cluster) AddNode(added string) (cluster.Member, error) {
	ctx := context.Background()
	i := slices.IndexFunc(c.nodes, func(m cluster.Member) bool { return m.Role == cluster.Worker })
	if i < 0 {
		return cluster.Member{}, errors.New("add node: there is no worker to take as a model")
	}
	model := c.nodes[i]
	nodeImage, err := inspect(ctx, container(model.Name), "{{.Config.Image}}")
	if err != nil {
		return cluster.Member{}, err
	}
	if _, err := call(ctx, "", workerArgs(added, nodeImage)...); err != nil {
		return cluster.Member{}, err
	}
	m, err := c.join(ctx, model, added)
	if err != nil {
		_, gone := call(ctx, "", "docker", "rm", "--force", "--volumes", container(added))
		return cluster.Member{}, errors.Join(fmt.Errorf("add node: %w", err), gone)
	}
	return m, nil
}

func (c *Cluster) join(ctx context.Context, model cluster.Member, added string) (cluster.Member, error) {
	m := cluster.Member{Name: added, Role: cluster.Worker}
	var err error
	for address, field := range map[*netip.Addr]string{&m.Addresses.V4: "IPAddress", &m.Addresses.V6: "GlobalIPv6Address"} {
		text, inspectErr := inspect(ctx, container(added), fmt.Sprintf("{{(index .NetworkSettings.Networks %q).%s}}", name, field))
		if inspectErr != nil {
			return m, inspectErr
		}
		if *address, err = netip.ParseAddr(text); err != nil {
			return m, fmt.Errorf("read address of %s: %w", added, err)
		}
	}
	const file = "/kind/kubeadm.conf"
	settings, err := call(ctx, "", "docker", "exec", container(model.Name), "cat", file)
	if err != nil {
		return m, err
	}
	if _, err := call(ctx, joinSettings(settings, model, m), "docker", "exec", "--interactive", container(added), "cp", "/dev/stdin", file); err != nil {
		return m, err
	}
	if err := cluster.Poll(ctx, time.Minute, "containerd on "+added+" to run", func(ctx context.Context) error {
		_, err := call(ctx, "", "docker", "exec", container(added), "systemctl", "is-active", "containerd")
		return err
	}); err != nil {
		return m, err
	}
	for _, archive := range c.loaded {
		if _, err := call(ctx, "", loadArgs(archive, "--nodes", container(added))...); err != nil {
			return m, err
		}
	}
	if err := c.listen(ctx, added); err != nil {
		return m, err
	}
	if _, err := call(ctx, "", "docker", "exec", container(added), "kubeadm", "join", "--config", file, "--ignore-preflight-errors=all"); err != nil {
		return m, err
	}
	c.nodes = append(c.nodes, m)
	return m, nil
}

// joinSettings makes the settings of kubeadm for one node those for another.
func joinSettings(settings string, from, to cluster.Member) string {
	for old, now := range map[string]string{
		from.Name:                  to.Name,
		from.Addresses.V4.String(): to.Addresses.V4.String(),
		from.Addresses.V6.String(): to.Addresses.V6.String(),
	} {
		settings = regexp.MustCompile(`\b`+regexp.QuoteMeta(old)+`\b`).ReplaceAllLiteralString(settings, now)
	}
	return settings
}

// RemoveNode ends a worker as a machine that is switched off ends, and deletes its Node and its pods.
func (c *Cluster) RemoveNode(ctx context.Context, removed string) error {
	m, err := c.Member(removed)
	if err != nil {
		return err
	}
	if m.Role != cluster.Worker {
		return fmt.Errorf("remove node: %s is no worker (%s)", removed, m.Role)
	}
	if _, err := call(ctx, "", "docker", "rm", "--force", "--volumes", container(removed)); err != nil {
		return err
	}
	c.nodes = slices.DeleteFunc(c.nodes, func(m cluster.Member) bool { return m.Name == removed })
	return c.DeleteNode(ctx, removed)
}

// Collect puts the logs of all nodes, and what every node's kernel has of rules, into a new folder.
func (c *Cluster) Collect(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("collect diagnostics: %w", err)
	}
	if _, err := call(ctx, "", "kind", "export", "logs", dir, "--name", name); err != nil {
		return err
	}
	return cluster.CollectRules(ctx, c, dir)
}

// container is the name of a member's.
func container(member string) string {
	for _, o := range outsiders() {
		if o.Name == member {
			return name + "-" + member
		}
	}
	return member // kind calls its containers as its nodes
}
