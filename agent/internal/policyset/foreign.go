package policyset

import (
	"fmt"
	"slices"
	"strings"

	"github.com/projectcalico/calico/libcalico-go/lib/selector"
	"github.com/projectcalico/calico/libcalico-go/lib/selector/parser"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

const (
	// AcceptAll accepts every policy.
	AcceptAll = "*"

	// defaultTier is what a policy's name starts with on crd.projectcalico.org/v1
	// when it was written through Calico's v3 API.
	defaultTier = "default."
)

// Foreign returns the names, sorted, of the policies that are not accepted and would
// select an endpoint that had any of these sets of labels, other than the policies of the
// sets that the labels arm with, and witnesses. An endpoint with such labels would start to be governed
// by them in the moment it is there.
//
// A policy whose selector can't be read selects nothing, for Felix drops it as a
// whole. unreadable names each such policy; the names beside it are complete.
func Foreign(have []*Policy, release string, labels []map[string]string, accepted []string) (names []string, unreadable string) {
	if slices.Contains(accepted, AcceptAll) {
		return nil, ""
	}
	var broken []string
	for _, policy := range have {
		if accepts(accepted, policy.Name) {
			continue
		}
		selects, err := policy.read()
		if err != nil {
			broken = append(broken, fmt.Sprintf("GlobalNetworkPolicy %s has a selector that cannot be read, so Felix ignores it: %v", policy.Name, err))
			continue
		}
		if slices.ContainsFunc(labels, func(l map[string]string) bool { return selects.Evaluate(l) && !policy.isOf(release, l) }) {
			names = append(names, policy.Name)
		}
	}
	slices.Sort(names)
	slices.Sort(broken)
	return slices.Compact(names), strings.Join(broken, "; ")
}

// isOf tells whether the policy is a witness of the release, or belongs to the set that the
// labels arm with. Lack says so where it only pretends to belong to it.
func (p *Policy) isOf(release string, labels map[string]string) bool {
	set := p.Labels[endpoint.SetLabel]
	return p.Labels[endpoint.ReleaseLabel] == release && (p.Witness != "" || set != "" && endpoint.Carries(labels, set))
}

// accepts tells whether a policy is accepted by its name, with or without the
// name of the default tier in front.
func accepts(accepted []string, name string) bool {
	short := strings.TrimPrefix(name, defaultTier)
	return slices.ContainsFunc(accepted, func(a string) bool { return strings.TrimPrefix(a, defaultTier) == short })
}

// read returns the selector by which Felix picks the endpoints of a policy.
func (p *Policy) read() (selector.Selector, error) {
	if p.selects != nil {
		return p.selects, nil
	}
	return p.parse()
}

// parse reads the policy's selectors as Felix does.
//
// Policies for namespaces or service accounts are for pods, but Felix knows no
// such thing: it prefixes the keys of their selectors and demands both. What
// demands a label of a namespace can't select a host endpoint, which has none;
// what forbids one can, and does: `namespaceSelector: env != 'prod'`.
func (p *Policy) parse() (selector.Selector, error) {
	text := p.Selector
	for _, s := range []struct{ text, prefix, present string }{
		{p.NamespaceSelector, "pcns.", "has(projectcalico.org/namespace)"},
		{p.ServiceAccountSelector, "pcsa.", "has(projectcalico.org/serviceaccount)"},
	} {
		if s.text == "" {
			continue
		}
		parsed, err := parser.Parse(s.text)
		if err != nil {
			return nil, err
		}
		parsed.AcceptVisitor(parser.PrefixVisitor{Prefix: s.prefix})
		if text == "" {
			text = parsed.String()
		} else {
			text = fmt.Sprintf("(%s) && %s", text, parsed)
		}
		text = strings.ReplaceAll(text, "all()", s.present)
	}
	return selector.Parse(text)
}
