package preview

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

// Change is one thing that changes in who may reach what.
type Change struct {
	Does string   `json:"does"` // opens or closes
	What []string `json:"what"` // everything, tcp/443, every UDP port, ping, protocol 112
	// On are the ways for which it is so, all of host, nodeport and forwarded if none is there.
	On []string `json:"on,omitempty"`
	To []string `json:"to"` // everybody, nodes, pods, API servers, networks
	// But are the values that let in some of it both before and after.
	But []string `json:"but,omitempty"`
	// InUse are connections of now that would not be let in any more.
	InUse []peers.Cut `json:"inUse,omitempty"`
	Text  string      `json:"text"`

	group   *group
	members map[int]bool // as of a group
	whos    []who
	whats   map[int]bool // places in space.whats
	on      []bool       // by the places in ways
	targets []int
}

// claimsOf says what changes for a group, at once for all ways for which it is the same.
func (t *table) claimsOf(g *group) (changes []*Change) {
	whos := t.whosOf(g.members)
	on := map[int][]bool{}
	for _, target := range g.targets {
		w := target / len(ways)
		if on[w] == nil {
			on[w] = make([]bool, len(ways))
		}
		on[w][target%len(ways)] = true
	}
	alike := map[string]*Change{}
	for _, w := range slices.Sorted(maps.Keys(on)) {
		key := fmt.Sprint(on[w])
		if alike[key] == nil {
			alike[key] = &Change{Does: does[g.sign], group: g, members: g.members, whos: whos, whats: map[int]bool{}, on: on[w]}
			changes = append(changes, alike[key])
		}
		alike[key].whats[w] = true
	}
	for _, c := range changes {
		c.What = t.wordsOfWhats(c)
		for w := range c.whats {
			c.targets = append(c.targets, t.ofWays(w, c.on)...)
		}
		slices.Sort(c.targets)
	}
	return changes
}

var does = map[change]string{opens: "opens", closes: "closes"}

// less is the side that lets in less: 0 is before, 1 after.
func (c change) less() int {
	if c == opens {
		return 0
	}
	return 1
}

// leaveOut takes from each change for whom another one that says more says it as well, and
// changes of which nothing is left.
func (t *table) leaveOut(changes []*Change) []*Change {
	return slices.DeleteFunc(changes, func(c *Change) bool {
		for _, wider := range changes {
			if wider == c || wider.group.sign != c.group.sign || len(wider.targets) <= len(c.targets) || !contains(wider.targets, c.targets) {
				continue
			}
			left := maps.Clone(c.members)
			// Those within come after.
			for _, m := range slices.Sorted(maps.Keys(c.members)) {
				parent := t.regions[m/int(identities)].parent
				if wider.members[m] && (parent < 0 || !left[parent*int(identities)+m%int(identities)]) {
					delete(left, m)
				}
			}
			c.members, c.whos = left, t.whosOf(left)
		}
		return len(c.members) == 0
	})
}

// contains tells whether all of some sorted numbers are among others.
func contains(all, some []int) bool {
	return !slices.ContainsFunc(some, func(i int) bool { _, there := slices.BinarySearch(all, i); return !there })
}

// say puts a change into words.
func (t *table) say(c *Change) {
	if !c.on[0] || !c.on[1] || !c.on[2] {
		for i, way := range []string{"host", "nodeport", "forwarded"} {
			if c.on[i] {
				c.On = append(c.On, way)
			}
		}
	}
	c.To = t.wordsOfMembers(c)
	but := map[string]bool{}
	for _, target := range c.targets {
		for _, w := range c.whos {
			for _, known := range t.alsoKnown(w) {
				if t.changes[target][known] == open {
					but[t.by[target][known][c.group.sign.less()]] = true
				}
			}
		}
	}
	c.But = slices.Sorted(maps.Keys(but))
	c.Text = c.text()
}

// alsoKnown returns all that strangers may be known as, for whom they stand.
func (t *table) alsoKnown(w who) []who {
	if as(w%int(identities)) != stranger {
		return []who{w}
	}
	return []who{w, w + int(node), w + int(pod), w + int(apiServer)}
}

