package settings

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Installed stands for what is installed in the cluster, where a file could be named.
const Installed = "installed"

// NeedsCluster tells whether the API server has to be asked: all but two renderings come from there.
func (s Settings) NeedsCluster() bool { return s.New == "" || s.Old == Installed }

// Preview is the command that says what changes in who may reach what.
func Preview() Command {
	return Command{
		about: `PROGRAM preview says what changes in who may reach what, between two renderings of the chart (of helm template, or helm get
manifest), or from what is installed to a rendering. Then it says as well who is or was connected and would not be let in any more, as far as
agents tell. It changes nothing, and ends with 0 whatever it finds, with 2 where it can't read a rendering. - is the standard input.

Usage:
  PROGRAM preview OLD NEW   compares two files, and asks no cluster
  PROGRAM preview NEW       compares what is installed
  helm template ... | kubectl -n NAMESPACE exec -i deploy/RELEASE-controller -- /PROGRAM preview -`,
		groups: []group{
			{"What to compare", []string{"old", "new", "release", "namespace"}},
			{apiServer, []string{"api-group", "kubeconfig"}},
			{itself, []string{"output", "log-level", "log-format"}},
		},
		logLevel: "warn",
		operands: []string{"old", "new"},
		spared:   []string{"release", "namespace"},
	}
}

// Rendered reads, of the arguments that a chart of any version gives an agent, those that say
// what may pass.
func Rendered(arguments []string) (Settings, error) {
	c := Command{groups: []group{{"", []string{"release", "namespace", "mode", "set", "interfaces", "ssh-cidrs", "ssh-ports", "narrow-failsafe"}}}}
	known := slices.DeleteFunc(slices.Clone(arguments), func(argument string) bool {
		name, _, _ := strings.Cut(strings.TrimLeft(argument, "-"), "=")
		return !slices.Contains(c.groups[0].names, name)
	})
	return c.Parse(known, func(string) (string, bool) { return "", false })
}

// compared say what is compared.
func (c Command) compared(s *Settings) []option {
	return []option{
		{"old", Installed, "file with the rendering before; - is the standard input, installed is what is installed as --release in --namespace",
			into(&s.Old, readFileName)},
		{"new", required, "file with the rendering after; - is the standard input",
			into(&s.New, readFileName)},
	}
}

func readFileName(text string) (string, error) {
	if text == "" {
		return "", errors.New("is required: write the name of a file, or - for the standard input")
	}
	return text, nil
}

// spare returns the option as one that need not be given, if it is one here.
func (c Command) spare(o option) option {
	if slices.Contains(c.spared, o.name) {
		read := o.read
		o.preset, o.read = "", func(text string) error {
			if text == "" {
				return nil
			}
			return read(text)
		}
	}
	return o
}

// named returns arguments with the names of those operands that are given without. All flags of
// such a command take a value.
func (c Command) named(args []string) (named []string) {
	var alone []int
	for i := 0; i < len(args); i++ {
		named = append(named, args[i])
		switch isFlag := strings.HasPrefix(args[i], "-") && args[i] != "-"; {
		case !isFlag:
			alone = append(alone, i)
		case !strings.Contains(args[i], "=") && i+1 < len(args):
			i++
			named = append(named, args[i])
		}
	}
	if len(alone) > len(c.operands) {
		return args
	}
	for i, at := range alone {
		named[at] = fmt.Sprintf("--%s=%s", c.operands[len(c.operands)-len(alone)+i], args[at])
	}
	return named
}
