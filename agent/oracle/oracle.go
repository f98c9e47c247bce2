// Package oracle is for the tests of the whole, which Go keeps away from what is internal to the
// agent: they ask verdict what packets will meet, and then send them. It is no part of the agent.
package oracle

import (
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

// What verdict works with, and returns.
type (
	Policy     = verdict.Policy
	Set        = verdict.Set
	Connection = verdict.Connection
	World      = verdict.World
	Verdict    = verdict.Verdict
)

// Where a connection goes: see verdict.Way.
const (
	ToHost     = verdict.ToHost
	FromOwnPod = verdict.FromOwnPod
	ToNodePort = verdict.ToNodePort
	Forwarded  = verdict.Forwarded
)

// Of reads the policies of a set: see verdict.Of.
func Of(release string, policies []Policy) (Set, error) { return verdict.Of(release, policies) }

// Failsafe is the list of inbound ports that Felix has of its own: see failsafe.Builtin.
func Failsafe() []v3.ProtoPort { return failsafe.Builtin() }
