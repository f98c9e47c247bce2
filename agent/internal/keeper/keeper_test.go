package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// cluster is an API server with one node's view of it, and a cache that is
// behind by lag. It keeps what an API server keeps to: versions, 404 and 409.
type cluster struct {
	t    *testing.T
	wake func()
	lag  time.Duration

	mu          sync.Mutex
	problem     string
	trouble     string
	since       time.Time // of trouble
	node        *corev1.Node
	policies    []*v3.GlobalNetworkPolicy
	foreign     []*v3.GlobalNetworkPolicy
	foreignOnce []*v3.GlobalNetworkPolicy          // as they were when they began to be followed
	notReady    bool                               // the datastore
	once        *once                              // what was read once; nil: nothing yet
	stored      map[string]*v3.HostEndpoint        // whosever they are
	cached      map[string]*v3.HostEndpoint        // as the cache has them
	felix       map[string]*failsafe.Configuration // as the cache has them, behind by felixLag
	felixNow    map[string]*failsafe.Configuration // as they are stored, where the keeper has written
	presets     map[string]any                     // fields that are filled in when one is stored without them
	felixLag    time.Duration
	noFelix     string // why there is no cache of it
	byLabel     bool   // as Config.Named asks for
	version     int
	seen        int               // up to which version the cache has followed
	others      []corev1.Node     // Nodes besides node
	theirs      []v3.HostEndpoint // endpoints of the release on those
	nodes       int               // what counting them says; 0: as many as there are
	heps        int               // the same for endpoints
	first       string            // the name of the release's first endpoint
	firstNode   string            // the name of the first Node
	peer        string            // the name of the one that is followed
	fail        func(verb string) error
	// apiAddresses and apiPorts are where API servers listen.
	apiAddresses []string
	apiPorts     []uint16
	requests     []string // verb, and for a write of an endpoint its name and whether it leaves it armed
	follows      []string // caches that are followed
	events       []*corev1.Event
}

// once is what is read once before changes are followed.
type once struct {
	node  *corev1.Node
	ready bool
}

// readOnce returns that, as it is now where changes are followed. The lock is held.
func (c *cluster) readOnce() *once {
	if c.once == nil || slices.Contains(c.follows, "changes") {
		c.once = &once{node: c.node, ready: !c.notReady}
	}
	return c.once
}

func (c *cluster) Problem() string { return read(c, func() string { return c.problem }) }
func (c *cluster) Trouble() (string, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble, c.since
}
func (c *cluster) Node() *corev1.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readOnce().node
}
func (c *cluster) Endpoints() (heps []*v3.HostEndpoint, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, hep := range c.cached {
		if c.byLabel && hep.Labels["host-firewall.io/release"] == "fw" || !c.byLabel && hep.Name == "n1" {
			heps = append(heps, hep)
		}
	}
	return heps, strconv.Itoa(c.seen)
}
func (c *cluster) Policies() []*v3.GlobalNetworkPolicy {
	return read(c, func() []*v3.GlobalNetworkPolicy { return c.policies })
}
func (c *cluster) DatastoreReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readOnce().ready
}
func (c *cluster) Follow() { c.follow("changes", true) }
func (c *cluster) Foreign() ([]*v3.GlobalNetworkPolicy, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !slices.Contains(c.follows, "foreign"):
		return nil, "not followed"
	case slices.Contains(c.follows, "changes of foreign"):
		return c.foreign, ""
	}
	return c.foreignOnce, ""
}
func (c *cluster) Felix() (own, forAll *failsafe.Configuration, problem string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.follows, "felix") {
		return nil, nil, "not followed"
	}
	return c.felix["node.n1"], c.felix["default"], c.noFelix
}
func (c *cluster) FollowForeign(on, changes bool) {
	c.follow("foreign", on)
	c.follow("changes of foreign", on && changes)
}
func (c *cluster) FollowFelix() { c.follow("felix", true) }
func (c *cluster) FollowPeer(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name != "" && name != c.peer {
		_ = c.request("follow " + name)
	}
	c.peer = name
}
func (c *cluster) Peer() *v3.HostEndpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, hep := range c.theirs {
		if hep.Name == c.peer {
			return &hep
		}
	}
	return nil
}

