// Package cleanup takes back what the agents of a release have made, so that the
// release can go. It does it in an order in which no node is ever shut out:
// agents stop, all endpoints are disarmed, and only then the first one goes.
// A rule that trusts the nodes knows them by their endpoints, so a node that lost
// its endpoint would be a stranger to those that are still armed.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

const (
	// poll is how often the DaemonSet is looked at while it goes.
	poll = time.Second
	// retryFirst and retryMost bound the pause after a round that failed.
	retryFirst = time.Second
	retryMost  = 10 * time.Second
	// parallel is how many requests are made at a time.
	parallel = 16

	// What those write on what they install that run hooks as hooks. Argo CD's label is
	// no mark: the chart has it, too.
	markOfHelm = "meta.helm.sh/release-name"
	markOfArgo = "argocd.argoproj.io/tracking-id"
)

// ErrRefused tells that nothing was touched, and will not be the next time either.
var ErrRefused = errors.New("refused")

// Cluster is what the package needs of the API server.
type Cluster interface {
	// Groups returns the API groups by which Calico's objects may be reached.
	Groups() []Group
	// DaemonSet and Account return the annotations of a DaemonSet and a ServiceAccount; of
	// one that is not there it has none.
	DaemonSet(ctx context.Context, namespace, name string) (annotations map[string]string, err error)
	Account(ctx context.Context, namespace, name string) (annotations map[string]string, err error)
	// StopDaemonSet deletes a DaemonSet in such a way that it is there until its pods
	// are gone, and may be called again meanwhile. It returns whether it is still
	// there, and how many pods it had when it last looked.
	StopDaemonSet(ctx context.Context, namespace, name string) (there bool, pods int, err error)
	// DeletePod deletes a Pod.
	DeletePod(ctx context.Context, namespace, name string) error
}

// Group is one of Calico's API groups. Where both of them are served they may be two
// ways to the same objects.
type Group interface {
	// Name is the name and version of the group.
	Name() string
	// Endpoints returns all HostEndpoints, whosever they are.
	Endpoints(ctx context.Context) ([]*v3.HostEndpoint, error)
	// PatchEndpoint applies a JSON merge patch.
	PatchEndpoint(ctx context.Context, name string, patch []byte) error
	// DeleteEndpoint deletes an endpoint, in the version that is given.
	DeleteEndpoint(ctx context.Context, hep *v3.HostEndpoint) error
	// FelixConfigurations returns all FelixConfigurations.
	FelixConfigurations(ctx context.Context) ([]*failsafe.Configuration, error)
	// PatchFelix applies a JSON merge patch.
	PatchFelix(ctx context.Context, name string, patch []byte) (*failsafe.Configuration, error)
	// DeleteFelix deletes a FelixConfiguration, in the version that is given.
	DeleteFelix(ctx context.Context, configuration *failsafe.Configuration) error
}

// Config says what to remove.
type Config struct {
	// Release is the value of endpoint.ReleaseLabel.
	Release string
	// ArmingLabels are the labels that arm an endpoint of the release.
	ArmingLabels map[string]string
	// Namespace and DaemonSet are where the agents run.
	Namespace, DaemonSet string
	// Account is the ServiceAccount of the cleanup, in the same namespace.
	Account string
	// APIGroup is the Group that the agents write to; empty: they find out.
	APIGroup string
	// TestPod is a Pod in the same namespace that goes as well: Helm leaves that of
	// helm test behind. Empty: there is none.
	TestPod string
	// Timeout is how long to try.
	Timeout time.Duration
}

// Run removes everything, and says on out what it does. It can be run again after
// it was cut off, and when there is nothing left to do. The error says what is
// still there.
func Run(ctx context.Context, cluster Cluster, config Config, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, config.Timeout)
	defer cancel()
	c := &cleaner{cluster: cluster, config: config, out: out}
	err := c.persistAll(ctx, []step{
		{"find out who has installed the release", c.lookForDeployer},
		{"reach Calico's objects", c.reach},
	})
	if err != nil {
		return err
	}
	if err := c.stopAgents(ctx); err != nil {
		return err
	}
	steps := []step{{"remove HostEndpoints", c.inEach(c.removeEndpoints)}, {"take back failsafe ports", c.inEach(c.restoreFailsafes)}}
	if config.TestPod != "" {
		steps = append(steps, step{"remove the Pod of helm test", c.removeTestPod})
	}
	if err := c.persistAll(ctx, steps); err != nil {
		return err
	}
	c.say("no HostEndpoint and no failsafe ports of release %s are left%s", config.Release, c.unseen)
	return nil
}

// step is one thing to do.
type step struct {
	// what it is, for a person.
	what string
	do   func(context.Context) error
}

type cleaner struct {
	cluster Cluster
	config  Config

	groups []Group // that answer
	unseen string  // which are served, but don't

	mu  sync.Mutex
	out io.Writer
}

