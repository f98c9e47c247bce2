// Command image writes the agent's image as an archive: image REFERENCE ARCHIVE [GOARCH]. The part of the reference
// behind the last colon is the version.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

func main() {
	if len(os.Args) < 3 || len(os.Args) > 4 {
		fmt.Fprintln(os.Stderr, "usage: image REFERENCE ARCHIVE [GOARCH]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], strings.Join(os.Args[3:], "")); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Println(os.Args[2])
}

func run(ctx context.Context, ref, archive, arch string) error {
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	version := ref[strings.LastIndex(ref, ":")+1:]
	return image.Agent(ctx, root, ref, archive, arch, version, os.Stdout)
}
