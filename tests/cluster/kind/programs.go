package kind

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

// configuration of the cluster, for kind.
const configuration = `kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  disableDefaultCNI: true
  ipFamily: dual
  podSubnet: ` + pods4 + "," + pods6 + `
  serviceSubnet: ` + services4 + "," + services6 + `
nodes:
  - role: control-plane
  - role: worker
  - role: worker
`

func networkArgs() []string {
	return []string{"docker", "network", "create", "--driver", "bridge", "--ipv6",
		"--subnet", network4, "--ip-range", nodes4, "--subnet", network6, "--ip-range", nodes6, name}
}

// createArgs leaves out to wait for the nodes: without Calico they don't become Ready.
func createArgs(kubeconfig string, o Options) []string {
	args := []string{"kind", "create", "cluster", "--name", name, "--kubeconfig", kubeconfig, "--config", "-"}
	if o.Kubernetes != "" {
		args = append(args, "--image", "kindest/node:"+o.Kubernetes)
	}
	return args
}

// outsiderArgs starts an outsider out of the nodes' image, which is there already, as nothing but what listens.
func (c *Cluster) outsiderArgs(m cluster.Member, nodeImage string) []string {
	return append([]string{"docker", "run", "--detach", "--name", container(m.Name), "--hostname", m.Name,
		"--network", name, "--ip", m.Addresses.V4.String(), "--ip6", m.Addresses.V6.String(),
		"--volume", c.workload() + ":" + workloadInside + ":ro", "--entrypoint", workloadInside,
		nodeImage, "listen"}, ports(cluster.OutsidePort)...)
}

// workerArgs starts the container of one more worker, with what kind gives to those that it starts itself.
func workerArgs(added, nodeImage string) []string {
	return []string{"docker", "run", "--detach", "--tty", "--name", container(added), "--hostname", added,
		"--label", "io.x-k8s.kind.cluster=" + name, "--label", "io.x-k8s.kind.role=worker",
		"--network", name, "--restart=on-failure:1", "--init=false", "--cgroupns=private", "--privileged",
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/tmp", "--tmpfs", "/run", "--volume", "/var", "--volume", "/lib/modules:/lib/modules:ro",
		"--sysctl=net.ipv6.conf.all.disable_ipv6=0", "--sysctl=net.ipv6.conf.all.forwarding=1",
		nodeImage}
}

func loadArgs(archive string, more ...string) []string {
	return append([]string{"kind", "load", "image-archive", archive, "--name", name}, more...)
}

func ports(numbers ...int) []string {
	args := make([]string, len(numbers))
	for i, n := range numbers {
		args[i] = fmt.Sprintf(":%d", n)
	}
	return args
}

// call runs a program to its end and returns what it printed.
func call(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "KIND_EXPERIMENTAL_DOCKER_NETWORK="+name)
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, complaint.Bytes())
	}
	return out.String(), nil
}

// inspect asks Docker for one field of a container.
func inspect(ctx context.Context, container, format string) (string, error) {
	out, err := call(ctx, "", "docker", "inspect", "--type", "container", "--format", format, container)
	return strings.TrimSpace(out), err
}
