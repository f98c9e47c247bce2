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
				assert.True(t, status.Armed)
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
		withPolicies(c)
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
		s.change(func() {
			s.notReady = true
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
		s.change(func() { s.notReady = false })
		s.pass(0)
		assert.Equal(t, []string{"create armed", "create felix"}, s.take())
	})
}

func TestNodeAndDatastoreAreFollowedWhenTheStartIsOver(t *testing.T) {
	follows := func(s *scene) bool {
		return read(s.cluster, func() bool { return slices.Contains(s.follows, "changes") })
	}
	waitsForPeers := func(c *cluster) {
		withPolicies(c)
		c.nodes, c.heps, c.firstNode = 1000, 1000, "a1"
		c.others = []corev1.Node{*testNode("n2")}
		unarmed := testEndpoint(false)
		unarmed.Name, unarmed.Spec.Node = "a1", "a1"
		c.theirs = []v3.HostEndpoint{*unarmed}
	}
	t.Run("an agent that finds its node armed does not wait", func(t *testing.T) {
		play(t, withArmed, func(s *scene) {
			s.pass(0)
			assert.True(t, follows(s))
		})
	})
	t.Run("thousands wait until most are armed", func(t *testing.T) {
		play(t, waitsForPeers, func(s *scene) {
			s.pass(startTakes / 2)
			require.False(t, s.isArmed())
			s.change(func() { s.theirs[0].Labels = testEndpoint(true).Labels })
			for waited := time.Duration(0); !s.isArmed() && waited < 2*askMost; waited += time.Second {
				s.pass(time.Second)
			}
			require.True(t, s.isArmed())
			assert.False(t, follows(s), "others have still to be armed")
			s.pass(2 * 1000 * perCalm)
			assert.True(t, follows(s))
		})
	})
	t.Run("who waits for long follows meanwhile", func(t *testing.T) {
		play(t, waitsForPeers, func(s *scene) {
			s.pass(2 * startTakes)
			require.False(t, s.isArmed())
			assert.True(t, follows(s))
		})
	})
	t.Run("a few do not wait", func(t *testing.T) {
		play(t, func(c *cluster) { waitsForPeers(c); c.nodes, c.heps = 3, 3 }, func(s *scene) {
			s.pass(settle)
			require.False(t, s.isArmed())
			assert.True(t, follows(s))
		})
	})
	t.Run("who has nothing to wait for does not wait", func(t *testing.T) {
		off := testConfig()
		off.Off = true
		playWith(t, off, withPolicies, func(s *scene) {
			s.pass(0)
			assert.True(t, follows(s))
		})
	})
	t.Run("a Node that has just come is followed at once", func(t *testing.T) {
		play(t, func(c *cluster) {
			waitsForPeers(c)
			c.node.CreationTimestamp = metav1.NewTime(time.Now())
			c.policies[0].CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
		}, func(s *scene) {
			s.pass(0)
			assert.True(t, follows(s))
		})
	})
	t.Run("a Node that is not there is seen to come", func(t *testing.T) {
		play(t, func(c *cluster) { withPolicies(c); c.node = nil }, func(s *scene) {
			s.pass(0)
			s.change(func() { s.node = testNode("n1") })
			s.pass(settle)
			assert.True(t, s.isArmed())
		})
	})
	t.Run("a datastore that is not ready is seen to become so", func(t *testing.T) {
		play(t, func(c *cluster) { withPolicies(c); c.notReady = true }, func(s *scene) {
			s.pass(0)
			assert.True(t, follows(s))
			s.change(func() { s.notReady = false })
			s.pass(settle)
			assert.True(t, s.isArmed())
		})
	})
}

// Somebody who takes the arming label off again and again, at once.
func TestFightOverAFieldSlowsDownAndIsToldOnce(t *testing.T) {
	meter := &countingMeter{}
	config := testConfig()
	config.Meter = meter
	playWith(t, config, withArmed, func(s *scene) {
		s.take()
		end := time.Now().Add(30 * time.Minute)
		for time.Now().Before(end) {
			if s.isArmed() {
				s.spoil("n1", func(hep *v3.HostEndpoint) { delete(hep.Labels, "host-endpoint") })
			}
			s.pass(time.Second)
		}
		repairs := len(s.take())
		assert.GreaterOrEqual(t, repairs, 25, "it never gives up")
		assert.LessOrEqual(t, repairs, 45)
		assert.Equal(t, 1, meter.get("contested"))
		assert.Equal(t, repairs, meter.get("changed"))
		assert.Equal(t, 1, s.log.count("keeps changing"), "told once")
		assert.False(t, s.keeper.Status().Ready)
		assert.Contains(t, s.keeper.Status().Reason, "metadata.labels.host-endpoint")

		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "a deletion is no fight over a field")
		s.pass(time.Hour)
		s.spoil("n1", func(hep *v3.HostEndpoint) { delete(hep.Labels, "host-endpoint") })
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
		assert.Equal(t, []string{"Repaired"}, s.said(), "put together")
		assert.EqualValues(t, 200, s.events[0].Count)
	})
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

