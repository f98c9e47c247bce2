package keeper

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

func TestEveryFaultOfTheAPIServerIsSurvivedArmedAndToldOnce(t *testing.T) {
	busy := apierrors.NewGenericServerResponse(http.StatusTooManyRequests, "patch", heps, "n1", "busy", 0, true)
	for name, err := range map[string]error{
		"403":                         apierrors.NewForbidden(heps, "n1", errors.New("no right")),
		"404, the CRD is missing":     apierrors.NewNotFound(heps, "n1"),
		"409 that does not end":       apierrors.NewConflict(heps, "n1", errors.New("old")),
		"410":                         apierrors.NewResourceExpired("old"),
		"429":                         busy,
		"500":                         apierrors.NewInternalError(errors.New("broken")),
		"503":                         apierrors.NewServiceUnavailable("starting"),
		"504":                         apierrors.NewTimeoutError("slow", 0),
		"nobody there":                errors.New("connection refused"),
		"the connection says nothing": errors.New("context deadline exceeded"),
	} {
		t.Run(name, func(t *testing.T) {
			play(t, withArmed, func(s *scene) {
				s.spoil("n1", func(hep *v3.HostEndpoint) {
					s.fail = failing("patch", err)
					hep.Spec.Profiles = nil
				})
				s.pass(10 * time.Minute)
				requests := len(s.take())
				assert.LessOrEqual(t, requests, 10*60/24+16, "no hot loop")
				assert.GreaterOrEqual(t, requests, 10*60/36, "it never gives up")
				assert.True(t, s.isArmed())
				status := s.keeper.Status()
				assert.Equal(t, Armed, status.State)
				assert.Equal(t, "r2", status.Set)
				assert.False(t, status.Ready)
				assert.Contains(t, status.Reason, err.Error())
				assert.Equal(t, 1, s.log.count("node is Armed\" ready=false"), "told once")

				s.change(func() { s.fail = nil })
				s.pass(37 * time.Second)
				assert.True(t, s.keeper.Status().Ready)
				assert.Equal(t, []string{"patch armed"}, s.take())
				assert.Equal(t, time.Now().Truncate(time.Minute), s.keeper.Status().Success.Truncate(time.Minute))
			})
		})
	}
}

func TestBusyAPIServerIsLeftAloneAsLongAsItSays(t *testing.T) {
	play(t, func(c *cluster) {
		withClearance(c)
		busy := apierrors.NewGenericServerResponse(http.StatusTooManyRequests, "create", heps, "n1", "busy", 300, true)
		c.fail = failing("create", busy)
	}, func(s *scene) {
		assert.Equal(t, []string{"create"}, s.take())
		for range 10 {
			s.change(func() {})
			s.pass(29 * time.Second)
		}
		assert.Empty(t, s.take(), "not even when something happens")
		s.change(func() { s.fail = nil })
		s.pass(time.Minute + 11*time.Second)
		assert.True(t, s.isArmed())
	})
}

func TestAPIServerThatIsAwayMakesTheNodeNotReadyInAWhile(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.change(func() { s.trouble, s.since = "cannot watch Node n1: connection refused", time.Now() })
		s.pass(troubleAfter - 1)
		assert.True(t, s.keeper.Status().Ready, "one that restarts is back by then")
		s.pass(time.Second)
		status := s.keeper.Status()
		assert.Equal(t, Armed, status.State)
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "cannot watch Node n1")
		s.pass(time.Hour)
		assert.Equal(t, 1, s.log.count("cannot watch"))
		assert.True(t, s.isArmed())
		s.change(func() { s.trouble = "" })
		s.pass(0)
		assert.True(t, s.keeper.Status().Ready)
		assert.Empty(t, s.take())
	})
}

