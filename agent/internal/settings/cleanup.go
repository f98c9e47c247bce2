package settings

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Cleanup is everything that the command cleanup is told, checked.
type Cleanup struct {
	// Settings are those that the command has in common with the agent: release,
	// API group, arming labels, kubeconfig and log. The others are not set.
	Settings
	// Namespace is the namespace of the DaemonSet.
	Namespace string
	// DaemonSet is the name of the DaemonSet that runs the agents.
	DaemonSet string
	// Timeout is how long the command tries.
	Timeout time.Duration
}

// LogValue lists every setting by its flag's name, in the order of the help.
func (c Cleanup) LogValue() slog.Value { return slog.GroupValue(c.told...) }

// ParseCleanup reads the settings of the command cleanup as Parse reads the
// agent's.
func ParseCleanup(args []string, lookup func(string) (string, bool)) (Cleanup, error) {
	var c Cleanup
	told, err := read(cleanupOptions(&c), &c.Settings, args, lookup)
	if err != nil {
		return Cleanup{}, err
	}
	c.told = told
	return c, nil
}

// cleanupOptions are all settings of the command cleanup, in the order of the
// help text. Those that it shares with the agent are the agent's own options.
func cleanupOptions(c *Cleanup) []option {
	const (
		identity = "What to remove"
		cluster  = "The API server"
		running  = "The command itself"
	)
	agents := options()
	shared := func(group, name string) option {
		o := agents[slices.IndexFunc(agents, func(o option) bool { return o.name == name })]
		o.group = group
		return o
	}
	return []option{
		shared(identity, "release"),
		{
			group: identity, name: "namespace", required: true,
			usage: "namespace of the DaemonSet",
			read: func(_ *Settings, text string) error {
				c.Namespace = text
				return check(text, "the name of a namespace", validation.IsDNS1123Label)
			},
		},
		{
			group: identity, name: "daemonset", required: true,
			usage: "name of the DaemonSet that runs the agents",
			read: func(_ *Settings, text string) error {
				c.DaemonSet = text
				return check(text, "the name of a DaemonSet", validation.IsDNS1123Subdomain)
			},
		},
		shared(identity, "arming-labels"),
		shared(cluster, "api-group"),
		shared(cluster, "kubeconfig"),
		{
			group: running, name: "timeout", preset: "4m",
			usage: "how long to try; agents that do not stop are waited for half of it",
			read: func(_ *Settings, text string) (err error) {
				if c.Timeout, err = time.ParseDuration(text); err != nil || c.Timeout < time.Second {
					return fmt.Errorf("%q is no time of at least a second: write for example 4m", text)
				}
				return nil
			},
		},
		shared(running, "log-level"),
		shared(running, "log-format"),
	}
}

// CleanupHelp returns the text for a person who asks for help with the command
// cleanup.
func CleanupHelp(program string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `%[1]s cleanup removes what the agents of a release have made: it stops their DaemonSet, then removes every
HostEndpoint of the release and what they wrote into FelixConfigurations. It can be run again at any time.

Usage:
  %[1]s cleanup [--name=value ...]

A setting is read from its flag, else from its environment variable, else it has its default.
`, program)
	writeOptions(&b, cleanupOptions(&Cleanup{}))
	return b.String()
}