func TestOffDisarmsInOnePatchAndKeepsTheEndpoint(t *testing.T) {
	config := testConfig()
	config.Off = true
	playWith(t, config, withArmed, func(s *scene) {
		s.pass(time.Hour)
		assert.Equal(t, []string{"patch unarmed"}, s.take())
		status := s.keeper.Status()
		assert.Equal(t, Off, status.State)
		assert.True(t, status.Ready)
		assert.False(t, status.Armed)
		assert.Equal(t, "Off", endpoint.NoteOf(s.stored["n1"]).State)
		assert.Equal(t, []string{"Disarmed"}, s.said())
		s.change(func() { s.remove("n1") })
		s.pass(time.Minute)
		assert.Equal(t, []string{"create unarmed"}, s.take())
	})
}

func sshOnly() *failsafe.Want {
	return &failsafe.Want{Ports: []uint16{22}, CIDRs: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}
}

func TestFailsafeIsNarrowedAfterTheNodeIsArmedAndWidenedWhenNothingIsToBeClosed(t *testing.T) {
	config := testConfig()
	config.Failsafe = sshOnly()
	var left map[string]*failsafe.Configuration
	playWith(t, config, func(c *cluster) { c.policies = testPolicies("r2", "fw-drop") }, func(s *scene) {
		s.pass(time.Hour)
		assert.Equal(t, []string{"create unarmed"}, s.take(), "the policy that lets SSH in may be the one that is missing")
		s.change(func() { withPolicies(s.cluster) })
		s.pass(settle + 2*perNarrowing)
		assert.Equal(t, []string{"list nodes", "list endpoints", "patch armed", "create felix"}, s.take())
		assert.True(t, s.keeper.Status().Ready)

		s.change(func() { s.policies = s.policies[:1]; delete(s.felix, "node.n1") })
		s.pass(time.Minute)
		assert.Empty(t, s.take(), "not while a policy is lost")
		s.change(func() { withPolicies(s.cluster) })
		s.pass(time.Minute)
		assert.Equal(t, []string{"create felix"}, s.take())

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
	for name, config := range map[string]Config{"mode off": off, "mode audit": audit, "not narrowed any more": testConfig()} {
		t.Run(name, func(t *testing.T) {
			playWith(t, config, func(c *cluster) {
				withArmed(c)
				for _, configuration := range left {
					c.putFelix(configuration)
				}
			}, func(s *scene) {
				s.pass(time.Hour)
				want := []string{"delete felix"}
				if config.Off {
					want = []string{"patch unarmed", "delete felix"}
				}
				assert.Equal(t, want, s.take())
				assert.Equal(t, []string{"changes"}, s.follows, "nothing else is left to be looked at")
				assert.NotNil(t, s.felix["default"])
			})
		})
	}
}

func TestFailsafeIsNotNarrowedTwiceBecauseTheCacheIsBehind(t *testing.T) {
	config := testConfig()
	config.Failsafe = sshOnly()
	playWith(t, config, func(c *cluster) { withArmed(c); c.felixLag = time.Second }, func(s *scene) {
		for range 10 {
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
		s.pass(cacheDelay / 2)
		assert.Equal(t, []string{"patch felix"}, s.take())
		assert.Equal(t, "Disabled", s.felix["node.n1"].Spec[mode])
		s.change(func() { delete(s.felix, "node.n1"); delete(s.felixNow, "node.n1") })
		s.pass(cacheDelay / 4)
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
		assert.Equal(t, 1, s.log.count("failsafe"))
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, "create armed", s.take()[0])
	})
}

func TestPolicyOfSomebodyElseIsWaitedForAndSeenToGo(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.foreign = []*v3.GlobalNetworkPolicy{foreignPolicy("deny-all", "all()")}
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		status := s.keeper.Status()
		assert.Equal(t, Waiting, status.State)
		assert.Equal(t, []string{"deny-all"}, status.Foreign)
		assert.Equal(t, 1, s.log.count("deny-all"))
		assert.Equal(t, []string{"ForeignPolicy"}, s.said())
		assert.Contains(t, s.events[0].Message, "deny-all")
		assert.Equal(t, corev1.EventTypeWarning, s.events[0].Type)
		s.change(func() { s.foreign = nil })
		s.pass(settle)
		assert.Equal(t, []string{"create unarmed", "list nodes", "list endpoints", "patch armed"}, s.take())
		assert.Equal(t, []string{"changes"}, s.follows, "they do not matter any more")

		s.change(func() { s.foreign = []*v3.GlobalNetworkPolicy{foreignPolicy("deny-all", "all()")}; s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "only a first creation waits")
	})
}

func TestPolicyOfSomebodyElseThatNobodyCanReadIsToldOnceAndStopsNothing(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.foreign = []*v3.GlobalNetworkPolicy{foreignPolicy("broken", "has(")}
	}, func(s *scene) {
		s.pass(time.Minute)
		assert.True(t, s.isArmed(), "Felix ignores it, too")
		assert.Equal(t, 1, s.log.count("GlobalNetworkPolicy broken has a selector that cannot be read"))
	})
}

