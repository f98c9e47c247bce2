// Package proof judges what packets have shown of a set of policies on a node: whether Felix
// has it, whether it has applied it to the node, and whether the rules are still there. It is
// pure.
package proof

import (
	"fmt"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// mostMissed is how many looks in a row have to miss the rules before that is told: Felix swaps
// them at once, but who reloads other ones may not.
const mostMissed = 3

// Proof is what is known. What no packet can show here lacks nothing.
type Proof struct {
	// Lack says why it is not known whether Felix has the set, or that it has not.
	Lack string
	// Stays says the same of whether it has followed the label that moves the node to the set.
	Stays string
	// Lost says how a node that carries the set is seen not to meet its rules.
	Lost string
	// Says tells people by which families of addresses packets meet them, or why that can't
	// be seen.
	Says string
}

// Record is what looks at one witness have shown. The zero Record has seen nothing.
type Record struct {
	seen     probe.Enforcement
	at       time.Time // when that look began, or all before was forgotten
	missed   int       // the rules, so often in a row
	overIPv6 bool      // they were seen, since the agent started
}

// Forget is for a witness that is not there: what was seen of it says nothing of one to come.
func (r *Record) Forget(now time.Time) Proof {
	r.seen, r.at, r.missed = probe.Enforcement{}, now, 0
	const lack = "the controller has not written yet by what the node sees that Felix has the policies"
	return Proof{Lack: lack, Stays: lack, Says: "unproven: there is no witness"}
}

// Add takes the last look, which began then, and tells whether it is new and has missed nothing.
// A node that has not moved to the set misses nothing that only those meet that have.
func (r *Record) Add(seen probe.Enforcement, at time.Time, moved bool) bool {
	if !at.After(r.at) {
		return false
	}
	r.seen, r.at, r.overIPv6 = seen, at, r.overIPv6 || seen.IPv6 == probe.Enforced
	r.missed++
	if seen.IPv4 == probe.Enforced && (seen.IPv6 != probe.Open || !r.overIPv6) && (seen.Moved != probe.Open || !moved) {
		r.missed = 0
	}
	return r.missed == 0
}

// Of says what is known. What was seen too long ago for a node to move by it is not known.
func (r *Record) Of(now time.Time) (p Proof) {
	switch p.Says = r.seen.Says(); {
	case r.seen.IPv4 == probe.Enforced && now.Sub(r.at) < trial.Fresh:
	case r.seen.IPv4 == probe.Enforced, r.seen.IPv4 == "":
		p.Lack = "looking whether Felix has the policies"
	default:
		p.Lack = fmt.Sprintf("Felix on this node has not got all policies yet, or does not run: a packet that they drop is not dropped (%s)", r.seen.IPv4)
	}
	if p.Stays = p.Lack; p.Lack == "" && r.seen.Moved != probe.Enforced {
		p.Stays = fmt.Sprintf("Felix on this node has not followed the label of its endpoint, or does not run: a packet that the set drops is not dropped (%s)", r.seen.Moved)
	}
	switch {
	case r.missed < mostMissed:
	case r.seen.IPv4 != probe.Enforced:
		p.Lost = "packets do not meet its rules any more: somebody has flushed them, or Felix is stuck or gone"
	case r.seen.IPv6 == probe.Open && r.overIPv6:
		p.Lost = "packets over IPv6 do not meet its rules any more: somebody has flushed them, or Felix was told to leave IPv6 out; then restart the agent"
	default:
		p.Says, p.Lost = "not enforced", "packets do not meet its rules: Felix does not follow the label of its endpoint, so it is stuck or gone"
	}
	return p
}
