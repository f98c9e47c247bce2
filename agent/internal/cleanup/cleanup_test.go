package cleanup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
)

// fake is a cluster that keeps the promise of cleanup.Cluster, and fails where a
// test makes it. It has one API group, or a second one beside it.
type fake struct {
	mu        sync.Mutex
	pods      int // of the DaemonSet; it goes with the last, one a look
	stuck     bool
	daemonSet bool
	onSet     map[string]string // annotations of the DaemonSet
	onAccount map[string]string // and of the cleanup's ServiceAccount
	name      string            // of the group
	served    bool
	other     *fake
	endpoints map[string]*v3.HostEndpoint
	felix     map[string]*failsafe.Configuration
	pod       bool // that helm test has left
	writes    []string
	// before is asked before each call and may fail it.
	before func(call string) error
}

func newFake() *fake {
	return &fake{
		daemonSet: true, pods: 2, name: "projectcalico.org/v3", served: true,
		onSet:     map[string]string{"meta.helm.sh/release-name": "fw"},
		endpoints: map[string]*v3.HostEndpoint{}, felix: map[string]*failsafe.Configuration{},
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

func (f *fake) DaemonSet(_ context.Context, namespace, name string) (map[string]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.daemonSet {
		return nil, f.call("get "+namespace+"/"+name, false)
	}
	return f.onSet, f.call("get "+namespace+"/"+name, false)
}

func (f *fake) Account(_ context.Context, namespace, name string) (map[string]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.onAccount, f.call("get "+namespace+"/"+name, false)
}

func (f *fake) StopDaemonSet(_ context.Context, namespace, name string) (bool, int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("stop "+namespace+"/"+name, true); err != nil {
		return true, 0, err
	}
	if !f.daemonSet {
		return false, 0, nil
	}
	if f.pods--; f.pods < 0 && !f.stuck {
		f.daemonSet = false
	}
	return f.daemonSet, max(0, f.pods), nil
}

func (f *fake) Endpoints(context.Context) ([]*v3.HostEndpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.served {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "hostendpoints"}, "")
	}
	err := f.call("list endpoints", false)
	return copies(f.endpoints), err
}

func (f *fake) FelixConfigurations(context.Context) ([]*failsafe.Configuration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.call("list felix", false)
	return copies(f.felix), err
}

func (f *fake) PatchEndpoint(_ context.Context, name string, patch []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("patch "+name, true); err != nil {
		return err
	}
	return patched(f.endpoints, name, patch)
}

func (f *fake) PatchFelix(_ context.Context, name string, patch []byte) (*failsafe.Configuration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("patch "+name, true); err != nil {
		return nil, err
	}
	return nil, patched(f.felix, name, patch)
}

func (f *fake) DeleteEndpoint(_ context.Context, hep *v3.HostEndpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("delete "+hep.Name, true); err != nil {
		return err
	}
	return deleted(f.endpoints, hep.Name, hep.ResourceVersion)
}

func (f *fake) DeleteFelix(_ context.Context, configuration *failsafe.Configuration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("delete "+configuration.Name, true); err != nil {
		return err
	}
	return deleted(f.felix, configuration.Name, configuration.ResourceVersion)
}

func (f *fake) DeletePod(_ context.Context, namespace, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("remove pod "+namespace+"/"+name, true); err != nil {
		return err
	}
	if !f.pod {
		return apierrors.NewNotFound(schema.GroupResource{}, name)
	}
	f.pod = false
	return nil
}

