package probe_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/probe"
)

var client = netip.MustParseAddr("192.0.2.7")

// serve accepts what comes to an address, says hello to each, and waits for it to go.
func serve(t *testing.T, address, hello string) {
	t.Helper()
	listener, _ := listen(t, address)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				_, _ = connection.Write([]byte(hello))
				_, _ = connection.Read(make([]byte, 1))
			}()
		}
	}()
}

// watched returns a watcher that looks all the time, and is told to; and what it says when that has changed.
func watched(t *testing.T, w *probe.Watcher) (first peers.Summary, next func() peers.Summary) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	w.LookEvery(100 * time.Millisecond)
	woken := make(chan struct{}, 1000)
	wake := func() { woken <- struct{}{} }
	text := w.Tell(ctx, true, wake)
	require.NotEmpty(t, text)
	return peers.Parse(text), func() peers.Summary {
		select {
		case <-woken:
		case <-time.After(10 * time.Second):
			t.Fatal("nothing new is told")
		}
		return peers.Parse(w.Tell(ctx, true, wake))
	}
}

// from returns how many connections are told of from the client, to a port; -1: the port is not told.
func from(s peers.Summary, port uint16) int {
	for _, p := range s.Ports {
		for _, peer := range p.From {
			if p.Port == port && peer.Addr == client {
				return peer.Connections
			}
		}
	}
	return -1
}

func TestWatcherSeesWhoIsConnectedAndWhoWasForAMoment(t *testing.T) {
	if !inNamespace(t, "192.0.2.1/32", "192.0.2.7/32", "2001:db8::1/128", "2001:db8::7/128") {
		return
	}
	for _, address := range []string{"[::]:22", "192.0.2.1:9100", "[2001:db8::1]:443", "127.0.0.1:8080"} {
		serve(t, address, "")
	}
	dial(t, client.String(), "192.0.2.1:22")
	dial(t, client.String(), "192.0.2.1:22")
	dial(t, "2001:db8::7", "[2001:db8::1]:443")
	dial(t, "", "127.0.0.1:8080")
	dial(t, "", "127.0.0.1:22")
	becomeNobody(t)

	first, next := watched(t, &probe.Watcher{SSH: []uint16{22}})
	assert.Equal(t, []uint16{22, 443, 9100}, first.Listens)
	assert.Equal(t, []peers.Port{
		{Port: 22, Addresses: 1, From: []peers.Peer{{Addr: client, Connections: 2}}},
		{Port: 443, Addresses: 1, From: []peers.Peer{{Addr: netip.MustParseAddr("2001:db8::7"), Connections: 1}}},
	}, first.Ports)
	assert.Equal(t, 2, from(next(), 22), "the second look is told in any case")

	// No look sees these.
	const short = 20
	for range short {
		connection := dial(t, client.String(), "192.0.2.1:9100")
		time.Sleep(50 * time.Millisecond) // that long they are
		require.NoError(t, connection.Close())
	}
	// Somebody else is news, so that what was counted until then is told.
	dial(t, client.String(), "[::ffff:192.0.2.1]:9100")
	require.Eventually(t, func() bool {
		again := dial(t, "192.0.2.1", "192.0.2.1:22")
		again.Close()
		return from(next(), 9100) > short/2
	}, 10*time.Second, time.Millisecond)
}

func TestWatcherTellsNothingThatNobodyWants(t *testing.T) {
	if !inNamespace(t, "192.0.2.1/32", "192.0.2.7/32") {
		return
	}
	serve(t, "192.0.2.1:22", "")
	dial(t, client.String(), "192.0.2.1:22")
	w := &probe.Watcher{SSH: []uint16{22}}
	assert.Empty(t, w.Tell(t.Context(), false, nil))
	_, next := watched(t, w)
	next()
	assert.Empty(t, w.Tell(t.Context(), false, nil))
	assert.Empty(t, w.Tell(t.Context(), false, nil))
	again, _ := watched(t, w)
	assert.Equal(t, 1, from(again, 22), "it begins anew")
}

// Whoever closes first waits for a minute in the kernel: so what was cut before the first look is seen.
func TestWatcherSeesWhatHasEndedAMomentBefore(t *testing.T) {
	if !inNamespace(t, "192.0.2.1/32", "192.0.2.7/32") {
		return
	}
	listener, _ := listen(t, "192.0.2.1:9100")
	connection := dial(t, client.String(), "192.0.2.1:9100")
	accepted, err := listener.Accept()
	require.NoError(t, err)
	require.NoError(t, accepted.Close())
	require.NoError(t, connection.Close())
	first, _ := watched(t, &probe.Watcher{})
	assert.Equal(t, 1, from(first, 9100))
}

