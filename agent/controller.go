package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/controller"
	"github.com/host-firewall/host-firewall/agent/internal/health"
	"github.com/host-firewall/host-firewall/agent/internal/operator"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/wiring"
)

// control is the controller of a release: it wires its parts together, and runs them.
func control(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, _ io.Writer) error {
	metrics, count := newMetrics(s)
	options := wiring.Options(s)
	options.UserAgent, options.Count, options.Log = program+"-controller/"+buildVersion(), count, log
	cluster, err := calico.NewController(config, options)
	if err != nil {
		return err
	}
	control := controller.New(wiring.Controller(s), cluster, log)
	if metrics != nil {
		metrics.MustRegister(ofRelease(control.Status))
	}
	l := loop{
		alive: control.Alive,
		report: func() health.Report {
			status := control.Status()
			return health.Report{State: string(status.State), Ready: status.Ready, Reason: status.Reason, Since: status.Since}
		},
		metrics: metrics,
		parts:   []func(context.Context) error{func(ctx context.Context) error { control.Run(ctx); return nil }},
		left:    "agents go on without",
	}
	wake := control.Wake
	if !s.Agents {
		kept, err := wiring.Operator(s, config.Host)
		if err != nil {
			return err
		}
		keep := operator.New(kept, cluster, log)
		l.keeps(keep)
		wake = func() { control.Wake(); keep.Wake() }
	}
	l.parts = append(l.parts, func(ctx context.Context) error { cluster.Run(ctx, wake); return nil })
	return l.serve(ctx, s, log)
}

// keeps makes the controller keep the endpoints of all nodes. It is ready then as agents are.
func (l *loop) keeps(keep *operator.Operator) {
	alive, report := l.alive, l.report
	l.alive = func() error { return errors.Join(alive(), keep.Alive()) }
	l.report = func() health.Report {
		r := report()
		if lack := keep.Lack(); r.Ready && lack != "" {
			r.Ready, r.Reason = false, lack
		}
		return r
	}
	l.parts = append(l.parts, func(ctx context.Context) error { keep.Run(ctx); return nil })
	l.left = "all stays as it is"
}

// ofRelease are the controller's gauges.
func ofRelease(status func() controller.Status) prometheus.Collector {
	type s = controller.Status
	return gauges[s]{status, []gauge[s]{
		{desc("host_firewall_controller_ready", "1 when the controller can do its work and nothing holds up the release, as /readyz tells."), func(s s, is is) { is(number(s.Ready)) }},
		{desc("host_firewall_cleared", "1 when all nodes that are not held back may be armed with the wanted set of policies."), func(s s, is is) { is(number(s.State == controller.Cleared)) }},
		{desc("host_firewall_confirm_deadline_timestamp_seconds", "Time until when a person has to confirm the wanted set; 0 when nobody has to."), func(s s, is is) { is(seconds(s.Deadline)) }},
		{desc("host_firewall_nodes", "Nodes by the state that their agents have noted.", "state"), func(s s, is is) { each(s.Nodes, is) }},
		{desc("host_firewall_armed_nodes", "Armed nodes by the families of addresses for which packets are seen to meet the rules.", "enforced"), func(s s, is is) { each(s.Proven, is) }},
		{desc("host_firewall_held_nodes", "Nodes that are held back, and stay armed where they are."), func(s s, is is) { is(float64(s.Held)) }},
		{desc("host_firewall_untrusted_nodes", "Nodes whose addresses the other nodes do not trust."), func(s s, is is) { is(float64(s.Untrusted)) }},
		{desc("host_firewall_trust_sets", "GlobalNetworkSets with addresses of Nodes."), func(s s, is is) { is(float64(s.TrustSets)) }},
		{desc("host_firewall_policy_sets", "Sets of policies that are there."), func(s s, is is) { is(float64(s.Sets)) }},
		{desc("host_firewall_would_cut", "Connections of those who are or were connected to the port of a node and whom the wanted set would cut off.", "node", "port"), func(s s, is is) { eachCut(s.WouldCut, is) }},
		{desc("host_firewall_policy_drift", "1 for each set of policies that nodes are armed with and that is not as the chart has rendered it.", "set"), func(s s, is is) {
			for _, set := range s.Drift {
				is(1, set)
			}
		}},
	}}
}

// eachCut says how many connections to each port of each node would be cut.
func eachCut(cuts []peers.Cut, is is) {
	type port struct{ node, port string }
	connections := map[port]int{}
	for _, cut := range cuts {
		connections[port{cut.Node, strconv.Itoa(int(cut.Port))}] += cut.Connections
	}
	for at, n := range connections {
		is(float64(n), at.node, at.port)
	}
}

// each says how many there are of each kind.
func each(counts map[string]int, is is) {
	for kind, count := range counts {
		is(float64(count), kind)
	}
}
