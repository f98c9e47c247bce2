// Package kind proves, with real connections on real nodes, what host-firewall promises. The tests need root; they start
// a cluster (tests/cluster) unless one is running already, which they then leave running.
package kind

import (
	"context"
	"errors"
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
	var end func() error
	if nodes, end, err = open(ctx, root); err != nil {
		return fail(err)
	}
	defer func() {
		if err := end(); err != nil {
			code = fail(err)
		}
	}()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.Exit(fail(errors.Join(errors.New("interrupted"), end())))
	}()
	if err := release.LoadAgent(ctx, root, nodes, os.Stdout); err != nil {
		return fail(err)
	}
	if place, err = scene.Set(ctx, nodes); err != nil {
		return fail(err)
	}
	defer func() {
		if err := place.Remove(ctx); err != nil {
			code = fail(err)
		}
	}()
	return m.Run()
}