// ofWays returns what is connected to by some of the ways.
func (t *table) ofWays(w int, on []bool) (targets []int) {
	for i := range ways {
		if on[i] {
			targets = append(targets, w*len(ways)+i)
		}
	}
	return targets
}

// covered tells whether nothing of it contradicts the change.
func (t *table) covered(c *Change, what int) bool {
	return t.all(t.ofWays(what, c.on), c.whos, c.group.sign, open, absent)
}

// wordsOfWhats says what changes, in few words: what is open in both may be in it.
func (t *table) wordsOfWhats(c *Change) (words []string) {
	covers, others, allOthers := map[int]bool{}, map[int]bool{}, false
	for i, w := range t.whats {
		if t.covered(c, i) {
			covers[i] = true
		} else {
			others[i] = true
		}
		allOthers = allOthers || w.protocol == rest && c.whats[i]
	}
	if allOthers && len(others) == 0 {
		c.whats = covers
		return []string{"everything"}
	}
	words = t.wordsOf(c.whats, covers)
	if but := t.wordsOf(others, nil); allOthers && len(but) < len(words) {
		c.whats = covers
		return []string{"everything but " + and(but)}
	}
	return words
}

// wordsOf names whats. Where it makes for fewer words it adds to them of what may be named as well.
func (t *table) wordsOf(whats, may map[int]bool) (words []string) {
	of := map[string][]int{}
	for i, w := range t.whats {
		of[w.protocol] = append(of[w.protocol], i)
	}
	for _, protocol := range []string{verdict.TCP, verdict.UDP, verdict.SCTP} {
		words = append(words, t.wordsOfPorts(whats, may, protocol, of[protocol])...)
	}
	words = append(words, t.wordsOfICMP(whats, may, of)...)
	for i, w := range t.whats {
		switch {
		case !whats[i] || w.first > 0 || w.protocol == verdict.ICMP || w.protocol == verdict.ICMPv6:
		case w.protocol == rest:
			words = append(words, "all other protocols")
		default:
			words = append(words, "protocol "+w.protocol)
		}
	}
	return words
}

// wordsOfPorts says which ports change, given the places of all of a protocol.
func (t *table) wordsOfPorts(whats, may map[int]bool, protocol string, all []int) (words []string) {
	count := 0
	for _, i := range all {
		if whats[i] {
			count += int(t.whats[i].last-t.whats[i].first) + 1
		}
	}
	if count > 1<<15 && within(may, all...) {
		for _, i := range all {
			whats[i] = true
		}
		return []string{"every " + protocol + " port"}
	}
	protocol = strings.ToLower(protocol)
	for at := 0; at < len(all); at++ {
		if !whats[all[at]] {
			continue
		}
		first, last := all[at], all[at]
		// What is open in both does not part a range.
		for next := at + 1; next < len(all) && (whats[all[next]] || may[all[next]]); next++ {
			if whats[all[next]] {
				last, at = all[next], next
			}
		}
		for i := first; i <= last; i++ {
			whats[i] = true
		}
		if from, to := t.whats[first].first, t.whats[last].last; from == to {
			words = append(words, fmt.Sprintf("%s/%d", protocol, from))
		} else {
			words = append(words, fmt.Sprintf("%s/%d-%d", protocol, from, to))
		}
	}
	return words
}

// within tells whether all of them are there.
func within(all map[int]bool, some ...int) bool {
	return !slices.ContainsFunc(some, func(i int) bool { return !all[i] })
}

// echo is the type of the request by which one pings.
var echo = map[string]uint16{verdict.ICMP: 8, verdict.ICMPv6: 128}

// wordsOfICMP says which types of ICMP change, given the places of all by their protocol.
func (t *table) wordsOfICMP(whats, may map[int]bool, of map[string][]int) (words []string) {
	pings := 0
	for _, protocol := range []string{verdict.ICMP, verdict.ICMPv6} {
		others := slices.ContainsFunc(of[protocol], func(i int) bool { return whats[i] && t.whats[i].rest })
		if others && within(may, of[protocol]...) {
			for _, i := range of[protocol] {
				whats[i] = true
			}
			words = append(words, protocol)
			continue
		}
		for _, i := range of[protocol] {
			switch w := t.whats[i]; {
			case !whats[i]:
			case w.rest:
				words = append(words, "other "+protocol)
			case w.first == echo[protocol]:
				pings++
				words = append(words, "ping ("+protocol+")")
			default:
				words = append(words, fmt.Sprintf("%s type %d", protocol, w.first))
			}
		}
	}
	if pings == len(echo) {
		words = slices.DeleteFunc(words, func(word string) bool { return strings.HasPrefix(word, "ping") })
		words = append(words, "ping")
	}
	return words
}

