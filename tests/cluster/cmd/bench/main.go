// Command bench measures the agent beside what a user would otherwise run, on a cluster that it starts for that, and writes
// benchmarks.md and benchmarks.json. It ends with 0 only if what the agent is held to is kept.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/bench"
)

const usage = `Measures the agent, the least that could do its work, the article's script and Calico's automatic host endpoints, all on
one cluster on this machine, and the agent's loop at scale. It needs what the test cluster needs (root).

The environment says how much:
  BENCH_ROUNDS=200   deleted endpoints, for each (10 at most for the script)
  BENCH_IDLE=5m      how long an idle process is watched
  BENCH_JOINS=3      nodes that join
  SCALE=1000,5000    numbers of nodes; 0: none
  BENCH_ONLY=        names of what is compared, comma separated, or none: %s
  BENCH_OUT=docs     the folder in which benchmarks.md and benchmarks.json are written
`

func main() {
	if len(os.Args) > 1 {
		fmt.Printf(usage, strings.Join([]string{bench.Floor, bench.Agent, bench.Article, bench.Calico, bench.Peers}, ", "))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	settings, err := read(os.Getenv)
	if err != nil {
		return err
	}
	report, err := bench.Run(ctx, root, settings, os.Stdout)
	if err != nil {
		if report != nil {
			fmt.Printf("\nwhat was measured until then (nothing is written):\n\n%s\n", report.Markdown())
		}
		return err
	}
	dir := os.Getenv("BENCH_OUT")
	if dir == "" {
		dir = filepath.Join(root, "docs")
	}
	if err := report.Write(dir); err != nil {
		return err
	}
	fmt.Printf("\n%s\nwritten to %s\n", report.Markdown(), dir)
	if broken := report.Broken(); len(broken) > 0 {
		return fmt.Errorf("%d promises are not kept:\n  %s", len(broken), strings.Join(broken, "\n  "))
	}
	return nil
}

// read reads the settings from the environment; everything bad is reported at once.
func read(env func(string) string) (bench.Settings, error) {
	var bad []error
	number := func(name string, preset int) int {
		text := env(name)
		if text == "" {
			return preset
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			bad = append(bad, fmt.Errorf("%s=%s: a number from 1 is wanted", name, text))
		}
		return n
	}
	s := bench.Settings{Rounds: number("BENCH_ROUNDS", 200), Joins: number("BENCH_JOINS", 3), Idle: 5 * time.Minute}
	s.BareNodes = min(s.Rounds, 20)
	if text := env("BENCH_IDLE"); text != "" {
		var err error
		if s.Idle, err = time.ParseDuration(text); err != nil || s.Idle < time.Second {
			bad = append(bad, fmt.Errorf("BENCH_IDLE=%s: a duration from 1s is wanted, such as 30s or 5m", text))
		}
	}
	scale := env("SCALE")
	if scale == "" {
		scale = "1000,5000"
	}
	for _, text := range strings.Split(scale, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 0 || n > mostNodes {
			bad = append(bad, fmt.Errorf("SCALE=%s: numbers of nodes are wanted, at most %d, such as 1000,5000", scale, mostNodes))
			break
		}
		if n > 0 {
			s.Scale = append(s.Scale, n)
		}
	}
	for _, name := range strings.Split(env("BENCH_ONLY"), ",") {
		switch name = strings.TrimSpace(name); name {
		case "":
		case none, bench.Floor, bench.Agent, bench.Article, bench.Calico, bench.Peers:
			s.Only = append(s.Only, name)
		default:
			bad = append(bad, fmt.Errorf("BENCH_ONLY=%s: there is no %q (bench help lists the names)", env("BENCH_ONLY"), name))
		}
	}
	return s, errors.Join(bad...)
}

// none is a name that no contender has.
const none = "none"

// mostNodes have addresses.
const mostNodes = 30000
