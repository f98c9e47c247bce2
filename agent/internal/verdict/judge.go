package verdict

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// What decides where no value does.
const (
	ByFailsafe = "failsafe"
	ByNothing  = "nothing allows it"  // so it is dropped
	Ungoverned = "nothing governs it" // so it passes
	ByAudit    = "mode: audit"        // it passes, and is logged
)

// Judge says what becomes of a connection on a node that carries the set.
//
// Felix asks in two places. Before kube-proxy translates addresses, in mangle's PREROUTING, it lets
// the failsafe in and asks the preDNAT policies, whatever the connection's way. What one of them
// allows is not asked about again, and what none of them decides goes on. Afterwards, in filter's
// INPUT, it lets the failsafe in and asks all other policies; in FORWARD it knows no failsafe, and
// asks only those that are applied to forwarded traffic. Where it has asked one there, it drops
// what none has allowed (felix/rules: static.go and endpointIptablesChain).
func (s Set) Judge(c Connection, w World) Verdict {
	by, failsafe := Ungoverned, w.failsafe(c)
	if failsafe && len(s.preDNAT) > 0 {
		by = ByFailsafe
	} else if action, why := ask(s.preDNAT, c, w); action == v3.Log {
		by = why
	} else if action != "" {
		return Verdict{Allowed: action == v3.Allow, By: why}
	}
	normal := s.normal
	switch c.Way {
	case FromOwnPod:
		normal = nil
	case ToNodePort, Forwarded:
		normal = slices.DeleteFunc(slices.Clone(normal), func(p *policy) bool { return !p.onForward })
	}
	switch {
	case len(normal) == 0:
		return Verdict{Allowed: true, By: by}
	case failsafe && c.Way == ToHost:
		return Verdict{Allowed: true, By: ByFailsafe}
	case c.Behind.IsValid():
		c.To, c.Port = c.Behind.Addr(), c.Behind.Port()
	}
	action, why := ask(normal, c, w)
	if action == v3.Allow {
		return Verdict{Allowed: true, By: why}
	}
	return Verdict{By: ByNothing}
}

// ask returns the action of the first rule that matches and decides, and its reason. A rule that
// logs decides nothing: Log is returned where only such rules match, and nothing where none does.
func ask(policies []*policy, c Connection, w World) (action v3.Action, by string) {
	for _, p := range policies {
		for _, r := range p.rules {
			if !r.matches(c, w) {
				continue
			}
			action, by = r.action, r.by
			if action != v3.Log {
				return action, by
			}
		}
	}
	return action, by
}

// failsafe tells whether Felix lets a connection in before it asks any policy. An entry whose
// network it can't read opens nothing, and one with a network is for that family.
func (w World) failsafe(c Connection) bool {
	return slices.ContainsFunc(w.Failsafe, func(p v3.ProtoPort) bool {
		if !strings.EqualFold(cmp.Or(p.Protocol, TCP), c.Protocol) || p.Port != c.Port {
			return false
		}
		if p.Net == "" {
			return true
		}
		if addr, err := netip.ParseAddr(p.Net); err == nil {
			return addr == c.From
		}
		net, err := netip.ParsePrefix(p.Net)
		return err == nil && net.Contains(c.From)
	})
}

func (r rule) matches(c Connection, w World) bool {
	return (r.family == 0 || r.family == familyOf(c.From)) &&
		(r.protocol == "" || strings.EqualFold(r.protocol, c.Protocol)) &&
		(r.icmpType == nil || *r.icmpType == c.ICMPType) &&
		(r.from == nil || r.from(c.From, w)) &&
		(len(r.sources) == 0 || holds(r.sources, c.From)) &&
		(len(r.sourcePorts) == 0 || within(r.sourcePorts, c.FromPort)) &&
		(len(r.destinations) == 0 || c.To.IsValid() && holds(r.destinations, c.To)) &&
		(len(r.ports) == 0 || within(r.ports, c.Port))
}

func familyOf(a netip.Addr) int {
	if a.Unmap().Is4() {
		return 4
	}
	return 6
}

func holds(nets []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(a.Unmap()) })
}

func within(ranges []ports, port uint16) bool {
	return slices.ContainsFunc(ranges, func(p ports) bool { return p.first <= port && port <= p.last })
}