func TestNothingIsWrittenWhileTheDatastoreIsNotReady(t *testing.T) {
	config := testConfig()
	config.Failsafe = sshOnly()
	playWith(t, config, withArmed, func(s *scene) {
		s.take()
		s.pass(narrowWithin + felixSettles)
		s.take()
		s.say(func(c *clearance.Clearance) { c.Paused = true })
		s.change(func() {
			s.put(func() *v3.HostEndpoint {
				spoilt := s.stored["n1"].DeepCopy()
				spoilt.Spec.Profiles = nil
				return spoilt
			}())
			delete(s.felix, "node.n1")
		})
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		status := s.keeper.Status()
		assert.Equal(t, Armed, status.State)
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "datastore is not ready")
		assert.Equal(t, 1, s.log.count("datastore is not ready"))
		s.change(func() { s.remove("n1") })
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		s.say(func(c *clearance.Clearance) { c.Paused = false })
		s.pass(felixSettles)
		assert.Equal(t, []string{"create armed", "create felix"}, s.take())
	})
}

// Somebody who takes the label of the set off again and again, at once.
func TestFightOverAFieldSlowsDownAndIsToldOnce(t *testing.T) {
	meter := &countingMeter{}
	config := testConfig()
	config.Meter = meter
	playWith(t, config, withArmed, func(s *scene) {
		s.take()
		end := time.Now().Add(30 * time.Minute)
		for time.Now().Before(end) {
			if s.isArmed() {
				s.spoil("n1", func(hep *v3.HostEndpoint) { delete(hep.Labels, endpoint.SetLabel) })
			}
			s.pass(time.Second)
		}
		repairs := len(s.take())
		assert.GreaterOrEqual(t, repairs, 50, "it never gives up")
		assert.LessOrEqual(t, repairs, 80)
		assert.Equal(t, 1, meter.get("contested"))
		assert.Equal(t, repairs, meter.get("changed"))
		assert.Equal(t, 1, s.log.count("keeps changing"), "told once")
		assert.False(t, s.keeper.Status().Ready)
		assert.Contains(t, s.keeper.Status().Reason, "metadata.labels.host-firewall.io/set")

		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "a deletion is no fight over a field")
		s.pass(time.Hour)
		s.spoil("n1", func(hep *v3.HostEndpoint) { delete(hep.Labels, endpoint.SetLabel) })
		s.pass(0)
		assert.Equal(t, []string{"patch armed"}, s.take(), "a fight that is over is forgotten")
	})
}

func TestDeletionsInARowAreEachRepairedAtOnce(t *testing.T) {
	meter := &countingMeter{}
	config := testConfig()
	config.Meter = meter
	playWith(t, config, withArmed, func(s *scene) {
		s.take()
		for range 200 {
			s.change(func() { s.remove("n1") })
			s.pass(0)
			require.Equal(t, []string{"create armed"}, s.take())
		}
		assert.Equal(t, 200, meter.get("deleted"))
		s.pass(time.Hour)
		assert.Equal(t, []string{"Repaired"}, s.kinds(), "put together")
		assert.EqualValues(t, 200, s.events[0].Count)
	})
}

func TestOffDisarmsInOnePatchAndKeepsTheEndpoint(t *testing.T) {
	config := testConfig()
	config.Off = true
	playWith(t, config, withArmed, func(s *scene) {
		s.pass(time.Hour)
		assert.Equal(t, []string{"patch unarmed"}, s.take())
		status := s.keeper.Status()
		assert.Equal(t, Off, status.State)
		assert.True(t, status.Ready)
		assert.Empty(t, status.Set)
		assert.Equal(t, "Off", endpoint.NoteOf(s.stored["n1"]).State)
		assert.Equal(t, []string{"Disarmed"}, s.kinds())
		s.change(func() { s.remove("n1") })
		s.pass(time.Minute)
		assert.Equal(t, []string{"create unarmed"}, s.take())
	})
}

func TestFailsafeIsNotNarrowedTwiceBecauseTheCacheIsBehind(t *testing.T) {
	config := testConfig()
	config.Failsafe = sshOnly()
	playWith(t, config, func(c *cluster) { withArmed(c); c.felixLag = time.Second }, func(s *scene) {
		for range 60 {
			s.change(func() {})
			s.pass(time.Second / 10)
		}
		s.pass(time.Minute)
		assert.Equal(t, []string{"create felix"}, s.take())
		s.change(func() { delete(s.felix, "node.n1") })
		s.pass(cacheDelay + time.Second)
		assert.Equal(t, []string{"create felix"}, s.take(), "but when it is gone again")
	})
}

