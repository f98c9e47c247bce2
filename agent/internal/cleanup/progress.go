package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/util/workqueue"

	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// So many requests are made at a time, and of many objects about so many lines are said.
const parallel, lines = 16, 10

// cleaner is one run.
type cleaner struct {
	cluster Cluster
	told    settings.Settings

	groups []Group // that answer
	unseen string  // which are served, but don't
	left   bool    // there was something of the release
	closed bool    // the clearance is

	mu  sync.Mutex
	out io.Writer
}

// say writes one line. Nobody can be told that a line could not be written.
func (c *cleaner) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// each does something to all objects, some at a time, and says how far it is. What was
// gone before is no error. It returns the first error in their order and how many there
// were.
func each[T metav1.Object](c *cleaner, did string, objects []T, do func(T) error) error {
	failures := make([]error, len(objects))
	all, done := len(objects), 0
	// What do does with them ends them in time.
	workqueue.ParallelizeUntil(context.Background(), parallel, all, func(i int) {
		err := do(objects[i])
		failures[i] = ignoreNotFound(err)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			return
		}
		if done++; done%max(1, all/lines) == 0 || done == all {
			fmt.Fprintf(c.out, "%s %s (%d of %d)\n", did, objects[i].GetName(), done, all)
		}
	})
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	if len(failures) < 2 {
		return errors.Join(failures...)
	}
	return fmt.Errorf("%w (and %d more problems)", failures[0], len(failures)-1)
}

// ignoreNotFound leaves out that there is nothing to remove.
func ignoreNotFound(err error) error { return utilerrors.FilterOut(err, apierrors.IsNotFound) }
