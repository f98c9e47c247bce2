package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/preview"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// compare says what changes from one rendering to another. Only what is installed needs the API server.
func compare(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, stdout io.Writer) error {
	open := func(name string) ([]byte, error) {
		if name == "-" {
			return io.ReadAll(os.Stdin)
		}
		return os.ReadFile(name)
	}
	if !s.NeedsCluster() {
		return preview.Run(ctx, nil, s, open, stdout)
	}
	return once(func(ctx context.Context, cluster *calico.Direct, s settings.Settings, stdout io.Writer) error {
		return preview.Run(ctx, cluster, s, open, stdout)
	})(ctx, config, s, log, stdout)
}
