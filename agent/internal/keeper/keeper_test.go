package keeper

import (
	"net/netip"
	"testing"
	"testing/synctest"
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
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

func TestDeletedEndpointComesBackArmedInOneCreate(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "at once")
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take(), "and again")
	})
}

func TestDriftIsSetBackAtOnce(t *testing.T) {
	for name, spoil := range map[string]func(*v3.HostEndpoint){
		"profiles":    func(hep *v3.HostEndpoint) { hep.Spec.Profiles = nil },
		"expectedIPs": func(hep *v3.HostEndpoint) { hep.Spec.ExpectedIPs = nil },
		"interface":   func(hep *v3.HostEndpoint) { hep.Spec.InterfaceName = "eth0" },
		"set label":   func(hep *v3.HostEndpoint) { delete(hep.Labels, endpoint.SetLabel) },
		"owner":       func(hep *v3.HostEndpoint) { hep.OwnerReferences = nil },
	} {
		t.Run(name, func(t *testing.T) {
			play(t, withArmed, func(s *scene) {
				s.spoil("n1", spoil)
				s.pass(0)
				assert.Equal(t, []string{"patch armed"}, s.take())
				assert.Equal(t, testEndpoint("r2").Spec, s.stored["n1"].Spec)
				assert.True(t, s.keeper.Status().Ready)
			})
		})
	}
}

func TestNodeThatRegisteredAgainOwnsTheEndpoint(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.change(func() { s.node = s.node.DeepCopy(); s.node.UID = "new-uid" })
		s.pass(0)
		assert.Equal(t, []string{"patch armed"}, s.take())
		require.Len(t, s.stored["n1"].OwnerReferences, 1)
		assert.EqualValues(t, "new-uid", s.stored["n1"].OwnerReferences[0].UID)
	})
}

func TestFailedRepairDoesNotHideThatTheNodeIsArmed(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.change(func() {
			s.fail = func(string) error { return apierrors.NewInternalError(assert.AnError) }
			spoilt := s.stored["n1"].DeepCopy()
			spoilt.Spec.Profiles = nil
			s.put(spoilt)
		})
		s.pass(time.Minute)
		assert.Equal(t, Armed, s.keeper.Status().State)
		assert.False(t, s.keeper.Status().Ready)
	})
}

func TestCacheThatIsBehindIsNoFailure(t *testing.T) {
	play(t, func(c *cluster) {
		withArmed(c)
		c.lag = 20 * time.Millisecond
	}, func(s *scene) {
		s.change(func() { s.remove("n1") })
		s.pass(s.lag)
		for range 10 {
			s.change(func() {})
		}
		s.pass(time.Second)
		requests := s.take()
		assert.Equal(t, "create armed", requests[0])
		for _, request := range requests[1:] {
			assert.Contains(t, []string{"create", "read n1"}, request, "refused: it is there already")
		}
		assert.True(t, s.isArmed())
		assert.True(t, s.keeper.Status().Ready)
		assert.Zero(t, s.log.count("already exists"))
	})
}

func TestPatchFromAnOldVersionIsRefusedAndMadeAgain(t *testing.T) {
	play(t, func(c *cluster) {
		withArmed(c)
		c.lag = 20 * time.Millisecond
	}, func(s *scene) {
		s.change(func() {
			first := s.stored["n1"].DeepCopy()
			first.Spec.Profiles = nil
			s.put(first)
		})
		s.pass(s.lag - 1)
		s.change(func() {
			second := s.stored["n1"].DeepCopy()
			second.Labels["theirs"] = "label"
			s.put(second)
		})
		s.pass(time.Second)
		assert.Equal(t, "label", s.stored["n1"].Labels["theirs"])
		assert.Equal(t, testEndpoint("r2").Spec.Profiles, s.stored["n1"].Spec.Profiles)
		assert.Contains(t, s.take(), "patch", "one was refused")
		assert.True(t, s.keeper.Status().Ready)
	})
}

func TestNothingIsWrittenFromCachesThatAreNotComplete(t *testing.T) {
	play(t, func(c *cluster) {
		withClearance(c)
		c.problem = "cannot list Node n1"
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		assert.Equal(t, "cannot list Node n1", s.keeper.Status().Reason)
	})
}

