package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

const (
	// atOnce is how many writes are made at a time, and perPass in one pass, so that it soon
	// looks again at what has changed meanwhile.
	atOnce, perPass = 64, 640
	// What fails is tried again after so long, up to so long.
	retryFirst, retryMost = time.Second, 30 * time.Second
	// shownWithin is how long a cache is given to show what was written.
	shownWithin = 3 * time.Second
)

// write is one change of an object. Without a version that was seen it is created.
type write struct {
	subject string // names the object
	seen    string // the version that the change is made from; empty: there is none
	object  metav1.Object
	patch   []byte
	gone    bool // it is to be deleted
}

// writing is what the loop remembers of writes.
type writing struct {
	waits   map[string]waits // by subject
	backoff *flowcontrol.Backoff
}

// waits is why a write is not made again before then: the cache has not shown it yet, as
// long as it has that version, or it has failed.
type waits struct {
	until   time.Time
	seen    string
	failure string
}

// writeOfConfigMap changes its data, and nothing else. is may be nil.
func (c Config) writeOfConfigMap(is *corev1.ConfigMap, data map[string]string) write {
	meta := metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Release, Labels: map[string]string{endpoint.ReleaseLabel: c.Release}}
	w := write{subject: c.subject(), object: &corev1.ConfigMap{ObjectMeta: meta, Data: data}}
	if is == nil {
		return w
	}
	next := is.DeepCopy()
	next.Data = data
	w.seen = is.ResourceVersion
	w.patch, _ = endpoint.MergePatch(is, next) // texts can always be encoded
	return w
}

// subject names the ConfigMap.
func (c Config) subject() string { return "ConfigMap " + c.Namespace + "/" + c.Release }

// write makes the changes that are due. One that fails keeps no other from being made, and
// one of those is in the status while it fails.
func (k *Controller) write(ctx context.Context, f facts, d *decision) {
	waiting := map[string]waits{}
	var due []write
	for _, one := range d.writes {
		before, made := k.writing.waits[one.subject]
		switch {
		case made && f.now.Before(before.until) && (before.failure != "" || before.seen == one.seen):
			waiting[one.subject] = before
			d.at(before.until)
		case len(due) == perPass:
			d.at(f.now)
		default:
			due = append(due, one)
		}
	}
	k.writing.waits = waiting
	for i, err := range k.writeAll(ctx, due) {
		if errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		subject := due[i].subject
		if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
			// Where the cache was behind it is to look again.
			waiting[subject] = waits{until: f.now.Add(shownWithin), seen: due[i].seen}
			k.writing.backoff.DeleteEntry(subject)
			continue
		}
		k.writing.backoff.Next(subject, f.now)
		waiting[subject] = waits{until: time.Now().Add(k.writing.backoff.Get(subject)), failure: err.Error()}
		d.at(waiting[subject].until)
	}
	k.writing.backoff.GC()
	for _, subject := range slices.Sorted(maps.Keys(waiting)) {
		if failure := waiting[subject].failure; failure != "" {
			d.status.Ready, d.status.Reason = false, failure
			break
		}
	}
}

// writeAll makes changes side by side, and returns their errors in the same order.
func (k *Controller) writeAll(ctx context.Context, due []write) []error {
	errs := make([]error, len(due))
	// What a request may take ends them in time.
	workqueue.ParallelizeUntil(context.Background(), atOnce, len(due), func(i int) { errs[i] = k.writeOne(ctx, due[i]) })
	return errs
}

func (k *Controller) writeOne(ctx context.Context, one write) error {
	switch {
	case one.gone:
		return k.api.Delete(ctx, one.object)
	case one.seen != "":
		return k.api.Patch(ctx, one.object, one.patch)
	}
	err := k.api.Create(ctx, one.object)
	if !apierrors.IsAlreadyExists(err) || one.patch == nil {
		return err
	}
	// The cache is behind, or the object has lost the label by which the cache finds it.
	err = k.api.Patch(ctx, one.object, one.patch)
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
		err = fmt.Errorf("%s may have lost its label %s, delete it and it is made again: %w", one.subject, endpoint.ReleaseLabel, err)
	}
	return err
}
