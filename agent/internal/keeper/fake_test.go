package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// cluster is an API server with one node's view of it, and a cache that is
// behind by lag. It keeps what an API server keeps to: versions, 404 and 409.
type cluster struct {
	t    *testing.T
	wake func()
	lag  time.Duration

	mu       sync.Mutex
	problem  string
	trouble  string
	since    time.Time // of trouble
	node     *corev1.Node
	said     *clearance.Clearance
	stored   map[string]*v3.HostEndpoint        // whosever they are
	cached   map[string]*v3.HostEndpoint        // as the cache has them
	felix    map[string]*failsafe.Configuration // as the cache has them, behind by felixLag
	felixNow map[string]*failsafe.Configuration // as they are stored, where the keeper has written
	presets  map[string]any                     // fields that are filled in when one is stored without them
	felixLag time.Duration
	noFelix  string // why there is no cache of it
	follows  bool   // FelixConfigurations
	byLabel  bool   // as Config.Named asks for
	version  int
	seen     int // up to which version the cache has followed
	fail     func(verb string) error
	requests []string // verb, and for a write of an endpoint its name and how it leaves it armed
	events   []*corev1.Event
}

func (c *cluster) Problem() string { return read(c, func() string { return c.problem }) }
func (c *cluster) Trouble() (string, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble, c.since
}
func (c *cluster) Node() *corev1.Node { return read(c, func() *corev1.Node { return c.node }) }
func (c *cluster) Clearance() (*clearance.Clearance, string) {
	said := read(c, func() *clearance.Clearance { return c.said })
	if said == nil {
		return nil, "the controller has not said anything yet"
	}
	return said, ""
}
func (c *cluster) KnownEndpoints() (heps []*v3.HostEndpoint, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, hep := range c.cached {
		if c.byLabel && hep.Labels["host-firewall.io/release"] == "fw" || !c.byLabel && hep.Name == "n1" {
			heps = append(heps, hep)
		}
	}
	return heps, strconv.Itoa(c.seen)
}
func (c *cluster) ReadEndpoint(_ context.Context, name string) (*v3.HostEndpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stored[name], c.request("read " + name)
}
func (c *cluster) Felix() (own, forAll *failsafe.Configuration, problem string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.follows {
		return nil, nil, "not followed"
	}
	return c.felix["node.n1"], c.felix["default"], c.noFelix
}
func (c *cluster) FollowFelix() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.follows {
		c.follows = true
		go c.wake()
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
	switch endpoint.SetOf(hep) {
	case "":
	case "r2":
		word = " armed"
	default:
		word = " armed with " + endpoint.SetOf(hep)
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
	if len(endpoint.Fields("", patch)) == 0 {
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
		if cached := c.felix[configuration.Name]; cached == nil || cached.ResourceVersion == "" || clearance.Newer(configuration.ResourceVersion, cached.ResourceVersion) {
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

// take returns the requests since the last call, without those that write only a note.
func (c *cluster) take() []string {
	return read(c, func() []string {
		taken := slices.DeleteFunc(c.requests, func(r string) bool { return strings.HasSuffix(r, " note") || r == "read felix" })
		c.requests = nil
		return taken
	})
}

// kinds returns the kinds of Events, in their order.
func (c *cluster) kinds() []string {
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
	return read(s.cluster, func() bool { return s.stored["n1"] != nil && endpoint.SetOf(s.stored["n1"]) == "r2" })
}

// cleared is what a controller says that has looked at everything, and found nothing wrong.
func cleared() *clearance.Clearance {
	return &clearance.Clearance{Wanted: clearance.Set{Revision: "r2"}, Present: []string{"r1", "r2"}, Nodes: time.Unix(5000, 0), Endpoints: "1000000",
		Witnesses: map[string]clearance.Witness{"r1": {Moved: netip.IPv4Unspecified()}, "r2": {Moved: netip.IPv4Unspecified()}}}
}

// say changes what the controller says.
func (s *scene) say(alter func(c *clearance.Clearance)) {
	s.change(func() {
		said := *s.said
		alter(&said)
		s.said = &said
	})
}

// withClearance is a cluster in which the node may be armed.
func withClearance(c *cluster) { c.said = cleared() }

// withArmed is a cluster that an agent has armed before.
func withArmed(c *cluster) {
	withClearance(c)
	c.put(testEndpoint("r2"))
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
