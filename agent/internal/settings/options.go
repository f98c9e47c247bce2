package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// option is one setting: how it is called, and how its text is read.
type option struct {
	group, name, preset, usage string
	required, isBool           bool
	// read checks the text and keeps what it says. Its error says what is wrong
	// and what to write instead.
	read func(s *Settings, text string) error
}

// variable is the name of the option's environment variable.
func (o option) variable() string {
	return "HOST_FIREWALL_" + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
}

// options are the agent's settings, in the order of the help text.
func options() []option {
	return named("node-name", "release", "namespace", "mode", "api-group", "set", "interfaces", "node-labels", "adopt", "endpoint-labels",
		"ssh-cidrs", "ssh-ports", "narrow-failsafe", "kubeconfig", "health-port", "metrics-address", "resync", "log-level", "log-format")
}

// named returns the settings of these names, in the order of catalog.
func named(names ...string) []option {
	return slices.DeleteFunc(catalog(), func(o option) bool { return !slices.Contains(names, o.name) })
}

// catalog is every setting that more than one command, or the agent, has.
func catalog() []option {
	return slices.Concat(identityOptions(), shapeOptions(), armingOptions(), sshOptions(), clusterOptions(), runningOptions())
}

// identityOptions say what to look after.
func identityOptions() []option {
	const group = "What to look after"
	return []option{
		{
			group: group, name: "node-name", required: true,
			usage: "name of the Node of this agent (downward API: spec.nodeName)",
			read: func(s *Settings, text string) error {
				s.NodeName = text
				return check(text, "the name of a Node", validation.IsDNS1123Subdomain)
			},
		},
		{
			group: group, name: "release", required: true,
			usage: "id that every object of the release is labelled with",
			read: func(s *Settings, text string) error {
				s.Release = text
				return check(text, "the id of the release (the chart's full name)", validation.IsDNS1123Label)
			},
		},
		{
			group: group, name: "namespace", required: true,
			usage: "namespace of the release, in which its clearance is (the ConfigMap with the release's id)",
			read: func(s *Settings, text string) error {
				s.Namespace = text
				return check(text, "the name of a namespace", validation.IsDNS1123Label)
			},
		},
		{
			group: group, name: "mode", preset: ModeEnforce,
			usage: "enforce, audit (the policies drop nothing; the failsafe stays as it is) or off (no endpoint is armed)",
			read: func(s *Settings, text string) (err error) {
				s.Mode, err = oneOf(text, ModeEnforce, ModeAudit, ModeOff)
				return err
			},
		},
		{
			group: group, name: "api-group",
			usage: "projectcalico.org/v3 or crd.projectcalico.org/v1; empty finds it",
			read: func(s *Settings, text string) (err error) {
				s.APIGroup, err = oneOf(text, "", "projectcalico.org/v3", "crd.projectcalico.org/v1")
				return err
			},
		},
	}
}

// shapeOptions say what endpoints are like.
func shapeOptions() []option {
	const group = "The endpoints"
	return []option{
		{
			group: group, name: "interfaces", preset: "*",
			usage: "interfaces that get an endpoint: * for all in one, names, globs (eth*), comma separated",
			read: func(s *Settings, text string) (err error) {
				s.Interfaces, err = readNames(text, "interface", func(pattern string) []string {
					if !endpoint.ValidPattern(pattern) {
						return []string{"write *, a name, or a glob such as eth* or bond?"}
					}
					return nil
				})
				return notEmpty(s.Interfaces, err, "is empty, and nothing would be protected: write * or names of interfaces")
			},
		},
		{
			group: group, name: "node-labels",
			usage: "labels of the Node that the endpoint gets: keys, or beginnings of keys followed by *, comma separated",
			read: func(s *Settings, text string) (err error) {
				s.NodeLabels, err = readNames(text, "label", func(key string) []string {
					prefix, isPrefix := strings.CutSuffix(key, "*")
					if isPrefix && (prefix == "" || strings.HasSuffix(prefix, "/")) {
						// The rest of the key takes its place.
						prefix += "x"
					}
					return validation.IsQualifiedName(strings.TrimRight(prefix, "-_."))
				})
				return err
			},
		},
		{
			group: group, name: "adopt", preset: "false", isBool: true,
			usage: "take over an endpoint that has the right name and belongs to no release",
			read:  readBool(func(s *Settings) *bool { return &s.Adopt }),
		},
		{
			group: group, name: "endpoint-labels",
			usage: "labels that an armed endpoint carries for policies of your own, key=value, comma separated",
			read: func(s *Settings, text string) (err error) {
				s.EndpointLabels, err = readLabels(text)
				return err
			},
		},
	}
}