func TestWhatTheAPIServerFillsInIsNotedAtOnceAndDefaultIsFollowed(t *testing.T) {
	const mode = "modeOfALaterCalico"
	config := testConfig()
	config.Failsafe = sshOnly()
	def := func(value string) *failsafe.Configuration {
		return &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: failsafe.ForAll}, Spec: map[string]any{mode: value}}
	}
	playWith(t, config, func(c *cluster) {
		withArmed(c)
		c.presets = map[string]any{mode: "Auto"}
		c.putFelix(def("Enabled"))
		c.felixLag = time.Second
	}, func(s *scene) {
		s.pass(time.Minute)
		assert.Equal(t, []string{"create felix", "patch felix"}, s.take())
		assert.Equal(t, "Enabled", s.felix["node.n1"].Spec[mode])
		s.change(func() { s.putFelix(def("Disabled")) })
		s.pass(felixSettles + 2*time.Second)
		assert.Equal(t, []string{"patch felix"}, s.take())
		assert.Equal(t, "Disabled", s.felix["node.n1"].Spec[mode])
		s.change(func() { delete(s.felix, "node.n1"); delete(s.felixNow, "node.n1") })
		s.pass(felixSettles + time.Second)
		assert.Equal(t, []string{"create felix", "patch felix"}, s.take(), "gone is gone, also after a change")
	})
}

func TestFailsafeThatCannotBeNarrowedMakesTheNodeNotReadyAndDelaysNoRepair(t *testing.T) {
	config := testConfig()
	config.Failsafe = sshOnly()
	playWith(t, config, func(c *cluster) {
		withArmed(c)
		c.fail = failing("create felix", apierrors.NewForbidden(heps, "node.n1", nil))
	}, func(s *scene) {
		s.pass(time.Hour)
		requests := len(s.take())
		assert.LessOrEqual(t, requests, 3600/24+20, "no hot loop")
		status := s.keeper.Status()
		assert.Equal(t, Armed, status.State)
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "failsafe")
		assert.Equal(t, 1, s.log.count("forbidden"))
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, "create armed", s.take()[0])
	})
}

func TestAdoptedEndpointIsTakenOverInOnePatch(t *testing.T) {
	config := testConfig()
	config.Adopt = true
	playWith(t, config, func(c *cluster) {
		withClearance(c)
		theirs := testEndpoint("")
		theirs.Labels, theirs.Annotations = map[string]string{"theirs": "label"}, nil
		c.put(theirs)
	}, func(s *scene) {
		s.pass(time.Second)
		assert.Equal(t, []string{"patch unarmed", "patch armed"}, s.take())
		assert.Equal(t, "label", s.stored["n1"].Labels["theirs"])
	})
}

func TestNoteIsWrittenWithOtherChangesOrSoon(t *testing.T) {
	notes := func(s *scene) (n int) {
		return read(s.cluster, func() int {
			for _, r := range s.requests {
				if strings.HasSuffix(r, " note") {
					n++
				}
			}
			return n
		})
	}
	play(t, withClearance, func(s *scene) {
		s.pass(time.Second)
		note := endpoint.NoteOf(s.stored["n1"])
		assert.Equal(t, "Armed", note.State)
		assert.Equal(t, "armed with policy set r2", note.Reason)
		assert.Equal(t, "r2", note.Wanted)
		assert.Zero(t, notes(s))

		lost := func(c *clearance.Clearance) { c.Drift = map[string]string{"r2": "fw-ssh-r2 is missing"} }
		s.say(lost)
		s.pass(noteDelay - 1)
		assert.Zero(t, notes(s))
		s.say(func(c *clearance.Clearance) { c.Drift = nil })
		s.pass(time.Hour)
		assert.Zero(t, notes(s), "what is over soon is not worth a write")
		s.say(lost)
		s.pass(noteDelay + noteSpread)
		assert.Equal(t, 1, notes(s))
		assert.Contains(t, endpoint.NoteOf(s.stored["n1"]).Reason, "stays armed, but")
		assert.Equal(t, note.Since, endpoint.NoteOf(s.stored["n1"]).Since, "it is as armed as it was")
		s.say(func(c *clearance.Clearance) { c.Drift = nil })
		s.pass(noteDelay + noteSpread)
		assert.Equal(t, "armed with policy set r2", endpoint.NoteOf(s.stored["n1"]).Reason, "nor does it stay when it is not true any more")
		s.pass(24 * time.Hour)
		assert.Equal(t, 2, notes(s), "never only for the time")
	})
}

