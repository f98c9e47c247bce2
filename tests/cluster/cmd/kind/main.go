// Command kind runs a cluster of the kind project with Calico and the agent's image; see package kind.
//
//	kind up      starts it; KUBERNETES_VERSION and CALICO_VERSION say what is in it
//	kind down    removes everything that up made, also after an up that was cut off
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/kind"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kind:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "up":
		c, err := kind.Up(ctx, root, os.Stdout, kind.FromEnvironment())
		if err != nil {
			return err
		}
		if err := release.LoadAgent(ctx, root, c, os.Stdout); err != nil {
			return err
		}
		fmt.Println("the cluster is up; KUBECONFIG=" + c.Kubeconfig())
		return nil
	case len(args) == 1 && args[0] == "down":
		return kind.Down(root)
	}
	return errors.New("usage: kind up | down")
}
