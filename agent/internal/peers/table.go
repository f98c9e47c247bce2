package peers

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// How much of it is kept in memory: of a port its share of mostKept addresses. Where that is full, who is
// new takes the place of somebody who was told already, if one is found by a few tries.
const (
	mostKept     = 4096
	mostKeptPort = 1024
	leastKept    = 16
	tries        = 8

	// keptFor is how long somebody is remembered who has not come back.
	keptFor = 24 * time.Hour
)

// Table is what an agent has seen so far. It is for one goroutine.
type Table struct {
	since, now time.Time
	ports      map[uint16]*seen
	listens    []uint16
	sees       []Sight
	news       bool
}

// seen is one port: who was connected to it, and how often it was told.
type seen struct {
	from map[netip.Addr]counts
	told int
}

// counts are those of one address: connections that have ended, and that were open when the kernel was
// last asked; the most that both came to, for not every end is seen; and how often the address was told.
type counts struct {
	ended, open, most, told int32
	last                    time.Time
}

// NewTable returns one that has seen nothing.
func NewTable(now time.Time) *Table {
	return &Table{since: now, now: now, ports: map[uint16]*seen{}, news: true}
}

// Look begins a look at the node, of which Open then tells the connections: on which ports processes
// listen now, and what else matters. Whoever was connected to another port is forgotten.
func (t *Table) Look(now time.Time, listens []uint16, sees []Sight) {
	listens = slices.Compact(slices.Sorted(slices.Values(listens)))
	t.news = t.news || !slices.Equal(listens, t.listens) || !slices.Equal(sees, t.sees)
	t.now, t.listens, t.sees = now, listens, sees
	maps.DeleteFunc(t.ports, func(port uint16, _ *seen) bool { return !t.isListening(port) })
	for _, port := range t.ports {
		maps.DeleteFunc(port.from, func(_ netip.Addr, c counts) bool { return now.Sub(c.last) > keptFor })
		for addr, c := range port.from {
			c.open = 0
			port.from[addr] = c
		}
	}
}

func (t *Table) isListening(port uint16) bool {
	_, found := slices.BinarySearch(t.listens, port)
	return found
}

// Open tells of a connection that is there now, from an address to a port of the node. It counts only
// where somebody listens on that, for the node has others to ports of others.
func (t *Table) Open(port uint16, from netip.Addr) { t.add(port, from, counts{open: 1}) }

// Ended tells of a connection that has come to its end.
func (t *Table) Ended(port uint16, from netip.Addr) { t.add(port, from, counts{ended: 1}) }

func (t *Table) add(port uint16, from netip.Addr, more counts) {
	if from.IsLoopback() || !t.isListening(port) {
		return
	}
	p := t.ports[port]
	if p == nil {
		p = &seen{from: map[netip.Addr]counts{}}
		t.ports[port] = p
	}
	c, known := p.from[from]
	if room := max(leastKept, min(mostKeptPort, mostKept/len(t.ports))); !known && len(p.from) >= room && !p.makeRoom() {
		return
	}
	c.ended, c.open, c.last = c.ended+more.ended, c.open+more.open, t.now
	c.most = max(c.most, c.ended+c.open)
	p.from[from], t.news = c, t.news || !known
}

// makeRoom forgets somebody who is gone and was told.
func (p *seen) makeRoom() bool {
	tried := 0
	for addr, c := range p.from { // in an order by chance
		if c.told > 0 && c.open == 0 {
			delete(p.from, addr)
			return true
		}
		if tried++; tried == tries {
			break
		}
	}
	return false
}

// News tells whether there is more to tell than higher counts.
func (t *Table) News() bool { return t.news }

