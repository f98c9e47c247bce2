package gate

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
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

// Foreign returns the names, sorted, of the policies that aren't of the release,
// aren't accepted, and would select an endpoint that had any of these sets of
// labels. An endpoint with such labels would start to be governed by them in the
// moment it is there.
//
// A policy whose selector can't be read selects nothing, for Felix drops it as a
// whole. The error names each such policy; the names that are returned beside it
// are complete.
func Foreign(policies []*v3.GlobalNetworkPolicy, release string, labels []map[string]string, accepted []string) (selecting []string, err error) {
	if slices.Contains(accepted, AcceptAll) {
		return nil, nil
	}
	var unreadable []string
	for _, policy := range policies {
		if policy.Labels[endpoint.ReleaseLabel] == release || accepts(accepted, policy.Name) {
			continue
		}
		selects, err := selectorOf(policy)
		if err != nil {
			unreadable = append(unreadable, fmt.Sprintf("GlobalNetworkPolicy %s has a selector that cannot be read, so Felix ignores it: %v", policy.Name, err))
			continue
		}
		if slices.ContainsFunc(labels, selects.Evaluate) {
			selecting = append(selecting, policy.Name)
		}
	}
	slices.Sort(selecting)
	if len(unreadable) > 0 {
		slices.Sort(unreadable)
		err = errors.New(strings.Join(unreadable, "; "))
	}
	return selecting, err
}

// accepts tells whether a policy is accepted by its name, with or without the
// name of the default tier in front.
func accepts(accepted []string, name string) bool {
	short := strings.TrimPrefix(name, defaultTier)
	return slices.ContainsFunc(accepted, func(a string) bool { return strings.TrimPrefix(a, defaultTier) == short })
}

// selectorOf returns the selector by which Felix picks the endpoints of a policy.
//
// Policies for namespaces or service accounts are for pods, but Felix knows no
// such thing: it prefixes the keys of their selectors and demands both. What
// demands a label of a namespace can't select a host endpoint, which has none;
// what forbids one can, and does: `namespaceSelector: env != 'prod'`.
func selectorOf(policy *v3.GlobalNetworkPolicy) (selector.Selector, error) {
	text := policy.Spec.Selector
	for _, s := range []struct{ text, prefix, present string }{
		{policy.Spec.NamespaceSelector, "pcns.", "has(projectcalico.org/namespace)"},
		{policy.Spec.ServiceAccountSelector, "pcsa.", "has(projectcalico.org/serviceaccount)"},
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
