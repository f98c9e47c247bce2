package proof_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/proof"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// after is what looks come to, one each second, at once after the last of them.
func after(moved bool, looks ...probe.Enforcement) (r *proof.Record, p proof.Proof) {
	r = &proof.Record{}
	for i, seen := range looks {
		r.Add(seen, noon.Add(time.Duration(i)*time.Second), moved)
		p = r.Of(noon.Add(time.Duration(i) * time.Second))
	}
	return r, p
}

func TestEachThingThatPacketsShowHasItsWord(t *testing.T) {
	const e, o, u = probe.Enforced, probe.Open, probe.Unknown
	const looking, flushed, over6, label = "looking whether Felix has the policies", "somebody has flushed them, or Felix is stuck or gone", "packets over IPv6 do not", "does not follow the label"
	well := probe.Enforcement{IPv4: e, IPv6: e, Moved: e}
	for name, test := range map[string]struct {
		first, then       probe.Enforcement
		moved             bool
		lack, stays, lost string
	}{
		"all is well":                      {well, well, true, "", "", ""},
		"nobody has looked":                {probe.Enforcement{}, probe.Enforcement{}, true, looking, looking, flushed},
		"Felix has not got the set":        {well, probe.Enforcement{IPv4: o, IPv6: o, Moved: o}, true, "has not got all policies", "has not got all policies", flushed},
		"the control does not answer":      {well, probe.Enforcement{IPv4: u, IPv6: e, Moved: u}, true, "(unknown)", "(unknown)", flushed},
		"it has not followed the label":    {well, probe.Enforcement{IPv4: e, IPv6: e, Moved: o}, true, "", "has not followed the label of its endpoint", label},
		"there is nothing to follow":       {well, probe.Enforcement{IPv4: e, IPv6: e, Moved: o}, false, "", "has not followed the label of its endpoint", ""},
		"that it has followed is not seen": {well, probe.Enforcement{IPv4: e, IPv6: e, Moved: u}, true, "", "(unknown)", ""},
		"IPv6 is flushed":                  {well, probe.Enforcement{IPv4: e, IPv6: o, Moved: e}, true, "", "", over6},
		"IPv6 was never protected":         {probe.Enforcement{IPv4: e, IPv6: o, Moved: e}, probe.Enforcement{IPv4: e, IPv6: o, Moved: e}, true, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			says := func(words, text string) {
				assert.Contains(t, text, words)
				assert.Equal(t, words == "", text == "", text)
			}
			_, p := after(test.moved, test.first, test.then, test.then)
			says(test.lack, p.Lack)
			says(test.stays, p.Stays)
			if test.first == well {
				assert.Empty(t, p.Lost, "two looks in a row may be an accident")
			}
			_, p = after(test.moved, test.first, test.then, test.then, test.then)
			says(test.lost, p.Lost)
		})
	}
}

func TestWhatWasSeenLongAgoIsNoReasonToMove(t *testing.T) {
	well := probe.Enforcement{IPv4: probe.Enforced, IPv6: probe.Enforced, Moved: probe.Enforced}
	r, p := after(true, well)
	assert.Empty(t, p.Lack+p.Stays+p.Lost)
	p = r.Of(noon.Add(trial.Fresh))
	assert.Equal(t, []string{"looking whether Felix has the policies", "looking whether Felix has the policies"}, []string{p.Lack, p.Stays})
	assert.Equal(t, "IPv4 and IPv6", p.Says, "and is still what is known")
	assert.False(t, r.Add(well, noon, true), "each look is taken once")
	assert.Empty(t, r.Of(noon).Lack)

	assert.Contains(t, r.Forget(noon.Add(time.Second)).Lack, "the controller has not written")
	assert.False(t, r.Add(well, noon, true), "of a witness that has gone since")
	assert.Equal(t, "looking whether Felix has the policies", r.Of(noon.Add(time.Second)).Lack)
	assert.True(t, r.Add(well, noon.Add(2*time.Second), true))
	assert.Empty(t, r.Of(noon.Add(2*time.Second)).Lack)
}