func TestNothingIsWrittenForANodeThatIsNotThere(t *testing.T) {
	play(t, func(c *cluster) {
		withClearance(c)
		c.node = nil
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		s.change(func() { s.node = testNode("n1") })
		s.pass(time.Second)
		assert.True(t, s.isArmed())
	})
}

func TestIdleKeeperMakesNoRequestAndNoNoise(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		lines := s.log.count("")
		s.pass(24 * time.Hour)
		assert.Empty(t, s.take())
		assert.Equal(t, lines, s.log.count(""))
	})
}

// A change of which no event came, as after a watch that went silent.
func TestResyncFindsWhatNoEventTold(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.mu.Lock()
		delete(s.stored, "n1")
		delete(s.cached, "n1")
		s.mu.Unlock()
		s.pass(testConfig().Resync)
		assert.Equal(t, []string{"create armed"}, s.take())
	})
}

func TestStoppingLeavesTheEndpointArmed(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.stop()
		synctest.Wait()
		select {
		case <-s.ended:
		default:
			t.Error("Run has not returned")
		}
		assert.Empty(t, s.take())
		assert.True(t, s.isArmed())
	})
}

func TestInvalidAddressIsToldOnce(t *testing.T) {
	play(t, func(c *cluster) {
		withArmed(c)
		c.node.Status.Addresses = append(c.node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "nonsense"})
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Equal(t, 1, s.log.count("nonsense"))
		assert.Empty(t, s.take())
	})
}

func TestKeeperIsAliveUnlessOnePassTakesMoreThanThreeMinutes(t *testing.T) {
	release := make(chan struct{})
	play(t, func(c *cluster) {
		release = make(chan struct{})
		withClearance(c)
		c.fail = func(string) error { <-release; return nil }
	}, func(s *scene) {
		s.pass(3 * time.Minute)
		assert.NoError(t, s.keeper.Alive())
		s.pass(time.Second)
		assert.ErrorContains(t, s.keeper.Alive(), "3m1s")
		close(release)
		s.pass(0)
		assert.NoError(t, s.keeper.Alive())
	})
}

func TestFailedWriteIsToldOnceAndTriedAgainMoreAndMoreSeldom(t *testing.T) {
	play(t, func(c *cluster) {
		withClearance(c)
		c.fail = failing("create", apierrors.NewForbidden(heps, "n1", nil))
	}, func(s *scene) {
		s.pass(time.Hour)
		requests := len(s.take())
		assert.GreaterOrEqual(t, requests, 3600/36, "it never gives up")
		assert.LessOrEqual(t, requests, 3600/30+20)
		status := s.keeper.Status()
		assert.Equal(t, Waiting, status.State)
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "forbidden")
		assert.Equal(t, 1, s.log.count("forbidden"))

		s.change(func() { s.fail = nil })
		s.pass(36 * time.Second)
		assert.Equal(t, []string{"create unarmed", "patch armed"}, s.take())
	})
}

func TestNothingIsMadeAndNothingArmedWithoutClearance(t *testing.T) {
	play(t, func(*cluster) {}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take(), "policies of others may apply to an endpoint as soon as it is there")
		assert.Contains(t, s.keeper.Status().Reason, "the controller has not said anything yet")

		s.change(func() { withClearance(s.cluster); s.said.Nodes = testNode("n1").CreationTimestamp.Add(-time.Second) })
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		assert.Contains(t, s.keeper.Status().Reason, "has not looked at this Node yet")

		s.change(func() { withClearance(s.cluster); s.said.Reason, s.said.Endpoints = "policies are missing", "0" })
		s.pass(time.Hour)
		assert.Equal(t, []string{"create unarmed"}, s.take())
		assert.Equal(t, Waiting, s.keeper.Status().State)
		s.say(func(c *clearance.Clearance) { c.Reason = "" })
		s.pass(time.Hour)
		assert.Empty(t, s.take(), "its addresses have to be trusted first")
		s.say(func(c *clearance.Clearance) { c.Endpoints = "9" })
		s.pass(0)
		assert.Equal(t, []string{"patch armed"}, s.take())
		status := s.keeper.Status()
		assert.Equal(t, Armed, status.State)
		assert.True(t, status.Ready)
		assert.Equal(t, time.Now(), status.Since)
		assert.Equal(t, 1, s.log.count("node is Armed"))
	})
}

