package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// memory is what the kernel says of a process, in bytes.
type memory struct{ resident, anonymous int64 }

func memoryOf(pid int) (memory, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, fmt.Errorf("read memory: %w", err)
	}
	return parseMemory(string(raw))
}

func parseMemory(rollup string) (m memory, err error) {
	for line := range strings.Lines(rollup) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		kilobytes, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("read memory: %w", err)
		}
		switch f[0] {
		case "Rss:":
			m.resident = kilobytes << 10
		case "Anonymous:":
			m.anonymous = kilobytes << 10
		}
	}
	return m, nil
}

// peakOf is the most memory that a process has had.
func peakOf(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return parsePeak(string(raw))
}

func parsePeak(status string) (int64, error) {
	const key = "VmHWM:"
	for line := range strings.Lines(status) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == key {
			kilobytes, err := strconv.ParseInt(f[1], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("read memory: there is no %s", key)
}

// ticks is how many there are in a second of /proc/PID/stat, on every Linux.
const ticks = 100

// stat is what /proc/PID/stat says.
type stat struct {
	cpu     time.Duration // of the process and of its children that have ended
	started time.Duration // since the machine booted
}

func statOf(pid int) (stat, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, fmt.Errorf("read CPU time: %w", err)
	}
	return parseStat(string(raw))
}

func parseStat(text string) (s stat, err error) {
	// The name of the program, in parentheses, may hold anything.
	f := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(f) < 20 {
		return s, fmt.Errorf("read CPU time: %q is not understood", text)
	}
	number := func(i int) time.Duration {
		n, parseErr := strconv.ParseInt(f[i], 10, 64)
		err = errors.Join(err, parseErr)
		return time.Duration(n) * time.Second / ticks
	}
	s = stat{cpu: number(11) + number(12) + number(13) + number(14), started: number(19)}
	return s, err
}

// startOf is when a process was started.
func startOf(pid int) (time.Time, error) {
	s, err := statOf(pid)
	if err != nil {
		return time.Time{}, err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, fmt.Errorf("read clock: %w", err)
	}
	return time.Now().Add(s.started - time.Duration(boot.Nano())), nil
}

// instance is one running pod.
type instance struct {
	pod, container string
	pid            int // of the container's first process
}

// find waits for the pod that a contender runs on a node, on any if the node is empty: its status comes after its deeds.
func (b *bench) find(ctx context.Context, c *contender, node string) (found instance, err error) {
	err = cluster.Poll(ctx, time.Minute, "a pod of "+c.name, func(ctx context.Context) (err error) {
		found, err = b.running(ctx, c, node)
		return err
	})
	return found, err
}

func (b *bench) running(ctx context.Context, c *contender, node string) (instance, error) {
	options := metav1.ListOptions{LabelSelector: c.pods}
	if node != "" {
		options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
	}
	list, err := b.client.CoreV1().Pods(c.namespace).List(ctx, options)
	if err != nil {
		return instance{}, fmt.Errorf("list pods: %w", err)
	}
	for _, p := range list.Items {
		if p.DeletionTimestamp != nil || len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Running == nil {
			continue
		}
		found := instance{pod: p.Name, container: p.Status.ContainerStatuses[0].ContainerID}
		pids, err := host.ProcessesOf(found.container)
		if err != nil {
			return instance{}, err
		}
		for _, pid := range pids {
			if isFirst(pid) {
				found.pid = pid
				return found, nil
			}
		}
	}
	return instance{}, fmt.Errorf("no pod %s runs on node %q", c.pods, node)
}

// isFirst tells whether a process is the first one of its container.
func isFirst(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && innermost(string(raw)) == "1"
}

// innermost is the id of a process as it sees it itself.
func innermost(status string) string {
	for line := range strings.Lines(status) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(ids)
			return f[len(f)-1]
		}
	}
	return ""
}

// sample takes the memory of all processes of a container together again and again for a while. It returns the least and
// the most of each figure.
func sample(ctx context.Context, container string, window time.Duration) (least, most memory, err error) {
	least = memory{resident: math.MaxInt64, anonymous: math.MaxInt64}
	for end := time.Now().Add(window); time.Now().Before(end); {
		pids, err := host.ProcessesOf(container)
		if err != nil {
			return least, most, err
		}
		var now memory
		for _, pid := range pids {
			if m, err := memoryOf(pid); err == nil { // else it has ended meanwhile
				now.resident += m.resident
				now.anonymous += m.anonymous
			}
		}
		least.resident, least.anonymous = min(least.resident, now.resident), min(least.anonymous, now.anonymous)
		most.resident, most.anonymous = max(most.resident, now.resident), max(most.anonymous, now.anonymous)
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return least, most, err
		}
	}
	return least, most, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
