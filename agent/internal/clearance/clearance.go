// Package clearance is what the controller of a release tells the agents, by one
// ConfigMap: which set of policies may be armed, on which nodes, or why not. It is
// pure: texts in, answers out. Each key of the ConfigMap is one fact, so that a person
// who looks at it sees what agents see.
package clearance

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OpenAnnotation is the way out: while the ConfigMap has it, with whatever text, agents
// take their endpoints away and give the failsafe back, and make nothing again.
const OpenAnnotation = "host-firewall.io/open"

// AllNodes stands for every Node in Clearance.Held.
const AllNodes = "*"

// Set is a set of policies as the chart has rendered it.
type Set struct {
	// Revision is the value of endpoint.SetLabel on its policies.
	Revision string
	// Policies are the digests of the specs by the names of the policies.
	Policies map[string]string
}

// Clearance is everything that the controller says.
type Clearance struct {
	// Wanted is the set that the controller was rolled out with, Before the one that
	// was wanted before that; its Revision is empty where there was none.
	Wanted, Before Set
	// Present are the revisions of all sets of which any policy is in the cluster, sorted.
	Present []string
	// Reason says why no node may be armed with the wanted set; empty: they may.
	Reason string
	// Canary is the one node that may, until it is seen to be well; empty: all may.
	Canary string
	// Drift says how the policies of a set that nodes are armed with differ from what the
	// chart has rendered, by the set's revision.
	Drift map[string]string
	// Held says why single nodes may get no endpoint and not be armed: nodes by reason.
	// AllNodes stands for all of them.
	Held map[string][]string
	// Conflicts is as Held, for nodes where somebody else's endpoint wins.
	Conflicts map[string][]string
	// Leftovers are Nodes with endpoints of the release that other settings have left there:
	// those of single interfaces, where one covers all.
	Leftovers []string
	// Nodes is the time of creation of the newest Node that is looked after: a younger one
	// is not looked at yet, and not trusted.
	Nodes time.Time
	// Endpoints is the version of the endpoints up to which the addresses of all are trusted.
	Endpoints string
	// Paused tells that Calico's datastore is not to be written to.
	Paused bool
	// Closed tells that the release is being uninstalled.
	Closed bool
	// Open is the text of OpenAnnotation; it may be empty. Opened tells whether there is one.
	Open   string
	Opened bool
	// Controller is when the controller that wrote this has started.
	Controller time.Time
}

// The keys of the ConfigMap.
const (
	keyWanted     = "set"
	keyPolicies   = "policies"
	keyBefore     = "set-before"
	keyBeforeOf   = "policies-before"
	keyPresent    = "sets"
	keyReason     = "reason"
	keyCanary     = "canary"
	keyDrift      = "drift"
	keyHeld       = "held"
	keyConflicts  = "conflicts"
	keyLeftovers  = "leftovers"
	keyNodes      = "nodes"
	keyEndpoints  = "endpoints"
	keyPaused     = "paused"
	keyClosed     = "closed"
	keyController = "controller"
)

// Closing returns the data that a ConfigMap gets, over what it has, when the release is
// being uninstalled.
func Closing() map[string]string { return map[string]string{keyClosed: "true"} }

// Data returns the data of the ConfigMap. What there is nothing to say of has no key.
func (c Clearance) Data() map[string]string {
	data := map[string]string{
		keyWanted:     c.Wanted.Revision,
		keyPolicies:   textOf(c.Wanted.Policies),
		keyBefore:     c.Before.Revision,
		keyBeforeOf:   textOf(c.Before.Policies),
		keyPresent:    strings.Join(c.Present, " "),
		keyReason:     c.Reason,
		keyCanary:     c.Canary,
		keyDrift:      textOf(c.Drift),
		keyHeld:       textOf(c.Held),
		keyConflicts:  textOf(c.Conflicts),
		keyLeftovers:  strings.Join(c.Leftovers, " "),
		keyNodes:      timeText(c.Nodes, time.RFC3339),
		keyEndpoints:  c.Endpoints,
		keyPaused:     boolText(c.Paused),
		keyClosed:     boolText(c.Closed),
		keyController: timeText(c.Controller, time.RFC3339Nano),
	}
	maps.DeleteFunc(data, func(_, value string) bool { return value == "" })
	return data
}