func TestNodeMovesFromOneSetToAnotherByOnePatchAndNotBeforeClearance(t *testing.T) {
	play(t, func(c *cluster) {
		c.put(testEndpoint("r1"))
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take(), "without a controller it stays as it is")
		s.change(func() { withClearance(s.cluster); s.said.Reason = "fw-ssh-r2 is missing" })
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		status := s.keeper.Status()
		assert.Equal(t, Waiting, status.State)
		assert.False(t, status.Ready)
		assert.Equal(t, "r1", status.Set)
		assert.Equal(t, "stays armed with set r1, not with r2: fw-ssh-r2 is missing", status.Reason)
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed with r1"}, s.take(), "what was armed is armed again as it was")
		s.say(func(c *clearance.Clearance) { c.Reason = "" })
		s.pass(0)
		assert.Equal(t, []string{"patch armed"}, s.take())
		assert.True(t, s.keeper.Status().Ready)
	})
}

func TestAgentSaysAtOnceWhatItWaitsForWhereOneNodeGoesFirst(t *testing.T) {
	play(t, func(c *cluster) {
		withClearance(c)
		c.said.Canary = "n0"
		c.put(testEndpoint("r1"))
	}, func(s *scene) {
		s.pass(0)
		assert.Equal(t, "r2", endpoint.NoteOf(s.stored["n1"]).Wanted)
		assert.Contains(t, s.keeper.Status().Reason, "node n0 goes first")
		s.say(func(c *clearance.Clearance) { c.Canary = "n1" })
		s.pass(0)
		assert.True(t, s.isArmed())
	})
	play(t, func(c *cluster) {
		withClearance(c)
		c.said.Endpoints = "0"
		c.put(testEndpoint("r1"))
	}, func(s *scene) {
		s.pass(0)
		assert.Equal(t, "r2", endpoint.NoteOf(s.stored["n1"]).Wanted, "and where the controller has not looked at the endpoint as it is now")
	})
	play(t, func(c *cluster) {
		withClearance(c)
		c.said.Reason = "waiting for a first node"
		c.put(testEndpoint("r1"))
	}, func(s *scene) {
		s.pass(0)
		assert.Equal(t, "r2", endpoint.NoteOf(s.stored["n1"]).Wanted, "and where the controller waits for just that")
	})
}

func TestAgentOfTheOldSetStaysReadyWhileTheControllerLooksAfterTheNewOne(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.say(func(c *clearance.Clearance) {
			c.Wanted.Revision, c.Present, c.Canary = "r3", []string{"r2", "r3"}, "n0"
		})
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		assert.True(t, s.keeper.Status().Ready)
		s.change(func() { s.remove("n1") })
		s.pass(0)
		assert.Equal(t, []string{"create armed"}, s.take())
	})
}

func TestWhatIsWrongWithAnArmedNodeIsSaidAndOpensNothing(t *testing.T) {
	for name, test := range map[string]struct {
		alter func(*clearance.Clearance)
		state State
	}{
		"a policy was edited":            {func(c *clearance.Clearance) { c.Drift = map[string]string{"r2": "that"} }, Armed},
		"somebody else's policy":         {func(c *clearance.Clearance) { c.Held = map[string][]string{"that": {"n1"}} }, Armed},
		"somebody else's, for all nodes": {func(c *clearance.Clearance) { c.Held = map[string][]string{"that": {clearance.AllNodes}} }, Armed},
		"somebody else's endpoint":       {func(c *clearance.Clearance) { c.Conflicts = map[string][]string{"that": {"n1"}} }, Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, withArmed, func(s *scene) {
				s.say(test.alter)
				s.pass(time.Minute)
				assert.Empty(t, s.take())
				status := s.keeper.Status()
				assert.Equal(t, test.state, status.State)
				assert.False(t, status.Ready)
				assert.Equal(t, "stays armed, but that", status.Reason)
				s.change(func() { s.said = cleared() })
				s.pass(time.Minute)
				assert.True(t, s.keeper.Status().Ready)
			})
		})
	}
}

