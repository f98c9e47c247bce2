package clearance_test

import (
	"maps"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// full has everything that can be said.
func full() clearance.Clearance {
	return clearance.Clearance{
		Wanted:    clearance.Set{Revision: "b1b1b1b1", Policies: map[string]string{"fw-drop-b1b1b1b1": "0123456789abcdef", "fw-ssh-b1b1b1b1": "fedcba9876543210"}},
		Before:    clearance.Set{Revision: "a0a0a0a0", Policies: map[string]string{"fw-drop-a0a0a0a0": "0123456789abcdef"}},
		Rollout:   "c2c2c2c2",
		Present:   []string{"a0a0a0a0", "b1b1b1b1"},
		Reason:    "GlobalNetworkPolicies are missing: fw-ssh-b1b1b1b1",
		Canary:    "n1",
		Drift:     map[string]string{"a0a0a0a0": "GlobalNetworkPolicies are missing: fw-drop-a0a0a0a0"},
		Held:      map[string][]string{`a "quoted" reason, <with> & signs`: {"n2", "n3"}, "a policy of others": {clearance.AllNodes}},
		Conflicts: map[string][]string{"HostEndpoint n4-auto-hep": {"n4"}},
		Leftovers: []string{"n5", "n6"},
		Nodes:     noon,
		Endpoints: "4711",
		Spread:    25 * time.Second,
		Witnesses: map[string]clearance.Witness{"b1b1b1b1": {From: netip.MustParseAddr("127.66.1.2"), To: netip.MustParseAddr("127.66.3.4"), Moved: netip.MustParseAddr("127.66.3.6"), Control: netip.MustParseAddr("127.66.3.5")}},
		Unproven:  "Felix runs with eBPF",
		Peers:     map[string]netip.AddrPort{"n1": netip.MustParseAddrPort("192.0.2.1:10250")},
		Cut:       map[string][]string{"its kubelet does not answer": {"n1"}},
		Findings: peers.Findings{
			WouldCut:     []peers.Cut{{Node: "n1", Port: 9100, From: netip.MustParseAddr("10.4.0.9"), Connections: 3}},
			WouldCutMore: 7,
			Advice:       []peers.Advice{{Text: "IPVS", Nodes: []string{"n1"}, More: 2}},
		},
		Cleared:    noon,
		Retried:    "Sat Nov 28 12:00:00 UTC 2026",
		Deadline:   noon.Add(10 * time.Minute),
		Accepted:   []string{"f9f9f9f9", "a0a0a0a0"},
		Paused:     true,
		Closed:     true,
		Controller: noon.Add(time.Nanosecond),
	}
}

func TestWhatTheControllerSaysIsWhatAgentsRead(t *testing.T) {
	require.Equal(t, []string{"Confirmed", "Retry", "Open", "Opened"}, zeroFieldsOf(full()), "all of it is said, but what only an annotation says")
	shifted := full()
	shifted.Nodes, shifted.Controller = noon.In(time.FixedZone("elsewhere", 3600)), full().Controller.In(time.FixedZone("elsewhere", -3600))
	for name, said := range map[string]clearance.Clearance{
		"everything":                   full(),
		"in another time zone":         shifted,
		"a set and nothing else":       {Wanted: clearance.Set{Revision: "b1b1b1b1"}},
		"a reason of several lines":    {Wanted: clearance.Set{Revision: "b1b1b1b1"}, Reason: "one\ntwo"},
		"being uninstalled, and a set": {Wanted: clearance.Set{Revision: "b1b1b1b1"}, Closed: true},
	} {
		t.Run(name, func(t *testing.T) {
			want := said
			want.Nodes, want.Controller = said.Nodes.UTC(), said.Controller.UTC()
			data := said.Data()
			read, err := clearance.Parse(data, nil)
			require.NoError(t, err)
			assert.Equal(t, want, read)
			assert.Equal(t, data, read.Data(), "and says the same again")
		})
	}
}

// zeroFieldsOf returns the names of fields that have nothing in them.
func zeroFieldsOf(c clearance.Clearance) (names []string) {
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			names = append(names, v.Type().Field(i).Name)
		}
	}
	return names
}

