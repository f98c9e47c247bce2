package scene

import "slices"

// Expectation says which cells are to be open; the others are to be closed.
type Expectation func(Cell) bool

// Everything is what a cluster without a firewall lets through, and one whose firewall is off or only audits.
func Everything(Cell) bool { return true }

// ProtectedFromAll is what an armed release leaves open whose ssh.cidrs are the networks of neither outsider: the cluster reaches
// everything, and people outside what nobody asked to be open: echo (essential.icmpEcho), and Felix's failsafe ports, which Felix
// accepts before it asks any policy. The API server's is one of them.
func ProtectedFromAll(c Cell) bool {
	return !outsider(c.Row) || c.Column == Ping || c.Column == Failsafe || c.Column == APIServer
}

// Protected is what an armed release with the admin's networks as ssh.cidrs leaves open.
func Protected(c Cell) bool { return ProtectedFromAll(c) || c.Row == Admin && c.Column == SSH }

// ProtectedOneFamily is what it leaves open where ssh.cidrs have networks of one family only: over the other one SSH is for the cluster.
func ProtectedOneFamily(family int) Expectation {
	return func(c Cell) bool { return ProtectedFromAll(c) || Protected(c) && c.Family == family }
}

// ProtectedButSSH is Protected with the failsafe of SSH as Felix has it: open to everybody.
func ProtectedButSSH(c Cell) bool { return ProtectedFromAll(c) || c.Column == SSH }

// OfServices are the cells of what kube-proxy does.
func OfServices(c Cell) bool {
	return slices.Contains([]string{NodePortNear, NodePortFar, NodePortUDP, Service}, c.Column)
}

// HostPorts adds what a release without preDNAT leaves alone: it governs the nodes' own ports, and not what nodes pass on.
func HostPorts(want Expectation) Expectation {
	return func(c Cell) bool { return want(c) || OfServices(c) || c.Column == Pods }
}

// OrdinaryOpen adds TCP to the ordinary port, for everybody. Who lets that in names a port and no destinations: pods and Services that
// use the ordinary port too are open to whoever has a route to them.
func OrdinaryOpen(want Expectation) Expectation {
	return func(c Cell) bool { return want(c) || slices.Contains([]string{Ordinary, Pods, Service}, c.Column) }
}

// Ingress is Protected and what an ingress list adds that names TCP to the ordinary port for everybody, UDP to it for the stranger's
// networks, and NodePorts over TCP for the one of IPv4.
func Ingress(c Cell) bool {
	switch c.Column {
	case OrdinaryUDP:
		return Protected(c) || c.Row == Stranger
	case NodePortNear, NodePortFar:
		return Protected(c) || c.Row == Stranger && c.Family == 4
	}
	return OrdinaryOpen(Protected)(c)
}
