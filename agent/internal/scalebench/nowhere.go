package main

import (
	"context"
	"net/netip"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// nowhere is a Node on which all is well.
type nowhere struct{}

func (nowhere) Witness(context.Context, clearance.Witness) probe.Enforcement {
	return probe.Enforcement{IPv4: probe.Enforced, IPv6: probe.Enforced, Moved: probe.Enforced}
}
func (nowhere) Round(context.Context, []probe.Target) []trial.Result { return nil }
func (nowhere) Sessions([]uint16) ([]netip.AddrPort, error)          { return nil, nil }
func (nowhere) Peers(context.Context, bool, func()) string           { return "" }
func (nowhere) FelixReady(context.Context) (probe.Readiness, error)  { return probe.Silent, nil }
