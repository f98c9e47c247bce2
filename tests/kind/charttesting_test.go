package kind

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// chart-testing knows nothing of a chart: with each of its example values it installs it, under a name and in a namespace of its own, waits as Helm
// does, runs helm test, uninstalls and deletes the namespace. make upgrades takes all files, as CI does on a cluster of kind's; this takes two.
func TestChartTestingInstallsTestsAndUninstallsTheChart(t *testing.T) {
	prepare(t)
	charts := t.TempDir()
	require.NoError(t, os.CopyFS(charts, os.DirFS(filepath.Join(root, "charts"))))
	if !everyPairIsWalked() {
		keepOnly(t, filepath.Join(charts, name, "ci"), "article-values.yaml", "default-values.yaml")
	}
	stop := undisturbed(t, scene.ProtectedFromAll)
	said, err := chartTesting(t, "install", "--config=ct.yaml", "--charts="+filepath.Join(charts, name), "--helm-extra-set-args="+extraSetArgs(t))
	require.NoError(t, err, said)
	stop()
	require.NotContains(t, said, "Error deleting", "what it can't delete it leaves, and goes on")
	requireNothingLeft(t)
	requireOpen(t, "after chart-testing")
}

// keepOnly removes all other files of a folder.
func keepOnly(t *testing.T, dir string, files ...string) {
	t.Helper()
	there, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range there {
		if !slices.Contains(files, f.Name()) {
			require.NoError(t, os.Remove(filepath.Join(dir, f.Name())))
		}
	}
}

// extraSetArgs are what goes for each of the files: the image that the nodes have, and this cluster's networks where a file has those of another one.
func extraSetArgs(t *testing.T) string {
	t.Helper()
	image, tag, _ := strings.Cut(release.AgentImage("dev"), ":")
	return fmt.Sprintf("--set=agent.image.repository=%s,agent.image.tag=%s,agent.image.pullPolicy=Never,cluster.cidrs={%s}", image, tag, strings.Join(nodes.ClusterCIDRs(), ","))
}

// chartTesting runs its program, and returns what that said.
func chartTesting(t *testing.T, args ...string) (said string, err error) {
	t.Helper()
	h := helm3(t)
	require.NoError(t, os.Symlink(nodes.Binary("kubectl"), filepath.Join(h.home, "kubectl")))
	cmd := exec.CommandContext(t.Context(), tool(t, "github.com/helm/chart-testing/v3/ct"), args...)
	cmd.Dir, cmd.Env = root, host.Environment("PATH="+h.home+":"+host.Path, "HOME="+h.home, "KUBECONFIG="+nodes.Kubeconfig())
	output, err := cmd.CombinedOutput()
	return string(output), err
}
