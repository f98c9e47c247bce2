package operator

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// cluster is an API server whose caches follow at once.
type cluster struct {
	t    *testing.T
	wake func()

	mu      sync.Mutex
	nodes   map[string]*corev1.Node
	heps    map[string]*v3.HostEndpoint
	felix   map[string]*failsafe.Configuration
	said    *clearance.Clearance
	version int
	slow    time.Duration // what each request takes
	asking  int           // requests that are under way
	most    int           // of them at a time
	trouble string
	broken  map[string]bool // targets that are not reached
	tried   []string        // names of targets, in the order in which they were tried
	moved   []string        // nodes in the order in which they were armed with set "b"
}

func (c *cluster) Problem() string { return "" }
func (c *cluster) Trouble() (string, time.Time) {
	defer c.lock()()
	return c.trouble, time.Now()
}
func (c *cluster) FollowFelix()       {}
func (c *cluster) Node() *corev1.Node { panic("of no node") }
func (c *cluster) KnownEndpoints() ([]*v3.HostEndpoint, string) {
	panic("of no node")
}
func (c *cluster) Felix() (own, forAll *failsafe.Configuration, problem string) { panic("of no node") }
func (c *cluster) ListOwnEndpoints(context.Context) ([]*v3.HostEndpoint, error) {
	panic("of no node")
}

func (c *cluster) Clearance() (*clearance.Clearance, string) {
	defer c.lock()()
	return c.said, ""
}

func (c *cluster) Nodes() []*corev1.Node {
	defer c.lock()()
	return slices.Collect(maps.Values(c.nodes))
}

func (c *cluster) Endpoints() ([]*v3.HostEndpoint, string) {
	defer c.lock()()
	return slices.Collect(maps.Values(c.heps)), strconv.Itoa(c.version)
}

func (c *cluster) Failsafes() ([]*failsafe.Configuration, string) {
	defer c.lock()()
	return slices.Collect(maps.Values(c.felix)), ""
}

func (c *cluster) ReadEndpoint(_ context.Context, name string) (*v3.HostEndpoint, error) {
	defer c.asked()()
	defer c.lock()()
	return c.heps[name], nil
}

func (c *cluster) ReadFelix(_ context.Context, name string) (*failsafe.Configuration, error) {
	defer c.asked()()
	defer c.lock()()
	return c.felix[name], nil
}

func (c *cluster) CreateEndpoint(_ context.Context, hep *v3.HostEndpoint) (*v3.HostEndpoint, error) {
	defer c.asked()()
	defer c.lock()()
	hep = hep.DeepCopy()
	hep.UID = types.UID(hep.Name + "-uid")
	return c.put(hep), nil
}

func (c *cluster) PatchEndpoint(_ context.Context, name string, patch []byte) (*v3.HostEndpoint, error) {
	defer c.asked()()
	defer c.lock()()
	hep := &v3.HostEndpoint{}
	merge(c.t, c.heps[name], patch, hep)
	if endpoint.SetOf(hep) == "b" && endpoint.SetOf(c.heps[name]) != "b" {
		c.moved = append(c.moved, name)
	}
	return c.put(hep), nil
}

func (c *cluster) DeleteEndpoint(_ context.Context, hep *v3.HostEndpoint) error {
	defer c.asked()()
	c.change(func() { delete(c.heps, hep.Name) })
	return nil
}

func (c *cluster) CreateFelix(_ context.Context, f *failsafe.Configuration) (*failsafe.Configuration, error) {
	defer c.asked()()
	c.change(func() { c.felix[f.Name] = f })
	return f, nil
}

func (c *cluster) PatchFelix(_ context.Context, name string, patch []byte) (f *failsafe.Configuration, _ error) {
	defer c.asked()()
	f = &failsafe.Configuration{}
	c.change(func() { merge(c.t, c.felix[name], patch, f); c.felix[name] = f })
	return f, nil
}

func (c *cluster) DeleteFelix(_ context.Context, f *failsafe.Configuration) error {
	defer c.asked()()
	c.change(func() { delete(c.felix, f.Name) })
	return nil
}

func (c *cluster) CreateEvent(context.Context, *corev1.Event) error {
	defer c.asked()()
	return nil
}

// asked is a request, which takes its time.
func (c *cluster) asked() (done func()) {
	c.mu.Lock()
	c.asking++
	c.most = max(c.most, c.asking)
	slow := c.slow
	c.mu.Unlock()
	time.Sleep(slow)
	return func() {
		defer c.lock()()
		c.asking--
	}
}

// try takes 20 ms for all targets.
func (c *cluster) try(_ context.Context, targets []probe.Target) (results []trial.Result) {
	time.Sleep(20 * time.Millisecond)
	defer c.lock()()
	for _, target := range targets {
		result := trial.Result{Probe: target.Name}
		if c.broken[target.Name] {
			result.Problem = "timed out"
		}
		c.tried, results = append(c.tried, target.Name), append(results, result)
	}
	return results
}

