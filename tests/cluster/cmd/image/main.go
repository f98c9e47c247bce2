// Command image writes the agent's image as an archive: image [--reproducible] REFERENCE ARCHIVE [GOARCH]. The part of the
// reference behind the last colon is the version.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

func main() {
	reproducible := flag.Bool("reproducible", false, "the same image on each machine: go build, also where there is a container builder")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: image [--reproducible] REFERENCE ARCHIVE [GOARCH]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() < 2 || flag.NArg() > 3 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *reproducible, flag.Arg(0), flag.Arg(1), flag.Arg(2)); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Println(flag.Arg(1))
}

func run(ctx context.Context, reproducible bool, ref, archive, arch string) error {
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	version := ref[strings.LastIndex(ref, ":")+1:]
	if reproducible {
		return image.PackAgent(ctx, root, ref, archive, arch, version)
	}
	return image.Agent(ctx, root, ref, archive, arch, version, os.Stdout)
}
