// Package release proves that what `make release` publishes is found again in a registry, whole and signed.
package release

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

const version = "0.1.0" // that of the chart

// house is somebody who publishes releases to a registry.
type house struct {
	root     string
	registry string   // with the owner's name in it
	env      []string // no login of whoever runs the test
}

// newHouse starts a registry, which speaks TLS as others do.
func newHouse(t *testing.T) house {
	t.Helper()
	root, err := cluster.Root()
	require.NoError(t, err)
	quiet := log.New(io.Discard, "", 0)
	server := httptest.NewUnstartedServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(quiet)))
	server.Config.ErrorLog = quiet
	server.StartTLS()
	t.Cleanup(server.Close)
	home := t.TempDir()
	ca := filepath.Join(home, "ca.crt")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	return house{root, strings.TrimPrefix(server.URL, "https://") + "/somebody", append(os.Environ(), "SSL_CERT_FILE="+ca,
		"COSIGN_PASSWORD=", "DOCKER_CONFIG="+home, "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home)}
}

// key makes a pair of keys, and returns their paths.
func (h house) key(t *testing.T, name string) (private, public string) {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), name)
	h.tool(t, "cosign", "generate-key-pair", "--output-key-prefix="+prefix)
	return prefix + ".key", prefix + ".pub"
}

// run runs a command as somebody who publishes or installs, and returns what it printed.
func (h house) run(t *testing.T, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = h.root, h.env
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said.String())
	}
	return string(out), err
}

// tool runs one of the tools of a release.
func (h house) tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := h.run(t, "go", append([]string{"tool", "-modfile=tools/release/go.mod", name}, args...)...)
	require.NoError(t, err)
	return strings.TrimSpace(out)
}

func (h house) make(t *testing.T, target string, variables ...string) error {
	_, err := h.run(t, "make", append([]string{"--no-print-directory", target, "REGISTRY=" + h.registry}, variables...)...)
	return err
}

func TestReleaseIsFoundAgainWholeAndSigned(t *testing.T) {
	h := newHouse(t)
	private, public := h.key(t, "ours")
	require.NoError(t, h.make(t, "release", "VERSION="+version, "KEY="+private))
	require.NoError(t, h.make(t, "verify-release", "VERSION="+version, "KEY="+public))

	name := h.registry + "/host-firewall-agent"
	digest := h.tool(t, "crane", "digest", name+":"+version)
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run("image for "+arch, func(t *testing.T) { requireImage(t, h, name, digest, arch, public) })
	}
	t.Run("chart", func(t *testing.T) { requireChart(t, h, name, digest) })
	t.Run("signatures", func(t *testing.T) {
		_, other := h.key(t, "another")
		require.ErrorContains(t, h.make(t, "verify-release", "VERSION="+version, "KEY="+other), "signature")
		// Whoever may write to the registry has no key.
		h.tool(t, "crane", "tag", name+":"+version+"-amd64", version)
		require.ErrorContains(t, h.make(t, "verify-release", "VERSION="+version, "KEY="+public), "does not name")
	})
}

func TestReleaseIsOfTheVersionThatTheChartSays(t *testing.T) {
	require.ErrorContains(t, newHouse(t).make(t, "release", "VERSION=9.9.9"), "version in charts/host-firewall/Chart.yaml is not 9.9.9")
}

// requireImage pulls the image for a platform, and wants it to be what its source makes anywhere, and its SBOM to tell what is in it.
func requireImage(t *testing.T, h house, name, index, arch, public string) {
	t.Helper()
	digest := h.tool(t, "crane", "digest", "--platform=linux/"+arch, name+"@"+index)
	ref, file := name+"@"+digest, filepath.Join(t.TempDir(), "pulled.tar")
	h.tool(t, "crane", "pull", ref, file)
	pulled, err := tarball.ImageFromPath(file, nil)
	require.NoError(t, err)

	elsewhere, archive := t.TempDir(), filepath.Join(t.TempDir(), "image.tar")
	for _, file := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile(filepath.Join(h.root, file))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(elsewhere, file), raw, 0o600))
	}
	require.NoError(t, os.CopyFS(filepath.Join(elsewhere, "agent"), os.DirFS(filepath.Join(h.root, "agent"))))
	require.NoError(t, image.PackAgent(t.Context(), elsewhere, "agent:"+version, archive, arch, version))
	again, err := tarball.ImageFromPath(archive, nil)
	require.NoError(t, err)
	same, err := again.Digest()
	require.NoError(t, err)
	require.Equal(t, same.String(), digest, "the image that somebody else builds from the same source")

	told := sbom(t, h, ref, public)
	require.Equal(t, "v"+version, told.Metadata.Component.Version)
	has := map[string]string{}
	for _, c := range told.Components {
		has[c.Name] = c.Version
	}
	built := binary(t, pulled)
	require.NotEmpty(t, built.Deps)
	for _, m := range built.Deps {
		require.Equal(t, m.Version, has[m.Path], m.Path)
	}
	require.Equal(t, built.GoVersion, has["std"], "Go's own library")
	require.Contains(t, built.Settings, debug.BuildSetting{Key: "GOARCH", Value: arch})
}

// binary tells of what the only file of an image was built.
func binary(t *testing.T, img v1.Image) *buildinfo.BuildInfo {
	t.Helper()
	files := tar.NewReader(mutate.Extract(img))
	header, err := files.Next()
	require.NoError(t, err)
	require.Equal(t, "host-firewall-agent", header.Name)
	raw, err := io.ReadAll(files)
	require.NoError(t, err)
	_, err = files.Next()
	require.ErrorIs(t, err, io.EOF, "an image of one file")
	info, err := buildinfo.Read(bytes.NewReader(raw))
	require.NoError(t, err)
	return info
}

// bill is what we read of an SBOM.
type bill struct {
	Metadata   struct{ Component struct{ Version string } }
	Components []struct{ Name, Version string }
}

// sbom is what whoever has signed the image attests to be in it.
func sbom(t *testing.T, h house, ref, public string) (told bill) {
	t.Helper()
	said := h.tool(t, "cosign", "verify-attestation", "--type=cyclonedx", "--insecure-ignore-tlog", "--key="+public, ref)
	var envelope struct{ Payload string }
	require.NoError(t, json.Unmarshal([]byte(said), &envelope))
	statement, err := base64.StdEncoding.DecodeString(envelope.Payload)
	require.NoError(t, err)
	var attested struct{ Predicate bill }
	require.NoError(t, json.Unmarshal(statement, &attested))
	return attested.Predicate
}

// requireChart pulls the chart, and wants it to name the image that was published with it wherever it names one, and the README is no exception.
func requireChart(t *testing.T, h house, name, digest string) {
	t.Helper()
	dir := t.TempDir()
	_, err := h.run(t, "go", "tool", "-modfile=tools/go.mod", "helm", "pull", "oci://"+h.registry+"/charts/host-firewall", "--version="+version, "--untar", "--untardir="+dir)
	require.NoError(t, err)
	released, err := loader.Load(filepath.Join(dir, "host-firewall"))
	require.NoError(t, err)
	require.Contains(t, released.Metadata.Annotations["artifacthub.io/images"], "image: "+name+"@"+digest+"\n")
	agent := released.Values["agent"].(map[string]any)["image"].(map[string]any)
	require.Equal(t, []any{name, digest}, []any{agent["repository"], agent["digest"]})
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		require.NotRegexp(t, `(^|[^/])\bhost-firewall/agent\b`, string(content), path)
		if filepath.Base(path) == "README.md" {
			require.Contains(t, string(content), name)
			require.Contains(t, string(content), digest)
		}
		return err
	}))
}
