package kind

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// An upgrade is cut off at any moment, by the end of whoever takes part in it. Each node is at one set or the other all the time: what both allow
// never fails, what both close never opens. The next upgrade comes through. SEED repeats the moments of a run that failed.
func TestUpgradeThatIsKilledAtAnyMomentLeavesEachNodeAtOneSetOrTheOther(t *testing.T) {
	local(t, "end programs of a node")
	helm := helm3(t)
	r := install(t)
	old := setInForce(t)
	_, next := setOf(t, r, openToMore())
	more := expected(t, openToMore())
	chance := seeded(t)
	victims := victims(t, chance)
	rounds := 1
	if everyPairIsWalked() {
		rounds = 10
	}
	for range rounds {
		chance.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
		for i, victim := range victims {
			to, set, open := openToMore(), next, more
			if i%2 == 1 {
				to, set, open = rolling(), old, scene.Protected
			}
			after := time.Duration(chance.Int64N(int64(victim.within)))
			t.Run(fmt.Sprintf("%s after %s", victim.name, after.Round(10*time.Millisecond)), func(t *testing.T) {
				// Connections to an API server that has ended are refused, and it takes pods out of Services when it is back.
				watched := func(want scene.Expectation) scene.Expectation {
					return func(c scene.Cell) bool { return want(c) && !apiServer(c) && !scene.OfServices(c) }
				}
				reached := reached(t, place.Select(watched(both(scene.Protected, more))))
				unreached := unreached(t, place.Select(neither(scene.Protected, more)))
				upgrade := start(t, helm, append([]string{"upgrade"}, helm.with(t, to)...)...)
				<-time.After(after)
				if err := victim.end(t.Context(), upgrade); err != nil {
					t.Logf("nothing to end: %v", err) // a pod that is just being replaced
				}
				t.Logf("the upgrade: %v", upgrade.wait())
				requireEachAt(t, old, next)
				upgradeAfterAll(t, r, to)
				requireArmed(t)
				requireSet(t, set)
				requireTable(t, open, "upgraded after all")
				requireEachAt(t, old, next)
				reached()
				unreached()
			})
		}
	}
	_, err := r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "in the end")
}

// victim is somebody who takes part in an upgrade.
type victim struct {
	name   string
	within time.Duration // of the start of the upgrade: Helm is through soon, the agents are not
	end    func(context.Context, *helmProcess) error
}

// victims are all of them.
func victims(t *testing.T, chance *rand.Rand) []victim {
	const soon, later = 2 * time.Second, 30 * time.Second
	return []victim{
		{"helm", soon, func(_ context.Context, upgrade *helmProcess) error { return upgrade.kill() }},
		{"the controller", later, func(ctx context.Context, _ *helmProcess) error { return endPod(ctx, ofController, "") }},
		{"an agent", later, func(ctx context.Context, _ *helmProcess) error {
			return endPod(ctx, ofAgents, "spec.nodeName="+nodeNames()[chance.IntN(len(nodeNames()))])
		}},
		{"the API server", later, func(context.Context, *helmProcess) error {
			return hostOf(t, cluster.ControlPlaneNode).Crash(cluster.APIServerProgram)
		}},
	}
}

// seeded is a source of random numbers whose seed is told.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "SEED")
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// endPod ends what runs in a pod, as the kernel would for want of memory.
func endPod(ctx context.Context, labels, fields string) error {
	pid, err := processOf(ctx, labels, fields)
	if err != nil {
		return err
	}
	return unix.Kill(pid, unix.SIGKILL)
}

// requireEachAt wants the endpoint of each node to be armed with one of these sets now.
func requireEachAt(t *testing.T, sets ...string) {
	t.Helper()
	for _, node := range nodeNames() {
		eventually(t, "the endpoint of "+node, func(ctx context.Context) error { // the API server may be away
			hep, err := endpointOf(ctx, t, node)
			if err == nil {
				require.Contains(t, sets, release.CarriedBy(hep), node)
			}
			return err
		})
	}
}

// upgradeAfterAll upgrades a release, and does before what whoever finds it half upgraded has to.
func upgradeAfterAll(t *testing.T, r *release.Release, values map[string]any) {
	t.Helper()
	eventually(t, "the upgrade to come through", func(ctx context.Context) error {
		pending, err := r.Pending()
		if err == nil && pending {
			err = r.Rollback(0)
		}
		if err == nil {
			_, err = r.Upgrade(ctx, values)
		}
		return err
	})
}
