package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// runCleanup is the command cleanup. It returns the exit code.
func runCleanup(ctx context.Context, args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) int {
	s, err := settings.ParseCleanup(args, lookupEnv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, settings.CleanupHelp(program))
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "%s can't clean up with these settings:\n%v\n", program, err)
		return exitUsage
	}
	log := newLogger(stderr, s.Settings)
	log.Info("cleaning up", "version", buildVersion(), "settings", s)
	config, err := restConfig(s.Kubeconfig)
	if err != nil {
		log.Error("cannot clean up", "error", fmt.Errorf("read access to the API server: %w", err))
		return exitFailure
	}
	cluster, err := calico.NewCleaner(config, calico.Options{
		Release:   s.Release,
		APIGroup:  s.APIGroup,
		UserAgent: program + "/" + buildVersion(),
		Log:       log,
	})
	if err == nil {
		err = cleanup.Run(ctx, cluster, cleanup.Config{
			Release:      s.Release,
			ArmingLabels: s.ArmingLabels,
			Namespace:    s.Namespace,
			DaemonSet:    s.DaemonSet,
			Timeout:      s.Timeout,
		}, stdout)
	}
	if err != nil {
		log.Error("cannot clean up", "error", err)
		return exitFailure
	}
	return exitOK
}
