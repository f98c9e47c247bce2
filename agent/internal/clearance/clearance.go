// Package clearance is what the controller of a release tells the agents, by one
// ConfigMap: which set of policies may be armed, on which nodes, or why not. It is
// pure: texts in, answers out. Each key of the ConfigMap is one fact, so that a person
// who looks at it sees what agents see.
package clearance

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

// OpenAnnotation is the way out: while the ConfigMap has it, with whatever text, agents
// take their endpoints away and give the failsafe back, and make nothing again.
const OpenAnnotation = "host-firewall.io/open"

// ConfirmAnnotation is how a person confirms a set: with its revision. RetryAnnotation makes
// nodes that went back try once more, each time that its text is another one.
const (
	ConfirmAnnotation = "host-firewall.io/confirm"
	RetryAnnotation   = "host-firewall.io/retry"
)

// Annotate returns the command by which a person annotates the ConfigMap of a release.
func Annotate(namespace, release, annotation, value string) string {
	return fmt.Sprintf("kubectl -n %s annotate --overwrite configmap %s %s=%s", namespace, release, annotation, value)
}

// NoCanary is the reason while there is no node that could go first. Nobody has to do anything about it.
const NoCanary = "waiting for a first node: none that is Ready and not held back has an endpoint whose agent was rolled out with this set"

// AllNodes stands for every Node in Clearance.Held.
const AllNodes = "*"

// Set is a set of policies as the chart has rendered it.
type Set struct {
	// Revision is the value of endpoint.SetLabel on its policies.
	Revision string
	// Policies are the digests of the specs by the names of the policies.
	Policies map[string]string
}

// WitnessPort is the TCP port of all connections by which a witness is seen. It is discard's,
// where nobody listens any more: what is not dropped is refused at once.
const WitnessPort uint16 = 9

// Witness is how an agent sees on its own node that Felix has a set: a connection from From
// to To is dropped then, one to Moved where Felix has applied the set to the node, and one to
// Control never. All are of 127.66.0.0/16.
type Witness struct {
	From    netip.Addr `json:"from"`
	To      netip.Addr `json:"to"`
	Moved   netip.Addr `json:"moved"`
	Control netip.Addr `json:"control"`
}