func TestPersonSeesOneFactInEachKey(t *testing.T) {
	assert.Equal(t, map[string]string{
		"set":             "b1b1b1b1",
		"policies":        `{"fw-drop-b1b1b1b1":"0123456789abcdef","fw-ssh-b1b1b1b1":"fedcba9876543210"}`,
		"set-before":      "a0a0a0a0",
		"policies-before": `{"fw-drop-a0a0a0a0":"0123456789abcdef"}`,
		"rollout":         "c2c2c2c2",
		"spread":          "25s",
		"witnesses":       `{"b1b1b1b1":{"from":"127.66.1.2","to":"127.66.3.4","moved":"127.66.3.6","control":"127.66.3.5"}}`,
		"would-cut":       `[{"node":"n1","port":9100,"from":"10.4.0.9","connections":3}]`,
		"would-cut-more":  "7",
		"advice":          `[{"text":"IPVS","nodes":["n1"],"more":2}]`,
		"unproven":        "Felix runs with eBPF",
		"peers":           `{"n1":"192.0.2.1:10250"}`,
		"cut":             `{"its kubelet does not answer":["n1"]}`,
		"cleared":         "2026-11-28T12:00:00Z",
		"retried":         "Sat Nov 28 12:00:00 UTC 2026",
		"confirm-until":   "2026-11-28T12:10:00Z",
		"accepted":        "f9f9f9f9 a0a0a0a0",
		"sets":            "a0a0a0a0 b1b1b1b1",
		"reason":          "GlobalNetworkPolicies are missing: fw-ssh-b1b1b1b1",
		"canary":          "n1",
		"drift":           `{"a0a0a0a0":"GlobalNetworkPolicies are missing: fw-drop-a0a0a0a0"}`,
		"held":            `{"a \"quoted\" reason, \u003cwith\u003e \u0026 signs":["n2","n3"],"a policy of others":["*"]}`,
		"conflicts":       `{"HostEndpoint n4-auto-hep":["n4"]}`,
		"leftovers":       "n5 n6",
		"nodes":           "2026-11-28T12:00:00Z",
		"endpoints":       "4711",
		"paused":          "true",
		"closed":          "true",
		"controller":      "2026-11-28T12:00:00.000000001Z",
	}, full().Data())
	assert.Empty(t, clearance.Clearance{}.Data(), "what there is nothing to say of has no key")
}

func TestBrokenClearanceIsRefusedByItsKey(t *testing.T) {
	for key, text := range map[string]string{
		"policies": "fw-drop", "policies-before": `["fw-drop"]`, "drift": `{"a":1}`, "held": `{"reason":"n1"}`, "conflicts": `{`,
		"nodes": "yesterday", "controller": "1764331200",
	} {
		t.Run(key, func(t *testing.T) {
			data := clearance.Clearance{Wanted: clearance.Set{Revision: "b1b1b1b1"}}.Data()
			data[key] = text
			_, err := clearance.Parse(data, nil)
			assert.ErrorContains(t, err, "key "+key+" of the clearance cannot be read: ")
		})
	}
	for name, data := range map[string]map[string]string{"no data": nil, "no set": {"reason": "", "policies": "{}"}, "an empty set": {"set": ""}} {
		_, err := clearance.Parse(data, nil)
		assert.EqualError(t, err, "the clearance has no key set", name)
	}
}

func TestWayOutAndEndAreReadWhateverElseIsBroken(t *testing.T) {
	for name, broken := range map[string]map[string]string{"nothing": nil, "a broken key": {"set": "b1b1b1b1", "held": "{"}, "a broken time": {"set": "b1b1b1b1", "nodes": "x"}} {
		t.Run(name, func(t *testing.T) {
			c, err := clearance.Parse(broken, map[string]string{"host-firewall.io/open": "the admins are out", "other": "x"})
			assert.Error(t, err)
			assert.True(t, c.Opened)
			assert.Equal(t, "the admins are out", c.Open)

			closed := maps.Clone(broken)
			if closed == nil {
				closed = map[string]string{}
			}
			maps.Copy(closed, clearance.Closing())
			c, _ = clearance.Parse(closed, nil)
			assert.True(t, c.Closed)
			assert.False(t, c.Opened)
		})
	}
	c, err := clearance.Parse(map[string]string{"set": "b1b1b1b1"}, map[string]string{"host-firewall.io/open": ""})
	require.NoError(t, err)
	assert.True(t, c.Opened, "without a reason, too")
	assert.Empty(t, c.Open)

	c, err = clearance.Parse(clearance.Closing(), nil)
	require.NoError(t, err, "a ConfigMap that only the uninstall has written says enough")
	assert.True(t, c.Closed)
}

