// Command argocd is what of Argo CD renders, compares, syncs and deletes: its application controller and its repository server,
// unchanged, in one process, with a Redis in memory between them. It takes the cluster from KUBECONFIG, and helm and git from PATH.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/alicebob/miniredis/v2"
	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	reposerver "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "argocd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	redis, err := miniredis.Run()
	if err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	defer redis.Close()
	port, err := freePort()
	if err != nil {
		return fmt.Errorf("find a port for the repository server: %w", err)
	}
	const host = "127.0.0.1"
	repositories, applications := reposerver.NewCommand(), controller.NewCommand()
	repositories.SetArgs([]string{"--redis", redis.Addr(), "--address", host, "--port", port, "--metrics-address", host, "--metrics-port", "0", "--disable-tls", "--client-ca-path", ""})
	applications.SetArgs([]string{"--redis", redis.Addr(), "--repo-server", net.JoinHostPort(host, port), "--repo-server-plaintext", "--metrics-port", "0", "--namespace", "argocd"})
	ended := make(chan error, 2)
	go func() { ended <- repositories.ExecuteContext(ctx) }()
	go func() { ended <- applications.ExecuteContext(ctx) }()
	return <-ended
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port), nil
}
