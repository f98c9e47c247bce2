package probe_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/host-firewall/host-firewall/agent/internal/probe"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// nameServer calls answer with each query, and sends what that returns; nil: nothing.
func nameServer(t *testing.T, answer func(query []byte) []byte) string {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.66.4.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { socket.Close() })
	go func() {
		for query := make([]byte, 512); ; {
			size, from, err := socket.ReadFrom(query)
			if err != nil {
				return
			}
			if text := answer(query[:size]); text != nil {
				_, _ = socket.WriteTo(text, from) // who asked may be gone
			}
		}
	}()
	return socket.LocalAddr().String()
}

func echo(query []byte) []byte { return query }

func nothing([]byte) []byte { return nil }

func TestRoundTellsWhatIsReached(t *testing.T) {
	_, to := listen(t, "127.66.4.2:0")
	_, to6 := listen(t, "[::1]:0")
	_, named := listen(t, "127.0.0.1:0")
	good, refused, dropped := to.String(), free(t, "127.66.4.3:0").String(), silent(t, onPort("127.66.4.4", 0)).String()
	deaf := nameServer(t, nothing)
	noServer := free(t, "127.66.4.5:0").String()
	targets := []probe.Target{
		{Name: "API server", Any: []string{good}},
		{Name: "IPv6", Any: []string{to6.String()}},
		{Name: "by name", Any: []string{"localhost:" + named.String()[len("127.0.0.1:"):]}},
		{Name: "refused", Any: []string{refused}},
		{Name: "refused, which is as good", Any: []string{refused}, Refused: true},
		{Name: "dropped", Any: []string{dropped}},
		{Name: "peers, one of which is there", Any: []string{dropped, refused, good, dropped}},
		{Name: "peers, none of which is", Any: []string{refused, dropped}},
		{Name: "peers, of which none is known"},
		{Name: "DNS", Any: []string{nameServer(t, echo)}, DNS: true},
		{Name: "DNS that is deaf", Any: []string{deaf}, DNS: true},
		{Name: "DNS that is not there", Any: []string{noServer}, DNS: true},
	}
	want := []trial.Result{
		{Probe: "API server"},
		{Probe: "IPv6"},
		{Probe: "by name"},
		{Probe: "refused", Problem: "dial tcp " + refused + ": connect: connection refused"},
		{Probe: "refused, which is as good"},
		{Probe: "dropped", Problem: "dial tcp " + dropped + ": i/o timeout"},
		{Probe: "peers, one of which is there"},
		{Probe: "peers, none of which is", Problem: "dial tcp " + refused + ": connect: connection refused; dial tcp " + dropped + ": i/o timeout"},
		{Probe: "peers, of which none is known", Problem: "no address of it is known"},
		{Probe: "DNS"},
		{Probe: "DNS that is deaf", Problem: "ask udp " + deaf + ": i/o timeout"},
		{Probe: "DNS that is not there", Problem: "ask udp " + noServer + ": read: connection refused"},
	}
	assert.Equal(t, want, probe.Round(t.Context(), targets))
	assert.Equal(t, want, probe.Round(t.Context(), targets), "in the same words")
}

func TestTargetsAreProbedSideBySide(t *testing.T) {
	asked := make(chan struct{})
	waits := nameServer(t, func(query []byte) []byte { <-asked; return query })
	last := nameServer(t, func(query []byte) []byte { close(asked); return query })
	results := probe.Round(t.Context(), []probe.Target{
		{Name: "waits for the other", Any: []string{waits}, DNS: true}, {Name: "other", Any: []string{last}, DNS: true},
	})
	assert.Equal(t, []trial.Result{{Probe: "waits for the other"}, {Probe: "other"}}, results)
}

func TestNameServersAreAskedForLocalhost(t *testing.T) {
	queries := make(chan []byte, 1)
	server := nameServer(t, func(query []byte) []byte { queries <- slices.Clone(query); return query })
	require.Empty(t, probe.Round(t.Context(), []probe.Target{{Any: []string{server}, DNS: true}})[0].Problem)
	var asked dnsmessage.Message
	require.NoError(t, asked.Unpack(<-queries))
	assert.True(t, asked.RecursionDesired)
	assert.Equal(t, []dnsmessage.Question{{
		Name: dnsmessage.MustNewName("localhost."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}, asked.Questions)
}

func TestNameServerIsTheFirstOfResolvConf(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		want []string
	}{
		"one":      {"search example.org\nnameserver 192.0.2.53\noptions ndots:5\n", []string{"192.0.2.53:53"}},
		"more":     {"# nameserver 192.0.2.1\nnameserver\t2001:db8::53\nnameserver 192.0.2.53\n", []string{"[2001:db8::53]:53"}},
		"a link's": {"nameserver fe80::1%eth0\n", []string{"[fe80::1%eth0]:53"}},
		"none":     {"search example.org\nnameserver\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			require.NoError(t, os.WriteFile(path, []byte(test.file), 0o600))
			assert.Equal(t, probe.Target{Name: "DNS", DNS: true, Any: test.want}, probe.DNS(path))
		})
	}
	assert.Empty(t, probe.DNS(filepath.Join(t.TempDir(), "none")).Any)
}
