package main

import (
	"context"
	"io"
	"log/slog"

	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/status"
	"github.com/host-firewall/host-firewall/agent/internal/wiring"
)

// command is something that the program does.
type command struct {
	// verb says what the command does, for errors.
	verb string
	told settings.Command
	do   do
}

type do func(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, stdout io.Writer) error

// agent is what the program does when it is not told a command.
func agent() command { return command{"keep the endpoints", settings.Agent(), keep} }

// commands returns the others by their names.
func commands() map[string]command {
	return map[string]command{
		"preview":    {"compare", settings.Preview(), compare},
		"manifest":   manifest(),
		"controller": {"look after the release", settings.Controller(), control},
		"cleanup": {"clean up", settings.Cleanup(), once(func(ctx context.Context, cluster *calico.Direct, s settings.Settings, stdout io.Writer) error {
			return cleanup.Run(ctx, cluster, s, stdout)
		})},
		"status": {"look at the release", settings.Status(), once(func(ctx context.Context, cluster *calico.Direct, s settings.Settings, stdout io.Writer) error {
			look := func(ctx context.Context) (status.Seen, error) { return status.Look(ctx, cluster, s) }
			return status.Run(ctx, look, s, stdout)
		})},
	}
}

// once does what is done with the API server as it is now, and for all nodes.
func once(run func(context.Context, *calico.Direct, settings.Settings, io.Writer) error) do {
	return func(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, stdout io.Writer) error {
		options := wiring.Options(s)
		options.UserAgent, options.Log = program+"/"+buildVersion(), log
		cluster, err := calico.NewDirect(config, options)
		if err != nil {
			return err
		}
		return run(ctx, cluster, s, stdout)
	}
}
