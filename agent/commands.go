package main

import (
	"context"
	"io"
	"log/slog"

	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/verify"
	"github.com/host-firewall/host-firewall/agent/internal/wiring"
)

// command is something that the program does.
type command struct {
	// verb says what the command does, for errors.
	verb string
	told settings.Command
	do   func(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, stdout io.Writer) error
}

// agent is what the program does when it is not told a command.
func agent() command { return command{"keep the endpoints", settings.Agent(), keep} }

// commands returns the others by their names.
func commands() map[string]command {
	return map[string]command{
		"controller": {"look after the release", settings.Controller(), control},
		"cleanup":    {"clean up", settings.Cleanup(), cleanUp},
		"verify":     {"verify", settings.Verify(), prove},
	}
}

// direct is the API server as it is for a command that ends.
func direct(config *rest.Config, s settings.Settings, log *slog.Logger) (*calico.Direct, error) {
	options := wiring.Options(s)
	options.UserAgent, options.Log = program+"/"+buildVersion(), log
	return calico.NewDirect(config, options)
}

func cleanUp(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, stdout io.Writer) error {
	cluster, err := direct(config, s, log)
	if err != nil {
		return err
	}
	return cleanup.Run(ctx, cluster, s, stdout)
}

func prove(ctx context.Context, config *rest.Config, s settings.Settings, log *slog.Logger, stdout io.Writer) error {
	cluster, err := direct(config, s, log)
	if err != nil {
		return err
	}
	return verify.Run(ctx, cluster, s, stdout)
}