func TestForeignEndpointOfTheNodeIsFoundByTheResyncAndSeenToGo(t *testing.T) {
	auto := &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{Name: "n1-auto-hep", Labels: map[string]string{"projectcalico.org/created-by": "calico-kube-controllers"}},
		Spec:       v3.HostEndpointSpec{Node: "n1", InterfaceName: "*"},
	}
	play(t, withArmed, func(s *scene) {
		s.change(func() { s.put(auto) })
		s.pass(testConfig().Resync)
		status := s.keeper.Status()
		assert.Equal(t, Conflict, status.State)
		assert.True(t, status.Armed, "nobody disarms a node by creating something")
		assert.False(t, status.Ready)
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "and it is still kept")
		s.pass(time.Minute)
		assert.Equal(t, "Conflict", endpoint.NoteOf(s.stored["n1"]).State)
		s.change(func() { s.remove("n1-auto-hep") })
		s.pass(37 * time.Second)
		assert.True(t, s.keeper.Status().Ready)
	})
}

func TestResyncFindsAForeignEndpointHoweverOftenItHasLooked(t *testing.T) {
	config := testConfig()
	config.Resync = time.Second
	playWith(t, config, withArmed, func(s *scene) {
		s.pass(time.Hour)
		s.change(func() {
			s.put(&v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v3.HostEndpointSpec{Node: "n1", InterfaceName: "*"}})
		})
		s.pass(3 * config.Resync)
		assert.Equal(t, Conflict, s.keeper.Status().State)
	})
}

func TestAdoptedEndpointIsTakenOverInOnePatch(t *testing.T) {
	config := testConfig()
	config.Adopt = true
	playWith(t, config, func(c *cluster) {
		withPolicies(c)
		theirs := testEndpoint(false)
		theirs.Labels, theirs.Annotations = map[string]string{"theirs": "label"}, nil
		c.put(theirs)
	}, func(s *scene) {
		s.pass(settle)
		assert.Equal(t, []string{"patch unarmed", "list nodes", "list endpoints", "patch armed"}, s.take())
		assert.Equal(t, "label", s.stored["n1"].Labels["theirs"])
	})
}

func TestChangedArmingLabelTakesThePlaceOfTheOldOneInOnePatch(t *testing.T) {
	config := testConfig()
	config.ArmingLabels = map[string]string{"fire": "wall"}
	playWith(t, config, withArmed, func(s *scene) {
		assert.Equal(t, "ingress", s.stored["n1"].Labels["host-endpoint"], "it may be all that protects the node")
		s.pass(settle)
		assert.Equal(t, "wall", s.stored["n1"].Labels["fire"])
		assert.NotContains(t, s.stored["n1"].Labels, "host-endpoint")
	})
}

func TestNoteIsWrittenWithOtherChangesOrSeldom(t *testing.T) {
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
	play(t, withPolicies, func(s *scene) {
		s.pass(settle)
		note := endpoint.NoteOf(s.stored["n1"])
		assert.Equal(t, "Armed", note.State)
		assert.Equal(t, "2 policies at revision r2", note.Reason)
		assert.Zero(t, notes(s))

		s.change(func() { s.policies = s.policies[:1] })
		s.pass(noteDelay - 1)
		assert.Zero(t, notes(s))
		s.pass(noteDelay + 1)
		assert.Equal(t, 1, notes(s))
		assert.Contains(t, endpoint.NoteOf(s.stored["n1"]).Reason, "stays armed, but")
		assert.Equal(t, note.Since, endpoint.NoteOf(s.stored["n1"]).Since, "it is as armed as it was")
		s.pass(24 * time.Hour)
		assert.Equal(t, 1, notes(s), "never only for the time")
	})
}

func TestNoteThatIsRefusedIsTriedMoreAndMoreSeldom(t *testing.T) {
	meter := &countingMeter{}
	config := testConfig()
	config.Meter = meter
	playWith(t, config, withPolicies, func(s *scene) {
		s.pass(settle)
		s.change(func() {
			s.policies = s.policies[:1]
			s.fail = failing("patch", apierrors.NewInternalError(errors.New("broken")))
		})
		s.pass(2*noteDelay + time.Hour)
		before := meter.get("passed")
		s.pass(time.Hour)
		assert.Less(t, meter.get("passed")-before, 60*60/24+10)
		s.change(func() { s.fail = nil })
		s.pass(37 * time.Second)
		assert.Contains(t, endpoint.NoteOf(s.stored["n1"]).Reason, "stays armed, but")
	})
}

