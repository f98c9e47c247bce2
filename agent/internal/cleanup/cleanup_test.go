package cleanup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

const armed = "host-firewall.io/set=s1"

// fake is a cluster that keeps the promise of cleanup.Cluster, and fails where a
// test makes it. It has one API group, or a second one beside it.
type fake struct {
	mu        sync.Mutex
	workloads map[string]int    // the pods of each; it goes with the last, one a look
	stuck     string            // the workload that never goes
	hangs     string            // whose deletion is never answered
	onSet     map[string]string // annotations of the DaemonSet
	onAccount map[string]string // and of the cleanup's ServiceAccount
	clearance map[string]string // data of the ConfigMap, nil where there is none
	name      string            // of the group
	served    bool
	other     *fake
	endpoints map[string]*v3.HostEndpoint
	felix     map[string]*failsafe.Configuration
	policies  map[string]*metav1.PartialObjectMetadata
	sets      map[string]*metav1.PartialObjectMetadata
	pod       bool // that helm test has left
	writes    []string
	took      time.Duration // by the last run
	// before is asked before each call and may fail it.
	before func(call string) error
}

const (
	agents     = "DaemonSet ns/fw"
	controller = "Deployment ns/fw-controller"
)

func newFake() *fake {
	return &fake{
		workloads: map[string]int{agents: 2, controller: 1}, name: "projectcalico.org/v3", served: true,
		clearance: map[string]string{"set": "s1"},
		onSet:     map[string]string{"meta.helm.sh/release-name": "fw"},
		endpoints: map[string]*v3.HostEndpoint{}, felix: map[string]*failsafe.Configuration{},
		policies: map[string]*metav1.PartialObjectMetadata{}, sets: map[string]*metav1.PartialObjectMetadata{},
		before: func(string) error { return nil },
	}
}

func (f *fake) hep(name, release string, labels ...string) *v3.HostEndpoint {
	hep := &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1", Labels: map[string]string{"host-firewall.io/release": release}},
		Spec:       v3.HostEndpointSpec{Node: name, InterfaceName: "*"},
	}
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		hep.Labels[key] = value
	}
	f.endpoints[name] = hep
	return hep
}

// rendered adds a policy or a network set of the release.
func rendered(objects map[string]*metav1.PartialObjectMetadata, name, release string) {
	objects[name] = &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1", Labels: map[string]string{"host-firewall.io/release": release}}}
}

func (f *fake) call(call string, write bool) error {
	if err := f.before(call); err != nil {
		return err
	}
	if write {
		f.writes = append(f.writes, call)
	}
	return nil
}

func (f *fake) Groups() []cleanup.Group {
	if f.other != nil {
		return []cleanup.Group{f, f.other}
	}
	return []cleanup.Group{f}
}

func (f *fake) Name() string { return f.name }

func (f *fake) Annotations(_ context.Context, o cleanup.Object) (map[string]string, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	annotations, there := f.onAccount, f.onAccount != nil
	if o.Kind == "DaemonSet" {
		if _, there = f.workloads[o.String()]; there {
			annotations = f.onSet
		} else {
			annotations = nil
		}
	}
	return annotations, there, f.call("get "+o.String(), false)
}

func (f *fake) Delete(ctx context.Context, o cleanup.Object, foreground bool) error {
	if o.String() == f.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	what := o.String()
	if err := f.call("delete "+what, true); err != nil {
		return err
	}
	gone := apierrors.NewNotFound(schema.GroupResource{}, what)
	pods, works := f.workloads[what]
	switch {
	case works && foreground && pods <= 0 && f.stuck != what:
		delete(f.workloads, what)
		return gone
	case works && foreground:
		f.workloads[what]--
		return nil
	case o.Kind == "ConfigMap" && f.clearance != nil:
		f.clearance = nil
		return nil
	case o.Kind == "Pod" && f.pod:
		f.pod = false
		return nil
	}
	return gone
}

func (f *fake) SetData(_ context.Context, o cleanup.Object, data map[string]string, create bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch err := f.call("write "+o.String(), true); {
	case err != nil:
		return err
	case f.clearance == nil && !create:
		return apierrors.NewNotFound(schema.GroupResource{}, o.Name)
	case f.clearance == nil:
		f.clearance = map[string]string{}
	}
	maps.Copy(f.clearance, data)
	return nil
}