func TestClosingLeavesTheRestAsItIs(t *testing.T) {
	data := full().Data()
	delete(data, "closed")
	maps.Copy(data, clearance.Closing())
	c, err := clearance.Parse(data, nil)
	require.NoError(t, err)
	assert.Equal(t, full(), c)
}

// cleared says that all may be armed with set b1.
func cleared(change func(*clearance.Clearance)) clearance.Clearance {
	c := clearance.Clearance{Wanted: clearance.Set{Revision: "b1"}, Present: []string{"b1"}, Nodes: noon, Endpoints: "100"}
	if change != nil {
		change(&c)
	}
	return c
}

func TestNodeGetsAnEndpointOnceTheControllerHasLookedAtIt(t *testing.T) {
	hold := func(c *clearance.Clearance) { c.Held = map[string][]string{"a policy of others": {"n1"}} }
	for name, test := range map[string]struct {
		change  func(*clearance.Clearance)
		created time.Time
		want    string
	}{
		"long known":       {nil, noon.Add(-time.Hour), ""},
		"the newest":       {nil, noon, ""},
		"newer":            {nil, noon.Add(time.Second), "the controller has not looked at this Node yet"},
		"no mark":          {func(c *clearance.Clearance) { c.Nodes = time.Time{} }, noon, "the controller has not looked at this Node yet"},
		"held":             {hold, noon, "a policy of others"},
		"newer, and held":  {hold, noon.Add(time.Second), "the controller has not looked at this Node yet"},
		"all are held":     {func(c *clearance.Clearance) { c.Held = map[string][]string{"x": {"*"}} }, noon, "x"},
		"another is held":  {func(c *clearance.Clearance) { c.Held = map[string][]string{"x": {"n2", "n11"}} }, noon, ""},
		"a conflict":       {func(c *clearance.Clearance) { c.Conflicts = map[string][]string{"y": {"n1"}} }, noon, "y"},
		"not to be armed":  {func(c *clearance.Clearance) { c.Reason = "policies are missing" }, noon, ""},
		"another is first": {func(c *clearance.Clearance) { c.Canary = "n2" }, noon, ""},
		"another set":      {func(c *clearance.Clearance) { c.Wanted.Revision = "c2" }, noon, ""},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, cleared(test.change).MayCreate("n1", test.created))
		})
	}
}