func TestNodeIsArmedSoonAfterAnotherOneOfTheRelease(t *testing.T) {
	for name, test := range map[string]struct {
		labels map[string]string
		want   bool
	}{
		"armed":                           {map[string]string{"host-firewall.io/release": "fw", "host-endpoint": "ingress"}, true},
		"not armed":                       {map[string]string{"host-firewall.io/release": "fw"}, false},
		"armed with a label of before":    {map[string]string{"host-firewall.io/release": "fw", "host-endpoint": "old"}, false},
		"armed by another release's rule": {map[string]string{"host-firewall.io/release": "other", "host-endpoint": "ingress"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(c *cluster) {
				withPolicies(c)
				c.others = []corev1.Node{*testNode("n2"), *testNode("n3")}
			}, func(s *scene) {
				s.pass(time.Hour)
				require.False(t, s.isArmed())
				s.take()
				s.change(func() {
					if hep := (v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Labels: test.labels}, Spec: v3.HostEndpointSpec{Node: "n2"}}); test.labels["host-firewall.io/release"] == "fw" {
						s.theirs = []v3.HostEndpoint{hep}
					}
				})
				s.pass(37 * time.Second)
				assert.Equal(t, test.want, s.isArmed(), "n3 has no endpoint, and is shut out by n2 if that is armed")
			})
		})
	}
}

func TestTheFirstEndpointsAgentLooksAsSoonAsAllHaveOne(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.nodes, c.heps, c.firstNode = 5000, 4999, "n1"
	}, func(s *scene) {
		s.pass(settle + 10*time.Second)
		assert.Zero(t, s.surveyed()["list nodes"])
		s.change(func() { s.heps = 5000 })
		s.pass(4 * askFirst)
		assert.Equal(t, 1, s.surveyed()["list nodes"])
		assert.True(t, s.isArmed())
	})
}

// surveyed returns how often each request has been made since the last call.
func (s *scene) surveyed() map[string]int {
	return read(s.cluster, func() map[string]int {
		counts := map[string]int{}
		for _, r := range s.requests {
			counts[r]++
		}
		s.requests = nil
		return counts
	})
}

func TestAgentsOfManyNodesTakeTurnsInLookingAtEach(t *testing.T) {
	const nodes = 5000
	polls := func(d time.Duration) int { return 2*int(d/(nodes*perPoll)) + 1 }
	for name, test := range map[string]struct {
		found bool
		turn  time.Duration // the longest
	}{
		"all start together":  {false, nodes * 2 * nodes * perObject},
		"in a rolling update": {true, (1 + nodes/rolledAtOnce) * 2 * nodes * perObject},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(c *cluster) {
				withPolicies(c)
				c.nodes, c.heps = nodes, nodes
				c.others = []corev1.Node{*testNode("n2"), *testNode("n3")}
				if test.found {
					c.put(testEndpoint(false))
				}
			}, func(s *scene) {
				s.pass(nodes*perCalm + test.turn + settle + time.Minute)
				asked := s.surveyed()
				assert.Equal(t, 1, asked["list nodes"], "each agent looks once")
				assert.Positive(t, asked["list nodes n2"], "and then at the node that it has found")
				assert.LessOrEqual(t, asked["any armed"], polls(test.turn)+6)
				assert.Contains(t, s.keeper.Status().Reason, "shut out: n2, n3.")

				endpoint := func(node string) v3.HostEndpoint {
					theirs := testEndpoint(false)
					theirs.Spec.Node = node
					return *theirs
				}
				s.change(func() { s.theirs = []v3.HostEndpoint{endpoint("n2")} })
				s.pass(time.Hour)
				asked = s.surveyed()
				assert.Equal(t, 1, asked["list nodes"], "one that is there means another look")
				assert.Positive(t, asked["list nodes n3"])
				assert.LessOrEqual(t, asked["any armed"], polls(time.Hour))
				assert.False(t, s.isArmed())

				s.change(func() { s.theirs = append(s.theirs, endpoint("n3")) })
				s.pass(time.Minute)
				assert.True(t, s.isArmed())
				assert.Equal(t, 1, s.surveyed()["list nodes"])
			})
		})
	}
}

func TestNobodyLooksAtEachNodeWhileEndpointsAreStillComing(t *testing.T) {
	play(t, func(c *cluster) {
		withPolicies(c)
		c.nodes, c.heps = 5000, 10
		c.fail = func(verb string) error {
			if verb == "count endpoints" {
				c.change(func() { c.heps++ })
			}
			return nil
		}
	}, func(s *scene) {
		s.pass(4 * time.Hour)
		asked := s.surveyed()
		assert.Greater(t, asked["count endpoints"], 10)
		assert.Zero(t, asked["list nodes"])
		s.change(func() { s.fail = nil })
		s.pass(5000 * 10000 * perObject)
		assert.True(t, s.isArmed())
	})
}

