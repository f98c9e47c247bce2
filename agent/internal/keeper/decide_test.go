package keeper

import (
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// unsaid is that of sayings which is not known.
const unsaid = "nothing"

// sayings are what a controller may say, by what that means for node n1 and set r2.
func sayings() map[string]*clearance.Clearance {
	all := map[string]*clearance.Clearance{unsaid: {}}
	for name, alter := range map[string]func(*clearance.Clearance){
		"cleared":              func(*clearance.Clearance) {},
		"canary":               func(c *clearance.Clearance) { c.Canary = "n1" },
		"another goes first":   func(c *clearance.Clearance) { c.Canary = "n0" },
		"incomplete":           func(c *clearance.Clearance) { c.Reason = "fw-ssh-r2 is missing" },
		"another set":          func(c *clearance.Clearance) { c.Wanted.Revision = "r3" },
		"held":                 func(c *clearance.Clearance) { c.Held = map[string][]string{"x": {"n1"}} },
		"another node is held": func(c *clearance.Clearance) { c.Held = map[string][]string{"x": {"n0"}} },
		"conflict":             func(c *clearance.Clearance) { c.Conflicts = map[string][]string{"x": {"n1"}} },
		"not trusted yet":      func(c *clearance.Clearance) { c.Endpoints = "0" },
		"Node not seen":        func(c *clearance.Clearance) { c.Nodes = time.Unix(1, 0) },
		"paused":               func(c *clearance.Clearance) { c.Paused = true },
		"open":                 func(c *clearance.Clearance) { c.Opened = true },
		"closed":               func(c *clearance.Clearance) { c.Closed = true },
		"gone":                 func(c *clearance.Clearance) { c.Present = []string{clearance.None} },
		"drift":                func(c *clearance.Clearance) { c.Drift = map[string]string{"r2": "x"} },
	} {
		all[name] = cleared()
		alter(all[name])
	}
	return all
}

// Whatever is known and remembered, a node is newly armed only where the controller allows it.
func TestNothingIsArmedWithoutClearanceWhateverElseHolds(t *testing.T) {
	allow := map[string]bool{"cleared": true, "canary": true, "another node is held": true, "gone": true}
	foreign := testEndpoint("")
	delete(foreign.Labels, endpoint.ReleaseLabel)
	foreign.Annotations = nil
	armings := 0
	for said, says := range sayings() {
		for _, problem := range []string{"", "not read yet"} {
			for _, off := range []bool{false, true} {
				for _, node := range []*corev1.Node{nil, testNode("n1")} {
					for _, hep := range []*v3.HostEndpoint{nil, testEndpoint(""), testEndpoint("r1"), foreign} {
						config := testConfig()
						config.Off = off
						f := facts{problem: problem, node: node, said: says, unsaid: map[string]string{unsaid: "nothing is said"}[said], interfaces: []endpoint.Interface{{Name: "*"}}}
						if hep != nil {
							f.endpoints = map[string]*v3.HostEndpoint{"n1": hep}
						}
						d, m := config.decide(f, memory{})
						writes, _, _ := config.plan(f, m, d)
						if len(writes) == 0 || endpoint.SetOf(writes[0].desired) != "r2" {
							continue
						}
						armings++
						assert.True(t, allow[said] && problem == "" && !off && node != nil && hep != nil && hep != foreign,
							"armed with %q, problem %q, off %v, node %v, endpoint %v", said, problem, off, node != nil, hep)
					}
				}
			}
		}
	}
	assert.Equal(t, 2*len(allow)-1, armings, "an endpoint whose set is gone is disarmed first")
}

// Whatever is known, a node that is armed stays so unless a person, the mode or the loss of all its rules says otherwise.
func TestArmedNodeIsOpenedByNothingElse(t *testing.T) {
	opens := map[string]bool{"open": true, "closed": true, "gone": true}
	for said, says := range sayings() {
		for _, set := range []string{"r1", "r2"} {
			hep := testEndpoint(set)
			f := facts{node: testNode("n1"), said: says, unsaid: map[string]string{unsaid: "nothing is said"}[said], interfaces: []endpoint.Interface{{Name: "*"}}, endpoints: map[string]*v3.HostEndpoint{"n1": hep}}
			config := testConfig()
			d, m := config.decide(f, memory{})
			writes, surplus, _ := config.plan(f, m, d)
			open := len(surplus) > 0 || len(writes) > 0 && endpoint.SetOf(writes[0].desired) == ""
			assert.Equal(t, opens[said], open, "%s, armed with %s", said, set)
		}
	}
}

// An endpoint of one interface beats the one of all interfaces there.
func TestEndpointsOfSeveralInterfacesAreArmedAsOne(t *testing.T) {
	config := testConfig()
	config.Patterns = []string{"*", "eth*"}
	hep := func(iface, set string) *v3.HostEndpoint {
		hep, _ := config.shape().Desired(testNode("n1"), endpoint.Interface{Name: iface}, nil, set)
		hep.ResourceVersion = "1"
		return hep
	}
	waits := func(c *clearance.Clearance) { c.Reason = "fw-ssh-r2 is missing" }
	for name, test := range map[string]struct {
		off       bool
		alter     func(*clearance.Clearance)
		want      []string
		present   []string
		have      []*v3.HostEndpoint
		sets      map[string]string // what is written, and how it is armed
		surplus   []string
		wantState State
	}{
		"both are armed on an armed node": {
			want: []string{"*", "eth0"}, have: []*v3.HostEndpoint{hep("*", "r2")}, sets: map[string]string{"n1": "r2", "n1-eth0": "r2"}, wantState: Armed,
		},
		"also where the set is not complete any more": {
			alter: waits, want: []string{"*", "eth0"}, have: []*v3.HostEndpoint{hep("*", "r2")}, sets: map[string]string{"n1": "r2", "n1-eth0": "r2"}, wantState: Armed,
		},
		"and with the older set as long as that is the one": {
			alter: waits, want: []string{"*", "eth0"}, have: []*v3.HostEndpoint{hep("*", "r1")}, sets: map[string]string{"n1": "r1", "n1-eth0": "r1"}, wantState: Waiting,
		},
		"an interface that is gone": {
			alter: waits, want: []string{"eth0"}, present: []string{"eth0", "lo"}, have: []*v3.HostEndpoint{hep("eth0", "r2"), hep("eth1", "r2")},
			sets: map[string]string{"n1-eth0": "r2"}, surplus: []string{"n1-eth1"}, wantState: Armed,
		},
		"the last interface is gone": {
			present: []string{"lo"}, have: []*v3.HostEndpoint{hep("eth1", "r2")}, surplus: []string{"n1-eth1"}, wantState: Waiting,
		},
		"one that is not selected any more": {
			want: []string{"eth0"}, present: []string{"eth0", "eth1"}, have: []*v3.HostEndpoint{hep("eth0", "r2"), hep("eth1", "r2")},
			sets: map[string]string{"n1-eth0": "r2"}, surplus: []string{"n1-eth1"}, wantState: Armed,
		},
		"the successor of one that is not selected any more is armed as that is": {
			alter: waits, want: []string{"eth0"}, present: []string{"eth0", "eth1"}, have: []*v3.HostEndpoint{hep("eth0", ""), hep("eth1", "r1")},
			sets: map[string]string{"n1-eth0": "r1"}, wantState: Waiting,
		},
		"and is created so": {
			alter: waits, want: []string{"eth0"}, present: []string{"eth0"}, have: []*v3.HostEndpoint{hep("*", "r1")},
			sets: map[string]string{"n1-eth0": "r1"}, wantState: Waiting,
		},
		"nothing is taken away while the interfaces are not known": {
			have: []*v3.HostEndpoint{hep("eth0", "r2"), hep("eth1", "")}, wantState: Waiting,
		},
		"off": {
			off: true, want: []string{"*", "eth0"}, present: []string{"eth0"}, have: []*v3.HostEndpoint{hep("*", "r2"), hep("eth0", "r2"), hep("eth1", "r2")},
			sets: map[string]string{"n1": "", "n1-eth0": ""}, surplus: []string{"n1-eth1"}, wantState: Off,
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := config
			config.Off = test.off
			f := facts{node: testNode("n1"), present: test.present, said: cleared(), endpoints: map[string]*v3.HostEndpoint{}}
			if test.alter != nil {
				test.alter(f.said)
			}
			for _, iface := range test.want {
				f.interfaces = append(f.interfaces, endpoint.Interface{Name: iface})
			}
			for _, hep := range test.have {
				f.endpoints[hep.Name] = hep
			}
			d, m := config.decide(f, memory{})
			assert.Equal(t, test.wantState, d.state, d.reason)
			writes, surplus, _ := config.plan(f, m, d)
			var sets map[string]string
			for _, w := range writes {
				if sets == nil {
					sets = map[string]string{}
				}
				sets[w.desired.Name] = endpoint.SetOf(w.desired)
			}
			var gone []string
			for _, hep := range surplus {
				gone = append(gone, hep.Name)
			}
			assert.Equal(t, test.sets, sets)
			assert.Equal(t, test.surplus, gone)
		})
	}
}

func TestEndpointThatLostItsReleaseIsOursWhileNobodyHasClaimedIt(t *testing.T) {
	m := memory{ours: map[string]types.UID{"n1": "hep-uid"}}
	lost := testEndpoint("r2")
	delete(lost.Labels, endpoint.ReleaseLabel)
	assert.True(t, testConfig().owns(lost, m))
	assert.True(t, testConfig().owns(lost, memory{}), "the note tells as much")
	noted := lost.Annotations
	lost.Annotations = nil
	assert.True(t, testConfig().owns(lost, m))
	assert.False(t, testConfig().owns(lost, memory{}))
	lost.Annotations = noted
	lost.Labels[endpoint.ReleaseLabel] = "other"
	assert.False(t, testConfig().owns(lost, m))
}
