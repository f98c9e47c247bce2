// Package status says how a release is: which nodes are armed, what is not as the values
// ask for, and what it waits for. All of that follows from one look at the cluster.
package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// poll is how often the cluster is looked at while something is not as it should be.
const poll = time.Second

// ErrNotWell says no more than what was printed.
var ErrNotWell = errors.New("not all is well")

// Seen is what one look has found.
type Seen struct {
	// Controller tells that the present one is ready.
	Controller bool
	// Wanted is how many nodes are to have an agent, Updated how many have the present one.
	Wanted, Updated int
	// Observed tells that Kubernetes has counted them, Created when what runs them was made.
	Observed bool
	Created  time.Time
	Static   bool // agents are static pods, of which neither is known
	// Agents are those that have a node and are not about to end.
	Agents []Agent
	// Data and Annotations are those of the clearance, nil where there is none.
	Data, Annotations map[string]string
	Nodes             []string            // all
	Endpoints         []*v3.HostEndpoint  // everybody's
	Policies          []*policyset.Policy // the release's
}

// Agent is one pod. Ready tells that it finds everything as it should be, and Since since
// when it does or does not; Old that it is a static pod, and not the one of the release.
type Agent struct {
	Node, Pod  string
	Ready, Old bool
	Since      time.Time
}

// Run looks, as Look does, until the release is as it should be, or the time to wait for that is
// over, and prints what it saw last. The error is ErrNotWell, or says why the last look failed.
func Run(ctx context.Context, look func(context.Context) (Seen, error), told settings.Settings, out io.Writer) error {
	over := time.Now().Add(told.Wait)
	var last *report
	for {
		seen, err := look(ctx)
		if err == nil {
			last = judge(told, seen, time.Now())
		} else {
			err = fmt.Errorf("cannot look at release %s: %w", told.Release, err)
		}
		left := time.Until(over)
		switch {
		case err == nil && last.Well:
			return last.print(out)
		case left <= 0 && last == nil:
			return err
		case left <= 0:
			return cmp.Or(errors.Join(last.print(out), err), ErrNotWell)
		}
		select {
		case <-ctx.Done():
			over = time.Now()
		case <-time.After(min(poll, left)):
		}
	}
}
