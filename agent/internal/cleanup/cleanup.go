// Package cleanup takes back what a release has made, so that the release can go. It
// closes the clearance first: then agents open their nodes by themselves and write
// nothing any more, also those that nobody can stop. What is left is removed in an order
// in which no node is ever shut out: a policy that lets somebody in must not go while an
// endpoint is there that another one closes.
package cleanup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

const (
	// poll is how often a workload is looked at while it goes.
	poll = time.Second
	// share is the part of the time, an eighth, for which the pods of a workload are waited
	// for. They obey the clearance, so nothing depends on their end.
	share = 8

	// What those write on what they install that run hooks as hooks. Argo CD's label is
	// no mark: the chart has it, too.
	markOfHelm = "meta.helm.sh/release-name"
	markOfArgo = "argocd.argoproj.io/tracking-id"
)

// ErrRefused tells that nothing was touched, and will not be the next time either.
var ErrRefused = errors.New("refused")

// Object names one, and a namespace where it is in one.
type Object struct{ Kind, Namespace, Name string }

// String is how a person calls it.
func (o Object) String() string { return o.Kind + " " + path.Join(o.Namespace, o.Name) }

// Cluster is what the package needs of the API server.
type Cluster interface {
	// Groups returns the API groups by which Calico's objects may be reached.
	Groups() []Group
	// Annotations returns the annotations of an object, and whether it is there.
	Annotations(ctx context.Context, object Object) (annotations map[string]string, there bool, err error)
	// SetData merges data into that of a ConfigMap. Where there is none it makes one, or
	// fails with apierrors.IsNotFound.
	SetData(ctx context.Context, configMap Object, data map[string]string, create bool) error
	// Delete deletes an object. In the foreground, which may be asked for again meanwhile,
	// it is there until what it owns is gone.
	Delete(ctx context.Context, object Object, foreground bool) error
}

// Group is one of Calico's API groups. Where both of them are served they may be two
// ways to the same objects.
type Group interface {
	// Name is the name and version of the group.
	Name() string
	// FelixConfigurations and Objects return all objects of a kind, whosever they are. Where
	// the group has no such kind, they fail with apierrors.IsNotFound.
	FelixConfigurations(ctx context.Context) ([]*failsafe.Configuration, error)
	Objects(ctx context.Context, kind string) ([]*metav1.PartialObjectMetadata, error)
	// PatchObject applies a JSON merge patch.
	PatchObject(ctx context.Context, kind, name string, patch []byte) error
	// DeleteObject deletes an object, in the version that is given.
	DeleteObject(ctx context.Context, kind string, object metav1.Object) error
}

// Run removes everything, and says on out what it does. It can be run again after
// it was cut off, and when there is nothing left to do. The error says what is
// still there.
func Run(ctx context.Context, cluster Cluster, told settings.Settings, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, told.Timeout)
	defer cancel()
	c := &cleaner{cluster: cluster, told: told, out: out}
	for _, s := range c.steps() {
		if err := c.persist(ctx, s); err != nil {
			return err
		}
	}
	c.say("no HostEndpoint, no failsafe ports, no policy and no trusted address of release %s are left%s", told.Release, c.unseen)
	return nil
}

// step is one thing to do.
type step struct {
	// what it is, for a person.
	what string
	do   func(context.Context) error
}

// steps are all of them. Each can be done again.
func (c *cleaner) steps() []step {
	return []step{
		{"find out who has installed the release", c.lookForDeployer},
		{"reach Calico's objects", c.reach},
		{"close the clearance", c.closeClearance},
		{"stop the controller", c.stop(c.object("Deployment", c.told.Deployment))},
		// One that was just starting took it for that of a release which is gone.
		{"close the clearance", c.closeClearance},
		{"stop the agents", c.stop(c.object("DaemonSet", c.told.DaemonSet))},
		{"remove HostEndpoints", c.inEach(c.removeEndpoints)},
		{"take back failsafe ports", c.inEach(c.restoreFailsafes)},
		{"remove policies", c.inEach(c.removeAll(v3.KindGlobalNetworkPolicy))},
		{"remove trusted addresses", c.inEach(c.removeAll(v3.KindGlobalNetworkSet))},
		{"remove the clearance", c.remove(c.object("ConfigMap", c.told.Release))},
		{"remove the Pod of helm test", c.remove(c.object("Pod", c.told.TestPod))},
	}
}

func (c *cleaner) object(kind, name string) Object { return Object{kind, c.told.Namespace, name} }

