package host

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Path is where programs are looked for on a host: where Debian has its own. Whoever starts a cluster may have others first in
// the PATH of theirs, and may not have those of root in it at all.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environment is that of everything on a host, with more behind it. Nothing is in it of who starts the cluster: a KUBECONFIG, a
// proxy, a locale, a limit for Go's runtime.
func Environment(more ...string) []string {
	return append([]string{"PATH=" + Path, "HOME=/run"}, more...) // /run is the host's own, and as short-lived
}

// environment is a component's: what it sets is in the place of what the host has under the same name.
func environment(c Component) []string {
	return (&exec.Cmd{Env: append(os.Environ(), c.Env...)}).Environ()
}

// LookPath finds a program in Path.
func LookPath(program string) (string, error) {
	for _, dir := range filepath.SplitList(Path) {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("look for %s in %s: %w", program, Path, exec.ErrNotFound)
}
