package failsafe

import v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

// field is a field of the spec that Calico's v3 API fills in with its default
// whenever somebody writes a FelixConfiguration without it. In the object of a
// node that is no default: there it wins over what the object default says. So
// where default says something else, we have to write that too.
type field struct{ name, preset string }

func filledFields() []field {
	return []field{
		{"floatingIPs", string(v3.FloatingIPsDisabled)},
		{connectTime, string(v3.BPFConnectTimeLBTCP)},
		{hostNAT, string(v3.BPFHostNetworkedNATEnabled)},
	}
}

const (
	connectTime = "bpfConnectTimeLoadBalancing"
	hostNAT     = "bpfHostNetworkedNATWithoutCTLB"
	// deprecatedConnectTime decides about the two above where it is set.
	deprecatedConnectTime = "bpfConnectTimeLoadBalancingEnabled"
)

// fill returns, of the fields that are not set by somebody in own, what should be
// noted of each, and the changes to the spec that keep default's value in force.
func fill(own, def *Configuration, wrote *record) (noted map[string]string, spec map[string]any) {
	ours, theirs := fieldsOf(own), fieldsOf(def)
	noted, spec = map[string]string{}, map[string]any{}
	for _, f := range filledFields() {
		current, set := ours[f.name].(string)
		if set && (wrote == nil || !wrote.filled(f, current)) {
			continue // somebody wants it so
		}
		if _, decides := ours[deprecatedConnectTime]; decides && f.name != "floatingIPs" {
			continue
		}
		want := inForce(theirs, f)
		noted[f.name] = want
		switch {
		case want != "" && current != want:
			spec[f.name] = want
		case want == "" && set && current != f.preset:
			spec[f.name] = nil
		}
	}
	return noted, spec
}

// inForce returns what the fields of default say about f; empty: what Calico
// fills in anyway.
func inForce(fields map[string]any, f field) string {
	value, _ := fields[f.name].(string)
	if enabled, decides := fields[deprecatedConnectTime].(bool); decides {
		switch {
		case f.name == hostNAT:
			value = string(v3.BPFHostNetworkedNATDisabled)
		case f.name == connectTime && enabled:
			value = string(v3.BPFConnectTimeLBEnabled)
		case f.name == connectTime:
			value = string(v3.BPFConnectTimeLBDisabled)
		}
	}
	if value == f.preset {
		return ""
	}
	return value
}