func (c *cluster) lock() (unlock func()) { c.mu.Lock(); return c.mu.Unlock }

func (c *cluster) change(alter func()) {
	defer c.lock()()
	c.version++
	alter()
	c.wake()
}

// put stores an endpoint. The lock is held.
func (c *cluster) put(hep *v3.HostEndpoint) *v3.HostEndpoint {
	c.version++
	hep.ResourceVersion = strconv.Itoa(c.version)
	c.heps[hep.Name] = hep
	c.wake()
	return hep
}

func merge(t *testing.T, object any, patch []byte, into any) {
	t.Helper()
	before, err := json.Marshal(object)
	require.NoError(t, err)
	after, err := jsonpatch.MergePatch(before, patch)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(after, into))
}

func newNode(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-of-" + name), Labels: map[string]string{"kubernetes.io/os": "linux"}, CreationTimestamp: metav1.NewTime(time.Unix(1000, 0))},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2." + name[1:]}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// cleared is what the controller says when all nodes may be armed with a set.
func cleared(set string) *clearance.Clearance {
	return &clearance.Clearance{Wanted: clearance.Set{Revision: set}, Present: []string{"a", "b"}, Nodes: time.Unix(2000, 0), Endpoints: "100000"}
}

// world runs an operator for set b on a cluster in a bubble of time, until the test ends.
func world(t *testing.T, test func(t *testing.T, c *cluster, o *Operator), nodes ...string) {
	worldOf(t, func(*cluster) {}, test, nodes...)
}

// worldOf is world with what is there before the operator starts.
func worldOf(t *testing.T, before func(c *cluster), test func(t *testing.T, c *cluster, o *Operator), nodes ...string) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, nodes: map[string]*corev1.Node{}, heps: map[string]*v3.HostEndpoint{}, felix: map[string]*failsafe.Configuration{}, said: cleared("b")}
		for _, name := range nodes {
			c.nodes[name] = newNode(name)
		}
		o := New(Config{
			Keeper: keeper.Config{
				Release: "fw", Set: "b", Verify: true, Patterns: []string{"*"}, Resync: time.Hour,
				Failsafe: &failsafe.Want{Ports: []uint16{22}, CIDRs: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}},
			},
			Nodes:          labels.SelectorFromSet(labels.Set{"kubernetes.io/os": "linux"}),
			MaxUnavailable: intstr.FromInt32(1),
			OwnNode:        "n1",
			Always:         []probe.Target{{Name: "API server"}, {Name: "DNS"}},
			Try:            c.try,
		}, c, slog.New(slog.DiscardHandler))
		c.wake = o.Wake
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		before(c)
		go o.Run(ctx)
		test(t, c, o)
	})
}

// after waits so long, and for all that is to happen then.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// armed are the nodes whose endpoints carry a set.
func (c *cluster) armed(set string) (names []string) {
	defer c.lock()()
	for _, hep := range c.heps {
		if endpoint.SetOf(hep) == set {
			names = append(names, hep.Name)
		}
	}
	slices.Sort(names)
	return names
}

// carry gives a node an endpoint that an agent has armed with set a.
func (c *cluster) carry(name string, expected ...string) {
	hep, _ := endpoint.Shape{Release: "fw"}.Desired(newNode(name), endpoint.Interface{Name: "*"}, nil, "a")
	hep.Spec.ExpectedIPs = append(hep.Spec.ExpectedIPs, expected...)
	hep.UID = types.UID(name + "-uid")
	hep.Annotations = map[string]string{trial.Annotation: trial.Status{Set: "a", From: "a", Phase: trial.Armed}.Encode()}
	defer c.lock()()
	c.put(hep)
}

func TestEachSelectedNodeGetsItsEndpointAndItsNarrowFailsafe(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, o *Operator) {
		c.change(func() { c.nodes["n3"].Labels["kubernetes.io/os"] = "windows" })
		after(time.Minute)
		assert.Equal(t, []string{"n1", "n2"}, c.armed("b"))
		assert.Equal(t, []string{"node.n1", "node.n2"}, slices.Sorted(maps.Keys(c.felix)))
		assert.Equal(t, []metav1.OwnerReference{endpoint.NodeOwner("n1", "uid-of-n1")}, c.heps["n1"].OwnerReferences)
		assert.Equal(t, []string{"192.0.2.1"}, c.heps["n1"].Spec.ExpectedIPs)
		note := endpoint.NoteOf(c.heps["n1"])
		assert.Equal(t, "unproven: no agent on this node", note.Enforced)
		assert.Empty(t, o.Lack())

		c.change(func() { c.nodes["n4"] = newNode("n4") })
		after(time.Minute)
		assert.Equal(t, []string{"n1", "n2", "n4"}, c.armed("b"), "one that joins")

		c.change(func() { delete(c.nodes, "n1"); delete(c.heps, "n1") })
		after(time.Minute)
		assert.Equal(t, []string{"n2", "n4"}, c.armed("b"), "one that has left stays away")
	}, "n1", "n2", "n3")
}

