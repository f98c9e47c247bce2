package keeper

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

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
	if blind := k.config.blind(f.said); blind != "" {
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
		k.provenAt = at
		if k.missed++; seen.IPv4 == probe.Enforced {
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

// blind says why the node can't see a witness.
func (c Config) blind(said *clearance.Clearance) string {
	if !slices.Contains(c.Patterns, endpoint.AllInterfaces) && !slices.Contains(c.Patterns, "lo") {
		return "only single interfaces have an endpoint, and loopback has none"
	}
	return said.Unproven
}

// proofOf says what was seen, and missed so often in a row.
func proofOf(seen probe.Enforcement, missed int) (p proof) {
	switch {
	case seen.IPv4 == "":
		return proof{lack: "looking whether Felix has the policies"}
	case seen.IPv4 == probe.Enforced && seen.IPv6 == probe.Open:
		p.says = "IPv4, and IPv6 is not protected"
	case seen.IPv4 == probe.Enforced && seen.IPv6 == probe.Enforced:
		p.says = "IPv4 and IPv6"
	case seen.IPv4 == probe.Enforced:
		p.says = "IPv4"
	default:
		p.lack = fmt.Sprintf("Felix on this node has not got all policies yet, or does not run: a packet that they drop is not dropped (%s)", seen.IPv4)
		p.says = "not enforced"
	}
	if missed >= mostMissed {
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

// probe makes a round of the node's probes.
func (k *Keeper) probe(ctx context.Context, f facts) {
	targets := k.config.targets(f)
	k.rounds.Ask(ctx, func(ctx context.Context) []trial.Result { return k.config.Self.Round(ctx, targets) }, k.Wake)
}

// targets are what a node has to reach whatever its set. Peers are one: others may be in
// trouble of their own.
func (c Config) targets(f facts) []probe.Target {
	at := func(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }
	var targets []probe.Target
	port := int(f.node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if i := slices.IndexFunc(f.node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP }); i >= 0 && port > 0 {
		targets = append(targets, probe.Target{Name: "kubelet of this node", Any: []string{at(f.node.Status.Addresses[i].Address, port)}})
	}
	if f.said == nil {
		return targets
	}
	peers := probe.Target{Name: "kubelets of other nodes"}
	for name, kubelet := range f.said.Peers {
		if name != c.Node {
			peers.Any = append(peers.Any, kubelet.String())
		}
	}
	if len(peers.Any) > 0 {
		targets = append(targets, peers)
	}
	if w, ok := f.said.Witnesses[c.Set]; ok {
		targets = append(targets, probe.Target{Name: "loopback", Any: []string{at(w.Control.String(), 9)}})
	}
	return targets
}