// Old agents that are not ready would all be replaced at once, whatever maxUnavailable says.
func TestWhatNewValuesHoldAgainstANodeMakesNoOldAgentNotReady(t *testing.T) {
	for _, held := range []func(*clearance.Clearance){
		func(c *clearance.Clearance) { c.Held = map[string][]string{"that": {clearance.AllNodes}} },
		func(c *clearance.Clearance) { c.Conflicts = map[string][]string{"that": {clearance.AllNodes}} },
	} {
		play(t, withArmed, func(s *scene) {
			s.say(func(c *clearance.Clearance) { c.Rollout = "new"; held(c) })
			s.pass(time.Minute)
			assert.True(t, s.keeper.Status().Ready)
		})
	}
	play(t, func(c *cluster) { withClearance(c); c.said.Rollout = "new" }, func(s *scene) {
		s.pass(time.Minute)
		assert.Empty(t, s.take(), "and what is not judged by its values is not for it")
		assert.Contains(t, s.keeper.Status().Reason, "rolled out with other values")
	})
}

func TestEndpointThatIsDeletedWhileAPolicyIsLostComesBackUnarmed(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.say(func(c *clearance.Clearance) {
			c.Drift, c.Reason = map[string]string{"r2": "fw-ssh-r2 is missing"}, "fw-ssh-r2 is missing"
		})
		s.change(func() { s.remove("n1") })
		s.pass(time.Hour)
		assert.Equal(t, []string{"create unarmed"}, s.take())
		s.change(func() { s.said = cleared() })
		s.pass(0)
		assert.Equal(t, []string{"patch armed"}, s.take())
	})
}

func TestNodeLosesItsLabelWhenNoPolicyOfItsSetIsLeft(t *testing.T) {
	for _, set := range []string{"r1", "r2"} {
		play(t, func(c *cluster) { withClearance(c); c.said.Reason = "policies are missing"; c.put(testEndpoint(set)) }, func(s *scene) {
			s.pass(time.Minute)
			assert.Empty(t, s.take())
			s.say(func(c *clearance.Clearance) { c.Present = []string{clearance.None} })
			s.pass(time.Minute)
			assert.Equal(t, []string{"patch unarmed"}, s.take(), "nothing is enforced then, and what comes back may be half")
			assert.Equal(t, 1, s.log.count("no policy of set "+set+" is left"))
			s.change(func() { s.said = cleared() })
			s.pass(time.Minute)
			assert.Equal(t, []string{"patch armed"}, s.take())
		})
	}
}

func TestWayOutTakesTheEndpointAwayAndMakesNothingUntilItIsOver(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.say(func(c *clearance.Clearance) { c.Opened, c.Open, c.Paused = true, "we are locked out", true })
		s.pass(time.Hour)
		assert.Equal(t, []string{"delete armed"}, s.take())
		assert.False(t, s.keeper.Status().Ready)
		assert.Contains(t, s.keeper.Status().Reason, "we are locked out")
		s.say(func(c *clearance.Clearance) { c.Opened, c.Canary, c.Paused = false, "n0", false })
		s.pass(time.Hour)
		assert.Equal(t, []string{"create unarmed"}, s.take(), "through the gate again")
	})
}

func TestEndpointOfSomebodyElseIsLeftAlone(t *testing.T) {
	foreign := testEndpoint("")
	foreign.Labels, foreign.Annotations = map[string]string{"projectcalico.org/created-by": "calico-kube-controllers"}, nil
	play(t, func(c *cluster) {
		withClearance(c)
		c.put(foreign)
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		assert.Equal(t, Conflict, s.keeper.Status().State)
		assert.Contains(t, s.keeper.Status().Reason, "calico-kube-controllers")
		assert.Equal(t, 1, s.log.count("node is Conflict"))

		s.change(func() { s.remove("n1") })
		s.pass(time.Second)
		assert.Equal(t, []string{"create unarmed", "patch armed"}, s.take(), "a conflict that goes away is over")
	})
}

