package kind

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// tcp/22 is a failsafe port: no policy alone would close it.
func TestSSHIsClosedToStrangersAndOpenToAdminsWhateverThePoliciesSay(t *testing.T) {
	install(t)

	// A policy that is wrong in the worst way: it denies what it should allow. The failsafe keeps the admins in.
	wrong := `{"spec":{"ingress":[{"action":"Deny","protocol":"TCP","destination":{"ports":[22]}}]}}`
	_, err := calico(t, "globalnetworkpolicies").Patch(t.Context(), name+"-allow-ssh", types.MergePatchType, []byte(wrong), metav1.PatchOptions{})
	require.NoError(t, err)
	requireRuleOnEveryNode(t)
	requireProtected(t, "with a wrong SSH policy")
}

// requireRuleOnEveryNode waits until the wrong policy has arrived in every node's kernel.
func requireRuleOnEveryNode(t *testing.T) {
	t.Helper()
	for _, node := range nodeNames() {
		eventually(t, "Felix on "+node+" to program the wrong policy", func(ctx context.Context) error {
			cmd, err := nodes.Command(ctx, node, "iptables-nft-save", "--table", "mangle")
			if err != nil {
				return err
			}
			rules, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("list rules: %w", err)
			}
			for _, line := range strings.Split(string(rules), "\n") {
				if strings.Contains(line, "-A cali-pi-") && strings.Contains(line, "--dports 22 ") && strings.HasSuffix(line, "-j DROP") {
					return nil
				}
			}
			return errors.New("no rule drops tcp/22")
		})
	}
}

func TestNarrowedFailsafeIsTakenBackWhenItIsSwitchedOff(t *testing.T) {
	r := install(t)
	// Networks of one family close the other one to the admins as well, and to nobody of the cluster.
	stop := undisturbed(t, scene.ProtectedOneFamily(4))
	_, err := r.Upgrade(t.Context(), release.Values(map[string]any{"ssh": map[string]any{"cidrs": nodes.AdminCIDRs()[:1]}}))
	require.NoError(t, err)
	requireTable(t, scene.ProtectedOneFamily(4), "without IPv6 networks")
	_, err = r.Upgrade(t.Context(), release.Values(map[string]any{
		"ssh": map[string]any{"cidrs": nodes.AdminCIDRs(), "narrowFailsafe": false},
	}))
	require.NoError(t, err)
	requireArmed(t)
	requireTable(t, scene.ProtectedButSSH, "not narrowed any more")
	stop()
	for _, node := range nodeNames() {
		eventually(t, "the Felix configuration of "+node+" to be gone", func(ctx context.Context) error {
			_, err := calico(t, "felixconfigurations").Get(ctx, "node."+node, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(errors.New("it is still there"), err)
		})
	}
}
