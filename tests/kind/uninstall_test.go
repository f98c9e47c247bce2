package kind

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

func TestUninstallDisturbsNothingAndLeavesNothing(t *testing.T) {
	r := install(t)
	requireProtected(t, "before")
	stop := undisturbed(t, scene.Protected)
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	stop()
	requireNothingLeft(t)
}

// requireNothingLeft looks for every kind of object that a release ever makes.
func requireNothingLeft(t *testing.T) {
	t.Helper()
	left, err := release.Leftovers(t.Context(), nodes)
	require.NoError(t, err)
	assert.Empty(t, left)
	for _, kind := range []string{"clusterroles,clusterrolebindings", "daemonsets,jobs,pods,serviceaccounts,roles,rolebindings,configmaps,secrets --all-namespaces"} {
		eventually(t, kind+" to be gone", func(ctx context.Context) error {
			out, err := kubectl(ctx, "", append([]string{"get", "--output", "name", "--selector", "app.kubernetes.io/instance=" + name}, strings.Fields(kind)...)...)
			if err != nil {
				return err
			}
			if left := strings.TrimSpace(out); left != "" && !strings.HasPrefix(left, "No resources") {
				return fmt.Errorf("there are %s", left)
			}
			return nil
		})
	}
}

func TestModeOffDisarmsEveryNodeAndKeepsItsEndpoint(t *testing.T) {
	r := install(t)
	requireProtected(t, "before")
	stop := undisturbed(t, scene.Protected)
	off := values()
	off["mode"] = "off"
	_, err := r.Upgrade(t.Context(), off)
	require.NoError(t, err)
	requireOpen(t, "off")
	for _, node := range nodeNames() {
		eventually(t, "the agent on "+node+" to be off", func(ctx context.Context) error {
			got, err := agentOn(ctx, node)
			if err != nil {
				return err
			}
			if got.State != "Off" || !got.Ready {
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
		hep, err := endpointOf(t.Context(), t, node)
		require.NoError(t, err)
		require.Error(t, release.Armed(hep))
	}
	_, err = r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "on again")
	stop()
}

func TestNamedInterfacesGetEndpointsOfTheirOwn(t *testing.T) {
	r := prepare(t)
	v := release.Values(map[string]any{
		"ssh":          map[string]any{"cidrs": nodes.AdminCIDRs()},
		"hostEndpoint": map[string]any{"interfaces": []any{"eth*"}},
	})
	stop := undisturbed(t, scene.Protected)
	_, err := r.Install(t.Context(), v)
	require.NoError(t, err)
	for _, node := range nodeNames() {
		eventually(t, "the endpoint of eth0 on "+node, func(ctx context.Context) error {
			hep, err := endpointOf(ctx, t, node+"-eth0")
			if err != nil {
				return err
			}
			m, err := nodes.Member(node)
			require.NoError(t, err)
			if hep.Spec.InterfaceName != "eth0" || len(hep.Spec.ExpectedIPs) < 2 {
				return fmt.Errorf("%+v", hep.Spec)
			}
			require.Contains(t, hep.Spec.ExpectedIPs, m.Addresses.V4.String())
			require.Contains(t, hep.Spec.ExpectedIPs, m.Addresses.V6.String())
			return release.Armed(hep)
		})
	}
	requireProtected(t, "with named interfaces")
	stop()
}
