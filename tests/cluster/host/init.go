package host

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// InitCommand is the first argument with which the program given to Start is run as a host's init; it has to call Init
// with the argument behind it.
const InitCommand = "host-init"

// File descriptors that Start hands to the init.
const (
	goPipe        = 3 // one byte when the network is there; closed without one when the host is not wanted after all
	consoleSocket = 4 // a listening socket of the machine's loopback, for a host that has a console
)

// restartAfter keeps a component that can't start yet (its socket or server isn't there) from spinning.
const restartAfter = 200 * time.Millisecond

// Init is the host's first process: it gives the host mounts of its own, waits until its network is there, then runs
// the components and starts each again when it ends. It never returns without an error.
func Init(dir string) error {
	spec, err := readSpec(dir)
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	// The log files are opened by the paths of the machine, so before the host's own mounts hide some of them.
	logs := map[string]*os.File{}
	for _, c := range spec.Components {
		if logs[c.Name], err = openLog(spec.Logs, c.Name); err != nil {
			return err
		}
	}
	if err := mountOwn(spec.State); err != nil {
		return err
	}
	if n, _ := os.NewFile(goPipe, "go").Read(make([]byte, 1)); n == 0 {
		return errors.New("wait for the network: whoever started this host has gone")
	}
	for name, value := range spec.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl: %w", err)
		}
	}
	if spec.Console != "" {
		console, err := net.FileListener(os.NewFile(consoleSocket, "console"))
		if err != nil {
			return fmt.Errorf("open console: %w", err)
		}
		go forward(console, spec.Console)
	}
	s := supervisor{dir: dir, running: map[int]Component{}, logs: logs}
	for _, c := range spec.Components {
		s.start(c)
	}
	return s.reap()
}

func openLog(dir, name string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// mountOwn gives the host its own /proc, /run and /var/lib. Mounts made on the host stay on the host, yet are shared
// between its processes, as kubelet and containerd need.
func mountOwn(state string) error {
	type mount struct {
		source, target, fstype string
		flags                  uintptr
	}
	mounts := []mount{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"", "/", "", unix.MS_REC | unix.MS_SHARED},
		{"proc", "/proc", "proc", 0},
	}
	if state != "" {
		if err := os.MkdirAll(state, 0o755); err != nil {
			return fmt.Errorf("make the host's /var/lib: %w", err)
		}
		mounts = append(mounts, mount{state, "/var/lib", "", unix.MS_BIND})
	}
	// No name is ever looked up out there. The file can be a link into /run, so it comes first.
	if _, err := os.Stat("/etc/resolv.conf"); err == nil {
		mounts = append(mounts, mount{os.DevNull, "/etc/resolv.conf", "", unix.MS_BIND})
	}
	mounts = append(mounts, mount{"tmpfs", "/run", "tmpfs", 0})
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// forward connects every connection of the machine's listener to an address of this host.
func forward(l net.Listener, to string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer out.Close()
			go func() {
				_, _ = io.Copy(out, in)
				_ = out.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(in, out)
		}()
	}
}

// supervisor runs the components. Being the host's first process it also inherits the orphans of everything that runs
// there (containerd's shims leave some), so one loop waits for all children, which rules out exec.Cmd.
type supervisor struct {
	dir     string
	mu      sync.Mutex
	running map[int]Component
	logs    map[string]*os.File
}

func (s *supervisor) start(c Component) {
	s.mu.Lock() // a component that ends at once is looked up only after it was entered
	defer s.mu.Unlock()
	if _, err := os.Stat(stoppedMark(s.dir, c.Name)); err == nil {
		time.AfterFunc(restartAfter, func() { s.start(c) })
		return
	}
	out := s.logs[c.Name].Fd()
	path, err := exec.LookPath(c.Args[0])
	if err == nil {
		var pid int
		pid, err = syscall.ForkExec(path, c.Args, &syscall.ProcAttr{
			Dir:   "/",
			Env:   environment(c),
			Files: []uintptr{devNull().Fd(), out, out},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
		if err == nil {
			s.running[pid] = c
			slog.Info("started", "component", c.Name, "pid", pid)
			return
		}
	}
	slog.Error("can't start", "component", c.Name, "error", err)
	time.AfterFunc(restartAfter, func() { s.start(c) })
}

// devNull is opened once; a component reads nothing. It is the file and not its descriptor, which is closed with a file that
// nobody holds any more.
var devNull = sync.OnceValue(func() *os.File {
	f, err := os.Open(os.DevNull)
	if err != nil {
		panic(err) // no machine is without it
	}
	return f
})

func (s *supervisor) reap() error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ECHILD):
			<-children
			continue
		case err != nil:
			return fmt.Errorf("wait for children: %w", err)
		}
		s.mu.Lock()
		c, ours := s.running[pid]
		delete(s.running, pid)
		s.mu.Unlock()
		if ours {
			slog.Info("ended", "component", c.Name, "pid", pid, "exit", status.ExitStatus(), "signal", status.Signal())
			time.AfterFunc(restartAfter, func() { s.start(c) })
		}
	}
}

// environment is the machine's, with what the component sets in the place of what the
// machine has under the same name: whoever starts a cluster may have a KUBECONFIG.
func environment(c Component) []string {
	return (&exec.Cmd{Env: append(os.Environ(), c.Env...)}).Environ()
}