// say writes one line. Nobody can be told that a line could not be written.
func (c *cleaner) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// persistAll does one step after the other.
func (c *cleaner) persistAll(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := c.persist(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// persist does a step until it succeeds, is refused, or the time is over. What goes
// wrong is said once, until it is something else.
func (c *cleaner) persist(ctx context.Context, s step) error {
	told := ""
	for delay := retryFirst; ; delay = min(2*delay, retryMost) {
		err := s.do(ctx)
		if err == nil || errors.Is(err, ErrRefused) {
			return err
		}
		if ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			c.say("cannot %s, trying again: %s", s.what, told)
		}
		pause := delay
		if seconds, suggested := apierrors.SuggestsClientDelay(err); suggested {
			pause = max(pause, time.Duration(seconds)*time.Second)
		}
		select {
		case <-ctx.Done():
			if told == "" {
				told = err.Error()
			}
			return fmt.Errorf("cannot %s, and the time is over: %s", s.what, told)
		case <-time.After(pause):
		}
	}
}

// lookForDeployer refuses where the release was installed by none of those that know
// a hook for what it is: others would run the cleanup as soon as they apply it. A mark
// on one of two objects is enough. The DaemonSet is the first to go, and somebody may
// have made one of them again by hand.
func (c *cleaner) lookForDeployer(ctx context.Context) error {
	marked := func(annotations map[string]string) bool {
		return annotations[markOfHelm] != "" || annotations[markOfArgo] != ""
	}
	annotations, err := c.cluster.DaemonSet(ctx, c.config.Namespace, c.config.DaemonSet)
	if err != nil || marked(annotations) {
		return err
	}
	annotations, err = c.cluster.Account(ctx, c.config.Namespace, c.config.Account)
	if err != nil || marked(annotations) {
		return err
	}
	return fmt.Errorf("%w: neither Helm nor Argo CD has installed release %s, for its DaemonSet has neither the annotation %s nor %s. "+
		"So this is no uninstall, but a hook that was applied like any other object, as `helm template | kubectl apply` does. "+
		"Nothing was touched. Render with --no-hooks, and delete this Job", ErrRefused, c.config.Release, markOfHelm, markOfArgo)
}

// reach looks at all that the cleanup will have to change, so that nothing is stopped
// that could not be taken back as well. The group that the agents write to may be gone,
// or its server may be cut off. Then what they wrote has to show in the other one, where
// Calico keeps what it is told through the first.
func (c *cleaner) reach(ctx context.Context) error {
	c.groups, c.unseen = nil, ""
	reached := c.config.APIGroup == ""
	var problems []string
	for _, group := range c.cluster.Groups() {
		shows, err := c.shows(ctx, group)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", group.Name(), err))
			if !apierrors.IsNotFound(err) {
				c.unseen += fmt.Sprintf(", but nobody could look in %s: %v", group.Name(), err)
			}
			continue
		}
		c.groups = append(c.groups, group)
		reached = reached || group.Name() == c.config.APIGroup || shows
	}
	if len(c.groups) == 0 || !reached {
		return fmt.Errorf("%s. Felix may go on enforcing what cannot be seen, so nothing is touched; "+
			"where Calico is gone for good, write helm uninstall --no-hooks", strings.Join(problems, "; "))
	}
	return nil
}

// shows tells whether a group has anything of the release.
func (c *cleaner) shows(ctx context.Context, group Group) (bool, error) {
	endpoints, err := c.endpoints(ctx, group)
	if err != nil {
		return false, err
	}
	configurations, err := group.FelixConfigurations(ctx)
	ours := func(f *failsafe.Configuration) bool { return failsafe.WrittenBy(f) == c.config.Release }
	return len(endpoints) > 0 || slices.ContainsFunc(configurations, ours), err
}

// inEach does something in every group that was reached. One that is away by now keeps
// nothing from being opened by the other.
func (c *cleaner) inEach(do func(context.Context, Group) error) func(context.Context) error {
	return func(ctx context.Context) error {
		var problems []error
		for _, group := range c.groups {
			problems = append(problems, do(ctx, group))
		}
		return errors.Join(problems...)
	}
}

// stopAgents deletes the DaemonSet and waits for its pods. A pod on a node that
// does not answer never goes; after half of the time it is left alone, for its
// agent can do no more than the API server lets it.
func (c *cleaner) stopAgents(ctx context.Context) error {
	subject := fmt.Sprintf("DaemonSet %s/%s", c.config.Namespace, c.config.DaemonSet)
	patience, cancel := context.WithTimeout(ctx, c.config.Timeout/2)
	defer cancel()
	began, left := false, -1
	for {
		var there bool
		var pods int
		err := c.persist(patience, step{"stop " + subject, func(ctx context.Context) (err error) {
			there, pods, err = c.cluster.StopDaemonSet(ctx, c.config.Namespace, c.config.DaemonSet)
			return err
		}})
		switch {
		case err != nil && !began:
			// Agents that run would put back what is removed.
			return err
		case err == nil && !there && !began:
			c.say("%s is not there, so no agents run", subject)
			return nil
		case err == nil && !there:
			c.say("%s is gone, and its pods", subject)
			return nil
		case err == nil && (!began || pods != left):
			c.say("stopping %s, %d pods left", subject, pods)
			began, left = true, pods
		}
		select {
		case <-patience.Done():
			if ctx.Err() != nil {
				return fmt.Errorf("stop %s: %w", subject, ctx.Err())
			}
			c.say("%s still has %d pods, on nodes that do not answer: going on without them", subject, left)
			return nil
		case <-time.After(poll):
		}
	}
}