// Summary returns what is to be told now, other addresses than before where there are too many.
func (t *Table) Summary() Summary {
	s := Summary{Since: t.since.UTC().Truncate(time.Second), Until: t.now.UTC().Truncate(time.Second), Sees: t.sees}
	s.Listens = first(t.listens, MostListens)
	ports := slices.SortedFunc(maps.Keys(t.ports), func(a, b uint16) int {
		return cmp.Or(cmp.Compare(t.ports[a].told, t.ports[b].told), cmp.Compare(a, b))
	})
	ports = slices.DeleteFunc(ports, func(port uint16) bool { return len(t.ports[port].from) == 0 })
	if len(ports) > MostPorts {
		s.More, ports = len(ports)-MostPorts, ports[:MostPorts]
	}
	slices.Sort(ports)
	queues := make([]*queue, len(ports))
	for i, port := range ports {
		queues[i] = t.ports[port].queue()
	}
	share(queues)
	for i, port := range ports {
		s.Ports = append(s.Ports, Port{Port: port, Addresses: len(t.ports[port].from), From: queues[i].tell()})
	}
	t.news = false
	for _, p := range t.ports {
		for _, c := range p.from {
			t.news = t.news || c.told == 0
		}
	}
	return s
}

// queue is the order in which addresses of one port are to be told now: fresh ones, of which each is the first of its
// network, and then the others. Of these, room is there for so many.
type queue struct {
	of          *seen
	addrs       []netip.Addr
	fresh, room int
}

// share gives room in rounds, to each port one place in each: as long as there are any first to those of whose
// network nobody was told, then to all. So one port with many from everywhere keeps no other one from being told.
func share(queues []*queue) {
	left := MostPeers
	for _, all := range []bool{false, true} {
		for round := range MostAddresses {
			for _, q := range queues {
				if left > 0 && q.room == round && round < len(q.addrs) && (all || round < q.fresh) {
					q.room, left = q.room+1, left-1
				}
			}
		}
	}
}

// queue says who is next, by turns: one of each network, and of networks those that were told least; and
// whoever was told least. So one stranger among a thousand of another network is told at once and again, and in time
// each of the thousand.
func (p *seen) queue() *queue {
	least := slices.SortedFunc(maps.Keys(p.from), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(p.from[a].told, p.from[b].told), a.Compare(b))
	})
	place, size, told := map[netip.Addr]int{}, map[netip.Prefix]int{}, map[netip.Prefix]int32{}
	for _, addr := range least {
		network := networkOf(addr)
		place[addr] = size[network]
		size[network]++
		told[network] += p.from[addr].told
	}
	spread := slices.Clone(least)
	slices.SortStableFunc(spread, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(place[a], place[b]), cmp.Compare(told[networkOf(a)], told[networkOf(b)]))
	})
	q := &queue{of: p}
	for q.fresh < len(spread) && place[spread[q.fresh]] == 0 && told[networkOf(spread[q.fresh])] == 0 {
		q.fresh++
	}
	q.addrs = slices.Clone(first(spread[:q.fresh], MostAddresses))
	for i := 0; i < len(least) && len(q.addrs) < MostAddresses; i++ {
		for _, addr := range []netip.Addr{spread[i], least[i]} {
			if !slices.Contains(q.addrs, addr) {
				q.addrs = append(q.addrs, addr)
			}
		}
	}
	q.addrs = first(q.addrs, MostAddresses)
	return q
}

// tell returns those for whom there is room, in order, and counts that they were told.
func (q *queue) tell() (from []Peer) {
	q.of.told++
	for _, addr := range slices.SortedFunc(slices.Values(q.addrs[:q.room]), netip.Addr.Compare) {
		c := q.of.from[addr]
		c.told++
		q.of.from[addr] = c
		from = append(from, Peer{Addr: addr, Connections: int(c.most)})
	}
	return from
}

// networkOf returns the network that an address counts to: what is mostly given to one customer or
// one part of a company.
func networkOf(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr.Is4() {
		bits = 24
	}
	network, _ := addr.WithZone("").Prefix(bits) // never more bits than it has
	return network
}
