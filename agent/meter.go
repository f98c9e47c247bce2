package main

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/metrics"
)

// meter is what the agent measures of itself. docs/metrics.md lists it.
type meter struct {
	registry *metrics.Registry
	wanted   string

	state, ready, armed, endpoints, since, success, set *metrics.Metric
	repairs, contested, requests, reconcile             *metrics.Metric
}

func newMeter(version, mode, set string) *meter {
	r := &metrics.Registry{}
	m := &meter{
		registry:  r,
		wanted:    set,
		state:     r.Gauge("host_firewall_state", "State of the node: 1 for the one that it is in.", "state"),
		ready:     r.Gauge("host_firewall_ready", "1 when the node is as the settings ask for, as /readyz tells."),
		armed:     r.Gauge("host_firewall_armed", "1 when an endpoint of the node is armed: the policies apply."),
		endpoints: r.Gauge("host_firewall_endpoints", "HostEndpoints of this release on the node."),
		since:     r.Gauge("host_firewall_state_since_timestamp_seconds", "Time since when the node is in its state and ready or not."),
		success:   r.Gauge("host_firewall_last_success_timestamp_seconds", "Time of the last pass that left the node ready; 0 before the first."),
		set:       r.Gauge("host_firewall_set_info", "Policy set that the agent was rolled out with, and the one that the node is armed with; armed is empty when it is not.", "wanted", "armed"),
		repairs:   r.Counter("host_firewall_repairs_total", "Endpoints set right, by what was wrong: deleted or changed.", "reason"),
		contested: r.Counter("host_firewall_contested_total", "Fields that somebody else keeps changing, so that they are set back more seldom."),
		requests:  r.Counter("host_firewall_api_requests_total", "Requests to the API server, by verb and HTTP status; 0 where there was no answer.", "verb", "code"),
		reconcile: r.Histogram("host_firewall_reconcile_duration_seconds", "Time of a pass that compares and writes.", .001, .005, .025, .1, .5, 2.5, 10),
	}
	for _, reason := range []string{"deleted", "changed"} {
		m.repairs.Add(0, reason)
	}
	r.Gauge("host_firewall_mode_info", "What the agent is told to do: enforce, audit or off.", "mode").Set(1, mode)
	r.Gauge("host_firewall_build_info", "Version of the agent.", "version", "goversion").Set(1, version, runtime.Version())
	return m
}

// Passed is for the keeper, as are the next two.
func (m *meter) Passed(d time.Duration) { m.reconcile.Observe(d.Seconds()) }

// Repaired counts an endpoint that was set right.
func (m *meter) Repaired(reason string) { m.repairs.Add(1, reason) }

// Contested counts a field that is fought over.
func (m *meter) Contested() { m.contested.Add(1) }

// request counts an answer of the API server.
func (m *meter) request(verb string, code int) { m.requests.Add(1, verb, strconv.Itoa(code)) }

// handler serves what was counted, and what the status is at that moment.
func (m *meter) handler(status func() keeper.Status) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := status()
		for _, state := range keeper.States() {
			m.state.Set(number(state == s.State), string(state))
		}
		m.ready.Set(number(s.Ready))
		m.armed.Set(number(s.Set != ""))
		m.endpoints.Set(float64(s.Endpoints))
		m.since.Set(float64(s.Since.Unix()))
		m.success.Set(0)
		if !s.Success.IsZero() {
			m.success.Set(float64(s.Success.Unix()))
		}
		m.set.Forget()
		m.set.Set(1, m.wanted, s.Set)
		m.registry.ServeHTTP(w, r)
	})
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
