package host

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestComponentThatEndsAgainAndAgainIsToldWithItsLastWordsUntilItLives(t *testing.T) {
	dir := t.TempDir()
	log, err := openLog(dir, "felix")
	require.NoError(t, err)
	s, err := newSupervisor(dir, map[string]*os.File{"felix": log})
	require.NoError(t, err)
	s.steady = time.Second
	healed := filepath.Join(dir, "healed")
	s.start(Component{Name: "felix", Args: []string{"/bin/sh", "-c", "echo starting; test -e " + healed + " && exec sleep 60;" +
		"echo 'panic: a stub'; echo; echo 'goroutine 1 [running]:'; seq 100; exit 2"}})
	go func() { _ = s.reap() }()

	h := &Host{Dir: dir, Spec: Spec{Name: "worker-1"}}
	require.NoError(t, h.Dying(), "it has only begun")
	dies := func() bool { return h.Dying() != nil }
	require.Eventually(t, dies, 30*time.Second, 10*time.Millisecond)
	told := h.Dying().Error()
	assert.Contains(t, told, "felix on worker-1 ended ")
	assert.Contains(t, told, "panic: a stub\n\ngoroutine 1")
	assert.NotContains(t, told, "starting", "what it said before the panic")
	assert.NotContains(t, told, "100", "the end of a stack")

	require.NoError(t, os.WriteFile(healed, nil, 0o644))
	require.Eventually(t, func() bool { return !dies() }, 30*time.Second, 10*time.Millisecond)
	s.mu.Lock() // nothing is started any more
	for pid := range s.running {
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	}
}

func TestNothingOfWhoStartsAClusterReachesItsComponents(t *testing.T) {
	for _, name := range []string{"KUBECONFIG", "HTTPS_PROXY", "GOMEMLIMIT", "LANG", "HELM_NAMESPACE"} {
		t.Setenv(name, "theirs")
	}
	t.Setenv("PATH", "/theirs")
	for _, variable := range Environment("KUBECONFIG=/ours") {
		assert.NotContains(t, variable, "theirs")
	}
	found, err := LookPath("sh")
	require.NoError(t, err, "whatever PATH is theirs")
	assert.NotEmpty(t, found)
	got := environment(Component{Env: []string{"PATH=/ours"}})
	assert.Contains(t, got, "PATH=/ours")
	assert.NotContains(t, got, "PATH=/theirs")
}
