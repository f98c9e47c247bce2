package keeper

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

const (
	// A field that was set back before waits for a while before it is set back again. From
	// contestedFrom on that is told, until nobody has changed it for truce.
	contestedFrom = time.Second
	truce         = 10 * time.Second

	fieldWork = "field "
)

// leaveAlone tells whether any of these fields has to wait.
func (a *agenda) leaveAlone(fields []string) bool {
	return slices.ContainsFunc(fields, func(field string) bool { return a.waits(fieldWork + field) })
}

// wasSet notes that these fields were set.
func (a *agenda) wasSet(now time.Time, fields []string) {
	a.backoff.GC()
	for _, field := range fields {
		a.failed(fieldWork+field, now, nil)
	}
}

// contested returns the fields that somebody else keeps changing, and sees to it that they
// are looked at again.
func (a *agenda) contested(now time.Time) (fields []string) {
	for _, what := range slices.Sorted(maps.Keys(a.due)) {
		field, is := strings.CutPrefix(what, fieldWork)
		over := a.due[what].Add(truce)
		switch {
		case !is:
		case now.After(over):
			delete(a.due, what)
		case a.backoff.Get(what) >= contestedFrom:
			fields = append(fields, field)
			a.notAfter("truce", over.Add(1))
		}
	}
	if len(fields) == 0 {
		delete(a.due, "truce")
	}
	return fields
}

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
