package wiring

import (
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/controller"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/operator"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// Operator is what the settings say to who keeps the endpoints where no agents run, and reaches the API
// server at the URL.
func Operator(s settings.Settings, apiServer string) (operator.Config, error) {
	targets, err := probe.Always(apiServer)
	for i := range targets {
		targets[i].Name += " from the controller's host"
	}
	return operator.Config{Keeper: Keeper(s), Nodes: s.Nodes, MaxUnavailable: s.MaxUnavailable, OwnNode: s.OwnNode, Always: targets, Try: probe.Round}, err
}

// Controller is what the settings say to the controller.
func Controller(s settings.Settings) controller.Config {
	config := controller.Config{
		Release:        s.Release,
		Namespace:      s.Namespace,
		Wanted:         clearance.Set{Revision: s.Set, Policies: s.Policies},
		Rollout:        s.Rollout,
		Off:            s.Off(),
		TrustNodes:     s.TrustNodes,
		ClusterCIDRs:   s.ClusterCIDRs,
		APIServerPorts: s.APIServerPorts,
		AcceptPolicies: s.AcceptPolicies,
		Shape:          endpoint.Shape{Release: s.Release, Labels: s.EndpointLabels, NodeLabels: s.NodeLabels},
		Interfaces:     s.Interfaces,
		Adopt:          s.Adopt,
		Resync:         s.Resync,
		Started:        time.Now(),
		Verify:         s.Verify,
		Confirm:        s.Confirm,
		OwnNode:        s.OwnNode,
		Audit:          s.Mode == settings.ModeAudit,
		Wait:           s.OnWouldCut == settings.WaitForCuts,
		Accept:         peers.Accept{Ports: s.AcceptCutsPorts, CIDRs: s.AcceptCutsCIDRs},
		SSHPorts:       s.SSHPorts,
	}
	if s.NarrowFailsafe && len(s.SSHCIDRs) > 0 {
		config.Failsafe = &failsafe.Want{Ports: s.SSHPorts, CIDRs: s.SSHCIDRs}
	}
	return config
}
