// Package settings reads what the program is told, from flags and environment.
package settings

import (
	"cmp"
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

// When an agent looks who is connected to its node: while that matters, always or never.
const WatchAuto, WatchAlways, WatchNever = "auto", "always", "never"

// Settings is everything that a command is told, checked. A field is called like its
// option, whose usage says what it means. What a command is not told is empty.
type Settings struct {
	NodeName, OwnNode, Release, Namespace     string
	DaemonSet, Deployment, Account, TestPod   string
	APIGroup, Kubeconfig                      string
	Mode                                      string // ModeEnforce, ModeAudit or ModeOff
	WatchPeers                                string // WatchAuto, WatchAlways or WatchNever
	Set, Rollout                              string
	Policies                                  map[string]string // digests by name
	EndpointLabels                            map[string]string
	Interfaces, NodeLabels, AcceptPolicies    []string
	SSHCIDRs, ClusterCIDRs, AcceptCutsCIDRs   []netip.Prefix
	SSHPorts, APIServerPorts, AcceptCutsPorts []uint16
	OnWouldCut                                string // ReportCuts or WaitForCuts
	Adopt, NarrowFailsafe, TrustNodes, Verify bool
	HealthPort                                int
	MetricsAddress                            string
	Resync, Timeout, Confirm, Wait            time.Duration
	LogLevel                                  slog.Level
	LogFormat, Output                         string
	Old, New                                  string
	Agentless

	// told is every setting as it was told, for the log.
	told []slog.Attr
}

// Off tells whether no endpoint is to be armed.
func (s Settings) Off() bool { return s.Mode == ModeOff }

// LogValue lists every setting by its flag's name, in the order of the help.
func (s Settings) LogValue() slog.Value { return slog.GroupValue(s.told...) }

// Parse reads the settings from args, without the program's name and the command's, and
// where a flag is absent from the environment, by lookup. An environment variable that is
// empty counts as absent. The error is flag.ErrHelp when help was asked for, or
// else holds one line for every problem, naming flag, variable and remedy.
func (c Command) Parse(args []string, lookup func(string) (string, bool)) (Settings, error) {
	var s Settings
	options := c.options(&s)
	given, problems := parseFlags(options, c.named(args))
	if slices.ContainsFunc(problems, func(err error) bool { return errors.Is(err, flag.ErrHelp) }) {
		return Settings{}, flag.ErrHelp
	}
	for _, o := range options {
		value, there := given[o.name]
		if !there {
			if value, there = lookup(o.variable()); !there || value == "" {
				value = o.fallback()
			}
		}
		for _, err := range each(o.read(value)) {
			problems = append(problems, fmt.Errorf("--%s (%s): %w", o.name, o.variable(), err))
		}
		s.told = append(s.told, slog.String(o.name, value))
	}
	if err := errors.Join(problems...); err != nil {
		return Settings{}, err
	}
	return s, nil
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
		if o.isBool() {
			set.BoolFunc(o.name, o.usage, record)
		} else {
			set.Func(o.name, o.usage, record)
		}
		if o.name == "output" {
			set.Func("o", o.usage, record)
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
func (c Command) Help(program string) string {
	options := c.options(&Settings{})
	flags, variables := 0, 0
	for _, o := range options {
		flags, variables = max(flags, len(o.name)), max(variables, len(o.variable()))
	}
	var b strings.Builder
	fmt.Fprint(&b, strings.ReplaceAll(c.about, "PROGRAM", program),
		"\n\nA setting is read from its flag, else from its environment variable, else it has its default.\n")
	for _, g := range c.groups {
		fmt.Fprintf(&b, "\n%s:\n", g.title)
		for _, o := range options[:len(g.names)] {
			preset := "default: " + cmp.Or(o.preset, "empty")
			if o.preset == required {
				preset = required
			}
			fmt.Fprintf(&b, "  --%-*s  %-*s  %s\n      %s\n", flags, o.name, variables, o.variable(), preset, o.usage)
		}
		options = options[len(g.names):]
	}
	return b.String()
}
