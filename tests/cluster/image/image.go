// Package image builds the images of the tests: the agent's, as its Dockerfile says, and small ones around one binary.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Config is what an image says of the process that runs in it.
type Config struct {
	Entrypoint string // path of the binary in the image
	User       string // numeric; empty is root
	Labels     map[string]string
	Arch       string // GOARCH; empty is this machine's
}

// Binary builds one of our commands, static and for Linux. arch is GOARCH, empty for this machine's; each of set is a
// variable and its value, NAME=VALUE.
func Binary(ctx context.Context, root, pkg, target, arch string, set ...string) error {
	flags := "-s -w"
	for _, s := range set {
		flags += " -X " + s
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", target, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+arch)
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, output)
	}
	return nil
}

// Pack writes an archive (docker-archive) of an image named ref that holds nothing but one binary.
func Pack(binary, ref, archive string, c Config) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("pack image: %w", err)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	if err := files.WriteHeader(&tar.Header{Name: c.Entrypoint[1:], Mode: 0o755, Size: int64(len(content))}); err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	if _, err := files.Write(content); err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	if err := files.Close(); err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	blob, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	img, err := mutate.AppendLayers(empty.Image, blob)
	if err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", cmp.Or(c.Arch, runtime.GOARCH)
	config.Config = v1.Config{Entrypoint: []string{c.Entrypoint}, User: c.User, Labels: c.Labels}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	if err := tarball.WriteToFile(archive, tag, img); err != nil {
		return fmt.Errorf("pack image %s: %w", ref, err)
	}
	return nil
}