// follow wakes the keeper when a cache is read that was not before.
func (c *cluster) follow(what string, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch was := slices.Contains(c.follows, what); {
	case on && !was:
		c.follows = append(c.follows, what)
		if what == "foreign" {
			c.foreignOnce = c.foreign
		}
		go c.wake()
	case !on:
		c.follows = slices.DeleteFunc(c.follows, func(w string) bool { return w == what })
	}
}

func read[T any](c *cluster, get func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return get()
}

// change alters the cluster as somebody else would, and wakes the keeper.
func (c *cluster) change(alter func()) {
	c.mu.Lock()
	alter()
	c.mu.Unlock()
	c.wake()
}

// put stores a version of an endpoint, and remove deletes one. The lock is held.
func (c *cluster) put(hep *v3.HostEndpoint) {
	c.version++
	hep = hep.DeepCopy()
	hep.ResourceVersion = strconv.Itoa(c.version)
	if hep.UID == "" {
		hep.UID = types.UID(hep.Name + "-uid")
	}
	c.stored[hep.Name] = hep
	c.show(func() { c.cached[hep.Name] = hep })
}

func (c *cluster) remove(name string) {
	c.version++
	delete(c.stored, name)
	c.show(func() { delete(c.cached, name) })
}

// show brings a change into the cache.
func (c *cluster) show(alter func()) {
	version := c.version
	if c.lag == 0 {
		alter()
		c.seen = version
		c.wake()
		return
	}
	time.AfterFunc(c.lag, func() { c.change(func() { alter(); c.seen = version }) })
}

// spoil changes an endpoint as somebody else would.
func (c *cluster) spoil(name string, alter func(hep *v3.HostEndpoint)) {
	c.change(func() {
		hep := c.stored[name].DeepCopy()
		alter(hep)
		c.put(hep)
	})
}

var heps = schema.GroupResource{Group: "projectcalico.org", Resource: "hostendpoints"}

// request counts a request and makes it fail when it should. The lock is held.
func (c *cluster) request(verb string) error {
	c.requests = append(c.requests, verb)
	if c.fail == nil {
		return nil
	}
	fail := c.fail
	c.mu.Unlock()
	defer c.mu.Lock()
	return fail(verb)
}

// wrote adds to the last request how it left the endpoint.
func (c *cluster) wrote(hep *v3.HostEndpoint) {
	word := " unarmed"
	if testConfig().shape().Armed(hep) {
		word = " armed"
	}
	if hep.Name != "n1" {
		word += " " + hep.Name
	}
	c.requests[len(c.requests)-1] += word
}

func (c *cluster) CreateEndpoint(_ context.Context, hep *v3.HostEndpoint) (*v3.HostEndpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request("create"); err != nil {
		return nil, err
	}
	if c.stored[hep.Name] != nil {
		return nil, apierrors.NewAlreadyExists(heps, hep.Name)
	}
	c.wrote(hep)
	c.put(hep)
	return c.stored[hep.Name], nil
}

func (c *cluster) PatchEndpoint(_ context.Context, name string, patch []byte) (*v3.HostEndpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request("patch"); err != nil {
		return nil, err
	}
	if c.stored[name] == nil {
		return nil, apierrors.NewNotFound(heps, name)
	}
	var patched v3.HostEndpoint
	merge(c.t, c.stored[name], patch, &patched)
	if patched.ResourceVersion != c.stored[name].ResourceVersion {
		return nil, apierrors.NewConflict(heps, name, nil)
	}
	c.wrote(&patched)
	if len(fieldsOf("", patch)) == 0 {
		c.requests[len(c.requests)-1] += " note"
	}
	c.put(&patched)
	return c.stored[name], nil
}

func (c *cluster) DeleteEndpoint(_ context.Context, hep *v3.HostEndpoint) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request("delete"); err != nil {
		return err
	}
	stored := c.stored[hep.Name]
	if stored == nil {
		return apierrors.NewNotFound(heps, hep.Name)
	}
	c.wrote(stored)
	if hep.ResourceVersion != stored.ResourceVersion || hep.UID != stored.UID {
		c.requests[len(c.requests)-1] += " in vain"
		return apierrors.NewConflict(heps, hep.Name, nil)
	}
	c.remove(hep.Name)
	return nil
}

