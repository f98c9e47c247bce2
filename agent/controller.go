package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"

	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/controller"
	"github.com/host-firewall/host-firewall/agent/internal/health"
	"github.com/host-firewall/host-firewall/agent/internal/metrics"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/wiring"
)

// control is the controller of a release: it wires its parts together, and runs them.
func control(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, _ io.Writer) error {
	meter := newReleaseMeter(buildVersion())
	options := wiring.Options(s)
	options.UserAgent, options.Count, options.Log = program+"-controller/"+buildVersion(), meter.request, log
	cluster, err := calico.NewController(config, options)
	if err != nil {
		return err
	}
	control := controller.New(wiring.Controller(s), cluster, log)
	return loop{
		alive: control.Alive,
		report: func() health.Report {
			status := control.Status()
			return health.Report{State: string(status.State), Ready: status.Ready, Reason: status.Reason, Since: status.Since}
		},
		metrics: meter.handler(control.Status),
		parts: []func(context.Context) error{
			func(ctx context.Context) error { cluster.Run(ctx, control.Wake); return nil },
			func(ctx context.Context) error { control.Run(ctx); return nil },
		},
		left: "agents go on without",
	}.serve(ctx, s, log)
}

// releaseMeter is what the controller measures. docs/metrics.md lists it.
type releaseMeter struct {
	registry *metrics.Registry

	ready, cleared, held, untrusted, trustSets, sets, drift, requests *metrics.Metric
}

func newReleaseMeter(version string) *releaseMeter {
	r := &metrics.Registry{}
	m := &releaseMeter{
		registry:  r,
		ready:     r.Gauge("host_firewall_controller_ready", "1 when the controller can do its work and nothing holds up the release, as /readyz tells."),
		cleared:   r.Gauge("host_firewall_cleared", "1 when all nodes that are not held back may be armed with the wanted set of policies."),
		held:      r.Gauge("host_firewall_held_nodes", "Nodes that are held back, and stay armed where they are."),
		untrusted: r.Gauge("host_firewall_untrusted_nodes", "Nodes whose addresses the other nodes do not trust."),
		trustSets: r.Gauge("host_firewall_trust_sets", "GlobalNetworkSets with addresses of Nodes."),
		sets:      r.Gauge("host_firewall_policy_sets", "Sets of policies that are there."),
		drift:     r.Gauge("host_firewall_policy_drift", "1 for each set of policies that nodes are armed with and that is not as the chart has rendered it.", "set"),
		requests:  r.Counter("host_firewall_api_requests_total", "Requests to the API server, by verb and HTTP status; 0 where there was no answer.", "verb", "code"),
	}
	r.Gauge("host_firewall_build_info", "Version of the controller.", "version", "goversion").Set(1, version, runtime.Version())
	return m
}

// request counts an answer of the API server.
func (m *releaseMeter) request(verb string, code int) { m.requests.Add(1, verb, strconv.Itoa(code)) }

// handler serves what was counted, and what the status is at that moment.
func (m *releaseMeter) handler(status func() controller.Status) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := status()
		m.ready.Set(number(s.Ready))
		m.cleared.Set(number(s.State == controller.Cleared))
		m.held.Set(float64(s.Held))
		m.untrusted.Set(float64(s.Untrusted))
		m.trustSets.Set(float64(s.TrustSets))
		m.sets.Set(float64(s.Sets))
		m.drift.Forget()
		for _, set := range s.Drift {
			m.drift.Set(1, set)
		}
		m.registry.ServeHTTP(w, r)
	})
}