func (f *fake) FelixConfigurations(context.Context) ([]*failsafe.Configuration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.call("list felix", false)
	return copies(f.felix), err
}

func (f *fake) Objects(_ context.Context, kind string) ([]*metav1.PartialObjectMetadata, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind == "HostEndpoint" && !f.served {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "hostendpoints"}, "")
	}
	err := f.call("list "+kind, false)
	switch kind {
	case "HostEndpoint":
		return metadataOf(f.endpoints), err
	case "GlobalNetworkPolicy":
		return copies(f.policies), err
	}
	return copies(f.sets), err
}

func (f *fake) PatchObject(_ context.Context, kind, name string, patch []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("patch "+kind+" "+name, true); err != nil {
		return err
	}
	if kind == "FelixConfiguration" {
		return patched(f.felix, name, patch)
	}
	return patched(f.endpoints, name, patch)
}

func (f *fake) DeleteObject(_ context.Context, kind string, object metav1.Object) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, version := object.GetName(), object.GetResourceVersion()
	if err := f.call("delete "+kind+" "+name, true); err != nil {
		return err
	}
	switch kind {
	case "HostEndpoint":
		return deleted(f.endpoints, name, version)
	case "FelixConfiguration":
		return deleted(f.felix, name, version)
	case "GlobalNetworkPolicy":
		return deleted(f.policies, name, version)
	default:
		return deleted(f.sets, name, version)
	}
}

func copies[T interface{ DeepCopy() T }](objects map[string]T) (all []T) {
	for _, object := range objects {
		all = append(all, object.DeepCopy())
	}
	return all
}

func metadataOf(endpoints map[string]*v3.HostEndpoint) (all []*metav1.PartialObjectMetadata) {
	for _, hep := range copies(endpoints) {
		all = append(all, &metav1.PartialObjectMetadata{ObjectMeta: hep.ObjectMeta})
	}
	return all
}

func patched[T metav1.Object](objects map[string]T, name string, patch []byte) error {
	object, there := objects[name]
	if !there {
		return apierrors.NewNotFound(schema.GroupResource{}, name)
	}
	var head struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := json.Unmarshal(patch, &head); err != nil {
		return err
	}
	if head.Metadata.ResourceVersion != object.GetResourceVersion() {
		return apierrors.NewConflict(schema.GroupResource{}, name, errors.New("not the newest"))
	}
	before, err := json.Marshal(object)
	if err != nil {
		return err
	}
	after, err := jsonpatch.MergePatch(before, patch)
	if err != nil {
		return err
	}
	object.SetLabels(nil)
	object.SetAnnotations(nil)
	if configuration, ok := any(object).(*failsafe.Configuration); ok {
		configuration.Spec = nil
	}
	if err := json.Unmarshal(after, object); err != nil {
		return err
	}
	object.SetResourceVersion(object.GetResourceVersion() + "1")
	return nil
}

func deleted[T metav1.Object](objects map[string]T, name, version string) error {
	object, there := objects[name]
	switch {
	case !there:
		return apierrors.NewNotFound(schema.GroupResource{}, name)
	case object.GetResourceVersion() != version:
		return apierrors.NewConflict(schema.GroupResource{}, name, errors.New("not the newest"))
	}
	delete(objects, name)
	return nil
}

// run cleans up, in a time that passes by itself.
func (f *fake) run(t *testing.T) (said string, err error) {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err = cleanup.Run(t.Context(), f, settings.Settings{
			Release: "fw", Namespace: "ns", DaemonSet: "fw", Deployment: "fw-controller", Account: "fw-cleanup",
			APIGroup: "projectcalico.org/v3", TestPod: "fw-test", Timeout: 4 * time.Minute,
		}, &out)
		f.took = time.Since(began)
	})
	return out.String(), err
}