func TestNotesOfThousandsAreSpreadAndOneThatKeepsChangingIsWrittenSeldom(t *testing.T) {
	lost := func(c *clearance.Clearance) { c.Drift = map[string]string{"r2": "fw-ssh-r2 is missing"} }
	written := func(s *scene) bool { return strings.Contains(endpoint.NoteOf(s.stored["n1"]).Reason, "fw-ssh-r2") }
	var after []time.Duration
	for range 20 {
		play(t, withClearance, func(s *scene) {
			s.pass(time.Minute)
			s.say(lost)
			begin := time.Now()
			for !read(s.cluster, func() bool { return written(s) }) {
				require.Less(t, time.Since(begin), noteDelay+noteSpread+time.Second)
				s.pass(100 * time.Millisecond)
			}
			after = append(after, time.Since(begin))
		})
	}
	slices.Sort(after)
	assert.Greater(t, after[19]-after[0], noteSpread/2, "each has a moment of its own")
	assert.GreaterOrEqual(t, after[0], noteDelay)

	play(t, withClearance, func(s *scene) {
		s.pass(time.Minute)
		s.take()
		for i := range 3600 {
			s.say(func(c *clearance.Clearance) { c.Drift = map[string]string{"r2": fmt.Sprint("missing is policy ", i)} })
			s.pass(time.Second)
		}
		s.pass(time.Minute)
		assert.Less(t, read(s.cluster, func() int { return len(s.requests) }), 40, "in an hour")
		s.pass(time.Hour)
		read(s.cluster, func() bool { s.requests = nil; return true })
		s.say(lost)
		s.pass(noteDelay + noteSpread)
		assert.True(t, written(s), "it is soon again after a while")
	})
}

// After a rollback the note is of the agent that could not move the node.
func TestNoteOfTheAgentBeforeIsMendedSoon(t *testing.T) {
	play(t, func(c *cluster) {
		withClearance(c)
		hep := testEndpoint("r2")
		endpoint.SetNote(hep, nil, endpoint.Note{State: "Waiting", Reason: "stays armed with set r2, not with r3", Wanted: "r3", Since: time.Now()})
		c.put(hep)
	}, func(s *scene) {
		s.pass(noteDelay + noteSpread)
		note := endpoint.NoteOf(s.stored["n1"])
		assert.Equal(t, "Armed", note.State)
		assert.Equal(t, "armed with policy set r2", note.Reason)
	})
}

// The controller looks at each version of an endpoint before that may be armed.
func TestNodeThatWaitsIsNotKeptWaitingByItsNote(t *testing.T) {
	play(t, func(c *cluster) { withClearance(c); c.said.Reason = "not complete" }, func(s *scene) {
		s.pass(10 * time.Minute)
		s.take()
		s.say(func(c *clearance.Clearance) { c.Reason = "not trusted" })
		s.pass(waitDelay - 1)
		assert.Empty(t, read(s.cluster, func() []string { return s.requests }))
		s.pass(waitDelay + 1)
		assert.Equal(t, "not trusted", endpoint.NoteOf(s.stored["n1"]).Reason)
	})
}

