package kind

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// The shortest way through all parts: make check takes it.
func TestInstallProtectsAndUninstallLeavesNothing(t *testing.T) {
	r := prepare(t)
	stop := undisturbed(t, scene.Protected)
	_, err := r.Install(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "after install")
	requireTestPasses(t, r)
	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	stop()
	requireNothingLeft(t)
}

func TestInstallWithoutValuesIsSafeAndUseful(t *testing.T) {
	r := prepare(t)
	applyUntilEnd(t, networkSet("")) // whoever writes one trusts nobody into the nodes
	stop := undisturbed(t, scene.ProtectedButSSH)
	_, err := r.Install(t.Context(), release.Values(nil))
	require.NoError(t, err)
	requireArmed(t)
	requireTable(t, scene.ProtectedButSSH, "after install")
	stop()
	requireNoNetworkSetThatPassesForPods(t)
	requireOwnQueue(t)
}

// requireOwnQueue asks the API server whether the agents' requests wait apart from all others.
func requireOwnQueue(t *testing.T) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	metrics, err := client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	require.NoError(t, err)
	var dispatched []string
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, "apiserver_flowcontrol_dispatched_requests_total") {
			dispatched = append(dispatched, line)
		}
	}
	require.Contains(t, strings.Join(dispatched, ""), fmt.Sprintf("flow_schema=%q,priority_level=%q", name, name))
}

// Also what promises that a DaemonSet without policies harms nothing, and that an endpoint isn't armed before them.
func TestEndpointsAreNotArmedBeforeAllPoliciesAreThereInTheWorstOrder(t *testing.T) {
	r := prepare(t)
	policies, rest, err := r.Render(t.Context(), values())
	require.NoError(t, err)
	require.Len(t, policies, 5)
	hook, err := r.UninstallHooks(t.Context(), values())
	require.NoError(t, err)
	createNamespace(t)
	stop := undisturbed(t, scene.Everything)
	apply(t, rest...)
	waiting := func(names []string) {
		for _, node := range nodeNames() {
			eventually(t, "the agent on "+node+" to wait for "+strings.Join(names, ", "), func(ctx context.Context) error {
				got, err := agentOn(ctx, node)
				if err != nil {
					return err
				}
				for _, policy := range policies {
					wanted := false
					for _, n := range names {
						wanted = wanted || n == policy.GetName()
					}
					if strings.Contains(got.Reason, policy.GetName()) != wanted {
						return fmt.Errorf("%s, because: %s", got.State, got.Reason)
					}
				}
				return nil
			})
			hep, err := endpointOf(t.Context(), t, node)
			require.NoError(t, err, "the endpoint is there before it is armed: other nodes are to trust this one")
			require.Error(t, release.Armed(hep), "%v are missing", names)
			require.Equal(t, []string{"projectcalico-default-allow"}, hep.Spec.Profiles)
		}
	}
	// The drop first, then what lets the others in, the most needed last.
	var missing []string
	for _, purpose := range []string{"drop-other", "allow-ssh", "allow-outbound", "allow-essential", "allow-cluster"} {
		missing = append(missing, forPurpose(t, policies, purpose).GetName())
	}
	waiting(missing)
	for len(missing) > 1 {
		apply(t, policies[slices.IndexFunc(policies, isNamed(missing[0]))])
		missing = missing[1:]
		waiting(missing)
	}
	requireOpen(t, "with one policy missing")
	stop()

	stop = undisturbed(t, scene.Protected)
	apply(t, policies[slices.IndexFunc(policies, isNamed(missing[0]))])
	requireArmed(t)
	requireProtected(t, "with the last policy")

	requireHookIsRefused(t, hook)
	requireProtected(t, "after the uninstall hook was applied like any other object")
	stop()
}

func isNamed(name string) func(*unstructured.Unstructured) bool {
	return func(o *unstructured.Unstructured) bool { return o.GetName() == name }
}

// requireHookIsRefused applies the uninstall hook like any other object, as `helm template | kubectl apply` does. Here nothing of the
// release was installed by Helm.
func requireHookIsRefused(t *testing.T, hook string) {
	t.Helper()
	_, err := kubectl(t.Context(), hook, "apply", "--filename", "-")
	require.NoError(t, err)
	const job = name + "-cleanup"
	client, err := nodes.Client()
	require.NoError(t, err)
	eventually(t, "the hook to fail", func(ctx context.Context) error {
		got, err := client.BatchV1().Jobs(namespace).Get(ctx, job, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(got.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobFailed }) {
			return fmt.Errorf("it is %+v", got.Status)
		}
		require.EqualValues(t, 1, got.Status.Failed, "it is not tried again")
		return nil
	})
	log, err := kubectl(t.Context(), "", "logs", "--namespace", namespace, "job/"+job)
	require.NoError(t, err)
	require.Contains(t, log, "--no-hooks")
	requireArmed(t)
}