// narrowed returns a FelixConfiguration that the release has made or changed.
func (f *fake) narrowed(t *testing.T, node, release string, own *failsafe.Configuration) {
	t.Helper()
	change, err := failsafe.Plan(own, nil, node, release, &failsafe.Want{Ports: []uint16{22}, CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, nil)
	require.NoError(t, err)
	if own == nil {
		own = change.Create
		own.ResourceVersion = "1"
		f.felix[own.Name] = own
		return
	}
	f.felix[own.Name] = own
	require.NoError(t, patched(f.felix, own.Name, change.Patch))
}

func TestEverythingOfTheReleaseGoesAndNothingElse(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", armed)
	f.hep("n1-eth0", "fw", armed, "rack=r1")
	f.hep("n2", "fw")
	f.hep("n3", "other", armed)
	f.endpoints["n4"] = &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "n4"}}
	f.narrowed(t, "n1", "fw", nil)
	f.narrowed(t, "n2", "fw", &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "node.n2", ResourceVersion: "1"}, Spec: map[string]any{"logSeverityScreen": "Debug"}})
	f.narrowed(t, "n3", "other", nil)
	f.felix["default"] = &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	f.pod = true
	rendered(f.policies, "fw-ssh-s1", "fw")
	rendered(f.policies, "fw-ssh-s0", "fw")
	rendered(f.policies, "other-ssh-s1", "other")
	rendered(f.sets, "fw-node-n1", "fw")
	rendered(f.sets, "theirs", "")
	f.policies["default.fw-drop-s1"] = &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: "default.fw-drop-s1", ResourceVersion: "1",
		Annotations: map[string]string{"projectcalico.org/metadata": `{"labels":{"host-firewall.io/release":"fw"}}`},
	}}

	said, err := f.run(t)
	require.NoError(t, err, said)
	assert.Equal(t, []string{"other-ssh-s1"}, keys(f.policies))
	assert.Equal(t, []string{"theirs"}, keys(f.sets))
	assert.Nil(t, f.clearance)
	assert.ElementsMatch(t, []string{"n3", "n4"}, keys(f.endpoints))
	assert.ElementsMatch(t, []string{"default", "node.n2", "node.n3"}, keys(f.felix))
	assert.Equal(t, map[string]any{"logSeverityScreen": "Debug"}, f.felix["node.n2"].Spec)
	assert.Empty(t, f.felix["node.n2"].Annotations)
	assert.Equal(t, "other", failsafe.WrittenBy(f.felix["node.n3"]))
	assert.Empty(t, f.workloads)
	for _, words := range []string{
		"closed ConfigMap ns/fw: agents open their nodes by themselves now",
		"stopping Deployment ns/fw-controller\n", "Deployment ns/fw-controller is gone, and its pods\n",
		"stopping DaemonSet ns/fw\n", "DaemonSet ns/fw is gone, and its pods\n",
		"disarmed HostEndpoint n1", "removed HostEndpoint n1-eth0", "(3 of 3)\n",
		"took back the failsafe ports of FelixConfiguration node.n", "(2 of 2)\n",
		"removed GlobalNetworkPolicy fw-ssh-s0", "removed GlobalNetworkSet fw-node-n1 (1 of 1)\n", "removed ConfigMap ns/fw\n", "removed Pod ns/fw-test\n",
		"no HostEndpoint, no failsafe ports, no policy and no trusted address of release fw are left\n",
	} {
		assert.Contains(t, said, words)
	}

	f.onAccount = map[string]string{"meta.helm.sh/release-name": "fw"}
	said, err = f.run(t)
	require.NoError(t, err, "a second time")
	assert.Nil(t, f.clearance, "nothing is made for nobody")
	assert.Equal(t, "Deployment ns/fw-controller is not there\nDaemonSet ns/fw is not there\n"+
		"no HostEndpoint, no failsafe ports, no policy and no trusted address of release fw are left\n", said)
}

func TestGroupThatHasHostEndpointsAloneIsCleanedUp(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", armed)
	f.before = func(call string) error {
		if what, lists := strings.CutPrefix(call, "list "); lists && what != "HostEndpoint" {
			return apierrors.NewNotFound(schema.GroupResource{Resource: what}, "")
		}
		return nil
	}
	said, err := f.run(t)
	require.NoError(t, err, said)
	assert.Empty(t, f.endpoints)
}

func TestThePodOfHelmTestKeepsNobodyFromBeingOpened(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", armed)
	f.before = func(call string) error {
		if strings.HasPrefix(call, "delete Pod") {
			return errors.New("may not")
		}
		return nil
	}
	_, err := f.run(t)
	require.ErrorContains(t, err, "cannot remove the Pod of helm test, and the time is over: may not")
	assert.Empty(t, f.endpoints)
}