func TestSSHIsFoundWhereNobodyExpectsIt(t *testing.T) {
	if !inNamespace(t, "192.0.2.1/32") {
		return
	}
	serve(t, "[::]:2222", "SSH-2.0-OpenSSH_9.9\r\n")
	serve(t, "192.0.2.1:2022", "SSH-2.0-dropbear\r\n")
	serve(t, "[::]:80", "HTTP/1.1 400 Bad Request\r\n")
	serve(t, "[::]:8443", "")
	serve(t, "127.0.0.1:3333", "SSH-2.0-inside\r\n")
	for _, port := range []string{"2379", "2380", "6443", "10250"} {
		serve(t, "[::]:"+port, "SSH-2.0-never asked\r\n")
	}
	first, next := watched(t, &probe.Watcher{SSH: []uint16{22}, Sees: func() []peers.Sight { return []peers.Sight{{Kind: peers.SeesEBPF}} }})
	assert.Equal(t, []peers.Sight{{Kind: peers.SeesEBPF}}, first.Sees, "nobody waits for servers that may say nothing")
	second := next()
	assert.ElementsMatch(t, []peers.Sight{{Kind: peers.SeesSSH, What: "2222"}, {Kind: peers.SeesSSH, What: "2022"}, {Kind: peers.SeesEBPF}}, second.Sees)
	assert.Empty(t, second.Ports, "the agent itself is nobody")
	assert.Empty(t, next().Ports)

	_, next = watched(t, &probe.Watcher{SSH: []uint16{2222}})
	assert.Empty(t, next().Sees, "one is where it is expected")
}

// The kernel tells of the end of each socket, also of one that nobody was connected to.
func TestAListenerThatClosesIsNobody(t *testing.T) {
	if !inNamespace(t, "192.0.2.1/32", "192.0.2.7/32", "2001:db8::1/128") {
		return
	}
	serve(t, "192.0.2.1:9100", "")
	_, next := watched(t, &probe.Watcher{SSH: []uint16{9100}})
	next()
	for _, address := range []string{"192.0.2.7:9100", "[2001:db8::1]:9100"} {
		listener, _ := listen(t, address)
		require.NoError(t, listener.Close())
	}
	connection := dial(t, client.String(), "192.0.2.1:9100")
	require.NoError(t, connection.Close())
	s := next()
	require.Len(t, s.Ports, 1)
	assert.Equal(t, []peers.Peer{{Addr: client, Connections: 1}}, s.Ports[0].From)
}

func TestWatcherThatCouldNotLookTriesAgain(t *testing.T) {
	if !inNamespace(t, "192.0.2.1/32", "192.0.2.7/32") {
		return
	}
	serve(t, "192.0.2.1:22", "")
	dial(t, client.String(), "192.0.2.1:22")
	var files unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: files.Max}))
	first, next := watched(t, &probe.Watcher{SSH: []uint16{22}})
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &files))
	require.Len(t, first.Sees, 1)
	assert.Equal(t, peers.SeesNothing, first.Sees[0].Kind)
	assert.Contains(t, first.Sees[0].What, "too many open files")
	again := next()
	assert.Empty(t, again.Sees)
	assert.Equal(t, 1, from(again, 22))
	assert.False(t, again.Since.Before(first.Since), "it begins when it sees")

	connection := dial(t, "192.0.2.1", "192.0.2.1:22")
	require.NoError(t, connection.Close())
	assert.Equal(t, 2, next().Ports[0].Addresses, "ends are read as well")
}

func TestWatcherThatCanNotReadEndsAnyMoreTriesAgain(t *testing.T) {
	if !inNamespace(t, "192.0.2.1/32", "192.0.2.7/32") {
		return
	}
	serve(t, "192.0.2.1:9100", "")
	_, next := watched(t, &probe.Watcher{SSH: []uint16{9100}})
	next()
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	lost := 0
	for fd := range 64 {
		name, _ := unix.Getsockname(fd)
		if stream, is := name.(*unix.SockaddrNetlink); is && stream.Groups != 0 {
			require.NoError(t, unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC))
			lost++
		}
	}
	require.Equal(t, 1, lost)
	require.Eventually(t, func() bool {
		connection := dial(t, client.String(), "192.0.2.1:9100")
		require.NoError(t, connection.Close())
		listen(t, "192.0.2.1:0") // is news
		return from(next(), 9100) > 3
	}, 10*time.Second, time.Millisecond, "no look sees as many at once")
}

func TestAThousandPeersAreSeen(t *testing.T) {
	const crowd = 250
	addresses := []string{"192.0.2.1/32"}
	for i := range crowd {
		addresses = append(addresses, fmt.Sprintf("10.4.0.%d/32", i+1))
	}
	if !inNamespace(t, addresses...) {
		return
	}
	serve(t, "192.0.2.1:443", "")
	var open []net.Conn
	for _, address := range addresses[1:] {
		address, _, _ := strings.Cut(address, "/")
		for range 4 {
			open = append(open, dial(t, address, "192.0.2.1:443"))
		}
	}
	require.Len(t, open, 4*crowd)
	first, _ := watched(t, &probe.Watcher{SSH: []uint16{443}})
	require.Len(t, first.Ports, 1)
	assert.Equal(t, crowd, first.Ports[0].Addresses)
	require.Len(t, first.Ports[0].From, peers.MostAddresses)
	assert.Equal(t, 4, first.Ports[0].From[0].Connections)
}