// merge makes of an object and a merge patch what an API server would.
func merge(t *testing.T, current any, patch []byte, into any) {
	before, err := json.Marshal(current)
	require.NoError(t, err)
	after, err := jsonpatch.MergePatch(before, patch)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(after, into))
}

func (c *cluster) CreateFelix(_ context.Context, configuration *failsafe.Configuration) (*failsafe.Configuration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request("create felix"); err != nil {
		return nil, err
	}
	return c.putFelix(configuration), nil
}

func (c *cluster) PatchFelix(_ context.Context, name string, patch []byte) (*failsafe.Configuration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request("patch felix"); err != nil {
		return nil, err
	}
	var patched failsafe.Configuration
	merge(c.t, c.felixStored(name), patch, &patched)
	return c.putFelix(&patched), nil
}

// felixStored is one as it is stored, which a cache may be behind of. The lock is held.
func (c *cluster) felixStored(name string) *failsafe.Configuration {
	if c.felixLag > 0 && c.felixNow[name] != nil {
		return c.felixNow[name]
	}
	return c.felix[name]
}

func (c *cluster) DeleteFelix(_ context.Context, configuration *failsafe.Configuration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request("delete felix"); err != nil {
		return err
	}
	delete(c.felix, configuration.Name)
	c.wake()
	return nil
}

// putFelix stores a version, filled in, and returns it. The lock is held.
func (c *cluster) putFelix(configuration *failsafe.Configuration) *failsafe.Configuration {
	c.version++
	configuration = configuration.DeepCopy()
	configuration.ResourceVersion = strconv.Itoa(c.version)
	for name, preset := range c.presets {
		if configuration.Spec[name] == nil {
			configuration.Spec[name] = preset
		}
	}
	c.felixNow[configuration.Name] = configuration
	put := func() {
		// What comes into the cache in one moment comes in its order.
		if cached := c.felix[configuration.Name]; cached == nil || cached.ResourceVersion == "" || newer(configuration.ResourceVersion, cached.ResourceVersion) {
			c.felix[configuration.Name] = configuration
		}
	}
	if c.felixLag > 0 {
		time.AfterFunc(c.felixLag, func() { c.change(put) })
		return configuration
	}
	put()
	c.wake()
	return configuration
}

func (c *cluster) CreateEvent(_ context.Context, event *corev1.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, event)
	return nil
}

func (c *cluster) ReadFelix(_ context.Context, name string) (*failsafe.Configuration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.felix[name], c.request("read felix")
}

func (c *cluster) APIServer(context.Context) (addresses []string, ports []uint16, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.apiAddresses), slices.Clone(c.apiPorts), c.request("API server")
}

func (c *cluster) AnyArmed(_ context.Context, arming map[string]string) (armed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request("any armed"); err != nil {
		return false, err
	}
	for _, hep := range c.ofRelease() {
		armed = armed || labels.SelectorFromSet(arming).Matches(labels.Set(hep.Labels))
	}
	return armed, nil
}

// ofRelease returns the endpoints of the release on all nodes. The lock is held.
func (c *cluster) ofRelease() []v3.HostEndpoint {
	endpoints := slices.Clone(c.theirs)
	for _, hep := range c.stored {
		if hep.Labels["host-firewall.io/release"] == "fw" {
			endpoints = append(endpoints, *hep)
		}
	}
	return endpoints
}

func (c *cluster) CountNodes(context.Context) (count int, first string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.nodes, 1+len(c.others)), c.firstNode, c.request("count nodes")
}

func (c *cluster) CountEndpoints(context.Context) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.heps, len(c.stored)+len(c.theirs)), c.request("count endpoints")
}

func (c *cluster) FirstEndpoint(context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first, c.request("first endpoint")
}

func (c *cluster) ListNodes(_ context.Context, name string) ([]corev1.Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request(strings.TrimSpace("list nodes " + name)); err != nil {
		return nil, err
	}
	nodes := append([]corev1.Node{*c.node}, c.others...)
	return slices.DeleteFunc(nodes, func(n corev1.Node) bool { return name != "" && n.Name != name }), nil
}

