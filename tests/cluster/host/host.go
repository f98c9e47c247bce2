package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a running host: its folder and the id, on the machine, of its first process.
type Host struct {
	Spec
	Dir string
	PID int
}

// Start makes a host. program is the binary that calls Init when its first argument is InitCommand; console, when the
// spec asks for one, is a listener on the machine's loopback. network gives the running host its interfaces, before
// any component starts. When it fails, nothing of the host is left.
func Start(program, dir string, spec *Spec, console *net.TCPListener, network func(*Host) error) (*Host, error) {
	if err := writeSpec(dir, spec); err != nil {
		return nil, err
	}
	log, err := openLog(spec.Logs, "init")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	wait, signal, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start host %s: %w", spec.Name, err)
	}
	defer wait.Close()
	defer signal.Close()
	cmd := exec.Command(program, InitCommand, dir)
	cmd.Env = Environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{wait}
	if console != nil {
		socket, err := console.File()
		if err != nil {
			return nil, fmt.Errorf("start host %s: %w", spec.Name, err)
		}
		defer socket.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, socket)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start host %s: %w", spec.Name, err)
	}
	go func() { _ = cmd.Wait() }() // no zombie, should this program outlive the host
	h := &Host{Spec: *spec, Dir: dir, PID: cmd.Process.Pid}
	// Before the interfaces, which take theirs from what is set then.
	if err := h.setSysctls(); err != nil {
		return nil, errors.Join(fmt.Errorf("start host %s: %w", spec.Name, err), h.Kill())
	}
	if err := network(h); err != nil {
		return nil, errors.Join(fmt.Errorf("connect host %s: %w", spec.Name, err), h.Kill())
	}
	if _, err := signal.Write([]byte{1}); err != nil {
		return nil, errors.Join(fmt.Errorf("start host %s: %w", spec.Name, err), h.Kill())
	}
	return h, nil
}

// Running lists the hosts whose folders are below dir, by looking at what runs on the machine: no file can be stale, and
// no other program is taken for ours.
func Running(dir string) ([]*Host, error) {
	var hosts []*Host
	_, err := processes(func(pid int, proc string) bool {
		cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		if err != nil {
			return false // it has ended meanwhile
		}
		args := bytes.Split(cmdline, []byte{0})
		if len(args) < 3 || string(args[1]) != InitCommand || filepath.Dir(string(args[2])) != filepath.Clean(dir) {
			return false
		}
		h := &Host{Dir: string(args[2]), PID: pid, Spec: Spec{Name: filepath.Base(string(args[2]))}}
		// A host whose folder has been deleted can still be named, and ended.
		if spec, err := readSpec(h.Dir); err == nil {
			h.Spec = *spec
		}
		hosts = append(hosts, h)
		return true
	})
	return hosts, err
}

// Kill ends the host and everything on it, and returns when the kernel is done with it. A host that has ended already
// is no error.
func (h *Host) Kill() error { return kill(h.PID, "host "+h.Name) }

// setSysctls sets the host's own: what a thread finds in /proc/sys/net is of the network namespace that it is in.
func (h *Host) setSysctls() error {
	return InNetNS(h.NetNS(), func() error {
		for name, value := range h.Sysctls {
			files, err := filepath.Glob(filepath.Join("/proc/sys", name))
			if err == nil && len(files) == 0 {
				err = fs.ErrNotExist
			}
			for _, file := range files {
				err = errors.Join(err, os.WriteFile(file, []byte(value), 0o644))
			}
			if err != nil {
				return fmt.Errorf("set sysctl %s: %w", name, err)
			}
		}
		return nil
	})
}

// Command is a command that will run on the host, in all its namespaces and with its environment.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(h.PID), "--mount", "--net", "--pid", "--uts", "--ipc", "--", name}, args...)...)
	cmd.Env = Environment()
	return cmd
}

// NetNS is the path of the host's network namespace.
func (h *Host) NetNS() string { return fmt.Sprintf("/proc/%d/ns/net", h.PID) }

// Netlink opens a netlink handle inside the host's network namespace; close it after use.
func (h *Host) Netlink() (*netlink.Handle, error) {
	ns, err := netns.GetFromPath(h.NetNS())
	if err != nil {
		return nil, fmt.Errorf("open network of %s: %w", h.Name, err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, fmt.Errorf("open network of %s: %w", h.Name, err)
	}
	return handle, nil
}

// InNetNS calls do on a thread that is in the network namespace with this path. Sockets that do opens are in that
// namespace, as long as it opens them itself and not in another goroutine.
func InNetNS(path string, do func() error) error {
	result := make(chan error, 1)
	go func() {
		// Not unlocked: the thread can't be given back to others and ends with this goroutine.
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(path)
		if err != nil {
			result <- fmt.Errorf("open network namespace: %w", err)
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- do()
	}()
	return <-result
}

// ProcessOf returns the id, on the machine, of a process in the container with this id, as a Pod's status has it.
// fs.ErrNotExist: no such process.
func ProcessOf(containerID string) (int, error) {
	pids, err := ProcessesOf(containerID)
	if err != nil {
		return 0, err
	}
	if len(pids) == 0 {
		return 0, fmt.Errorf("find a process of container %s: %w", containerID, fs.ErrNotExist)
	}
	return pids[0], nil
}

// ProcessesOf returns the ids, on the machine, of all processes in the container with this id, as a Pod's status has it. They
// are found by their control group.
func ProcessesOf(containerID string) ([]int, error) {
	id := []byte(strings.TrimPrefix(containerID, "containerd://"))
	return processes(func(_ int, proc string) bool {
		groups, err := os.ReadFile(filepath.Join(proc, "cgroup"))
		return err == nil && bytes.Contains(groups, id)
	})
}

// processes returns the ids of the machine's processes that are wanted, each shown with its folder in /proc.
func processes(wanted func(pid int, proc string) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && wanted(pid, filepath.Join("/proc", e.Name())) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// DialContext connects from this host. The address has to be a literal one: names are looked up by the machine.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = InNetNS(h.NetNS(), func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// HTTPClient asks from this host, with a new connection for each request. Addresses have to be literal ones.
func (h *Host) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: h.DialContext}}
}
