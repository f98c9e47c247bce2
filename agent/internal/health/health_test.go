package health

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// start serves the probes for the length of the test and returns the address.
func start(t *testing.T, alive func() error, report func() Report) string {
	t.Helper()
	server, err := Listen(0, alive, report)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			assert.NoError(t, err, "the end of the context is no failure")
		case <-time.After(5 * time.Second):
			t.Error("server still serves 5 s after its context ended")
		}
	})
	return server.listener.Addr().String()
}

// get returns status and body, with an own connection as the kubelet does.
func get(t *testing.T, method, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, strings.TrimSpace(string(body))
}

func TestProbesSayHowTheNodeIs(t *testing.T) {
	since := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	const armed = `{"state":"Armed","ready":true,"reason":"5 policies","since":"2026-08-01T12:00:00Z"}`
	const waiting = `{"state":"Waiting","ready":false,"reason":"fw-ssh is missing","since":"2026-08-01T12:00:00Z"}`
	for name, test := range map[string]struct {
		path   string
		alive  error
		report Report
		status int
		body   string
	}{
		"ready":     {"/readyz", nil, Report{State: "Armed", Ready: true, Reason: "5 policies", Since: since}, 200, armed},
		"not ready": {"/readyz", nil, Report{State: "Waiting", Reason: "fw-ssh is missing", Since: since}, 503, waiting},
		"alive":     {"/livez", nil, Report{}, 200, "ok"},
		"stuck":     {"/livez", errors.New("stuck for 2m0s"), Report{Ready: true}, 503, "stuck for 2m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			address := start(t, func() error { return test.alive }, func() Report { return test.report })
			status, body := get(t, http.MethodGet, "http://"+address+test.path)
			assert.Equal(t, test.status, status)
			assert.Equal(t, test.body, body)
		})
	}
}

func TestProbesAreOnLoopbackAndNothingElseIsServed(t *testing.T) {
	address := start(t, func() error { return nil }, func() Report { return Report{} })
	host, _, err := net.SplitHostPort(address)
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1", host)

	status, _ := get(t, http.MethodGet, "http://"+address+"/debug/pprof/")
	assert.Equal(t, http.StatusNotFound, status)
	status, _ = get(t, http.MethodPost, "http://"+address+"/livez")
	assert.Equal(t, http.StatusMethodNotAllowed, status)
}

func TestTakenPortIsReportedAtOnce(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, err = Listen(taken.Addr().(*net.TCPAddr).Port, nil, nil)
	assert.ErrorContains(t, err, "listen for health probes")
}
