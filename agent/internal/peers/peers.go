// Package peers is what an agent tells of who is connected to its node, and what a controller
// makes of that: whom a set of policies would cut. It is pure.
package peers

import (
	"encoding/json"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Annotation holds the summary that an agent leaves on its endpoint.
const Annotation = "host-firewall.io/peers"

// The most that a summary holds.
const (
	MostPorts     = 64
	MostListens   = 256
	MostAddresses = 16  // for each port
	MostPeers     = 256 // for all ports
	MostSights    = 32
	MostText      = 200 // characters of what is told of a sight
)

// Summary is what an agent has seen of TCP connections that others have made to processes of its
// node, and what else it sees there that a firewall may concern. Loopback is not in it.
type Summary struct {
	// Since is when the agent began to look, and Until when it last did.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Ports are those that somebody was connected to, in order.
	Ports []Port `json:"ports,omitempty"`
	// More is how many further ports there were.
	More int `json:"more,omitempty"`
	// Listens are the TCP ports that processes listen on at all addresses, or at one that others
	// reach, in order, at most MostListens.
	Listens []uint16 `json:"listens,omitempty"`
	// Sees is what else matters: see Sight.
	Sees []Sight `json:"sees,omitempty"`
}

// Port is one port, and who was connected to it.
type Port struct {
	Port uint16 `json:"port"`
	// Addresses is how many addresses were seen, of which From has at most MostAddresses: others
	// each time, until each was told.
	Addresses int    `json:"addresses"`
	From      []Peer `json:"from"`
}

// Peer is one address, and how many connections were seen from it, open and ended ones.
type Peer struct {
	Addr        netip.Addr `json:"addr"`
	Connections int        `json:"n"`
}

// Sight is something that an agent sees on its node: its kind, and what is told of it.
type Sight struct {
	Kind string `json:"kind"`
	What string `json:"what,omitempty"`
}

// The kinds of Sight.
const (
	// SeesBridge is a bridge of containers or virtual machines outside Calico: its name and networks.
	SeesBridge = "bridge"
	// SeesSSH is a port on which an SSH server listens that is not among ssh.ports.
	SeesSSH = "ssh"
	// SeesIPVS is IPVS without connection tracking.
	SeesIPVS = "ipvs"
	// SeesEBPF is Calico's eBPF dataplane.
	SeesEBPF = "ebpf"
	// SeesNothing is why the agent can't see who is connected: what the kernel says.
	SeesNothing = "nothing"
)

// Parse reads a summary. What can't be read is one that says nothing, with Since zero. Whoever rules a node can
// write what they like: more than a summary holds, and what could do harm to a terminal, is left out.
func Parse(text string) (s Summary) {
	if json.Unmarshal([]byte(text), &s) != nil {
		return Summary{}
	}
	s.More = max(s.More, 0)
	s.Ports, s.Listens, s.Sees = first(s.Ports, MostPorts), first(s.Listens, MostListens), first(s.Sees, MostSights)
	room := MostPeers
	for i := range s.Ports {
		p := &s.Ports[i]
		p.From = first(slices.DeleteFunc(p.From, func(peer Peer) bool { return !peer.Addr.IsValid() }), min(MostAddresses, room))
		room -= len(p.From)
		p.Addresses = max(p.Addresses, len(p.From))
		for j := range p.From {
			peer := &p.From[j]
			peer.Addr, peer.Connections = peer.Addr.WithZone("").Unmap(), min(max(peer.Connections, 0), math.MaxInt32)
		}
	}
	for i, sight := range s.Sees {
		s.Sees[i] = Sight{Kind: printable(sight.Kind), What: printable(sight.What)}
	}
	return s
}

func first[T any](all []T, most int) []T { return all[:min(len(all), most)] }

// printable is the beginning of a text on one line.
func printable(text string) string {
	runes := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text))
	return string(first(runes, MostText))
}

// Encode returns the summary as the annotation holds it.
func (s Summary) Encode() string {
	text, _ := json.Marshal(s) // numbers, texts and times can always be encoded
	return string(text)
}

// Cut is a peer that a set of policies would cut off, as status, preview and the clearance tell it.
type Cut struct {
	Node        string     `json:"node"`
	Port        uint16     `json:"port"`
	From        netip.Addr `json:"from"`
	Connections int        `json:"connections"`
}
