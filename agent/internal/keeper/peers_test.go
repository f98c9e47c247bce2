package keeper

import (
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
)

// told returns what an endpoint tells of peers.
func (s *scene) told(name string) string {
	return read(s.cluster, func() string { return s.stored[name].Annotations[peers.Annotation] })
}

// patches returns how many patches there were since the last call, notes among them.
func (s *scene) patches() int {
	return read(s.cluster, func() (patches int) {
		for _, request := range s.requests {
			if strings.HasPrefix(request, "patch") {
				patches++
			}
		}
		s.requests = nil
		return patches
	})
}

func (n *self) sees(s *scene, text string) {
	n.change(func() { n.peers = text })
	s.keeper.Wake()
	s.pass(time.Millisecond)
}

// What matters before the node is closed is there with the endpoint, before anybody can clear the node; and nothing stale
// is left once it is armed.
func TestPeersAreToldFromTheFirstMomentAndNoMoreOnceArmed(t *testing.T) {
	n, config := newSelf(), testConfig()
	n.peers, config.Self, config.Verify = "one", n, true
	playWith(t, config, func(c *cluster) {
		withClearance(c)
		c.said.Reason = "not yet"
	}, func(s *scene) {
		assert.Equal(t, []string{"create unarmed"}, s.take())
		assert.Equal(t, "one", s.told("n1"))
		n.sees(s, "two")
		assert.Equal(t, 1, s.patches(), "who paces it is the one that tells")
		assert.Equal(t, "two", s.told("n1"))
		s.keeper.Wake()
		s.pass(10 * time.Second)
		assert.Zero(t, s.patches(), "it is told once")

		s.say(func(c *clearance.Clearance) { c.Reason = "" })
		s.pass(5 * time.Second)
		assert.Equal(t, "r2", s.set())
		n.sees(s, "three")
		assert.Equal(t, "three", s.told("n1"), "while it tries")
		s.pass(time.Minute)
		assert.True(t, s.isArmed())
		assert.Empty(t, s.told("n1"))
		assert.False(t, n.matters)
		s.patches()
		n.sees(s, "four")
		s.pass(time.Hour)
		assert.Zero(t, s.patches())
		assert.Empty(t, s.told("n1"))
	})
}

func TestPeersAreToldInAuditAndWhileANodeStaysBehind(t *testing.T) {
	n, config := newSelf(), testConfig()
	n.peers, config.Self, config.Audit = "one", n, true
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(10 * time.Minute)
		assert.True(t, s.isArmed())
		assert.Equal(t, "one", s.told("n1"), "in audit")
	})
	n = newSelf()
	n.peers, n.seen.IPv4 = "one", probe.Open
	tryingOn(t, n, func(s *scene, n *self) {
		s.pass(10 * time.Minute)
		assert.Equal(t, "r1", s.set())
		assert.Equal(t, "one", s.told("n1"), "at an older set")
	})
	trying(t, func(s *scene, n *self) {
		s.goesBack(n)
		n.sees(s, "one")
		assert.Empty(t, s.told("n1"), "gone back")
		assert.False(t, n.matters)
	})
}

// The controller looks at each version of an endpoint before it is armed.
func TestPeersDoNotKeepANodeThatMayBeArmedFromThat(t *testing.T) {
	n := newSelf()
	n.peers, n.seen.IPv4 = "one", probe.Open
	tryingOn(t, n, func(s *scene, n *self) {
		s.pass(10 * time.Minute)
		assert.Equal(t, "one", s.told("n1"), "with what says that there is another agent")
		n.sees(s, "one and a half")
		s.pass(10 * time.Minute)
		assert.Equal(t, "one and a half", s.told("n1"), "Felix is not so far, and who knows for how long")
		s.say(func(c *clearance.Clearance) { c.Endpoints = "1" })
		n.change(func() { n.seen = newSelf().seen })
		s.pass(10 * time.Minute)
		assert.Equal(t, "r1", s.set(), "the controller has not looked at it yet")
		s.patches()
		for _, text := range []string{"two", "three"} {
			n.sees(s, text)
			s.pass(10 * time.Minute)
		}
		assert.Zero(t, s.patches())
		s.say(func(c *clearance.Clearance) { c.Reason = "not yet" })
		s.pass(time.Second)
		assert.Equal(t, "three", s.told("n1"), "it may not any more")
	})
}

func TestPeersMatterNotWhereNothingIsToBeArmed(t *testing.T) {
	n, config := newSelf(), testConfig()
	n.peers, config.Self, config.Off = "one", n, true
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(time.Hour)
		assert.False(t, n.matters)
		assert.Empty(t, s.told("n1"))
	})
}

// Where several endpoints are of one node, one of them tells.
func TestPeersAreToldOnceForANode(t *testing.T) {
	n, config := newSelf(), testConfig()
	n.peers, config.Self, config.Audit = "one", n, true
	config.Patterns = []string{"eth*"}
	config.Links = func() ([]endpoint.Link, error) {
		return []endpoint.Link{{Name: "eth1"}, {Name: "eth0"}}, nil
	}
	playWith(t, config, withClearance, func(s *scene) {
		s.pass(time.Minute)
		assert.Equal(t, "one", s.told("n1-eth0"))
		assert.Empty(t, s.told("n1-eth1"))
	})
}

// Somebody who takes it away, or writes nonsense, fights nobody: it is written again.
func TestPeersAreNoFieldThatIsFoughtOver(t *testing.T) {
	n, config := newSelf(), testConfig()
	n.peers, config.Self, config.Audit = "one", n, true
	playWith(t, config, withArmed, func(s *scene) {
		s.pass(time.Minute)
		assert.Equal(t, "one", s.told("n1"))
		assert.Empty(t, endpoint.Fields("", []byte(`{"metadata":{"resourceVersion":"1","annotations":{"host-firewall.io/peers":"x","host-firewall.io/state":"y"}}}`)))
		s.patches()
		for range 10 {
			s.spoil("n1", func(hep *v3.HostEndpoint) { delete(hep.Annotations, peers.Annotation) })
			s.pass(time.Second)
		}
		assert.LessOrEqual(t, s.patches(), 1)
		s.pass(noteMost + noteSpread)
		assert.Equal(t, "one", s.told("n1"))
		assert.NotContains(t, s.kinds(), "Repaired")
		assert.NotContains(t, s.kinds(), "Contested")
	})
}