// removeTestPod removes the Pod that helm test has left, if it was run.
func (c *cleaner) removeTestPod(ctx context.Context) error {
	return c.did("removed Pod "+c.config.TestPod, c.cluster.DeletePod(ctx, c.config.Namespace, c.config.TestPod))
}

// removeEndpoints disarms every endpoint of the release and then removes it. It
// fails when any is left.
func (c *cleaner) removeEndpoints(ctx context.Context, group Group) error {
	endpoints, err := c.endpoints(ctx, group)
	if err != nil {
		return err
	}
	shape := endpoint.Shape{Release: c.config.Release}
	armed := slices.DeleteFunc(slices.Clone(endpoints), func(hep *v3.HostEndpoint) bool { return endpoint.SetOf(hep) == "" })
	if len(armed) > 0 {
		err := each(armed, func(hep *v3.HostEndpoint) error {
			patch, err := shape.Patch(hep, shape.Disarmed(hep))
			if err == nil {
				err = group.PatchEndpoint(ctx, hep.Name, patch)
			}
			return c.did("disarmed HostEndpoint "+hep.Name, err)
		})
		if err != nil {
			return err
		}
		// They are others now, and deleted are only those that were seen.
		if endpoints, err = c.endpoints(ctx, group); err != nil {
			return err
		}
		if slices.ContainsFunc(endpoints, func(hep *v3.HostEndpoint) bool { return endpoint.SetOf(hep) != "" }) {
			return errors.New("HostEndpoints have been armed again: is an agent of the release still running?")
		}
	}
	err = each(endpoints, func(hep *v3.HostEndpoint) error {
		return c.did("removed HostEndpoint "+hep.Name, group.DeleteEndpoint(ctx, hep))
	})
	if err != nil {
		return err
	}
	if endpoints, err = c.endpoints(ctx, group); err != nil || len(endpoints) == 0 {
		return err
	}
	return fmt.Errorf("HostEndpoints have come back, among them %s: is an agent of the release still running?", endpoints[0].Name)
}

// endpoints returns those of the release.
func (c *cleaner) endpoints(ctx context.Context, group Group) ([]*v3.HostEndpoint, error) {
	all, err := group.Endpoints(ctx)
	return slices.DeleteFunc(all, func(hep *v3.HostEndpoint) bool { return endpoint.ReleaseOf(hep) != c.config.Release }), err
}

// restoreFailsafes takes back what the agents of the release wrote into
// FelixConfigurations.
func (c *cleaner) restoreFailsafes(ctx context.Context, group Group) error {
	all, err := group.FelixConfigurations(ctx)
	if err != nil {
		return err
	}
	var problems []error
	type task struct {
		configuration *failsafe.Configuration
		change        failsafe.Change
	}
	var tasks []task
	for _, configuration := range all {
		node, ofNode := strings.CutPrefix(configuration.Name, failsafe.Name(""))
		if !ofNode {
			continue
		}
		change, err := failsafe.Plan(configuration, nil, node, c.config.Release, nil, nil)
		if err != nil {
			problems = append(problems, err)
		} else if !change.None() {
			tasks = append(tasks, task{configuration, change})
		}
	}
	err = each(tasks, func(t task) error {
		if t.change.Delete {
			return c.did("removed FelixConfiguration "+t.configuration.Name, group.DeleteFelix(ctx, t.configuration))
		}
		_, err := group.PatchFelix(ctx, t.configuration.Name, t.change.Patch)
		return c.did("put the failsafe ports of FelixConfiguration "+t.configuration.Name+" back", err)
	})
	if problems = append(problems, err); errors.Join(problems...) != nil {
		return errors.Join(problems...)
	}
	return nil
}

// did says what was done. What was gone before is no error.
func (c *cleaner) did(what string, err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		c.say("%s", what)
	}
	return err
}

// each does something to all items, some at a time, and returns the first error
// in their order and how many there were.
func each[T any](items []T, do func(T) error) error {
	failures := make([]error, len(items))
	slots := make(chan struct{}, parallel)
	var group sync.WaitGroup
	for i, item := range items {
		slots <- struct{}{}
		group.Go(func() {
			failures[i] = do(item)
			<-slots
		})
	}
	group.Wait()
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	switch len(failures) {
	case 0:
		return nil
	case 1:
		return failures[0]
	}
	return fmt.Errorf("%w (and %d more problems)", failures[0], len(failures)-1)
}
