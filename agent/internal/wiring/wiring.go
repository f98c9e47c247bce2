// Package wiring says to the parts of the agent what the settings mean to them. It is
// apart from main so that the bench at scale runs what the agent runs.
package wiring

import (
	"log/slog"
	"slices"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/links"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// Named tells whether single interfaces are asked for.
func Named(s settings.Settings) bool {
	return !slices.Equal(s.Interfaces, []string{endpoint.AllInterfaces})
}

// Options is what the settings say to the package that talks to the API server. Who
// the agent is, and who counts and logs, is left to be said.
func Options(s settings.Settings) calico.Options {
	return calico.Options{Node: s.NodeName, Release: s.Release, APIGroup: s.APIGroup, ByLabel: Named(s)}
}

// Keeper is what the settings say to the keeper. The meter may be nil.
func Keeper(s settings.Settings, meter keeper.Meter, log *slog.Logger) keeper.Config {
	config := keeper.Config{
		Node:           s.NodeName,
		Release:        s.Release,
		Off:            s.Mode == settings.ModeOff,
		Audit:          s.Mode == settings.ModeAudit,
		Untracked:      links.UntrackedIPVS,
		Addresses:      links.Addresses,
		ArmingLabels:   s.ArmingLabels,
		NodeLabels:     s.NodeLabels,
		Adopt:          s.Adopt,
		AcceptPolicies: s.AcceptPolicies,
		Policies:       s.Policies,
		Revision:       s.PolicyRevision,
		AwaitNodes:     s.AwaitNodes,
		TrustedCIDRs:   s.ClusterCIDRs,
		APIServerPorts: s.APIServerPorts,
		Resync:         s.Resync,
		Meter:          meter,
	}
	if s.NarrowFailsafe && len(s.SSHCIDRs) > 0 {
		config.Failsafe = &failsafe.Want{Ports: s.SSHPorts, CIDRs: s.SSHCIDRs}
	}
	if Named(s) {
		config.Interfaces = interfacesOf(s.Interfaces, log)
	}
	return config
}

// interfacesOf returns a function that reads which of the node's interfaces are
// meant. It is called by one goroutine.
func interfacesOf(patterns []string, log *slog.Logger) func() ([]endpoint.Interface, []string, error) {
	var told []string
	return func() (selected []endpoint.Interface, present []string, err error) {
		all, err := links.List()
		if err != nil {
			return nil, nil, err
		}
		selected, invalid := endpoint.Select(patterns, all)
		if len(invalid) > 0 && !slices.Equal(invalid, told) {
			log.Warn("interfaces left out, Calico does not take their names", "invalid", invalid)
		}
		told = invalid
		present = make([]string, 0, len(all))
		for _, link := range all {
			present = append(present, link.Name)
		}
		return selected, present, nil
	}
}
