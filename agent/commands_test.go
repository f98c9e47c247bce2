package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
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

// clean runs the cleanup on an API server.
func clean(t *testing.T, server http.HandlerFunc) (code int, stdout, stderr string) {
	t.Helper()
	s := httptest.NewServer(server)
	defer s.Close()
	args, _ := arguments(t, s.URL)
	var out, err bytes.Buffer
	code = run(t.Context(), []string{"cleanup", "--release=fw", "--namespace=ns", "--daemonset=fw", "--deployment=fw-controller", "--account=fw-cleanup", "--test-pod=fw-test", "--timeout=2s", args[4]}, noEnv, &out, &err)
	return code, out.String(), err.String()
}

func TestCleanupOfNothingSaysSoAndSucceeds(t *testing.T) {
	code, stdout, stderr := clean(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api/v1/namespaces/ns/serviceaccounts/fw-cleanup":
			fmt.Fprint(w, `{"metadata": {"annotations": {"meta.helm.sh/release-name": "fw"}}}`)
		case "/apis/crd.projectcalico.org/v1/hostendpoints":
			fmt.Fprint(w, `{"items": []}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	assert.Equal(t, exitOK, code, stderr)
	assert.Equal(t, "Deployment ns/fw-controller is not there\nDaemonSet ns/fw is not there\n"+
		"no HostEndpoint, no failsafe ports, no policy and no trusted address of release fw are left\n", stdout)
}

func TestCleanupThatFailsIsAFailure(t *testing.T) {
	code, _, stderr := clean(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	assert.Equal(t, exitFailure, code)
	assert.Contains(t, stderr, "get DaemonSet ns/fw: ")
}

// The Job does not try again what ends with exitUsage.
func TestCleanupThatIsRefusedWillNotDoBetterByARestart(t *testing.T) {
	code, _, stderr := clean(t, http.NotFound)
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, "Render with --no-hooks")
}

func TestStatusIsACommandOfItsOwn(t *testing.T) {
	var stdout, stderr bytes.Buffer
	assert.Equal(t, exitOK, run(t.Context(), []string{"status", "--help"}, noEnv, &stdout, &stderr))
	assert.Contains(t, stdout.String(), "HOST_FIREWALL_SET")
	assert.Equal(t, exitUsage, run(t.Context(), []string{"status", "--wait=soon"}, noEnv, &stdout, &stderr))
	for _, words := range []string{"can't look at the release", "--wait (HOST_FIREWALL_WAIT)", "--policies (HOST_FIREWALL_POLICIES)"} {
		assert.Contains(t, stderr.String(), words)
	}
}

func TestStatusWithoutCalicoIsAFailureThatSaysSo(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	args, _ := arguments(t, server.URL)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"status", "--release=fw", "--policies=fw-ssh=0123456789abcdef", "--set=r1", "--namespace=ns", args[4]}, noEnv, &stdout, &stderr)
	assert.Equal(t, exitFailure, code)
	assert.Contains(t, stderr.String(), "install Calico or its CRDs")
	assert.Equal(t, 1, strings.Count(stderr.String(), "\n"), "what it is told is not logged where a person looks:\n%s", &stderr)
}

// Two files are compared without any cluster.
func TestPreviewOfTwoFilesAsksNobody(t *testing.T) {
	golden := filepath.Join("..", "tests", "helm", "testdata", "golden")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"preview", filepath.Join(golden, "defaults.yaml"), "-o", "json", filepath.Join(golden, "everything.yaml")}, noEnv, &stdout, &stderr)
	assert.Equal(t, exitOK, code, stderr.String())
	assert.Empty(t, stderr.String())
	var report struct{ Changes []struct{ Text string } }
	assert.NoError(t, json.Unmarshal(stdout.Bytes(), &report))
	assert.NotEmpty(t, report.Changes)
	stdout.Reset()
	assert.Equal(t, exitOK, run(t.Context(), []string{"preview", "--help"}, noEnv, &stdout, &stderr))
	assert.Contains(t, stdout.String(), "HOST_FIREWALL_NEW")
}

func TestPreviewEndsWithTwoWhereItCannotRead(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "--new (HOST_FIREWALL_NEW): is required"},
		{[]string{"a.yaml", "b.yaml", "c.yaml"}, `argument "a.yaml" is not understood`},
		{[]string{"gone.yaml", "gone.yaml"}, "open gone.yaml: no such file"},
		{[]string{"imports_test.go", "imports_test.go"}, "imports_test.go: document 1: "},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, exitUsage, run(t.Context(), append([]string{"preview"}, test.args...), noEnv, &stdout, &stderr))
		assert.Contains(t, stderr.String(), test.want)
		assert.Empty(t, stdout.String())
	}
}

func TestPreviewOfWhatIsInstalledAsksTheCluster(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	args, _ := arguments(t, server.URL)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"preview", "--release=fw", "--namespace=ns", args[4], filepath.Join("..", "tests", "helm", "testdata", "golden", "defaults.yaml")}, noEnv, &stdout, &stderr)
	assert.Equal(t, exitFailure, code)
	assert.Contains(t, stderr.String(), "install Calico or its CRDs")
}
