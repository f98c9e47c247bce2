package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
)

// fake is an API server with its caches, which show everything at once unless they are
// told to lag.
type fake struct {
	mu sync.Mutex
	*world
	wake    func()
	problem string
	trouble time.Time // since when a cache does not follow; zero: it does
	lag     []*v3.GlobalNetworkSet
	refuse  map[string]error // what writes of these verbs and names fail with
	wrote   map[string]int   // writes by verb
	events  []*corev1.Event
	ports   []uint16 // of the API server on n1
	felix   map[string]*failsafe.Configuration
	pools   []*v3.IPPool
}

func newFake(t *testing.T, nodes ...string) *fake {
	f := &fake{world: newWorld(t, nodes...), refuse: map[string]error{}, wrote: map[string]int{}, wake: func() {}}
	f.Config.Started = time.Now()
	return f
}

func (f *fake) Problem() string { f.mu.Lock(); defer f.mu.Unlock(); return f.problem }
func (f *fake) Trouble() (string, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trouble.IsZero() {
		return "", f.trouble
	}
	return "cannot watch Nodes", f.trouble
}
func (f *fake) Nodes() []*corev1.Node { f.mu.Lock(); defer f.mu.Unlock(); return slices.Clone(f.nodes) }
func (f *fake) Endpoints() ([]*v3.HostEndpoint, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.endpoints), f.facts.version
}
func (f *fake) Policies() []*policyset.Policy { f.mu.Lock(); defer f.mu.Unlock(); return f.policies }
func (f *fake) TrustSets() []*v3.GlobalNetworkSet {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lag != nil {
		return f.lag
	}
	return f.trusted
}
func (f *fake) Information() *v3.ClusterInformation  { return nil }
func (f *fake) FelixForAll() *failsafe.Configuration { return f.felix["default"] }
func (f *fake) ConfigMap() *corev1.ConfigMap         { f.mu.Lock(); defer f.mu.Unlock(); return f.configMap }

// write does one write, or refuses it, and wakes the controller.
func (f *fake) write(verb, name string, do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrote[verb]++
	if err := f.refuse[verb+" "+name]; err != nil {
		return err
	}
	defer f.wake()
	return do()
}

// set returns where a set is.
func (f *fake) set(name string) int {
	return slices.IndexFunc(f.trusted, func(s *v3.GlobalNetworkSet) bool { return s.Name == name })
}

func resource(name string) schema.GroupResource { return schema.GroupResource{Resource: name} }

func (f *fake) Create(_ context.Context, object metav1.Object) error {
	return f.write("create", object.GetName(), func() error {
		switch o := object.(type) {
		case *corev1.ConfigMap:
			o.ResourceVersion = f.next()
			f.configMap = o
		case *witness.Policy:
			f.policy(o.Name, o.Labels, o.Spec)
		case *v3.GlobalNetworkSet:
			if f.set(o.Name) >= 0 {
				return apierrors.NewAlreadyExists(resource("globalnetworksets"), o.Name)
			}
			stored := o.DeepCopy()
			stored.ResourceVersion = f.next()
			f.trusted = append(slices.Clone(f.trusted), stored)
		}
		return nil
	})
}

func (f *fake) Patch(_ context.Context, object metav1.Object, patch []byte) error {
	return f.write("patch", object.GetName(), func() error {
		if _, isConfigMap := object.(*corev1.ConfigMap); isConfigMap {
			patched := &corev1.ConfigMap{}
			if err := f.merge(f.configMap, f.configMap.ResourceVersion, patch, patched); err != nil {
				return err
			}
			patched.ResourceVersion = f.next()
			f.configMap = patched
			return nil
		}
		at := f.set(object.GetName())
		if at < 0 {
			return apierrors.NewNotFound(resource("globalnetworksets"), object.GetName())
		}
		patched := &v3.GlobalNetworkSet{}
		if err := f.merge(f.trusted[at], f.trusted[at].ResourceVersion, patch, patched); err != nil {
			return err
		}
		patched.ResourceVersion = f.next()
		f.trusted = slices.Clone(f.trusted)
		f.trusted[at] = patched
		return nil
	})
}

// merge applies a JSON merge patch.
func (f *fake) merge(from any, version string, patch []byte, into any) error {
	var said struct {
		Metadata struct{ ResourceVersion *string }
	}
	require.NoError(f.t, json.Unmarshal(patch, &said))
	if v := said.Metadata.ResourceVersion; v != nil && *v != version {
		return apierrors.NewConflict(resource("any"), "x", errors.New("not the newest"))
	}
	before, err := json.Marshal(from)
	require.NoError(f.t, err)
	after, err := jsonpatch.MergePatch(before, patch)
	require.NoError(f.t, err)
	return json.Unmarshal(after, into)
}

func (f *fake) Delete(_ context.Context, object metav1.Object) error {
	return f.write("delete", object.GetName(), func() error {
		f.trusted = slices.DeleteFunc(slices.Clone(f.trusted), func(s *v3.GlobalNetworkSet) bool { return s.Name == object.GetName() })
		f.remove(object.GetName())
		return nil
	})
}