func TestNoteThatIsRefusedIsTriedMoreAndMoreSeldom(t *testing.T) {
	meter := &countingMeter{}
	config := testConfig()
	config.Meter = meter
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(time.Second)
		s.say(func(c *clearance.Clearance) { c.Drift = map[string]string{"r2": "fw-ssh-r2 is missing"} })
		s.change(func() {
			s.fail = failing("patch", apierrors.NewInternalError(errors.New("broken")))
		})
		s.pass(2*noteDelay + time.Hour)
		before := meter.get("passed")
		s.pass(time.Hour)
		assert.Less(t, meter.get("passed")-before, 60*60/24+10+2*int(time.Hour/proveEvery), "beside the looks at the witness")
		s.change(func() { s.fail = nil })
		s.pass(37 * time.Second)
		assert.Contains(t, endpoint.NoteOf(s.stored["n1"]).Reason, "stays armed, but")
	})
}

func TestInterfacesAreFollowed(t *testing.T) {
	var mu sync.Mutex
	present := []string{"eth0", "lo"}
	var broken error
	config := testConfig()
	config.Patterns = []string{"eth*"}
	config.Links = func() (all []endpoint.Link, err error) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range present {
			all = append(all, endpoint.Link{Name: name, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.7")}})
		}
		return all, broken
	}
	set := func(s *scene, err error, names ...string) {
		mu.Lock()
		present, broken = names, err
		mu.Unlock()
		s.keeper.LinksChanged()
		s.pass(0)
	}
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(moment)
		assert.Equal(t, []string{"create unarmed n1-eth0", "patch armed n1-eth0"}, s.take())
		assert.Equal(t, []string{"198.51.100.7"}, s.stored["n1-eth0"].Spec.ExpectedIPs)

		set(s, nil, "eth0", "eth1", "lo")
		assert.Equal(t, []string{"create armed n1-eth1"}, s.take())
		set(s, nil, "eth1", "lo")
		assert.Equal(t, []string{"delete armed n1-eth0"}, s.take())
		assert.Equal(t, 1, s.keeper.Status().Endpoints)
		set(s, errors.New("netlink is broken"), "eth1")
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		assert.Contains(t, s.keeper.Status().Reason, "netlink is broken")
		set(s, nil, "lo")
		assert.Equal(t, []string{"delete armed n1-eth1"}, s.take())
		assert.Contains(t, s.keeper.Status().Reason, "no interface of the node")

		// One that is not labelled as ours is not in the cache.
		s.change(func() {
			theirs := testEndpoint("")
			theirs.Name, theirs.UID, theirs.Labels, theirs.Annotations = "n1-eth0", "their-uid", nil, nil
			s.put(theirs)
		})
		set(s, nil, "eth0", "lo")
		s.pass(time.Minute)
		assert.Equal(t, Conflict, s.keeper.Status().State)
		assert.Nil(t, s.stored["n1-eth0"].Labels)
	})
}

// What settings with names have left is removed when there is one endpoint again.
func TestEndpointsOfNamedInterfacesGoWhenThereIsOneForAll(t *testing.T) {
	play(t, func(c *cluster) {
		withClearance(c)
		left, _ := testConfig().shape().Desired(testNode("n1"), endpoint.Interface{Name: "eth0"}, nil, "r1")
		c.said.Leftovers, c.said.Reason = []string{"n1"}, "not complete"
		c.put(left)
	}, func(s *scene) {
		s.pass(time.Minute)
		assert.Equal(t, []string{"create armed with r1"}, slices.DeleteFunc(s.take(), isListOwn), "it protects the node until its successor does")
		s.say(func(c *clearance.Clearance) { c.Reason = "" })
		s.pass(leftoversEvery)
		assert.Equal(t, []string{"patch armed", "delete armed with r1 n1-eth0", "patch armed"}, slices.DeleteFunc(s.take(), isListOwn), "for a moment with both sets")
		assert.Equal(t, 1, s.keeper.Status().Endpoints)
	})
}

// Whoever writes to it meanwhile may have made it theirs. So it is looked for again, and what is known of it is not all
// that is ever tried.
func isListOwn(request string) bool { return request == "list own" }

