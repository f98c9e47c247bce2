package main

import (
	"context"
	"io"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/workload"
)

// manifest prints the manifest of a static pod.
func manifest() command {
	return command{"print the manifest", settings.Manifest(), once(func(ctx context.Context, cluster *calico.Direct, s settings.Settings, stdout io.Writer) error {
		return workload.Print(ctx, cluster, s, stdout)
	})}
}
