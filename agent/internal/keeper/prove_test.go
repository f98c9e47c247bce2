package keeper

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// self is a node whose packets meet what a test says.
type self struct {
	mu       sync.Mutex
	seen     probe.Enforcement
	broken   map[string]string // problems by probes
	sessions []netip.AddrPort
	felix    probe.Readiness
	asks     int // how often Felix was asked
	rounds   int
	peers    string // what is told of them while they matter
	matters  bool
}

func newSelf() *self {
	return &self{seen: probe.Enforcement{IPv4: probe.Enforced, IPv6: probe.Enforced, Moved: probe.Enforced}, broken: map[string]string{}, felix: probe.Ready}
}

func (n *self) change(alter func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	alter()
}

// asked returns how many rounds there were.
func (n *self) asked() (rounds int) {
	n.change(func() { rounds = n.rounds })
	return rounds
}

func (n *self) Witness(context.Context, clearance.Witness) (seen probe.Enforcement) {
	n.change(func() { seen = n.seen })
	return seen
}

func (n *self) Round(_ context.Context, targets []probe.Target) (results []trial.Result) {
	time.Sleep(time.Millisecond) // the bubble's time, which passes no other way
	n.change(func() {
		n.rounds++
		for _, target := range append(targets, probe.Target{Name: "API server"}) {
			results = append(results, trial.Result{Probe: target.Name, Problem: n.broken[target.Name]})
		}
	})
	return results
}

func (n *self) Sessions([]uint16) (all []netip.AddrPort, _ error) {
	n.change(func() { all = n.sessions })
	return all, nil
}

func (n *self) Peers(_ context.Context, matters bool, _ func()) (text string) {
	n.change(func() {
		if n.matters = matters; matters {
			text = n.peers
		}
	})
	return text
}

func (n *self) FelixReady(context.Context) (readiness probe.Readiness, err error) {
	n.change(func() {
		n.asks++
		if readiness = n.felix; readiness != probe.Ready {
			err = fmt.Errorf("read from port %d: 503", n.asks)
		}
	})
	return readiness, err
}

// trying is a node that is armed with r1, and may try r2.
func trying(t *testing.T, test func(s *scene, n *self)) {
	t.Helper()
	tryingOn(t, newSelf(), test)
}

func tryingOn(t *testing.T, n *self, test func(s *scene, n *self)) {
	t.Helper()
	tryingWith(t, testConfig(), n, test)
}

func tryingWith(t *testing.T, config Config, n *self, test func(s *scene, n *self)) {
	t.Helper()
	config.Verify, config.Self = true, n
	playWith(t, config, func(c *cluster) {
		withClearance(c)
		c.said.Peers = map[string]netip.AddrPort{"n1": netip.MustParseAddrPort("192.0.2.1:10250"), "n2": netip.MustParseAddrPort("192.0.2.2:10250")}
		c.node.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
		c.put(testEndpoint("r1"))
	}, func(s *scene) { test(s, n) })
}

// goesBack lets the node move to r2 and go back from it.
func (s *scene) goesBack(n *self) {
	s.t.Helper()
	s.pass(time.Second)
	n.change(func() { n.broken["API server"] = "timeout" })
	s.pass(trial.GiveUp + 2*trial.Every)
	require.Equal(s.t, "r1", s.set())
}

// set returns the set that the node is armed with.
func (s *scene) set() string {
	return read(s.cluster, func() string { return endpoint.SetOf(s.stored["n1"]) })
}

