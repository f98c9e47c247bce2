package keeper

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

const (
	// After a failure the loop waits, at first so briefly that losing a race
	// against the cache costs nothing.
	retryFirst = 5 * time.Millisecond
	retryMost  = 30 * time.Second
	// lostRaces is how often in a row a write may find the cache behind before
	// that is worth telling.
	lostRaces = 5

	// jitter spreads the retries of many agents by up to this part of the delay.
	jitter = 0.2
)

// hold keeps one kind of work back after failures.
type hold struct {
	failures int
	until    time.Time
	err      error // the last one
}

// left returns how long the work is still kept back.
func (h *hold) left(now time.Time) time.Duration { return max(h.until.Sub(now), 0) }

// failed notes a failure and returns when to try again. A lost race keeps nothing
// back: the event that brings the cache forward may come sooner.
func (h *hold) failed(now time.Time, err error) time.Duration {
	h.failures++
	h.err = err
	delay := retryMost
	if h.failures < 20 {
		delay = min(retryFirst<<(h.failures-1), retryMost)
	}
	if seconds, told := apierrors.SuggestsClientDelay(err); told {
		delay = max(delay, time.Duration(seconds)*time.Second)
	}
	delay = wait.Jitter(delay, jitter)
	h.until = time.Time{}
	if !h.race(err) {
		h.until = now.Add(delay)
	}
	return delay
}

// race tells whether a failure only means that the cache was behind.
func (h *hold) race(err error) bool {
	return h.failures <= lostRaces && (apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err))
}

const (
	// freeRepairs is how often a field is set back at once.
	freeRepairs = 5
	// Each further repair waits twice as long as the one before.
	fightFirst = time.Second
	fightMost  = time.Minute
	// truce is the least time without a change after which a fight is over.
	truce = 10 * time.Second
	// calm is how long it takes to forget one repair.
	calm = 2 * time.Minute
)

// fights notices when somebody else keeps changing what the agent sets back.
type fights map[string]*fight

// fight is about one value of one field.
type fight struct {
	repairs int
	last    time.Time
	until   time.Time // when it may be set again
	over    time.Time // when it is over if nobody has changed it
}

// left returns how long to leave these fields alone.
func (f fights) left(now time.Time, fields []string) (left time.Duration) {
	for _, field := range fields {
		if fight := f[field]; fight != nil {
			left = max(left, fight.until.Sub(now))
		}
	}
	return left
}

// active returns the fields that are fought over, and when to look at that again.
func (f fights) active(now time.Time) (fields []string, again time.Duration) {
	for _, field := range slices.Sorted(maps.Keys(f)) {
		if fight := f[field]; now.Before(fight.over) {
			fields = append(fields, field)
			next := fight.over
			if now.Before(fight.until) {
				next = fight.until
			}
			if again == 0 || next.Sub(now) < again {
				again = next.Sub(now)
			}
		}
	}
	return fields, again
}

// set notes that these fields were set.
func (f fights) set(now time.Time, fields []string) {
	maps.DeleteFunc(f, func(_ string, fight *fight) bool { return now.Sub(fight.last) > calm*freeRepairs*2 })
	for _, field := range fields {
		fight := f[field]
		if fight == nil {
			fight = newFight(now)
			f[field] = fight
		}
		forgotten := int(now.Sub(fight.last) / calm)
		fight.repairs = max(fight.repairs-forgotten, 0) + 1
		fight.last = now
		if over := fight.repairs - freeRepairs; over >= 0 {
			delay := min(fightFirst<<min(over, 10), fightMost)
			fight.until, fight.over = now.Add(delay), now.Add(max(2*delay, truce))
		}
	}
}

func newFight(now time.Time) *fight { return &fight{last: now} }

// fieldsOf returns what a merge patch sets, each as its path and value, without
// the version and the agent's note.
func fieldsOf(object string, patch []byte) []string {
	var tree map[string]any
	if json.Unmarshal(patch, &tree) != nil {
		return nil
	}
	var fields []string
	var walk func(path string, node any)
	walk = func(path string, node any) {
		if branch, ok := node.(map[string]any); ok {
			for _, key := range slices.Sorted(maps.Keys(branch)) {
				if key != endpoint.StateAnnotation && path+key != "metadata.resourceVersion" {
					walk(path+key+".", branch[key])
				}
			}
			return
		}
		value, _ := json.Marshal(node)
		fields = append(fields, object+" "+path[:len(path)-1]+"="+string(value))
	}
	walk("", tree)
	return fields
}
