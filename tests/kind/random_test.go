package kind

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// randomValues is how many random values are measured, the same ones each time: VALUES=100, make values.
func randomValues(t *testing.T, few uint64) uint64 {
	t.Helper()
	text, isSet := os.LookupEnv("VALUES")
	if !isSet {
		return few
	}
	n, err := strconv.ParseUint(text, 10, 16)
	require.NoError(t, err, "VALUES")
	return n
}

// With whatever values: where verdict says that a connection passes it does, and where it says that it is dropped it is. Endpoints, trust and
// failsafe are written here as a release writes them, for a release takes longer.
func TestPacketsMeetWhatVerdictSaysOfRandomValues(t *testing.T) {
	r := prepare(t)
	requireTrust(t)
	count, reasons := map[bool]int{}, map[string]int{}
	for seed := range randomValues(t, 10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			values, f := invented(t, r, seed)
			enforce(t, r, values, f)
			foretold := place.Foretell(f)
			if mistakes := scene.Mistakes(t.Context(), foretold, soon); len(mistakes) > 0 {
				shown, err := yaml.Marshal(values)
				require.NoError(t, err)
				t.Fatalf("%s\n%s", strings.Join(mistakes, "\n"), shown)
			}
			for _, told := range foretold {
				count[told.Open]++
				for _, by := range told.By {
					reasons[by]++
				}
			}
		})
	}
	t.Logf("open: %d, closed: %d, by: %v", count[true], count[false], reasons)
	require.NotZero(t, count[true])
	require.NotZero(t, count[false])
}

// A release goes from any values to any others: each node gets there, and the packets meet what verdict says.
func TestReleaseGoesFromAnyValuesToAnyOthers(t *testing.T) {
	r := prepare(t)
	_, err := r.Install(t.Context(), situation{}.in("off"))
	require.NoError(t, err)
	for seed := range randomValues(t, 3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			values, f := invented(t, r, seed)
			_, err = r.Upgrade(t.Context(), values)
			require.NoError(t, err)
			requireAsAskedFor(t, r, values)
			require.Empty(t, scene.Mistakes(t.Context(), place.Foretell(f), soon))
		})
	}
}

// invented are values, and what they make of every node.
func invented(t *testing.T, r *release.Release, seed uint64) (map[string]any, scene.Firewall) {
	t.Helper()
	values := atOnce(release.Values(inventor{rand.New(rand.NewPCG(seed, 0))}.values()))
	f, err := r.Firewall(t.Context(), values)
	require.NoError(t, err, "the inventor writes what the chart takes")
	return values, f
}

// ofRelease is one of Calico's, of the release.
func ofRelease(kind, name string, labels map[string]any, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": kind, "metadata": map[string]any{"name": name, "labels": labels}, "spec": spec,
	}}
}

// requireTrust writes the network sets by which nodes are trusted.
func requireTrust(t *testing.T) {
	t.Helper()
	for _, node := range nodeNames() {
		var nets []any
		for _, addr := range place.AddressesOf(node) {
			nets = append(nets, netip.PrefixFrom(addr, addr.BitLen()).String())
		}
		apply(t, ofRelease("GlobalNetworkSet", name+"-node-"+node, map[string]any{release.Label: name, "host-firewall.io/trust": "node"}, map[string]any{"nets": nets}))
	}
}

// enforce makes of every node what a release with these values would.
func enforce(t *testing.T, r *release.Release, values map[string]any, f scene.Firewall) {
	t.Helper()
	policies, _, err := r.Render(t.Context(), values)
	require.NoError(t, err)
	labels := map[string]any{release.Label: name}
	if values["mode"] != "off" {
		labels[release.SetLabel] = policies[0].GetLabels()[release.SetLabel]
	}
	objects, wanted := policies, map[string]bool{}
	for _, node := range nodeNames() {
		for suffix, link := range map[string]string{"": "*", "-eth0": "eth0"} {
			if !slices.Contains(f.Interfaces, link) && !slices.Contains(f.Interfaces, strings.Replace(link, "0", "*", 1)) {
				continue
			}
			wanted[node+suffix] = true
			objects = append(objects, ofRelease("HostEndpoint", node+suffix, labels, map[string]any{
				"node": node, "interfaceName": link, "profiles": []any{"projectcalico-default-allow"},
			}))
		}
		objects = append(objects, ofRelease("FelixConfiguration", "node."+node, nil, map[string]any{"failsafeInboundHostPorts": f.Failsafe}))
	}
	apply(t, objects...)
	endpoints, err := calico(t, "hostendpoints").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, hep := range endpoints.Items {
		if !wanted[hep.GetName()] {
			require.NoError(t, calico(t, "hostendpoints").Delete(t.Context(), hep.GetName(), metav1.DeleteOptions{}))
		}
	}
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
