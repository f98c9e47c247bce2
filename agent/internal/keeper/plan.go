package keeper

import (
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// write is one endpoint that has to be written.
type write struct {
	current, desired *v3.HostEndpoint // current nil: create
	// urgent tells that what the note says can't wait.
	urgent bool
}

// plan says which endpoints have to be written and which deleted, as the decision
// wants it, and which addresses of the Node are none.
func (c Config) plan(f facts, m memory, d decision) (writes []write, surplus []*v3.HostEndpoint, invalid []string) {
	if !d.change {
		return nil, nil, nil
	}
	shape := c.shape()
	wanted := map[string]bool{}
	for i, iface := range f.interfaces {
		if d.remove {
			break
		}
		name := endpoint.Name(c.Node, iface.Name)
		wanted[name] = true
		current := f.endpoints[name]
		if ours := current != nil && c.owns(current, m); !ours && !d.create {
			continue
		}
		desired, bad := shape.Desired(f.node, iface, f.addresses, d.set)
		if from := f.leaves(current, d.set); from != "" {
			desired.Labels[endpoint.SetLabel] = endpoint.Moving(d.set, from)
		}
		invalid = append(invalid, bad...)
		if current != nil {
			c.label(desired, current, f, d)
		}
		note := endpoint.Note{State: string(d.state), Reason: d.reason, Since: f.now, Wanted: c.Set, Enforced: f.proof.Says}
		endpoint.SetNote(desired, current, note)
		if d.trial != nil && d.trial.Phase != "" {
			desired.Annotations[trial.Annotation] = d.trial.Encode()
		}
		if i == 0 && m.peers != "" {
			desired.Annotations[peers.Annotation] = m.peers
		}
		w := write{current: current, desired: desired}
		if current != nil {
			// What is cut right now is of no use to anybody when the node has gone back.
			was := endpoint.NoteOf(current)
			w.urgent = d.urgent && was.Wanted != c.Set || d.state == Trying && was.Reason != d.reason
		}
		writes = append(writes, w)
	}
	if len(f.interfaces) == 0 && f.present == nil && !d.remove {
		// It is not known what is wanted.
		return writes, nil, invalid
	}
	for _, hep := range f.endpoints {
		if wanted[hep.Name] || !shape.Owns(hep) || hep.Spec.Node != c.Node {
			continue
		}
		gone := hep.Spec.InterfaceName != endpoint.AllInterfaces && f.present != nil && !slices.Contains(f.present, hep.Spec.InterfaceName)
		// What protects the node goes when what shall protect it is there.
		if d.remove || gone || endpoint.SetOf(hep) == "" || d.state == Off || d.state == Armed && d.ready {
			surplus = append(surplus, hep)
		}
	}
	return writes, surplus, invalid
}

// label lets an endpoint that is there keep the labels of other settings. What other policies
// select changes with the set, and not while the node is held back: those labels go when
// the ones of these settings take over, and come back with the set.
func (c Config) label(desired, current *v3.HostEndpoint, f facts, d decision) {
	held, _ := f.said.Hold(c.Node)
	switch {
	case d.set == c.Set || d.state == Off || d.set == "" && held == "":
	case d.trial != nil && d.trial.Phase == trial.RolledBack:
		endpoint.Give(desired, endpoint.NoteOf(current).Before)
	default:
		endpoint.Give(desired, endpoint.Given(current))
	}
}

// leaves returns the set that an endpoint carries for a moment beside the one it is to carry;
// empty: none.
func (f facts) leaves(hep *v3.HostEndpoint, to string) string {
	switch {
	case hep == nil || to == "":
		return ""
	case endpoint.SetOf(hep) != to:
		return endpoint.SetOf(hep)
	case f.moves:
		return endpoint.LeavesOf(hep)
	}
	return ""
}
