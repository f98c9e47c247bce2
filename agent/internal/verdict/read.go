package verdict

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
)

// Set is a set of policies, as far as it says what comes in. Without policies nothing is governed.
type Set struct{ preDNAT, normal []*policy }

type policy struct {
	name               string
	order              float64
	preDNAT, onForward bool
	rules              []rule
}

// rule is a rule as it is asked: what is not set matches everything.
type rule struct {
	action       v3.Action
	by           string
	family       int
	protocol     string
	icmpType     *int
	from         func(netip.Addr, World) bool
	sources      []netip.Prefix
	sourcePorts  []ports
	destinations []netip.Prefix
	ports        []ports
}

type ports struct{ first, last uint16 }

// The purposes of policies, as their names have them.
const (
	essential = "allow-essential"
	trusted   = "allow-cluster"
	ssh       = "allow-ssh"
	ingress   = "allow-ingress"
	outbound  = "allow-outbound"
	other     = "drop-other"
	// witnesses drop nothing but packets of loopback that only agents send.
	witnesses = "witness"
)

// Of reads the policies that the chart renders for a release: one set of them, in any order. A rule
// that the chart never writes is an error that names the policy and the field.
func Of(release string, policies []Policy) (s Set, err error) {
	for _, p := range policies {
		purpose, ok := strings.CutPrefix(p.Name, release+"-")
		if !ok {
			return Set{}, fmt.Errorf("policy %s is not of the release %s", p.Name, release)
		}
		purpose = purpose[:max(0, strings.LastIndex(purpose, "-"))]
		if purpose == witnesses || strings.HasPrefix(purpose, witnesses+"-") {
			continue
		}
		if !slices.Contains([]string{essential, trusted, ssh, ingress, outbound, other}, purpose) {
			return Set{}, fmt.Errorf("policy %s is none that the chart writes", p.Name)
		}
		spec, err := specOf(p.Spec)
		if err != nil {
			return Set{}, fmt.Errorf("policy %s: %w", p.Name, err)
		}
		if !slices.Contains(spec.Types, v3.PolicyTypeIngress) {
			continue
		}
		read := &policy{name: p.Name, order: *spec.Order, preDNAT: spec.PreDNAT, onForward: spec.ApplyOnForward}
		for i, r := range spec.Ingress {
			rule, err := read.read(release, purpose, r)
			if err != nil {
				return Set{}, fmt.Errorf("policy %s: ingress[%d]: %w", p.Name, i, err)
			}
			read.rules = append(read.rules, rule)
		}
		if spec.PreDNAT {
			s.preDNAT = append(s.preDNAT, read)
		} else {
			s.normal = append(s.normal, read)
		}
	}
	for _, policies := range [][]*policy{s.preDNAT, s.normal} {
		slices.SortFunc(policies, func(a, b *policy) int {
			return cmp.Or(cmp.Compare(a.order, b.order), strings.Compare(a.name, b.name))
		})
	}
	return s, nil
}

// Enforcing returns the set as mode enforce has it: what audit logs is dropped.
func (s Set) Enforcing() Set {
	enforcing := Set{slices.Clone(s.preDNAT), slices.Clone(s.normal)}
	for _, policies := range [][]*policy{enforcing.preDNAT, enforcing.normal} {
		for i, p := range policies {
			enforced := *p
			enforced.rules, policies[i] = slices.Clone(p.rules), &enforced
			for j, r := range p.rules {
				if r.action == v3.Log {
					enforced.rules[j].action, enforced.rules[j].by = v3.Deny, ByNothing
				}
			}
		}
	}
	return enforcing
}

// Rule is by what a rule tells connections apart, beside whom it knows by what they are. What is
// not set matches everything.
type Rule struct {
	Protocol string
	Sources  []netip.Prefix
	Ports    [][2]uint16 // the first and the last one of each range
	ICMPType *int
}

// Rules returns those of all policies of the set.
func (s Set) Rules() (rules []Rule) {
	for _, p := range slices.Concat(s.preDNAT, s.normal) {
		for _, r := range p.rules {
			rule := Rule{Protocol: r.protocol, ICMPType: r.icmpType}
			for _, network := range r.sources {
				rule.Sources = append(rule.Sources, network.Masked())
			}
			for _, p := range r.ports {
				rule.Ports = append(rule.Ports, [2]uint16{p.first, p.last})
			}
			rules = append(rules, rule)
		}
	}
	return rules
}

// specOf reads a spec, and refuses fields that change what it means and that the chart never sets.
func specOf(fields map[string]any) (*v3.GlobalNetworkPolicySpec, error) {
	spec := &v3.GlobalNetworkPolicySpec{}
	if err := decode(fields, spec); err != nil {
		return nil, err
	}
	switch {
	case spec.Tier != "" && spec.Tier != "default":
		return nil, errors.New("tier is not read")
	case spec.DoNotTrack:
		return nil, errors.New("doNotTrack is not read")
	case spec.NamespaceSelector != "" || spec.ServiceAccountSelector != "":
		return nil, errors.New("namespaceSelector and serviceAccountSelector are not read")
	case len(spec.Types) == 0:
		return nil, errors.New("types is empty")
	case spec.Order == nil:
		return nil, errors.New("order is empty")
	}
	return spec, nil
}