// Clearance is everything that the controller says.
type Clearance struct {
	// Wanted is the set that the controller was rolled out with, Before the one that
	// was wanted before that; its Revision is empty where there was none.
	Wanted, Before Set
	// Rollout stands for the values by which the controller judges nodes.
	Rollout string
	// Present are the revisions of all sets of which any policy is in the cluster, sorted.
	Present []string
	// Reason says why no node but Canary may be armed with the wanted set; empty: they may.
	Reason string
	// Canary is the one node that may, until it is seen to be well; empty: all may, or none.
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
	// Spread is the time over which the agents that wait to arm their nodes do so, each at a
	// moment of its own, or thousands of them would write at once.
	Spread time.Duration
	// Witnesses are those of the sets that are complete, by their revisions. Each is said once
	// the addresses of all Nodes are trusted.
	Witnesses map[string]Witness
	// Unproven says why no node can see a witness; empty: they can.
	Unproven string
	// Peers are addresses and ports of the kubelets of a few nodes, by Node.
	Peers map[string]netip.AddrPort
	// Cut says how nodes are not reached any more that try a set, as the controller sees
	// it from its own: nodes by what it saw.
	Cut map[string][]string
	// Findings are who would be cut off by the wanted set, and what else agents see.
	peers.Findings
	// Cleared is when a node was first allowed to be armed with the wanted set, and Retried the
	// last text of RetryAnnotation then.
	Cleared time.Time
	Retried string
	// Deadline is until when a person has to confirm the wanted set, or nodes leave it a minute later; zero:
	// nobody has to.
	Deadline time.Time
	// Accepted are revisions of sets that nobody has to confirm, the last one last.
	Accepted []string
	// Confirmed and Retry are the texts of their annotations.
	Confirmed, Retry string
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

const keyWanted, keyClosed = "set", "closed"

// keys are where the ConfigMap holds what.
func (c *Clearance) keys() map[string]any {
	return map[string]any{
		keyWanted:         &c.Wanted.Revision,
		"policies":        &c.Wanted.Policies,
		"set-before":      &c.Before.Revision,
		"policies-before": &c.Before.Policies,
		"rollout":         &c.Rollout,
		"sets":            &c.Present,
		"reason":          &c.Reason,
		"canary":          &c.Canary,
		"drift":           &c.Drift,
		"held":            &c.Held,
		"conflicts":       &c.Conflicts,
		"leftovers":       &c.Leftovers,
		"nodes":           &c.Nodes,
		"endpoints":       &c.Endpoints,
		"spread":          &c.Spread,
		"witnesses":       &c.Witnesses,
		"unproven":        &c.Unproven,
		"peers":           &c.Peers,
		"cut":             &c.Cut,
		"would-cut":       &c.WouldCut,
		"would-cut-more":  &c.WouldCutMore,
		"advice":          &c.Advice,
		"cleared":         &c.Cleared,
		"retried":         &c.Retried,
		"confirm-until":   &c.Deadline,
		"accepted":        &c.Accepted,
		"paused":          &c.Paused,
		keyClosed:         &c.Closed,
		"controller":      &c.Controller,
	}
}

// Closing returns the data that a ConfigMap gets, over what it has, when the release is
// being uninstalled.
func Closing() map[string]string { return map[string]string{keyClosed: "true"} }

// read reads a text into a field.
func read(text string, field any) (err error) {
	if text == "" {
		return nil
	}
	switch v := field.(type) {
	case *string:
		*v = text
	case *[]string:
		*v = strings.Fields(text)
	case *bool:
		*v = true
	case *time.Time:
		*v, err = time.Parse(time.RFC3339Nano, text)
	case *time.Duration:
		*v, err = time.ParseDuration(text)
	default:
		err = json.Unmarshal([]byte(text), v)
	}
	return err
}

// Parse reads data and annotations of the ConfigMap. An error means that somebody has
// written to it by hand, and names the key; what it says is not to be acted on then, but
// for Opened, Open, Closed, Confirmed and Retry, which are always returned.
func Parse(data, annotations map[string]string) (c Clearance, err error) {
	for key, field := range c.keys() {
		if broken := read(data[key], field); broken != nil {
			err = fmt.Errorf("key %s of the clearance cannot be read: %w", key, broken)
		}
	}
	c.Open, c.Opened = annotations[OpenAnnotation]
	c.Confirmed, c.Retry = annotations[ConfirmAnnotation], annotations[RetryAnnotation]
	if err == nil && c.Wanted.Revision == "" && !c.Closed {
		err = fmt.Errorf("the clearance has no key %s", keyWanted)
	}
	return c, err
}

// MayCreate says why the node may not be given an endpoint; empty: it may. created is
// when the Node was.
func (c Clearance) MayCreate(node string, created time.Time) (why string) {
	if created.After(c.Nodes) {
		return "the controller has not looked at this Node yet"
	}
	why, _ = c.Hold(node)
	return why
}

// MayArm says why the node may not be armed with the set; empty: it may. version is that
// of the endpoint.
func (c Clearance) MayArm(node, set, version string) (why string) {
	switch hold, _ := c.Hold(node); {
	case hold != "":
		return hold
	case c.Wanted.Revision != set:
		return fmt.Sprintf("the controller looks after set %s, and this agent was rolled out with set %s", c.Wanted.Revision, set)
	case c.Reason != "" && c.Canary != node:
		return c.Reason
	case c.Canary != "" && c.Canary != node:
		return fmt.Sprintf("node %s goes first with set %s", c.Canary, set)
	case Newer(version, c.Endpoints):
		return "the controller has not looked at the endpoint as it is now, or the addresses of some nodes are not trusted yet"
	}
	return ""
}

// ClearsAll tells whether all nodes that are not held back may be armed with the set.
func (c Clearance) ClearsAll(set string) bool {
	return c.Wanted.Revision == set && c.Reason == "" && c.Canary == ""
}

// Hold says why this very node may get no endpoint and not be armed; empty: nothing does.
// conflict tells that somebody else's endpoint wins there.
func (c Clearance) Hold(node string) (why string, conflict bool) {
	if why = reasonFor(node, c.Conflicts); why != "" {
		return why, true
	}
	return reasonFor(node, c.Held), false
}

// reasonFor returns the first reason that names the node, or all of them; empty: none does.
func reasonFor(node string, named map[string][]string) string {
	for _, reason := range slices.Sorted(maps.Keys(named)) {
		if nodes := named[reason]; slices.Contains(nodes, node) || slices.Contains(nodes, AllNodes) {
			return reason
		}
	}
	return ""
}

// CutOff says how the node is not reached any more, while it tries a set; empty: nobody knows
// of anything.
func (c Clearance) CutOff(node string) string { return reasonFor(node, c.Cut) }

// HasLeftovers tells whether the node has any.
func (c Clearance) HasLeftovers(node string) bool {
	return slices.Contains(c.Leftovers, node) || slices.Contains(c.Leftovers, AllNodes)
}

// None is what Present holds where no policy of any set is left. That it holds nothing says
// nothing.
const None = "none"

// IsGone tells whether no policy of the set is left.
func (c Clearance) IsGone(set string) bool {
	return len(c.Present) > 0 && !slices.Contains(c.Present, set)
}

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
