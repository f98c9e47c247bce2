// Package settings reads what the agent is told, from flags and environment.
package settings

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Settings is everything that the agent is told, checked.
type Settings struct {
	// NodeName is the Node that this agent looks after.
	NodeName string
	// Release is the id that all objects of the release are labelled with.
	Release string
	// Policies are the names of all GlobalNetworkPolicies of the release.
	Policies []string
	// PolicyRevision is the revision that all policies must have before the node is armed.
	PolicyRevision string
	// APIGroup is the group and version to reach Calico by; empty: find it.
	APIGroup string
	// ArmingLabels are the labels that the policies select endpoints by.
	ArmingLabels map[string]string
	// Profiles are the Calico profiles of the endpoint.
	Profiles []string
	// AwaitNodes delays the first arming until no Ready node would be shut out.
	AwaitNodes bool
	// ClusterCIDRs are the networks that the policies trust anyway.
	ClusterCIDRs []netip.Prefix
	// HealthPort is the port of /livez and /readyz on 127.0.0.1.
	HealthPort int
	// Resync is the time after which everything is compared again without an event.
	Resync time.Duration
	// LogLevel is the lowest level that is logged.
	LogLevel slog.Level
	// LogFormat is text or json.
	LogFormat string
	// Kubeconfig is the path of a kubeconfig; empty: the pod's service account.
	Kubeconfig string

	// told is every setting as it was told, for the log.
	told []slog.Attr
}

// LogValue lists every setting by its flag's name, in the order of the help.
func (s Settings) LogValue() slog.Value { return slog.GroupValue(s.told...) }

// Parse reads the settings from args, without the program's name, and where a
// flag is absent from the environment, by lookup. An environment variable that is
// empty counts as absent. The error is flag.ErrHelp when help was asked for, or
// else holds one line for every problem, naming flag, variable and remedy.
func Parse(args []string, lookup func(string) (string, bool)) (Settings, error) {
	told, problems := parseFlags(args)
	if slices.ContainsFunc(problems, func(err error) bool { return errors.Is(err, flag.ErrHelp) }) {
		return Settings{}, flag.ErrHelp
	}
	var s Settings
	for _, o := range options() {
		value, given := told[o.name]
		if !given {
			if fromEnv, ok := lookup(o.variable()); ok && fromEnv != "" {
				value, given = fromEnv, true
			}
		}
		if !given {
			value = o.preset
		}
		if err := o.read(&s, value); err != nil {
			problems = append(problems, fmt.Errorf("--%s (%s): %w", o.name, o.variable(), err))
		}
		s.told = append(s.told, slog.String(o.name, value))
	}
	if len(problems) > 0 {
		return Settings{}, errors.Join(problems...)
	}
	return s, nil
}

// parseFlags returns the flags that were given, unread, and what is wrong with
// how they were written. It goes on after a mistake, so that all are reported.
func parseFlags(args []string) (told map[string]string, problems []error) {
	told = map[string]string{}
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, o := range options() {
		record := func(value string) error { told[o.name] = value; return nil }
		if o.isBool {
			set.BoolFunc(o.name, o.usage, record)
		} else {
			set.Func(o.name, o.usage, record)
		}
	}
	for {
		if err := set.Parse(args); err != nil {
			problems = append(problems, fmt.Errorf("%w: see --help", err))
			if errors.Is(err, flag.ErrHelp) {
				return told, problems
			}
			args = set.Args()
			continue
		}
		if set.NArg() == 0 {
			return told, problems
		}
		problems = append(problems, fmt.Errorf("argument %q is not understood: write settings as --name=value, see --help", set.Arg(0)))
		args = set.Args()[1:]
	}
}

// Help returns the text for a person who asks for help.
func Help(program string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `%[1]s keeps the Calico HostEndpoint of one node and arms it once all policies of its release are there.

Usage:
  %[1]s [--name=value ...]   keep the endpoint, until SIGTERM
  %[1]s version              print the version
  %[1]s --help               print this text

A setting is read from its flag, else from its environment variable, else it has its default.
`, program)
	flags, variables := 0, 0
	for _, o := range options() {
		flags, variables = max(flags, len(o.name)), max(variables, len(o.variable()))
	}
	group := ""
	for _, o := range options() {
		if o.group != group {
			group = o.group
			fmt.Fprintf(&b, "\n%s:\n", group)
		}
		preset := "default: " + o.preset
		switch {
		case o.required:
			preset = "required"
		case o.preset == "":
			preset = "default: empty"
		}
		fmt.Fprintf(&b, "  --%-*s  %-*s  %s\n      %s\n", flags, o.name, variables, o.variable(), preset, o.usage)
	}
	return b.String()
}
