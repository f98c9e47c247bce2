// Package verdict says whether a connection passes a set of policies, and by which value. It is
// pure: what Felix would do with the packet is worked out from the policies, Felix's failsafe and
// the addresses that are trusted.
package verdict

import (
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// Policy is a policy of a set: its name, and its spec as encoding/json decodes it.
type Policy struct {
	Name string
	Spec map[string]any
}

// The protocols of connections, as Calico calls them.
const (
	TCP    = "TCP"
	UDP    = "UDP"
	SCTP   = "SCTP"
	ICMP   = "ICMP"
	ICMPv6 = "ICMPv6"
)

// Way is where a connection goes.
type Way int

const (
	// ToHost is to a process of the node, in the node's own network.
	ToHost Way = iota
	// FromOwnPod is from a pod of the node to a process of it. Policies that are not preDNAT have
	// no say there, but Felix's defaultEndpointToHostAction, here Accept as Calico's manifests have it.
	FromOwnPod
	// ToNodePort is to a port of the node from which kube-proxy passes it on to a pod.
	ToNodePort
	// Forwarded is through the node, to a pod or a Service at an address of its own.
	Forwarded
)

// Connection is the first packet of one that comes in to a node by an interface that has an
// endpoint.
type Connection struct {
	From     netip.Addr
	FromPort uint16     // of the client; 0: one that no rule names
	To       netip.Addr // where the client connects to; not valid: an address of the node
	Protocol string     // one of the above, or a number such as "112"
	Port     uint16     // that the client connects to; 0 for what has no ports
	ICMPType int        // for ICMP and ICMPv6
	Way      Way
	// Behind is the pod that kube-proxy passes it on to, which is what policies that are not
	// preDNAT see in the place of To and Port. Not valid: it goes where the client says.
	Behind netip.AddrPort
}

// World is what counts beside the policies.
type World struct {
	// Failsafe are the ports that Felix lets in before it asks any policy.
	Failsafe []v3.ProtoPort
	// Nodes are the addresses that are trusted as those of nodes.
	Nodes map[netip.Addr]bool
	// Pods are the networks of pods.
	Pods []netip.Prefix
	// APIServers are the addresses of the Service kubernetes.
	APIServers []netip.Addr
}

// Verdict is what becomes of a connection.
type Verdict struct {
	Allowed bool
	// By says which value decides: "ssh.cidrs", "ingress[web]", "failsafe", "cluster.trustNodes",
	// or for what is dropped "nothing allows it".
	By string
}
