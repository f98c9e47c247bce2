// Package wiring says to the parts of the agent what the settings mean to them. It is
// apart from main so that the bench at scale runs what the agent runs.
package wiring

import (
	"context"
	"net/netip"
	"slices"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/links"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// Options is what the settings say to the package that talks to the API server. Who
// the agent is, and who counts and logs, is left to be said.
func Options(s settings.Settings) calico.Options {
	return calico.Options{Node: s.NodeName, Release: s.Release, Namespace: s.Namespace, APIGroup: s.APIGroup, ByLabel: Keeper(s).Named()}
}

// Keeper is what the settings say to the keeper.
func Keeper(s settings.Settings) keeper.Config {
	config := keeper.Config{
		Node:       s.NodeName,
		Release:    s.Release,
		Set:        s.Set,
		Rollout:    s.Rollout,
		Off:        s.Off(),
		Audit:      s.Mode == settings.ModeAudit,
		Patterns:   s.Interfaces,
		Links:      links.List,
		Untracked:  links.UntrackedIPVS,
		Verify:     s.Verify,
		Labels:     s.EndpointLabels,
		NodeLabels: s.NodeLabels,
		Adopt:      s.Adopt,
		Resync:     s.Resync,
	}
	if s.NarrowFailsafe && len(s.SSHCIDRs) > 0 {
		config.Failsafe = &failsafe.Want{Ports: s.SSHPorts, CIDRs: s.SSHCIDRs}
	}
	return config
}

// self is the node that the agent runs on.
type self struct {
	always  []probe.Target
	watch   string // as settings.WatchAuto
	watcher *probe.Watcher
}

// Self is the node that the agent runs on, from which the API server is reached at the URL.
func Self(s settings.Settings, apiServer string) (keeper.Node, error) {
	targets, err := probe.Always(apiServer)
	return self{always: targets, watch: s.WatchPeers, watcher: &probe.Watcher{SSH: s.SSHPorts, Sees: probe.Sights}}, err
}

func (s self) Peers(ctx context.Context, matters bool, wake func()) string {
	return s.watcher.Tell(ctx, s.watch == settings.WatchAlways || s.watch == settings.WatchAuto && matters, wake)
}

func (self) Witness(ctx context.Context, w clearance.Witness) probe.Enforcement {
	return probe.Witness(ctx, w)
}

func (s self) Round(ctx context.Context, targets []probe.Target) []trial.Result {
	return probe.Round(ctx, slices.Concat(s.always, targets))
}

func (self) Sessions(ports []uint16) ([]netip.AddrPort, error) { return probe.Sessions(ports) }

func (self) FelixReady(ctx context.Context) (probe.Readiness, error) { return probe.FelixReady(ctx) }
