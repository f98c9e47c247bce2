package kind

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

// What is installed is held against a rendering, with the rights of the controller: what that would close is told, with who uses it now, and
// is what packets meet after the upgrade.
func TestPreviewTellsWhatAnUpgradeWouldCloseAndWhoUsesThat(t *testing.T) {
	r := prepare(t)
	on := worker(t, 1)
	m, err := nodes.Member(on)
	require.NoError(t, err)
	h, err := nodes.Host(cluster.AdminHost)
	require.NoError(t, err)
	way := probe.Path{
		From: probe.Source{Name: cluster.AdminHost, NetNS: h.NetNS()}, What: "nodes",
		To: []probe.Address{{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(m.Addresses.V4, cluster.OrdinaryPort)}},
	}
	// It is open before the agents are there, which tell of it as they begin.
	held := hold(t, []probe.Path{way})
	watched := func(changes map[string]any) map[string]any {
		return changed(with(map[string]any{"rollout": map[string]any{"verify": false, "watchPeers": "always"}}), changes)
	}
	_, err = r.Install(t.Context(), watched(map[string]any{"cluster": map[string]any{"cidrs": nodes.AdminCIDRs()}}))
	require.NoError(t, err)
	requireArmed(t)
	eventually(t, "the admin to be let in", func(context.Context) error { return probe.Connect(way.From, way.To[0]) })

	next := watched(map[string]any{"ingress": []any{map[string]any{"name": "web", "cidrs": []any{"0.0.0.0/0", "::/0"}, "protocol": "TCP", "ports": []any{443}}}})
	var told string
	eventually(t, "the admin's connection to be told", func(ctx context.Context) (err error) {
		told, err = preview(ctx, r, next)
		if use := fmt.Sprintf("used lately: tcp/%d from 198.51.100.10 (1 connection, %s)", cluster.OrdinaryPort, on); err == nil && !strings.Contains(told, use) {
			err = fmt.Errorf("%q is not in it:\n%s", use, told)
		}
		return err
	})
	t.Log(told)
	words := strings.Join(strings.Fields(told), " ")
	require.Contains(t, words, "closes everything to "+strings.Join(nodes.AdminCIDRs(), " and ")+", but what ")
	require.Contains(t, words, "opens tcp/443 to everybody")
	for line := range strings.Lines(told) {
		require.LessOrEqual(t, len(line), 81, line)
	}

	_, err = r.Upgrade(t.Context(), next)
	require.NoError(t, err)
	requireArmed(t)
	eventually(t, "what was told to be so", func(context.Context) error {
		if err := probe.Connect(way.From, way.To[0]); !errors.Is(err, probe.ErrDropped) {
			return fmt.Errorf("the admin is not shut out: %w", err)
		}
		return nil
	})
	held()
	told, err = preview(t.Context(), r, next)
	require.NoError(t, err)
	require.Contains(t, told, "nothing changes in who may reach what")
}

// preview runs the command beside the controller, with what Helm would render of these values.
func preview(ctx context.Context, r *release.Release, values map[string]any) (string, error) {
	policies, rest, err := r.Render(ctx, values)
	if err != nil {
		return "", err
	}
	var rendered strings.Builder
	for _, o := range append(policies, rest...) {
		raw, err := o.MarshalJSON()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&rendered, "---\n%s\n", raw)
	}
	return kubectl(ctx, rendered.String(), "--namespace", namespace, "exec", "--stdin", "deployment/"+name+"-controller", "--", "/host-firewall-agent", "preview", "-")
}
