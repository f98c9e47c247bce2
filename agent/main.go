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
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/health"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/links"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/wiring"
)

const program = "host-firewall-agent"

// version is set with -ldflags "-X main.version=...".
var version string

// settleEvery is how often the agent gives back to the system what its start, or a
// burst of work, has left behind. That takes it a few milliseconds; left for a minute,
// a burst spreads over more memory, of which the runtime keeps some for good. What else
// keeps it small is in the Dockerfile.
const settleEvery = 10 * time.Second

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
	config, err := restConfig(s.Kubeconfig)
	if err == nil {
		err = c.do(ctx, config, s, log, stdout)
	}
	if err != nil {
		log.Error("cannot "+c.verb, "error", err)
	}
	switch {
	case errors.Is(err, cleanup.ErrRefused):
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
	metrics http.Handler
	parts   []func(context.Context) error
}

// keep is the agent of a node: it wires its parts together, and runs them.
func keep(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, _ io.Writer) error {
	meter := newMeter(buildVersion(), s.Mode, s.Set)
	options := wiring.Options(s)
	options.UserAgent, options.Count, options.Log = program+"/"+buildVersion(), meter.request, log
	cluster, err := calico.New(config, options)
	if err != nil {
		return err
	}
	keep := keeper.New(wiring.Keeper(s, meter), cluster, log)
	l := loop{
		alive: keep.Alive,
		report: func() health.Report {
			status := keep.Status()
			return health.Report{State: string(status.State), Ready: status.Ready, Reason: status.Reason, Since: status.Since}
		},
		metrics: meter.handler(keep.Status),
		parts: []func(context.Context) error{
			func(ctx context.Context) error { cluster.Run(ctx, keep.Wake); return nil },
			func(ctx context.Context) error { keep.Run(ctx); return nil },
			func(ctx context.Context) error { return links.Watch(ctx, keep.LinksChanged) },
		},
	}
	if err := l.serve(ctx, s); err != nil {
		return err
	}
	log.Info("stopped, the endpoints stay as they are")
	return nil
}

// serve runs all parts until the context ends. The error says which part could not start
// or broke.
func (l loop) serve(ctx context.Context, s settings.Settings) error {
	probes, err := health.Listen(s.HealthPort, health.Checks{Alive: l.alive, Report: l.report})
	if err != nil {
		return err
	}
	parts := append(l.parts, probes.Serve)
	if s.MetricsAddress != "" {
		metrics, err := health.ListenMetrics(s.MetricsAddress, l.metrics)
		if err != nil {
			return errors.Join(err, probes.Close())
		}
		parts = append(parts, metrics.Serve)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for _, part := range parts {
		running.Go(func() {
			if err := part(ctx); err != nil {
				cancel(err)
			}
		})
	}
	settle(ctx)
	running.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// settle gives unused memory back again and again, until the context ends.
func settle(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(settleEvery):
			debug.FreeOSMemory()
		}
	}
}

// restConfig reads the kubeconfig, or else the service account of the pod.
func restConfig(kubeconfig string) (config *rest.Config, err error) {
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
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
	klog.SetSlogLogger(slog.New(quiet{handler}).With("by", "client-go"))
	return slog.New(handler)
}

// quiet turns every record into one for debugging.
type quiet struct{ slog.Handler }

// Enabled tells whether the handler takes records for debugging.
func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle writes the record at the level for debugging.
func (q quiet) Handle(ctx context.Context, record slog.Record) error {
	record.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, record)
}

// WithAttrs keeps the handler quiet.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup keeps the handler quiet.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

// buildVersion returns the version of this build, and without one the commit it
// was made from.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return info.Main.Version
}
