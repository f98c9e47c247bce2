package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCleanupIsACommandOfItsOwn(t *testing.T) {
	var stdout, stderr bytes.Buffer
	assert.Equal(t, exitOK, run(t.Context(), []string{"cleanup", "--help"}, noEnv, &stdout, &stderr))
	assert.Contains(t, stdout.String(), "HOST_FIREWALL_DAEMONSET")
	assert.Equal(t, exitUsage, run(t.Context(), []string{"cleanup", "--timeout=soon"}, noEnv, &stdout, &stderr))
	for _, words := range []string{"--timeout (HOST_FIREWALL_TIMEOUT)", "--release (HOST_FIREWALL_RELEASE)"} {
		assert.Contains(t, stderr.String(), words)
	}
}

func TestCleanupOfNothingSaysSoAndSucceeds(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	args, _ := arguments(t, server.URL)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"cleanup", "--release=fw", "--namespace=ns", "--daemonset=fw", args[4]}, noEnv, &stdout, &stderr)
	assert.Equal(t, exitOK, code, stderr.String())
	assert.Equal(t, "DaemonSet ns/fw is not there, so no agents run\nthe API server does not serve Calico's objects, so there are none to remove\n", stdout.String())
}

func TestCleanupThatFailsIsAFailure(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer server.Close()
	args, _ := arguments(t, server.URL)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"cleanup", "--release=fw", "--namespace=ns", "--daemonset=fw", "--timeout=2s", args[4]}, noEnv, &stdout, &stderr)
	assert.Equal(t, exitFailure, code)
	assert.Contains(t, stderr.String(), "cannot stop DaemonSet ns/fw")
}

func TestVerifyIsACommandOfItsOwn(t *testing.T) {
	var stdout, stderr bytes.Buffer
	assert.Equal(t, exitOK, run(t.Context(), []string{"verify", "--help"}, noEnv, &stdout, &stderr))
	assert.Contains(t, stdout.String(), "HOST_FIREWALL_POLICY_REVISION")
	assert.Equal(t, exitUsage, run(t.Context(), []string{"verify", "--timeout=soon"}, noEnv, &stdout, &stderr))
	for _, words := range []string{"can't verify", "--timeout (HOST_FIREWALL_TIMEOUT)", "--policies (HOST_FIREWALL_POLICIES)"} {
		assert.Contains(t, stderr.String(), words)
	}
}

func TestVerifyWithoutCalicoIsAFailureThatSaysSo(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	args, _ := arguments(t, server.URL)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"verify", "--release=fw", "--policies=fw-ssh", "--policy-revision=r1",
		"--namespace=ns", "--daemonset=fw", "--timeout=1s", args[4]}, noEnv, &stdout, &stderr)
	assert.Equal(t, exitFailure, code)
	assert.Contains(t, stderr.String(), "install Calico or its CRDs")
}