// armingOptions say when nodes are armed.
func armingOptions() []option {
	const group = "When to arm"
	return []option{
		{
			group: group, name: "set", required: true,
			usage: "revision of the policy set that nodes are armed with",
			read: func(s *Settings, text string) error {
				s.Set = text
				return check(text, "the revision of a policy set", validation.IsValidLabelValue)
			},
		},
		{
			group: group, name: "policies", required: true,
			usage: "name=digest of each GlobalNetworkPolicy of the set, comma separated",
			read: func(s *Settings, text string) (err error) {
				s.Policies, err = readDigests(text)
				return err
			},
		},
		{
			group: group, name: "trust-nodes", preset: "true", isBool: true,
			usage: "let every node in to every other one, by one network set for each",
			read:  readBool(func(s *Settings) *bool { return &s.TrustNodes }),
		},
		{
			group: group, name: "cluster-cidrs",
			usage: "networks that the policies let in anyway, comma separated; without --trust-nodes they have to hold all nodes",
			read: func(s *Settings, text string) (err error) {
				s.ClusterCIDRs, err = readCIDRs(text)
				return err
			},
		},
		{
			group: group, name: "api-server-ports",
			usage: "TCP ports open to everybody; an API server of the node has to be on one, or on a failsafe port; empty: anywhere",
			read: func(s *Settings, text string) (err error) {
				if text != "" {
					s.APIServerPorts, err = readPorts(text)
				}
				return err
			},
		},
		{
			group: group, name: "accept-policies",
			usage: "GlobalNetworkPolicies of others that may apply to the node, comma separated; * accepts all",
			read: func(s *Settings, text string) (err error) {
				s.AcceptPolicies, err = readNames(text, "policy", func(name string) []string {
					if name == "*" {
						return nil
					}
					return validation.IsDNS1123Subdomain(name)
				})
				return err
			},
		},
	}
}

// sshOptions say who may use SSH.
func sshOptions() []option {
	const group = "SSH"
	return []option{
		{
			group: group, name: "ssh-cidrs",
			usage: "networks of the administrators, comma separated; only --narrow-failsafe reads it",
			read: func(s *Settings, text string) (err error) {
				s.SSHCIDRs, err = readCIDRs(text)
				return err
			},
		},
		{
			group: group, name: "ssh-ports", preset: "22",
			usage: "TCP ports of SSH, or ranges (2200:2299), comma separated; only --narrow-failsafe reads it",
			read: func(s *Settings, text string) (err error) {
				s.SSHPorts, err = readPorts(text)
				return err
			},
		},
		{
			group: group, name: "narrow-failsafe", preset: "false", isBool: true,
			usage: "narrow Felix's failsafe for SSH to --ssh-cidrs, once the node is armed; without them nothing is narrowed",
			read:  readBool(func(s *Settings) *bool { return &s.NarrowFailsafe }),
		},
	}
}

// clusterOptions say how the API server is reached.
func clusterOptions() []option {
	const group = apiServer
	return []option{
		{
			group: group, name: "kubeconfig",
			usage: "path of a kubeconfig; empty uses the pod's service account",
			read: func(s *Settings, text string) error {
				s.Kubeconfig = text
				return nil
			},
		},
	}
}

// runningOptions say how the process runs.
func runningOptions() []option {
	const group = "The agent itself"
	return []option{
		{
			group: group, name: "health-port", preset: "9097",
			usage: "port of /livez and /readyz on 127.0.0.1",
			read: func(s *Settings, text string) error {
				port, err := readPort(text)
				s.HealthPort = int(port)
				return err
			},
		},
		{
			group: group, name: "metrics-address",
			usage: "host:port of /metrics, for example 127.0.0.1:9096 or :9096; empty serves none",
			read: func(s *Settings, text string) error {
				s.MetricsAddress = text
				return checkListen(text)
			},
		},
		{
			group: group, name: "resync", preset: "10m",
			usage: "time after which everything is compared again without an event",
			read: func(s *Settings, text string) (err error) {
				if s.Resync, err = time.ParseDuration(text); err != nil || s.Resync < time.Second {
					return fmt.Errorf("%q is no time of at least a second: write for example 10m", text)
				}
				return nil
			},
		},
		{
			group: group, name: "log-level", preset: "info",
			usage: "debug, info, warn or error",
			read: func(s *Settings, text string) error {
				if _, err := oneOf(text, "debug", "info", "warn", "error"); err != nil {
					return err
				}
				return s.LogLevel.UnmarshalText([]byte(text))
			},
		},
		{
			group: group, name: "log-format", preset: "text",
			usage: "text or json",
			read: func(s *Settings, text string) (err error) {
				s.LogFormat, err = oneOf(text, "text", "json")
				return err
			},
		},
	}
}

// check applies one of Kubernetes' validations to a text that is required.
func check(text, what string, validate func(string) []string) error {
	if text == "" {
		return fmt.Errorf("is required: write %s", what)
	}
	if faults := validate(text); len(faults) > 0 {
		return fmt.Errorf("%q is not %s: %s", text, what, strings.Join(faults, "; "))
	}
	return nil
}