func TestNodeMovesOnlyWhenItSeesThatFelixHasTheSet(t *testing.T) {
	open := newSelf()
	open.seen.IPv4 = probe.Open
	tryingOn(t, open, func(s *scene, n *self) {
		s.pass(time.Hour)
		assert.Equal(t, "r1", s.set())
		n.change(func() { n.seen.IPv4 = probe.Enforced })
		s.pass(2 * proveSoon)
		assert.Equal(t, "r2", s.set())
	})
	n, config := newSelf(), testConfig()
	config.Self, n.seen.IPv4 = n, probe.Open
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(time.Hour)
		assert.False(t, s.isArmed())
		assert.Contains(t, s.keeper.Status().Reason, "Felix on this node has not got all policies yet")
		n.change(func() { n.seen.IPv4 = probe.Unknown })
		s.pass(time.Minute)
		assert.False(t, s.isArmed())
		n.change(func() { n.seen.IPv4 = probe.Enforced })
		s.pass(proveSoon)
		assert.True(t, s.isArmed())
		assert.Equal(t, "IPv4 and IPv6", endpoint.NoteOf(s.stored["n1"]).Enforced)
	})
	playWith(t, config, func(c *cluster) { withClearance(c); c.said.Witnesses = nil }, func(s *scene) {
		s.pass(time.Hour)
		assert.False(t, s.isArmed(), "the controller has not written a witness")
	})
}

func TestArmedNodeWhoseRulesVanishSaysSoAndStaysArmed(t *testing.T) {
	n, config := newSelf(), testConfig()
	config.Self = n
	playWith(t, config, withArmed, func(s *scene) {
		s.pass(time.Minute)
		require.True(t, s.keeper.Status().Ready)
		n.change(func() { n.seen.IPv4 = probe.Open })
		s.pass(2 * time.Minute)
		status := s.keeper.Status()
		assert.Equal(t, Armed, status.State)
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "packets do not meet its rules any more")
		assert.Equal(t, "not enforced", status.Enforced)
		assert.True(t, s.isArmed())
		assert.Contains(t, s.kinds(), "NotReady")
		n.change(func() { n.seen.IPv4 = probe.Enforced })
		s.pass(proveSoon)
		assert.True(t, s.keeper.Status().Ready)
		n.change(func() { n.seen.IPv6 = probe.Open })
		s.pass(2 * time.Minute)
		status = s.keeper.Status()
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "over IPv6 do not meet its rules any more")
		assert.Equal(t, "IPv4, and IPv6 is not protected", status.Enforced)
	})
	n.change(func() { n.seen.IPv6 = probe.Open })
	playWith(t, config, withArmed, func(s *scene) {
		s.pass(time.Hour)
		assert.True(t, s.keeper.Status().Ready, "Felix may be told to leave IPv6 alone")
		assert.Equal(t, "IPv4, and IPv6 is not protected", s.keeper.Status().Enforced)
	})
}

// Rules stay in the kernel when Felix dies: a node that has moved, and still meets the set before, is cut off by nothing.
func TestNodeWhoseFelixDoesNotFollowTheLabelIsNeverArmed(t *testing.T) {
	dead := newSelf()
	dead.seen.Moved = probe.Open
	tryingOn(t, dead, func(s *scene, n *self) {
		s.pass(2 * time.Second)
		require.Equal(t, "r2", s.set())
		s.pass(trial.GiveUp)
		assert.Equal(t, "r1", s.set())
		status := s.keeper.Status()
		assert.Equal(t, RolledBack, status.State)
		assert.Contains(t, status.Reason, "Felix on this node has not followed the label of its endpoint")
		s.pass(trial.Pause + trial.GiveUp + 5*time.Second)
		assert.Equal(t, "r1", s.set())
		s.pass(time.Hour)
		assert.NotContains(t, s.kinds(), "Armed")

		n.change(func() { n.seen.Moved = probe.Enforced })
		s.say(func(c *clearance.Clearance) { c.Retry = "Felix is back" })
		s.pass(moment + trial.Settle + 5*time.Second)
		assert.Equal(t, Armed, s.keeper.Status().State)
		n.change(func() { n.seen.Moved = probe.Open })
		s.pass(2 * time.Minute)
		status = s.keeper.Status()
		assert.Equal(t, Armed, status.State)
		assert.False(t, status.Ready)
		assert.Contains(t, status.Reason, "Felix does not follow the label")
		assert.Equal(t, "not enforced", status.Enforced)
	})
}

