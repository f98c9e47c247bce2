// Package image builds the images of the tests: the agent's, as its Dockerfile says, and small ones around one binary.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
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
	Entrypoint string   // path of the binary in the image
	User       string   // numeric; empty is root
	Env        []string // NAME=VALUE
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
	args := append(append([]string{"build"}, buildFlags()...), "-ldflags", flags, "-o", target, pkg)
	cmd := exec.CommandContext(ctx, "go", args...)
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

// buildFlags are those of the Dockerfile, where their reason stands; a test compares the two.
func buildFlags() []string {
	return []string{"-trimpath", "-buildvcs=false", "-tags", "nethttpomithttp2",
		"-gcflags", "k8s.io/api/...=-l -d=wrapglobalmapctl=2", "-gcflags", "github.com/...=-l", "-gcflags", "google.golang.org/...=-l",
		"-gcflags", "k8s.io/client-go/...=-l", "-gcflags", "k8s.io/apimachinery/...=-l", "-gcflags", "golang.org/...=-l",
		"-gcflags", "go.yaml.in/...=-l", "-gcflags", "sigs.k8s.io/...=-l", "-gcflags", "vendor/golang.org/...=-l", "-gcflags", "net/...=-l",
		"-gcflags", "encoding/...=-l", "-gcflags", "mime/...=-l", "-gcflags", "regexp/...=-l", "-gcflags", "log/...=-l", "-gcflags", "flag=-l",
		"-gcflags", "fmt=-l", "-gcflags", "go/...=-l"}
}

// File is one file of an image.
type File struct {
	Path    string // in the image
	Source  string // the file that it is a copy of
	Content string // what is in it, without a Source
	Link    string // what it is a symbolic link to, without a Source and a Content
}

// Pack writes an archive (docker-archive) of an image named ref that holds nothing but one binary.
func Pack(binary, ref, archive string, c Config) error {
	return PackFiles([]File{{Path: c.Entrypoint, Source: binary}}, ref, archive, c)
}

// PackFiles writes an archive (docker-archive) of an image named ref that holds these files. All can be executed.
func PackFiles(contents []File, ref, archive string, c Config) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("pack image: %w", err)
	}
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	for _, f := range contents {
		if err := f.write(files); err != nil {
			return fmt.Errorf("pack image %s: %w", ref, err)
		}
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
	config.Config = v1.Config{Entrypoint: []string{c.Entrypoint}, User: c.User, Env: c.Env, Labels: c.Labels}
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

func (f File) write(to *tar.Writer) error {
	header := &tar.Header{Name: f.Path[1:], Mode: 0o755}
	if f.Link != "" {
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
		return to.WriteHeader(header)
	}
	content := []byte(f.Content)
	if f.Source != "" {
		var err error
		if content, err = os.ReadFile(f.Source); err != nil {
			return err
		}
	}
	header.Size = int64(len(content))
	if err := to.WriteHeader(header); err != nil {
		return err
	}
	_, err := to.Write(content)
	return err
}

// Size is how many bytes an image has.
type Size struct {
	Binary int64 `json:"binary"` // its largest file
	Layers int64 `json:"layers"` // as a registry keeps them, compressed
}

// Measure tells the size of the image in an archive (docker-archive).
func Measure(archive string) (Size, error) {
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		return Size{}, fmt.Errorf("measure image %s: %w", archive, err)
	}
	layers, err := img.Layers()
	if err != nil {
		return Size{}, fmt.Errorf("measure image %s: %w", archive, err)
	}
	var size Size
	for _, l := range layers {
		if err := size.add(l); err != nil {
			return Size{}, fmt.Errorf("measure image %s: %w", archive, err)
		}
	}
	return size, nil
}

func (s *Size) add(l v1.Layer) error {
	// Archives hold layers as they like; compressing all alike makes them comparable.
	content, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer content.Close()
	var packed counter
	compressor := gzip.NewWriter(&packed)
	files := tar.NewReader(io.TeeReader(content, compressor))
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		s.Binary = max(s.Binary, header.Size)
	}
	if err := compressor.Close(); err != nil {
		return err
	}
	s.Layers += int64(packed)
	return nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
