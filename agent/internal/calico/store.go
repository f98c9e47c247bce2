package calico

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// store holds the objects of one source as its reflector has last seen them. It is
// less than an informer has: nobody is told what has changed, only that something
// has, at once, and objects and version always belong together.
type store struct {
	transform cache.TransformFunc
	wake      func()

	mu       sync.Mutex
	complete bool                     // all objects were read once
	objects  map[string]metav1.Object // by keyOf
	version  string                   // up to which the store has followed
}

func newStore(transform cache.TransformFunc, wake func()) *store {
	return &store{transform: transform, wake: wake, objects: map[string]metav1.Object{}}
}

// Add and the next six are for the reflector.
func (s *store) Add(object any) error { return s.change(object, s.put) }

// Update puts an object in the place of an older one.
func (s *store) Update(object any) error { return s.change(object, s.put) }

// Delete drops an object.
func (s *store) Delete(object any) error {
	return s.change(object, func(o metav1.Object) { delete(s.objects, keyOf(o)) })
}

// Replace puts all objects there are in the place of those that were.
func (s *store) Replace(objects []any, version string) error {
	all := make([]metav1.Object, 0, len(objects))
	for _, object := range objects {
		o, err := s.accept(object)
		if err != nil {
			return err
		}
		all = append(all, o)
	}
	s.mu.Lock()
	clear(s.objects)
	for _, o := range all {
		s.put(o)
	}
	s.complete, s.version = true, version
	s.mu.Unlock()
	s.wake()
	return nil
}

// Bookmark notes that up to this version nothing else has changed.
func (s *store) Bookmark(version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = version
	return nil
}

// Resync has nothing to do.
func (s *store) Resync() error { return nil }

// Transformer is what each object goes through before it is kept.
func (s *store) Transformer() cache.TransformFunc { return s.transform }

// change does what an event says of an object, whose version is the event's.
func (s *store) change(object any, do func(metav1.Object)) error {
	o, err := s.accept(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	before := s.objects[keyOf(o)]
	do(o)
	after := s.objects[keyOf(o)]
	s.version = o.GetResourceVersion()
	s.mu.Unlock()
	if !isHeartbeat(before, after) {
		s.wake()
	}
	return nil
}

func (s *store) put(o metav1.Object) { s.objects[keyOf(o)] = o }

// keyOf tells objects apart. The name alone doesn't: Calico's own API server shows
// a policy x that was written through it, and one that was written underneath it,
// both as x. That is so while a release moves from one API to the other, and when
// the second one goes, the first one is still there.
func keyOf(o metav1.Object) string { return o.GetName() + "/" + string(o.GetUID()) }

func (s *store) accept(object any) (metav1.Object, error) {
	object, err := s.transform(object)
	if err != nil {
		return nil, fmt.Errorf("transform object: %w", err)
	}
	return meta.Accessor(object)
}

// synced tells whether all objects were read once.
func (s *store) synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.complete
}

// read returns the objects, which must not be changed, and up to which version the
// store has followed.
func (s *store) read() (objects []metav1.Object, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.objects)), s.version
}
