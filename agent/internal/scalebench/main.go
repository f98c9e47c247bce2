// Command scalebench runs the agent's keepers of many nodes in one process, each
// with a client, a connection and watches of its own, as so many agents would. It
// is no part of the product: package bench of the cluster tests runs it.
//
// Its first argument is a file with the names of the nodes, one a line, the
// second a kubeconfig; the others are the agent's own. It does what it reads on
// its standard input, one word a line, and answers each with a line:
//
//	start    starts all keepers at once
//	status   prints what has come of it
//	report   prints the memory of this process, too, after a collection of garbage
//
// It ends when its input does.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/wiring"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	klog.SetSlogLogger(log)
	// On as many machines this would be nobody's bottleneck. Memory is reported after a collection.
	debug.SetGCPercent(400)
	// The other half of the cores is the API server's.
	runtime.GOMAXPROCS(max(1, runtime.NumCPU()/2))
	if err := run(os.Args[1:], log); err != nil {
		fmt.Fprintln(os.Stderr, "scalebench:", err)
		os.Exit(1)
	}
}

func run(args []string, log *slog.Logger) error {
	if len(args) < 2 {
		return errors.New("usage: scalebench NODES KUBECONFIG [AGENT-ARGUMENT]")
	}
	names, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read names of nodes: %w", err)
	}
	f := &fleet{traffic: newTraffic()}
	for _, node := range strings.Fields(string(names)) {
		if err := f.add(node, args[1], args[2:], log); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	defer f.running.Wait()
	defer stop()
	answers := json.NewEncoder(os.Stdout)
	words := bufio.NewScanner(os.Stdin)
	for words.Scan() {
		switch words.Text() {
		case "start":
			for _, m := range f.members {
				f.running.Go(func() { m.cluster.Run(ctx, m.keeper.Wake) })
				f.running.Go(func() { m.keeper.Run(ctx) })
			}
		case "status", "report":
		default:
			return fmt.Errorf("%q is not understood", words.Text())
		}
		r := f.report()
		if words.Text() == "report" {
			debug.FreeOSMemory()
			if r.Resident, r.Anonymous, err = memory(); err != nil {
				return err
			}
		}
		if err := answers.Encode(r); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return words.Err()
}

// fleet is the agents of all nodes.
type fleet struct {
	members []member
	traffic *traffic
	running sync.WaitGroup
}

// member is what runs for one node.
type member struct {
	cluster *calico.Cluster
	keeper  *keeper.Keeper
}

// add makes the member of a node, which does nothing yet.
func (f *fleet) add(node, kubeconfig string, args []string, log *slog.Logger) error {
	s, err := settings.Agent().Parse(append(args, "--node-name="+node), func(string) (string, bool) { return "", false })
	if err != nil {
		return fmt.Errorf("read the agent's arguments: %w", err)
	}
	if wiring.Keeper(s, nil).Named() {
		return errors.New("this machine's interfaces are not those of so many nodes: leave hostEndpoint.interfaces as it is by default")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	// A dialer of its own keeps client-go from sharing the connection.
	config.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &observed{next: next, traffic: f.traffic, notBefore: map[string]time.Time{}}
	})
	log = log.With("node", node)
	options := wiring.Options(s)
	options.UserAgent, options.Log = "host-firewall-scalebench", log
	cluster, err := calico.New(config, options)
	if err != nil {
		return err
	}
	keep := wiring.Keeper(s, nil)
	// This machine's interfaces are not those of the nodes.
	keep.Links = func() ([]endpoint.Link, error) { return nil, nil }
	f.members = append(f.members, member{cluster: cluster, keeper: keeper.New(keep, cluster, log)})
	return nil
}

// reasonLength is how much of a reason tells it from others.
const reasonLength = 60

// report is how the keepers are.
type report struct {
	Keepers    int            `json:"keepers"`
	Ready      int            `json:"ready"`
	Reasons    map[string]int `json:"reasons"` // why the others are not
	Resident   int64          `json:"residentBytes,omitempty"`
	Anonymous  int64          `json:"anonymousBytes,omitempty"`
	Goroutines int            `json:"goroutines"`
	Requests   map[string]int `json:"requests"` // by method, resource and code
	TooMany    int            `json:"tooManyRequests"`
	Disobeyed  map[string]int `json:"retryAfterDisobeyed"`
}

func (f *fleet) report() report {
	r := report{Keepers: len(f.members), Goroutines: runtime.NumGoroutine(), Reasons: map[string]int{}}
	for _, m := range f.members {
		if status := m.keeper.Status(); status.Ready {
			r.Ready++
		} else {
			// The same for all but the names of nodes.
			r.Reasons[string(status.State)+": "+status.Reason[:min(len(status.Reason), reasonLength)]]++
		}
	}
	f.traffic.fill(&r)
	return r
}

// memory is what the kernel says of this process.
func memory() (resident, anonymous int64, err error) {
	raw, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		return 0, 0, fmt.Errorf("read own memory: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kilobytes, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "Rss:":
			resident = kilobytes << 10
		case "Anonymous:":
			anonymous = kilobytes << 10
		}
	}
	return resident, anonymous, nil
}