func copies[T interface{ DeepCopy() T }](objects map[string]T) (all []T) {
	for _, object := range objects {
		all = append(all, object.DeepCopy())
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
		err = cleanup.Run(t.Context(), f, cleanup.Config{
			Release: "fw", ArmingLabels: map[string]string{"host-endpoint": "ingress"},
			Namespace: "ns", DaemonSet: "fw", Account: "fw-cleanup", APIGroup: "projectcalico.org/v3", TestPod: "fw-test", Timeout: 4 * time.Minute,
		}, &out)
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
	f.hep("n1", "fw", "host-endpoint=ingress")
	f.hep("n1-eth0", "fw", "host-endpoint=ingress", "rack=r1")
	f.hep("n2", "fw")
	f.hep("n3", "other", "host-endpoint=ingress")
	f.endpoints["n4"] = &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "n4"}}
	f.narrowed(t, "n1", "fw", nil)
	f.narrowed(t, "n2", "fw", &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "node.n2", ResourceVersion: "1"}, Spec: map[string]any{"logSeverityScreen": "Debug"}})
	f.narrowed(t, "n3", "other", nil)
	f.felix["default"] = &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	f.pod = true

	said, err := f.run(t)
	require.NoError(t, err, said)
	assert.ElementsMatch(t, []string{"n3", "n4"}, keys(f.endpoints))
	assert.ElementsMatch(t, []string{"default", "node.n2", "node.n3"}, keys(f.felix))
	assert.Equal(t, map[string]any{"logSeverityScreen": "Debug"}, f.felix["node.n2"].Spec)
	assert.Empty(t, f.felix["node.n2"].Annotations)
	assert.Equal(t, "other", failsafe.WrittenBy(f.felix["node.n3"]))
	assert.False(t, f.daemonSet)
	for _, words := range []string{
		"stopping DaemonSet ns/fw, 1 pods left", "DaemonSet ns/fw is gone, and its pods",
		"disarmed HostEndpoint n1\n", "removed HostEndpoint n1-eth0\n",
		"removed FelixConfiguration node.n1\n", "put the failsafe ports of FelixConfiguration node.n2 back\n", "no HostEndpoint and no failsafe ports of release fw are left\n",
		"removed Pod fw-test\n",
	} {
		assert.Contains(t, said, words)
	}

	f.onAccount = map[string]string{"meta.helm.sh/release-name": "fw"}
	said, err = f.run(t)
	require.NoError(t, err, "a second time")
	assert.Equal(t, "DaemonSet ns/fw is not there, so no agents run\nno HostEndpoint and no failsafe ports of release fw are left\n", said)
}

func TestThePodOfHelmTestKeepsNobodyFromBeingOpened(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", "host-endpoint=ingress")
	f.before = func(call string) error {
		if strings.HasPrefix(call, "remove pod") {
			return errors.New("may not")
		}
		return nil
	}
	_, err := f.run(t)
	require.ErrorContains(t, err, "cannot remove the Pod of helm test, and the time is over: may not")
	assert.Empty(t, f.endpoints)
}

// A node that lost its endpoint would be a stranger to the nodes that are still
// armed.
func TestNoEndpointGoesBeforeAllAreDisarmedAndAllAgentsStopped(t *testing.T) {
	f := newFake()
	for i := range 50 {
		f.hep(fmt.Sprintf("n%d", i), "fw", "host-endpoint=ingress")
	}
	f.narrowed(t, "n1", "fw", nil)
	said, err := f.run(t)
	require.NoError(t, err, said)
	kind := func(write string) string {
		verb, name, _ := strings.Cut(write, " ")
		if strings.HasPrefix(name, "node.") {
			verb += " felix"
		}
		return verb
	}
	var phases []string
	for _, write := range f.writes {
		phases = append(phases, kind(write))
	}
	assert.Equal(t, []string{"stop", "patch", "delete", "delete felix", "remove"}, slices.Compact(phases))
}