func (c *cluster) ListEndpoints(_ context.Context, node string) ([]v3.HostEndpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.request(strings.TrimSpace("list endpoints " + node)); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(c.ofRelease(), func(hep v3.HostEndpoint) bool { return node != "" && hep.Spec.Node != node }), nil
}

func (c *cluster) ListOwnEndpoints(context.Context) (own []*v3.HostEndpoint, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.request("list own")
	for _, hep := range c.stored {
		if hep.Labels["host-firewall.io/release"] == "fw" {
			own = append(own, hep)
		}
	}
	return own, err
}

func (c *cluster) ListForeignEndpoints(context.Context) (here []*v3.HostEndpoint, all int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.request("list foreign")
	for _, hep := range c.stored {
		if hep.Labels["host-firewall.io/release"] != "fw" {
			here = append(here, hep)
		}
	}
	return here, len(here), err
}

// take returns the requests since the last call.
func (c *cluster) take() []string {
	return read(c, func() []string {
		taken := slices.DeleteFunc(c.requests, func(r string) bool {
			return slices.Contains(surveys(), r) || strings.HasSuffix(r, " note")
		})
		c.requests = nil
		return taken
	})
}

// surveys are the requests by which the keeper looks who else is there. They
// change nothing, and like notes they have tests of their own.
func surveys() []string {
	return []string{"list own", "list foreign", "any armed", "count nodes", "count endpoints", "first endpoint", "read felix"}
}

// said returns the kinds of Events, in their order.
func (c *cluster) said() []string {
	return read(c, func() (kinds []string) {
		for _, event := range c.events {
			kinds = append(kinds, event.Reason)
		}
		return kinds
	})
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// count returns how many lines contain the words.
func (l *logBuffer) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, words) {
			n++
		}
	}
	return n
}

// scene is a keeper at work on a cluster, in a bubble of fake time.
type scene struct {
	*cluster
	keeper *Keeper
	log    *logBuffer
	stop   context.CancelFunc
	ended  chan struct{}
}

// play starts a keeper on the cluster that prepare has set up, lets test act, and
// ends it.
func play(t *testing.T, prepare func(c *cluster), test func(s *scene)) {
	t.Helper()
	playWith(t, testConfig(), prepare, test)
}

func playWith(t *testing.T, config Config, prepare func(c *cluster), test func(s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, node: testNode("n1"), wake: func() {}, byLabel: config.Named(),
			stored: map[string]*v3.HostEndpoint{}, cached: map[string]*v3.HostEndpoint{}, felix: map[string]*failsafe.Configuration{}, felixNow: map[string]*failsafe.Configuration{}}
		prepare(c)
		s := &scene{cluster: c, log: &logBuffer{}, ended: make(chan struct{})}
		s.keeper = New(config, c, slog.New(slog.NewTextHandler(s.log, nil)))
		c.wake = s.keeper.Wake
		ctx, stop := context.WithCancel(t.Context())
		s.stop = stop
		go func() {
			defer close(s.ended)
			s.keeper.Run(ctx)
		}()
		synctest.Wait()
		test(s)
		stop()
		<-s.ended
	})
}

// pass lets fake time pass, and the keeper do what it has to do in it.
func (s *scene) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *scene) isArmed() bool {
	return read(s.cluster, func() bool { return s.stored["n1"] != nil && testConfig().shape().Armed(s.stored["n1"]) })
}

// withPolicies is a cluster in which all policies are there.
func withPolicies(c *cluster) { c.policies = testPolicies("r2", "fw-drop", "fw-ssh") }

// withArmed is a cluster that an agent has armed before.
func withArmed(c *cluster) {
	withPolicies(c)
	c.put(testEndpoint(true))
}

