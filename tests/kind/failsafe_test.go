package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// tcp/22 is a failsafe port: no policy alone would close it.
func TestSSHIsClosedToStrangersAndOpenToAdminsWhateverThePoliciesSay(t *testing.T) {
	install(t)

	// A policy that is wrong in the worst way: it denies what it should allow. The failsafe keeps the admins in. What it lets in
	// beside that shows that it is what nodes enforce now: Felix replaces a policy as a whole.
	wrong := fmt.Sprintf(`{"spec":{"ingress":[
		{"action":"Deny","protocol":"TCP","destination":{"ports":[%d]}},
		{"action":"Allow","protocol":"TCP","destination":{"ports":[%d]}}
	]}}`, cluster.SSHPort, cluster.OrdinaryPort)
	policies := calico(t, "globalnetworkpolicies")
	right, err := policies.Get(t.Context(), policyName("allow-ssh", setInForce(t)), metav1.GetOptions{})
	require.NoError(t, err)
	now, err := policies.Patch(t.Context(), right.GetName(), types.MergePatchType, []byte(wrong), metav1.PatchOptions{})
	require.NoError(t, err)
	requireTable(t, func(c scene.Cell) bool {
		return scene.Protected(c) || slices.Contains([]string{scene.Ordinary, scene.Pods, scene.Service}, c.Column)
	}, "with a wrong SSH policy")

	right.SetResourceVersion(now.GetResourceVersion())
	_, err = policies.Update(t.Context(), right, metav1.UpdateOptions{})
	require.NoError(t, err)
	requireArmed(t)
}

// The API server is the way back. Whoever has narrowed Calico's failsafe, or has the API server on a port that never was in it, keeps it by
// essential.apiServerPorts; a node that would lose it by a new set stays with the old one.
func TestAPIServerStaysOpenWhateverTheFailsafeSays(t *testing.T) {
	r := install(t)
	failsafe := func(ports ...int64) (list []any) {
		for _, port := range ports {
			list = append(list, map[string]any{"protocol": "TCP", "port": port})
		}
		return append(list, map[string]any{"protocol": "UDP", "port": int64(68)})
	}
	felixForAll(t, map[string]any{"failsafeInboundHostPorts": failsafe(22, 179, 2379, 2380, 5473, 6666, 6667)})
	old, control := setInForce(t), controlPlane(t).Name
	stop := protected(t)
	_, err := r.Upgrade(t.Context(), with(map[string]any{"essential": map[string]any{"apiServerPorts": []int{443}}}))
	require.NoError(t, err)
	for _, m := range nodes.Nodes() {
		want := report{State: "Armed", Ready: true}
		if m.Name == control {
			want = report{State: "Waiting", Reason: "essential.apiServerPorts: [443, 6443]"}
		}
		requireAgent(t, m.Name, want)
	}
	hep, err := endpointOf(t.Context(), t, control)
	require.NoError(t, err)
	require.Equal(t, old, release.CarriedBy(hep))
	_, err = r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "with an API server that is behind no failsafe")
	stop()
}

// felixForAll sets fields of the FelixConfiguration for all nodes, until the test ends.
func felixForAll(t *testing.T, spec map[string]any) {
	t.Helper()
	const all = "default"
	configurations, unset := calico(t, "felixconfigurations"), map[string]any{}
	for field := range spec {
		unset[field] = nil
	}
	patch := func(ctx context.Context, spec map[string]any) error {
		body, err := json.Marshal(map[string]any{"spec": spec})
		require.NoError(t, err)
		_, err = configurations.Patch(ctx, all, types.MergePatchType, body, metav1.PatchOptions{})
		return err
	}
	_, err := configurations.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": "FelixConfiguration", "metadata": map[string]any{"name": all}, "spec": map[string]any{},
	}}, metav1.CreateOptions{})
	created := err == nil
	require.True(t, created || apierrors.IsAlreadyExists(err), "%v", err)
	require.NoError(t, patch(t.Context(), spec))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if created {
			require.NoError(t, configurations.Delete(ctx, all, metav1.DeleteOptions{}))
			return
		}
		require.NoError(t, patch(ctx, unset))
	})
}