// wordsOfMembers says for whom it changes, those first who matter most: by a network, all within it.
func (t *table) wordsOfMembers(c *Change) []string {
	var all, networks []string
	for known, name := range []string{stranger: "everybody", node: "nodes", pod: "pods", apiServer: "API servers"} {
		var families []string
		for i, r := range t.regions {
			switch {
			case !c.members[i*int(identities)+known], r.parent >= 0 && c.members[r.parent*int(identities)+known]:
			case r.network.Bits() == 0:
				families = append(families, map[bool]string{true: "IPv4", false: "IPv6"}[r.network.Addr().Is4()])
			default:
				network := strings.TrimSuffix(r.network.String(), fmt.Sprintf("/%d", r.network.Addr().BitLen()))
				if as(known) != stranger {
					network = name + " in " + network
				}
				networks = append(networks, network)
			}
		}
		if len(families) == 2 || len(families) == 1 && t.ofOneFamily(c) {
			all = append(all, name)
		} else if len(families) == 1 {
			all = append(all, name+" over "+families[0])
		}
	}
	return append(all, networks...)
}

// ofOneFamily tells whether nothing but ICMP or ICMPv6 changes, which are of one family each.
func (t *table) ofOneFamily(c *Change) bool {
	for w := range c.whats {
		if p := t.whats[w].protocol; p != verdict.ICMP && p != verdict.ICMPv6 {
			return false
		}
	}
	return true
}

// rank is small for what matters most: what somebody uses is closed, what nodes need, what
// concerns everybody.
func (c *Change) rank() int {
	cluster := slices.ContainsFunc(c.To, func(to string) bool {
		return strings.HasPrefix(to, "nodes") || strings.HasPrefix(to, "pods") || strings.HasPrefix(to, "API servers")
	})
	switch everybody := strings.HasPrefix(c.To[0], "everybody"); {
	case len(c.InUse) > 0:
		return 0
	case c.group.sign == closes && cluster:
		return 1
	case c.group.sign == closes && everybody:
		return 2
	case everybody:
		return 3
	case c.group.sign == closes:
		return 4
	}
	return 5
}

// inOrder sorts changes by how much they matter.
func inOrder(changes []*Change) {
	slices.SortFunc(changes, func(a, b *Change) int {
		return cmp.Or(a.rank()-b.rank(), connections(b.InUse)-connections(a.InUse), strings.Compare(a.Text, b.Text))
	})
}

func connections(uses []peers.Cut) (count int) {
	for _, u := range uses {
		count += u.Connections
	}
	return count
}

// concerns tells whether a change is about such a connection, of somebody who is trusted as in that world.
func (t *table) concerns(c *Change, of verdict.Connection, w verdict.World) bool {
	region := t.regionOf(of.From) * int(identities)
	return slices.ContainsFunc(c.targets, func(i int) bool { return t.targets[i].holds(of) }) &&
		(c.members[region+int(stranger)] || c.members[region+int(node)] && w.Nodes[of.From] ||
			c.members[region+int(apiServer)] && slices.Contains(w.APIServers, of.From) ||
			c.members[region+int(pod)] && slices.ContainsFunc(w.Pods, func(network netip.Prefix) bool { return network.Contains(of.From) }))
}

// holds tells whether the connection is to that.
func (t target) holds(c verdict.Connection) bool {
	at := c.Port
	if t.protocol == verdict.ICMP || t.protocol == verdict.ICMPv6 {
		at = uint16(c.ICMPType)
	}
	return t.way == c.Way && t.protocol == c.Protocol && t.first <= at && at <= t.last
}

// regionOf returns the place of the smallest network that an address is in.
func (t *table) regionOf(addr netip.Addr) (at int) {
	for i, r := range t.regions {
		if r.network.Contains(addr) {
			at = i // those within come after
		}
	}
	return at
}
