package calico

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// turnLimit is the longest that one cache waits for the answer to another one. It is
// longer than the 15 seconds after which an API server refuses what waits in its
// queue: with more than one request of each agent there, more would wait that long.
const turnLimit = 20 * time.Second

// backoff is how long a cache waits after failures, and up to as long again. It is
// client-go's own, but that an API server which has been away is followed again
// sooner: what it repairs only then may have been open.
var backoff = wait.Backoff{Duration: 800 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 10, Cap: 10 * time.Second}

// silence is how long a watch may outlive the time that the API server gave it.
const silence = 30 * time.Second

// errSilent is the trouble with a watch that has.
var errSilent = errors.New("the watch went silent: it did not end when it should have")

// caches are copies of what is looked at, kept by watches: those of always from the start,
// the others from when they are first asked for.
type caches struct {
	group  string
	always []*source
	// node, endpoints and clearance are of always, and the next three of a controller's. felix
	// are the FelixConfigurations of the Node and for all nodes; they are read while the
	// failsafe is narrowed.
	node, endpoints, clearance       *source
	policies, trustSets, information *source
	felix                            [2]*source

	// running are the goroutines of all caches.
	running sync.WaitGroup
	ctx     context.Context
	mu      sync.Mutex
	ended   bool // no more of them may be started
	started []*source
}

// sources makes the sources of one process, which take turns in asking the API server.
type sources struct {
	cluster *Cluster
	wake    func()
	turn    chan struct{}
}

func (c *Cluster) newSources(wake func()) sources {
	return sources{cluster: c, wake: wake, turn: make(chan struct{}, 1)}
}

// of returns a cache, still to be run, of the selected objects of a resource, each as
// transform has made it.
func (m sources) of(subject, group, resource string, selection metav1.ListOptions, object, list runtime.Object, transform cache.TransformFunc) *source {
	s := &source{
		subject:   subject,
		resource:  resource,
		path:      resourcePath(group, resource),
		selection: selection,
		forgetful: group == GroupV3 && selection.LabelSelector != "",
		list:      list,
		client:    m.cluster.client,
		turn:      m.turn,
		log:       m.cluster.options.Log,
		wake:      m.wake,
		troubles:  map[string]trouble{},
	}
	s.store = newStore(transform, m.wake)
	s.reflector = s.newReflector(object)
	return s
}

// ofAgent returns the caches of an agent, which are still to be run, of Calico's objects in
// the group.
func (c *Cluster) ofAgent(group string, wake func()) *caches {
	made, options := c.newSources(wake), c.options
	subject, selection := "HostEndpoint "+options.Node, byName(options.Node)
	if options.ByLabel {
		subject, selection = "HostEndpoints of Node "+options.Node, metav1.ListOptions{LabelSelector: c.ofNode(options.Node)}
	}
	felix := func(name string) *source {
		return made.of("FelixConfiguration "+name, group, felixConfigurations, byName(name),
			&failsafe.Configuration{}, &listOf[failsafe.Configuration]{}, kept(group))
	}
	all := &caches{
		group:     group,
		node:      made.of("Node "+options.Node, "v1", nodes, byName(options.Node), &node{}, &listOf[node]{}, kept(group)),
		endpoints: made.of(subject, group, hostEndpoints, selection, &v3.HostEndpoint{}, &v3.HostEndpointList{}, kept(group)),
		clearance: made.ofClearance(),
		felix:     [2]*source{felix(failsafe.Name(options.Node)), felix(failsafe.ForAll)},
	}
	all.always = []*source{all.endpoints, all.node, all.clearance}
	return all
}

// ofClearance returns the cache of the ConfigMap of the release.
func (m sources) ofClearance() *source {
	options := m.cluster.options
	s := m.of("ConfigMap "+options.Namespace+"/"+options.Release, "v1", configMaps, byName(options.Release),
		&configMap{}, &listOf[configMap]{}, kept("v1"))
	s.path = namespacePath("v1", options.Namespace, configMaps)
	return s
}

// byName selects one object. The names of Nodes and Calico's objects hold nothing that
// would have to be escaped.
func byName(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + name}
}

// run keeps the caches up to date until the context ends.
func (c *caches) run(ctx context.Context) {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	for _, s := range c.always {
		c.start(s)
	}
	<-ctx.Done()
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.running.Wait()
}

// start begins to keep one cache, once.
func (c *caches) start(s *source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.ctx == nil || slices.Contains(c.started, s) {
		return
	}
	c.started = append(c.started, s)
	c.running.Go(func() { s.reflector.RunWithContext(c.ctx) })
}

// all returns every cache that is kept now.
func (c *caches) all() []*source {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.started)
}

// problemOf says which cache is not complete and why; empty: all are.
func problemOf(sources ...*source) string {
	for _, s := range sources {
		if !s.store.synced() {
			return s.problem()
		}
	}
	return ""
}

// source is a cache of some objects of one resource. It notes what goes wrong
// with it: once in the log, until it works again.
type source struct {
	subject        string // what it holds, for people
	resource, path string
	selection      metav1.ListOptions
	forgetful      bool           // see watchObjects
	list           runtime.Object // an empty list of its objects
	client         rest.Interface
	turn           chan struct{} // had by one cache at a time
	store          *store
	reflector      *cache.Reflector
	log            *slog.Logger
	wake           func()

	mu       sync.Mutex
	listed   bool               // since the last watch
	troubles map[string]trouble // by the verb that fails
}

// trouble is what goes wrong with one verb.
type trouble struct {
	code  int // as codeOf tells
	text  string
	since time.Time
}

