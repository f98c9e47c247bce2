package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

// waves is the part of the agents that a rolling update takes away at a time, as the chart's maxUnavailable.
const waves = 4

// change goes from the set of policies that the nodes are armed with to another one, switches that off, and on again.
func (l *life) change(ctx context.Context) (changes []Change, err error) {
	carry := func(set string) func(*unstructured.Unstructured) bool {
		return func(endpoint *unstructured.Unstructured) bool { return release.CarriedBy(endpoint) == set }
	}
	for _, c := range []struct {
		name   string
		to     rollout
		should func(*unstructured.Unstructured) bool
	}{
		{Upgraded, l.b, carry(l.b.set)},
		{SwitchedOff, l.off, carry("")},
		{SwitchedOn, l.b, carry(l.b.set)},
	} {
		change, err := l.changeTo(ctx, c.name, c.to, c.should)
		if err != nil {
			return changes, fmt.Errorf("%s: %w", c.name, err)
		}
		changes = append(changes, change)
	}
	return changes, nil
}

// changeTo rolls a release out over the one that runs.
func (l *life) changeTo(ctx context.Context, name string, to rollout, should func(*unstructured.Unstructured) bool) (c Change, err error) {
	c.Name = name
	before, err := l.fleet.ask("status")
	if err != nil {
		return c, err
	}
	l.endpoints.forget()
	begin := time.Now()
	if err := l.apply(ctx, to.objects); err != nil {
		return c, err
	}
	if err := l.controller.stop(); err != nil {
		return c, err
	}
	controller, err := l.startController(ctx, l.stage, to.controller)
	if err != nil {
		return c, err
	}
	l.controller = controller
	rolled := make(chan error, 1)
	go func() {
		_, err := l.fleet.ask(append([]string{"roll", fmt.Sprint(max(1, len(l.keepers)/waves))}, to.agent...)...)
		rolled <- err
	}()
	m, err := l.follow(ctx, begin, should)
	if err = errors.Join(err, <-rolled); err != nil {
		return c, err
	}
	after, err := l.fleet.awaitReady(ctx, len(l.keepers), begin.Add(armLimit))
	if err != nil {
		return c, err
	}
	c.Done, c.Seconds, c.Unarmed, c.Ready, c.ReadySeconds = len(m.after), m.seconds(), m.unarmed, after.Ready, time.Since(begin).Seconds()
	c.Requests = difference(after.Requests, before.Requests)
	c.Controller, err = l.use(l.controller)
	l.say("%s: %d of %d after %.1f s, %d ready after %.0f s, seen unarmed %d times; requests: %s", c.Name, c.Done, len(l.keepers), c.Seconds, c.Ready, c.ReadySeconds, c.Unarmed, counts(c.Requests))
	if c.Ready < len(l.keepers) {
		l.say("most of the others: %s", counts(most(after.Reasons, 5)))
	}
	return c, err
}

// uninstall runs the hook of the uninstall, while keepers and controller run on, and looks for what is left a while later.
func (l *life) uninstall(ctx context.Context) (u Uninstall, err error) {
	before, err := l.fleet.ask("status")
	if err != nil {
		return u, err
	}
	l.endpoints.forget()
	begin := time.Now()
	cmd, log, err := l.command(ctx, "cleanup", l.agent, append(slices.Clone(l.a.cleanup), "--kubeconfig="+l.kubeconfigs[cleanupAccount])...)
	if err != nil {
		return u, err
	}
	defer log.Close()
	cmd.Stdout = log
	if err := cmd.Run(); err != nil {
		return u, fmt.Errorf("clean up: %w: see %s", err, log.Name())
	}
	u.Seconds = time.Since(begin).Seconds()
	gone := map[string]bool{}
	err = l.endpoints.await(ctx, time.Minute, func(e event) bool {
		if e.kind == watch.Deleted {
			gone[e.object.GetName()], u.EndpointsSeconds = true, e.at.Sub(begin).Seconds()
		}
		return len(gone) >= len(l.keepers)
	})
	if err != nil {
		return u, fmt.Errorf("wait for %d of %d endpoints to go: %w", len(l.keepers)-len(gone), len(l.keepers), err)
	}
	if err := sleep(ctx, quiet); err != nil {
		return u, err
	}
	after, err := l.fleet.ask("status")
	if err != nil {
		return u, err
	}
	u.Requests = difference(after.Requests, before.Requests)
	left, err := release.Leftovers(ctx, l.cluster)
	u.Left = len(left)
	l.say("uninstalled in %.1f s, endpoints gone after %.1f s, %d objects left; keepers' requests: %s", u.Seconds, u.EndpointsSeconds, u.Left, counts(u.Requests))
	if u.Left > 0 {
		l.say("left: %v", left[:min(len(left), 5)])
	}
	return u, err
}