// oneOf takes a text that is one of the choices.
func oneOf(text string, choices ...string) (string, error) {
	if slices.Contains(choices, text) {
		return text, nil
	}
	written := slices.DeleteFunc(slices.Clone(choices), func(choice string) bool { return choice == "" })
	return "", fmt.Errorf("%q is not known: write %s", text, strings.Join(written, " or "))
}

// split takes a comma separated list apart. Spaces around items and empty items
// don't count.
func split(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// readBool reads a bool into a field.
func readBool(field func(*Settings) *bool) func(*Settings, string) error {
	return func(s *Settings, text string) error {
		value, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false: write one of them", text)
		}
		*field(s) = value
		return nil
	}
}

// readPort reads the number of a port.
func readPort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is no port: write a number from 1 to 65535", text)
	}
	return uint16(port), nil
}

// checkListen checks where something is served; empty: nowhere.
func checkListen(text string) error {
	if text == "" {
		return nil
	}
	at := strings.LastIndex(text, ":")
	if at < 0 {
		return fmt.Errorf("%q has no port: write for example 127.0.0.1:9096", text)
	}
	if _, err := readPort(text[at+1:]); err != nil {
		return err
	}
	if host := strings.Trim(text[:at], "[]"); host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("%q is no address of the node: write for example 127.0.0.1:9096, [::1]:9096 or :9096", host)
		}
	}
	return nil
}

// notEmpty adds to what is wrong with a list that it is empty.
func notEmpty(list []string, err error, problem string) error {
	if len(list) == 0 && err == nil {
		return errors.New(problem)
	}
	return err
}

// The readers of lists below return an error for each item that is bad, joined.

// readNames reads a list of names, each of which may be there once.
func readNames(text, what string, validate func(string) []string) ([]string, error) {
	var problems []error
	names := split(text)
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			problems = append(problems, fmt.Errorf("%s %q is there twice: write it once", what, name))
		} else if err := check(name, "a valid "+what+" name", validate); err != nil {
			problems = append(problems, err)
		}
	}
	return names, errors.Join(problems...)
}

// readDigests reads policies and the digests of their specs.
func readDigests(text string) (map[string]string, error) {
	digests := map[string]string{}
	var problems []error
	for _, pair := range split(text) {
		name, digest, _ := strings.Cut(pair, "=")
		if len(validation.IsDNS1123Label(name)) > 0 || digest == "" || digests[name] != "" {
			problems = append(problems, fmt.Errorf("%q is no policy, or is there twice: write name=digest, each once", pair))
		}
		digests[name] = digest
	}
	if len(digests) == 0 {
		return nil, errors.New("is required: write name=digest of all GlobalNetworkPolicies of the set, comma separated")
	}
	return digests, errors.Join(problems...)
}

// readLabels reads labels.
func readLabels(text string) (map[string]string, error) {
	labels := map[string]string{}
	var problems []error
	for _, pair := range split(text) {
		key, value, found := strings.Cut(pair, "=")
		_, twice := labels[key]
		labels[key] = value
		switch {
		case !found:
			problems = append(problems, fmt.Errorf("%q is not a label: write key=value", pair))
			continue
		case twice:
			problems = append(problems, fmt.Errorf("label %q is there twice: write it once", key))
		case strings.HasPrefix(key, "host-firewall.io/"):
			problems = append(problems, fmt.Errorf("label %q is the agent's own: write one that does not start with host-firewall.io/", key))
		}
		if faults := validation.IsQualifiedName(key); len(faults) > 0 {
			problems = append(problems, fmt.Errorf("%q is not the key of a label: %s", key, strings.Join(faults, "; ")))
		}
		if faults := validation.IsValidLabelValue(value); len(faults) > 0 {
			problems = append(problems, fmt.Errorf("%q is not the value of a label: %s", value, strings.Join(faults, "; ")))
		}
	}
	return labels, errors.Join(problems...)
}

// readCIDRs reads a list of networks.
func readCIDRs(text string) ([]netip.Prefix, error) {
	var cidrs []netip.Prefix
	var problems []error
	for _, item := range split(text) {
		cidr, err := netip.ParsePrefix(item)
		if err != nil {
			problems = append(problems, fmt.Errorf("%q is not a network: write for example 192.0.2.0/24 or 2001:db8::/32", item))
			continue
		}
		cidrs = append(cidrs, cidr.Masked())
	}
	return cidrs, errors.Join(problems...)
}

// readPorts reads a list of ports.
func readPorts(text string) ([]uint16, error) {
	var ports []uint16
	var problems []error
	for _, item := range split(text) {
		first, last, isRange := strings.Cut(item, ":")
		from, err := readPort(first)
		to := from
		if isRange && err == nil {
			to, err = readPort(last)
		}
		if err == nil && to < from {
			err = fmt.Errorf("%q ends before it begins: write %s:%s", item, last, first)
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		for port := int(from); port <= int(to); port++ {
			ports = append(ports, uint16(port))
		}
	}
	if len(ports) == 0 && len(problems) == 0 {
		return nil, errors.New("is empty: write for example 22")
	}
	return ports, errors.Join(problems...)
}
