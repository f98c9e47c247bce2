package trial_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// chance is a world in which anything may happen, and what was seen of it.
type chance struct {
	*world
	*rand.Rand
	cut     map[string]string // the probe that a set cuts, by set
	broken  map[string]bool   // probes that don't work for another reason
	stored  trial.Status      // as it was last written
	count   int               // moves to one set, since anybody said anything new about it
	moved   time.Time         // when the last of them was made
	started time.Time         // when the agent was
	hinders time.Time         // when it was last away, or could not write
	jumped  bool              // whether the agent has started with another clock since the move
}

// newChance is a node that carries A or nothing. Of what it may move to, each cuts something
// or nothing.
func newChance(t *testing.T, seed uint64) *chance {
	c := &chance{Rand: rand.New(rand.NewPCG(seed, 17)), cut: map[string]string{}, broken: map[string]bool{}}
	c.world = newWorld(t, []string{"", "A"}[c.IntN(2)])
	c.both = 5 * time.Second
	c.in.Verify = c.IntN(8) > 0
	for _, set := range []string{"R", "S"} {
		if c.IntN(2) == 0 {
			c.cut[set] = c.anyProbe()
		}
	}
	c.fails = func(probe string) string {
		switch {
		case c.cut[c.carried] == probe, c.cut[c.leaves] == probe:
			return "timeout"
		case c.broken[probe]:
			return "broken"
		}
		return ""
	}
	c.writes = c.judge
	return c
}

func (c *chance) anyProbe() string { return probes()[c.IntN(len(probes()))] }

// judge looks at what the agent writes.
func (c *chance) judge(s trial.Status, from string) {
	carry, was := c.last.Carry, c.stored
	c.stored = s
	if carry != from {
		require.Contains(c.t, []string{s.From, s.Set}, carry, "what is carried is what it came from, or has moved to: %+v", s)
	}
	if carry != from && carry == s.Set && carry != s.From {
		if c.count++; was.Set != s.Set {
			c.count = 1
		}
		require.LessOrEqual(c.t, c.count, trial.Attempts, "moves to set %s", s.Set)
		c.moved, c.jumped = c.now, false
	}
	if s.Phase == trial.Armed {
		require.False(c.t, was.Phase == trial.Trying && was.Set == s.Set && c.in.Verify && c.in.Unseen != "", "not before its rules are seen: %+v", s)
		c.count = 0
		if cut := c.cut[s.Set]; cut != "" && c.in.Verify {
			require.NotContains(c.t, s.Baseline, cut, "what worked before and stays cut is not armed: %+v", s)
		}
	}
}

// passes lets a second pass. No trial lasts longer than a minute, but for what the agent could
// not do.
func (c *chance) passes() {
	c.run(1, nil)
	if c.down || c.away || c.refuses {
		c.hinders = c.now
	}
	ends := c.moved.Add(trial.GiveUp)
	for _, later := range []time.Time{c.started.Add(trial.Catch), c.hinders} {
		if later.After(ends) {
			ends = later
		}
	}
	if again := c.started.Add(trial.GiveUp); c.jumped && again.After(ends) {
		ends = again // it knows no more how long it was away
	}
	if c.stored.Phase == trial.Trying && c.now.After(ends.Add(2*trial.Every)) {
		require.Fail(c.t, "it tries too long", "%s: %+v", c.timeline(), c.last)
	}
}

// starts is the agent's start, also after it was killed.
func (c *chance) starts() {
	c.jumped = c.jumped || c.began != c.clock
	c.restart()
	c.started = c.now
}

// happens is anything.
func (c *chance) happens() {
	toggle := func(text *string, to string) {
		if *text != "" {
			to = ""
		}
		*text = to
	}
	switch c.IntN(14) {
	case 0:
		c.starts()
	case 1:
		if c.down = !c.down; !c.down {
			c.starts()
		}
	case 2:
		c.away = !c.away
	case 3:
		c.refuses = !c.refuses
	case 4:
		c.clock += time.Duration(c.IntN(240)-120) * time.Second
	case 5:
		toggle(&c.in.Held, "HostEndpoint rival wins")
	case 6:
		toggle(&c.in.Blocked, "node n0 goes first")
	case 7:
		toggle(&c.in.Cut, "its kubelet does not answer the controller")
	case 13:
		toggle(&c.in.Unseen, "Felix has not followed the label")
	case 8:
		c.in.Retry, c.count = fmt.Sprint("retry at ", c.now), 0
	case 9:
		probe := c.anyProbe()
		c.broken[probe] = !c.broken[probe]
	case 10:
		c.in.Set = []string{"A", "R", "S"}[c.IntN(3)]
		c.in.Deadline, c.in.Confirmed = time.Time{}, false
		c.starts()
	case 11:
		c.carried, c.leaves = "", ""
		c.world.moved()
	case 12:
		if c.in.Confirmed = c.IntN(2) == 0; c.in.Confirmed {
			c.in.Deadline = time.Time{}
		} else {
			c.in.Deadline = c.now.Add(time.Duration(c.IntN(200)) * time.Second)
		}
	}
}

// ends is what becomes of it when nothing happens any more and all is well, but for what sets cut.
func (c *chance) ends() {
	c.starts()
	c.away, c.refuses = false, false
	c.in.Held, c.in.Blocked, c.in.Cut, c.in.Unseen = "", "", "", ""
	clear(c.broken)
	c.run(2*long, nil)
	atRest(c.t, c.world)
	expired := !c.in.Deadline.IsZero()
	switch s := c.status; {
	case s.Phase == trial.Armed && s.Set == c.in.Set, s.Final() && s.Set == c.in.Set:
		assert.Equal(c.t, c.last.Carry, c.carried)
	default:
		assert.True(c.t, expired, "it neither moved nor has given up: %+v", c.last)
	}
}

func TestNoChainOfAccidentsBreaksAPromise(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			c := newChance(t, seed)
			for range long {
				for c.IntN(12) == 0 {
					c.happens()
				}
				c.passes()
			}
			c.ends()
		})
	}
}