func TestWhatSomebodyDeletesOrEditsIsPutRightAtOnce(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, _ *Operator) {
		after(time.Minute)
		c.change(func() { delete(c.heps, "n1") })
		after(time.Second)
		assert.Equal(t, []string{"n1", "n2"}, c.armed("b"))
		c.mu.Lock()
		edited := c.heps["n2"].DeepCopy()
		delete(edited.Labels, endpoint.SetLabel)
		edited.Spec.ExpectedIPs = []string{"203.0.113.77"}
		c.put(edited)
		c.mu.Unlock()
		after(time.Second)
		assert.Equal(t, []string{"n1", "n2"}, c.armed("b"))
		assert.Equal(t, []string{"192.0.2.2"}, c.heps["n2"].Spec.ExpectedIPs)
		c.change(func() { delete(c.felix, "node.n1") })
		after(10 * time.Second)
		assert.Contains(t, c.felix, "node.n1")
	}, "n1", "n2")
}

func TestWayOutTakesEverythingAway(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, o *Operator) {
		after(time.Minute)
		require.Len(t, c.heps, 2)
		c.change(func() { opened := *c.said; opened.Opened = true; c.said = &opened })
		after(time.Second)
		assert.Empty(t, c.heps)
		assert.Empty(t, c.felix)
		assert.Contains(t, o.Lack(), "not as the values ask for: n1, n2. Node n1 is Waiting: opened by the annotation")
		c.change(func() { c.said = cleared("b") })
		after(time.Minute)
		assert.Equal(t, []string{"n1", "n2"}, c.armed("b"))
	}, "n1", "n2")
}

func TestNodesGoFromSetToSetOneAfterTheOther(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, _ *Operator) {
		for _, name := range []string{"n1", "n2", "n3"} {
			c.carry(name)
		}
		for i, want := range [][]string{{"n1"}, {"n1", "n2"}, {"n1", "n2", "n3"}} {
			after(17 * time.Second)
			assert.Equal(t, want, c.armed("b"), "%d", i)
		}
		after(time.Minute)
		assert.Equal(t, []string{"n1", "n2", "n3"}, c.moved)
	}, "n1", "n2", "n3")
}

func TestNodeThatIsNotWellWithTheSetStopsTheOthersAndGoesBack(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, o *Operator) {
		c.carry("n1")
		c.carry("n2")
		after(8 * time.Second)
		require.Equal(t, []string{"n1"}, c.armed("b"))
		c.change(func() {
			said := *c.said
			said.Cut = map[string][]string{"kubelet from the controller's host: timed out": {"n1"}}
			c.said = &said
		})
		after(time.Minute)
		assert.Equal(t, []string{"n1", "n2"}, c.armed("a"))
		assert.Equal(t, []string{"n1"}, c.moved)
		assert.Contains(t, o.Lack(), "Node n1 is RolledBack")
		assert.Contains(t, o.Lack(), "kubelet from the controller's host: timed out")
	}, "n1", "n2")
}

// What the controller's host reached before the move has to be reached afterwards, and what it is told has to come.
func TestNodeGoesBackThatCutsTheControllersHostOff(t *testing.T) {
	for lost, cut := range map[string]func(c *cluster){
		"API server: timed out":                                           func(c *cluster) { c.broken = map[string]bool{"API server": true} },
		"kubelets of other nodes: timed out":                              func(c *cluster) { c.broken = map[string]bool{"kubelets of other nodes": true} },
		"what the API server tells the controller: watch of Nodes broken": func(c *cluster) { c.trouble = "watch of Nodes broken" },
		"the Node's condition Ready: it is not":                           func(c *cluster) { n := newNode("n1"); n.Status.Conditions = nil; c.nodes["n1"] = n },
	} {
		t.Run(lost, func(t *testing.T) {
			world(t, func(t *testing.T, c *cluster, o *Operator) {
				said := *cleared("b")
				said.Peers = map[string]netip.AddrPort{"n2": netip.MustParseAddrPort("192.0.2.2:10250")}
				c.change(func() { c.said = &said })
				c.carry("n1")
				after(8 * time.Second)
				require.Equal(t, []string{"n1"}, c.armed("b"))
				c.change(func() { cut(c) })
				after(time.Minute)
				assert.Equal(t, []string{"n1"}, c.armed("a"))
				assert.Contains(t, o.Lack(), lost)
			}, "n1")
		})
	}
}

