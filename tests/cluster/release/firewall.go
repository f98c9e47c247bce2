package release

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/oracle"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// Firewall is what the release with these values makes of every node: the policies are those that Helm renders.
func (r *Release) Firewall(ctx context.Context, values map[string]any) (f scene.Firewall, err error) {
	effective, err := r.Effective(values)
	if err != nil {
		return f, err
	}
	of := func(path ...string) any {
		var at any = effective
		for _, key := range path {
			below, _ := at.(map[string]any)
			at = below[key]
		}
		return at
	}
	f.Interfaces, f.Failsafe = texts(of("hostEndpoint", "interfaces")), oracle.Failsafe()
	mode := of("mode")
	if mode == "off" || mode == false { // YAML reads an off without quotes as false
		return f, nil
	}
	if mode == "enforce" && of("ssh", "narrowFailsafe") == true {
		f.Failsafe = narrowed(f.Failsafe, texts(of("ssh", "ports")), texts(of("ssh", "cidrs")))
	}
	rendered, _, err := r.Render(ctx, values)
	if err != nil {
		return f, err
	}
	var policies []oracle.Policy
	for _, o := range rendered {
		spec, _ := o.Object["spec"].(map[string]any)
		policies = append(policies, oracle.Policy{Name: o.GetName(), Spec: spec})
	}
	f.Set, err = oracle.Of(rendered[0].GetLabels()[Label], policies)
	return f, err
}

// texts are the items of a list of values.
func texts(list any) (all []string) {
	items, _ := list.([]any)
	for _, item := range items {
		all = append(all, fmt.Sprint(item))
	}
	return all
}

// narrowed is a failsafe list in which the ports of SSH are open to its networks alone.
func narrowed(list []v3.ProtoPort, ports, cidrs []string) (narrowed []v3.ProtoPort) {
	ofSSH := func(p v3.ProtoPort) bool {
		return p.Protocol == "TCP" && slices.ContainsFunc(ports, func(text string) bool {
			first, last, isRange := strings.Cut(text, ":")
			if !isRange {
				last = first
			}
			from, _ := strconv.ParseFloat(first, 64) // the chart takes no others
			to, _ := strconv.ParseFloat(last, 64)
			return from <= float64(p.Port) && float64(p.Port) <= to
		})
	}
	for _, p := range list {
		if len(cidrs) == 0 || !ofSSH(p) {
			narrowed = append(narrowed, p)
			continue
		}
		for _, cidr := range cidrs {
			narrowed = append(narrowed, v3.ProtoPort{Protocol: p.Protocol, Port: p.Port, Net: cidr})
		}
	}
	return narrowed
}
