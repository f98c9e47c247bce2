package host

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// restartAfter keeps a component that can't start yet (its socket or server isn't there) from spinning.
	restartAfter = 200 * time.Millisecond
	// A component that has lived for steady has started; one that has ended hopeless times before that never will.
	steady   = 5 * time.Second
	hopeless = 5
)

// supervisor runs the components. Being the host's first process it also inherits the orphans of everything that runs
// there (containerd's shims leave some), so one loop waits for all children, which rules out exec.Cmd.
type supervisor struct {
	dir     string
	steady  time.Duration
	logs    map[string]*os.File
	mu      sync.Mutex
	running map[int]*life
	ends    map[string]int // of a component, since it was last steady
}

// life is a component from one start to the next end.
type life struct {
	Component
	log int64 // where in its log it begins
}

// newSupervisor forgets what was told of an earlier life of the host.
func newSupervisor(dir string, logs map[string]*os.File) (*supervisor, error) {
	s := &supervisor{dir: dir, steady: steady, logs: logs, running: map[int]*life{}, ends: map[string]int{}}
	for component := range logs {
		if err := s.forget(component); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// forget is for a component of which nothing is known, or that is steady.
func (s *supervisor) forget(component string) error {
	s.ends[component] = 0
	if err := os.Remove(dyingMark(s.dir, component)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget ends of %s: %w", component, err)
	}
	return nil
}

func (s *supervisor) start(c Component) {
	s.mu.Lock() // a component that ends at once is looked up only after it was entered
	defer s.mu.Unlock()
	if _, err := os.Stat(stoppedMark(s.dir, c.Name)); err == nil {
		time.AfterFunc(restartAfter, func() { s.start(c) })
		return
	}
	pid, l, err := s.fork(c)
	if err != nil {
		slog.Error("can't start", "component", c.Name, "error", err)
		time.AfterFunc(restartAfter, func() { s.start(c) })
		return
	}
	s.running[pid] = l
	slog.Info("started", "component", c.Name, "pid", pid)
	time.AfterFunc(s.steady, func() { s.lives(pid, l) })
}

func (s *supervisor) fork(c Component) (pid int, l *life, err error) {
	path, err := exec.LookPath(c.Args[0])
	if err != nil {
		return 0, nil, err
	}
	log := s.logs[c.Name]
	before, err := log.Stat()
	if err != nil {
		return 0, nil, err
	}
	pid, err = syscall.ForkExec(path, c.Args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   environment(c),
		Files: []uintptr{devNull().Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	return pid, &life{c, before.Size()}, err
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

// lives forgets the ends of a component that has not ended again.
func (s *supervisor) lives(pid int, l *life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[pid] != l {
		return
	}
	if err := s.forget(l.Name); err != nil {
		slog.Error(err.Error())
	}
}

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
		s.ended(pid, status)
	}
}

// ended starts a component again, and tells of one that ends each time before it is steady.
func (s *supervisor) ended(pid int, status syscall.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ours := s.running[pid]
	if !ours {
		return
	}
	delete(s.running, pid)
	slog.Info("ended", "component", l.Name, "pid", pid, "exit", status.ExitStatus(), "signal", status.Signal())
	time.AfterFunc(restartAfter, func() { s.start(l.Component) })
	if s.ends[l.Name]++; s.ends[l.Name] < hopeless {
		return
	}
	text := fmt.Sprintf("ended %d times, each within %s of its start. Its last words:\n%s", s.ends[l.Name], s.steady, s.words(l))
	if err := os.WriteFile(dyingMark(s.dir, l.Name), []byte(text), 0o644); err != nil {
		slog.Error("can't tell that a component is dying", "component", l.Name, "error", err)
	}
}

// lastWords are as many lines of a log as tell why.
const lastWords = 6

// panicked begins what a Go program says when it ends in a way that nobody has foreseen. Goroutines' stacks follow.
var panicked = regexp.MustCompile(`(?m)^(panic|fatal error): `)

// words are what a component said last in its life: how its panic begins, or else the end.
func (s *supervisor) words(l *life) string {
	const most = 1 << 20
	raw, err := io.ReadAll(io.NewSectionReader(s.logs[l.Name], l.log, most))
	if err != nil {
		return err.Error()
	}
	if at := panicked.FindIndex(raw); at != nil {
		lines := strings.Split(string(raw[at[0]:]), "\n")
		return strings.Join(lines[:min(lastWords, len(lines))], "\n")
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-lastWords):], "\n")
}

// dyingMark is a file in the folder of a host; it is there while a component ends again and again, and says so.
func dyingMark(dir, component string) string { return filepath.Join(dir, dyingPrefix+component) }

const dyingPrefix = "dying-"

// Dying names a component of the host that ends again and again, with its last words. No component does: nil.
func (h *Host) Dying() error {
	marks, err := filepath.Glob(dyingMark(h.Dir, "*"))
	if err != nil {
		return fmt.Errorf("look for components that end: %w", err)
	}
	var dying []error
	for _, mark := range marks {
		text, err := os.ReadFile(mark)
		if errors.Is(err, os.ErrNotExist) || err == nil && len(text) == 0 {
			continue // it lives after all, or is just being told of
		}
		if err == nil {
			err = errors.New(string(text))
		}
		dying = append(dying, fmt.Errorf("%s on %s %w", strings.TrimPrefix(filepath.Base(mark), dyingPrefix), h.Name, err))
	}
	return errors.Join(dying...)
}
