package advice_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/advice"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

// letting is a release whose set lets these networks in to everything, and drops the rest.
func letting(t *testing.T, nets ...any) advice.Release {
	t.Helper()
	policy := func(name string, order float64, rules ...any) verdict.Policy {
		return verdict.Policy{Name: name, Spec: map[string]any{
			"selector": "host-firewall.io/release == 'fw' && host-firewall.io/set contains 'r1'",
			"order":    order, "types": []any{"Ingress"}, "preDNAT": true, "applyOnForward": true, "ingress": rules,
		}}
	}
	policies := []verdict.Policy{policy("fw-drop-other-r1", 20, map[string]any{"action": "Deny"})}
	if len(nets) > 0 {
		policies = append(policies, policy("fw-allow-cluster-r1", 10, map[string]any{"action": "Allow", "source": map[string]any{"nets": nets}}))
	}
	set, err := verdict.Of("fw", policies)
	require.NoError(t, err)
	return advice.Release{Set: set, Calico: "v3.28.4", AllInterfaces: true, SSHPorts: []uint16{22}, APIServerPorts: []uint16{6443}}
}

// world has a failsafe for everybody, and one for some. All nodes are trusted: what is no Node yet is not.
func world() verdict.World {
	return verdict.World{
		Failsafe: []v3.ProtoPort{{Protocol: "TCP", Port: 22}, {Protocol: "TCP", Port: 2379}, {Protocol: "TCP", Port: 6443}, {Protocol: "TCP", Port: 179, Net: "10.0.0.0/8"}, {Protocol: "UDP", Port: 68}},
		Nodes:    map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true},
	}
}

func nodeOf(change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	if change != nil {
		change(n)
	}
	return n
}

func TestPortsForThoseThatJoinAreToldWhereTheyAreClosed(t *testing.T) {
	version := func(text string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Status.NodeInfo.KubeletVersion = text }
	}
	for name, test := range map[string]struct {
		change func(*corev1.Node)
		ports  []uint16
		entry  string
	}{
		"RKE2":     {version("v1.34.1+rke2r1"), []uint16{9345}, "rke2-join"},
		"k0s":      {version("v1.34.1+k0s"), []uint16{8132, 9443}, "k0s-join"},
		"MicroK8s": {func(n *corev1.Node) { n.Labels = map[string]string{"microk8s.io/cluster": "true"} }, []uint16{19001, 25000}, "microk8s-join"},
		"Talos":    {func(n *corev1.Node) { n.Status.NodeInfo.OSImage = "Talos (v1.11.0)" }, []uint16{50001}, "talos-trustd"},
		"talosctl": {func(n *corev1.Node) { n.Status.NodeInfo.OSImage = "Talos (v1.11.0)" }, []uint16{50000}, "talosctl"},
	} {
		n := advice.Node{Object: nodeOf(test.change), Peers: peers.Summary{Listens: append([]uint16{22, 6443}, test.ports...)}}
		texts := advice.Of(n, letting(t), world())
		require.Len(t, texts, len(test.ports), name)
		for _, text := range texts {
			assert.Contains(t, text, "ingress: [{name: "+test.entry+", cidrs: [THEIR NETWORK], protocol: TCP, ports: [")
		}
		assert.Empty(t, advice.Of(n, letting(t, "192.0.2.0/24"), world()), "%s: who has let in the nodes' network has thought of it", name)
		n.Peers.Listens = nil
		assert.Empty(t, advice.Of(n, letting(t), world()), "%s: where nobody listens", name)
		n.Peers.Listens = test.ports
		n.Object = nodeOf(nil)
		assert.Empty(t, advice.Of(n, letting(t), world()), "%s: on another distribution these ports are something else", name)
	}
}

