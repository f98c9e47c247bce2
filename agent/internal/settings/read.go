package settings

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// into keeps what is read in a field.
func into[T any](field *T, read func(string) (T, error)) func(string) error {
	return func(text string) (err error) {
		*field, err = read(text)
		return err
	}
}

// optional reads an empty text as nothing.
func optional[T any](read func(string) (T, error)) func(string) (T, error) {
	return func(text string) (value T, err error) {
		if text != "" {
			value, err = read(text)
		}
		return value, err
	}
}

// valid reads a text that one of Kubernetes' validations takes.
func valid(what string, validate func(string) []string) func(string) (string, error) {
	return func(text string) (string, error) {
		if text == "" {
			return "", fmt.Errorf("is required: write %s", what)
		}
		if faults := validate(text); len(faults) > 0 {
			return "", fmt.Errorf("%q is not %s: %s", text, what, strings.Join(faults, "; "))
		}
		return text, nil
	}
}

// oneOf reads one of the choices.
func oneOf(choices ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if !slices.Contains(choices, text) {
			return "", fmt.Errorf("%q is not known: write %s", text, strings.Join(choices, " or "))
		}
		return text, nil
	}
}

func readBool(text string) (bool, error) {
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false: write one of them", text)
	}
	return value, nil
}

func readTime(example string) func(string) (time.Duration, error) {
	return func(text string) (time.Duration, error) {
		value, err := time.ParseDuration(text)
		if err != nil || value < time.Second {
			return 0, fmt.Errorf("%q is no time of at least a second: write for example %s", text, example)
		}
		return value, nil
	}
}

func readLevel(text string) (level slog.Level, err error) {
	if _, err = oneOf("debug", "info", "warn", "error")(text); err == nil {
		err = level.UnmarshalText([]byte(text))
	}
	return level, err
}

func readPort(text string) (int, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is no port: write a number from 1 to 65535", text)
	}
	return int(port), nil
}

// readListen reads where something is served.
func readListen(text string) (string, error) {
	at, err := netip.ParseAddrPort(text)
	if strings.HasPrefix(text, ":") {
		at, err = netip.ParseAddrPort("[::]" + text)
	}
	if err != nil || at.Port() == 0 {
		return "", fmt.Errorf("%q is no address of the node with a port: write for example 127.0.0.1:9096, [::1]:9096 or :9096", text)
	}
	return text, nil
}

// list reads what is separated by commas. Spaces around items and empty items don't
// count. The error joins one for each item that is bad.
func list[T any](read func(item string) (T, error)) func(string) ([]T, error) {
	return func(text string) (items []T, _ error) {
		var problems []error
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			item, err := read(part)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			items = append(items, item)
		}
		return items, errors.Join(problems...)
	}
}

// filled refuses a list that is empty.
func filled[T any](read func(string) ([]T, error), problem string) func(string) ([]T, error) {
	return func(text string) ([]T, error) {
		items, err := read(text)
		if len(items) == 0 && err == nil {
			err = errors.New(problem)
		}
		return items, err
	}
}

// names reads a list of names, each of which may be there once.
func names(what string, validate func(string) []string) func(string) ([]string, error) {
	return func(text string) ([]string, error) {
		seen := map[string]bool{}
		return list(func(name string) (string, error) {
			if seen[name] {
				return "", fmt.Errorf("%s %q is there twice: write it once", what, name)
			}
			seen[name] = true
			return valid("a valid "+what+" name", validate)(name)
		})(text)
	}
}

func checkPattern(pattern string) []string {
	if !endpoint.ValidPattern(pattern) {
		return []string{"write *, a name, or a glob such as eth* or bond?"}
	}
	return nil
}

func checkLabel(key string) []string {
	prefix, isPrefix := strings.CutSuffix(key, "*")
	if isPrefix && (prefix == "" || strings.HasSuffix(prefix, "/")) {
		// The rest of the key takes its place.
		prefix += "x"
	}
	return validation.IsQualifiedName(strings.TrimRight(prefix, "-_."))
}

// pairs reads a list of key=value, of which check says what is wrong.
func pairs(text string, check func(pair, key, value string, twice bool) error) (map[string]string, error) {
	read := map[string]string{}
	_, err := list(func(pair string) (string, error) {
		key, value, _ := strings.Cut(pair, "=")
		_, twice := read[key]
		read[key] = value
		return "", check(pair, key, value, twice)
	})(text)
	return read, err
}

// readDigests reads policies and the digests of their specs.
func readDigests(text string) (map[string]string, error) {
	digests, err := pairs(text, func(pair, name, digest string, twice bool) error {
		if len(validation.IsDNS1123Label(name)) > 0 || digest == "" || twice {
			return fmt.Errorf("%q is no policy, or is there twice: write name=digest, each once", pair)
		}
		return nil
	})
	if len(digests) == 0 {
		return nil, errors.New("is required: write name=digest of all GlobalNetworkPolicies of the set, comma separated")
	}
	return digests, err
}

// readLabels reads labels.
func readLabels(text string) (map[string]string, error) {
	return pairs(text, func(pair, key, value string, twice bool) error {
		keyFaults, valueFaults := validation.IsQualifiedName(key), validation.IsValidLabelValue(value)
		switch {
		case !strings.Contains(pair, "="):
			return fmt.Errorf("%q is not a label: write key=value", pair)
		case twice:
			return fmt.Errorf("label %q is there twice: write it once", key)
		case strings.HasPrefix(key, "host-firewall.io/"):
			return fmt.Errorf("label %q is the agent's own: write one that does not start with host-firewall.io/", key)
		case len(keyFaults) > 0:
			return fmt.Errorf("%q is not the key of a label: %s", key, strings.Join(keyFaults, "; "))
		case len(valueFaults) > 0:
			return fmt.Errorf("%q is not the value of a label: %s", value, strings.Join(valueFaults, "; "))
		}
		return nil
	})
}

func readCIDR(text string) (netip.Prefix, error) {
	cidr, err := netip.ParsePrefix(text)
	if err != nil {
		return cidr, fmt.Errorf("%q is not a network: write for example 192.0.2.0/24 or 2001:db8::/32", text)
	}
	return cidr.Masked(), nil
}

// readPorts reads a list of ports and ranges of them.
func readPorts(text string) ([]uint16, error) {
	ranges, err := filled(list(readRange), "is empty: write for example 22")(text)
	return slices.Concat(ranges...), err
}

func readRange(text string) (ports []uint16, err error) {
	first, last, isRange := strings.Cut(text, ":")
	if !isRange {
		last = first
	}
	from, err := readPort(first)
	to, problem := readPort(last)
	if err = cmp.Or(err, problem); err != nil {
		return nil, err
	}
	if to < from {
		return nil, fmt.Errorf("%q ends before it begins: write %s:%s", text, last, first)
	}
	for port := from; port <= to; port++ {
		ports = append(ports, uint16(port))
	}
	return ports, nil
}