func TestNodeMovesByWhatItSeesThenAndNotByWhatItSawBefore(t *testing.T) {
	for name, alter := range map[string]func(s *scene, n *self){
		"Felix has lost it": func(_ *scene, n *self) { n.change(func() { n.seen.IPv4 = probe.Open }) },
		"the witness was gone": func(s *scene, n *self) {
			s.say(func(c *clearance.Clearance) { c.Witnesses = nil })
			s.pass(time.Millisecond)
			n.change(func() { n.seen.IPv4 = probe.Open })
			s.say(func(c *clearance.Clearance) { c.Witnesses = cleared().Witnesses })
		},
	} {
		for _, verify := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, verify %t", name, verify), func(t *testing.T) {
				n, config := newSelf(), testConfig()
				config.Self, config.Verify = n, verify
				playWith(t, config, func(c *cluster) {
					withClearance(c)
					c.said.Reason = "not complete"
					c.put(testEndpoint("r1"))
				}, func(s *scene) {
					s.pass(time.Minute)
					alter(s, n)
					s.say(func(c *clearance.Clearance) { c.Reason = "" })
					s.pass(time.Hour)
					assert.Equal(t, "r1", s.set())
					n.change(func() { n.seen.IPv4 = probe.Enforced })
					s.pass(2 * proveSoon)
					assert.Equal(t, "r2", s.set())
				})
			})
		}
	}
}

func TestNodeThatCanNotSeeAWitnessWaitsAMomentAndSaysSo(t *testing.T) {
	for name, alter := range map[string]func(c *Config, said *clearance.Clearance){
		"eBPF": func(_ *Config, said *clearance.Clearance) { said.Unproven = "Felix runs with eBPF" },
		"eBPF here": func(c *Config, _ *clearance.Clearance) {
			c.Links = func() ([]endpoint.Link, error) { return []endpoint.Link{{Name: "bpfin.cali"}, {Name: "eth0"}}, nil }
		},
		"single interfaces": func(c *Config, _ *clearance.Clearance) { c.Patterns = []string{"eth*"} },
	} {
		t.Run(name, func(t *testing.T) {
			n, config, said := newSelf(), testConfig(), cleared()
			n.seen.IPv4 = probe.Open
			config.Self = n
			config.Links = func() ([]endpoint.Link, error) { return []endpoint.Link{{Name: "eth0"}}, nil }
			alter(&config, said)
			said.Reason = "not complete"
			playWith(t, config, func(c *cluster) { c.said = said }, func(s *scene) {
				s.pass(time.Hour)
				s.say(func(c *clearance.Clearance) { c.Reason = "" })
				s.pass(moment - 1)
				assert.Empty(t, s.keeper.Status().Set)
				s.pass(1)
				assert.Equal(t, "r2", s.keeper.Status().Set)
				assert.Contains(t, s.keeper.Status().Enforced, "unproven: ")
			})
		})
	}
}

func TestNodeTriesASetBeforeItCountsAsArmed(t *testing.T) {
	trying(t, func(s *scene, n *self) {
		s.pass(time.Second)
		assert.Equal(t, "r2", s.set())
		assert.Equal(t, Trying, s.keeper.Status().State)
		assert.False(t, s.keeper.Status().Ready, "a rolling update goes on when it is proven")
		assert.Equal(t, []string{"patch armed"}, s.take(), "by one patch")
		s.pass(moment + trial.Settle + 2*trial.Every)
		assert.Equal(t, Armed, s.keeper.Status().State)
		assert.True(t, s.keeper.Status().Ready)
		rounds := n.asked()
		s.pass(time.Hour)
		assert.Equal(t, rounds, n.asked(), "an armed node asks nobody any more")
		assert.Equal(t, []string{"Armed"}, s.kinds(), "and nothing was repaired")
	})
}

