package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// withCalicoAPI adds Calico's aggregated API server to the cluster until the test ends. What is installed by way of it is removed before.
func withCalicoAPI(t *testing.T) *cluster.Cluster {
	t.Helper()
	c := local(t, "add Calico's API server")
	noNeedOfCalicosAPI(t)
	if c.CalicoGroup().Group == groupV3 {
		return c
	}
	require.NoError(t, c.AddCalicoAPI(t.Context(), root))
	t.Cleanup(func() {
		removeAll(t)
		require.NoError(t, c.RemoveCalicoAPI(context.WithoutCancel(t.Context())))
	})
	return c
}

// noNeedOfCalicosAPI is for a cluster whose API server knows Calico's own group by itself, from definitions.
func noNeedOfCalicosAPI(t *testing.T) {
	t.Helper()
	if nodes.StorageGroup().Group == groupV3 {
		t.Skip("where there are definitions of " + groupV3 + " Calico has no API server of its own")
	}
}

// withoutCalicoAPI is for a cluster that was started with it.
func withoutCalicoAPI(t *testing.T) {
	t.Helper()
	c := local(t, "remove Calico's API server")
	noNeedOfCalicosAPI(t)
	if c.CalicoGroup().Group != groupV3 {
		return
	}
	removeAll(t)
	require.NoError(t, c.RemoveCalicoAPI(t.Context()))
	t.Cleanup(func() { require.NoError(t, c.AddCalicoAPI(context.WithoutCancel(t.Context()), root)) })
}

// groupV3 is the group of Calico's own API server.
const groupV3 = "projectcalico.org"

// stored is the API for what Calico has stored of a resource, by whichever API it was written.
func stored(t *testing.T, resource string) dynamic.ResourceInterface {
	t.Helper()
	client, err := nodes.Dynamic()
	require.NoError(t, err)
	return client.Resource(nodes.StorageGroup().WithResource(resource))
}

// What is promised doesn't depend on the API by which it is kept.
func TestPromisesHoldThroughCalicosAPIServer(t *testing.T) {
	removeAll(t)
	withCalicoAPI(t)
	for _, promise := range []struct {
		name string
		test func(*testing.T)
	}{
		{"install and uninstall", TestInstallProtectsAndUninstallLeavesNothing},
		{"the way of policies", policiesAreWrittenByCalicosAPIServer},
		{"repair", TestEndpointComesBackAsItWas},
		{"failsafe", TestNarrowedFailsafeIsTakenBackWhenItIsSwitchedOff},
		{"foreign policy", TestPolicyOfSomebodyElseThatWouldCutNodesKeepsThemWaiting},
		{"the witness", TestWitnessIsSeenOnEveryNodeArmedOrNotAndGoesWithTheRelease},
		{"the way out", TestEveryNodeOpensAndClosesByOneAnnotation},
		{"lost and edited policies", TestAPolicyThatIsLostOrEditedIsToldAndOpensNothing},
		{"nodes that join and leave", TestNodeThatJoinsIsProtectedAndOneThatLeavesTakesItsTrustAway},
	} {
		t.Run(promise.name, promise.test)
	}
}

func policiesAreWrittenByCalicosAPIServer(t *testing.T) {
	install(t)
	for _, policy := range policyNames(t) {
		require.True(t, strings.HasPrefix(policy, "default."), "%s was not", policy)
	}
}

func TestCalicosAPIServerMayGoAwayAndReturn(t *testing.T) {
	removeAll(t)
	c := withCalicoAPI(t)
	r := install(t)
	stop := undisturbed(t, scene.Protected)
	require.NoError(t, c.StopCalicoAPI(t.Context()))
	t.Cleanup(func() {
		if t.Failed() {
			require.NoError(t, c.StartCalicoAPI(context.WithoutCancel(t.Context())))
		}
	})
	require.NoError(t, cluster.Poll(t.Context(), 2*soon, "every agent to say that it is blind", func(ctx context.Context) error {
		for _, n := range nodeNames() {
			got, err := agentOn(ctx, n)
			if err != nil {
				return err
			}
			if got.State != "Armed" || got.Ready || !strings.Contains(got.Reason, "as it was left, but cannot") {
				return fmt.Errorf("%s: %+v", n, got)
			}
		}
		return nil
	}))
	stop()

	restart := func() {
		require.NoError(t, c.StartCalicoAPI(t.Context()))
		eventually(t, "Calico's API server to answer", func(ctx context.Context) error {
			_, err := calico(t, "globalnetworkpolicies").List(ctx, metav1.ListOptions{})
			return err
		})
	}
	// The way out needs neither that server nor agents.
	admin := adminsShell(t)
	requireOpenedBy(t, waysBack(t)[deleteEndpoints], admin.inSpite, scene.Everything)
	restart()
	_, err := r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	require.NoError(t, cluster.Poll(t.Context(), 2*soon, "the agents to have caught up", func(ctx context.Context) error {
		for _, n := range nodeNames() {
			if got, err := agentOn(ctx, n); err != nil || !got.Ready {
				return fmt.Errorf("%s: %+v (%w)", n, got, err)
			}
		}
		return nil
	}))
	requireArmed(t)
	requireProtected(t, "afterwards")

	// Nor does the uninstall: the hook removes what Calico has stored, and nothing of that is Helm's to delete.
	stop = undisturbed(t, scene.Protected)
	require.NoError(t, c.StopCalicoAPI(t.Context()))
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after an uninstall without Calico's API server")
	restart()
	removeWhatOnlyNewerCalicoKnows(t)
	requireNothingLeft(t)
	stop()
}