func TestAddressesOfInterfacesAreReported(t *testing.T) {
	config := testConfig()
	config.Links = func() ([]endpoint.Link, error) {
		return []endpoint.Link{
			{Name: "eth1", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("fe80::1")}},
			{Name: "lo", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.8")}},
			{Name: "docker0", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.9")}},
			{Name: "br-0123456789ab", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.10")}},
			{Name: "br-lan", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.11")}},
		}, nil
	}
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(time.Second)
		assert.Equal(t, []string{"192.0.2.1", "198.51.100.7", "198.51.100.11"}, s.stored["n1"].Spec.ExpectedIPs)
	})
}

func testConfig() Config {
	return Config{
		Node:     "n1",
		Release:  "fw",
		Set:      "r2",
		Patterns: []string{"*"},
		Links:    func() ([]endpoint.Link, error) { return nil, nil },
		Self:     nowhere{},
		Labels:   map[string]string{"host-endpoint": "ingress"},
		Resync:   10 * time.Minute,
	}
}

func testNode(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: "node-uid", CreationTimestamp: metav1.NewTime(time.Unix(4000, 0))},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}},
	}
}

// testEndpoint is one as an agent leaves it that was rolled out with the set that it is
// armed with.
func testEndpoint(set string) *v3.HostEndpoint {
	hep, _ := testConfig().shape().Desired(testNode("n1"), endpoint.Interface{Name: "*"}, nil, set)
	hep.ResourceVersion, hep.UID = "1", "hep-uid"
	note := endpoint.Note{State: "Waiting", Reason: "as it was left", Since: time.Unix(500, 0), Wanted: set}
	if set != "" {
		note.State, note.Reason = "Armed", "armed with policy set "+set
	}
	endpoint.SetNote(hep, nil, note)
	if set != "" {
		hep.Annotations[trial.Annotation] = trial.Status{Set: set, From: set, Phase: trial.Armed, Since: time.Unix(500, 0)}.Encode()
	}
	return hep
}

// Breaking in through the values: what somebody else's policy selects must not come with a set
// that the node may not have yet.
func TestNodeThatWaitsForASetKeepsTheLabelsOfTheOneThatItHas(t *testing.T) {
	config := testConfig()
	config.Labels = map[string]string{"role": "db"}
	playWith(t, config, func(c *cluster) {
		withClearance(c)
		c.said.Held = map[string][]string{"a deny for role == 'db'": {"n1"}}
		c.put(testEndpoint("r1"))
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.NotContains(t, s.stored["n1"].Labels, "role")
		assert.Equal(t, "ingress", s.stored["n1"].Labels["host-endpoint"])
		s.say(func(c *clearance.Clearance) { c.Held = nil })
		s.pass(time.Minute)
		assert.Equal(t, "db", s.stored["n1"].Labels["role"])
		assert.NotContains(t, s.stored["n1"].Labels, "host-endpoint")
	})
}

func TestNodeThatWaitsForASetKeepsTheFailsafeOfTheOneThatItHas(t *testing.T) {
	play(t, func(c *cluster) {
		withClearance(c)
		c.said.Reason = "fw-ssh-r2 is missing"
		c.put(testEndpoint("r1"))
		narrowed := &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "node.n1", Annotations: map[string]string{
			failsafe.Annotation: `{"release":"fw","written":[{"protocol":"TCP","port":22,"net":"203.0.113.0/24"}],"before":null,"created":true}`,
		}}, Spec: map[string]any{"failsafeInboundHostPorts": []any{map[string]any{"protocol": "TCP", "port": int64(22), "net": "203.0.113.0/24"}}}}
		c.putFelix(narrowed)
	}, func(s *scene) {
		s.pass(time.Hour)
		assert.Empty(t, s.take())
		s.say(func(c *clearance.Clearance) { c.Reason = "" })
		s.pass(time.Minute)
		assert.Equal(t, []string{"patch armed", "delete felix", "patch armed"}, s.take(), "for a moment with both sets")
	})
}

func TestLabelThatSomebodyPutsOnIsSetBackWhateverIsWanted(t *testing.T) {
	play(t, func(c *cluster) { withClearance(c); c.said.Reason = "fw-ssh-r2 is missing"; c.put(testEndpoint("r1")) }, func(s *scene) {
		s.spoil("n1", func(hep *v3.HostEndpoint) { hep.Labels[endpoint.SetLabel] = "deadbeef" })
		s.pass(time.Second)
		assert.Equal(t, []string{"patch armed with r1"}, s.take())
	})
}