func TestTurnThatWasDrawnAsOneOfFewIsDrawnAgain(t *testing.T) {
	const times, few, nodes = 20, 100, 1000
	looks := 0
	for range times {
		play(t, func(c *cluster) {
			withPolicies(c)
			c.nodes, c.heps = nodes, few
		}, func(s *scene) {
			s.pass(settle)
			s.change(func() { s.heps = nodes })
			s.pass(few*2*few*perObject + time.Minute/2)
			looks += s.surveyed()["list nodes"]
		})
	}
	assert.LessOrEqual(t, looks, times/2, "all of the few would look at once")
}

func TestWhoWaitsAsksAgainSoonAfterAnAnswerThatTookLong(t *testing.T) {
	const took, ask = 10 * time.Second, "count endpoints"
	play(t, func(c *cluster) {
		withPolicies(c)
		// The first Node's agent waits until all have an endpoint.
		c.nodes, c.heps, c.firstNode = 1000, 900, "n1"
		c.fail = func(verb string) error {
			if verb == ask {
				time.Sleep(took)
				c.mu.Lock()
				defer c.mu.Unlock()
				c.heps++
			}
			return nil
		}
	}, func(s *scene) {
		s.pass(10 * time.Minute)
		assert.False(t, s.isArmed())
		assert.Greater(t, s.surveyed()[ask], int(10*time.Minute/(took+2*askFirst)))
	})
}

func TestLeftoversAreLookedForWhenThatCameDueDuringAnotherAnswer(t *testing.T) {
	// So few that nothing else begins, and wakes the keeper, when leftovers may be looked for.
	const nodes, took, ask, sweep = manyNodes - 1, time.Minute, "list foreign", "list own"
	config := testConfig()
	config.Resync = nodes * perCalm / 2
	asked := 0
	playWith(t, config, func(c *cluster) {
		withPolicies(c)
		armed := testEndpoint(true)
		armed.Name, armed.Spec.Node = "a1", "a1"
		c.nodes, c.firstNode, c.theirs = nodes, "n1", []v3.HostEndpoint{*armed}
		c.fail = func(verb string) error {
			if verb == ask {
				if asked++; asked > 1 {
					time.Sleep(took)
				}
			}
			return nil
		}
	}, func(s *scene) {
		s.pass(config.Resync + settle + took/2)
		assert.True(t, s.keeper.Status().Armed)
		assert.Zero(t, s.surveyed()[sweep], "it is no hurry, and others start")
		s.pass(took/2 + time.Second)
		assert.Equal(t, 1, s.surveyed()[sweep])
	})
}

func TestKeeperOfANodeThatWentBeforeLeftoversWereFoundRests(t *testing.T) {
	meter := &countingMeter{}
	config := testConfig()
	config.Meter = meter
	playWith(t, config, func(c *cluster) {
		withArmed(c)
		c.fail = failing("list own", errors.New("away"))
	}, func(s *scene) {
		s.pass(time.Minute)
		s.change(func() { s.node = nil })
		s.pass(askMost * 2)
		before := meter.get("passed")
		s.pass(time.Microsecond)
		assert.Equal(t, before, meter.get("passed"))
	})
}

// To say whether any endpoint is armed, the API server goes through all of them.
func TestOfManyNodesMostAgentsFollowOneEndpoint(t *testing.T) {
	named := testConfig()
	named.Interfaces = func() ([]endpoint.Interface, []string, error) {
		return []endpoint.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.7")}}}, []string{"eth0"}, nil
	}
	for name, test := range map[string]struct {
		config   Config
		nodes    int
		node     string // the first
		followed string // empty: any is asked for, and nothing followed
	}{
		"few":                        {testConfig(), manyNodes - 1, "a1", ""},
		"many":                       {testConfig(), manyNodes, "a1", "a1"},
		"the one that others follow": {testConfig(), manyNodes, "n1", ""},
		"many, by interfaces":        {named, manyNodes, "a1", "a1-eth0"},
		"the one that others follow, by interfaces": {named, manyNodes, "n1", ""},
		"the first Node has no endpoint":            {testConfig(), manyNodes, "a0", "a1"},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := func(armed bool) []v3.HostEndpoint {
				hep := testEndpoint(armed)
				hep.Name, hep.Spec.Node = test.followed, "a1"
				return []v3.HostEndpoint{*hep}
			}
			playWith(t, test.config, func(c *cluster) {
				withPolicies(c)
				c.nodes, c.heps, c.firstNode, c.first = test.nodes, test.nodes, test.node, "a1"
				c.others = []corev1.Node{*testNode("n2")}
				if test.followed != "" {
					c.theirs = theirs(false)
				}
			}, func(s *scene) {
				s.pass(time.Hour)
				asked := s.surveyed()
				if test.followed == "" {
					assert.Greater(t, asked["any armed"], 100)
					assert.Empty(t, read(s.cluster, func() string { return s.peer }))
					return
				}
				assert.Equal(t, 1, asked["follow "+test.followed])
				assert.Less(t, asked["any armed"], 100, "but seldom: the API server goes through all")
				assert.Less(t, asked["count endpoints"]+asked["first endpoint"], 10)
				assert.Less(t, asked["count nodes"], 10)
				// At random, so in one hour it need not have happened.
				s.pass(9 * time.Hour)
				assert.Positive(t, asked["any armed"]+s.surveyed()["any armed"], "its agent may be dead")
				assert.False(t, s.keeper.Status().Armed)
				assert.Equal(t, test.followed, read(s.cluster, func() string { return s.peer }))

				s.change(func() { s.theirs = theirs(true) })
				s.pass(time.Minute)
				assert.True(t, s.keeper.Status().Armed)
				s.pass(2 * manyNodes * perCalm)
				assert.Empty(t, read(s.cluster, func() string { return s.peer }), "nobody needs it any more")
			})
		})
	}
}

