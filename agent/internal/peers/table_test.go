package peers_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

var (
	began    = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	stranger = netip.MustParseAddr("203.0.113.9")
)

// host returns one of the addresses that follow each other from 10.4.0.0 on.
func host(i int) netip.Addr {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], 10<<24|4<<16|uint32(i))
	return netip.AddrFrom4(raw)
}

func told(s peers.Summary, port uint16) (from []netip.Addr) {
	for _, p := range s.Ports {
		if p.Port == port {
			for _, peer := range p.From {
				from = append(from, peer.Addr)
			}
		}
	}
	return from
}

func TestConnectionsAreCountedThatAreOpenOrHaveEnded(t *testing.T) {
	table := peers.NewTable(began)
	table.Look(began, []uint16{9100, 22, 22}, nil)
	for range 3 {
		table.Open(9100, stranger)
	}
	table.Ended(9100, stranger)
	table.Open(22, host(1))
	table.Open(22, netip.MustParseAddr("127.0.0.1"))
	table.Open(22, netip.MustParseAddr("::1"))
	table.Open(40000, host(2)) // the node has connected to somebody
	want := peers.Summary{Since: began, Until: began, Listens: []uint16{22, 9100}, Ports: []peers.Port{
		{Port: 22, Addresses: 1, From: []peers.Peer{{Addr: host(1), Connections: 1}}},
		{Port: 9100, Addresses: 1, From: []peers.Peer{{Addr: stranger, Connections: 4}}},
	}}
	assert.Equal(t, want, table.Summary())

	// The same three are still open, or ended without being seen; nobody listens on 22 any more.
	later := began.Add(time.Minute)
	table.Look(later, []uint16{9100}, nil)
	table.Open(9100, stranger)
	want.Until, want.Listens, want.Ports = later, []uint16{9100}, want.Ports[1:]
	assert.Equal(t, want, table.Summary())

	// Somebody who has not been seen for long is gone.
	table.Look(later.Add(23*time.Hour), []uint16{9100}, nil)
	assert.NotEmpty(t, table.Summary().Ports)
	table.Look(later.Add(25*time.Hour), []uint16{9100}, nil)
	assert.Empty(t, table.Summary().Ports)
}

func TestNewsIsWhoAndWhatButNotHowOften(t *testing.T) {
	table := peers.NewTable(began)
	assert.True(t, table.News(), "nothing was told yet")
	look := func(ports []uint16, sees ...peers.Sight) {
		table.Look(began, ports, sees)
	}
	look([]uint16{22})
	table.Summary()
	look([]uint16{22})
	assert.False(t, table.News())
	table.Ended(22, stranger)
	assert.True(t, table.News(), "somebody")
	table.Summary()
	table.Ended(22, stranger)
	assert.False(t, table.News(), "the same")
	look([]uint16{22, 80})
	assert.True(t, table.News(), "a port")
	table.Summary()
	look([]uint16{22, 80}, peers.Sight{Kind: peers.SeesIPVS})
	assert.True(t, table.News(), "a sight")
}

// The one who would be cut is told at once, and all others in turn.
func TestOneStrangerIsToldAmongAThousand(t *testing.T) {
	const crowd = 1000
	table := peers.NewTable(began)
	table.Look(began, []uint16{443}, nil)
	for i := range crowd {
		table.Open(443, host(i))
	}
	seen := map[netip.Addr]bool{}
	tell := func(s peers.Summary) (from []netip.Addr) {
		from = told(s, 443)
		require.Len(t, from, peers.MostAddresses)
		for _, addr := range from {
			seen[addr] = true
		}
		return from
	}
	tell(table.Summary())
	table.Ended(443, stranger) // a connection that was there between two looks
	rounds := 0
	for ; table.News(); rounds++ {
		s := table.Summary()
		require.Len(t, s.Ports, 1)
		assert.Equal(t, crowd+1, s.Ports[0].Addresses)
		assert.Contains(t, tell(s), stranger, "round %d", rounds)
	}
	assert.Len(t, seen, crowd+1)
	assert.LessOrEqual(t, rounds, 2*crowd/peers.MostAddresses)
}

