package calico

import (
	"context"
	"errors"
	"log/slog"
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

// caches are copies of what the agent looks at, kept by watches. The first four
// are always kept, the others while they are followed. Those of the Node and of
// ClusterInformation are read once, and kept up to date from when follow is called.
type caches struct {
	group                                  string
	node, endpoints, policies, information *source
	foreign, felix, felixDefault, peer     *optional

	// running are the goroutines of all caches.
	running sync.WaitGroup
	mu      sync.Mutex
	ended   bool // no more of them may be started
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
		changes:   make(chan struct{}),
	}
	s.followChanges = sync.OnceFunc(func() { close(s.changes) })
	s.store = newStore(transform, m.wake)
	s.reflector = s.newReflector(object)
	return s
}

// newCaches returns caches that are still to be run, of Calico's objects in the
// group.
func (c *Cluster) newCaches(ctx context.Context, group string, wake func()) *caches {
	made := c.newSources(wake)
	newSource := func(subject, group, resource string, selection metav1.ListOptions, object, list runtime.Object) *source {
		return made.of(subject, group, resource, selection, object, list, kept(group))
	}
	endpoint := func(name string) *source {
		return newSource("HostEndpoint "+name, group, hostEndpoints, byName(name), &v3.HostEndpoint{}, &v3.HostEndpointList{})
	}
	endpoints := endpoint(c.options.Node)
	if c.options.ByLabel {
		endpoints = newSource("HostEndpoints of Node "+c.options.Node, group, hostEndpoints,
			metav1.ListOptions{LabelSelector: c.ofNode(c.options.Node)}, &v3.HostEndpoint{}, &v3.HostEndpointList{})
	}
	policies := func(subject, selector string) *source {
		return newSource("GlobalNetworkPolicies "+subject, group, globalNetworkPolicies,
			metav1.ListOptions{LabelSelector: selector}, &policy{}, &listOf[policy]{})
	}
	peer := func(name string) *source {
		s := endpoint(name)
		// Who follows it looks now and then: not all shall look in one moment.
		s.store.wake = func() {}
		return s
	}
	felix := func(name string) *source {
		return newSource("FelixConfiguration "+name, group, felixConfigurations, byName(name), &failsafe.Configuration{}, &listOf[failsafe.Configuration]{})
	}
	all := &caches{
		group:     group,
		node:      newSource("Node "+c.options.Node, "v1", "nodes", byName(c.options.Node), &node{}, &listOf[node]{}),
		endpoints: endpoints,
		policies:  policies("of release "+c.options.Release, c.ofRelease()),
		information: newSource("ClusterInformation "+defaultName, group, clusterInformations, byName(defaultName),
			&v3.ClusterInformation{}, &v3.ClusterInformationList{}),
	}
	on := func(open func(string) *source) *optional {
		return &optional{open: open, start: func(s *source) context.CancelFunc { return all.start(ctx, s.reflector.RunWithContext) }}
	}
	all.foreign = &optional{
		open:  func(whose string) *source { return policies(whose, c.notOfRelease()) },
		start: func(s *source) context.CancelFunc { return all.start(ctx, readThenFollow[policy](s)) },
	}
	all.felix, all.felixDefault, all.peer = on(felix), on(felix), on(peer)
	return all
}

// byName selects one object. The names of Nodes and Calico's objects hold nothing that
// would have to be escaped.
func byName(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + name}
}

// run keeps the caches up to date until the context ends.
func (c *caches) run(ctx context.Context) {
	c.start(ctx, c.endpoints.reflector.RunWithContext)
	c.start(ctx, c.policies.reflector.RunWithContext)
	c.start(ctx, readThenFollow[node](c.node))
	c.start(ctx, readThenFollow[v3.ClusterInformation](c.information))
	<-ctx.Done()
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.running.Wait()
}

// start runs what fills one cache until the context ends or the returned function is
// called.
func (c *caches) start(ctx context.Context, fill func(context.Context)) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return cancel
	}
	c.running.Go(func() { fill(ctx) })
	return cancel
}

// follow keeps up to date what was only read before.
func (c *caches) follow() {
	c.node.followChanges()
	c.information.followChanges()
}

func (c *caches) always() []*source {
	return []*source{c.node, c.endpoints, c.policies, c.information}
}

// all returns every cache that is kept now.
func (c *caches) all() []*source {
	sources := c.always()
	for _, o := range []*optional{c.foreign, c.felix, c.felixDefault, c.peer} {
		if s := o.current(); s != nil {
			sources = append(sources, s)
		}
	}
	return sources
}

// problemOf says which cache is not complete and why; empty: all are.
func problemOf(sources []*source) string {
	for _, s := range sources {
		if !s.store.synced() {
			return s.problem()
		}
	}
	return ""
}

// optional is a cache that is kept only while somebody wants it.
type optional struct {
	open  func(what string) *source
	start func(*source) context.CancelFunc

	mu   sync.Mutex
	what string  // is wanted; empty: nothing
	kept *source // nil then
	stop context.CancelFunc
}

// follow starts the cache of what is wanted now, and ends another one.
func (o *optional) follow(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if what == o.what {
		return
	}
	if o.kept != nil {
		o.stop()
		o.kept, o.stop = nil, nil
	}
	if o.what = what; what != "" {
		o.kept = o.open(what)
		o.stop = o.start(o.kept)
	}
}

// current returns the cache, nil when it is not followed.
func (o *optional) current() *source {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept
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
	turn           chan struct{} // had by one cache of the agent at a time
	store          *store
	reflector      *cache.Reflector
	log            *slog.Logger
	wake           func()
	changes        chan struct{} // closed by followChanges
	followChanges  func()

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

// readThenFollow returns what fills the store by one list, which costs the API server
// less than a watch, and keeps it up to date from when followChanges is called.
func readThenFollow[T any](s *source) func(context.Context) {
	return func(ctx context.Context) {
		// It ends when the store is filled, or the context ends.
		_ = backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (done bool, _ error) {
			err := readOnce[T](ctx, s)
			s.note(ctx, "list", err)
			return err == nil, nil
		})
		select {
		case <-ctx.Done():
		case <-s.changes:
			s.reflector.RunWithContext(ctx)
		}
	}
}

// readOnce fills the store by a list that is read as it arrives.
func readOnce[T any](ctx context.Context, s *source) error {
	defer s.takeTurn(ctx)()
	var all []any
	request := s.request(metav1.ListOptions{ResourceVersion: fromCache})
	if err := streamItems(ctx, request, func(object *T) error { all = append(all, object); return nil }); err != nil {
		return err
	}
	return s.store.Replace(all, "")
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