func TestWhatFelixAndTheKernelDoOtherwiseIsTold(t *testing.T) {
	see := func(r advice.Release, kind, what string) []string {
		return advice.Of(advice.Node{Object: nodeOf(nil), Peers: peers.Summary{Sees: []peers.Sight{{Kind: kind, What: what}}}}, r, world())
	}
	only := func(texts []string, words string) {
		t.Helper()
		require.Len(t, texts, 1)
		assert.Contains(t, texts[0], words)
	}
	r := letting(t)
	only(see(r, peers.SeesNothing, "operation not permitted"), "who would be cut: operation not permitted")
	only(see(r, peers.SeesIPVS, ""), "net.ipv4.vs.conntrack=1")
	only(see(r, peers.SeesSSH, "2222"), "ssh.ports: [2222]")
	only(see(r, peers.SeesEBPF, ""), "Upgrade Calico, or write cluster.cidrs")
	for _, version := range []string{"v3.33.0", "v3.33.0-rc1", "v3.34.2", "v4.0.0"} {
		r.Calico = version
		assert.Empty(t, see(r, peers.SeesEBPF, ""), version)
	}
	r.Audit = true
	only(see(r, peers.SeesEBPF, ""), "mode audit logs nothing")
	r.Calico = ""
	assert.Len(t, see(r, peers.SeesEBPF, ""), 2, "an unknown version may be an old one")
}

func TestNetworksThatNobodyTrustsAreTold(t *testing.T) {
	docker := peers.Summary{Sees: []peers.Sight{{Kind: peers.SeesBridge, What: "docker0 172.17.0.0/16, 2001:db8:d::/64"}}}
	texts := advice.Of(advice.Node{Object: nodeOf(nil), Peers: docker}, letting(t), world())
	require.Len(t, texts, 2)
	assert.Contains(t, texts[0], `docker0 is not trusted, neither to reach the node nor to get through it. Write cluster.cidrs: ["172.17.0.0/16"]`)
	assert.Empty(t, advice.Of(advice.Node{Object: nodeOf(nil), Peers: docker}, letting(t, "172.16.0.0/12", "2001:db8::/32"), world()))
	named := letting(t)
	named.AllInterfaces = false
	assert.Empty(t, advice.Of(advice.Node{Object: nodeOf(nil), Peers: docker}, named, world()), "the bridge has no endpoint")

	second := advice.Node{Object: nodeOf(nil), Untrusted: []netip.Addr{netip.MustParseAddr("198.51.100.129"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.130")}}
	texts = advice.Of(second, letting(t, "192.0.2.0/24"), world())
	require.Len(t, texts, 1, "one for a network, and none for what is trusted after all")
	assert.Contains(t, texts[0], `cluster.cidrs: ["198.51.100.0/24"]`)
	assert.Empty(t, advice.Of(second, letting(t, "192.0.2.0/24", "198.51.100.0/24"), world()))
}

func TestPortsThatNoValueOpensToEverybodyAreTold(t *testing.T) {
	n := advice.Node{Object: nodeOf(nil), Peers: peers.Summary{Listens: []uint16{22, 68, 179, 2379, 6443, 8080}}}
	texts := advice.Of(n, letting(t), world())
	require.Len(t, texts, 1)
	assert.Contains(t, texts[0], "tcp/2379: open to everybody, as Calico's failsafe", "but not what is SSH's, the API server's, another protocol's or for some")
	page, err := os.ReadFile("../../../docs/would-cut.md")
	require.NoError(t, err)
	var own []string
	for _, entry := range failsafe.Builtin() {
		own = append(own, fmt.Sprintf("%s/%d", strings.ToLower(entry.Protocol), entry.Port))
	}
	assert.Contains(t, texts[0], "docs/would-cut.md")
	assert.Contains(t, string(page), "Unset, it is "+strings.Join(own, ", "), "which has the list that somebody has to write")
	texts = advice.Of(n, advice.Release{SSHPorts: []uint16{22}, APIServerPorts: []uint16{6443}}, verdict.World{})
	require.Len(t, texts, 1)
	assert.Contains(t, texts[0], "tcp/68, 179, 2379, 8080: open to everybody, as no policy of the release governs it")
}