func TestLeftoverThatChangesAfterItWasFoundGoesAsItIsNow(t *testing.T) {
	left, _ := testConfig().shape().Desired(testNode("n1"), endpoint.Interface{Name: "eth0"}, nil, "r2")
	for name, test := range map[string]struct {
		alter func(hep *v3.HostEndpoint)
		want  []string
	}{
		"a note of somebody's": {
			func(hep *v3.HostEndpoint) { hep.Annotations = map[string]string{"note": "x"} },
			[]string{"delete armed n1-eth0 in vain", "delete armed n1-eth0"},
		},
		"somebody's now": {
			func(hep *v3.HostEndpoint) { hep.Labels = map[string]string{"team": "blue"} },
			[]string{"delete unarmed n1-eth0 in vain"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(c *cluster) {
				withArmed(c)
				c.said.Leftovers = []string{"n1"}
				c.put(left)
				found := false
				c.fail = func(verb string) error {
					if verb == "delete" && !found {
						found = true
						c.spoil("n1-eth0", test.alter)
					}
					return nil
				}
			}, func(s *scene) {
				s.pass(time.Minute)
				assert.Equal(t, test.want, slices.DeleteFunc(s.take(), isListOwn))
				assert.True(t, s.keeper.Status().Ready)
				assert.Equal(t, 1, s.keeper.Status().Endpoints)
			})
		})
	}
}

func TestIPVSWithoutConntrackIsToldOnceAndHoldsNothingBack(t *testing.T) {
	config := testConfig()
	config.Untracked = func() bool { return true }
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(time.Hour)
		assert.True(t, s.keeper.Status().Ready)
		assert.Equal(t, 1, s.log.count("net.ipv4.vs.conntrack"))
		assert.Contains(t, s.kinds(), "UntrackedIPVS")
	})
	config.Untracked = func() bool { return false }
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(time.Hour)
		assert.NotContains(t, s.kinds(), "UntrackedIPVS")
	})
}

func TestFieldsOfAPatchAreItsLeaves(t *testing.T) {
	patch := fmt.Sprintf(`{"metadata":{"resourceVersion":"7","labels":{"a.b/c":null},"annotations":{%q:"x"}},"spec":{"profiles":["p"],"node":"n1"}}`, endpoint.StateAnnotation)
	assert.Equal(t, []string{"HEP metadata.labels.a.b/c=null", `HEP spec.node="n1"`, `HEP spec.profiles=["p"]`}, endpoint.Fields("HEP", []byte(patch)))
}

type countingMeter struct {
	mu     sync.Mutex
	counts map[string]int
}

func (m *countingMeter) add(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		m.counts = map[string]int{}
	}
	m.counts[what]++
}

func (m *countingMeter) get(what string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts[what]
}

func (m *countingMeter) Passed(time.Duration)   { m.add("passed") }
func (m *countingMeter) Repaired(reason string) { m.add(reason) }
func (m *countingMeter) Contested()             { m.add("contested") }

func sshOnly() *failsafe.Want {
	return &failsafe.Want{Ports: []uint16{22}, CIDRs: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}
}

func TestThousandsOfNodesAreArmedAndNarrowedOneByOne(t *testing.T) {
	config := testConfig()
	config.Failsafe = sshOnly()
	const spread = 25 * time.Second
	prepare := func(c *cluster) {
		withClearance(c)
		c.said.Reason, c.said.Spread = "not complete", spread
	}
	var first []time.Duration
	for range 5 {
		playWith(t, config, prepare, func(s *scene) {
			s.pass(time.Hour)
			s.take()
			begin := time.Now()
			s.say(func(c *clearance.Clearance) { c.Reason = "" })
			for !s.isArmed() {
				require.Less(t, time.Since(begin), spread)
				s.pass(10 * time.Millisecond)
			}
			first = append(first, time.Since(begin))
			s.take()
			s.pass(spread - 10*time.Millisecond)
			assert.Empty(t, s.take(), "others are still being armed")
			assert.False(t, read(s.cluster, func() bool { return s.follows }), "nor is anything else asked for")
			s.pass(spread + narrowWithin + felixSettles)
			assert.Equal(t, []string{"create felix"}, s.take())
			assert.True(t, s.keeper.Status().Ready)
		})
	}
	slices.Sort(first)
	assert.Greater(t, first[4]-first[0], spread/100, "each has a moment of its own")

	prepare = func(c *cluster) { withClearance(c); c.said.Spread, c.said.Canary = spread, "n1" }
	playWith(t, config, prepare, func(s *scene) {
		s.pass(narrowWithin + felixSettles)
		assert.Equal(t, []string{"create unarmed", "patch armed", "create felix"}, s.take(), "the first one is not kept waiting")
	})
}

