package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stoppedMark is a file in the folder of a host; while it is there, the component isn't started.
func stoppedMark(dir, component string) string { return filepath.Join(dir, "stopped-"+component) }

// Stop ends a component at once, as a crash would, and keeps it from being started again until Resume.
func (h *Host) Stop(component string) error {
	if err := os.WriteFile(stoppedMark(h.Dir, component), nil, 0o644); err != nil {
		return fmt.Errorf("stop %s on %s: %w", component, h.Name, err)
	}
	return h.Crash(component)
}

// Resume lets a component that was stopped be started again. One that wasn't is no error.
func (h *Host) Resume(component string) error {
	if err := os.Remove(stoppedMark(h.Dir, component)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("resume %s on %s: %w", component, h.Name, err)
	}
	return nil
}

// Crash ends a component at once and returns when it has ended. The host starts it again.
func (h *Host) Crash(component string) error {
	pid, err := h.pidOf(component)
	if err != nil {
		return err
	}
	return kill(pid, component+" on "+h.Name)
}

// Signal sends a signal to a component.
func (h *Host) Signal(component string, signal unix.Signal) error {
	pid, err := h.pidOf(component)
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, signal); err != nil {
		return fmt.Errorf("signal %s on %s: %w", component, h.Name, err)
	}
	return nil
}

// pidOf finds a component by its command, or the end of it: what starts a component may become it. A component that is
// just being started again is waited for.
func (h *Host) pidOf(component string) (int, error) {
	i := slices.IndexFunc(h.Components, func(c Component) bool { return c.Name == component })
	if i < 0 {
		return 0, fmt.Errorf("host %s has no %s", h.Name, component)
	}
	command := "\x00" + strings.Join(h.Components[i].Args, "\x00") + "\x00"
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(restartAfter / 4) {
		pids, err := h.processes(func(cmdline []byte) bool {
			return len(cmdline) > 0 && strings.HasSuffix(command, "\x00"+string(cmdline))
		})
		switch {
		case err != nil:
			return 0, err
		case len(pids) > 0:
			return slices.Min(pids), nil
		case time.Now().After(deadline):
			return 0, fmt.Errorf("%s isn't running on %s", component, h.Name)
		}
	}
}

// Processes returns the ids, on the machine, of the host's processes that were started as this program.
func (h *Host) Processes(program string) ([]int, error) {
	return h.processes(func(cmdline []byte) bool { return bytes.HasPrefix(cmdline, []byte(program+"\x00")) })
}

// processes returns the ids, on the machine, of the host's processes whose command is wanted.
func (h *Host) processes(wanted func(cmdline []byte) bool) ([]int, error) {
	const namespace = "ns/pid"
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", h.PID, namespace))
	if err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", h.Name, err)
	}
	return processes(func(_ int, proc string) bool {
		cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		if err != nil || !wanted(cmdline) {
			return false
		}
		its, err := os.Readlink(filepath.Join(proc, namespace))
		return err == nil && its == own
	})
}

// kill ends a process and returns when the kernel is done with it. One that has ended already is no error.
func kill(pid int, what string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end %s: %w", what, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end %s: %w", what, err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for the end of %s: %w", what, err)
		case n == 0:
			return fmt.Errorf("%s (process %d) has not ended within 30 seconds of SIGKILL", what, pid)
		}
		return nil
	}
}
