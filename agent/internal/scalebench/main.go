// Command scalebench runs the agent's keepers of many nodes in one process, each
// with a client, a connection and watches of its own, as so many agents would. It
// is no part of the product: package bench of the cluster tests runs it.
//
// Its first argument is a file with the names of the nodes, one a line, the
// second a kubeconfig; the others are the agent's own. It does what it reads on
// its standard input, one line at a time, and answers each with a line:
//
//	start            starts all keepers at once
//	roll N [ARG...]  puts another keeper, with these of the agent's arguments, in the
//	                 place of each, while no more than N are not ready, as the rolling
//	                 update of a DaemonSet does
//	status           prints what has come of it
//	report           prints the memory of this process, too, after a collection of garbage
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
	"slices"
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
	f := &fleet{kubeconfig: args[1], traffic: newTraffic(), log: log}
	for _, node := range strings.Fields(string(names)) {
		m, err := f.newMember(node, args[2:])
		if err != nil {
			return err
		}
		f.members = append(f.members, m)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer f.running.Wait()
	defer stop()
	answers := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		r, err := f.do(ctx, strings.Fields(lines.Text()))
		if err != nil {
			return err
		}
		if err := answers.Encode(r); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return lines.Err()
}

// fleet is the agents of all nodes.
type fleet struct {
	kubeconfig string
	members    []*member
	traffic    *traffic
	log        *slog.Logger
	running    sync.WaitGroup
}

// do does what a line says.
func (f *fleet) do(ctx context.Context, words []string) (r report, err error) {
	switch {
	case len(words) == 1 && words[0] == "start":
		for _, m := range f.members {
			f.start(ctx, m)
		}
	case len(words) > 1 && words[0] == "roll":
		most, err := strconv.Atoi(words[1])
		if err != nil {
			return r, fmt.Errorf("read how many may not be ready: %w", err)
		}
		if err := f.roll(ctx, most, words[2:]); err != nil {
			return r, err
		}
	case len(words) == 1 && words[0] == "status":
	case len(words) == 1 && words[0] == "report":
		debug.FreeOSMemory()
		r = f.report()
		r.Resident, r.Anonymous, err = memory()
		return r, err
	default:
		return r, fmt.Errorf("%q is not understood", words)
	}
	return f.report(), nil
}

// member is what runs for one node.
type member struct {
	node    string
	cluster *calico.Cluster
	keeper  *keeper.Keeper
	stop    context.CancelFunc
}

// newMember makes the member of a node, which does nothing yet.
func (f *fleet) newMember(node string, args []string) (*member, error) {
	s, err := settings.Agent().Parse(append(slices.Clone(args), "--node-name="+node), func(string) (string, bool) { return "", false })
	if err != nil {
		return nil, fmt.Errorf("read the agent's arguments: %w", err)
	}
	if wiring.Keeper(s).Named() {
		return nil, errors.New("this machine's interfaces are not those of so many nodes: leave hostEndpoint.interfaces as it is by default")
	}
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	// A dialer of its own keeps client-go from sharing the connection.
	config.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &observed{next: next, traffic: f.traffic, notBefore: map[string]time.Time{}}
	})
	log := f.log.With("node", node)
	options := wiring.Options(s)
	options.UserAgent, options.Log = "host-firewall-scalebench", log
	cluster, err := calico.New(config, options)
	if err != nil {
		return nil, err
	}
	keep := wiring.Keeper(s)
	// This machine's interfaces are not those of the nodes.
	keep.Links = func() ([]endpoint.Link, error) { return nil, nil }
	keep.Self = nowhere{}
	return &member{node: node, cluster: cluster, keeper: keeper.New(keep, cluster, log)}, nil
}

func (f *fleet) start(ctx context.Context, m *member) {
	ctx, m.stop = context.WithCancel(ctx)
	f.running.Go(func() { m.cluster.Run(ctx, m.keeper.Wake) })
	f.running.Go(func() { m.keeper.Run(ctx) })
}

// rollLimit is how long a rolling update goes on.
const rollLimit = 5 * time.Minute

// roll makes one, until one of the limits is reached.
func (f *fleet) roll(ctx context.Context, most int, args []string) error {
	ctxOfRoll, cancel := context.WithTimeout(ctx, rollLimit)
	defer cancel()
	for i, old := range f.members {
		for f.notReady() >= most {
			select {
			case <-ctxOfRoll.Done():
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
		m, err := f.newMember(old.node, args)
		if err != nil {
			return err
		}
		old.stop()
		f.members[i] = m
		f.start(ctx, m)
	}
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
	Watches    int            `json:"watches"`  // that are open
	Requests   map[string]int `json:"requests"` // by method, resource and code
	TooMany    int            `json:"tooManyRequests"`
	Disobeyed  map[string]int `json:"retryAfterDisobeyed"`
}

func (f *fleet) notReady() (n int) {
	for _, m := range f.members {
		if !m.keeper.Status().Ready {
			n++
		}
	}
	return n
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