func TestEndpointComesBackAsItWas(t *testing.T) {
	install(t)
	node := worker(t, 1)
	before, err := endpointOf(t.Context(), t, node)
	require.NoError(t, err)
	for what, damage := range map[string]func(){
		"deleted": func() {
			require.NoError(t, calico(t, "hostendpoints").Delete(t.Context(), node, metav1.DeleteOptions{}))
		},
		"disarmed":           func() { patchEndpoint(t, node, `{"metadata":{"labels":{"host-firewall.io/set":null}}}`) },
		"armed with nothing": func() { patchEndpoint(t, node, `{"metadata":{"labels":{"host-firewall.io/set":"0badc0de"}}}`) },
		"relabelled":         func() { patchEndpoint(t, node, `{"metadata":{"labels":{"host-endpoint":"x"}}}`) },
		"without profiles":   func() { patchEndpoint(t, node, `{"spec":{"profiles":[]}}`) },
		"of other addresses": func() { patchEndpoint(t, node, `{"spec":{"expectedIPs":["203.0.113.10"]}}`) },
		"of one interface":   func() { patchEndpoint(t, node, `{"spec":{"interfaceName":"eth0"}}`) },
		"shadowed": func() {
			patchEndpoint(t, node, `{"metadata":{"annotations":{"projectcalico.org/metadata":"{\"labels\":{}}"}}}`)
		},
		"disowned": func() { patchEndpoint(t, node, `{"metadata":{"ownerReferences":[]}}`) },
		"renounced": func() {
			patchEndpoint(t, node, `{"metadata":{"labels":{"host-firewall.io/release":null}}}`)
		},
	} {
		t.Run(what, func(t *testing.T) {
			damage()
			eventually(t, "the endpoint to be as it was", func(ctx context.Context) error {
				now, err := endpointOf(ctx, t, node)
				if err != nil {
					return err
				}
				if !assert.ObjectsAreEqual(essence(before), essence(now)) {
					return fmt.Errorf("it is %+v, was %+v", essence(now), essence(before))
				}
				return nil
			})
		})
	}
	t.Run("what is somebody else's stays", func(t *testing.T) {
		patchEndpoint(t, node, `{"metadata":{"labels":{"team":"blue","host-firewall.io/set":null},"annotations":{"note":"mine"}}}`)
		eventually(t, "the endpoint to be armed again", func(ctx context.Context) error {
			now, err := endpointOf(ctx, t, node)
			if err != nil {
				return err
			}
			require.Equal(t, "blue", now.Labels["team"])
			require.Equal(t, "mine", now.Annotations["note"])
			return release.Armed(now)
		})
	})
	requireProtected(t, "after all repairs")
}

// essence is what the agent keeps of an endpoint; of its notes about the state and the trial, whether they are there: they tell since when.
func essence(hep *v3.HostEndpoint) map[string]any {
	annotations := maps.Clone(hep.Annotations)
	for _, note := range []string{"host-firewall.io/state", "host-firewall.io/trial"} {
		if _, ok := annotations[note]; ok {
			annotations[note] = "there"
		}
	}
	return map[string]any{"labels": hep.Labels, "annotations": annotations, "owners": hep.OwnerReferences, "spec": hep.Spec}
}

// Whoever takes a policy of the set in force away, or edits it, has changed what the packets meet. All that can be done then is to say so, and it
// is said until it is mended: Helm's next upgrade brings back what is lost, and keeps what is edited.
func TestAPolicyThatIsLostOrEditedIsToldAndOpensNothing(t *testing.T) {
	r := install(t)
	policies := calico(t, "globalnetworkpolicies")
	told := func(t *testing.T, policy string) {
		t.Helper()
		requireAgents(t, report{State: "Armed", Reason: policy})
		requireClearance(t, "drift", policy)
		requireSet(t, setInForce(t))
	}

	t.Run("lost", func(t *testing.T) {
		lost := policyName("allow-ssh", setInForce(t))
		require.NoError(t, policies.Delete(t.Context(), lost, metav1.DeleteOptions{}))
		told(t, lost)
		requireProtected(t, "with the policy lost")
		_, err := r.Upgrade(t.Context(), values())
		require.NoError(t, err)
		requireArmed(t)
	})

	t.Run("edited", func(t *testing.T) {
		edited := policyName("drop-other", setInForce(t))
		_, err := policies.Patch(t.Context(), edited, types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/ingress/0/action","value":"Allow"}]`), metav1.PatchOptions{})
		require.NoError(t, err)
		told(t, edited)
		_, err = r.Upgrade(t.Context(), values())
		require.NoError(t, err)
		told(t, edited)
		requireEvent(t, "ConfigMap", name, edited)
		log, err := r.Test()
		require.Error(t, err, "helm test:\n%s", log)
		require.Contains(t, log, edited)
		require.NoError(t, policies.Delete(t.Context(), edited, metav1.DeleteOptions{}))
		_, err = r.Upgrade(t.Context(), values())
		require.NoError(t, err)
		requireArmed(t)
		requireProtected(t, "mended")
	})
}

func TestClusterThatRunsIsNotStartedTwice(t *testing.T) {
	local(t, "start a cluster")
	prepare(t)
	_, err := cluster.Up(t.Context(), root, t.Output())
	require.ErrorContains(t, err, "running")
	requireOpen(t, "nothing was touched")
}
