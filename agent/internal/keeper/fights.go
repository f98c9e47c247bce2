package keeper

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

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
