package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/verify"
)

// command is something that the program does once, and not for one node.
type command struct {
	// verb says what the command does, for errors.
	verb  string
	parse func(args []string, lookupEnv func(string) (string, bool)) (settings.Command, error)
	help  func(program string) string
	do    func(ctx context.Context, cluster *calico.Direct, s settings.Command, stdout io.Writer) error
}

// commands returns all of them by their names.
func commands() map[string]command {
	return map[string]command{
		"cleanup": {"clean up", settings.ParseCleanup, settings.CleanupHelp, doCleanup},
		"verify":  {"verify", settings.ParseVerify, settings.VerifyHelp, doVerify},
	}
}

// run does it. It returns the exit code.
func (c command) run(ctx context.Context, args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) int {
	s, err := c.parse(args, lookupEnv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, c.help(program))
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "%s can't %s with these settings:\n%v\n", program, c.verb, err)
		return exitUsage
	}
	log := newLogger(stderr, s.Settings)
	log.Info("starting to "+c.verb, "version", buildVersion(), "settings", s)
	config, err := restConfig(s.Kubeconfig)
	if err != nil {
		log.Error("cannot "+c.verb, "error", err)
		return exitFailure
	}
	cluster, err := calico.NewDirect(config, calico.Options{
		Release:   s.Release,
		APIGroup:  s.APIGroup,
		UserAgent: program + "/" + buildVersion(),
		Log:       log,
	})
	if err == nil {
		err = c.do(ctx, cluster, s, stdout)
	}
	if err != nil {
		log.Error("cannot "+c.verb, "error", err)
	}
	switch {
	case errors.Is(err, cleanup.ErrRefused):
		return exitUsage
	case err != nil:
		return exitFailure
	}
	return exitOK
}

func doCleanup(ctx context.Context, cluster *calico.Direct, s settings.Command, stdout io.Writer) error {
	return cleanup.Run(ctx, cluster, cleanup.Config{
		Release:    s.Release,
		Namespace:  s.Namespace,
		DaemonSet:  s.DaemonSet,
		Deployment: s.Deployment,
		Account:    s.Account,
		APIGroup:   s.APIGroup,
		TestPod:    s.TestPod,
		Timeout:    s.Timeout,
	}, stdout)
}

func doVerify(ctx context.Context, cluster *calico.Direct, s settings.Command, stdout io.Writer) error {
	return verify.Run(ctx, cluster, verify.Config{
		Want: verify.Want{
			Release: s.Release,
			Mode:    s.Mode,
			Off:     s.Mode == settings.ModeOff,
			Set:     clearance.Set{Revision: s.Set, Policies: s.Policies},
		},
		Namespace:  s.Namespace,
		DaemonSet:  s.DaemonSet,
		Deployment: s.Deployment,
		Timeout:    s.Timeout,
	}, stdout)
}