// persist does a step until it succeeds, is refused, or the time is over. What goes
// wrong is said once, until it is something else.
func (c *cleaner) persist(ctx context.Context, s step) error {
	told := ""
	backoff := wait.Backoff{Duration: time.Second, Factor: 2, Steps: 10, Cap: 10 * time.Second}
	err := backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (done bool, _ error) {
		err := s.do(ctx)
		if err == nil || errors.Is(err, ErrRefused) {
			return true, err
		}
		if ctx.Err() == nil && err.Error() != told {
			c.say("cannot %s, trying again: %v", s.what, err)
			told = err.Error()
		}
		// What comes of the end of the time says less.
		told = cmp.Or(told, err.Error())
		return false, nil
	})
	if wait.Interrupted(err) {
		return fmt.Errorf("cannot %s, and the time is over: %s", s.what, told)
	}
	return err
}

// lookForDeployer refuses where the release was installed by none of those that know
// a hook for what it is: others would run the cleanup as soon as they apply it. A mark
// on one of two objects is enough. The DaemonSet is among the first to go, and somebody
// may have made one of them again by hand.
func (c *cleaner) lookForDeployer(ctx context.Context) error {
	for _, o := range []Object{c.object("DaemonSet", c.told.DaemonSet), c.object("ServiceAccount", c.told.Account)} {
		annotations, there, err := c.cluster.Annotations(ctx, o)
		if err != nil {
			return err
		}
		c.left = c.left || there && o.Kind == "DaemonSet"
		if annotations[markOfHelm] != "" || annotations[markOfArgo] != "" {
			return nil
		}
	}
	return fmt.Errorf("%w: neither Helm nor Argo CD has installed release %s, for its DaemonSet has neither the annotation %s nor %s. "+
		"So this is no uninstall, but a hook that was applied like any other object, as `helm template | kubectl apply` does. "+
		"Nothing was touched. Render with --no-hooks, and delete this Job", ErrRefused, c.told.Release, markOfHelm, markOfArgo)
}

// reach looks at all that the cleanup will have to change, so that nothing is stopped
// that could not be taken back as well. The group that the agents write to may be gone,
// or its server may be cut off. Then what they wrote has to show in the other one, where
// Calico keeps what it is told through the first.
func (c *cleaner) reach(ctx context.Context) error {
	c.groups, c.unseen = nil, ""
	reached := c.told.APIGroup == ""
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
		c.left = c.left || shows
		reached = reached || group.Name() == c.told.APIGroup || shows
	}
	if len(c.groups) == 0 || !reached {
		return fmt.Errorf("%s. Felix may go on enforcing what cannot be seen, so nothing is touched; "+
			"where Calico is gone for good, write helm uninstall --no-hooks", strings.Join(problems, "; "))
	}
	return nil
}