func TestNetworksTakeTurnsAsAddressesDo(t *testing.T) {
	const networks = 100
	table := peers.NewTable(began)
	table.Look(began, []uint16{443}, nil)
	for i := range networks {
		table.Open(443, host(i<<8))
		table.Open(443, host(i<<8+1))
	}
	seen := map[netip.Prefix]bool{}
	for range (2*networks + peers.MostAddresses - 1) / peers.MostAddresses {
		of := map[netip.Prefix]bool{}
		for _, addr := range told(table.Summary(), 443) {
			network := netip.PrefixFrom(addr, 24).Masked()
			of[network], seen[network] = true, true
		}
		assert.GreaterOrEqual(t, len(of), peers.MostAddresses/2, "each of another network")
	}
	assert.Equal(t, networks, len(seen))
}

// Who is judged by their network is known at once, at however many ports, and nobody's place stays empty.
func TestOneOfEachNetworkIsToldFirstAcrossAllPorts(t *testing.T) {
	const ports, networks, crowd = 40, 12, 50
	table := peers.NewTable(began)
	listens := []uint16{443}
	for port := range uint16(ports) {
		listens = append(listens, 1000+port)
	}
	table.Look(began, listens, nil)
	for i := range crowd {
		for _, port := range listens[1:] {
			table.Open(port, host(i))
		}
	}
	for i := range networks {
		table.Open(443, host(i<<8))
	}
	s := table.Summary()
	assert.Len(t, told(s, 443), networks)
	count := 0
	for _, port := range s.Ports {
		assert.NotEmpty(t, port.From)
		count += len(port.From)
	}
	assert.Equal(t, peers.MostPeers, count)

	// Also of those who come when all were told of now and then.
	for range 20 {
		table.Summary()
	}
	for i := range networks {
		table.Ended(1000, host((i+100)<<8))
		table.Ended(1000+ports-1, host((i+100)<<8))
	}
	s = table.Summary()
	for i := range networks {
		assert.Contains(t, told(s, 1000), host((i+100)<<8))
		assert.Contains(t, told(s, 1000+ports-1), host((i+100)<<8))
	}
}

func TestNetworksThatWereToldLeaveRoomForACrowd(t *testing.T) {
	const crowd, networks = 100, 20
	table := peers.NewTable(began)
	table.Look(began, []uint16{443}, nil)
	for i := range crowd {
		table.Open(443, host(i))
	}
	for i := range networks {
		table.Open(443, host((i+1)<<8))
	}
	rounds := 0
	for ; table.News(); rounds++ {
		table.Summary()
	}
	assert.LessOrEqual(t, rounds, 2*(crowd+networks)/peers.MostAddresses+1)
}

// However many connect, memory and annotation stay small, and who comes later is still told.
func TestWhatIsKeptAndToldIsBounded(t *testing.T) {
	table := peers.NewTable(began)
	var listens []uint16
	for port := uint16(1); port <= 2*peers.MostListens; port++ {
		listens = append(listens, port)
	}
	sees := make([]peers.Sight, peers.MostSights)
	for i := range sees {
		sees[i] = peers.Sight{Kind: peers.SeesBridge, What: "br-0123456789ab 172.100.100.0/24, fd00:1234:5678:9abc::/64"}
	}
	table.Look(began, listens, sees)
	long := netip.MustParseAddr("2001:db8:1234:5678:9abc:def0:1234:5678")
	for _, port := range listens {
		for range 2000 {
			table.Open(port, long)
			long = long.Next()
		}
	}
	s := table.Summary()
	assert.Len(t, s.Ports, peers.MostPorts)
	assert.Equal(t, len(listens)-peers.MostPorts, s.More)
	assert.Len(t, s.Listens, peers.MostListens)
	people, kept := 0, 0
	for _, port := range s.Ports {
		people += len(port.From)
		kept += port.Addresses
	}
	assert.LessOrEqual(t, people, peers.MostPeers)
	assert.Less(t, kept, 25_000)
	assert.Less(t, len(s.Encode()), 25_000)
	assert.Equal(t, s, peers.Parse(s.Encode()))
	other := table.Summary()
	assert.NotEqual(t, s.Ports[0].Port, other.Ports[0].Port, "the other ports are told next")
}

