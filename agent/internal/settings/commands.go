package settings

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Command is everything that a command is told, checked.
type Command struct {
	// Settings are those that the command has in common with the agent. The others
	// are not set.
	Settings
	// DaemonSet and Deployment are the names of those that run the agents and the
	// controller.
	DaemonSet, Deployment string
	// Account is the ServiceAccount of the cleanup, in the same namespace.
	Account string
	// TestPod is the Pod of helm test, in the same namespace; empty: there is none.
	TestPod string
	// Timeout is how long the command tries.
	Timeout time.Duration
}

// ParseCleanup reads the settings of the command cleanup as Parse reads the
// agent's.
func ParseCleanup(args []string, lookup func(string) (string, bool)) (Command, error) {
	return parseCommand(cleanupOptions, args, lookup)
}

// ParseVerify reads the settings of the command verify as Parse reads the agent's.
func ParseVerify(args []string, lookup func(string) (string, bool)) (Command, error) {
	return parseCommand(verifyOptions, args, lookup)
}

func parseCommand(options func(*Command) []option, args []string, lookup func(string) (string, bool)) (Command, error) {
	var c Command
	told, err := read(options(&c), &c.Settings, args, lookup)
	if err != nil {
		return Command{}, err
	}
	c.told = told
	return c, nil
}

// cleanupOptions are all settings of the command cleanup, in the order of the
// help text.
func cleanupOptions(c *Command) []option {
	const identity = "What to remove"
	return slices.Concat(
		shared(identity, "release"),
		whereabouts(identity, c),
		[]option{nameOf(identity, "account", "ServiceAccount", "name of the ServiceAccount of the cleanup, on which it shows who has installed the release", &c.Account), {
			group: identity, name: "test-pod",
			usage: "name of the Pod that helm test has left; empty: none",
			read: func(_ *Settings, text string) error {
				c.TestPod = text
				if text == "" {
					return nil
				}
				return check(text, "the name of a Pod", validation.IsDNS1123Subdomain)
			},
		}},
		shared(apiServer, "api-group", "kubeconfig"),
		timeout(c, "4m", "how long to try; for pods that do not end it waits an eighth of it, for the controller's and the agents' each"),
		shared(itself, "log-level", "log-format"),
	)
}

// verifyOptions are all settings of the command verify, in the order of the help
// text.
func verifyOptions(c *Command) []option {
	const identity = "What to verify"
	return slices.Concat(
		shared(identity, "release", "mode", "policies", "set"),
		whereabouts(identity, c),
		shared(apiServer, "api-group", "kubeconfig"),
		timeout(c, "1m", "how long to wait for what is not as it should be yet"),
		shared(itself, "log-level", "log-format"),
	)
}

// The groups of options that all commands have.
const (
	apiServer = "The API server"
	itself    = "The command itself"
)

// shared returns settings of these names, in a group of the
// command's help text.
func shared(group string, names ...string) (some []option) {
	all := catalog()
	for _, name := range names {
		o := all[slices.IndexFunc(all, func(o option) bool { return o.name == name })]
		o.group = group
		some = append(some, o)
	}
	return some
}

// whereabouts say where agents and controller run.
func whereabouts(group string, c *Command) []option {
	return append(shared(group, "namespace"),
		nameOf(group, "daemonset", "DaemonSet", "name of the DaemonSet that runs the agents", &c.DaemonSet),
		nameOf(group, "deployment", "Deployment", "name of the Deployment that runs the controller", &c.Deployment))
}

// nameOf is the name of an object of a kind.
func nameOf(group, name, kind, usage string, into *string) option {
	return option{
		group: group, name: name, required: true, usage: usage,
		read: func(_ *Settings, text string) error {
			*into = text
			return check(text, "the name of a "+kind, validation.IsDNS1123Subdomain)
		},
	}
}

// timeout says how long the command tries.
func timeout(c *Command, preset, usage string) []option {
	return []option{{
		group: itself, name: "timeout", preset: preset, usage: usage,
		read: func(_ *Settings, text string) (err error) {
			if c.Timeout, err = time.ParseDuration(text); err != nil || c.Timeout < time.Second {
				return fmt.Errorf("%q is no time of at least a second: write for example %s", text, preset)
			}
			return nil
		},
	}}
}

// CleanupHelp returns the text for a person who asks for help with the command
// cleanup.
func CleanupHelp(program string) string {
	return help(program, "cleanup", `takes a firewall away: it closes the release's clearance, so that agents open their nodes and write
nothing any more, stops controller and agents, then removes what is left of the release's HostEndpoints, of what was written into
FelixConfigurations, of its GlobalNetworkPolicies and GlobalNetworkSets. It can be run again at any time. It touches nothing, and ends
with 2, where neither Helm nor Argo CD has installed the release: others run hooks as they apply them.`, cleanupOptions(&Command{}))
}

// VerifyHelp returns the text for a person who asks for help with the command
// verify.
func VerifyHelp(program string) string {
	return help(program, "verify", `proves a release: every node with an agent is armed with the set (in mode off none is), every policy of
the set is there and unchanged, the controller is ready and its clearance objects to nothing. It changes nothing, prints what it saw, and ends
with 1 if that is not so within the time.`, verifyOptions(&Command{}))
}

func help(program, command, what string, options []option) string {
	var b strings.Builder
	fmt.Fprintf(&b, `%[1]s %[2]s %[3]s

Usage:
  %[1]s %[2]s [--name=value ...]

A setting is read from its flag, else from its environment variable, else it has its default.
`, program, command, what)
	writeOptions(&b, options)
	return b.String()
}
