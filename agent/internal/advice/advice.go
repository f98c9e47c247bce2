// Package advice says what a person may want to write, because of what an agent sees on its node and
// what Kubernetes says of that. It is pure.
package advice

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

// Node is what is known of a node.
type Node struct {
	Object *corev1.Node
	Peers  peers.Summary
	// Untrusted are addresses of the node that may not be trusted.
	Untrusted []netip.Addr
}

// Release is what is known of the release.
type Release struct {
	Set verdict.Set
	// Calico is its version, such as v3.28.4; empty: not known.
	Calico string
	// Audit tells that the set drops nothing, and logs instead.
	Audit bool
	// AllInterfaces tells that all interfaces of nodes are covered.
	AllInterfaces bool
	// SSHPorts and APIServerPorts are those that the values say.
	SSHPorts, APIServerPorts []uint16
}

// judge is a node, the release and the world.
type judge struct {
	Node
	Release
	world verdict.World
}

// Of returns a sentence for each thing to know about the node, with what to write. Nodes on which the
// same is so get the same sentence.
func Of(n Node, r Release, w verdict.World) []string {
	j := judge{n, r, w}
	return slices.Concat(j.joins(), j.dataplane(), j.networks(), j.open())
}

// lets tells whether the set lets this address in to a TCP port of the node.
func (j judge) lets(from netip.Addr, port uint16) verdict.Verdict {
	return j.Set.Judge(verdict.Connection{From: from, Protocol: verdict.TCP, Port: port, Way: verdict.ToHost}, j.world)
}

// join is a port of a distribution that machines come to before they are Nodes, or people.
type join struct {
	distribution, entry, who string
	port                     uint16
	runs                     func(node *corev1.Node) bool
}

// builtAs tells by the version of the kubelet who has built it.
func builtAs(suffix string) func(*corev1.Node) bool {
	return func(node *corev1.Node) bool { return strings.Contains(node.Status.NodeInfo.KubeletVersion, suffix) }
}

// ports are those that the chart's README has in its table.
func ports() []join {
	microK8s := func(node *corev1.Node) bool { return node.Labels["microk8s.io/cluster"] != "" }
	talos := func(node *corev1.Node) bool { return strings.HasPrefix(node.Status.NodeInfo.OSImage, "Talos") }
	const joining = "servers and agents that join are no Nodes yet"
	return []join{
		{"RKE2", "rke2-join", joining, 9345, builtAs("+rke2")},
		{"k0s", "k0s-join", joining, 9443, builtAs("+k0s")},
		{"k0s", "k0s-join", joining, 8132, builtAs("+k0s")},
		{"MicroK8s", "microk8s-join", joining, 25000, microK8s},
		{"MicroK8s", "microk8s-join", joining, 19001, microK8s},
		{"Talos", "talos-trustd", joining, 50001, talos},
		{"Talos", "talosctl", "administrators with talosctl are no nodes", 50000, talos},
	}
}

// joins says which ports of the distribution are closed to who is no Node. Who has let in the network of this very
// node has thought of it.
func (j judge) joins() (texts []string) {
	stranger := j
	stranger.world.Nodes, stranger.world.APIServers = nil, nil
	for _, join := range ports() {
		if !join.runs(j.Object) || !slices.Contains(j.Peers.Listens, join.port) {
			continue
		}
		for _, address := range j.Object.Status.Addresses {
			addr, err := netip.ParseAddr(address.Address)
			if err == nil && address.Type == corev1.NodeInternalIP && !stranger.lets(addr.Unmap(), join.port).Allowed {
				texts = append(texts, fmt.Sprintf("tcp/%d of %s: %s, and would be kept out. Write ingress: [{name: %s, cidrs: [THEIR NETWORK], protocol: TCP, ports: [%d]}]",
					join.port, join.distribution, join.who, join.entry, join.port))
				break
			}
		}
	}
	return texts
}

// before tells whether Calico is older; where its version is not known, it may be.
func (j judge) before(minor int) bool {
	var major, is int
	n, _ := fmt.Sscanf(j.Calico, "v%d.%d", &major, &is)
	return n < 2 || major == 3 && is < minor
}