func TestWhoWasToldMakesRoomForWhoIsNew(t *testing.T) {
	table := peers.NewTable(began)
	table.Look(began, []uint16{443}, nil)
	for i := range 5000 {
		table.Ended(443, host(i))
	}
	full := table.Summary().Ports[0].Addresses
	assert.Less(t, full, 5000)
	for table.News() {
		table.Summary()
	}
	table.Ended(443, stranger)
	s := table.Summary()
	assert.Equal(t, full, s.Ports[0].Addresses)
	assert.Contains(t, told(s, 443), stranger)
}

// Servers that others join listen on high ports, and a server has more than a few below.
func TestPortsThatAreListenedOnAreToldUpToTheHighOnes(t *testing.T) {
	table := peers.NewTable(began)
	listens := []uint16{25000, 50000}
	for port := range uint16(100) {
		listens = append(listens, port+1)
	}
	table.Look(began, listens, nil)
	assert.Subset(t, table.Summary().Listens, []uint16{25000, 50000})
}

// Whoever rules a node writes what they like, and neither a ConfigMap nor a terminal suffers from it.
func TestWhatANodeSaysIsBelievedWithinBounds(t *testing.T) {
	bad := peers.Summary{Since: began, Until: began, More: -1}
	for i := range 300 {
		port := peers.Port{Port: uint16(i), Addresses: -1}
		for j := range 300 {
			port.From = append(port.From, peers.Peer{Addr: host(j), Connections: 1 << 50})
		}
		bad.Ports = append(bad.Ports, port)
		bad.Listens = append(bad.Listens, uint16(i))
		bad.Sees = append(bad.Sees, peers.Sight{Kind: "\x1b[2J", What: strings.Repeat("é\n\x1b[31m\u202e", 1000)})
	}
	bad.Ports[0].From[0] = peers.Peer{}
	bad.Ports[0].From[1] = peers.Peer{Addr: netip.MustParseAddr("fe80::1%\x1b[2J"), Connections: -1}
	s := peers.Parse(bad.Encode())
	require.Len(t, s.Ports, peers.MostPorts)
	assert.Zero(t, s.More)
	people := 0
	for _, port := range s.Ports {
		assert.LessOrEqual(t, len(port.From), peers.MostAddresses)
		assert.Equal(t, len(port.From), port.Addresses)
		people += len(port.From)
	}
	assert.Equal(t, peers.MostPeers, people)
	assert.Equal(t, peers.Peer{Addr: netip.MustParseAddr("fe80::1")}, s.Ports[0].From[0])
	assert.Equal(t, 1<<31-1, s.Ports[0].From[1].Connections)
	assert.Len(t, s.Listens, peers.MostListens)
	require.Len(t, s.Sees, peers.MostSights)
	for _, sight := range s.Sees {
		assert.Equal(t, "?[2J", sight.Kind)
		assert.Equal(t, peers.MostText, utf8.RuneCountInString(sight.What))
		assert.True(t, strings.HasPrefix(sight.What, "é??[31m?é"), sight.What)
	}
}

func TestWhatCanNotBeReadSaysNothing(t *testing.T) {
	assert.Equal(t, peers.Summary{}, peers.Parse("no"))
	assert.Equal(t, peers.Summary{}, peers.Parse(strings.Repeat("[", 10)))
}
