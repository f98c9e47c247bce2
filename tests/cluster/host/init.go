package host

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

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

// Init is the host's first process: it gives the host mounts of its own, waits until its network is there, then runs
// the components and starts each again when it ends. It never returns without an error.
func Init(dir string) error {
	spec, err := readSpec(dir)
	if err != nil {
		return err
	}
	unix.Umask(0o022) // that of whoever starts the host may hide from pods what components write
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
	if spec.Console != "" {
		console, err := net.FileListener(os.NewFile(consoleSocket, "console"))
		if err != nil {
			return fmt.Errorf("open console: %w", err)
		}
		go forward(console, spec.Console)
	}
	s, err := newSupervisor(dir, logs)
	if err != nil {
		return err
	}
	for _, c := range spec.Components {
		s.start(c)
	}
	return s.reap()
}

func openLog(dir, name string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
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
