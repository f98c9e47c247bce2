package main

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// meter is what the keeper of a node counts.
type meter struct {
	reconcile prometheus.Histogram
	repairs   *prometheus.CounterVec
	contested prometheus.Counter
}

func newMeter(m *metrics) meter {
	factory := promauto.With(m)
	meter := meter{
		reconcile: factory.NewHistogram(prometheus.HistogramOpts{
			Name: "host_firewall_reconcile_duration_seconds", Help: "Time of a pass that compares and writes.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
		}),
		repairs: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "host_firewall_repairs_total", Help: "Endpoints set right, by what was wrong: deleted or changed.",
		}, []string{"reason"}),
		contested: factory.NewCounter(prometheus.CounterOpts{
			Name: "host_firewall_contested_total", Help: "Fields that somebody else keeps changing, so that they are set back more seldom.",
		}),
	}
	for _, reason := range []string{"deleted", "changed"} {
		meter.repairs.WithLabelValues(reason) // so that they begin at zero
	}
	return meter
}

// Passed is for the keeper, as are the next two.
func (m meter) Passed(d time.Duration) { m.reconcile.Observe(d.Seconds()) }

// Repaired counts an endpoint that was set right.
func (m meter) Repaired(reason string) { m.repairs.WithLabelValues(reason).Inc() }

// Contested counts a field that is fought over.
func (m meter) Contested() { m.contested.Inc() }

// ofNode are the agent's gauges.
func ofNode(told settings.Settings, status func() keeper.Status) prometheus.Collector {
	type s = keeper.Status
	return gauges[s]{status, []gauge[s]{
		{desc("host_firewall_state", "State of the node: 1 for the one that it is in.", "state"), func(s s, is is) {
			for _, state := range keeper.States() {
				is(number(state == s.State), string(state))
			}
		}},
		{desc("host_firewall_ready", "1 when the node is as the settings ask for, as /readyz tells."), func(s s, is is) { is(number(s.Ready)) }},
		{desc("host_firewall_armed", "1 when an endpoint of the node is armed: the policies apply."), func(s s, is is) { is(number(s.Set != "")) }},
		{desc("host_firewall_enforced_info", "By which families of addresses packets are seen to meet the rules.", "enforced"), func(s s, is is) { is(1, cmp.Or(endpoint.Proof(s.Enforced), "unknown")) }},
		{desc("host_firewall_endpoints", "HostEndpoints of this release on the node."), func(s s, is is) { is(float64(s.Endpoints)) }},
		{desc("host_firewall_state_since_timestamp_seconds", "Time since when the node is in its state and ready or not."), func(s s, is is) { is(seconds(s.Since)) }},
		{desc("host_firewall_last_success_timestamp_seconds", "Time of the last pass that left the node ready; 0 before the first."), func(s s, is is) { is(seconds(s.Success)) }},
		{desc("host_firewall_set_info", "Policy set that the agent was rolled out with, and the one that the node is armed with; armed is empty when it is not.", "wanted", "armed"), func(s s, is is) { is(1, told.Set, s.Set) }},
		{desc("host_firewall_mode_info", "What the agent is told to do: enforce, audit or off.", "mode"), func(_ s, is is) { is(1, told.Mode) }},
	}}
}