func TestNodeGoesBackByItselfFromWhatCutsIt(t *testing.T) {
	for _, cut := range []string{"API server", "kubelet of this node", "kubelets of other nodes", "loopback"} {
		t.Run(cut, func(t *testing.T) {
			trying(t, func(s *scene, n *self) {
				s.pass(time.Second)
				require.Equal(t, "r2", s.set())
				n.change(func() { n.broken[cut] = "timeout" })
				s.pass(trial.GiveUp + 2*trial.Every)
				assert.Equal(t, "r1", s.set())
				n.change(func() { n.broken = map[string]string{} })
				status := s.keeper.Status()
				assert.Equal(t, RolledBack, status.State)
				assert.False(t, status.Ready)
				assert.Contains(t, status.Reason, cut+": timeout")
				s.pass(5 * time.Second)
				assert.Contains(t, s.kinds(), "RolledBack")

				s.pass(trial.Pause)
				require.Equal(t, "r2", s.set(), "once more")
				n.change(func() { n.broken[cut] = "timeout" })
				s.pass(trial.GiveUp + 2*trial.Every)
				require.Equal(t, "r1", s.set())
				n.change(func() { n.broken = map[string]string{} })
				s.pass(time.Minute)
				s.take()
				s.pass(24 * time.Hour)
				assert.Empty(t, s.take(), "and then silence")
				assert.Equal(t, "r1", s.set())

				s.say(func(c *clearance.Clearance) { c.Retry = "mended" })
				s.pass(moment + trial.Settle + 5*time.Second)
				assert.Equal(t, Armed, s.keeper.Status().State)
				assert.Equal(t, "r2", s.set())
			})
		})
	}
}

// A newcomer's finding: a policy of his own cut nodes by a new label that came with the set. It
// stayed when the set went back, so going back did not help, and the second attempt did not miss what was cut.
func TestLabelsThatCameWithASetGoBackWithIt(t *testing.T) {
	config := testConfig()
	config.Labels = map[string]string{"role": "cut", "host-endpoint": "other"}
	tryingWith(t, config, newSelf(), func(s *scene, n *self) {
		s.pass(time.Second)
		require.Equal(t, "r2", s.set())
		labels := func() map[string]string {
			return read(s.cluster, func() map[string]string { return endpoint.Given(s.stored["n1"]) })
		}
		require.Equal(t, config.Labels, labels())
		s.goesBack(n)
		assert.Equal(t, map[string]string{"host-endpoint": "ingress"}, labels())
		s.pass(trial.Settle)
		assert.Equal(t, map[string]string{"host-endpoint": "ingress"}, labels(), "and it stays so")
	})
}