func TestNodeIsArmedOnlyWithTheSetThatIsCleared(t *testing.T) {
	const untrusted = "the controller has not looked at the endpoint as it is now, or the addresses of some nodes are not trusted yet"
	for name, test := range map[string]struct {
		change  func(*clearance.Clearance)
		set     string
		version string
		want    string
	}{
		"cleared":                       {nil, "b1", "99", ""},
		"the last endpoint looked at":   {nil, "b1", "100", ""},
		"an endpoint not looked at":     {nil, "b1", "101", untrusted},
		"no endpoint looked at":         {func(c *clearance.Clearance) { c.Endpoints = "" }, "b1", "1", untrusted},
		"an agent of another rollout":   {nil, "c2", "99", "the controller looks after set b1, and this agent was rolled out with set c2"},
		"a controller of another":       {func(c *clearance.Clearance) { c.Wanted.Revision = "c2" }, "b1", "99", "the controller looks after set c2, and this agent was rolled out with set b1"},
		"the set before":                {func(c *clearance.Clearance) { c.Before.Revision = "a0" }, "a0", "99", "the controller looks after set b1, and this agent was rolled out with set a0"},
		"not cleared":                   {func(c *clearance.Clearance) { c.Reason = "policies are missing" }, "b1", "99", "policies are missing"},
		"not cleared for others":        {func(c *clearance.Clearance) { c.Reason, c.Canary = "n1 is silent", "n1" }, "b1", "99", ""},
		"not cleared for this one":      {func(c *clearance.Clearance) { c.Reason, c.Canary = "n2 is silent", "n2" }, "b1", "99", "n2 is silent"},
		"it goes first":                 {func(c *clearance.Clearance) { c.Canary = "n1" }, "b1", "99", ""},
		"another goes first":            {func(c *clearance.Clearance) { c.Canary = "n2" }, "b1", "99", "node n2 goes first with set b1"},
		"held":                          {func(c *clearance.Clearance) { c.Held = map[string][]string{"x": {"n0", "n1"}} }, "b1", "99", "x"},
		"held, and it goes first":       {func(c *clearance.Clearance) { c.Held, c.Canary = map[string][]string{"x": {"*"}}, "n1" }, "b1", "99", "x"},
		"a conflict":                    {func(c *clearance.Clearance) { c.Conflicts = map[string][]string{"y": {"n1"}} }, "b1", "99", "y"},
		"another is held":               {func(c *clearance.Clearance) { c.Held = map[string][]string{"x": {"n2"}} }, "b1", "99", ""},
		"a policy of it has drifted":    {func(c *clearance.Clearance) { c.Drift = map[string]string{"a0": "changed"} }, "b1", "99", ""},
		"a version that is no number":   {nil, "b1", "x", ""},
		"a Node that is not looked at":  {func(c *clearance.Clearance) { c.Nodes = time.Time{} }, "b1", "99", ""},
		"what holds comes before a set": {func(c *clearance.Clearance) { c.Held = map[string][]string{"x": {"n1"}} }, "c2", "99", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, cleared(test.change).MayArm("n1", test.set, test.version))
		})
	}
}

func TestHoldNamesTheFirstReasonAndConflictsFirst(t *testing.T) {
	c := clearance.Clearance{
		Held:      map[string][]string{"b": {"n1", "n2"}, "a": {"n2"}, "c": {clearance.AllNodes}},
		Conflicts: map[string][]string{"z": {"n3"}, "y": {"n3", "n4"}},
	}
	for node, want := range map[string]string{"n1": "b", "n2": "a", "n3": "y", "n4": "y", "n5": "c"} {
		why, conflict := c.Hold(node)
		assert.Equal(t, want, why, node)
		assert.Equal(t, node == "n3" || node == "n4", conflict, node)
	}
	why, conflict := clearance.Clearance{}.Hold("n1")
	assert.Empty(t, why)
	assert.False(t, conflict)
}

func TestSetIsGoneWithItsLastPolicy(t *testing.T) {
	c := clearance.Clearance{Present: []string{"a0", "b1"}}
	assert.False(t, c.IsGone("a0"))
	assert.False(t, c.IsGone("b1"))
	assert.True(t, c.IsGone("c2"))
	assert.True(t, clearance.Clearance{Present: []string{clearance.None}}.IsGone("a0"))
	assert.False(t, clearance.Clearance{}.IsGone("a0"), "a ConfigMap that does not say so")
}

func TestLeftoversAreOfSingleNodesOrOfAll(t *testing.T) {
	c := clearance.Clearance{Leftovers: []string{"n1", "n11"}}
	assert.True(t, c.HasLeftovers("n1"))
	assert.False(t, c.HasLeftovers("n"))
	assert.False(t, clearance.Clearance{}.HasLeftovers("n1"))
	assert.True(t, clearance.Clearance{Leftovers: []string{clearance.AllNodes}}.HasLeftovers("n1"))
}

func TestVersionsAreComparedAsNumbers(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"2", "1", true}, {"1", "2", false}, {"1", "1", false}, {"10", "9", true}, {"9", "10", false},
		{"18446744073709551615", "18446744073709551614", true},
		{"1", "", true}, {"0", "", true}, {"", "", false}, {"", "1", false},
		{"x", "1", false}, {"1", "x", false}, {"x", "", false}, {"-1", "", false}, {"18446744073709551616", "1", false},
	} {
		assert.Equal(t, test.want, clearance.Newer(test.a, test.b), "%q %q", test.a, test.b)
	}
}