// installed is a release with all that it can have, on so many nodes.
func installed(t *testing.T, nodes int) *fake {
	t.Helper()
	f := newFake()
	f.onAccount = f.onSet
	f.pod = true
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		f.hep(name, "fw", armed)
		f.narrowed(t, name, "fw", nil)
		rendered(f.sets, "fw-node-"+name, "fw")
	}
	for _, name := range []string{"fw-allow-s1", "fw-drop-s1", "fw-allow-s0"} {
		rendered(f.policies, name, "fw")
	}
	return f
}

// A policy that lets somebody in must not go while an endpoint is there, a node that is
// not trusted any more would be a stranger to those that are still armed, and what agents
// do is nobody's to foresee before they are told.
func TestAllIsDoneInOneOrder(t *testing.T) {
	f := installed(t, 50)
	said, err := f.run(t)
	require.NoError(t, err, said)
	var phases []string
	for _, write := range f.writes {
		verb, rest, _ := strings.Cut(write, " ")
		kind, _, _ := strings.Cut(rest, " ")
		phases = append(phases, verb+" "+kind)
	}
	assert.Equal(t, []string{
		"write ConfigMap", "delete Deployment", "write ConfigMap", "delete DaemonSet", "patch HostEndpoint", "delete HostEndpoint",
		"delete FelixConfiguration", "delete GlobalNetworkPolicy", "delete GlobalNetworkSet", "delete ConfigMap", "delete Pod",
	}, slices.Compact(phases))
}

func TestCleanupThatWasCutOffAnywhereIsFinishedByAnother(t *testing.T) {
	whole := installed(t, 2)
	_, err := whole.run(t)
	require.NoError(t, err)
	for after := range len(whole.writes) {
		f := installed(t, 2)
		left := after
		f.before = func(call string) error {
			if strings.HasPrefix(call, "delete GlobalNetwork") {
				assert.Empty(t, f.endpoints, "%s with %d calls to go", call, left)
			}
			if strings.HasPrefix(call, "list") || strings.HasPrefix(call, "get") {
				return nil
			}
			if left--; left < 0 {
				return errors.New("cut off")
			}
			return nil
		}
		_, err := f.run(t)
		require.ErrorContains(t, err, "cut off", "after %d writes", after)
		left = 1000
		said, err := f.run(t)
		require.NoError(t, err, "after %d writes: %s", after, said)
		assert.Empty(t, f.workloads)
		assert.Empty(t, f.endpoints)
		assert.Empty(t, f.felix)
		assert.Empty(t, f.policies)
		assert.Empty(t, f.sets)
		assert.Nil(t, f.clearance)
		assert.False(t, f.pod)
	}
}

func TestOfThousandsOnlySomeAreNamed(t *testing.T) {
	f := installed(t, 3003)
	said, err := f.run(t)
	require.NoError(t, err)
	assert.Less(t, strings.Count(said, "\n"), 60)
	for _, words := range []string{"(300 of 3003)\n", "(3000 of 3003)\n", "(3003 of 3003)\n"} {
		assert.Equal(t, 4, strings.Count(said, words), "disarmed and removed endpoints, failsafes, sets")
	}
}

func TestAgentsAreToldAlsoWhereNobodyHasToldThemAnything(t *testing.T) {
	for name, left := range map[string]func(f *fake){
		"agents":      func(f *fake) { f.workloads[agents] = 1 },
		"an endpoint": func(f *fake) { f.hep("n1", "fw", armed) },
		"a failsafe":  func(f *fake) { f.narrowed(t, "n1", "fw", nil) },
		"a policy":    func(f *fake) { rendered(f.policies, "fw-drop-s1", "fw") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.clearance, f.workloads, f.onAccount = nil, map[string]int{}, f.onSet
			left(f)
			told := false
			f.before = func(call string) error {
				told = told || f.clearance["closed"] != ""
				if strings.HasPrefix(call, "delete HostEndpoint") {
					assert.True(t, told)
				}
				return nil
			}
			said, err := f.run(t)
			require.NoError(t, err, said)
			assert.True(t, told)
			assert.Nil(t, f.clearance)
		})
	}
}

