package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

const (
	// wireRounds are enough for a p99: each waits for a connection that nothing answers.
	wireRounds = 100
	kubelets   = 10250
)

// onTheWire measures with connections.
func (b *bench) onTheWire(ctx context.Context) (w *Wire, err error) {
	b.head("on the wire")
	w = &Wire{}
	if w.Label, err = b.labels(ctx); err != nil {
		return nil, fmt.Errorf("measure from a label to the wire: %w", err)
	}
	b.say("label to enforced on the wire, ms: %s", w.Label.text())
	if w.Undone, err = b.undo(ctx); err != nil {
		return nil, fmt.Errorf("measure a change that undoes itself: %w", err)
	}
	return w, nil
}

// labels arms an endpoint by hand, again and again, without an agent that would have a say, and measures how long a stranger still gets in.
func (b *bench) labels(ctx context.Context) (d Distribution, err error) {
	policies, set, err := b.policies(ctx)
	if err != nil {
		return d, err
	}
	if err := b.apply(ctx, policies); err != nil {
		return d, err
	}
	node, heps := b.workers()[0], b.calico("hostendpoints")
	if _, err := heps.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": b.cluster.CalicoGroup().String(), "kind": "HostEndpoint", "metadata": map[string]any{"name": node, "labels": map[string]any{release.Label: releaseName}},
		"spec": map[string]any{"node": node, "interfaceName": "*", "profiles": []any{"projectcalico-default-allow"}},
	}}, metav1.CreateOptions{}); err != nil {
		return d, fmt.Errorf("create endpoint: %w", err)
	}
	defer func() {
		err = errors.Join(err, b.removeEndpoints(ctx), b.kubectl(ctx, "", "delete", "--all", policiesName))
	}()
	label := func(value string) error {
		_, err := heps.Patch(ctx, node, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, release.SetLabel, value), metav1.PatchOptions{})
		return err
	}
	from, err := b.source(cluster.StrangerHost)
	if err != nil {
		return d, err
	}
	to, err := b.port(node, cluster.OrdinaryPort)
	if err != nil {
		return d, err
	}
	var samples []time.Duration
	for range min(wireRounds, b.settings.Rounds) {
		if err := sleep(ctx, between); err != nil {
			return d, err
		}
		if err := cluster.Poll(ctx, eventLimit, node+" to be open", func(context.Context) error { return probe.Connect(from, to) }); err != nil {
			return d, err
		}
		start := time.Now()
		if err := label(fmt.Sprintf("%q", set)); err != nil {
			return d, err
		}
		at, err := closedAt(ctx, from, to)
		if err != nil {
			return d, err
		}
		samples = append(samples, at.Sub(start))
		if err := label("null"); err != nil {
			return d, err
		}
	}
	return distribution(samples, 0, eventLimit), nil
}

// closedAt is the start of the first connection that nothing answers.
func closedAt(ctx context.Context, from probe.Source, to probe.Address) (time.Time, error) {
	for deadline := time.Now().Add(eventLimit); ctx.Err() == nil && time.Now().Before(deadline); {
		start := time.Now()
		if err := probe.Connect(from, to); errors.Is(err, probe.ErrDropped) {
			return start, nil
		}
	}
	return time.Time{}, errors.Join(ctx.Err(), errMissed)
}

func (b *bench) source(name string) (probe.Source, error) {
	h, err := b.cluster.Host(name)
	if err != nil {
		return probe.Source{}, err
	}
	return probe.Source{Name: name, NetNS: h.NetNS()}, nil
}

func (b *bench) port(node string, port uint16) (probe.Address, error) {
	m, err := b.cluster.Member(node)
	return probe.Address{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(m.Addresses.V4, port)}, err
}

// undo has nodes try a change that cuts their kubelets off, as often as nodes join.
func (b *bench) undo(ctx context.Context) (all []Undo, err error) {
	if err := b.startAgent(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.stopAgent(ctx)) }()
	r, err := b.release()
	if err != nil {
		return nil, err
	}
	var paths []probe.Path
	for _, m := range b.cluster.Nodes() {
		from, err := b.source(m.Name)
		if err != nil {
			return nil, err
		}
		path := probe.Path{From: from, What: "kubelets"}
		for _, other := range b.cluster.Nodes() {
			if other.Name != m.Name {
				path.To = append(path.To, probe.Address{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(other.Addresses.V4, kubelets)})
			}
		}
		paths = append(paths, path)
	}
	for range b.settings.Joins {
		if err := release.Harden(ctx, b.cluster); err != nil {
			return all, err
		}
		u, err := r.MeasureUndo(ctx, b.cluster, release.Slip(values()), paths)
		if err != nil {
			return all, err
		}
		b.say("%s moved after %.1f s and was back after %.1f s, cut for %.1f s (%s)", u.Node, u.Tried.Seconds(), u.Back.Seconds(), u.Cut.Seconds(), strings.Join(u.Trial.Cut, "; "))
		all = append(all, Undo{Cut: u.Cut.Seconds(), Moved: len(u.Moved)})
		if err := release.Soften(ctx, b.cluster); err != nil {
			return all, err
		}
		if err := r.Rollback(0); err != nil {
			return all, err
		}
		if err := release.WaitArmed(ctx, b.cluster, releaseNamespace); err != nil {
			return all, err
		}
	}
	return all, nil
}

// seconds are those of all, as in a table.
func seconds(all []Undo) string {
	var texts []string
	for _, u := range slices.SortedFunc(slices.Values(all), func(a, b Undo) int { return int(a.Cut*10 - b.Cut*10) }) {
		texts = append(texts, fmt.Sprintf("%.1f", u.Cut))
	}
	return strings.Join(texts, ", ")
}