// fillsIn makes the API server fill one more field into FelixConfigurations, as every version of Calico does with some, until the test ends.
func fillsIn(t *testing.T, field, preset string) {
	t.Helper()
	definition, schema := "felixconfigurations."+nodes.CalicoGroup().Group, "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/"+field
	change := func(ctx context.Context, patch string) error {
		_, err := kubectl(ctx, "", "patch", "customresourcedefinition", definition, "--type=json", "--patch", patch)
		return err
	}
	require.NoError(t, change(t.Context(), fmt.Sprintf(`[{"op":"add","path":%q,"value":{"type":"string","default":%q}}]`, schema, preset)))
	t.Cleanup(func() {
		require.NoError(t, change(context.WithoutCancel(t.Context()), fmt.Sprintf(`[{"op":"remove","path":%q}]`, schema)))
	})
	eventually(t, "the API server to fill it in", func(ctx context.Context) error {
		stored, err := calico(t, "felixconfigurations").Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": nodes.CalicoGroup().String(), "kind": "FelixConfiguration", "metadata": map[string]any{"name": "node.nowhere"}, "spec": map[string]any{},
		}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return err
		}
		if got, _, _ := unstructured.NestedString(stored.Object, "spec", field); got != preset {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// defaultsOverrule lets the API server fill fields into FelixConfigurations that have another value in the one for all nodes, and returns
// that one's.
func defaultsOverrule(t *testing.T) (filled map[string]any) {
	t.Helper()
	const field, ofAnUpgrade = "fieldOfALaterCalico", "fieldOfAnUpgrade"
	fillsIn(t, field, "Auto")
	for _, node := range nodeNames() {
		// The agents make them anew.
		require.NoError(t, calico(t, "felixconfigurations").Delete(t.Context(), "node."+node, metav1.DeleteOptions{}))
	}
	requireFelixSays(t, field, "Auto")
	filled = map[string]any{field: "Enabled"}
	if nodes.CalicoGroup().Group == "crd.projectcalico.org" {
		// In the other group it is not known who has written a field.
		fillsIn(t, ofAnUpgrade, "Auto")
		filled[ofAnUpgrade] = "Enabled"
	}
	felixForAll(t, filled)
	return filled
}

// requireFelixSays waits until a field of every node's Felix configuration has the value.
func requireFelixSays(t *testing.T, field, want string) {
	t.Helper()
	for _, node := range nodeNames() {
		eventually(t, "the Felix configuration of "+node+" to say what default says", func(ctx context.Context) error {
			configuration, err := felixOf(ctx, t, node)
			if err != nil {
				return err
			}
			if got, _, _ := unstructured.NestedString(configuration.Object, "spec", field); got != want {
				return fmt.Errorf("%s is %q", field, got)
			}
			return nil
		})
	}
}

func TestNarrowedFailsafeIsTakenBackWhenItIsSwitchedOff(t *testing.T) {
	r := install(t)
	var filled map[string]any
	if nodes.CalicoGroup() == nodes.StorageGroup() { // an API server of Calico's own leaves out what it doesn't know
		filled = defaultsOverrule(t)
	}
	// Networks of one family close the other one to the admins as well, and to nobody of the cluster.
	oneFamily := with(map[string]any{"ssh": map[string]any{"cidrs": nodes.AdminCIDRs()[:1]}})
	stop := undisturbed(t, expected(t, oneFamily))
	_, err := r.Upgrade(t.Context(), oneFamily)
	require.NoError(t, err)
	requireTable(t, expected(t, oneFamily), "without IPv6 networks")
	for name := range filled {
		requireFelixSays(t, name, "Enabled")
	}
	_, err = r.Upgrade(t.Context(), with(map[string]any{
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
	_, err = r.Upgrade(t.Context(), values())
	require.NoError(t, err)
}
