package calico

import (
	"context"
	"log/slog"
	"sync"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// caches are copies of what the agent looks at, kept by watches.
type caches struct {
	group                    string
	node, endpoint, policies *source
}

// newCaches returns caches that are still to be run, of Calico's objects in the
// group.
func (c *Cluster) newCaches(group string, wake func()) *caches {
	byName := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, c.options.Node).String()}
	newSource := func(subject, group, resource string, selection metav1.ListOptions, object, list runtime.Object) *source {
		s := &source{
			subject:   subject,
			resource:  resource,
			path:      resourcePath(group, resource),
			selection: selection,
			list:      list,
			client:    c.client,
			log:       c.options.Log,
			wake:      wake,
			troubles:  map[string]trouble{},
		}
		s.informer = s.newInformer(object, strip(group))
		return s
	}
	return &caches{
		group:    group,
		node:     newSource("Node "+c.options.Node, "v1", "nodes", byName, &corev1.Node{}, &corev1.NodeList{}),
		endpoint: newSource("HostEndpoint "+c.options.Node, group, hostEndpoints, byName, &v3.HostEndpoint{}, &v3.HostEndpointList{}),
		policies: newSource("GlobalNetworkPolicies of release "+c.options.Release, group, globalNetworkPolicies,
			metav1.ListOptions{LabelSelector: c.ofRelease()}, &v3.GlobalNetworkPolicy{}, &v3.GlobalNetworkPolicyList{}),
	}
}

// run keeps the caches up to date until the context ends.
func (c *caches) run(ctx context.Context, wake func()) {
	var group sync.WaitGroup
	for _, s := range c.sources() {
		group.Go(func() { s.informer.RunWithContext(ctx) })
		// An empty cache is complete without any event.
		group.Go(func() {
			if cache.WaitFor(ctx, "", s.informer.HasSyncedChecker()) {
				wake()
			}
		})
	}
	group.Wait()
}

// problem says which cache is not complete and why; empty: all are.
func (c *caches) problem() string {
	for _, s := range c.sources() {
		if !s.informer.HasSynced() {
			return s.problem()
		}
	}
	return ""
}

func (c *caches) sources() []*source { return []*source{c.node, c.endpoint, c.policies} }

// source is a cache of some objects of one resource. It notes what goes wrong
// with it: once in the log, until it works again.
type source struct {
	subject        string // what it holds, for people
	resource, path string
	selection      metav1.ListOptions
	list           runtime.Object // an empty list of its objects
	client         rest.Interface
	informer       cache.SharedInformer
	log            *slog.Logger
	wake           func()

	mu       sync.Mutex
	troubles map[string]trouble // by the verb that fails
}

// trouble is what goes wrong with one verb.
type trouble struct {
	code int // as codeOf tells
	text string
}

// newInformer returns the informer that fills the cache.
func (s *source) newInformer(object runtime.Object, transform cache.TransformFunc) cache.SharedInformer {
	informer := cache.NewSharedInformer(&cache.ListWatch{
		ListWithContextFunc:  s.listObjects,
		WatchFuncWithContext: s.watchObjects,
	}, object, 0)
	// None of these can fail before the informer runs.
	_ = informer.SetTransform(transform)
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		// The two functions above have told people; this is for who debugs.
		s.log.Debug("watch ended", "subject", s.subject, "error", err)
	})
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { s.wake() },
		UpdateFunc: func(_, _ any) { s.wake() },
		DeleteFunc: func(any) { s.wake() },
	})
	return informer
}

func (s *source) listObjects(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list := s.list.DeepCopyObject()
	err := s.request(options).Do(ctx).Into(list)
	s.note(ctx, "list", err)
	return list, err
}

func (s *source) watchObjects(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.Watch = true
	stream, err := s.request(options).Watch(ctx)
	streamsList := options.SendInitialEvents != nil
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
		now = trouble{code: codeOf(err), text: explain(err, verb, s.resource).Error()}
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
	}
}

// problem says why the cache is not complete.
func (s *source) problem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, verb := range []string{"list", "watch"} {
		if t, ok := s.troubles[verb]; ok {
			return "cannot " + verb + " " + s.subject + ": " + t.text
		}
	}
	return firstRead
}

// strip returns what drops from an object of the group what the agent does not
// look at, before it is cached.
func strip(group string) cache.TransformFunc {
	return func(object any) (any, error) {
		if accessor, err := meta.Accessor(object); err == nil {
			accessor.SetManagedFields(nil)
		}
		switch o := object.(type) {
		case *corev1.Node:
			o.Status.Images = nil
		case *v3.HostEndpoint:
			if group != GroupCRD {
				// It means nothing here. See endpoint.MetadataAnnotation.
				delete(o.Annotations, endpoint.MetadataAnnotation)
			}
		case *v3.GlobalNetworkPolicy:
			// The annotated revision stands for the rules.
			o.Spec = v3.GlobalNetworkPolicySpec{}
		}
		return object, nil
	}
}

// first returns the only object of a cache, or nothing.
func first[T any](s *source) (object T) {
	if objects := all[T](s); len(objects) > 0 {
		object = objects[0]
	}
	return object
}

// all returns the objects of a cache.
func all[T any](s *source) []T {
	var objects []T
	for _, object := range s.informer.GetStore().List() {
		objects = append(objects, object.(T))
	}
	return objects
}
