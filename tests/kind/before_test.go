package kind

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

// beforeSets is the last commit whose policies are no sets.
const beforeSets = "5dc7d92"

// before is what people may have: the last release, and until there is one beforeSets.
func before(t *testing.T) (commit string) {
	t.Helper()
	describe := exec.CommandContext(t.Context(), "git", "describe", "--tags", "--abbrev=0", "HEAD^")
	describe.Dir = root
	tag, err := describe.Output()
	if err != nil {
		return beforeSets
	}
	return strings.TrimSpace(string(tag))
}

// releaseOf returns a release of the chart of a commit. The nodes have the agent's image of then, with the commit as its tag.
func releaseOf(t *testing.T, commit string) *release.Release {
	t.Helper()
	dir := t.TempDir()
	unpack := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", `git archive "$1" | tar --extract --directory "$2"`, "bash", commit, dir)
	unpack.Dir = root
	require.NoError(t, told(unpack), "the history has to be there: git fetch --unshallow --tags")
	archive := filepath.Join(cluster.Folder(root), "agent-before.tar")
	require.NoError(t, image.Agent(t.Context(), dir, release.AgentImage(commit), archive, "", commit, t.Output()))
	require.NoError(t, nodes.Load(t.Context(), archive))
	r, err := release.New(dir, nodes.Kubeconfig(), namespace, name)
	require.NoError(t, err)
	return r
}

// Agents of both are there at the same time, as the chart replaces them; they try nothing, which is quicker.
func TestUpgradeFromTheReleaseBeforeAndBackCutsAndOpensNobody(t *testing.T) {
	r, commit := prepare(t), before(t)
	old := releaseOf(t, commit)
	requireAsBefore := func(when string) {
		t.Helper()
		_, err := kubectl(t.Context(), "", "--namespace", namespace, "rollout", "status", "daemonset/"+name, "--timeout", soon.String())
		require.NoError(t, err, "an agent is ready when its node is armed")
		requireProtected(t, when)
	}
	_, err := old.Install(t.Context(), ofImage(commit))
	require.NoError(t, err)
	requireAsBefore("installed")
	stop := protected(t)
	_, err = r.Upgrade(t.Context(), changed(rolling(), map[string]any{"rollout": map[string]any{"verify": false}}))
	require.NoError(t, err)
	if commit == beforeSets {
		for _, resource := range []string{"globalnetworkpolicies", "clusterinformations"} {
			watch, err := asAgent(t, nil)(resource).Watch(t.Context(), metav1.ListOptions{})
			require.NoError(t, err, "agents of then watch %s until the last has gone", resource)
			watch.Stop()
		}
	}
	requireArmed(t)
	requireProtected(t, "after the upgrade")
	require.NoError(t, r.Rollback(1))
	requireAsBefore("after the rollback")
	if commit == beforeSets {
		shell := exec.CommandContext(t.Context(), "sh", "-euc", commandsOf(t, "upgrade.md")["Take the new set away"])
		shell.Env = host.Environment("HOME="+t.TempDir(), "KUBECONFIG="+nodes.Kubeconfig(), "PATH="+filepath.Dir(nodes.Binary("kubectl"))+":"+host.Path)
		require.NoError(t, told(shell))
		requireSet(t, "before")
		requireProtected(t, "without the new set")
	}
	stop()
}