// dataplane says what Felix or the kernel do otherwise here.
func (j judge) dataplane() (texts []string) {
	for _, sight := range j.Peers.Sees {
		switch sight.Kind {
		case peers.SeesNothing:
			texts = append(texts, "who is connected is not seen here, so nobody can say who would be cut: "+sight.What)
		case peers.SeesIPVS:
			texts = append(texts, "IPVS balances connections that the kernel does not track, and Felix drops their packets. Write the sysctl net.ipv4.vs.conntrack=1 on the node")
		case peers.SeesSSH:
			texts = append(texts, fmt.Sprintf("an SSH server listens on tcp/%s, and none on ssh.ports. Write ssh.ports: [%s]", sight.What, sight.What))
		case peers.SeesEBPF:
			if j.Audit {
				texts = append(texts, "Felix uses eBPF here, and mode audit logs nothing in the kernel's log. Who would be cut is told here; a NodePort's clients are not")
			}
			if j.before(33) {
				texts = append(texts, "Felix uses eBPF here, and before Calico v3.33 drops the answers that pods get over UDP from outside of the cluster. Upgrade Calico, or write cluster.cidrs: [WHOM THEY ASK]")
			}
		}
	}
	return texts
}

// networks says which networks of the node nobody trusts.
func (j judge) networks() (texts []string) {
	for _, sight := range j.Peers.Sees {
		if sight.Kind != peers.SeesBridge || !j.AllInterfaces {
			continue
		}
		name, nets, _ := strings.Cut(sight.What, " ")
		for _, text := range strings.FieldsFunc(nets, func(r rune) bool { return r == ' ' || r == ',' }) {
			cidr, err := netip.ParsePrefix(text)
			if err == nil && !j.lets(cidr.Masked().Addr().Next().Next(), 1).Allowed {
				texts = append(texts, fmt.Sprintf("what is behind the bridge %s is not trusted, neither to reach the node nor to get through it. Write cluster.cidrs: [%q]", name, cidr.Masked()))
			}
		}
	}
	var nets []string
	for _, addr := range j.Untrusted {
		bits := 24
		if addr.Is6() {
			bits = 64
		}
		if cidr, err := addr.Prefix(bits); err == nil && !j.lets(addr, 1).Allowed {
			nets = append(nets, cidr.String())
		}
	}
	slices.Sort(nets)
	for _, cidr := range slices.Compact(nets) {
		texts = append(texts, fmt.Sprintf("nobody trusts the addresses that this node has in %s, so other nodes shut out what comes from there. Write cluster.cidrs: [%q], or as much of it as is yours", cidr, cidr))
	}
	return texts
}

// strangers are one from each half of all addresses, of both families: where both are let in, everybody is.
func strangers() [][2]netip.Addr {
	return [][2]netip.Addr{
		{netip.MustParseAddr("1.0.0.1"), netip.MustParseAddr("223.255.255.254")},
		{netip.MustParseAddr("2000::1"), netip.MustParseAddr("bfff::1")},
	}
}

// open says which ports that somebody listens on are open to everybody, although no value says so.
func (j judge) open() (texts []string) {
	by := map[string][]string{}
	for _, port := range j.Peers.Listens {
		if slices.Contains(j.SSHPorts, port) || slices.Contains(j.APIServerPorts, port) {
			continue
		}
		for _, pair := range strangers() {
			if a, b := j.lets(pair[0], port), j.lets(pair[1], port); a.Allowed && b.Allowed && a.By == b.By && (a.By == verdict.ByFailsafe || a.By == verdict.Ungoverned) {
				by[a.By] = append(by[a.By], fmt.Sprint(port))
				break
			}
		}
	}
	if ports := by[verdict.ByFailsafe]; len(ports) > 0 {
		texts = append(texts, fmt.Sprintf("tcp/%s: open to everybody, as Calico's failsafe. docs/would-cut.md says how to close it", strings.Join(ports, ", ")))
	}
	if ports := by[verdict.Ungoverned]; len(ports) > 0 {
		texts = append(texts, fmt.Sprintf("tcp/%s: open to everybody, as no policy of the release governs it. See policies.dropOther", strings.Join(ports, ", ")))
	}
	return texts
}