// What was there before sets selects by these labels whatever carries no set: a node that goes back to none would be closed with it.
func TestNodeThatGoesBackToNoSetCarriesNoLabelOfTheSettings(t *testing.T) {
	for name, undo := range map[string]func(s *scene){
		"it is held back": func(s *scene) {
			s.say(func(c *clearance.Clearance) { c.Held = map[string][]string{"a policy of somebody else": {"n1"}} })
		},
		"somebody took the label off": func(s *scene) {
			s.spoil("n1", func(hep *v3.HostEndpoint) { delete(hep.Labels, endpoint.SetLabel) })
			s.say(func(c *clearance.Clearance) { c.Held = map[string][]string{"a policy of somebody else": {"n1"}} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, config := newSelf(), testConfig()
			config.Verify, config.Self = true, n
			playWith(t, config, func(c *cluster) { withClearance(c); c.put(testEndpoint("")) }, func(s *scene) {
				s.pass(moment + 2*trial.Every)
				require.Equal(t, "r2", s.set())
				undo(s)
				s.pass(trial.Every)
				assert.Empty(t, s.set())
				assert.Empty(t, read(s.cluster, func() map[string]string { return endpoint.Given(s.stored["n1"]) }))
				assert.NotContains(t, s.stored["n1"].Labels, "host-endpoint")
			})
		})
	}
}

func TestAgentThatRestartsGoesOnWhereItWas(t *testing.T) {
	var left map[string]string
	trying(t, func(s *scene, _ *self) {
		s.pass(5 * time.Second)
		require.Equal(t, Trying, s.keeper.Status().State)
		left = maps.Clone(s.stored["n1"].Annotations)
	})
	n, config := newSelf(), testConfig()
	config.Verify, config.Self = true, n
	n.broken["API server"] = "timeout"
	playWith(t, config, func(c *cluster) {
		withClearance(c)
		hep := testEndpoint("r2")
		hep.Annotations = left
		c.put(hep)
	}, func(s *scene) {
		assert.Equal(t, Trying, s.keeper.Status().State)
		s.pass(trial.GiveUp + 2*trial.Every)
		assert.Equal(t, "r1", s.set())
		assert.Equal(t, RolledBack, s.keeper.Status().State)
	})
}

func TestNodeGoesBackWhereNobodyConfirmsOrTheControllerDoesNotReachIt(t *testing.T) {
	trying(t, func(s *scene, _ *self) {
		deadline := time.Now().Add(10 * time.Minute)
		s.say(func(c *clearance.Clearance) { c.Deadline = deadline })
		s.pass(time.Until(deadline))
		assert.Equal(t, "r2", s.set())
		s.pass(trial.Skew + time.Second)
		assert.Equal(t, "r1", s.set())
		assert.Contains(t, s.keeper.Status().Reason, "was not confirmed")
	})
	trying(t, func(s *scene, _ *self) {
		s.pass(time.Minute)
		s.say(func(c *clearance.Clearance) { c.Wanted.Revision, c.Deadline = "r3", time.Now() })
		s.pass(time.Hour)
		assert.Equal(t, "r2", s.set(), "the deadline is that of the set that the next agent comes with")
	})
	trying(t, func(s *scene, _ *self) {
		s.say(func(c *clearance.Clearance) { c.Deadline, c.Confirmed = time.Now().Add(10*time.Minute), "r2" })
		s.pass(time.Hour)
		assert.Equal(t, "r2", s.set())
	})
	trying(t, func(s *scene, _ *self) {
		s.pass(time.Second)
		s.say(func(c *clearance.Clearance) { c.Cut = map[string][]string{"the kubelet does not answer": {"n1"}} })
		s.pass(trial.GiveUp + 2*trial.Every)
		assert.Equal(t, "r1", s.set())
		assert.Contains(t, s.keeper.Status().Reason, "the kubelet does not answer")
	})
}

func TestFailsafeStaysAsItIsWhileThatCouldShutSomebodyOutOrHangFelix(t *testing.T) {
	stranger, admin := netip.MustParseAddrPort("198.51.100.9:40000"), netip.MustParseAddrPort("203.0.113.9:40000")
	for name, test := range map[string]struct {
		alter func(n *self)
		says  string
		mend  func(n *self)
	}{
		"everybody who is logged in comes from elsewhere": {
			func(n *self) { n.sessions = []netip.AddrPort{stranger} }, "198.51.100.9", func(n *self) { n.sessions = append(n.sessions, admin) },
		},
		"Felix is not ready": {func(n *self) { n.felix = probe.NotReady }, "when Felix is ready", func(n *self) { n.felix = probe.Ready }},
	} {
		t.Run(name, func(t *testing.T) {
			n, config := newSelf(), testConfig()
			config.Self, config.Failsafe = n, sshOnly()
			test.alter(n)
			playWith(t, config, withArmed, func(s *scene) {
				s.pass(time.Hour)
				assert.Empty(t, s.take())
				status := s.keeper.Status()
				assert.Equal(t, Armed, status.State)
				assert.False(t, status.Ready)
				assert.Contains(t, status.Reason, test.says)
				n.change(func() {
					assert.LessOrEqual(t, n.asks, 2*int(time.Hour/askAgain), "what differs from time to time is no reason to hurry")
				})
				note := func() string { return read(s.cluster, func() string { return endpoint.NoteOf(s.stored["n1"]).Reason }) }
				assert.Contains(t, note(), test.says, "for who asks status, and can't read that agent's log")
				require.Equal(t, []string{"NotReady"}, s.kinds())
				assert.Contains(t, s.events[0].Message, test.says)
				n.change(func() { test.mend(n) })
				s.pass(2 * askAgain)
				assert.Equal(t, []string{"create felix"}, s.take())
				assert.True(t, s.keeper.Status().Ready)
				assert.Equal(t, "armed with policy set r2", s.keeper.Status().Reason)
				s.pass(noteMost + noteSpread)
				assert.Equal(t, "armed with policy set r2", note())
			})
		})
	}
}

func TestFailsafeIsNotNarrowedWhileTheNodeTries(t *testing.T) {
	n, config := newSelf(), testConfig()
	config.Verify, config.Self, config.Failsafe = true, n, sshOnly()
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(trial.Settle)
		require.Equal(t, Trying, s.keeper.Status().State)
		assert.NotContains(t, s.take(), "create felix")
		s.pass(trial.Settle)
		assert.Equal(t, []*failsafe.Configuration{s.felix["node.n1"]}, []*failsafe.Configuration{s.felixNow["node.n1"]})
		assert.Contains(t, s.take(), "create felix")
		s.pass(time.Hour)
		assert.Equal(t, []string{"Armed"}, s.kinds())
		assert.Equal(t, "armed with policy set r2", s.events[0].Message, "and nothing that was over in a moment")
	})
}

