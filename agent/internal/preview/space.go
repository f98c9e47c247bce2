package preview

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

// Who connects, to what and how, is cut into pieces within which neither side tells one
// connection from another. So one of each piece is judged, and stands for all.

// region is what is in a network and in none of the smaller networks within it that a side
// names.
type region struct {
	network netip.Prefix
	parent  int   // -1 for those of all addresses
	within  []int // in order
	in      []int // the lists that its addresses are in
	// sample is one address of it; not valid where the networks within leave none.
	sample netip.Addr
	// class is the same for regions that are in the same lists of networks: nothing else is
	// asked of an address.
	class int
}

// as is what an address is known as.
type as int

const (
	stranger as = iota
	node
	pod
	apiServer
	identities
)

// what is connected to: ports from first to last, or a type of ICMP.
type what struct {
	protocol    string
	first, last uint16
	rest        bool // of ICMP: first stands for all types that nobody names
}

// rest stands for all protocols that nobody names. It is one for experiments.
const rest = "253"

// target is what is connected to by a way.
type target struct {
	what
	way verdict.Way
}

var ways = []verdict.Way{verdict.ToHost, verdict.ToNodePort, verdict.Forwarded}

// space is all pieces.
type space struct {
	regions []*region    // a network comes right before those within it
	classes []netip.Addr // a sample of each
	whats   []what
	targets []target // of each of whats all ways, in their order
}

// spaceOf cuts the space where one of the sides does.
func spaceOf(sides ...*Side) *space {
	var lists [][]netip.Prefix
	ends := map[string][]uint16{verdict.TCP: nil, verdict.UDP: nil, verdict.SCTP: nil, verdict.ICMP: nil, verdict.ICMPv6: nil, rest: nil}
	narrowed := map[string][]netip.Prefix{}
	for _, s := range sides {
		for _, rule := range s.set.Rules() {
			lists = append(lists, rule.Sources)
			of := ends[rule.Protocol]
			for _, p := range rule.Ports {
				of = append(of, edges(p[0], p[1])...)
			}
			if rule.ICMPType != nil {
				of = append(of, uint16(*rule.ICMPType))
			}
			ends[rule.Protocol] = of
		}
		for _, entry := range s.failsafe {
			protocol := cmp.Or(strings.ToUpper(entry.Protocol), verdict.TCP)
			ends[protocol] = append(ends[protocol], edges(entry.Port, entry.Port)...)
			if network, err := netip.ParsePrefix(entry.Net); err == nil {
				key := fmt.Sprint(s.Name, protocol, entry.Port)
				narrowed[key] = append(narrowed[key], network.Masked())
			}
		}
	}
	for _, list := range narrowed {
		lists = append(lists, list)
	}
	sp := &space{}
	sp.cutNetworks(lists)
	delete(ends, "") // a rule without a protocol is for all of them
	sp.cutTargets(ends)
	return sp
}

// edges are where ports begin that are not those from first to last, and those.
func edges(first, last uint16) []uint16 {
	if last == 65535 {
		return []uint16{first}
	}
	return []uint16{first, last + 1}
}

// cutTargets makes the targets, from where ports begin that differ from those before, and
// from the types of ICMP that are named.
func (sp *space) cutTargets(ends map[string][]uint16) {
	for _, protocol := range []string{verdict.TCP, verdict.UDP, verdict.SCTP} {
		first := uint16(1)
		for _, next := range slices.Compact(slices.Sorted(slices.Values(ends[protocol]))) {
			if next > first {
				sp.whats = append(sp.whats, what{protocol: protocol, first: first, last: next - 1})
				first = next
			}
		}
		sp.whats = append(sp.whats, what{protocol: protocol, first: first, last: 65535})
	}
	for _, protocol := range []string{verdict.ICMP, verdict.ICMPv6} {
		named := slices.Compact(slices.Sorted(slices.Values(ends[protocol])))
		for _, t := range named {
			sp.whats = append(sp.whats, what{protocol: protocol, first: t, last: t})
		}
		other := uint16(0)
		for slices.Contains(named, other) {
			other++
		}
		sp.whats = append(sp.whats, what{protocol: protocol, first: other, last: other, rest: true})
	}
	var numbers []string
	for protocol := range ends {
		if _, err := strconv.Atoi(protocol); err == nil {
			numbers = append(numbers, protocol)
		}
	}
	slices.Sort(numbers)
	for _, number := range numbers {
		sp.whats = append(sp.whats, what{protocol: number})
	}
	for _, w := range sp.whats {
		for _, way := range ways {
			sp.targets = append(sp.targets, target{w, way})
		}
	}
}