func TestNodeThatJoinsManyClosesAtOnce(t *testing.T) {
	const times = 20
	for name, test := range map[string]struct {
		age         time.Duration // of the Node, beside the policies of the release
		least, most int           // how often it is armed at once
	}{
		"it came after the release": {-time.Minute, times, times},
		"the release came to it":    {time.Minute, 0, times / 2},
	} {
		t.Run(name, func(t *testing.T) {
			atOnce := 0
			for range times {
				play(t, func(c *cluster) {
					withPolicies(c)
					for _, p := range c.policies {
						p.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
					}
					c.node.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour - test.age))
					c.nodes, c.heps, c.firstNode = 5000, 5000, "a1"
					unarmed, armed := testEndpoint(false), testEndpoint(true)
					unarmed.Name, unarmed.Spec.Node = "a1", "a1"
					armed.Name, armed.Spec.Node = "n2", "n2"
					c.theirs = []v3.HostEndpoint{*unarmed, *armed}
				}, func(s *scene) {
					s.pass(settle)
					if s.isArmed() {
						atOnce++
					}
					asked := s.surveyed()
					assert.Equal(t, 1, asked["count nodes"])
					assert.Zero(t, asked["count endpoints"], "the API server would go through all, for each agent")
				})
			}
			assert.GreaterOrEqual(t, atOnce, test.least, "an endpoint is armed, though not the first")
			assert.LessOrEqual(t, atOnce, test.most, "thousands that start together follow the first")
		})
	}
}

func TestWhatIsNoHurryComesAfterMostOthersAreArmed(t *testing.T) {
	config := testConfig()
	config.Failsafe = sshOnly()
	playWith(t, config, func(c *cluster) {
		withPolicies(c)
		c.nodes, c.firstNode = 1000, "a1"
		armed := testEndpoint(true)
		armed.Name, armed.Spec.Node = "a1", "a1"
		c.theirs = []v3.HostEndpoint{*armed}
	}, func(s *scene) {
		s.pass(settle + 2*1000*perPoll + askFirst)
		require.True(t, s.isArmed())
		assert.NotContains(t, s.take(), "create felix")
		assert.Contains(t, s.keeper.Status().Reason, "it is narrowed when most other nodes are armed")
		s.pass(2 * 1000 * perNarrowing)
		assert.Equal(t, []string{"create felix"}, s.take())
		assert.True(t, s.keeper.Status().Ready)
		assert.Empty(t, s.said())
		s.pass(2 * 1000 * perCalm)
		assert.Equal(t, []string{"Armed"}, s.said())
	})
}

func TestFewAgentsLookAtOnce(t *testing.T) {
	for _, test := range []struct {
		nodes, endpoints int
		found            bool
		longest          time.Duration
	}{
		{1, 1, false, 0},
		{22, 22, false, 0},
		{23, 23, false, 23 * 46 * time.Millisecond},
		{5000, 5000, false, 5000 * 10 * time.Second},
		{5000, 50, false, 50 * 5050 * time.Millisecond},
		{200, 200, true, 3 * 400 * time.Millisecond},
		{150, 150, true, 0},
	} {
		for range 100 {
			turn := turnIn(test.nodes, test.endpoints, test.found)
			assert.GreaterOrEqual(t, turn, time.Duration(0))
			assert.LessOrEqual(t, turn, test.longest, "%+v", test)
		}
	}
}