func TestEndpointIsNotArmedBeforePolicies(t *testing.T) {
	play(t, func(*cluster) {}, func(s *scene) {
		s.pass(time.Hour)
		assert.Equal(t, []string{"create unarmed"}, s.take())
		assert.Equal(t, Waiting, s.keeper.Status().State)

		s.change(func() { s.policies = testPolicies("r2", "fw-drop") })
		s.pass(time.Hour)
		s.change(func() { s.policies = testPolicies("r1", "fw-drop", "fw-ssh") })
		s.pass(time.Hour)
		assert.Empty(t, s.take(), "half of the policies, or old ones, are not the policies")
		assert.False(t, s.keeper.Status().Ready)

		s.change(func() { withPolicies(s.cluster) })
		s.pass(settle - 1)
		assert.Empty(t, s.take(), "Felix may not have read the policies yet")
		s.pass(1)
		assert.Equal(t, []string{"list nodes", "list endpoints", "patch armed"}, s.take())
		status := s.keeper.Status()
		assert.Equal(t, Armed, status.State)
		assert.True(t, status.Ready)
		assert.Equal(t, time.Now(), status.Since)
		assert.Equal(t, 1, s.log.count("node is Armed"))
	})
}

func TestDeletedEndpointComesBackArmedInOneCreate(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "at once")
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "and again")
	})
}

func TestEndpointDeletedAfterItsFirstArmingComesBackArmedInOneCreate(t *testing.T) {
	play(t, withPolicies, func(s *scene) {
		s.pass(settle)
		require.True(t, s.isArmed())
		s.take()
		s.change(func() { s.others = []corev1.Node{*testNode("n2")}; s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "only a first arming asks for other nodes")
	})
}

// The cache never shows what was armed: its change and its deletion come together.
func TestEndpointDeletedRightAfterItsFirstArmingComesBackArmed(t *testing.T) {
	play(t, withPolicies, func(s *scene) {
		s.pass(settle - 1)
		s.change(func() { s.lag = time.Hour })
		s.pass(1)
		require.True(t, s.isArmed())
		s.take()
		s.change(func() { delete(s.stored, "n1"); delete(s.cached, "n1"); s.version++; s.seen = s.version })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take())
	})
}

func TestEndpointDeletedWhileAPolicyIsLostComesBackUnarmed(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.change(func() { s.policies = s.policies[:1]; s.remove("n1") })
		s.pass(time.Hour)
		assert.Equal(t, []string{"create unarmed"}, s.take())
		s.change(func() { withPolicies(s.cluster) })
		s.pass(settle)
		assert.Equal(t, []string{"patch armed"}, s.take())
	})
}

func TestDriftIsSetBackAtOnce(t *testing.T) {
	for name, spoil := range map[string]func(*v3.HostEndpoint){
		"profiles":     func(hep *v3.HostEndpoint) { hep.Spec.Profiles = nil },
		"expectedIPs":  func(hep *v3.HostEndpoint) { hep.Spec.ExpectedIPs = nil },
		"interface":    func(hep *v3.HostEndpoint) { hep.Spec.InterfaceName = "eth0" },
		"arming label": func(hep *v3.HostEndpoint) { delete(hep.Labels, "host-endpoint") },
		"owner":        func(hep *v3.HostEndpoint) { hep.OwnerReferences = nil },
	} {
		t.Run(name, func(t *testing.T) {
			play(t, withArmed, func(s *scene) {
				s.spoil("n1", spoil)
				s.pass(0)
				assert.Equal(t, []string{"patch armed"}, s.take())
				assert.Equal(t, testEndpoint(true).Spec, s.stored["n1"].Spec)
				assert.True(t, s.keeper.Status().Ready)
			})
		})
	}
}

func TestNodeThatRegisteredAgainOwnsTheEndpoint(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.change(func() { s.node = s.node.DeepCopy(); s.node.UID = "new-uid" })
		s.pass(0)
		assert.Equal(t, []string{"patch armed"}, s.take())
		require.Len(t, s.stored["n1"].OwnerReferences, 1)
		assert.EqualValues(t, "new-uid", s.stored["n1"].OwnerReferences[0].UID)
	})
}

