package kind

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// randomValues is how many random values are measured: VALUES=100, make values. The first of them are the same ones each time.
func randomValues(t *testing.T) uint64 {
	t.Helper()
	text, isSet := os.LookupEnv("VALUES")
	if !isSet {
		return 6
	}
	n, err := strconv.ParseUint(text, 10, 16)
	require.NoError(t, err, "VALUES")
	return n
}

// With whatever values: where verdict says that a connection passes it does, and where it says that it is dropped it is.
func TestPacketsMeetWhatVerdictSaysOfRandomValues(t *testing.T) {
	r := prepare(t)
	_, err := r.Install(t.Context(), situation{}.in("off"))
	require.NoError(t, err)
	count, reasons := map[bool]int{}, map[string]int{}
	for seed := range randomValues(t) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			values := atOnce(release.Values(inventor{rand.New(rand.NewPCG(seed, 0))}.values()))
			shown, err := yaml.Marshal(values)
			require.NoError(t, err)
			f, err := r.Firewall(t.Context(), values)
			require.NoError(t, err, "the inventor writes what the chart takes\n%s", shown)
			_, err = r.Upgrade(t.Context(), values)
			require.NoError(t, err)
			requireAsAskedFor(t, r, values)
			foretold := place.Foretell(f)
			require.Empty(t, scene.Mistakes(t.Context(), foretold, soon), "%s", shown)
			for _, told := range foretold {
				count[told.Open]++
				for _, by := range told.By {
					reasons[by]++
				}
			}
		})
	}
	t.Logf("open: %d, closed: %d, by: %v", count[true], count[false], reasons)
	assert.NotZero(t, count[true])
	assert.NotZero(t, count[false])
}

// inventor makes up values of which each says something else, in what packets can meet.
type inventor struct{ *rand.Rand }

func pick[T any](i inventor, from ...T) T { return from[i.IntN(len(from))] }

// some is a part of a list, often none of it.
func some[T any](i inventor, from ...T) []any {
	items := []any{}
	for _, item := range from {
		if i.IntN(len(from)) == 0 {
			items = append(items, item)
		}
	}
	return items
}

func (i inventor) likely() bool { return i.IntN(4) > 0 }

func (i inventor) values() map[string]any {
	mode := pick(i, "enforce", "enforce", "enforce", "enforce", "enforce", "enforce", "enforce", "audit", "off")
	trustNodes, trusted := i.likely(), i.networks()
	if !trustNodes { // they need each other, and no node is armed before
		trusted = append(trusted, nodes.ClusterCIDRs()[0], nodes.ClusterCIDRs()[1])
	}
	return map[string]any{
		"mode": mode,
		"ssh": map[string]any{
			"cidrs": i.networks(), "ports": pick(i, []any{22}, []any{22}, []any{"20:30"}, []any{22, "8000:8079"}, []any{2222}),
			"narrowFailsafe": i.likely(), "allowEverywhere": true,
		},
		"cluster": map[string]any{"cidrs": trusted, "trustNodes": trustNodes, "trustPods": i.likely(), "trustAPIServer": i.likely()},
		"essential": map[string]any{
			"icmpEcho": i.likely(), "dhcp": i.likely(), "nodeLocalDNS": pick(i, []any{"169.254.20.10/32"}, []any{}, []any{i.host() + "/32"}),
			"apiServerPorts": pick(i, []any{6443}, []any{6443}, []any{}, []any{443, 8080}),
		},
		"ingress":      i.ingress(),
		"policies":     i.policies(mode),
		"hostEndpoint": map[string]any{"interfaces": pick(i, []any{"*"}, []any{"*"}, []any{"eth*"}, []any{"*", "eth0"})},
	}
}

// host is the IPv4 address of somebody.
func (i inventor) host() string { return pick(i, nodes.Members()...).Addresses.V4.String() }

// networks are a few, in which people of the scene are or not.
func (i inventor) networks() []any {
	all := slices.Concat(nodes.AdminCIDRs(), nodes.StrangerCIDRs(), nodes.ClusterCIDRs(), []string{"10.0.0.0/8", "::/0"})
	for _, m := range nodes.Members() {
		all = append(all, m.Addresses.V4.String()+"/32", m.Addresses.V6.String()+"/128")
	}
	return some(i, all...)
}

func (i inventor) ingress() []any {
	entries := []any{}
	for n := range i.IntN(4) {
		protocol := pick[any](i, "TCP", "TCP", "TCP", "UDP", "UDP", "SCTP", "ICMP", "ICMPv6", 112)
		cidrs := append(i.networks(), pick(i, "0.0.0.0/0", nodes.StrangerCIDRs()[0]), pick(i, "::/0", nodes.StrangerCIDRs()[1]))
		entry := map[string]any{"name": fmt.Sprintf("entry-%d", n), "protocol": protocol}
		switch protocol {
		case "TCP", "UDP", "SCTP":
			entry["ports"] = append(some[any](i, cluster.SSHPort, cluster.OrdinaryPort, 10250, 68, 5473, "30000:32767"), pick[any](i, 9999, "8000:9000", "1:65535", "60000:60000"))
		case "ICMP":
			cidrs = slices.DeleteFunc(cidrs, func(c any) bool { return strings.Contains(c.(string), ":") })
		case "ICMPv6":
			cidrs = slices.DeleteFunc(cidrs, func(c any) bool { return !strings.Contains(c.(string), ":") })
		}
		entry["cidrs"] = cidrs
		entries = append(entries, entry)
	}
	return entries
}

// policies places them in one of the ways in which no drop comes before what may pass.
func (i inventor) policies(mode string) map[string]any {
	way := pick(i, "preDNAT", "preDNAT", "preDNAT", "mixed", "normal")
	if mode == "audit" {
		way = "preDNAT"
	}
	forward := pick(i, true, false)
	flags := func(preDNAT bool) map[string]any {
		return map[string]any{"preDNAT": preDNAT, "applyOnForward": preDNAT || forward, "order": pick(i, 1, 9.5, 10, 19)}
	}
	policies := map[string]any{"allowOutbound": map[string]any{"enabled": i.likely()}}
	for _, p := range []string{"allowEssential", "allowCluster", "allowSSH", "allowIngress"} {
		policies[p] = flags(way == "preDNAT" || way == "mixed" && i.IntN(2) == 0)
	}
	drop := flags(way == "preDNAT")
	drop["order"] = pick(i, 20, 1000)
	policies["dropOther"] = drop
	return policies
}