func TestOneThatCannotBeDisarmedKeepsAllTheOthers(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", "host-endpoint=ingress")
	f.hep("n2", "fw", "host-endpoint=ingress")
	f.before = func(call string) error {
		if call == "patch n2" {
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
	hep := f.hep("n1", "fw", "host-endpoint=ingress", "rack=r1")
	hep.Annotations = map[string]string{"projectcalico.org/metadata": `{"labels":{"host-firewall.io/release":"fw","host-endpoint":"ingress","team":"x"}}`, "note": "y"}
	hep.Labels = nil
	f.before = func(call string) error {
		if strings.HasPrefix(call, "delete") {
			return errors.New("stop here")
		}
		return nil
	}
	_, err := f.run(t)
	require.ErrorContains(t, err, "stop here")
	assert.Equal(t, map[string]string{"host-firewall.io/release": "fw", "team": "x"}, f.endpoints["n1"].Labels)
	assert.Equal(t, map[string]string{"note": "y"}, f.endpoints["n1"].Annotations)
}

func TestTroubleThatPassesIsSurvived(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", "host-endpoint=ingress")
	f.hep("n2", "fw", "host-endpoint=ingress")
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
	f.hep("n1", "fw", "host-endpoint=ingress")
	once := sync.OnceFunc(func() { f.endpoints["n1"].ResourceVersion = "5" })
	f.before = func(call string) error {
		if call == "patch n1" || call == "delete n1" {
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
		if call == "delete n1" {
			delete(f.endpoints, "n1")
		}
		return nil
	}
	said, err := f.run(t)
	require.NoError(t, err)
	assert.NotContains(t, said, "removed HostEndpoint n1")
}

func TestPodsOnNodesThatDoNotAnswerAreNotWaitedForForever(t *testing.T) {
	f := newFake()
	f.stuck = true
	f.hep("n1", "fw", "host-endpoint=ingress")
	said, err := f.run(t)
	require.NoError(t, err)
	assert.Contains(t, said, "on nodes that do not answer: going on without them")
	assert.Empty(t, f.endpoints)
}

func TestNothingIsRemovedWhileAgentsCannotBeStopped(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw", "host-endpoint=ingress")
	f.before = func(call string) error {
		if strings.HasPrefix(call, "stop") {
			return errors.New("no right")
		}
		return nil
	}
	_, err := f.run(t)
	assert.ErrorContains(t, err, "cannot stop DaemonSet ns/fw, and the time is over: no right")
	assert.Len(t, f.endpoints, 1)
	assert.Empty(t, f.writes)
}

func TestEndpointsThatComeBackAreAnError(t *testing.T) {
	f := newFake()
	f.hep("n1", "fw")
	f.before = func(call string) error {
		if call == "list endpoints" {
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
	f.hep("n1", "fw", "host-endpoint=ingress")
	f.hep("n2", "fw", "host-endpoint=ingress")
	lists := 0
	f.before = func(call string) error {
		if call == "list endpoints" {
			if lists++; lists%2 == 1 { // the first is before anything is stopped
				f.hep("n2", "fw", "host-endpoint=ingress")
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
			f.hep("n1", "fw", "host-endpoint=ingress")
			f.daemonSet, f.onSet, f.onAccount = test.daemonSet, test.onSet, test.onAccount
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
			func(f *fake) { f.served = false; f.other.hep("n1", "fw", "host-endpoint=ingress") }, true, "are left\n",
		},
		"its server is away, but in the other group": {
			func(f *fake) { f.before = away; f.other.hep("n1", "fw", "host-endpoint=ingress") }, true,
			"are left, but nobody could look in projectcalico.org/v3: its server is away\n",
		},
		"the other group may not be read": {
			func(f *fake) { f.other.before = away }, true, "are left, but nobody could look in crd.projectcalico.org/v1: its server is away\n",
		},
		"not served any more, but a failsafe in the other group": {func(f *fake) { f.served = false; f.other.narrowed(t, "n1", "fw", nil) }, true, ""},
		"stopped before, and the other group has none":           {func(f *fake) { f.served, f.daemonSet = false, false }, false, "helm uninstall --no-hooks"},
		"stopped before, but in the other group": {
			func(f *fake) { f.served, f.daemonSet = false, false; f.other.hep("n1", "fw", "host-endpoint=ingress") }, true, "",
		},
		"stopped before, and nothing of Calico is served now": {func(f *fake) { f.served, f.other.served, f.daemonSet = false, false, false }, false, "cannot be seen"},
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
				assert.False(t, f.daemonSet)
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
	f.hep("n1", "fw", "host-endpoint=ingress")
	f.other.hep("n1", "fw", "host-endpoint=ingress")
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
	f.hep("n1", "fw", "host-endpoint=ingress")
	f.other.hep("n1", "fw", "host-endpoint=ingress")
	f.before = func(call string) error {
		if !f.daemonSet && strings.HasPrefix(call, "list") {
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
