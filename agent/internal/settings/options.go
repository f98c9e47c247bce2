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

// options are all settings, in the order of the help text.
func options() []option {
	const (
		identity = "What to look after"
		shape    = "The endpoint"
		arming   = "When to arm"
		cluster  = "The API server"
		running  = "The agent itself"
	)
	return []option{
		{
			group: identity, name: "node-name", required: true,
			usage: "name of the Node of this agent (downward API: spec.nodeName)",
			read: func(s *Settings, text string) error {
				s.NodeName = text
				return check(text, "the name of a Node", validation.IsDNS1123Subdomain)
			},
		},
		{
			group: identity, name: "release", required: true,
			usage: "id that every object of the release is labelled with",
			read: func(s *Settings, text string) error {
				s.Release = text
				return check(text, "the id of the release (the chart's full name)", validation.IsDNS1123Label)
			},
		},
		{
			group: identity, name: "api-group",
			usage: "projectcalico.org/v3 or crd.projectcalico.org/v1; empty finds it",
			read: func(s *Settings, text string) (err error) {
				s.APIGroup, err = oneOf(text, "", "projectcalico.org/v3", "crd.projectcalico.org/v1")
				return err
			},
		},
		{
			group: shape, name: "arming-labels", preset: "host-endpoint=ingress",
			usage: "labels that the policies select, key=value, comma separated",
			read: func(s *Settings, text string) (err error) {
				s.ArmingLabels, err = readLabels(text)
				return err
			},
		},
		{
			group: shape, name: "profiles", preset: "projectcalico-default-allow",
			usage: "profiles of the endpoint, comma separated",
			read: func(s *Settings, text string) (err error) {
				s.Profiles, err = readNames(text, "profile", validation.IsDNS1123Subdomain)
				if len(s.Profiles) == 0 && err == nil {
					err = errors.New("is empty, and an endpoint without a profile drops everything: write projectcalico-default-allow")
				}
				return err
			},
		},
		{
			group: arming, name: "policies", required: true,
			usage: "names of all GlobalNetworkPolicies of the release, comma separated",
			read: func(s *Settings, text string) (err error) {
				s.Policies, err = readNames(text, "policy", validation.IsDNS1123Label)
				if len(s.Policies) == 0 && err == nil {
					err = errors.New("is required: write the names of all GlobalNetworkPolicies of the release, comma separated")
				}
				return err
			},
		},
		{
			group: arming, name: "policy-revision", required: true,
			usage: "revision that all of them must have",
			read: func(s *Settings, text string) error {
				s.PolicyRevision = text
				return check(text, "the revision that the policies are annotated with", func(text string) []string {
					if strings.ContainsAny(text, " \t\r\n") {
						return []string{"must not contain a space"}
					}
					return nil
				})
			},
		},
		{
			group: arming, name: "await-nodes", preset: "true", isBool: true,
			usage: "before the first arming wait until no Ready node would be shut out",
			read: func(s *Settings, text string) (err error) {
				if s.AwaitNodes, err = strconv.ParseBool(text); err != nil {
					return fmt.Errorf("%q is neither true nor false: write one of them", text)
				}
				return nil
			},
		},
		{
			group: arming, name: "cluster-cidrs",
			usage: "networks that the policies trust anyway, comma separated; only --await-nodes reads it",
			read: func(s *Settings, text string) (err error) {
				s.ClusterCIDRs, err = readCIDRs(text)
				return err
			},
		},
		{
			group: cluster, name: "kubeconfig",
			usage: "path of a kubeconfig; empty uses the pod's service account",
			read: func(s *Settings, text string) error {
				s.Kubeconfig = text
				return nil
			},
		},
		{
			group: running, name: "health-port", preset: "9097",
			usage: "port of /livez and /readyz on 127.0.0.1",
			read: func(s *Settings, text string) (err error) {
				if s.HealthPort, err = strconv.Atoi(text); err != nil || s.HealthPort < 1 || s.HealthPort > 65535 {
					return fmt.Errorf("%q is no port: write a number from 1 to 65535", text)
				}
				return nil
			},
		},
		{
			group: running, name: "resync", preset: "10m",
			usage: "time after which everything is compared again without an event",
			read: func(s *Settings, text string) (err error) {
				if s.Resync, err = time.ParseDuration(text); err != nil || s.Resync < time.Second {
					return fmt.Errorf("%q is no time of at least a second: write for example 10m", text)
				}
				return nil
			},
		},
		{
			group: running, name: "log-level", preset: "info",
			usage: "debug, info, warn or error",
			read: func(s *Settings, text string) error {
				if _, err := oneOf(text, "debug", "info", "warn", "error"); err != nil {
					return err
				}
				return s.LogLevel.UnmarshalText([]byte(text))
			},
		},
		{
			group: running, name: "log-format", preset: "text",
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

// readNames reads a list of names, each of which may be there once.
func readNames(text, what string, validate func(string) []string) ([]string, error) {
	names := split(text)
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("%s %q is there twice: write it once", what, name)
		}
		if faults := validate(name); len(faults) > 0 {
			return nil, fmt.Errorf("%q is not the name of a %s: %s", name, what, strings.Join(faults, "; "))
		}
	}
	return names, nil
}

// readLabels reads labels of which there has to be one: without any, an
// endpoint would be armed from the start.
func readLabels(text string) (map[string]string, error) {
	labels := map[string]string{}
	for _, pair := range split(text) {
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return nil, fmt.Errorf("%q is not a label: write key=value", pair)
		}
		if _, twice := labels[key]; twice {
			return nil, fmt.Errorf("label %q is there twice: write it once", key)
		}
		if strings.HasPrefix(key, "host-firewall.io/") {
			return nil, fmt.Errorf("label %q is the agent's own: write one that does not start with host-firewall.io/", key)
		}
		if faults := validation.IsQualifiedName(key); len(faults) > 0 {
			return nil, fmt.Errorf("%q is not the key of a label: %s", key, strings.Join(faults, "; "))
		}
		if faults := validation.IsValidLabelValue(value); len(faults) > 0 {
			return nil, fmt.Errorf("%q is not the value of a label: %s", value, strings.Join(faults, "; "))
		}
		labels[key] = value
	}
	if len(labels) == 0 {
		return nil, errors.New("is empty, and the endpoint would be armed from the start: write for example host-endpoint=ingress")
	}
	return labels, nil
}

// readCIDRs reads a list of networks.
func readCIDRs(text string) ([]netip.Prefix, error) {
	var cidrs []netip.Prefix
	for _, item := range split(text) {
		cidr, err := netip.ParsePrefix(item)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network: write for example 192.0.2.0/24 or 2001:db8::/32", item)
		}
		cidrs = append(cidrs, cidr.Masked())
	}
	return cidrs, nil
}