// shows tells whether a group has anything of the release.
func (c *cleaner) shows(ctx context.Context, group Group) (shows bool, err error) {
	for _, kind := range []string{v3.KindHostEndpoint, v3.KindGlobalNetworkPolicy, v3.KindGlobalNetworkSet} {
		objects, err := c.objects(ctx, group, kind)
		if err != nil {
			return false, err
		}
		shows = shows || len(objects) > 0
	}
	configurations, err := group.FelixConfigurations(ctx)
	return shows || slices.ContainsFunc(configurations, func(f *failsafe.Configuration) bool {
		return failsafe.WrittenBy(f) == c.told.Release
	}), ignoreNotFound(err)
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

// closeClearance tells the agents and the controller that the release goes. Agents obey
// also where there was no ConfigMap, but nothing is made for nobody.
func (c *cleaner) closeClearance(ctx context.Context) error {
	configMap := c.object("ConfigMap", c.told.Release)
	err := c.cluster.SetData(ctx, configMap, clearance.Closing(), c.left)
	if err == nil && !c.closed {
		c.closed = true
		c.say("closed %s: agents open their nodes by themselves now, and write nothing any more", configMap)
	}
	return ignoreNotFound(err)
}

// stop deletes a workload and waits for its pods, but not for long: one on a node whose
// kubelet is dead never goes, and thousands take Kubernetes minutes.
func (c *cleaner) stop(workload Object) func(context.Context) error {
	return func(ctx context.Context) error {
		limit := c.told.Timeout / share
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		began := false
		err := wait.PollUntilContextCancel(limited, poll, true, func(ctx context.Context) (bool, error) {
			err := c.cluster.Delete(ctx, workload, true)
			if err == nil && !began {
				began = true
				c.say("stopping %s", workload)
			}
			return apierrors.IsNotFound(err), ignoreNotFound(err)
		})
		switch {
		case err == nil && began:
			c.say("%s is gone, and its pods", workload)
		case err == nil:
			c.say("%s is not there", workload)
		case began && limited.Err() != nil && ctx.Err() == nil:
			c.say("%s still has pods after %s: going on without waiting, for they obey the clearance", workload, limit)
		default:
			return err
		}
		return nil
	}
}

// remove removes an object of the release's namespace, if it is there.
func (c *cleaner) remove(object Object) func(context.Context) error {
	return func(ctx context.Context) error {
		err := c.cluster.Delete(ctx, object, false)
		if err == nil {
			c.say("removed %s", object)
		}
		return ignoreNotFound(err)
	}
}

// removeEndpoints disarms what endpoints of the release the agents have left, and then
// removes them. It fails when any is left.
func (c *cleaner) removeEndpoints(ctx context.Context, group Group) error {
	endpoints, err := c.objects(ctx, group, v3.KindHostEndpoint)
	if err != nil {
		return err
	}
	isArmed := func(hep *metav1.PartialObjectMetadata) bool { return endpoint.SetOf(hep) != "" }
	armed := slices.DeleteFunc(endpoints, func(hep *metav1.PartialObjectMetadata) bool { return !isArmed(hep) })
	err = each(c, "disarmed HostEndpoint", armed, func(hep *metav1.PartialObjectMetadata) error {
		patch, err := endpoint.Disarm(hep)
		if err != nil {
			return err
		}
		return group.PatchObject(ctx, v3.KindHostEndpoint, hep.Name, patch)
	})
	if err != nil {
		return err
	}
	// They are others now, and deleted are only those that were seen.
	if endpoints, err = c.objects(ctx, group, v3.KindHostEndpoint); err != nil {
		return err
	}
	if slices.ContainsFunc(endpoints, isArmed) {
		return errors.New("HostEndpoints have been armed again: is an agent of the release still running?")
	}
	if err := c.removeEach(ctx, group, v3.KindHostEndpoint, endpoints); err != nil {
		return err
	}
	if endpoints, err = c.objects(ctx, group, v3.KindHostEndpoint); err != nil || len(endpoints) == 0 {
		return err
	}
	return fmt.Errorf("HostEndpoints have come back, among them %s: is an agent of the release still running?", endpoints[0].Name)
}

// removeAll removes the objects of a kind that are the release's.
func (c *cleaner) removeAll(kind string) func(context.Context, Group) error {
	return func(ctx context.Context, group Group) error {
		objects, err := c.objects(ctx, group, kind)
		if err != nil {
			return err
		}
		return c.removeEach(ctx, group, kind, objects)
	}
}

func (c *cleaner) removeEach(ctx context.Context, group Group, kind string, objects []*metav1.PartialObjectMetadata) error {
	return each(c, "removed "+kind, objects, func(object *metav1.PartialObjectMetadata) error {
		return group.DeleteObject(ctx, kind, object)
	})
}

// objects returns those of a kind that are the release's. Where the group has no such kind
// there are none, but for HostEndpoints, which may be there and not be seen.
func (c *cleaner) objects(ctx context.Context, group Group, kind string) ([]*metav1.PartialObjectMetadata, error) {
	all, err := group.Objects(ctx, kind)
	if kind != v3.KindHostEndpoint {
		err = ignoreNotFound(err)
	}
	return slices.DeleteFunc(all, func(object *metav1.PartialObjectMetadata) bool { return endpoint.ReleaseOf(object) != c.told.Release }), err
}

// restoreFailsafes takes back what the agents of the release wrote into
// FelixConfigurations.
func (c *cleaner) restoreFailsafes(ctx context.Context, group Group) error {
	all, err := group.FelixConfigurations(ctx)
	if ignoreNotFound(err) != nil {
		return err
	}
	plan := func(f *failsafe.Configuration) (failsafe.Change, error) {
		node, ofNode := strings.CutPrefix(f.Name, failsafe.Name(""))
		if !ofNode {
			return failsafe.Change{}, nil
		}
		return failsafe.Plan(f, nil, node, c.told.Release, nil, nil)
	}
	narrowed := slices.DeleteFunc(all, func(f *failsafe.Configuration) bool {
		change, err := plan(f)
		return err == nil && change.None()
	})
	return each(c, "took back the failsafe ports of FelixConfiguration", narrowed, func(f *failsafe.Configuration) error {
		change, err := plan(f)
		switch {
		case err != nil:
			return err
		case change.Delete:
			return group.DeleteObject(ctx, v3.KindFelixConfiguration, f)
		}
		return group.PatchObject(ctx, v3.KindFelixConfiguration, f.Name, change.Patch)
	})
}
