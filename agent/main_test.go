package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func noEnv(string) (string, bool) { return "", false }

// buffer may be read while the agent writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestVersionAndHelpNeedNoSettings(t *testing.T) {
	for arg, want := range map[string]string{"version": program + " ", "--help": "HOST_FIREWALL_NODE_NAME"} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, exitOK, run(t.Context(), []string{arg}, noEnv, &stdout, &stderr))
		assert.Contains(t, stdout.String(), want)
		assert.Empty(t, stderr.String())
	}
}

func TestBadSettingsEndTheAgentBeforeItAsksAnything(t *testing.T) {
	var stdout, stderr bytes.Buffer
	assert.Equal(t, exitUsage, run(t.Context(), []string{"--resync=soon"}, noEnv, &stdout, &stderr))
	for _, words := range []string{"--resync (HOST_FIREWALL_RESYNC)", "--node-name (HOST_FIREWALL_NODE_NAME)"} {
		assert.Contains(t, stderr.String(), words)
	}
}

// arguments are settings for an agent of the API server, with a port of its own.
func arguments(t *testing.T, apiServer string) (args []string, port int) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: %q}}]}", apiServer)
	require.NoError(t, os.WriteFile(kubeconfig, []byte(text), 0o600))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port = free.Addr().(*net.TCPAddr).Port
	require.NoError(t, free.Close())
	return []string{"--node-name=n1", "--release=fw", "--namespace=ns", "--set=r1",
		"--kubeconfig=" + kubeconfig, "--health-port=" + strconv.Itoa(port)}, port
}

func TestAgentWithoutCalicoSaysSoAndStopsWhenTold(t *testing.T) {
	var mu sync.Mutex
	methods := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		methods[r.Method]++
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	args, port := arguments(t, server.URL)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stdout, stderr buffer
	code := make(chan int, 1)
	go func() { code <- run(ctx, args, noEnv, &stdout, &stderr) }()

	probe := func(path string) (status int, body []byte) {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		if err != nil {
			return 0, nil
		}
		defer response.Body.Close()
		var b bytes.Buffer
		_, _ = b.ReadFrom(response.Body)
		return response.StatusCode, b.Bytes()
	}
	require.Eventually(t, func() bool {
		_, body := probe("/readyz")
		return strings.Contains(string(body), "install Calico")
	}, 10*time.Second, 10*time.Millisecond, "log:\n%s", &stderr)
	status, body := probe("/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, status)
	var report struct{ State string }
	require.NoError(t, json.Unmarshal(body, &report))
	assert.Equal(t, "Waiting", report.State)
	status, _ = probe("/livez")
	assert.Equal(t, http.StatusOK, status, "a restart would not bring Calico")

	stop()
	select {
	case got := <-code:
		assert.Equal(t, exitOK, got)
	case <-time.After(2 * time.Second):
		t.Fatal("the agent has not ended within 2 s")
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, []string{http.MethodGet}, keys(methods), "nothing was written")
	assert.Equal(t, 1, strings.Count(stderr.String(), "settings.release=fw"), "settings are logged once:\n%s", &stderr)
}

func TestAgentThatCannotServeItsProbesEnds(t *testing.T) {
	args, port := arguments(t, "http://127.0.0.1:1")
	taken, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	require.NoError(t, err)
	defer taken.Close()
	var stdout, stderr buffer
	assert.Equal(t, exitFailure, run(t.Context(), args, noEnv, &stdout, &stderr))
	assert.Contains(t, stderr.String(), "listen for health probes")
}

func TestLogFormatIsAsTold(t *testing.T) {
	args, _ := arguments(t, "http://127.0.0.1:1")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var stdout, stderr buffer
	assert.Equal(t, exitOK, run(ctx, append(args, "--log-format=json"), noEnv, &stdout, &stderr))
	for line := range strings.Lines(stderr.String()) {
		assert.True(t, json.Valid([]byte(line)), line)
	}
	assert.Contains(t, stderr.String(), "the endpoints stay as they are")
}

func keys(m map[string]int) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	return names
}
