package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

// fleet is the process with all keepers.
type fleet struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *bufio.Scanner
	log     *os.File
}

// fleetReport is what it answers; see agent/internal/scalebench.
type fleetReport struct {
	Ready     int            `json:"ready"`
	Reasons   map[string]int `json:"reasons"`
	Resident  int64          `json:"residentBytes"`
	Anonymous int64          `json:"anonymousBytes"`
	Watches   int            `json:"watches"`
	Requests  map[string]int `json:"requests"`
	TooMany   int            `json:"tooManyRequests"`
	Disobeyed map[string]int `json:"retryAfterDisobeyed"`
}

func (b *bench) startFleet(ctx context.Context, st *stage, nodes []string) (*fleet, error) {
	list := filepath.Join(cluster.Folder(b.root), "nodes.txt")
	if err := os.WriteFile(list, []byte(strings.Join(nodes, "\n")), 0o644); err != nil {
		return nil, fmt.Errorf("write names of nodes: %w", err)
	}
	f := &fleet{}
	var err error
	if f.cmd, f.log, err = b.command(ctx, "keepers", st.keepers, append([]string{list, st.kubeconfigs[loadAccount]}, st.a.agent...)...); err != nil {
		return nil, err
	}
	if f.stdin, err = f.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start keepers: %w", err)
	}
	stdout, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start keepers: %w", err)
	}
	f.answers = bufio.NewScanner(stdout)
	f.answers.Buffer(nil, 1<<20)
	if err := f.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start keepers: %w", err)
	}
	return f, nil
}

// command is one on the control plane's host, which writes its errors to a log.
func (b *bench) command(ctx context.Context, name, program string, args ...string) (*exec.Cmd, *os.File, error) {
	cmd, err := b.cluster.Command(ctx, cluster.ControlPlaneNode, program, args...)
	if err != nil {
		return nil, nil, err
	}
	log, err := os.OpenFile(filepath.Join(b.cluster.Logs(), "scale-"+name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	cmd.Stderr = log
	return cmd, log, nil
}

// ask says a line and returns the answer.
func (f *fleet) ask(words ...string) (r fleetReport, err error) {
	line := strings.Join(words, " ")
	if _, err := fmt.Fprintln(f.stdin, line); err != nil {
		return r, fmt.Errorf("tell the keepers %q: %w", line, err)
	}
	if !f.answers.Scan() {
		return r, errors.Join(fmt.Errorf("the keepers have ended: see %s", f.log.Name()), f.answers.Err())
	}
	if err := json.Unmarshal(f.answers.Bytes(), &r); err != nil {
		return r, fmt.Errorf("read the keepers' answer: %w", err)
	}
	return r, nil
}

// awaitReady waits until all keepers are, or the limit is over.
func (f *fleet) awaitReady(ctx context.Context, keepers int, limit time.Time) (r fleetReport, err error) {
	r, err = f.ask("status")
	for err == nil && r.Ready < keepers && time.Now().Before(limit) {
		if err = sleep(ctx, time.Second); err == nil {
			r, err = f.ask("status")
		}
	}
	return r, err
}

// stop ends the process.
func (f *fleet) stop() error {
	defer f.log.Close()
	_ = f.stdin.Close() // it ends with its input
	if err := f.cmd.Wait(); err != nil {
		return fmt.Errorf("end keepers: %w", err)
	}
	return nil
}

// controller is the process of the controller.
type controller struct {
	cmd   *exec.Cmd
	log   *os.File
	pid   int
	since time.Time
}

func (b *bench) startController(ctx context.Context, st *stage, args []string) (*controller, error) {
	c := &controller{since: time.Now()}
	var err error
	if c.cmd, c.log, err = b.command(ctx, "controller", st.agent, append(args, "--kubeconfig="+st.kubeconfigs[controllerAccount])...); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start controller: %w", err)
	}
	if c.pid, err = b.only(ctx, st.agent); err != nil {
		return nil, fmt.Errorf("%w: see %s", err, c.log.Name())
	}
	return c, nil
}

// only is the one process on the control plane's host that runs the program.
func (b *bench) only(ctx context.Context, program string) (pid int, err error) {
	h, err := b.cluster.Host(cluster.ControlPlaneNode)
	if err != nil {
		return 0, err
	}
	err = cluster.Poll(ctx, 10*time.Second, "one process of "+program, func(context.Context) error {
		pids, err := h.Processes(program)
		if err == nil && len(pids) != 1 {
			err = fmt.Errorf("there are %d", len(pids))
		}
		if err == nil {
			pid = pids[0]
		}
		return err
	})
	return pid, err
}

// stop ends the process as a pod is ended.
func (c *controller) stop() error {
	defer c.log.Close()
	if err := syscall.Kill(c.pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end controller: %w", err)
	}
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("end controller: %w: see %s", err, c.log.Name())
	}
	return nil
}

// use is what it has needed since it was started.
func (b *bench) use(c *controller) (u Use, err error) {
	m, err := memoryOf(c.pid)
	if err != nil {
		return u, err
	}
	s, err := statOf(c.pid)
	if err != nil {
		return u, err
	}
	u = Use{CPU: s.cpu.Seconds(), Resident: m.resident, Anonymous: m.anonymous, Requests: map[string]int{}}
	if u.Peak, err = peakOf(c.pid); err != nil {
		return u, err
	}
	requests, err := b.cluster.Requests("system:serviceaccount:" + releaseNamespace + ":" + controllerAccount)
	if err != nil {
		return u, err
	}
	for _, r := range requests {
		if r.At.After(c.since) {
			u.Requests[kind(r.Call)]++
		}
	}
	return u, nil
}
