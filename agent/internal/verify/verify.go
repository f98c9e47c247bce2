// Package verify proves a release: it looks at what is in the cluster until that
// is what the values ask for, or says what is not.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// poll is how often the cluster is looked at while something is not as it should
// be.
const poll = time.Second

// Cluster is what the package needs of the API server.
type Cluster interface {
	// Find finds out how Calico is reached, before anything else.
	Find(ctx context.Context) error
	// Rollout returns how far the agents of a DaemonSet and the controller of a Deployment
	// are. The absence of one is an error.
	Rollout(ctx context.Context, namespace, daemonSet, deployment string) (Rollout, error)
	// ConfigMap returns what a ConfigMap says, nothing where there is none.
	ConfigMap(ctx context.Context, namespace, name string) (data, annotations map[string]string, err error)
	// Nodes returns the names of all Nodes.
	Nodes(ctx context.Context) ([]string, error)
	// Endpoints returns all HostEndpoints, whosever they are.
	Endpoints(ctx context.Context) ([]*v3.HostEndpoint, error)
	// Policies returns the policies of the release.
	Policies(ctx context.Context) ([]*policyset.Policy, error)
}

// Rollout is how far the agents and the controller are.
type Rollout struct {
	// Controller tells that the present one is ready.
	Controller bool
	// Wanted is how many nodes are to have an agent, and Updated how many have the
	// present one.
	Wanted, Updated int
	// Agents are those that have a node and are not about to end.
	Agents []Agent
}

// Agent is one pod of the DaemonSet.
type Agent struct {
	// Node is where it runs.
	Node string
	// Pod is its name.
	Pod string
	// Ready tells that the agent itself finds everything as it should be, and Since
	// since when it does or does not.
	Ready bool
	Since time.Time
}

// Run looks at the release until it is as it should be, or the time is over, and
// prints what it saw last. The error says that the release is not proven.
func Run(ctx context.Context, cluster Cluster, told settings.Settings, out io.Writer) error {
	var last report
	var broken error
	ever := false
	err := wait.PollUntilContextTimeout(ctx, poll, told.Timeout, true, func(ctx context.Context) (bool, error) {
		seen, err := look(ctx, cluster, told)
		switch {
		case err == nil:
			last, broken, ever = judge(want{told}, seen), nil, true
			return len(last.problems) == 0, nil
		case ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) || !ever:
			// What comes of the end of the time says less than what was seen before.
			broken = err
		}
		return false, nil
	})
	switch {
	case err == nil:
		return last.print(out)
	case broken != nil:
		return fmt.Errorf("cannot look at release %s: %w", told.Release, broken)
	}
	return errors.Join(last.print(out), fmt.Errorf("release %s is not as it should be", told.Release))
}

// look reads everything once.
func look(ctx context.Context, cluster Cluster, told settings.Settings) (s seen, err error) {
	if err = cluster.Find(ctx); err != nil {
		return s, err
	}
	if s.Rollout, err = cluster.Rollout(ctx, told.Namespace, told.DaemonSet, told.Deployment); err != nil {
		return s, err
	}
	if s.data, s.annotations, err = cluster.ConfigMap(ctx, told.Namespace, told.Release); err != nil {
		return s, err
	}
	if s.nodes, err = cluster.Nodes(ctx); err != nil {
		return s, err
	}
	if s.endpoints, err = cluster.Endpoints(ctx); err != nil {
		return s, err
	}
	s.policies, err = cluster.Policies(ctx)
	return s, err
}