func (f *fake) CreateEvent(_ context.Context, event *corev1.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, event)
	return nil
}

func (f *fake) APIServer(context.Context) ([]netip.Addr, []uint16, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, f.ports, f.refuse["get kubernetes"]
}

func (f *fake) ReadFelix(_ context.Context, name string) (*failsafe.Configuration, error) {
	return f.felix[name], nil
}

func (f *fake) FelixConfigurations(context.Context) (all []*failsafe.Configuration, _ error) {
	return slices.Collect(maps.Values(f.felix)), f.refuse["list felixconfigurations"]
}

func (f *fake) IPPools(context.Context) ([]*v3.IPPool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pools, f.refuse["list ippools"]
}

// run runs a controller over the fake while time, which is not the world's, passes as the
// test says.
func (f *fake) run(test func(k *Controller)) {
	k := New(f.Config, f, slog.New(slog.DiscardHandler))
	f.wake = k.Wake
	ctx, stop := context.WithCancel(f.t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	f.mu.Lock()
	test(k)
	f.mu.Unlock()
	stop()
	running.Wait()
}

// wait lets time pass. A test has the fake for itself but then.
func (f *fake) wait(d time.Duration) {
	f.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	f.mu.Lock()
}

func TestControllerMakesWhatItDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "n1", "n2")
		f.run(func(k *Controller) {
			f.wait(10 * time.Second)
			require.Len(t, f.ofNodes(), 2)
			assert.Equal(t, map[string]string{"host-firewall.io/release": "fw"}, f.configMap.Labels)
			f.agent("n2", "A", "")
			f.agent("n1", "A", "")
			k.Wake()
			f.wait(time.Second)
			assert.Equal(t, Canary, k.Status().State)
			assert.Equal(t, "n1", f.said().Canary)
			f.agent("n1", "A", "A")
			k.Wake()
			f.wait(5 * time.Second)
			assert.Equal(t, Cleared, k.Status().State)
			before := fmt.Sprint(f.wrote)
			f.wait(20 * time.Minute)
			assert.Equal(t, before, fmt.Sprint(f.wrote), "then there is nothing to do")
			assert.NoError(t, k.Alive())
		})
	})
}

func TestKubeletsAreDialedBesideTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "n1", "n2")
		f.Config.Verify = true
		var dialing atomic.Int32
		f.Config.Dial = func(ctx context.Context, _ netip.AddrPort) error {
			if dialing.Add(1) <= 2 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		f.agent("n2", "A", "")
		f.agent("n1", "A", "")
		f.run(func(k *Controller) {
			f.wait(settle + 100*time.Millisecond)
			assert.Equal(t, "n1", f.said().Canary)
			f.tries("n1", trial.Status{Set: "A", Phase: trial.Trying, Since: time.Now(), Attempt: 1})
			k.Wake()
			f.wait(dialEvery)
			f.node("n3", start, "192.0.2.3")
			k.Wake()
			f.wait(dialFor / 2)
			assert.Len(t, f.ofNodes(), 3, "nothing waits for an answer")
			f.wait(lostAfter * dialEvery)
			assert.Equal(t, "kubelet from the controller's host: context deadline exceeded", f.said().CutOff("n1"))
			assert.LessOrEqual(t, dialing.Load(), int32(2+lostAfter+1))
		})
	})
}

func TestConnectionIsMadeAndEnded(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	at := netip.MustParseAddrPort(listener.Addr().String())
	k := New(Config{}, nil, slog.New(slog.DiscardHandler))
	require.NoError(t, k.dialOne(t.Context(), at))
	connection, err := listener.Accept()
	require.NoError(t, err)
	_, err = connection.Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.EOF)
	require.NoError(t, listener.Close())
	assert.EqualError(t, k.dialOne(t.Context(), at), "connect: connection refused", "without its address it is the same for many nodes")
}

func TestOneThatCannotBeWrittenKeepsNoOtherFromBeing(t *testing.T) {
	forbidden := apierrors.NewForbidden(resource("globalnetworksets"), "fw-node-n1", errors.New(`the account lacks the right "create"`))
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "n1", "n2", "n3")
		f.refuse["create fw-node-n1"] = forbidden
		f.run(func(k *Controller) {
			f.wait(time.Minute)
			assert.Len(t, f.ofNodes(), 2)
			assert.False(t, k.Status().Ready)
			assert.Contains(t, k.Status().Reason, `lacks the right "create"`)
			assert.Less(t, f.wrote["create"], 13, "more and more seldom")
			delete(f.refuse, "create fw-node-n1")
			f.wait(time.Minute)
			assert.Len(t, f.ofNodes(), 3)
			assert.True(t, k.Status().Ready, k.Status().Reason)
		})
	})
}

func TestWhatTheCacheDoesNotShowYetIsNotWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "n1")
		f.lag = []*v3.GlobalNetworkSet{}
		f.run(func(k *Controller) {
			f.wait(shownWithin / 2)
			k.Wake()
			f.wait(shownWithin / 3)
			assert.Equal(t, 4, f.wrote["create"], "the set, the ConfigMap and both policies of a witness, whose set waits for this one")
			assert.Zero(t, f.wrote["delete"])
			f.lag = nil
			f.wait(time.Minute)
			assert.Equal(t, 5, f.wrote["create"])
			assert.True(t, k.Status().Ready, k.Status().Reason)
		})
	})
}

func TestSetThatLostItsLabelIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "n1")
		f.run(func(k *Controller) {
			f.wait(10 * time.Second)
			f.trusted = slices.Clone(f.trusted)
			f.trusted[0] = f.trusted[0].DeepCopy()
			f.trusted[0].Labels = nil
			f.trusted[0].ResourceVersion = f.next()
			f.lag = []*v3.GlobalNetworkSet{}
			k.Wake()
			f.wait(time.Second)
			assert.Equal(t, "fw", f.trusted[0].Labels["host-firewall.io/release"])
			f.lag = nil
		})
	})
}

func TestThousandsOfSetsAreWrittenInSeveralPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		for i := range 3 * perPass {
			f.node(fmt.Sprintf("n%d", i), start, fmt.Sprintf("10.0.%d.%d", i/256, i%256))
		}
		f.run(func(k *Controller) {
			f.wait(10 * time.Second)
			assert.Len(t, f.ofNodes(), 3*perPass)
			assert.Zero(t, k.Status().Untrusted)
		})
	})
}

func TestAPIServersOfNodesAreAskedAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "n1", "n2")
		f.Config.APIServerPorts, f.ports = []uint16{443}, []uint16{8443}
		f.run(func(*Controller) {
			held := func(node string) string { why, _ := f.said().Hold(node); return why }
			f.wait(time.Second)
			assert.Contains(t, held("n1"), "tcp 8443")
			assert.Empty(t, held("n2"))
			f.ports = []uint16{6443}
			f.wait(askAgain)
			assert.Empty(t, held("n1"), "it is a failsafe port of Felix's own")
			f.ports = []uint16{8443}
			f.refuse["get kubernetes"] = errors.New("no answer")
			f.node("n3", start.Add(time.Minute), "192.0.2.1")
			f.wake()
			f.wait(5 * time.Second)
			assert.Empty(t, held("n1"), "what was known is believed")
			assert.NotEmpty(t, f.said().MayCreate("n3", f.nodes[2].CreationTimestamp.Time), "but of a new Node nothing is")
			delete(f.refuse, "get kubernetes")
			f.wait(askAgain)
			assert.Contains(t, held("n1"), "tcp 8443")
			assert.Contains(t, held("n3"), "tcp 8443")
		})
	})
}

func TestEventsTellOnceWhatLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "n1")
		f.agent("n1", "A", "A")
		f.remove("fw-drop-A")
		f.run(func(k *Controller) {
			f.wait(lastsFor - time.Second)
			assert.Empty(t, f.events)
			f.policy("theirs", nil, map[string]any{"selector": "all()"})
			k.Wake()
			f.wait(time.Hour)
			kinds := map[string]string{}
			for _, e := range f.events {
				about := e.InvolvedObject
				kinds[e.Reason] = strings.Join([]string{about.Kind, about.Namespace, about.Name, e.Namespace}, " ")
			}
			assert.Equal(t, map[string]string{eventDrift: "ConfigMap ns fw ns", eventHeld: "Node  n1 default"}, kinds)
			assert.Len(t, f.events, 2)
		})
	})
}

func TestProblemsOfTheCachesAreSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "n1")
		f.problem = "cannot list Nodes: " + http.StatusText(http.StatusForbidden)
		f.run(func(k *Controller) {
			f.wait(time.Minute)
			assert.Equal(t, f.problem, k.Status().Reason)
			assert.False(t, k.Status().Ready)
			assert.Empty(t, f.wrote, "who does not know the cluster writes nothing")
			f.problem = ""
			k.Wake()
			f.wait(time.Minute)
			assert.True(t, k.Status().Ready, k.Status().Reason)
			f.trouble = time.Now()
			k.Wake()
			f.wait(troubleAfter - time.Second)
			assert.True(t, k.Status().Ready)
			f.wait(2 * time.Second)
			assert.Equal(t, "as it was left, but cannot watch Nodes", k.Status().Reason)
			assert.False(t, k.Status().Ready)
		})
	})
}

// BenchmarkPass is of a pass over 5,000 armed nodes, of which one has changed.
func BenchmarkPass(b *testing.B) {
	t := &testing.T{}
	w := newWorld(t)
	for i := range 5000 {
		name := fmt.Sprintf("node-%d", i)
		w.node(name, start, fmt.Sprintf("10.0.%d.%d", i/256, i%256))
		w.agent(name, "A", "A")
	}
	for i := range 50 {
		w.policy(fmt.Sprintf("theirs-%d", i), nil, map[string]any{"selector": fmt.Sprintf("app == 'db-%d'", i)})
	}
	w.look()
	for b.Loop() {
		w.facts.endpoints = slices.Clone(w.endpoints)
		w.facts.endpoints[0] = w.facts.endpoints[0].DeepCopy()
		w.facts.endpoints[0].ResourceVersion = w.next()
		w.decide(w.facts, &w.memory)
	}
}