// It takes a clearance that is closed for that of a release which is gone.
func TestControllerThatWasJustStartingOpensNothingAgain(t *testing.T) {
	f := installed(t, 1)
	f.before = func(call string) error {
		switch {
		case call == "delete "+controller && f.workloads[controller] == 1:
			delete(f.clearance, "closed")
		case call == "delete "+agents, strings.HasPrefix(call, "delete HostEndpoint"):
			assert.Equal(t, "true", f.clearance["closed"], call)
		}
		return nil
	}
	said, err := f.run(t)
	require.NoError(t, err, said)
	assert.Equal(t, 1, strings.Count(said, "closed ConfigMap"), said)
}

func TestNoPolicyGoesWhileAnEndpointIsLeft(t *testing.T) {
	f := installed(t, 2)
	f.before = func(call string) error {
		if call == "delete HostEndpoint n1" {
			return errors.New("a webhook is away")
		}
		return nil
	}
	_, err := f.run(t)
	require.ErrorContains(t, err, "cannot remove HostEndpoints, and the time is over: a webhook is away")
	assert.Equal(t, []string{"n1"}, keys(f.endpoints))
	assert.Len(t, f.policies, 3)
	assert.Len(t, f.sets, 2)
	assert.Equal(t, "true", f.clearance["closed"])
}

func TestOneThatCannotBeDisarmedKeepsAllTheOthers(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", armed)
	f.hep("n2", "fw", armed)
	f.before = func(call string) error {
		if call == "patch HostEndpoint n2" {
			return errors.New("the disk is full")
		}
		return nil
	}
	said, err := f.run(t)
	assert.ErrorContains(t, err, "cannot remove HostEndpoints, and the time is over: the disk is full")
	assert.ElementsMatch(t, []string{"n1", "n2"}, keys(f.endpoints))
	assert.Equal(t, 1, strings.Count(said, "the disk is full"), "said once:\n%s", said)
}

func TestDisarmingTouchesNothingElse(t *testing.T) {
	f := newFake()
	hep := f.hep("n1", "fw", armed, "rack=r1")
	hep.Annotations = map[string]string{"projectcalico.org/metadata": `{"labels":{"host-firewall.io/release":"fw","host-firewall.io/set":"s1","host-endpoint":"ingress","team":"x"}}`, "note": "y"}
	hep.Labels = nil
	f.before = func(call string) error {
		if strings.HasPrefix(call, "delete HostEndpoint") {
			return errors.New("stop here")
		}
		return nil
	}
	_, err := f.run(t)
	require.ErrorContains(t, err, "stop here")
	assert.Equal(t, map[string]string{"host-firewall.io/release": "fw", "host-endpoint": "ingress", "team": "x"}, f.endpoints["n1"].Labels,
		"the labels of others' policies go with the endpoint")
	assert.Equal(t, map[string]string{"note": "y"}, f.endpoints["n1"].Annotations)
}

func TestTroubleThatPassesIsSurvived(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", armed)
	f.hep("n2", "fw", armed)
	f.narrowed(t, "n1", "fw", nil)
	failed := map[string]int{}
	f.before = func(call string) error {
		if failed[call]++; failed[call] > 2 {
			return nil
		}
		switch failed[call] {
		case 1:
			return apierrors.NewTooManyRequests("later", 7)
		default:
			return apierrors.NewForbidden(schema.GroupResource{Resource: "hostendpoints"}, "n1", errors.New("not yet"))
		}
	}
	said, err := f.run(t)
	require.NoError(t, err, said)
	assert.Empty(t, f.endpoints)
	assert.Empty(t, f.felix)
}

func TestObjectThatChangesMeanwhileIsLookedAtAgain(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", armed)
	once := sync.OnceFunc(func() { f.endpoints["n1"].ResourceVersion = "5" })
	f.before = func(call string) error {
		if call == "patch HostEndpoint n1" || call == "delete HostEndpoint n1" {
			once()
		}
		return nil
	}
	said, err := f.run(t)
	require.NoError(t, err, said)
	assert.Empty(t, f.endpoints)
}

func TestWhatSomebodyElseRemovedIsNoTrouble(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw")
	f.before = func(call string) error {
		if call == "delete HostEndpoint n1" {
			delete(f.endpoints, "n1")
		}
		return nil
	}
	said, err := f.run(t)
	require.NoError(t, err)
	assert.NotContains(t, said, "removed HostEndpoint n1")
}

