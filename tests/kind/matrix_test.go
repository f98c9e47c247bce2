package kind

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// situation is one kind of values in one mode.
type situation struct {
	name, mode string
	values     map[string]any
}

func situations() []situation {
	ssh := map[string]any{"cidrs": nodes.AdminCIDRs()}
	return []situation{
		{"defaults", "enforce", nil},
		{"SSH CIDRs", "enforce", map[string]any{"ssh": ssh}},
		// Its networks are those of this cluster's nodes and pods.
		{"article", "enforce", map[string]any{
			"cluster": map[string]any{"cidrs": nodes.ClusterCIDRs(), "trustNodes": false, "trustPods": false},
		}},
		{"ingress list", "enforce", openToMore()},
		{"host ports only", "enforce", map[string]any{"ssh": ssh, "policies": withoutPreDNAT()}},
		{"audit", "audit", map[string]any{"ssh": ssh}},
		{"named interfaces", "enforce", map[string]any{"ssh": ssh, "hostEndpoint": map[string]any{"interfaces": []any{"eth*"}}}},
	}
}

func listed(name, protocol string, port any, cidrs ...string) map[string]any {
	return map[string]any{"name": name, "protocol": protocol, "ports": []any{port}, "cidrs": cidrs}
}

// withoutPreDNAT makes all policies govern the hosts' own ports and nothing else.
func withoutPreDNAT() map[string]any {
	policies := map[string]any{}
	for _, p := range []string{"allowEssential", "allowCluster", "allowSSH", "allowIngress", "dropOther"} {
		policies[p] = map[string]any{"preDNAT": false, "applyOnForward": false}
	}
	return policies
}

// in are the values in a mode.
func (s situation) in(mode string) map[string]any {
	v := atOnce(release.Values(s.values))
	v["mode"] = mode
	return v
}

// TestMatrix prints who reaches what with which values, and wants it to be what verdict says of the policies: go test ./tests/kind -run TestMatrix -v. What is closed stands between
// two matrices in which it was open.
func TestMatrix(t *testing.T) {
	r := prepare(t)
	off := situation{"off", "off", nil}
	_, err := r.Install(t.Context(), off.in(off.mode))
	require.NoError(t, err)
	requireMatrix(t, r, off)
	for _, s := range situations() {
		t.Run(s.name, func(t *testing.T) {
			upgrade(t, r, s)
			upgrade(t, r, situation{"off after " + s.name, "off", s.values})
		})
	}
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
}

// upgrade gives a release other values.
func upgrade(t *testing.T, r *release.Release, s situation) {
	t.Helper()
	_, err := r.Upgrade(t.Context(), s.in(s.mode))
	require.NoError(t, err)
	requireMatrix(t, r, s)
}

// requireMatrix waits until everything is as the values want it, and all agents say so, and wants it to be so when it is measured again,
// with new connections. It prints what was measured.
func requireMatrix(t *testing.T, r *release.Release, s situation) {
	t.Helper()
	want := expected(t, s.in(s.mode))
	requireTable(t, want, s.name)
	requireAsAskedFor(t, r, s.in(s.mode))
	table := place.Measure()
	t.Logf("%s\n%s", s.name, table)
	require.Empty(t, table.Surprises(want))
}

// Audit is to meet each packet that enforcing would drop, and no other.
func TestAuditDropsNothingAndLogsWhatItWouldDrop(t *testing.T) {
	r := prepare(t)
	closed := closedByTheHost(t)
	v := values()
	v["mode"] = "audit"
	_, err := r.Install(t.Context(), v)
	require.NoError(t, err)
	requireArmed(t)
	eventually(t, "every node to log", func(ctx context.Context) error { _, err := logged(ctx); return err })
	requireOpen(t, "audit")
	closed("in audit")

	// SSH is not among it: its failsafe is as ever, for narrowing it would close something.
	dropped := func(c scene.Cell) bool { return !scene.ProtectedButSSH(c) }
	requireLogged(t, dropped, 1)
	requireLogged(t, scene.ProtectedButSSH, 0)
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
}

// requireLogged asks along every path of some cells, with one new connection or datagram each, and wants so many of its packets
// to be logged.
func requireLogged(t *testing.T, cells scene.Expectation, packets int) {
	t.Helper()
	before, err := logged(t.Context())
	require.NoError(t, err)
	asked := 0
	for _, a := range probe.Ask(place.Select(cells)) {
		require.True(t, a.Open(), "%v", a.Errors)
		asked += len(a.To)
	}
	require.NotZero(t, asked)
	after, err := logged(t.Context())
	require.NoError(t, err)
	require.Equal(t, packets*asked, after-before, "packets that were logged, of %d that were the first of a connection", asked)
}

// policyChain is what Felix makes of a policy for what comes in, and logRule a rule there that logs, and how many packets it has met, as nft
// shows them whoever has made them: iptables or nftables Felix.
var (
	policyChain = regexp.MustCompile(`(?ms)^\tchain \S*cali-pi-.*?^\t\}$`)
	logRule     = regexp.MustCompile(`(?m)\bcounter packets (\d+) bytes \d+ log prefix "[^"]*"( level \w+)?( comment "[^"]*")?$`)
)

// logged counts the packets that log rules of policies have met on all nodes. Every node has to have such rules, for each family.
func logged(ctx context.Context) (packets int, err error) {
	for _, node := range nodeNames() {
		for _, family := range []string{"ip", "ip6"} {
			cmd, err := nodes.Command(ctx, node, "nft", "list", "ruleset", family)
			if err != nil {
				return 0, err
			}
			rules, err := cmd.Output()
			if err != nil {
				return 0, fmt.Errorf("list rules: %w", err)
			}
			var found [][][]byte
			for _, chain := range policyChain.FindAll(rules, -1) {
				found = append(found, logRule.FindAllSubmatch(chain, -1)...)
			}
			if len(found) == 0 {
				return 0, fmt.Errorf("%s has no rule for %s that logs", node, family)
			}
			for _, f := range found {
				n, err := strconv.Atoi(string(f[1]))
				if err != nil {
					return 0, fmt.Errorf("read counter: %w", err)
				}
				packets += n
			}
		}
	}
	return packets, nil
}

// Nobody's open connection breaks, not even one that could not be opened any more: Felix lets pass what the kernel has seen
// established before it asks any policy.
func TestOpenConnectionsSurviveEveryChangeOfPolicies(t *testing.T) {
	r := prepare(t)
	old := hold(t, place.Streams(scene.Everything))
	_, err := r.Install(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "with the stranger's old connections still open")
	young := hold(t, place.Streams(scene.Protected))

	// The old connections of the new ones show that these are not a slip.
	others := map[string]any{"cidrs": nodes.StrangerCIDRs()}
	for _, s := range []situation{
		{"the admin is none any more", "enforce", map[string]any{"ssh": others}},
		{"without preDNAT", "enforce", map[string]any{"ssh": others, "policies": withoutPreDNAT()}},
		{"off", "off", nil},
	} {
		upgrade(t, r, s)
	}
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	young()
	old()
}