// decode reads fields into one of Calico's types, which has to know all of them.
func decode(fields map[string]any, into any) error {
	raw, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

// read takes from a rule, field by field, what it understands. What is left then is an error.
func (p *policy) read(release, purpose string, r v3.Rule) (read rule, err error) {
	read.by = nameOf(purpose, r)
	switch r.Action {
	case v3.Allow, v3.Deny, v3.Log:
		read.action = r.Action
	default:
		return read, fmt.Errorf("action %s is not read", r.Action)
	}
	if r.Action == v3.Log && !p.preDNAT {
		return read, errors.New("action Log is not read where the policy is not preDNAT")
	}
	if r.IPVersion != nil {
		read.family = *r.IPVersion
	}
	if r.Protocol != nil {
		read.protocol = r.Protocol.String()
	}
	if r.ICMP != nil {
		read.icmpType, r.ICMP.Type = r.ICMP.Type, nil
	}
	if read.from, err = fromOf(release, &r.Source); err != nil {
		return read, err
	}
	for _, side := range []struct {
		entity *v3.EntityRule
		nets   *[]netip.Prefix
		ports  *[]ports
	}{{&r.Source, &read.sources, &read.sourcePorts}, {&r.Destination, &read.destinations, &read.ports}} {
		if *side.nets, err = netsOf(side.entity.Nets); err == nil {
			*side.ports, err = portsOf(side.entity.Ports)
		}
		if err != nil {
			return read, err
		}
		side.entity.Nets, side.entity.Ports = nil, nil
	}
	r.Action, r.IPVersion, r.Protocol, r.Metadata = "", nil, nil, nil
	return read, leftOf(r)
}

// leftOf names the fields of a rule that are still there.
func leftOf(r v3.Rule) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return err
	}
	if names := named("", fields); len(names) > 0 {
		return fmt.Errorf("%s is not read", strings.Join(names, ", "))
	}
	return nil
}

// named are the paths of fields that hold something.
func named(above string, fields map[string]any) (names []string) {
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		switch value := fields[key].(type) {
		case nil:
		case map[string]any:
			names = append(names, named(above+key+".", value)...)
		default:
			if value != "" {
				names = append(names, above+key)
			}
		}
	}
	return names
}

// Those whom rules know by what they are, not by a network.
const (
	allPods   = "has(projectcalico.org/orchestrator)"
	allSets   = "global()"
	everybody = "all()"
)

// fromOf reads whom a rule knows by what they are, and takes that from it; nil: it asks for no such thing.
func fromOf(release string, source *v3.EntityRule) (func(netip.Addr, World) bool, error) {
	trustedNodes := fmt.Sprintf("host-firewall.io/release == '%s' && host-firewall.io/trust == 'node'", release)
	selector, namespaces, services := source.Selector, source.NamespaceSelector, source.Services
	source.Selector, source.NamespaceSelector, source.Services = "", "", nil
	switch {
	case services != nil:
		if *services != (v3.ServiceMatch{Name: "kubernetes", Namespace: "default"}) || selector != "" || namespaces != "" {
			return nil, errors.New("source.services is not read")
		}
		return func(a netip.Addr, w World) bool { return slices.Contains(w.APIServers, a) }, nil
	case selector == trustedNodes && namespaces == allSets:
		return func(a netip.Addr, w World) bool { return w.Nodes[a] }, nil
	case selector == allPods && namespaces == everybody:
		return func(a netip.Addr, w World) bool { return holds(w.Pods, a) }, nil
	case selector != "" || namespaces != "":
		return nil, fmt.Errorf("source.selector %q is not read", selector)
	}
	return nil, nil
}

func netsOf(texts []string) (nets []netip.Prefix, err error) {
	for _, text := range texts {
		net, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("read nets: %w", err)
		}
		nets = append(nets, net)
	}
	return nets, nil
}

func portsOf(of []numorstring.Port) (all []ports, err error) {
	for _, p := range of {
		if p.PortName != "" {
			return nil, fmt.Errorf("port %s is not read", p.PortName)
		}
		all = append(all, ports{p.MinPort, p.MaxPort})
	}
	return all, nil
}

// nameOf is the name of the value that a rule comes from.
func nameOf(purpose string, r v3.Rule) string {
	switch purpose {
	case ssh:
		return "ssh.cidrs"
	case ingress:
		if r.Metadata != nil {
			return fmt.Sprintf("ingress[%s]", r.Metadata.Annotations["host-firewall.io/ingress"])
		}
		return "ingress"
	case trusted:
		switch {
		case r.Source.Services != nil:
			return "cluster.trustAPIServer"
		case r.Source.Selector == allPods:
			return byPods
		case r.Source.Selector != "":
			return "cluster.trustNodes"
		}
		return "cluster.cidrs"
	case other:
		if r.Action == v3.Log {
			return ByAudit
		}
		return ByNothing
	}
	return essentialOf(r)
}

// essentialOf is that of what no node can do without.
func essentialOf(r v3.Rule) string {
	switch {
	case r.ICMP != nil && r.ICMP.Type != nil && (*r.ICMP.Type == 8 || *r.ICMP.Type == 128):
		return "essential.icmpEcho"
	case r.ICMP != nil:
		return "neighbour discovery"
	case r.Protocol != nil && r.Protocol.String() == TCP:
		return "essential.apiServerPorts"
	case r.Protocol != nil:
		return "essential.dhcp"
	case len(r.Destination.Nets) > 0:
		return "loopback"
	}
	return "essential.nodeLocalDNS"
}