// Its agent obeys the clearance: it can, for it reaches the API server.
func TestPodsOnNodesWhoseKubeletIsDeadAreNotWaitedForForLong(t *testing.T) {
	for _, stuck := range []string{agents, controller} {
		f := installed(t, 2)
		f.stuck = stuck
		f.before = func(string) error {
			if f.clearance["closed"] != "" {
				delete(f.endpoints, "n1")
			}
			return nil
		}
		said, err := f.run(t)
		require.NoError(t, err)
		assert.Contains(t, said, stuck+" still has pods after 30s: going on without waiting, for they obey the clearance\n")
		assert.Less(t, f.took, 40*time.Second)
		assert.Empty(t, f.endpoints)
		assert.Empty(t, f.policies)
		assert.NotContains(t, f.writes, "delete HostEndpoint n1", "its agent has done it")
	}
}

func TestNothingIsRemovedWhileAgentsCannotBeStopped(t *testing.T) {
	for _, workload := range []string{agents, controller} {
		f := installed(t, 1)
		f.before = func(call string) error {
			if call == "delete "+workload {
				return errors.New("no right")
			}
			return nil
		}
		_, err := f.run(t)
		assert.ErrorContains(t, err, "and the time is over: no right")
		assert.Len(t, f.endpoints, 1)
		assert.Len(t, f.policies, 3)

		f = installed(t, 1)
		f.hangs = workload
		_, err = f.run(t)
		assert.ErrorContains(t, err, "and the time is over: ")
		assert.Len(t, f.endpoints, 1)
	}
}

func TestEndpointsThatComeBackAreAnError(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw")
	f.before = func(call string) error {
		if call == "list HostEndpoint" {
			f.hep("n1", "fw")
		}
		return nil
	}
	_, err := f.run(t)
	assert.ErrorContains(t, err, "HostEndpoints have come back, among them n1: is an agent of the release still running?")
	assert.Less(t, len(f.writes), 100, "it does not spin")
}

func TestEndpointThatIsArmedAgainKeepsAllTheOthers(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", armed)
	f.hep("n2", "fw", armed)
	lists := 0
	f.before = func(call string) error {
		if call == "list HostEndpoint" {
			if lists++; lists%2 == 1 { // the first is before anything is stopped
				f.hep("n2", "fw", armed)
			}
		}
		return nil
	}
	_, err := f.run(t)
	assert.ErrorContains(t, err, "HostEndpoints have been armed again: is an agent of the release still running?")
	assert.Len(t, f.endpoints, 2)
}

func TestNoteThatNobodyCanReadIsReportedAfterTheRestIsDone(t *testing.T) {
	f := newFake()
	f.narrowed(t, "n1", "fw", nil)
	f.narrowed(t, "n2", "fw", nil)
	f.felix["node.n2"].Annotations[failsafe.Annotation] = "?"
	_, err := f.run(t)
	assert.ErrorContains(t, err, "FelixConfiguration node.n2 cannot be read")
	assert.Equal(t, []string{"node.n2"}, keys(f.felix))
}

// Others than Helm and Argo CD apply a hook as any other object: at once, and again
// and again.
func TestNothingIsTouchedWhereTheHookWasAppliedLikeAnyOtherObject(t *testing.T) {
	helm, argo := map[string]string{"meta.helm.sh/release-name": "fw"}, map[string]string{"argocd.argoproj.io/tracking-id": "fw:apps/DaemonSet:ns/fw"}
	for name, test := range map[string]struct {
		daemonSet        bool
		onSet, onAccount map[string]string
		refused          bool
	}{
		"kubectl apply":                       {true, map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}, nil, true},
		"kubectl apply, DaemonSet not there":  {false, nil, nil, true},
		"Helm":                                {true, helm, helm, false},
		"Argo CD":                             {true, argo, argo, false},
		"Helm, the DaemonSet gone already":    {false, nil, helm, false},
		"Helm, the DaemonSet applied by hand": {true, nil, helm, false},
		"Helm, the account applied by hand":   {true, helm, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.hep("n1", "fw", armed)
			f.onSet, f.onAccount = test.onSet, test.onAccount
			if !test.daemonSet {
				delete(f.workloads, agents)
			}
			said, err := f.run(t)
			if !test.refused {
				require.NoError(t, err)
				assert.Empty(t, f.endpoints)
				return
			}
			require.ErrorIs(t, err, cleanup.ErrRefused)
			require.ErrorContains(t, err, "--no-hooks")
			assert.Empty(t, f.writes)
			assert.Empty(t, said, "it is not tried again")
		})
	}
}

