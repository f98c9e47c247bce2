package calico

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// store holds the objects of one source as its reflector has last seen them. Who waits is
// told at once that something has changed, and not what; objects and version always belong
// together.
type store struct {
	cache.Store
	transform cache.TransformFunc
	wake      func()

	mu       sync.Mutex
	complete bool // all objects were read once
}

func newStore(transform cache.TransformFunc, wake func()) *store {
	return &store{transform: transform, wake: wake, Store: cache.NewStore(keyOf, cache.WithTransformer(transform))}
}

// keyOf tells objects apart. The name alone doesn't: Calico's own API server shows
// a policy x that was written through it, and one that was written underneath it,
// both as x. That is so while a release moves from one API to the other, and when
// the second one goes, the first one is still there.
func keyOf(object any) (string, error) {
	o, err := meta.Accessor(object)
	if err != nil {
		return "", err
	}
	return o.GetName() + "/" + string(o.GetUID()), nil
}

// Add and the next five are for the reflector.
func (s *store) Add(object any) error { return s.change(object, s.Store.Add) }

// Update puts an object in the place of an older one.
func (s *store) Update(object any) error { return s.change(object, s.Store.Update) }

// Delete drops an object.
func (s *store) Delete(object any) error { return s.change(object, s.Store.Delete) }

// change does what an event says of an object, whose version is the event's.
func (s *store) change(object any, do func(any) error) error {
	s.mu.Lock()
	before, _, _ := s.Get(object)
	err := do(object)
	after, _, _ := s.Get(object)
	s.mu.Unlock()
	if err == nil && !endpoint.IsHeartbeat(before, after) {
		s.wake()
	}
	return err
}

// Replace puts all objects there are in the place of those that were.
func (s *store) Replace(objects []any, version string) error {
	s.mu.Lock()
	err := s.Store.Replace(objects, version)
	s.complete = s.complete || err == nil
	s.mu.Unlock()
	s.wake()
	return err
}

// Bookmark notes that up to this version nothing else has changed.
func (s *store) Bookmark(version string) error { s.Store.Bookmark(version); return nil }

// Transformer is what each object goes through before it is kept.
func (s *store) Transformer() cache.TransformFunc { return s.transform }

// synced tells whether all objects were read once.
func (s *store) synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.complete
}

// read returns the objects, which must not be changed, and up to which version the
// store has followed.
func (s *store) read() (objects []any, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.List(), s.LastStoreSyncResourceVersion()
}
