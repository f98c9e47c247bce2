package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Agent writes an archive of the agent's image, named ref, for GOARCH arch (empty: this machine's). It builds the
// Dockerfile where a builder and its golang image are at hand, and else does what PackAgent does, so that no registry
// is needed. Which of the two it was goes to out.
func Agent(ctx context.Context, root, ref, archive, arch, version string, out io.Writer) error {
	if arch == "" {
		arch = runtime.GOARCH
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	for _, b := range builders(ref, archive, arch, version) {
		if exec.CommandContext(ctx, b.has[0], b.has[1:]...).Run() != nil {
			continue
		}
		fmt.Fprintf(out, "building the agent's image from the Dockerfile with %s\n", b.has[0])
		// Both refuse to write over an archive.
		if err := os.RemoveAll(archive); err != nil {
			return fmt.Errorf("build image: %w", err)
		}
		for _, args := range b.steps {
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			cmd.Dir = root
			if output, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, output)
			}
		}
		return nil
	}
	fmt.Fprintln(out, "building the agent's image with go build (no container builder with a golang image is at hand)")
	return PackAgent(ctx, root, ref, archive, arch, version)
}

// PackAgent writes an archive of the image that the Dockerfile describes, from a plain go build. The same source and Go
// make the same image, to the byte, wherever it is built: nothing in it is of a machine or a moment.
func PackAgent(ctx context.Context, root, ref, archive, arch, version string) error {
	dir, err := os.MkdirTemp("", "host-firewall-agent")
	if err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "host-firewall-agent")
	if err := Binary(ctx, root, "./agent", binary, arch, "main.version="+version); err != nil {
		return err
	}
	return Pack(binary, ref, archive, agentConfig(arch, version))
}

// agentConfig says what the last stage of the Dockerfile says; a test compares the two.
func agentConfig(arch, version string) Config {
	return Config{
		Entrypoint: "/host-firewall-agent",
		User:       "65532:65532",
		Arch:       arch,
		Env:        []string{"GOMAXPROCS=1", "GOGC=25", "GODEBUG=profstackdepth=0"},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "host-firewall-agent",
			"org.opencontainers.image.description": "Keeps a node's Calico host endpoint present, right and armed",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     version,
		},
	}
}

// builder is a program that builds Dockerfiles.
type builder struct {
	has   []string // succeeds if the program works and has the golang image, so that nothing is pulled
	steps [][]string
}

func builders(ref, archive, arch, version string) []builder {
	golang := "golang:" + goMinor()
	platform := "--platform=linux/" + arch
	args := []string{"--build-arg=VERSION=" + version, "--build-arg=GO_VERSION=" + goMinor()}
	return []builder{
		{
			has: []string{"docker", "image", "inspect", golang},
			steps: [][]string{
				append([]string{"docker", "build", platform, "--tag=" + ref}, append(args, ".")...),
				{"docker", "save", "--output=" + archive, ref},
			},
		},
		{
			has: []string{"buildah", "inspect", "--type=image", golang},
			steps: [][]string{
				append([]string{"buildah", "bud", "--isolation=chroot", "--layers", "--pull-never", platform,
					"--build-arg=TARGETOS=linux", "--build-arg=TARGETARCH=" + arch, "--build-arg=BUILDPLATFORM=linux/" + runtime.GOARCH,
					"--tag=" + ref}, append(args, ".")...),
				{"buildah", "push", "--quiet", ref, "docker-archive:" + archive + ":" + ref},
			},
		},
	}
}

// goMinor is the Go that this program was built with, as golang images are tagged: major.minor.
func goMinor() string {
	parts := strings.SplitN(strings.TrimPrefix(runtime.Version(), "go"), ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
