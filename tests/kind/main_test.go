// Package kind proves, with real connections on real nodes, what host-firewall promises. The tests need root; they start
// a cluster (tests/cluster) unless one is running already, which they then leave running.
package kind

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// What the tests share. A test leaves it as it found it.
var (
	root  string
	nodes Cluster
	place *scene.Scene
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	ctx := context.Background()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var err error
	if root, err = cluster.Root(); err != nil {
		return fail(err)
	}
	var down func() error
	if nodes, down, err = open(ctx, root); err != nil {
		return fail(err)
	}
	end := func(failed bool) error {
		switch {
		case cluster.Keep(failed):
			fmt.Println("KEEP is set: the cluster goes on running; KUBECONFIG=" + nodes.Kubeconfig())
			return nil
		case down == nil:
			return leaveAsFound(ctx)
		}
		return down()
	}
	defer func() {
		if err := end(code != 0); err != nil {
			code = fail(err)
		}
	}()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.Exit(fail(errors.Join(errors.New("interrupted"), end(true))))
	}()
	if err := release.LoadAgent(ctx, root, nodes, os.Stdout); err != nil {
		return fail(err)
	}
	if place, err = scene.Set(ctx, nodes); err != nil {
		return fail(err)
	}
	if cluster.Keep(true) && !cluster.Keep(false) {
		// The next test would change what the one that failed has left.
		if err := flag.Set("test.failfast", "true"); err != nil {
			return fail(err)
		}
	}
	return m.Run()
}

// leaveAsFound is for a cluster that was running before the tests.
func leaveAsFound(ctx context.Context) error {
	if place == nil {
		return nil
	}
	return errors.Join(clean(ctx), place.Remove(ctx))
}