func TestInterfacesAreFollowed(t *testing.T) {
	var mu sync.Mutex
	present := []string{"eth0", "lo"}
	var broken error
	config := testConfig()
	config.Interfaces = func() (selected []endpoint.Interface, all []string, err error) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range present {
			if strings.HasPrefix(name, "eth") {
				selected = append(selected, endpoint.Interface{Name: name, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.7")}})
			}
		}
		return selected, slices.Clone(present), broken
	}
	set := func(s *scene, err error, names ...string) {
		mu.Lock()
		present, broken = names, err
		mu.Unlock()
		s.keeper.LinksChanged()
		s.pass(0)
	}
	playWith(t, config, withPolicies, func(s *scene) {
		s.pass(settle)
		assert.Equal(t, []string{"create unarmed n1-eth0", "list nodes", "list endpoints", "patch armed n1-eth0"}, s.take())
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
			theirs := testEndpoint(false)
			theirs.Name, theirs.UID, theirs.Labels = "n1-eth0", "their-uid", nil
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
		withPolicies(c)
		left, _ := testConfig().shape().Desired(testNode("n1"), endpoint.Interface{Name: "eth0"}, true)
		c.put(left)
	}, func(s *scene) {
		assert.Equal(t, []string{"create unarmed"}, s.take())
		s.pass(settle)
		assert.Equal(t, []string{"patch armed"}, s.take(), "not before its successor is armed")
		s.pass(2 * askFirst)
		assert.Equal(t, []string{"delete armed n1-eth0"}, s.take())
		assert.Equal(t, 1, s.keeper.Status().Endpoints)
	})
}

// Whoever writes to it meanwhile may have made it theirs. So it is looked for again, and what is known of it is not all
// that is ever tried.
func TestLeftoverThatChangesAfterItWasFoundGoesAsItIsNow(t *testing.T) {
	left, _ := testConfig().shape().Desired(testNode("n1"), endpoint.Interface{Name: "eth0"}, true)
	for name, test := range map[string]struct {
		alter func(hep *v3.HostEndpoint)
		want  []string
	}{
		"a note of somebody's": {
			func(hep *v3.HostEndpoint) { hep.Annotations = map[string]string{"note": "x"} },
			[]string{"delete armed n1-eth0 in vain", "create felix", "delete armed n1-eth0"},
		},
		"somebody's now": {
			func(hep *v3.HostEndpoint) { hep.Labels = map[string]string{"team": "blue"} },
			[]string{"delete unarmed n1-eth0 in vain", "create felix"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig()
			config.Failsafe = sshOnly()
			playWith(t, config, func(c *cluster) {
				withArmed(c)
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
				assert.Equal(t, test.want, s.take())
				assert.True(t, s.keeper.Status().Ready)
				assert.Equal(t, 1, s.keeper.Status().Endpoints)
			})
		})
	}
}

// The port of an API server is a failsafe port by default, and 443 or 16443 are not: whoever is outside the cluster would lose
// it, and the way back with it.
func TestNodeThatIsAnAPIServerIsNotArmedBeforeItsPortStaysOpen(t *testing.T) {
	const question = "API server"
	list := func(name string, ports ...int64) *failsafe.Configuration {
		var entries []any
		for _, port := range ports {
			entries = append(entries, map[string]any{"protocol": "TCP", "port": port})
		}
		return &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: map[string]any{"failsafeInboundHostPorts": entries}}
	}
	having := func(address string) func() ([]netip.Addr, error) {
		return func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(address)}, nil }
	}
	for name, test := range map[string]struct {
		config    func(c *Config)
		addresses []string
		ports     []uint16
		felix     []*failsafe.Configuration
		fail      error
		armed     bool
		says      []string
		asks      int // in ten minutes
	}{
		"a port of the values":                       {addresses: []string{"198.51.100.9", "192.0.2.1"}, ports: []uint16{6443}, armed: true, asks: 1},
		"a port of the values, no failsafe any more": {addresses: []string{"192.0.2.1"}, ports: []uint16{6443}, felix: []*failsafe.Configuration{list("default", 22)}, armed: true, asks: 1},
		"a failsafe port":                            {config: func(c *Config) { c.APIServerPorts = []uint16{443} }, addresses: []string{"192.0.2.1"}, ports: []uint16{6443}, armed: true, asks: 1},
		"a failsafe port of the node's own list": {
			addresses: []string{"192.0.2.1"}, ports: []uint16{443}, felix: []*failsafe.Configuration{list("default", 22), list("node.n1", 443)}, armed: true, asks: 1,
		},
		"neither": {
			addresses: []string{"192.0.2.1"}, ports: []uint16{443}, asks: 25,
			says: []string{"tcp 443", "essential.apiServerPorts: [6443, 443]"},
		},
		"no failsafe port any more": {
			config: func(c *Config) { c.APIServerPorts = []uint16{443} }, addresses: []string{"192.0.2.1"}, ports: []uint16{6443},
			felix: []*failsafe.Configuration{list("default", 22)}, asks: 25, says: []string{"tcp 6443", "essential.apiServerPorts: [443, 6443]"},
		},
		"neither, at an address that only an interface has": {
			config:    func(c *Config) { c.Addresses = having("198.51.100.9") },
			addresses: []string{"198.51.100.9"}, ports: []uint16{443}, asks: 25, says: []string{"tcp 443"},
		},
		"nor where nodes are not waited for": {
			config: func(c *Config) { c.AwaitNodes = false }, addresses: []string{"192.0.2.1"}, ports: []uint16{443}, asks: 25, says: []string{"tcp 443"},
		},
		"the API server is no node": {
			config:    func(c *Config) { c.Addresses = having("198.51.100.8") },
			addresses: []string{"198.51.100.9"}, ports: []uint16{443}, armed: true, asks: 1,
		},
		"nobody says where it is":    {armed: true, asks: 1},
		"no right to ask":            {fail: apierrors.NewForbidden(heps, "kubernetes", nil), asks: 25, says: []string{"cannot tell", "forbidden"}},
		"the values ask for nothing": {config: func(c *Config) { c.APIServerPorts = nil }, addresses: []string{"192.0.2.1"}, ports: []uint16{443}, armed: true},
		"nor where nothing is dropped, for enforce comes next": {
			config: func(c *Config) { c.Audit = true }, addresses: []string{"192.0.2.1"}, ports: []uint16{443}, asks: 25, says: []string{"tcp 443"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig()
			config.APIServerPorts, config.Resync = []uint16{6443}, time.Hour
			if test.config != nil {
				test.config(&config)
			}
			playWith(t, config, func(c *cluster) {
				withPolicies(c)
				c.apiAddresses, c.apiPorts, c.fail = test.addresses, test.ports, failing(question, test.fail)
				for _, configuration := range test.felix {
					c.felix[configuration.Name] = configuration
				}
			}, func(s *scene) {
				s.pass(10 * time.Minute)
				assert.Equal(t, test.armed, s.isArmed())
				status := s.keeper.Status()
				assert.Equal(t, test.armed, status.Ready)
				for _, words := range test.says {
					assert.Contains(t, status.Reason, words)
				}
				assert.InDelta(t, test.asks, s.surveyed()[question], float64(test.asks)/3)
				s.change(func() { s.apiPorts, s.fail = config.APIServerPorts, nil })
				s.pass(2 * askMost)
				assert.True(t, s.isArmed(), "as soon as it would not be lost")
			})
		})
	}
}

