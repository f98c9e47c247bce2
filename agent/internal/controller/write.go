package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

const (
	// atOnce is how many writes are made at a time, and perPass in one pass, so that it
	// soon looks again at what has changed meanwhile.
	atOnce, perPass = 16, 320
	// What fails is tried again after so long, up to so long.
	retryFirst, retryMost = time.Second, 30 * time.Second
	// shownWithin is how long a cache is given to show what was written.
	shownWithin = 3 * time.Second
)

// write is one change: of a set of addresses, of a policy, which goes, or else of the
// ConfigMap. What has not been seen is created.
type write struct {
	subject string // names the object
	seen    string // the version that it is made from; empty: there is none
	set     *v3.GlobalNetworkSet
	gone    bool // the set goes
	policy  *policyset.Policy
	data    map[string]string
	patch   []byte
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
	w := write{subject: c.subject(), data: data}
	if is == nil {
		return w
	}
	changes := map[string]any{}
	for key := range is.Data {
		changes[key] = nil
	}
	for key, value := range data {
		if changes[key] = value; is.Data[key] == value {
			delete(changes, key)
		}
	}
	w.seen = is.ResourceVersion
	w.patch = encode(map[string]any{"metadata": map[string]any{"resourceVersion": is.ResourceVersion}, "data": changes})
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
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(atOnce, len(due)) {
		workers.Go(func() {
			for i := range next {
				errs[i] = k.writeOne(ctx, due[i])
			}
		})
	}
	for i := range due {
		next <- i
	}
	close(next)
	workers.Wait()
	return errs
}

func (k *Controller) writeOne(ctx context.Context, one write) error {
	switch {
	case one.policy != nil:
		return k.api.DeletePolicy(ctx, one.policy)
	case one.gone:
		return k.api.DeleteTrustSet(ctx, one.set)
	case one.set != nil && one.seen == "":
		if err := k.api.CreateTrustSet(ctx, one.set); !apierrors.IsAlreadyExists(err) {
			return err
		}
		// The cache is behind, or it has lost the label by which the cache finds it.
		err := k.api.PatchTrustSet(ctx, one.set.Name, one.patch)
		if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			err = fmt.Errorf("%s may have lost its label %s, delete it and it is made again: %w", one.subject, endpoint.ReleaseLabel, err)
		}
		return err
	case one.set != nil:
		return k.api.PatchTrustSet(ctx, one.set.Name, one.patch)
	case one.seen == "":
		return k.api.CreateConfigMap(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: k.config.Namespace, Name: k.config.Release, Labels: map[string]string{endpoint.ReleaseLabel: k.config.Release}},
			Data:       one.data,
		})
	}
	return k.api.PatchConfigMap(ctx, one.patch)
}
