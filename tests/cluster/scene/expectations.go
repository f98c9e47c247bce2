package scene

import "slices"

// Expectation says which cells are to be open; the others are to be closed. Those here are what people can say without a look at the policies: what
// else values leave open verdict works out (Expect).
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

// ProtectedButSSH is Protected with the failsafe of SSH as Felix has it: open to everybody.
func ProtectedButSSH(c Cell) bool { return ProtectedFromAll(c) || c.Column == SSH }

// OfServices are the cells of what kube-proxy does.
func OfServices(c Cell) bool {
	return slices.Contains([]string{NodePortNear, NodePortFar, NodePortUDP, Service}, c.Column)
}
