// Command cluster runs a real Kubernetes cluster with Calico on this machine; see package cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

const usage = `A real Kubernetes cluster with Calico on this machine, made of network namespaces.

usage: cluster COMMAND

  build                    install and build what it needs, and start nothing
  up                       start it: one control plane node, two workers, the outsiders admin and stranger
  up --calico-api          with Calico's aggregated API server, so that projectcalico.org/v3 is served too
  down                     remove everything that up made, also after an up that was cut off
  status                   show its hosts, nodes and addresses
  exec HOST -- COMMAND...  run a command on a node or an outsider
  add-node NAME            start one more worker
  remove-node NAME         switch a worker off and delete its Node
  load IMAGE-ARCHIVE       import an image (docker-archive) on every node

It needs root, Go, and some Debian packages, which up installs. Its programs are built once into a cache
(HOST_FIREWALL_CACHE, else the user's cache folder). A checkout can have several clusters, each with a name of its own in
CLUSTER_NAME. Each program can be replaced by another through an environment variable:
  %s
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		variables := []string{}
		for _, name := range binaries.Names() {
			variables = append(variables, binaries.Variable(name))
		}
		fmt.Printf(usage, strings.Join(variables, "\n  "))
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command(ctx, args[0], args[1:])
	var exit *exec.ExitError
	if errors.As(err, &exit) && args[0] == "exec" {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster "+args[0]+":", err)
		return 1
	}
	return 0
}

func command(ctx context.Context, name string, args []string) error {
	if name == host.InitCommand && len(args) == 1 {
		return host.Init(args[0])
	}
	if started, err := cluster.Start(ctx, append([]string{name}, args...)); started {
		return err
	}
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	const any = -1
	wants := map[string]int{"build": 0, "up": any, "down": 0, "status": 0, "exec": any, "add-node": 1, "remove-node": 1, "load": 1}
	switch n, ok := wants[name]; {
	case !ok:
		return errors.New("no such command (cluster help)")
	case n != any && len(args) != n:
		return fmt.Errorf("wrong number of arguments: %d wanted, %d given (cluster help)", n, len(args))
	}
	switch name {
	case "up":
		calicoAPI := len(args) == 1 && args[0] == "--calico-api"
		if len(args) > 0 && !calicoAPI {
			return errors.New("usage: cluster up [--calico-api]")
		}
		c, err := cluster.UpWith(ctx, root, os.Stdout, cluster.Options{CalicoAPI: calicoAPI})
		if err != nil {
			return err
		}
		fmt.Println("the cluster is up; KUBECONFIG=" + c.Kubeconfig())
		return nil
	case "down":
		return cluster.Down(root, os.Stdout)
	case "build":
		_, err := cluster.Build(ctx, root, os.Stdout)
		return err
	}
	c, err := cluster.Open(root, os.Stdout)
	if err != nil {
		return err
	}
	switch name {
	case "status":
		return status(ctx, c, os.Stdout)
	case "exec":
		if len(args) < 3 || args[1] != "--" {
			return errors.New("usage: cluster exec HOST -- COMMAND [ARGUMENT...]")
		}
		cmd, err := c.Command(ctx, args[0], args[2], args[3:]...)
		if err != nil {
			return err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		return cmd.Run()
	case "add-node":
		m, err := c.AddNode(args[0])
		if err != nil {
			return err
		}
		return c.WaitNode(ctx, m)
	case "remove-node":
		return c.RemoveNode(ctx, args[0])
	default: // load
		return c.Load(ctx, args[0])
	}
}

// status shows every host, and what Kubernetes says of those that are nodes.
func status(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tROLE\tIPV4\tIPV6\tSTATE")
	for _, m := range c.Members() {
		state := "running"
		if _, err := c.Host(m.Name); err != nil {
			state = "not running"
		} else if m.Role != cluster.Outsider {
			state = "Ready"
			if n, err := client.CoreV1().Nodes().Get(ctx, m.Name, metav1.GetOptions{}); err != nil {
				state = err.Error()
			} else if err := cluster.NodeReady(n); err != nil {
				state = err.Error()
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.Role, m.Addresses.V4, m.Addresses.V6, state)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print status: %w", err)
	}
	fmt.Fprintf(out, "\nKUBECONFIG=%s\nlogs: %s\n", c.Kubeconfig(), c.Logs())
	return nil
}