func TestNothingIsStoppedWhileCalicosObjectsCannotBeReached(t *testing.T) {
	away := func(call string) error {
		if strings.HasPrefix(call, "list") {
			return errors.New("its server is away")
		}
		return nil
	}
	for name, test := range map[string]struct {
		damage  func(f *fake)
		reaches bool
		words   string
	}{
		"nothing of Calico is served":                  {func(f *fake) { f.served, f.other.served = false, false }, false, "helm uninstall --no-hooks"},
		"the other group has none":                     {func(f *fake) { f.served = false }, false, "projectcalico.org/v3: "},
		"its server is away, the other group has none": {func(f *fake) { f.before = away }, false, "projectcalico.org/v3: its server is away"},
		"the endpoints may be read, failsafes may not": {func(f *fake) {
			f.before = func(call string) error { return map[bool]error{true: errors.New("forbidden")}[call == "list felix"] }
		}, false, "forbidden"},
		"not served any more, but in the other group": {
			func(f *fake) { f.served = false; f.other.hep("n1", "fw", armed) }, true, "are left\n",
		},
		"its server is away, but in the other group": {
			func(f *fake) { f.before = away; f.other.hep("n1", "fw", armed) }, true,
			"are left, but nobody could look in projectcalico.org/v3: its server is away\n",
		},
		"the other group may not be read": {
			func(f *fake) { f.other.before = away }, true, "are left, but nobody could look in crd.projectcalico.org/v1: its server is away\n",
		},
		"not served any more, but a failsafe in the other group": {func(f *fake) { f.served = false; f.other.narrowed(t, "n1", "fw", nil) }, true, ""},
		"stopped before, and the other group has none":           {func(f *fake) { f.served, f.workloads = false, nil }, false, "helm uninstall --no-hooks"},
		"stopped before, but in the other group": {
			func(f *fake) { f.served, f.workloads = false, nil; f.other.hep("n1", "fw", armed) }, true, "",
		},
		"stopped before, and nothing of Calico is served now": {func(f *fake) { f.served, f.other.served, f.workloads = false, false, nil }, false, "cannot be seen"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.onAccount = f.onSet
			f.other = newFake()
			f.other.name = "crd.projectcalico.org/v1"
			test.damage(f)
			said, err := f.run(t)
			if test.reaches {
				require.NoError(t, err, said)
				assert.Empty(t, f.workloads)
				assert.Empty(t, f.other.endpoints)
				assert.Empty(t, f.other.felix)
				assert.Contains(t, said, test.words)
				return
			}
			require.ErrorContains(t, err, "cannot reach Calico's objects, and the time is over: ")
			require.ErrorContains(t, err, test.words)
			require.ErrorContains(t, err, "nothing is touched")
			assert.Empty(t, f.writes)
			assert.Empty(t, f.other.writes)
		})
	}
}

func TestWhatIsLeftInTheOtherGroupGoesAsWell(t *testing.T) {
	f := newFake()
	f.other = newFake()
	f.hep("n1", "fw", armed)
	f.other.hep("n1", "fw", armed)
	f.other.narrowed(t, "n1", "fw", nil)
	said, err := f.run(t)
	require.NoError(t, err, said)
	assert.Empty(t, f.endpoints)
	assert.Empty(t, f.other.endpoints)
	assert.Empty(t, f.other.felix)
}

// Its server may be away after it was looked at.
func TestGroupThatIsAwayKeepsNobodyFromBeingOpenedThroughTheOther(t *testing.T) {
	f := newFake()
	f.other = newFake()
	f.hep("n1", "fw", armed)
	f.other.hep("n1", "fw", armed)
	f.before = func(call string) error {
		if len(f.workloads) == 0 && strings.HasPrefix(call, "list") {
			return errors.New("its server is away")
		}
		return nil
	}
	_, err := f.run(t)
	require.ErrorContains(t, err, "its server is away")
	assert.Empty(t, f.other.endpoints)
}

func keys[T any](m map[string]T) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	return names
}
