// Package bench measures the agent beside what a user would otherwise run, all in one run on one cluster of tests/cluster.
package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

// Settings say how much is measured.
type Settings struct {
	Rounds    int           // deletions for each contender that needs no patience
	Joins     int           // nodes that join, for each contender with a pod on every node
	BareNodes int           // Node objects for one that has one pod for all of them
	Idle      time.Duration // how long an idle contender is watched
	Scale     []int         // numbers of nodes; none: nothing is measured at scale
	Only      []string      // contenders, and Peers; empty: all
}

// bench is one run.
type bench struct {
	root      string
	settings  Settings
	out       io.Writer
	began     time.Time
	cluster   *cluster.Cluster
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	endpoints *observer
}

var nodesResource = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}

// Run measures everything on a cluster that it starts, and many nodes on another one. Progress goes to out. With an error
// comes what was measured before it.
func Run(ctx context.Context, root string, settings Settings, out io.Writer) (*Report, error) {
	b := &bench{root: root, settings: settings, out: out, began: time.Now()}
	var err error
	report := &Report{Date: b.began.UTC().Format(time.DateOnly), Settings: settings.record()}
	if report.Machine, err = machine(); err != nil {
		return nil, err
	}
	if report.Versions, err = cluster.Versions(root); err != nil {
		return nil, err
	}
	report.Versions["Go"] = runtime.Version()
	if len(b.contenders()) > 0 || b.wants(Peers) {
		if err := b.onCluster(ctx, func(ctx context.Context) (err error) {
			if report.Contenders, err = b.compare(ctx); err == nil && slices.ContainsFunc(b.contenders(), func(c *contender) bool { return c.name == Agent }) {
				report.Wire, err = b.onTheWire(ctx)
			}
			if err == nil && b.wants(Peers) {
				report.Peers, err = b.peers(ctx)
			}
			return err
		}); err != nil {
			return report, err
		}
	}
	if len(settings.Scale) > 0 {
		// What the others have left in an API server is not what many nodes cost it.
		if err := b.onCluster(ctx, func(ctx context.Context) (err error) {
			report.Scale, err = b.scale(ctx)
			return err
		}); err != nil {
			return report, fmt.Errorf("measure at scale: %w", err)
		}
	}
	report.Minutes = time.Since(b.began).Minutes()
	report.Promises = promises(report)
	return report, nil
}

// onCluster starts a cluster, does something with it, and takes it away.
func (b *bench) onCluster(ctx context.Context, do func(context.Context) error) (err error) {
	b.cluster, err = cluster.UpWith(ctx, b.root, b.out, cluster.Options{
		Programs: []string{binaries.KubeControllers},
		// Nodes that are mere objects have no kubelet that says again and again that they are Ready.
		ControllerManager: []string{"--node-monitor-grace-period=24h"},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Down(b.root, b.out)) }()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := b.connect(ctx); err != nil {
		return err
	}
	return do(ctx)
}

// compare measures the contenders, one after the other.
func (b *bench) compare(ctx context.Context) (results []Result, err error) {
	if err := b.kubectl(ctx, "", "create", "namespace", namespace); err != nil {
		return nil, err
	}
	for _, c := range b.contenders() {
		result, err := b.measure(ctx, c)
		if err != nil {
			return results, fmt.Errorf("measure %s: %w", c.name, err)
		}
		results = append(results, result)
	}
	return results, nil
}

// connect opens the bench's own connections, straight into the network of the API server.
func (b *bench) connect(ctx context.Context) error {
	config, err := b.cluster.RESTConfig()
	if err != nil {
		return err
	}
	h, err := b.cluster.Host(cluster.ControlPlaneNode)
	if err != nil {
		return err
	}
	config.QPS = -1 // no limit
	config.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return h.DialContext(ctx, network, localAPI)
	}
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	if b.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	b.endpoints, err = observe(ctx, b.calico("hostendpoints"))
	return err
}

// localAPI is the API server on its own host.
var localAPI = net.JoinHostPort("127.0.0.1", strconv.Itoa(cluster.APIPort))

// calico is the API for one of Calico's resources.
func (b *bench) calico(resource string) dynamic.ResourceInterface {
	return b.dynamic.Resource(b.cluster.CalicoGroup().WithResource(resource))
}

// workers are the nodes whose endpoints are deleted.
func (b *bench) workers() []string {
	var names []string
	for _, m := range b.cluster.Nodes() {
		if m.Role == cluster.Worker {
			names = append(names, m.Name)
		}
	}
	return names
}

// measure does everything with one contender.
func (b *bench) measure(ctx context.Context, c *contender) (r Result, err error) {
	b.head("%s", c.name)
	r = Result{Name: c.name, What: c.what, PerNode: c.perNode}
	if err := c.start(ctx); err != nil {
		return r, err
	}
	defer func() {
		if ctx.Err() != nil {
			return
		}
		if failed := c.stop(ctx); failed != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", c.name, failed))
		}
	}()
	if r.Image, err = image.Measure(c.archive); err != nil {
		return r, err
	}
	b.say("binary %.2f MB, image %.2f MB", megabytes(r.Image.Binary), megabytes(r.Image.Layers))
	if err := b.awaitArmed(ctx, c); err != nil {
		return r, err
	}
	began := time.Now()
	if r.Repair, err = b.repairs(ctx, c); err != nil {
		return r, err
	}
	told := time.Now()
	if told.Sub(began) > firstNews {
		told = told.Add(c.tells)
	}
	b.say("back, ms: %s", r.Repair.text())
	if c.perNode {
		r.Joins, err = b.joins(ctx, c)
	} else {
		r.BareNodes, err = b.bareNodes(ctx, c)
	}
	if err != nil {
		return r, err
	}
	r.Idle, err = b.idle(ctx, c, told)
	return r, err
}

// kubectl runs the cluster's own.
func (b *bench) kubectl(ctx context.Context, stdin string, args ...string) error {
	cmd := cluster.Kubectl(ctx, b.cluster, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, output.String())
	}
	return nil
}

func (b *bench) head(format string, args ...any) {
	fmt.Fprintf(b.out, "\n== "+format+" (%s)\n", append(args, time.Since(b.began).Round(time.Second))...)
}
func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, "  "+format+"\n", args...) }

// machine is what this one has.
func machine() (Machine, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Machine{}, fmt.Errorf("read the kernel's version: %w", err)
	}
	raw, err := os.ReadFile(filepath.Join("/proc", "meminfo"))
	if err != nil {
		return Machine{}, fmt.Errorf("read memory: %w", err)
	}
	var kilobytes int64
	if _, err := fmt.Sscanf(string(raw), "MemTotal: %d kB", &kilobytes); err != nil {
		return Machine{}, fmt.Errorf("read memory: %w", err)
	}
	kernel, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-") // what follows is somebody's build
	return Machine{Cores: runtime.NumCPU(), MemoryBytes: kilobytes << 10, Kernel: kernel, Platform: runtime.GOOS + "/" + runtime.GOARCH}, nil
}
