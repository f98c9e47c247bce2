package calico

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
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

// problemOf says which cache is not complete and why; empty: all are.
func problemOf(sources ...*source) string {
	for _, s := range sources {
		if !s.store.synced() {
			problem, _ := s.trouble()
			return cmp.Or(problem, firstRead)
		}
	}
	return ""
}

// source is a cache of some objects of one kind. It notes what goes wrong
// with it: once in the log, until it works again.
type source struct {
	cluster   *Cluster
	of        cleanup.Object // without a name: those that the labels select
	labels    string
	newList   func() runtime.Object
	store     *store
	reflector *cache.Reflector
	listed    atomic.Bool // since the last watch
	late      *time.Timer // ends the watch; nil before the first one

	mu       sync.Mutex
	troubles map[string]trouble // by the verb that fails
}

// trouble is what goes wrong with one verb.
type trouble struct {
	code  int // as codeOf tells
	text  string
	since time.Time
}

// follow returns a cache, still to be started, of one object, or of all that have labels.
// What goes wrong with its reflector, the two functions that it calls tell people; what it
// logs itself is for who debugs.
func follow[T any, P kind[T]](c *Cluster, of cleanup.Object, labels string) *source {
	s := &source{cluster: c, of: of, labels: labels, newList: func() runtime.Object { return &listOf[T]{} }, troubles: map[string]trouble{}}
	s.store = newStore(func(object any) (any, error) { return kept(c.group, object), nil }, func() { c.wake() })
	requests := &cache.ListWatch{ListWithContextFunc: s.listObjects, WatchFuncWithContext: s.watchObjects}
	s.reflector = cache.NewReflectorWithOptions(requests, P(new(T)), s.store, cache.ReflectorOptions{Name: s.subject(), Backoff: &backoff})
	return s
}

// subject is what people call it.
func (s *source) subject() string {
	if s.of.Name == "" {
		return strings.TrimSpace(resourceOf(s.of.Kind) + " " + s.labels)
	}
	return s.of.String()
}

func (s *source) listObjects(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	defer s.takeTurn(ctx)()
	list := s.newList()
	err := s.request(options).Do(ctx).Into(list)
	s.note(ctx, "list", err)
	s.listed.Store(err == nil)
	return list, err
}

// watchObjects watches the selected objects. A watch of Calico's own API server
// does not tell that an object has left what the labels select, nor that it is
// deleted then. So there each watch, which lasts some minutes, starts from a list.
func (s *source) watchObjects(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	streamsList := options.SendInitialEvents != nil
	forgetful := s.cluster.group == GroupV3 && s.labels != ""
	if listed := s.listed.Swap(false); forgetful && !listed && !streamsList {
		return nil, apierrors.NewResourceExpired("a list comes before the next watch")
	}
	defer s.takeTurn(ctx)()
	options.Watch = true
	if streamsList && options.ResourceVersion == "" && s.reflector.LastSyncResourceVersion() == "" {
		// As for a plain list at the start, the API server's cache is new enough, and etcd
		// is spared thousands of agents.
		options.ResourceVersion = fromCache
	}
	stream, err := s.request(options).Watch(ctx)
	if err == nil && options.TimeoutSeconds != nil {
		s.endLate(ctx, stream, *options.TimeoutSeconds)
	}
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
	ctx, cancel := context.WithTimeout(ctx, turnLimit)
	defer cancel()
	select {
	case s.cluster.turn <- struct{}{}:
		return func() { <-s.cluster.turn }
	case <-ctx.Done():
		return func() {}
	}
}

// endLate ends a watch when the API server should have ended it long ago: whoever is in
// between may keep a connection that says nothing any more.
func (s *source) endLate(ctx context.Context, stream watch.Interface, seconds int64) {
	s.late = time.AfterFunc(time.Duration(seconds)*time.Second+silence, func() {
		s.note(ctx, "watch", errSilent)
		stream.Stop()
	})
}

// request is a GET of the selected objects.
func (s *source) request(options metav1.ListOptions) *rest.Request {
	if s.late != nil {
		// A reflector asks again when the watch has ended.
		s.late.Stop()
	}
	options.LabelSelector = s.labels
	if s.of.Name != "" {
		options.FieldSelector = byName(s.of.Name).FieldSelector
	}
	all := cleanup.Object{Kind: s.of.Kind, Namespace: s.of.Namespace}
	return s.cluster.client.Get().AbsPath(s.cluster.pathOf(all)).VersionedParams(&options, metav1.ParameterCodec)
}

// byName selects one object. The names of Nodes and Calico's objects hold nothing that
// would have to be escaped.
func byName(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + name}
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
		now = trouble{code: codeOf(err), text: explain(err, verb, resourceOf(s.of.Kind)).Error(), since: time.Now()}
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
		s.cluster.options.Log.Warn("cannot "+verb+", trying again", "subject", s.subject(), "problem", now.text)
		s.cluster.wake()
	case err == nil && troubled:
		s.cluster.options.Log.Info("can "+verb+" again", "subject", s.subject())
		s.cluster.wake()
	}
}

// trouble says what goes wrong, and since when; empty: nothing.
func (s *source) trouble() (problem string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, verb := range []string{"list", "watch"} {
		if t, ok := s.troubles[verb]; ok {
			return "cannot " + verb + " " + s.subject() + ": " + t.text, t.since
		}
	}
	return "", time.Time{}
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