func TestNodeThatMovesCarriesBothSetsForAMoment(t *testing.T) {
	label := func(s *scene) string {
		return read(s.cluster, func() string { return s.stored["n1"].Labels[endpoint.SetLabel] })
	}
	trying(t, func(s *scene, n *self) {
		s.pass(time.Second)
		assert.Equal(t, "r2.r1", label(s))
		s.pass(moment)
		assert.Equal(t, "r2", label(s))
		rounds := n.asked()
		s.pass(trial.Settle - time.Second)
		assert.Equal(t, Trying, s.keeper.Status().State, "both sets together prove nothing of the new one")
		assert.Greater(t, n.asked(), rounds)
		n.change(func() { n.broken["API server"] = "timeout" })
		s.pass(trial.GiveUp - moment - trial.Settle + 2*time.Second)
		assert.Equal(t, "r1.r2", label(s), "and so it goes back")
		s.pass(moment)
		assert.Equal(t, "r1", label(s))
	})
	playWith(t, testConfig(), withClearance, func(s *scene) {
		s.pass(time.Second)
		assert.Equal(t, "r2", label(s), "one that was open has nothing to carry")
	})
	// An agent that was killed in the moment left it.
	playWith(t, testConfig(), func(c *cluster) {
		withClearance(c)
		hep := testEndpoint("r2")
		hep.Labels[endpoint.SetLabel] = endpoint.Moving("r2", "r1")
		c.put(hep)
	}, func(s *scene) {
		s.pass(moment - 1)
		assert.Equal(t, "r2.r1", label(s))
		s.pass(1)
		assert.Equal(t, "r2", label(s))
	})
}

// nowhere is a Node on which all is well.
type nowhere struct{}

func (nowhere) Witness(context.Context, clearance.Witness) probe.Enforcement {
	return probe.Enforcement{IPv4: probe.Enforced, IPv6: probe.Enforced, Moved: probe.Enforced}
}
func (nowhere) Round(context.Context, []probe.Target) []trial.Result { return nil }
func (nowhere) Sessions([]uint16) ([]netip.AddrPort, error)          { return nil, nil }
func (nowhere) Peers(context.Context, bool, func()) string           { return "" }
func (nowhere) FelixReady(context.Context) (probe.Readiness, error)  { return probe.Silent, nil }

// The way that nobody confirms may be the one over SSH.
func TestFailsafeThatWasNarrowedWithASetThatNobodyConfirmsIsGivenBack(t *testing.T) {
	config := testConfig()
	config.Verify, config.Self, config.Failsafe = true, newSelf(), sshOnly()
	unconfirmed := func(c *cluster) {
		withClearance(c)
		c.said.Deadline = time.Now().Add(10 * time.Minute)
		c.put(testEndpoint("r1"))
	}
	playWith(t, config, unconfirmed, func(s *scene) {
		s.pass(10 * time.Minute)
		require.Contains(t, s.take(), "create felix")
		s.pass(trial.Skew + time.Minute)
		assert.Equal(t, "r1", s.set())
		assert.Contains(t, s.take(), "delete felix")
		s.pass(time.Hour)
		assert.Empty(t, s.take())
	})
	playWith(t, config, func(c *cluster) {
		unconfirmed(c)
		c.putFelix(&failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "node.n1", Annotations: map[string]string{
			failsafe.Annotation: `{"release":"fw","written":[{"protocol":"TCP","port":22,"net":"192.0.2.0/24"}],"before":null,"created":true,"since":"r1"}`,
		}}, Spec: map[string]any{"failsafeInboundHostPorts": []any{map[string]any{"protocol": "TCP", "port": int64(22), "net": "192.0.2.0/24"}}}})
	}, func(s *scene) {
		s.pass(10*time.Minute + trial.Skew + time.Minute)
		assert.Equal(t, "r1", s.set())
		assert.NotContains(t, s.take(), "delete felix", "the set before was narrowed too, and lets its administrators in")
	})
}

