package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"helm.sh/helm/v3/pkg/chartutil"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
)

// Phases of a node that moves to another set of policies.
const (
	Trying     = "Trying"
	Verified   = "Armed"
	RolledBack = "RolledBack"
)

// Trial is what an agent keeps on its endpoint of the set that it tries, or has tried last.
type Trial struct {
	Set, From, Phase string
	Attempt          int
	Cut, Still       []string // what did not work any more, and what of that does not after going back either
}

// TrialOf reads it; nothing: no set was tried yet.
func TrialOf(endpoint metav1.Object) (t Trial) {
	_ = json.Unmarshal([]byte(endpoint.GetAnnotations()["host-firewall.io/trial"]), &t)
	return t
}

// Hardened is a policy that an administrator has beside those of the release: no armed node lets anybody in to its kubelet. It stands behind the
// policies that let nodes in, so it denies these nothing.
const Hardened = "no-kubelets"

// kubeletPort is what it denies.
const kubeletPort = 10250

// Harden creates that policy.
func Harden(ctx context.Context, c Cluster) error {
	policies, err := Calico(c, "globalnetworkpolicies")
	if err != nil {
		return err
	}
	_, err = policies.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": c.CalicoGroup().String(), "kind": "GlobalNetworkPolicy", "metadata": map[string]any{"name": Hardened},
		"spec": map[string]any{
			"order": int64(15), "selector": "host-endpoint == 'ingress'", "types": []any{"Ingress"}, "preDNAT": true, "applyOnForward": true,
			"ingress": []any{map[string]any{"action": "Deny", "protocol": "TCP", "destination": map[string]any{"ports": []any{int64(kubeletPort)}}}},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create policy: %w", err)
	}
	return nil
}

// Soften deletes it.
func Soften(ctx context.Context, c Cluster) error {
	policies, err := Calico(c, "globalnetworkpolicies")
	if err != nil {
		return err
	}
	if err := policies.Delete(ctx, Hardened, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete policy: %w", err)
	}
	return nil
}

// Slip returns values with a slip: they accept that policy, and put ours that lets nodes in behind it. Each by itself is right.
func Slip(values map[string]any) map[string]any {
	return chartutil.CoalesceTables(map[string]any{
		"policies":     map[string]any{"allowCluster": map[string]any{"order": 16}},
		"hostEndpoint": map[string]any{"acceptPolicies": []any{Hardened}},
	}, values)
}

// Undone is what became of an upgrade with a slip.
type Undone struct {
	Node  string        // that tried it and went back
	Tried time.Duration // from the start of the upgrade to its move, and Back to the way back
	Back  time.Duration
	Cut   time.Duration // how long what the slip cuts was cut
	Moved []string      // all nodes that have moved
	Trial Trial
}

// MeasureUndo upgrades to values with a slip, Harden's policy being there, and returns when the first node has gone back. open is what the slip cuts.
func (r *Release) MeasureUndo(ctx context.Context, c Cluster, slip map[string]any, open []probe.Path) (u Undone, err error) {
	ctx, cancel := context.WithTimeout(ctx, armLimit)
	defer cancel()
	heps, err := Calico(c, "hostendpoints")
	if err != nil {
		return u, err
	}
	endpoints, err := heps.Watch(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return u, fmt.Errorf("watch host endpoints: %w", err)
	}
	defer endpoints.Stop()
	policies, _, err := r.Render(ctx, slip)
	if err != nil {
		return u, err
	}
	cut, start := record.New(io.Discard).Try(ctx, record.Promise{Kind: record.Cut, Within: armLimit}, open, probe.Rhythm{Every: outageEach}), time.Now()
	defer func() { u.Cut = cut.End().Longest }()
	if _, err := r.Upgrade(ctx, slip); err != nil {
		return u, err
	}
	err = u.follow(endpoints, policies[0].GetLabels()[SetLabel], start)
	if err == nil {
		err = cluster.Poll(ctx, armLimit, "what was cut to be open again", func(context.Context) error {
			for _, a := range probe.Ask(open) {
				if !a.Open() {
					return errors.Join(a.Errors...)
				}
			}
			return nil
		})
	}
	return u, err
}

// outageEach is how often what may be cut is tried.
const outageEach = 200 * time.Millisecond

// follow notes what endpoints say of a set until one has gone back from it.
func (u *Undone) follow(endpoints watch.Interface, set string, start time.Time) error {
	moved := map[string]time.Time{}
	for e := range endpoints.ResultChan() {
		endpoint, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("watch host endpoints: %v", e.Object)
		}
		node, trial := endpoint.GetName(), TrialOf(endpoint)
		if CarriedBy(endpoint) == set && moved[node].IsZero() {
			moved[node], u.Moved = time.Now(), append(u.Moved, node)
		}
		if trial.Set == set && trial.Phase == RolledBack {
			slices.Sort(u.Moved)
			u.Node, u.Trial, u.Tried, u.Back = node, trial, moved[node].Sub(start), time.Since(start)
			return nil
		}
	}
	return fmt.Errorf("no node has gone back from set %s; to it have moved %v", set, u.Moved)
}