func TestFailsafeIsNarrowedAfterTheNodeIsArmedAndWidenedWhenNothingIsToBeClosed(t *testing.T) {
	config := testConfig()
	config.Failsafe = sshOnly()
	var left map[string]*failsafe.Configuration
	playWith(t, config, func(c *cluster) { withClearance(c); c.said.Reason = "not complete" }, func(s *scene) {
		s.pass(time.Hour)
		assert.Equal(t, []string{"create unarmed"}, s.take(), "the policy that lets SSH in may be the one that is missing")
		s.say(func(c *clearance.Clearance) { c.Reason = "" })
		s.pass(narrowWithin + felixSettles)
		assert.Equal(t, []string{"patch armed", "create felix"}, s.take())
		assert.True(t, s.keeper.Status().Ready)

		s.change(func() {
			ports := []any{map[string]any{"protocol": "TCP", "port": int64(22)}, map[string]any{"protocol": "TCP", "port": int64(6443)}}
			s.putFelix(&failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: map[string]any{"failsafeInboundHostPorts": ports}})
		})
		s.pass(time.Minute)
		assert.Equal(t, []string{"patch felix"}, s.take(), "default is followed")
		assert.Len(t, s.felix["node.n1"].Spec["failsafeInboundHostPorts"], 2)
		left = s.felix
	})
	off, audit := config, config
	off.Off, audit.Audit = true, true
	for name, test := range map[string]struct {
		config Config
		alter  func(*clearance.Clearance)
		want   []string
	}{
		"mode off":              {off, func(*clearance.Clearance) {}, []string{"patch unarmed", "delete felix"}},
		"mode audit":            {audit, func(*clearance.Clearance) {}, []string{"delete felix"}},
		"not narrowed any more": {testConfig(), func(*clearance.Clearance) {}, []string{"delete felix"}},
		"opened by a person":    {config, func(c *clearance.Clearance) { c.Opened = true }, []string{"delete armed", "delete felix"}},
		"the release goes":      {config, func(c *clearance.Clearance) { c.Closed = true }, []string{"delete armed", "delete felix"}},
	} {
		t.Run(name, func(t *testing.T) {
			playWith(t, test.config, func(c *cluster) {
				withArmed(c)
				test.alter(c.said)
				for _, configuration := range left {
					c.putFelix(configuration)
				}
			}, func(s *scene) {
				s.pass(time.Hour)
				assert.Equal(t, test.want, s.take())
				assert.False(t, s.follows, "nothing else is left to be looked at")
				assert.NotNil(t, s.felix["default"])
			})
		})
	}
}

func TestEventsAreAboutTheNodeAndFewOfAKind(t *testing.T) {
	play(t, withClearance, func(s *scene) {
		s.pass(time.Minute)
		assert.Equal(t, []string{"Armed"}, s.kinds())
		assert.Equal(t, "HostEndpoint n1: armed with policy set r2", s.events[0].Message)
		for range 20 {
			s.say(func(c *clearance.Clearance) { c.Drift = map[string]string{"r2": "fw-ssh-r2 is missing"} })
			s.pass(time.Minute)
			s.say(func(c *clearance.Clearance) { c.Drift = nil })
			s.pass(time.Minute)
		}
		s.pass(time.Hour)
		lost := 0
		for _, event := range s.events {
			assert.Equal(t, corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node-uid"}, event.InvolvedObject)
			assert.Equal(t, "default", event.Namespace)
			if event.Reason == "NotReady" {
				lost += int(event.Count)
			}
		}
		assert.LessOrEqual(t, len(s.events), 2+40/5+1)
		assert.Equal(t, 20, lost, "each is counted")
	})
}