func TestNodeThatTheControllerDoesNotReachTriesNothing(t *testing.T) {
	trying(t, func(s *scene, n *self) {
		s.goesBack(n)
		n.change(func() { n.broken = map[string]string{} })
		s.say(func(c *clearance.Clearance) { c.Cut = map[string][]string{"no route": {"n1"}} })
		s.pass(time.Hour)
		assert.Equal(t, "r1", s.set())
		s.say(func(c *clearance.Clearance) { c.Cut = nil })
		s.pass(2 * trial.Fresh)
		assert.Equal(t, "r2", s.set())
	})
}

func TestNodeThatWentBackToASetThatIsGoneIsDisarmed(t *testing.T) {
	trying(t, func(s *scene, n *self) {
		s.goesBack(n)
		s.say(func(c *clearance.Clearance) { c.Present = []string{"r2"} })
		s.pass(time.Second)
		assert.Empty(t, s.set())
	})
}

// The policies of then select by the label of the settings, and one of a set that is not there or is that of then.
func TestNodeThatWasArmedBeforeThereWereSetsMovesByOneLabelAndGoesBack(t *testing.T) {
	n, config := newSelf(), testConfig()
	config.Verify, config.Self = true, n
	playWith(t, config, func(c *cluster) {
		withClearance(c)
		c.said.Present, c.said.Reason = []string{endpoint.Before, "r2"}, "not yet"
		old := testEndpoint("")
		maps.Copy(old.Labels, config.Labels)
		old.Annotations = map[string]string{endpoint.StateAnnotation: `{"state":"Armed","since":"2026-01-02T03:04:05Z","labels":["host-endpoint"]}`}
		c.put(old)
	}, func(s *scene) {
		is := func(set string) {
			t.Helper()
			labels := read(s.cluster, func() map[string]string { return s.stored["n1"].Labels })
			assert.Equal(t, set, labels[endpoint.SetLabel])
			assert.Equal(t, "ingress", labels["host-endpoint"])
		}
		s.pass(time.Hour)
		is(endpoint.Before)
		s.say(func(c *clearance.Clearance) { c.Reason = "" })
		s.pass(time.Second)
		is("r2." + endpoint.Before)
		n.change(func() { n.broken["API server"] = "timeout" })
		s.pass(trial.GiveUp + 2*trial.Every)
		is(endpoint.Before + ".r2")
		s.pass(time.Minute)
		n.change(func() { clear(n.broken) })
		s.pass(time.Hour)
		is("r2")
	})
}

func TestNodeThatIsRegisteredAnewWaitsUntilTheControllerHasLookedAtIt(t *testing.T) {
	play(t, withArmed, func(s *scene) {
		s.pass(time.Minute)
		require.Equal(t, "r2", s.set())
		s.change(func() {
			// Kubernetes collects what the Node before has left.
			s.node = testNode("n1")
			s.node.UID, s.node.CreationTimestamp = "another", metav1.NewTime(time.Unix(6000, 0))
			s.remove("n1")
		})
		s.pass(time.Minute)
		assert.NotContains(t, s.stored, "n1")
		assert.Contains(t, s.keeper.Status().Reason, "has not looked at this Node yet")
		s.say(func(c *clearance.Clearance) { c.Nodes = time.Unix(7000, 0) })
		s.pass(time.Minute)
		assert.True(t, s.isArmed())
	})
}