// newReflector returns what fills the store. What goes wrong with it, the two
// functions that it calls tell people; what it logs itself is for who debugs.
func (s *source) newReflector(object runtime.Object) *cache.Reflector {
	requests := &cache.ListWatch{ListWithContextFunc: s.listObjects, WatchFuncWithContext: s.watchObjects}
	return cache.NewReflectorWithOptions(requests, object, s.store, cache.ReflectorOptions{Name: s.subject, Backoff: &backoff})
}

func (s *source) listObjects(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	defer s.takeTurn(ctx)()
	list := s.list.DeepCopyObject()
	err := s.request(options).Do(ctx).Into(list)
	s.note(ctx, "list", err)
	s.setListed(err == nil)
	return list, err
}

// watchObjects watches the selected objects. A watch of Calico's own API server
// does not tell that an object has left what the labels select, nor that it is
// deleted then. So there each watch, which lasts some minutes, starts from a list.
func (s *source) watchObjects(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	streamsList := options.SendInitialEvents != nil
	if listed := s.setListed(false); s.forgetful && !listed && !streamsList {
		return nil, apierrors.NewResourceExpired("a list comes before the next watch")
	}
	defer s.takeTurn(ctx)()
	options.Watch = true
	if streamsList && options.ResourceVersion == "" && s.reflector.LastSyncResourceVersion() == "" {
		// As for a plain list at the start, the API server's cache is new enough, and etcd
		// is spared thousands of agents.
		options.ResourceVersion = fromCache
	}
	stream, err := s.watchLimited(ctx, options)
	switch {
	case streamsList && apierrors.IsInvalid(err):
		// The API server is too old to list by watching. A plain list follows.
	case streamsList && err == nil:
		s.note(ctx, "list", nil)
		s.note(ctx, "watch", nil)
	default:
		s.note(ctx, "watch", err)
	}
	return stream, err
}

// takeTurn returns when no other cache of this agent waits for an answer, and what
// ends this one's turn. Thousands of agents that start at once, each with one
// request, are enough for an API server.
func (s *source) takeTurn(ctx context.Context) (end func()) {
	limit := time.NewTimer(turnLimit)
	defer limit.Stop()
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }
	case <-limit.C:
	case <-ctx.Done():
	}
	return func() {}
}

// setListed notes whether the cache has just been listed, and returns what was
// noted before.
func (s *source) setListed(listed bool) (before bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.listed = s.listed, listed
	return before
}

// limited is a watch that ends when the API server should have ended it long ago:
// whoever is in between may keep a connection that says nothing any more.
type limited struct {
	watch.Interface
	cancel context.CancelFunc
}

// Stop ends the watch.
func (l limited) Stop() {
	l.cancel()
	l.Interface.Stop()
}

// watchLimited makes the watch.
func (s *source) watchLimited(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	if options.TimeoutSeconds == nil {
		return s.request(options).Watch(ctx)
	}
	bound, cancel := context.WithTimeout(ctx, time.Duration(*options.TimeoutSeconds)*time.Second+silence)
	stream, err := s.request(options).Watch(bound)
	if err != nil {
		cancel()
		return nil, err
	}
	context.AfterFunc(bound, func() {
		if errors.Is(bound.Err(), context.DeadlineExceeded) {
			s.note(ctx, "watch", errSilent)
		}
	})
	return limited{stream, cancel}, nil
}

// request is a GET of the selected objects.
func (s *source) request(options metav1.ListOptions) *rest.Request {
	options.FieldSelector, options.LabelSelector = s.selection.FieldSelector, s.selection.LabelSelector
	return s.client.Get().AbsPath(s.path).VersionedParams(&options, metav1.ParameterCodec)
}

// note keeps the outcome of a request and logs it when it is news. What comes of
// the end of the agent is no news.
func (s *source) note(ctx context.Context, verb string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	before, troubled := s.troubles[verb]
	now := trouble{}
	if err != nil {
		now = trouble{code: codeOf(err), text: explain(err, verb, s.resource).Error(), since: time.Now()}
		if troubled {
			now.since = before.since
		}
		s.troubles[verb] = now
	} else {
		delete(s.troubles, verb)
	}
	s.mu.Unlock()

	switch {
	case err != nil && (!troubled || before.code != now.code):
		s.log.Warn("cannot "+verb+", trying again", "subject", s.subject, "problem", now.text)
		s.wake()
	case err == nil && troubled:
		s.log.Info("can "+verb+" again", "subject", s.subject)
		s.wake()
	}
}

// trouble says what goes wrong, and since when; empty: nothing.
func (s *source) trouble() (problem string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, verb := range []string{"list", "watch"} {
		if t, ok := s.troubles[verb]; ok {
			return "cannot " + verb + " " + s.subject + ": " + t.text, t.since
		}
	}
	return "", time.Time{}
}

// problem says why the cache is not complete.
func (s *source) problem() string {
	if problem, _ := s.trouble(); problem != "" {
		return problem
	}
	return firstRead
}

// first returns the only object of a cache, or nothing.
func first[T any](s *source) (object T) {
	if objects := objectsOf[T](s); len(objects) > 0 {
		object = objects[0]
	}
	return object
}

// objectsOf returns the objects of a cache.
func objectsOf[T any](s *source) []T {
	objects, _ := versioned[T](s)
	return objects
}

// versioned returns the objects of a cache, and up to which version it has followed.
func versioned[T any](s *source) (objects []T, version string) {
	all, version := s.store.read()
	for _, object := range all {
		objects = append(objects, object.(T))
	}
	return objects, version
}
