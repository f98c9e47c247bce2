package keeper

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	// proveEvery is how often an armed node looks whether its rules are still there, and
	// proveSoon how often one looks that has not seen them.
	proveEvery, proveSoon = 45 * time.Second, time.Second
	// mostMissed is how many looks in a row have to miss them before that is told: Felix
	// swaps its rules at once, but who reloads other ones may not.
	mostMissed = 3
	// moment is what Felix gets for what nobody can see of it: to read a set without a witness, and
	// to follow a label.
	moment = 5 * time.Second

	proofWork  = "proof"
	momentWork = "moment"
	moveWork   = "move"
	trialWork  = "trial"
)

// Node is what can be seen of the node itself, by its packets and sockets. Each look may take a
// second, but for Sessions.
type Node interface {
	// Witness looks whether the set is enforced that the witness is of.
	Witness(ctx context.Context, w clearance.Witness) probe.Enforcement
	// Round tries to reach all targets, and always more: what the node's settings say.
	Round(ctx context.Context, targets []probe.Target) []trial.Result
	// Sessions returns who is connected to these TCP ports of the node.
	Sessions(ports []uint16) ([]netip.AddrPort, error)
	// FelixReady asks the node's Felix.
	FelixReady(ctx context.Context) (probe.Readiness, error)
}

// proof is what is known of whether packets meet the rules of the agent's set on this node.
type proof struct {
	lack string // why that is not known yet; empty: it is, or can't be
	lost string // how it was seen not to be so any more
	says string // by which families of addresses, or why that can't be seen, for people
}

// prove says what is known, and looks again when that is due.
func (k *Keeper) prove(ctx context.Context, f facts) proof {
	if k.config.Off || f.said == nil {
		return proof{}
	}
	if blind := cmp.Or(endpoint.Blind(k.config.Patterns, f.present), f.said.Unproven); blind != "" {
		k.agenda.NotAfter(momentWork, f.now.Add(moment))
		p := proof{says: "unproven: " + blind}
		if f.said.Reason != "" {
			k.agenda.Set(momentWork, f.now.Add(moment))
		} else if k.agenda.Waits(momentWork) {
			p.lack = "Felix gets a moment to read the policies"
		}
		return p
	}
	witness, written := f.said.Witnesses[k.config.Set]
	if !written {
		return proof{lack: "the controller has not written yet by what the node sees that Felix has the policies", says: "unproven: there is no witness"}
	}
	if seen, at := k.proofs.Last(); at.After(k.provenAt) {
		k.provenAt, k.overIPv6 = at, k.overIPv6 || seen.IPv6 == probe.Enforced
		if k.missed++; seen.IPv4 == probe.Enforced && (seen.IPv6 != probe.Open || !k.overIPv6) {
			k.missed = 0
			k.agenda.Set(proofWork, f.now.Add(proveEvery))
		}
	}
	if k.agenda.Begin(proofWork) {
		k.agenda.Set(proofWork, f.now.Add(proveSoon))
		k.proofs.Ask(ctx, func(ctx context.Context) probe.Enforcement { return k.config.Self.Witness(ctx, witness) }, k.Wake)
	}
	seen, _ := k.proofs.Last()
	return proofOf(seen, k.missed)
}

// proofOf says what was seen, and missed so often in a row.
func proofOf(seen probe.Enforcement, missed int) (p proof) {
	switch p.says = seen.Says(); seen.IPv4 {
	case "":
		p.lack = "looking whether Felix has the policies"
	case probe.Enforced:
	default:
		p.lack = fmt.Sprintf("Felix on this node has not got all policies yet, or does not run: a packet that they drop is not dropped (%s)", seen.IPv4)
	}
	switch {
	case missed < mostMissed:
	case seen.IPv4 == probe.Enforced:
		p.lost = "packets over IPv6 do not meet its rules any more: somebody has flushed them, or Felix was told to leave IPv6 out; then restart the agent"
	default:
		p.lost = "packets do not meet its rules any more: somebody has flushed them, or Felix is stuck or gone"
	}
	return p
}

// lookAgain makes the node look soon whether its rules are there: something has changed.
func (k *Keeper) lookAgain(now time.Time) {
	if k.agenda.Has(proofWork) {
		k.agenda.NotAfter(proofWork, now.Add(proveSoon))
	}
}
