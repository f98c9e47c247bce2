package settings

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// option is one setting: how it is called, and how its text is read.
type option struct {
	name, preset, usage string
	// read checks the text and keeps what it says. Its error says what is wrong
	// and what to write instead.
	read func(text string) error
}

// required is the preset of an option that has none.
const required = "required"

// fallback is the text of an option that nobody gives.
func (o option) fallback() string {
	if o.preset == required {
		return ""
	}
	return o.preset
}

// isBool tells whether the flag may stand alone.
func (o option) isBool() bool { return o.preset == "true" || o.preset == "false" }

// variable is the name of the option's environment variable.
func (o option) variable() string {
	return "HOST_FIREWALL_" + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
}

// options are the command's, in the order of the help text. They read into s.
func (c Command) options(s *Settings) (chosen []option) {
	all := slices.Concat(c.subjects(s), c.rules(s), c.clearing(s), c.running(s), c.compared(s))
	for _, g := range c.groups {
		for _, name := range g.names {
			chosen = append(chosen, c.spare(all[slices.IndexFunc(all, func(o option) bool { return o.name == name })]))
		}
	}
	return chosen
}

// subjects say what the command is about.
func (c Command) subjects(s *Settings) []option {
	return []option{
		{"node-name", required, "name of the Node of this agent (downward API: spec.nodeName)",
			into(&s.NodeName, valid("the name of a Node", validation.IsDNS1123Subdomain))},
		{"release", required, "id that every object of the release is labelled with",
			into(&s.Release, valid("the id of the release (the chart's full name)", validation.IsDNS1123Label))},
		{"namespace", required, "namespace of the release",
			into(&s.Namespace, valid("the name of a namespace", validation.IsDNS1123Label))},
		{"daemonset", required, "name of the DaemonSet that runs the agents",
			into(&s.DaemonSet, valid("the name of a DaemonSet", validation.IsDNS1123Subdomain))},
		{"deployment", required, "name of the Deployment that runs the controller",
			into(&s.Deployment, valid("the name of a Deployment", validation.IsDNS1123Subdomain))},
		{"account", required, "name of the ServiceAccount of the cleanup, on which it shows who has installed the release",
			into(&s.Account, valid("the name of a ServiceAccount", validation.IsDNS1123Subdomain))},
		{"test-pod", required, "name of the Pod that helm test may have left",
			into(&s.TestPod, valid("the name of a Pod", validation.IsDNS1123Subdomain))},
	}
}

// rules say how nodes are protected.
func (c Command) rules(s *Settings) []option {
	return []option{
		{"mode", ModeEnforce, "enforce, audit (the policies drop nothing; the failsafe stays as it is) or off (no endpoint is armed)",
			into(&s.Mode, oneOf(ModeEnforce, ModeAudit, ModeOff))},
		{"set", required, "revision of the policy set that nodes are armed with",
			into(&s.Set, valid("the revision of a policy set", validation.IsValidLabelValue))},
		{"rollout", "", "hash of the values that agents and controller are rolled out with alike; empty: it does not matter",
			into(&s.Rollout, optional(valid("such a hash", validation.IsValidLabelValue)))},
		{"verify", "true", "let a node try a set for a while, and leave it again by itself where what worked before does not any more",
			into(&s.Verify, readBool)},
		{"watch-peers", WatchAuto, "tell who is connected to the node: auto (before it is armed with its set, and in audit), always or never",
			into(&s.WatchPeers, oneOf(WatchAuto, WatchAlways, WatchNever))},
		{"policies", required, "name=digest of each GlobalNetworkPolicy of the set, comma separated",
			into(&s.Policies, readDigests)},
		{"interfaces", "*", "interfaces that get an endpoint: * for all in one, names, globs (eth*), comma separated",
			into(&s.Interfaces, filled(names("interface", checkPattern), "is empty, and nothing would be protected: write * or names of interfaces"))},
		{"node-labels", "", "labels of the Node that the endpoint gets: keys, or beginnings of keys followed by *, comma separated",
			into(&s.NodeLabels, names("label", checkLabel))},
		{"adopt", "false", "take over an endpoint that has the right name and belongs to no release",
			into(&s.Adopt, readBool)},
		{"endpoint-labels", "", "labels that an armed endpoint carries for policies of your own, key=value, comma separated",
			into(&s.EndpointLabels, readLabels)},
		{"ssh-cidrs", "", "networks of the administrators, comma separated",
			into(&s.SSHCIDRs, list(readCIDR))},
		{"ssh-ports", "22", "TCP ports of SSH, or ranges (2200:2299), comma separated",
			into(&s.SSHPorts, readPorts)},
		{"narrow-failsafe", "false", "narrow Felix's failsafe for SSH to --ssh-cidrs, once the node is armed; without them nothing is narrowed",
			into(&s.NarrowFailsafe, readBool)},
	}
}

// running say how the process runs.
func (c Command) running(s *Settings) []option {
	forms, help := []string{"table", "json"}, "table or json; -o is the same"
	if c.wide {
		forms, help = []string{"table", "wide", "json"}, "table, wide (a table with whole reasons) or json; -o is the same"
	}
	return []option{
		{"api-group", "", "projectcalico.org/v3 or crd.projectcalico.org/v1; empty finds it",
			into(&s.APIGroup, optional(oneOf("projectcalico.org/v3", "crd.projectcalico.org/v1")))},
		{"kubeconfig", "", "path of a kubeconfig; empty uses the pod's service account",
			into(&s.Kubeconfig, func(path string) (string, error) { return path, nil })},
		{"health-port", c.healthPort, "port of /livez and /readyz on 127.0.0.1",
			into(&s.HealthPort, readPort)},
		{"metrics-address", "", "host:port of /metrics, for example 127.0.0.1:9096 or :9096; empty serves none",
			into(&s.MetricsAddress, optional(readListen))},
		{"resync", "10m", "time after which everything is compared again without an event",
			into(&s.Resync, readTime("10m"))},
		{"timeout", "4m", "how long to try; for pods that do not end it waits an eighth of it, for the controller's and the agents' each",
			into(&s.Timeout, readTime("4m"))},
		{"output", "table", help,
			into(&s.Output, oneOf(forms...))},
		{"wait", "", "how long to wait until all is well; empty: not at all",
			into(&s.Wait, optional(readTime("1m")))},
		{"log-level", cmp.Or(c.logLevel, "info"), "debug, info, warn or error",
			into(&s.LogLevel, readLevel)},
		{"log-format", "text", "text or json",
			into(&s.LogFormat, oneOf("text", "json"))},
	}
}
