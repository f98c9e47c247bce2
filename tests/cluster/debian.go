package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// needed is everything that a cluster takes from Debian: a program, and the package that has it.
var needed = []struct{ program, pkg string }{
	{"runc", "runc"},
	{"iptables", "iptables"},
	{"ipset", "ipset"},
	{"nft", "nftables"},
	{"conntrack", "conntrack"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
}

// installPackages installs what is missing, or says what it is where it can't.
func installPackages(out io.Writer) error {
	var missing []string
	for _, n := range needed {
		if _, err := host.LookPath(n.program); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	return install(missing, out)
}

// Install installs a package of Debian's unless its program is there.
func Install(program, pkg string, out io.Writer) error {
	if _, err := host.LookPath(program); err == nil {
		return nil
	}
	return install([]string{pkg}, out)
}

func install(missing []string, out io.Writer) error {
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("these Debian packages, or what corresponds to them here, are missing: %s", list)
	}
	fmt.Fprintf(out, "installing Debian packages: %s\n", list)
	for _, args := range [][]string{{"update"}, append([]string{"install", "--yes", "--no-install-recommends"}, missing...)} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1") // RUNLEVEL: start no service
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s (install these yourself: %s): %w\n%s", strings.Join(args, " "), list, err, output)
		}
	}
	return nil
}

// requireRoot says in one sentence why an ordinary user can't go on.
func requireRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("the test cluster makes network namespaces and containers: run this as root")
	}
	return nil
}