// removeWhatOnlyNewerCalicoKnows is for a cluster whose CRDs are newer than Calico's API server (CLUSTER_CALICO_CRDS). What they fill in,
// that server never showed to an agent, so the hook, which sees the CRDs alone, takes it for somebody's and keeps the object for it.
func removeWhatOnlyNewerCalicoKnows(t *testing.T) {
	t.Helper()
	for _, n := range nodeNames() {
		stored, err := kubectl(t.Context(), "", "get", "felixconfigurations.crd.projectcalico.org", "node."+n, "--ignore-not-found", "--output", "jsonpath={.spec}")
		require.NoError(t, err)
		if stored == "" {
			continue
		}
		fields := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(stored), &fields))
		shown, err := calico(t, "felixconfigurations").Get(t.Context(), "node."+n, metav1.GetOptions{})
		require.NoError(t, err)
		spec, _, err := unstructured.NestedMap(shown.Object, "spec")
		require.NoError(t, err)
		maps.DeleteFunc(fields, func(name string, _ any) bool { return spec[name] != nil })
		if len(fields) == 0 {
			continue // the hook had no reason to leave it
		}
		require.NotContains(t, spec, "failsafeInboundHostPorts")
		require.Empty(t, shown.GetLabels())
		require.NotContains(t, shown.GetAnnotations(), "host-firewall.io/failsafe")
		require.NoError(t, calico(t, "felixconfigurations").Delete(t.Context(), "node."+n, metav1.DeleteOptions{}))
	}
}

// Somebody installs Calico's API server under a release that has been written without it, and upgrades the release later.
func TestReleaseMovesToCalicosAPIServerWithItsNextUpgrade(t *testing.T) {
	withoutCalicoAPI(t)
	r := install(t)
	stop := undisturbed(t, scene.Protected)
	old := policyNames(t)
	require.Contains(t, old, policyName("drop-other", setInForce(t)))
	withCalicoAPI(t)

	// Until then the agents stay with the API that they were told to use, and with what is written through the other one.
	patchEndpoint(t, worker(t, 1), `{"metadata":{"labels":{"host-firewall.io/set":null,"team":"blue"}}}`)
	eventually(t, "the endpoint to be armed again", func(ctx context.Context) error {
		hep, err := endpointOf(ctx, t, worker(t, 1))
		if err != nil {
			return err
		}
		require.Equal(t, "blue", hep.Labels["team"])
		return release.Armed(hep)
	})

	// Helm asks a cluster once what it serves.
	r, err := release.New(root, nodes.Kubeconfig(), namespace, name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Uninstall() }) // while what it has installed is still served
	_, err = r.Upgrade(t.Context(), rolling())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "after the upgrade")
	set := setInForce(t)
	moved := slices.DeleteFunc(policyNames(t), func(policy string) bool { return !strings.Contains(policy, set) })
	for _, policy := range moved {
		require.True(t, strings.HasPrefix(policy, "default."), "Calico's API server stores %s", policy)
	}
	require.Len(t, moved, len(old), "each policy of the new set is there once: %v", moved)
	require.Subset(t, policyNames(t), old, "beside the set before")
	stop()

	stop = undisturbed(t, scene.Protected)
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	stop()
	requireNothingLeft(t)
}

// policyNames lists the policies that Calico has stored.
func policyNames(t *testing.T) []string {
	t.Helper()
	list, err := stored(t, "globalnetworkpolicies").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	names := []string{}
	for _, p := range list.Items {
		names = append(names, p.GetName())
	}
	return names
}