func TestLostPolicyDoesNotDisarm(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		require.True(t, s.keeper.Status().Ready)
		s.change(func() { s.policies = s.policies[:1] })
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		status := s.keeper.Status()
		assert.Equal(t, Armed, status.State)
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "fw-ssh")
		assert.Equal(t, time.Now().Add(-time.Hour), status.Since)
		assert.Equal(t, 1, s.log.count("stays armed, but"))

		s.change(func() { withPolicies(s.cluster) })
		s.pass(0)
		assert.True(t, s.keeper.Status().Ready)
		assert.Empty(t, s.take())
	})
}

func TestEndpointOfSomebodyElseIsLeftAlone(t *testing.T) {
	foreign := testEndpoint(false)
	foreign.Labels = map[string]string{"projectcalico.org/created-by": "calico-kube-controllers"}
	play(t, func(c *cluster) {
		withPolicies(c)
		c.put(foreign)
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		assert.Equal(t, Conflict, s.keeper.Status().State)
		assert.Contains(t, s.keeper.Status().Reason, "calico-kube-controllers")
		assert.Equal(t, 1, s.log.count("node is Conflict"))

		s.change(func() { s.remove("n1") })
		s.pass(settle)
		assert.Equal(t, []string{"create unarmed", "list nodes", "list endpoints", "patch armed"}, s.take(),
			"a conflict that goes away is over")
	})
}

func TestFirstArmingWaitsForNodesThatWouldBeShutOut(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.others = []corev1.Node{*testNode("n2")}
	}, func(s *scene) {
		s.pass(5 * time.Minute)
		requests := s.take()
		assert.Equal(t, "create unarmed", requests[0], "others wait for this node's endpoint in turn")
		questions := len(requests[1:]) / 2
		assert.GreaterOrEqual(t, questions, 5+(5*60-31)/36, "the delay doubles from 1 s to 30 s")
		assert.LessOrEqual(t, questions, 6+(5*60-31)/30)
		assert.Contains(t, s.keeper.Status().Reason, "shut out: n2.")
		assert.Equal(t, 1, s.log.count("shut out"), "no polling noise")

		s.change(func() {
			theirs := testEndpoint(false)
			theirs.Spec.Node = "n2"
			s.theirs = []v3.HostEndpoint{*theirs}
		})
		s.pass(36 * time.Second)
		assert.True(t, s.isArmed())
	})
}

func TestEventsDoNotHastenTheQuestionForNodes(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.others = []corev1.Node{*testNode("n2")}
	}, func(s *scene) {
		s.pass(settle)
		s.take()
		for range 100 {
			s.change(func() {})
		}
		s.pass(0)
		assert.Empty(t, s.take())
	})
}

func TestQuestionForNodesThatFailsKeepsTheNodeUnarmedAndSaysWhy(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.fail = failing("list endpoints", apierrors.NewForbidden(heps, "", nil))
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.False(t, s.isArmed())
		assert.Contains(t, s.keeper.Status().Reason, "forbidden")
		assert.Equal(t, 1, s.log.count("cannot tell which nodes"))
		s.change(func() { s.fail = nil })
		s.pass(36 * time.Second)
		assert.True(t, s.isArmed())
	})
}

// failing makes one verb fail.
func failing(verb string, err error) func(string) error {
	return func(v string) error {
		if v == verb {
			return err
		}
		return nil
	}
}

func TestFailedWriteIsToldOnceAndTriedAgainMoreAndMoreSeldom(t *testing.T) {
	play(t, func(c *cluster) {
		c.fail = failing("create", apierrors.NewForbidden(heps, "n1", nil))
	}, func(s *scene) {
		s.pass(time.Hour)
		requests := len(s.take())
		assert.GreaterOrEqual(t, requests, 3600/36, "it never gives up")
		assert.LessOrEqual(t, requests, 3600/30+20)
		status := s.keeper.Status()
		assert.Equal(t, Waiting, status.State)
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "forbidden")
		assert.Equal(t, 1, s.log.count("forbidden"))

		s.change(func() { s.fail = nil })
		s.pass(36 * time.Second)
		assert.Equal(t, []string{"create unarmed"}, s.take())
	})
}

