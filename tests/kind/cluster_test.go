package kind

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/kind"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// Cluster is what the tests need of a cluster with Calico, three nodes and the outsiders admin and stranger. Whatever
// happens on a node or an outsider goes through Host.
type Cluster interface {
	scene.Cluster
	release.Cluster
	Kubeconfig() string
	// StorageGroup is the API group of the custom resources in which Calico keeps what it knows.
	StorageGroup() schema.GroupVersion
	// Binary is the path of a program such as kubectl.
	Binary(name string) string
	// Member is the node or outsider with this name.
	Member(name string) (cluster.Member, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
	// AdminCIDRs are the networks that only the outsider admin is in, StrangerCIDRs those of the stranger, IPv4 first, and
	// ClusterCIDRs those of the nodes and of the pods.
	AdminCIDRs() []string
	StrangerCIDRs() []string
	ClusterCIDRs() []string
	// Command is a command that will run on a node or an outsider.
	Command(ctx context.Context, hostName, name string, args ...string) (*exec.Cmd, error)
	// AddNode starts one more worker; WaitNode waits until it works. RemoveNode ends one and deletes its Node.
	AddNode(name string) (cluster.Member, error)
	WaitNode(ctx context.Context, m cluster.Member) error
	RemoveNode(ctx context.Context, name string) error
	// WaitNodeReady waits until a node is Ready.
	WaitNodeReady(ctx context.Context, name string) error
	// WatchReady begins a watch that every node stays Ready.
	WatchReady(ctx context.Context, r *record.Record, test string) (*record.Watch, error)
	// Collect puts what helps to understand a failure into a folder, which it makes: logs, the nodes' rules.
	Collect(ctx context.Context, dir string) error
}

// open returns the cluster that runs, or a new one and what ends it. The environment variable CLUSTER says which kind of
// cluster, KUBERNETES_VERSION and CALICO_VERSION what is in one of Docker containers.
func open(ctx context.Context, root string) (c Cluster, down func() error, err error) {
	switch which := os.Getenv("CLUSTER"); which {
	case "", "local":
	case "kind":
		return openKind(ctx, root)
	default:
		return nil, nil, fmt.Errorf("CLUSTER is %q: it can be local or kind", which)
	}
	if running, err := cluster.Open(root, os.Stdout); err == nil {
		return running, nil, nil
	}
	started, err := cluster.Up(ctx, root, os.Stdout)
	return started, func() error { return cluster.Down(root, os.Stdout) }, err
}

func openKind(ctx context.Context, root string) (c Cluster, down func() error, err error) {
	if running, err := kind.Open(ctx, root); err == nil {
		return running, nil, nil
	}
	started, err := kind.Up(ctx, root, os.Stdout, kind.FromEnvironment())
	return started, func() error { return kind.Down(root) }, err
}

// local is for what only a cluster of tests/cluster can do: there a test that asks for it is never skipped.
func local(t *testing.T, what string) *cluster.Cluster {
	t.Helper()
	c, ok := nodes.(*cluster.Cluster)
	if !ok {
		t.Skipf("%s: only the local cluster can do that", what)
	}
	return c
}

// controlPlane is the node with the API server.
func controlPlane(t *testing.T) cluster.Member {
	t.Helper()
	for _, m := range nodes.Nodes() {
		if m.Role == cluster.ControlPlane {
			return m
		}
	}
	require.FailNow(t, "no control plane")
	return cluster.Member{}
}

// worker is the name of a worker, counted from 1.
func worker(t *testing.T, number int) string {
	t.Helper()
	for _, m := range nodes.Nodes() {
		if m.Role != cluster.Worker {
			continue
		}
		if number--; number == 0 {
			return m.Name
		}
	}
	require.FailNow(t, fmt.Sprintf("%d workers too few", number))
	return ""
}
