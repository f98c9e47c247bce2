package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// errMissed is a round that was given up.
var errMissed = errors.New("it has not come")

// event is a change of an object, and when it was seen.
type event struct {
	at     time.Time
	kind   watch.EventType
	object *unstructured.Unstructured
}

// observer sees every change of a resource's objects when it happens, and keeps it until it is asked for.
type observer struct {
	client dynamic.ResourceInterface
	events chan event
}

// observe starts an observer, which ends with ctx.
func observe(ctx context.Context, client dynamic.ResourceInterface) (*observer, error) {
	list, err := client.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("list what is to be watched: %w", err)
	}
	source := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return client.Watch(ctx, o)
	}}
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), source)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	o := &observer{client: client, events: make(chan event, 1<<16)}
	go func() {
		for e := range watcher.ResultChan() {
			if object, ok := e.Object.(*unstructured.Unstructured); ok {
				o.events <- event{time.Now(), e.Type, object}
			}
		}
		close(o.events)
	}()
	return o, nil
}

// forget drops what has been seen so far.
func (o *observer) forget() {
	for {
		select {
		case <-o.events:
		default:
			return
		}
	}
}

// await shows every change until done says so, and fails with errMissed after the limit.
func (o *observer) await(ctx context.Context, limit time.Duration, done func(event) bool) error {
	deadline := time.After(limit)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return errMissed
		case e, ok := <-o.events:
			if !ok {
				return errors.New("the watch has ended")
			}
			if done(e) {
				return nil
			}
		}
	}
}

// repair deletes an object and returns how long after the request it was seen back and as it should be.
func (o *observer) repair(ctx context.Context, name string, limit time.Duration, whole func(*unstructured.Unstructured) bool) (time.Duration, error) {
	o.forget()
	start := time.Now()
	if err := o.client.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, fmt.Errorf("delete %s: %w", name, err)
	}
	var took time.Duration
	deleted := false
	err := o.await(ctx, limit, func(e event) bool {
		if e.object.GetName() != name {
			return false
		}
		deleted = deleted || e.kind == watch.Deleted
		took = e.at.Sub(start)
		return deleted && e.kind != watch.Deleted && whole(e.object)
	})
	return took, err
}

// missing returns the first of the names that has no object, or one that isn't as it should be.
func (o *observer) missing(ctx context.Context, names []string, whole func(*unstructured.Unstructured) bool) error {
	for _, name := range names {
		object, err := o.client.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && !whole(object) {
			return fmt.Errorf("%s is not there yet, or not armed", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