func TestFailedRepairDoesNotHideThatTheNodeIsArmed(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.change(func() {
			s.fail = func(string) error { return apierrors.NewInternalError(assert.AnError) }
			spoilt := s.stored["n1"].DeepCopy()
			spoilt.Spec.Profiles = nil
			s.put(spoilt)
		})
		s.pass(time.Minute)
		assert.Equal(t, Armed, s.keeper.Status().State)
		assert.False(t, s.keeper.Status().Ready)
	})
}

func TestCacheThatIsBehindIsNoFailure(t *testing.T) {
	play(t, func(c *cluster) {
		withArmed(c)
		c.lag = 20 * time.Millisecond
	}, func(s *scene) {
		s.change(func() { s.remove("n1") })
		s.pass(s.lag)
		for range 10 {
			s.change(func() {})
		}
		s.pass(time.Second)
		requests := s.take()
		assert.Equal(t, "create armed", requests[0])
		for _, request := range requests[1:] {
			assert.Equal(t, "create", request, "refused: it is there already")
		}
		assert.True(t, s.isArmed())
		assert.True(t, s.keeper.Status().Ready)
		assert.Zero(t, s.log.count("already exists"))
	})
}

func TestPatchFromAnOldVersionIsRefusedAndMadeAgain(t *testing.T) {
	play(t, func(c *cluster) {
		withArmed(c)
		c.lag = 20 * time.Millisecond
	}, func(s *scene) {
		s.change(func() {
			first := s.stored["n1"].DeepCopy()
			first.Spec.Profiles = nil
			s.put(first)
		})
		s.pass(s.lag - 1)
		s.change(func() {
			second := s.stored["n1"].DeepCopy()
			second.Labels["theirs"] = "label"
			s.put(second)
		})
		s.pass(time.Second)
		assert.Equal(t, "label", s.stored["n1"].Labels["theirs"])
		assert.Equal(t, testEndpoint(true).Spec.Profiles, s.stored["n1"].Spec.Profiles)
		assert.Contains(t, s.take(), "patch", "one was refused")
		assert.True(t, s.keeper.Status().Ready)
	})
}

func TestNothingIsWrittenFromCachesThatAreNotComplete(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.problem = "cannot list Node n1"
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		assert.Equal(t, "cannot list Node n1", s.keeper.Status().Reason)
	})
}

func TestNothingIsWrittenForANodeThatIsNotThere(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.node = nil
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		s.change(func() { s.node = testNode("n1") })
		s.pass(settle)
		assert.True(t, s.isArmed())
	})
}

func TestIdleKeeperMakesNoRequestAndNoNoise(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		lines := s.log.count("")
		s.pass(24 * time.Hour)
		assert.Empty(t, s.take())
		assert.Equal(t, lines, s.log.count(""))
	})
}

// A change of which no event came, as after a watch that went silent.
func TestResyncFindsWhatNoEventTold(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.mu.Lock()
		delete(s.stored, "n1")
		delete(s.cached, "n1")
		s.mu.Unlock()
		s.pass(testConfig().Resync - 1)
		assert.Empty(t, s.take())
		s.pass(1)
		assert.Equal(t, []string{"create armed"}, s.take())
	})
}

func TestStoppingLeavesTheEndpointArmed(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.stop()
		synctest.Wait()
		select {
		case <-s.ended:
		default:
			t.Error("Run has not returned")
		}
		assert.Empty(t, s.take())
		assert.True(t, s.isArmed())
	})
}

func TestInvalidAddressIsToldOnce(t *testing.T) {
	play(t, func(c *cluster) {
		withArmed(c)
		c.node.Status.Addresses = append(c.node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "nonsense"})
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Equal(t, 1, s.log.count("nonsense"))
		assert.Empty(t, s.take())
	})
}

func TestKeeperIsAliveUnlessOnePassTakesMoreThanThreeMinutes(t *testing.T) {
	release := make(chan struct{})
	play(t, func(c *cluster) {
		release = make(chan struct{})
		c.fail = func(string) error { <-release; return nil }
	}, func(s *scene) {
		s.pass(stuckAfter)
		assert.NoError(t, s.keeper.Alive())
		s.pass(time.Second)
		assert.ErrorContains(t, s.keeper.Alive(), "3m1s")
		close(release)
		s.pass(0)
		assert.NoError(t, s.keeper.Alive())
	})
}
