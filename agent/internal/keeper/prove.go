package keeper

import (
	"cmp"
	"context"
	"net/netip"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/proof"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

const (
	// proveEvery is how often an armed node looks whether its rules are still there, and
	// proveSoon how often one looks that has not seen them.
	proveEvery, proveSoon = 45 * time.Second, time.Second
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
	// Peers returns what is to be told of who is connected, empty: nothing; and wakes when that is
	// something else. It looks, by itself, only while that matters.
	Peers(ctx context.Context, matters bool, wake func()) string
}

// prove says what is known, and looks again when that is due.
func (k *Keeper) prove(ctx context.Context, f facts) proof.Proof {
	if k.config.Off || f.unsaid != "" {
		return proof.Proof{Stays: f.unsaid}
	}
	if blind := cmp.Or(endpoint.Blind(k.config.Patterns, f.present), f.said.Unproven); blind != "" {
		k.agenda.NotAfter(momentWork, f.now.Add(moment))
		p := proof.Proof{Says: "unproven: " + blind}
		if f.said.Reason != "" {
			k.agenda.Set(momentWork, f.now.Add(moment))
		} else if k.agenda.Waits(momentWork) {
			p.Lack = "Felix gets a moment to read the policies"
		}
		return p
	}
	witness, written := f.said.Witnesses[k.config.Set]
	if !written || !witness.Moved.IsValid() {
		return k.proofs.Forget(f.now)
	}
	moved := k.memory.set == k.config.Set
	seen, at := k.looks.Last()
	if k.proofs.Add(seen, at, moved) {
		k.agenda.Set(proofWork, f.now.Add(proveEvery))
	}
	// Who tries, or is about to, has to know it as it is now.
	last := *cmp.Or(k.memory.trial, &trial.Status{})
	stays := last.Final() && last.Set == k.config.Set && !last.Retried(f.said.Retry)
	if last.Phase == trial.Trying || !moved && !stays && f.said.MayArm(k.config.Node, k.config.Set, "") == "" {
		k.agenda.NotAfter(proofWork, at.Add(proveSoon))
	}
	if k.agenda.Begin(proofWork) {
		k.agenda.Set(proofWork, f.now.Add(proveSoon))
		k.looks.Ask(ctx, func(ctx context.Context) probe.Enforcement { return k.config.Self.Witness(ctx, witness) }, k.Wake)
	}
	return k.proofs.Of(f.now)
}

// lookAgain makes the node look soon whether its rules are there: something has changed.
func (k *Keeper) lookAgain(now time.Time) {
	if k.agenda.Has(proofWork) {
		k.agenda.NotAfter(proofWork, now.Add(proveSoon))
	}
}
