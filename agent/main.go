// Command host-firewall-agent keeps the Calico HostEndpoints of one node and arms
// them when the controller of its release, another command, gives clearance.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/health"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/links"
	"github.com/host-firewall/host-firewall/agent/internal/preview"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/status"
	"github.com/host-firewall/host-firewall/agent/internal/wiring"
)

const program = "host-firewall-agent"

// version is set with -ldflags "-X main.version=...".
var version string

// settle is when the agent gives back to the system what its start, and then what a burst of
// work, has left behind: soon at first, for left alone that spreads over more memory, of
// which the runtime keeps some for good, and then once a minute, for each time costs milliseconds.
// What else keeps it small is in the Dockerfile.
var settle = wait.Backoff{Duration: 10 * time.Second, Factor: 2, Steps: 10, Cap: time.Minute}

// Exit codes. A container that exits with exitUsage won't do better by a restart.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// The first signal ends the agent in order, a second one at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// run is the program without the process around it. It returns the exit code.
func run(ctx context.Context, args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == "version" {
		fmt.Fprintln(stdout, program, buildVersion())
		return exitOK
	}
	c := agent()
	if len(args) > 0 {
		if named, ok := commands()[args[0]]; ok {
			c, args = named, args[1:]
		}
	}
	s, err := c.told.Parse(args, lookupEnv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, c.told.Help(program))
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "%s can't %s with these settings:\n%v\n", program, c.verb, err)
		return exitUsage
	}
	log := newLogger(stderr, s)
	log.Info("starting to "+c.verb, "version", buildVersion(), "settings", s)
	config, err := restConfig(s)
	if err == nil {
		err = c.do(ctx, config, s, log, stdout)
	}
	if err != nil && !errors.Is(err, status.ErrNotWell) {
		log.Error("cannot "+c.verb, "error", err)
	}
	switch {
	case errors.Is(err, cleanup.ErrRefused), errors.Is(err, preview.ErrUnreadable):
		return exitUsage
	case err != nil:
		return exitFailure
	}
	return exitOK
}

// loop is what runs until the program is stopped.
type loop struct {
	alive   func() error
	report  func() health.Report
	metrics *metrics
	parts   []func(context.Context) error
	left    string // what stays when it stops, for the log
}

// keep is the agent of a node: it wires its parts together, and runs them.
func keep(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, _ io.Writer) error {
	metrics, count := newMetrics(s)
	options := wiring.Options(s)
	options.UserAgent, options.Count, options.Log = program+"/"+buildVersion(), count, log
	cluster, err := calico.New(config, options)
	if err != nil {
		return err
	}
	var keep *keeper.Keeper
	kept := wiring.Keeper(s)
	if kept.Self, err = wiring.Self(s, config.Host); err != nil {
		return err
	}
	if metrics != nil {
		kept.Meter = newMeter(metrics)
		metrics.MustRegister(ofNode(s, func() keeper.Status { return keep.Status() }))
	}
	keep = keeper.New(kept, cluster, log)
	return loop{
		alive: keep.Alive,
		report: func() health.Report {
			status := keep.Status()
			return health.Report{State: string(status.State), Ready: status.Ready, Reason: status.Reason, Since: status.Since, Enforced: status.Enforced}
		},
		metrics: metrics,
		parts: []func(context.Context) error{
			func(ctx context.Context) error { cluster.Run(ctx, keep.Wake); return nil },
			func(ctx context.Context) error { keep.Run(ctx); return nil },
			func(ctx context.Context) error { return links.Watch(ctx, keep.LinksChanged) },
		},
		left: "the endpoints stay as they are",
	}.serve(ctx, s, log)
}

// serve runs all parts until the context ends. The error says which part could not start
// or broke.
func (l loop) serve(ctx context.Context, s settings.Settings, log *slog.Logger) error {
	probes, err := health.Listen(s.HealthPort, l.alive, l.report)
	if err != nil {
		return err
	}
	parts := append(l.parts, probes.Serve)
	if l.metrics != nil {
		metrics, err := health.ListenMetrics(s.MetricsAddress, l.metrics.handler())
		if err != nil {
			return err
		}
		parts = append(parts, metrics.Serve)
	}
	running, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		running.Go(func() error { return part(ctx) })
	}
	// The end of the context ends it, as the parts.
	_ = settle.DelayFunc().Until(ctx, true, true, func(context.Context) (done bool, err error) {
		debug.FreeOSMemory()
		return false, nil
	})
	if err := running.Wait(); err != nil {
		return err
	}
	log.Info("stopped, " + l.left)
	return nil
}

// restConfig reads the kubeconfig, or else the service account of the pod; nil where nobody needs it.
func restConfig(s settings.Settings) (config *rest.Config, err error) {
	switch {
	case !s.NeedsCluster():
	case s.Kubeconfig == "":
		config, err = rest.InClusterConfig()
	default:
		config, err = clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("read access to the API server: %w", err)
	}
	return config, nil
}

// newLogger returns the logger that the settings ask for. What client-go has to
// say goes the same way, for debugging only: this agent says itself what matters.
func newLogger(w io.Writer, s settings.Settings) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if s.LogFormat == "json" {
		handler = slog.NewJSONHandler(w, options)
	}
	ofClient := slog.DiscardHandler
	if s.LogLevel == slog.LevelDebug {
		ofClient = handler
	}
	klog.SetSlogLogger(slog.New(ofClient).With("by", "client-go"))
	return slog.New(handler)
}

// buildVersion returns the version of this build, and without one that of the commit it
// was made from.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
