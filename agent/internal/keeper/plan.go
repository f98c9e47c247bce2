package keeper

import (
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// write is one endpoint that has to be written.
type write struct {
	current, desired *v3.HostEndpoint // current nil: create
	armed            bool
}

// plan says which endpoints have to be written and which deleted, as the decision
// wants it, and which addresses of the Node are none.
func (c Config) plan(f facts, m memory, d decision) (writes []write, surplus []*v3.HostEndpoint, invalid []string) {
	if !d.change {
		return nil, nil, nil
	}
	shape := c.shape()
	wanted := map[string]bool{}
	for _, iface := range f.interfaces {
		name := endpoint.Name(c.Node, iface.Name)
		wanted[name] = true
		current := f.endpoints[name]
		if ours := current != nil && c.owns(current, m); !ours && !d.create {
			continue
		}
		armed := d.arm || d.state != Off && current != nil && shape.Owns(current) && shape.Armed(current)
		desired, bad := shape.Desired(f.node, iface, armed)
		invalid = append(invalid, bad...)
		// Labels of other settings go when those of these settings take over.
		keep := !armed && d.state != Off
		endpoint.SetNote(desired, current, endpoint.Note{State: string(d.state), Reason: d.reason, Since: f.now}, keep)
		writes = append(writes, write{current, desired, armed})
	}
	if len(f.interfaces) == 0 && f.present == nil {
		// It is not known what is wanted.
		return writes, nil, invalid
	}
	for _, hep := range f.endpoints {
		if wanted[hep.Name] || !shape.Owns(hep) || hep.Spec.Node != c.Node {
			continue
		}
		gone := hep.Spec.InterfaceName != endpoint.AllInterfaces && f.present != nil && !slices.Contains(f.present, hep.Spec.InterfaceName)
		// What protects the node goes when what shall protect it is there.
		if gone || !shape.Armed(hep) || d.state == Off || d.state == Armed && d.ready {
			surplus = append(surplus, hep)
		}
	}
	return writes, surplus, invalid
}
