package validator_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// A chart that is released names the image that was built for it, wherever it names one, and the README is no exception.
func TestReleasedChartNamesItsImageEverywhere(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	require.NoError(t, err)
	workflow, err := os.ReadFile(filepath.Join(root, ".github", "workflows", "release.yml"))
	require.NoError(t, err)
	require.Contains(t, string(workflow), "\n          make name-image\n          helm package charts/host-firewall ")

	charts := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(charts, "host-firewall"), os.DirFS(chartDir)))
	image, digest := "registry.example.org/somebody/host-firewall-agent", "sha256:"+strings.Repeat("0123456789abcdef", 4)
	command := exec.CommandContext(t.Context(), "make", "name-image", "CHARTS="+charts)
	command.Dir = root
	command.Env = append(os.Environ(), "IMAGE="+image, "DIGEST="+digest)
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))

	released, err := loader.Load(filepath.Join(charts, "host-firewall"))
	require.NoError(t, err)
	require.Contains(t, released.Metadata.Annotations["artifacthub.io/images"], "image: "+image+"@"+digest+"\n")
	agent := released.Values["agent"].(map[string]any)["image"].(map[string]any)
	require.Equal(t, []any{image, digest}, []any{agent["repository"], agent["digest"]})
	require.NoError(t, fs.WalkDir(os.DirFS(charts), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(charts, path))
		require.NotRegexp(t, `(^|[^/])\bhost-firewall/agent\b`, string(content), path)
		if filepath.Base(path) == "README.md" {
			require.Contains(t, string(content), image)
			require.Contains(t, string(content), digest)
		}
		return err
	}))
}