// Parse reads data and annotations of the ConfigMap. An error means that somebody has
// written to it by hand, and names the key; what it says is not to be acted on then, but
// for Opened, Open and Closed, which are always returned.
func Parse(data, annotations map[string]string) (Clearance, error) {
	c := Clearance{
		Wanted:    Set{Revision: data[keyWanted]},
		Before:    Set{Revision: data[keyBefore]},
		Present:   strings.Fields(data[keyPresent]),
		Reason:    data[keyReason],
		Canary:    data[keyCanary],
		Leftovers: strings.Fields(data[keyLeftovers]),
		Endpoints: data[keyEndpoints],
		Paused:    data[keyPaused] != "",
		Closed:    data[keyClosed] != "",
	}
	c.Open, c.Opened = annotations[OpenAnnotation]
	for key, into := range map[string]any{
		keyPolicies: &c.Wanted.Policies, keyBeforeOf: &c.Before.Policies,
		keyDrift: &c.Drift, keyHeld: &c.Held, keyConflicts: &c.Conflicts,
	} {
		if text := data[key]; text != "" {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				return c, fmt.Errorf("key %s of the clearance cannot be read: %w", key, err)
			}
		}
	}
	for key, into := range map[string]*time.Time{keyNodes: &c.Nodes, keyController: &c.Controller} {
		if text := data[key]; text != "" {
			read, err := time.Parse(time.RFC3339Nano, text)
			if err != nil {
				return c, fmt.Errorf("key %s of the clearance cannot be read: %w", key, err)
			}
			*into = read
		}
	}
	if c.Wanted.Revision == "" && !c.Closed {
		return c, fmt.Errorf("the clearance has no key %s", keyWanted)
	}
	return c, nil
}

// MayCreate says why the node may not be given an endpoint; empty: it may. created is
// when the Node was.
func (c Clearance) MayCreate(node string, created time.Time) (why string) {
	switch hold, _ := c.Hold(node); {
	case created.After(c.Nodes):
		return "the controller has not looked at this Node yet"
	case hold != "":
		return hold
	}
	return ""
}

// MayArm says why the node may not be armed with the set; empty: it may. version is that
// of the endpoint.
func (c Clearance) MayArm(node, set, version string) (why string) {
	switch hold, _ := c.Hold(node); {
	case hold != "":
		return hold
	case c.Wanted.Revision != set:
		return fmt.Sprintf("the controller looks after set %s, and this agent was rolled out with set %s", c.Wanted.Revision, set)
	case c.Reason != "":
		return c.Reason
	case c.Canary != "" && c.Canary != node:
		return fmt.Sprintf("node %s goes first with set %s", c.Canary, set)
	case Newer(version, c.Endpoints):
		return "the addresses of this node are not trusted by the others yet"
	}
	return ""
}

// Hold says why this very node may get no endpoint and not be armed; empty: nothing does.
// conflict tells that somebody else's endpoint wins there.
func (c Clearance) Hold(node string) (why string, conflict bool) {
	for i, held := range []map[string][]string{c.Conflicts, c.Held} {
		for _, reason := range slices.Sorted(maps.Keys(held)) {
			if nodes := held[reason]; slices.Contains(nodes, node) || slices.Contains(nodes, AllNodes) {
				return reason, i == 0
			}
		}
	}
	return "", false
}

// HasLeftovers tells whether the node has any.
func (c Clearance) HasLeftovers(node string) bool {
	return slices.Contains(c.Leftovers, node) || slices.Contains(c.Leftovers, AllNodes)
}

// IsGone tells whether no policy of the set is left.
func (c Clearance) IsGone(set string) bool { return !slices.Contains(c.Present, set) }

// Newer tells whether version a of an object is newer than b. A version that is no number
// is no newer than any; any number is newer than none.
func Newer(a, b string) bool {
	x, err := strconv.ParseUint(a, 10, 64)
	if err != nil {
		return false
	}
	y, err := strconv.ParseUint(b, 10, 64)
	return b == "" || err == nil && x > y
}

// textOf encodes a map; empty: there is nothing in it.
func textOf[V any](m map[string]V) string {
	if len(m) == 0 {
		return ""
	}
	// Texts can always be encoded, and come out in one order.
	text, _ := json.Marshal(m)
	return string(text)
}

func timeText(t time.Time, layout string) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(layout)
}

func boolText(yes bool) string {
	if yes {
		return "true"
	}
	return ""
}
