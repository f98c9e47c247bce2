package probe_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/probe"
)

// felix answers as Felix does when it is asked for its readiness, and returns its address.
func felix(t *testing.T, status int) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readiness" {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestFelixIsReadyWhenItSaysSo(t *testing.T) {
	nobody := func(t *testing.T) string { return free(t, "127.0.0.1:0").String() }
	says := func(status int) func(*testing.T) string {
		return func(t *testing.T) string { return felix(t, status) }
	}
	hangs := func(t *testing.T) string { _, at := listen(t, "127.0.0.1:0"); return at.String() }
	for name, test := range map[string]struct {
		usual, openShift func(*testing.T) string
		want             probe.Readiness
		says             string // in the error; empty: there is none
	}{
		"ready":                       {says(200), nobody, probe.Ready, ""},
		"ready, without words":        {says(204), nobody, probe.Ready, ""},
		"ready on OpenShift":          {nobody, says(200), probe.Ready, ""},
		"ready beside somebody else":  {says(404), says(200), probe.Ready, ""},
		"not ready":                   {says(503), nobody, probe.NotReady, "/readiness: 503 Service Unavailable"},
		"too busy":                    {hangs, nobody, probe.NotReady, "Client.Timeout exceeded"},
		"nobody there":                {nobody, nobody, probe.Silent, "connection refused"},
		"only somebody else is there": {says(404), nobody, probe.Silent, "404 Not Found"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := probe.FelixReadyAt(t.Context(), test.usual(t), test.openShift(t))
			assert.Equal(t, test.want, got)
			if test.says == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, test.says)
			}
		})
	}
}

func TestFelixIsAskedWhereItListens(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, address := range []string{"127.0.0.1:9199", "127.0.0.1:9099"} {
		listener, err := net.Listen("tcp", address)
		require.NoError(t, err)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		server.Listener = listener
		server.Start()
		got, err := probe.FelixReady(t.Context())
		assert.NoError(t, err)
		assert.Equal(t, probe.Ready, got, "it listens on %s", address)
		server.Close()
	}
	got, err := probe.FelixReady(t.Context())
	assert.ErrorContains(t, err, "9199")
	assert.Equal(t, probe.Silent, got)
}