func TestWhatIsTheSameForAllNodesIsTriedOnceForAll(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, _ *Operator) {
		after(time.Minute)
		require.Len(t, c.armed("b"), 9)
		assert.Less(t, len(c.tried), 2*2*25, "two targets, a dozen rounds and those that were under way when somebody asked")
	}, "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9")
}

func TestSlowAPIServerGetsFewRequestsAtATimeAndKillsNobody(t *testing.T) {
	names := manyNodes(4 * atOnce)
	worldOf(t, func(c *cluster) { c.slow = time.Minute }, func(t *testing.T, c *cluster, o *Operator) {
		for range 30 {
			after(time.Minute)
			assert.NoError(t, o.Alive())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		assert.Equal(t, atOnce, c.most)
		assert.Len(t, c.felix, len(names))
	}, names...)
}

func TestNodeThatIsNotReadyDoesNotMove(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, _ *Operator) {
		c.carry("n1")
		c.carry("n2")
		c.change(func() { n := newNode("n1"); n.Status.Conditions = nil; c.nodes["n1"] = n })
		after(time.Minute)
		assert.Equal(t, []string{"n2"}, c.armed("b"), "it keeps nobody waiting")
		c.change(func() { c.nodes["n1"] = newNode("n1") })
		after(time.Minute)
		assert.Equal(t, []string{"n1", "n2"}, c.armed("b"))
	}, "n1", "n2")
}

func TestNodeThatIsHeldBackKeepsNobodyWaiting(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, o *Operator) {
		c.change(func() { c.said.Held = map[string][]string{"n1 is odd": {"n1"}} })
		for _, name := range []string{"n1", "n2", "n3"} {
			c.carry(name)
		}
		after(time.Minute)
		assert.Equal(t, []string{"n2", "n3"}, c.moved)
		assert.Contains(t, o.Lack(), "not as the values ask for: n1. Node n1 is Waiting: stays armed with set a, not with b: n1 is odd")
	}, "n1", "n2", "n3")
}

// A Node may leave, or the clearance go, in the middle of a keeper's pass.
func TestNodeThatLeavesDuringAPassIsToldSo(t *testing.T) {
	world(t, func(t *testing.T, c *cluster, o *Operator) {
		after(time.Minute)
		of := func(name string) (*clearance.Clearance, string) { return ofNode{c, o, name}.Clearance() }
		said, problem := of("n1")
		assert.NotNil(t, said)
		assert.Empty(t, problem)
		said, problem = of("n9")
		assert.Nil(t, said)
		assert.Equal(t, "Node n9 is not kept any more", problem)
		config := o.config.Keeper
		config.Node, config.Self = "n9", self{o, "n9"}
		ctx, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		late := keeper.New(config, ofNode{c, o, "n9"}, o.log)
		late.Run(ctx)
		assert.Equal(t, "Node n9 is not in the cluster", late.Status().Reason)
	}, "n1")
}

// What an agent has found on its node stays when agents go: other nodes let it in by that.
func TestAddressesThatAnAgentHasFoundStay(t *testing.T) {
	agents := func(c *cluster) {
		c.carry("n1", "198.51.100.1")
		c.carry("n2", "198.51.100.2")
		c.nodes["n2"].UID = "another"
	}
	worldOf(t, agents, func(t *testing.T, c *cluster, _ *Operator) {
		after(time.Minute)
		assert.Equal(t, []string{"192.0.2.1", "198.51.100.1"}, c.heps["n1"].Spec.ExpectedIPs)
		assert.Equal(t, []string{"192.0.2.2"}, c.heps["n2"].Spec.ExpectedIPs, "that of a Node of that name which is gone")
	}, "n1", "n2")
}

// A pass over thousands of nodes reads only what has changed.
func TestPassReadsNoEndpointTwice(t *testing.T) {
	worldOf(t, func(c *cluster) {
		for name := range c.nodes {
			c.carry(name)
		}
	}, func(t *testing.T, _ *cluster, o *Operator) {
		after(time.Second)
		require.Len(t, o.seen.Load().nodes, 200)
		o.mu.Lock()
		defer o.mu.Unlock()
		assert.Less(t, testing.AllocsPerRun(10, func() { o.look() }), 200.0)
	}, manyNodes(200)...)
}

func manyNodes(n int) (names []string) {
	for i := range n {
		names = append(names, "n"+strconv.Itoa(i+1))
	}
	return names
}

func TestAsManyMoveAtATimeAsMayBeUnavailable(t *testing.T) {
	for most, want := range map[string]int{"1": 1, "25%": 2, "30%": 2, "100%": 5, "9": 9} {
		o := &Operator{config: Config{MaxUnavailable: intstr.Parse(most)}}
		assert.Equal(t, want, o.most(5), most)
	}
	assert.Equal(t, 1, (&Operator{config: Config{MaxUnavailable: intstr.Parse("1%")}}).most(0), "never none")
}