// nobodys are addresses that nobody connects from over a network.
var nobodys = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/8"), netip.MustParsePrefix("ff00::/8"),
}

// cutNetworks makes the regions and their classes, from lists of networks.
func (sp *space) cutNetworks(lists [][]netip.Prefix) {
	in := map[netip.Prefix][]int{netip.MustParsePrefix("0.0.0.0/0"): nil, netip.MustParsePrefix("::/0"): nil}
	for i, list := range lists {
		for _, network := range list {
			if !slices.ContainsFunc(nobodys, func(n netip.Prefix) bool { return n.Bits() <= network.Bits() && n.Overlaps(network) }) {
				in[network] = append(in[network], i)
			}
		}
	}
	for network, lists := range in {
		sp.regions = append(sp.regions, &region{network: network, in: lists, class: -1})
	}
	slices.SortFunc(sp.regions, func(a, b *region) int {
		return cmp.Or(a.network.Addr().Compare(b.network.Addr()), a.network.Bits()-b.network.Bits())
	})
	known := map[string]int{}
	at := -1
	for i, r := range sp.regions {
		for at >= 0 && !sp.regions[at].network.Contains(r.network.Addr()) {
			at = sp.regions[at].parent
		}
		if r.parent = at; at >= 0 {
			sp.regions[at].within = append(sp.regions[at].within, i)
			r.in = append(r.in, sp.regions[at].in...)
		}
		at = i
	}
	for _, r := range sp.regions {
		if r.sample = sp.sampleOf(r); !r.sample.IsValid() {
			continue
		}
		slices.Sort(r.in)
		key := fmt.Sprint(r.sample.Is4(), slices.Compact(r.in))
		if _, there := known[key]; !there {
			known[key] = len(sp.classes)
			sp.classes = append(sp.classes, r.sample)
		}
		r.class = known[key]
	}
}

// sampleOf returns the first address of a network that is in none within it, not valid where
// there is none.
func (sp *space) sampleOf(r *region) netip.Addr {
	addr := r.network.Addr()
	for before := (netip.Addr{}); before != addr; {
		before = addr
		for _, network := range nobodys {
			addr = after(network, addr)
		}
		for _, i := range r.within {
			addr = after(sp.regions[i].network, addr)
		}
	}
	if !addr.IsValid() || !r.network.Contains(addr) {
		return netip.Addr{}
	}
	return addr
}

// after returns the address, or where it is in the network the first one after that.
func after(network netip.Prefix, addr netip.Addr) netip.Addr {
	if !network.Contains(addr) {
		return addr
	}
	bytes := network.Masked().Addr().AsSlice()
	for bit := network.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last.Next()
}

// connection is one of those to a target, and the world in which its sender is known as that.
func connection(from netip.Addr, known as, t target) (verdict.Connection, verdict.World) {
	c := verdict.Connection{From: from, Protocol: t.protocol, Port: t.first, Way: t.way}
	if t.protocol == verdict.ICMP || t.protocol == verdict.ICMPv6 {
		c.Port, c.ICMPType = 0, int(t.first)
	}
	if t.protocol == verdict.UDP && t.first == 68 {
		c.FromPort = 67 // DHCP servers answer from there
	}
	w := verdict.World{}
	switch known {
	case node:
		w.Nodes = map[netip.Addr]bool{from: true}
	case pod:
		w.Pods = []netip.Prefix{netip.PrefixFrom(from, from.BitLen())}
	case apiServer:
		w.APIServers = []netip.Addr{from}
	}
	return c, w
}

// exists tells whether there is such a connection from such an address.
func (t target) exists(from netip.Addr) bool {
	return t.protocol == verdict.ICMP && from.Is4() || t.protocol == verdict.ICMPv6 && from.Is6() ||
		t.protocol != verdict.ICMP && t.protocol != verdict.ICMPv6
}