func TestNodeWhoseAPIServerMovesAwayFromItsOpenPortStaysArmedAndSaysSo(t *testing.T) {
	config := testConfig()
	config.APIServerPorts = []uint16{6443}
	playWith(t, config, func(c *cluster) {
		withArmed(c)
		c.apiAddresses, c.apiPorts = []string{"192.0.2.1"}, []uint16{6443}
	}, func(s *scene) {
		s.pass(time.Second)
		require.True(t, s.keeper.Status().Ready)
		s.change(func() { s.apiPorts = []uint16{16443} })
		s.pass(config.Resync + time.Second)
		assert.True(t, s.isArmed())
		assert.False(t, s.keeper.Status().Ready)
		assert.Contains(t, s.keeper.Status().Reason, "stays armed, but this node's API server is on tcp 16443")
		s.change(func() { s.apiPorts = []uint16{6443} })
		s.pass(2 * askMost)
		assert.True(t, s.keeper.Status().Ready, "not only at the next resync")
	})
}

func TestIPVSWithoutConntrackIsToldOnceAndHoldsNothingBack(t *testing.T) {
	config := testConfig()
	config.Untracked = func() bool { return true }
	playWith(t, config, withPolicies, func(s *scene) {
		s.pass(time.Hour)
		assert.True(t, s.keeper.Status().Ready)
		assert.Equal(t, 1, s.log.count("net.ipv4.vs.conntrack"))
		assert.Contains(t, s.said(), "UntrackedIPVS")
	})
	config.Untracked = func() bool { return false }
	playWith(t, config, withPolicies, func(s *scene) {
		s.pass(time.Hour)
		assert.NotContains(t, s.said(), "UntrackedIPVS")
	})
}

func TestEventsAreAboutTheNodeAndFewOfAKind(t *testing.T) {
	play(t, withPolicies, func(s *scene) {
		s.pass(time.Minute)
		assert.Equal(t, []string{"Armed"}, s.said())
		assert.Equal(t, "HostEndpoint n1 created and armed: 2 policies at revision r2", s.events[0].Message, "what comes together is said together")
		for i := range 20 {
			s.change(func() { s.policies = s.policies[:1] })
			s.pass(time.Minute)
			s.change(func() { withPolicies(s.cluster) })
			s.pass(time.Minute)
			_ = i
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

func TestEndpointThatIsNotArmedSoonIsAnEventToo(t *testing.T) {
	play(t, func(*cluster) {}, func(s *scene) {
		s.pass(2 * createdDelay)
		assert.Equal(t, []string{"EndpointCreated"}, s.said())
		s.change(func() { withPolicies(s.cluster) })
		s.pass(settle + 2*newsDelay)
		assert.Equal(t, []string{"EndpointCreated", "Armed"}, s.said())
		assert.Equal(t, "2 policies at revision r2", s.events[1].Message)
	})
}

func TestFieldsOfAPatchAreItsLeaves(t *testing.T) {
	patch := fmt.Sprintf(`{"metadata":{"resourceVersion":"7","labels":{"a.b/c":null},"annotations":{%q:"x"}},"spec":{"profiles":["p"],"node":"n1"}}`, endpoint.StateAnnotation)
	assert.Equal(t, []string{"HEP metadata.labels.a.b/c=null", `HEP spec.node="n1"`, `HEP spec.profiles=["p"]`}, fieldsOf("HEP", []byte(patch)))
}
