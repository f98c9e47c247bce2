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

// The modes.
const (
	// ModeEnforce arms the endpoints and narrows the failsafe where that is asked for.
	ModeEnforce = "enforce"
	// ModeAudit arms them for policies that drop nothing, and leaves the failsafe alone.
	ModeAudit = "audit"
	// ModeOff keeps every endpoint unarmed and leaves the failsafe alone.
	ModeOff = "off"
)

// Settings is everything that the agent is told, checked.
type Settings struct {
	// NodeName is the Node that this agent looks after.
	NodeName string
	// Release is the id that all objects of the release are labelled with.
	Release string
	// Namespace is the namespace of the release.
	Namespace string
	// Set is the revision of the policies that nodes are armed with, and Policies are the
	// digests of their specs by their names.
	Set      string
	Policies map[string]string
	// Mode is ModeEnforce, ModeAudit or ModeOff.
	Mode string
	// APIGroup is the group and version to reach Calico by; empty: find it.
	APIGroup string
	// EndpointLabels are what an armed endpoint carries for policies of the user's own.
	EndpointLabels map[string]string
	// Interfaces are "*", names and globs of the interfaces that get an endpoint.
	Interfaces []string
	// NodeLabels are keys, or with a * at the end beginnings of keys, of the labels
	// of the Node that the endpoint gets.
	NodeLabels []string
	// Adopt takes over an endpoint that has the right name and is nobody's.
	Adopt bool
	// AcceptPolicies are policies of others that may apply to the node; "*": all.
	AcceptPolicies []string
	// SSHCIDRs and SSHPorts are who may use SSH, and where it listens.
	SSHCIDRs []netip.Prefix
	SSHPorts []uint16
	// NarrowFailsafe makes Felix's failsafe hold SSH open to SSHCIDRs only.
	NarrowFailsafe bool
	// TrustNodes lets every node in to every other one.
	TrustNodes bool
	// APIServerPorts are the TCP ports that the policies let everybody in to.
	APIServerPorts []uint16
	// ClusterCIDRs are the networks that the policies trust anyway.
	ClusterCIDRs []netip.Prefix
	// HealthPort is the port of /livez and /readyz on 127.0.0.1.
	HealthPort int
	// MetricsAddress is where /metrics is served; empty: nowhere.
	MetricsAddress string
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
	var s Settings
	told, err := read(options(), &s, args, lookup)
	if err != nil {
		return Settings{}, err
	}
	s.told = told
	return s, nil
}

// read reads all options into s. It returns what was told, or an error as Parse
// does.
func read(options []option, s *Settings, args []string, lookup func(string) (string, bool)) (told []slog.Attr, err error) {
	given, problems := parseFlags(options, args)
	if slices.ContainsFunc(problems, func(err error) bool { return errors.Is(err, flag.ErrHelp) }) {
		return nil, flag.ErrHelp
	}
	for _, o := range options {
		value, there := given[o.name]
		if !there {
			if fromEnv, ok := lookup(o.variable()); ok && fromEnv != "" {
				value, there = fromEnv, true
			}
		}
		if !there {
			value = o.preset
		}
		for _, err := range each(o.read(s, value)) {
			problems = append(problems, fmt.Errorf("--%s (%s): %w", o.name, o.variable(), err))
		}
		told = append(told, slog.String(o.name, value))
	}
	return told, errors.Join(problems...)
}

// each takes joined errors apart.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// parseFlags returns the flags that were given, unread, and what is wrong with
// how they were written. It goes on after a mistake, so that all are reported.
func parseFlags(options []option, args []string) (told map[string]string, problems []error) {
	told = map[string]string{}
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, o := range options {
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
	fmt.Fprintf(&b, `%[1]s keeps the Calico HostEndpoints of one node and arms them when the controller of its release gives clearance.

Usage:
  %[1]s [--name=value ...]   keep the endpoints, until SIGTERM
  %[1]s controller           say which nodes may be armed, until SIGTERM; see %[1]s controller --help
  %[1]s cleanup              remove what the agents of a release have made; see %[1]s cleanup --help
  %[1]s verify               prove a release; see %[1]s verify --help
  %[1]s version              print the version
  %[1]s --help               print this text

A setting is read from its flag, else from its environment variable, else it has its default.
`, program)
	writeOptions(&b, options())
	return b.String()
}

// writeOptions lists options for a person, by their group.
func writeOptions(b *strings.Builder, options []option) {
	flags, variables := 0, 0
	for _, o := range options {
		flags, variables = max(flags, len(o.name)), max(variables, len(o.variable()))
	}
	group := ""
	for _, o := range options {
		if o.group != group {
			group = o.group
			fmt.Fprintf(b, "\n%s:\n", group)
		}
		preset := "default: " + o.preset
		switch {
		case o.required:
			preset = "required"
		case o.preset == "":
			preset = "default: empty"
		}
		fmt.Fprintf(b, "  --%-*s  %-*s  %s\n      %s\n", flags, o.name, variables, o.variable(), preset, o.usage)
	}
}
