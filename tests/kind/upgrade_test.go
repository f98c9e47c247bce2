package kind

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// strangersToo are the admin's networks and the stranger's addresses.
func strangersToo(t *testing.T) []string {
	t.Helper()
	m, err := nodes.Member(cluster.StrangerHost)
	require.NoError(t, err)
	return append(nodes.AdminCIDRs(), m.Addresses.V4.String()+"/32", m.Addresses.V6.String()+"/128")
}

func strangersSSH(c scene.Cell) bool { return c.Row == scene.Stranger && c.Column == scene.SSH }

// ofImage returns rolling() with another tag of the agent's image.
func ofImage(tag string) map[string]any {
	v := rolling()
	v["agent"].(map[string]any)["image"].(map[string]any)["tag"] = tag
	return v
}

// tagImage gives the agent's image one more tag, on every node, and takes it away when the test ends.
func tagImage(t *testing.T, tag string) {
	t.Helper()
	from := release.AgentImage("dev")
	ctr := func(ctx context.Context, args ...string) {
		for _, node := range nodeNames() {
			cmd, err := nodes.Command(ctx, node, nodes.Binary("ctr"), append([]string{"--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io", "images"}, args...)...)
			require.NoError(t, err)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	ctr(t.Context(), "tag", "--force", from, release.AgentImage(tag))
	t.Cleanup(func() { ctr(context.WithoutCancel(t.Context()), "remove", release.AgentImage(tag)) })
}

// Every moment of a release's life, under watch the whole time.
func TestReleaseIsInstalledChangedAndRolledBackWithoutAMomentOfWeakness(t *testing.T) {
	local(t, "give an image another tag")
	r := prepare(t)
	open := undisturbed(t, scene.Protected)
	armed, closed := closesInTime(t)
	notes, err := r.Install(t.Context(), rolling()) // revision 1
	require.NoError(t, err)
	require.NotEmpty(t, notes)
	armed()
	requireArmed(t)
	requireKubeletServes(t)

	change := func(what string, want scene.Expectation, values map[string]any) {
		_, err := r.Upgrade(t.Context(), values)
		require.NoError(t, err, what)
		requireArmed(t)
		requireTable(t, want, what)
	}
	change("with another network in ssh.cidrs", func(c scene.Cell) bool { return scene.Protected(c) || strangersSSH(c) },
		changed(rolling(), map[string]any{"ssh": map[string]any{"cidrs": strangersToo(t)}}))
	change("with another order", scene.Protected, changed(rolling(), map[string]any{"policies": map[string]any{"dropOther": map[string]any{"order": 40}}}))
	tagImage(t, "next")
	change("with another image", scene.Protected, ofImage("next"))

	t.Run("an image that is not there, and another set", func(t *testing.T) {
		set, next := setInForce(t), ofImage("missing")
		next["ssh"] = map[string]any{"cidrs": strangersToo(t)}
		_, err := r.Upgrade(t.Context(), next)
		require.NoError(t, err)
		broken := requireBrokenAgent(t)
		requireProtected(t, "with an agent that can't start")
		requireSet(t, set)
		for _, node := range nodeNames() {
			if node != broken {
				got, err := agentOn(t.Context(), node)
				require.NoError(t, err, "the old agent goes on")
				require.True(t, got.Ready, "%+v", got)
			}
		}
	})
	t.Run("rollback", func(t *testing.T) {
		require.NoError(t, r.Rollback(1))
		requireArmed(t)
		requireProtected(t, "rolled back")
	})
	t.Run("upgrade --atomic that fails", func(t *testing.T) {
		v := ofImage("missing")
		v["ssh"] = map[string]any{"cidrs": strangersToo(t)}
		require.ErrorContains(t, r.UpgradeAtomic(t.Context(), v, 20*time.Second), "rolled back")
		requireArmed(t)
		requireProtected(t, "after the failed upgrade")
	})
	closed()

	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	requireNothingLeft(t)

	armed, closed = closesInTime(t)
	_, err = r.Install(t.Context(), values())
	require.NoError(t, err)
	armed()
	closed()
	open()
}

// Two sets of policies stand side by side, and a node goes from one to the other by one label: what both allow never fails, what both close never
// opens, on any node, with new connections all the time.
func TestUpgradeMovesEachNodeAtOnceAndOnlyToASetThatIsWhole(t *testing.T) {
	r := install(t)
	old := setInForce(t)

	t.Run("there and back", func(t *testing.T) {
		_, next := setOf(t, r, openToMore())
		stop, armed := oftenBetween(t, scene.Protected, expected(t, openToMore())), stayArmed(t, old, next)
		_, err := r.Upgrade(t.Context(), openToMore())
		require.NoError(t, err)
		requireArmed(t)
		requireSet(t, next)
		requireTable(t, expected(t, openToMore()), "upgraded")
		require.NoError(t, r.Rollback(0))
		requireArmed(t)
		requireSet(t, old)
		requireProtected(t, "rolled back")
		armed()
		stop()
	})

	t.Run("not to one with a policy missing, or edited", func(t *testing.T) {
		other := changed(openToMore(), map[string]any{"essential": map[string]any{"nodeLocalDNS": []any{"169.254.25.10/32"}}})
		policies, next := setOf(t, r, other)
		stop, armed := protected(t), stayArmed(t, old)
		allow := forPurpose(t, policies, "allow-cluster")
		accept := refusePolicy(t, allow.GetName())
		_, err := r.Upgrade(t.Context(), other)
		require.ErrorContains(t, err, allow.GetName())
		requireOneWaits(t, allow.GetName())
		accept()
		narrowed := allow.DeepCopy()
		require.NoError(t, unstructured.SetNestedSlice(narrowed.Object, []any{map[string]any{"action": "Allow", "source": map[string]any{"nets": []any{"203.0.113.77/32"}}}}, "spec", "ingress"))
		apply(t, slices.DeleteFunc(slices.Clone(policies), isNamed(allow.GetName()))...)
		apply(t, narrowed)
		requireClearance(t, "reason", allow.GetName())
		requireOneWaits(t, allow.GetName())
		requireProtected(t, "at the old set")
		armed()
		stop()
		apply(t, allow)
		requireArmed(t)
		requireSet(t, next)
		requireTable(t, expected(t, openToMore()), "with the whole set")
	})

	_, err := r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	requireArmed(t)
	requireProtected(t, "back at the old set")
}

// setOf returns the policies of a release with these values, and their set.
func setOf(t *testing.T, r *release.Release, values map[string]any) (policies []*unstructured.Unstructured, set string) {
	t.Helper()
	policies, _, err := r.Render(t.Context(), values)
	require.NoError(t, err)
	return policies, policies[0].GetLabels()[release.SetLabel]
}

// oftenBetween is between with many more connections: of a few kinds, to every node.
func oftenBetween(t *testing.T, from, to scene.Expectation) (stop func()) {
	t.Helper()
	const abreast = 10
	kinds := func(want scene.Expectation) []probe.Path {
		return place.Select(func(c scene.Cell) bool {
			return want(c) && slices.Contains([]string{scene.SSH, scene.Kubelet, scene.Loopback, scene.NodePortFar}, c.Column)
		})
	}
	all := between(t, from, to)
	open := watched(t, record.Open, kinds(both(from, to)), probe.Rhythm{Every: pause / abreast})
	closed := watched(t, record.Closed, kinds(neither(from, to)), probe.Rhythm{Every: pause, Abreast: abreast})
	return func() { t.Helper(); open(); closed(); all() }
}

// refusePolicy makes the API server refuse a policy, until accept is called or the test ends.
func refusePolicy(t *testing.T, policy string) (accept func()) {
	t.Helper()
	const refusal = "refused-by-a-test"
	manifest := fmt.Sprintf(`{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": %[1]q}, "spec": {
		"matchConstraints": {"resourceRules": [{"apiGroups": [%[2]q], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["globalnetworkpolicies"]}]},
		"validations": [{"expression": "object.metadata.name != '%[3]s'", "message": %[1]q}]}}
---
{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": %[1]q}, "spec": {"policyName": %[1]q, "validationActions": ["Deny"]}}`,
		refusal, nodes.StorageGroup().Group, policy)
	applyUntilEnd(t, manifest)
	probe := fmt.Sprintf(`{"apiVersion": %q, "kind": "GlobalNetworkPolicy", "metadata": {"name": %q}, "spec": {"selector": "has(nothing)", "types": ["Ingress"]}}`, nodes.CalicoGroup(), policy)
	refused := func(want bool) func(context.Context) error {
		return func(ctx context.Context) error {
			if _, err := kubectl(ctx, probe, "create", "--dry-run=server", "--filename", "-"); want != (err != nil && strings.Contains(err.Error(), refusal)) {
				return fmt.Errorf("it says %w", err)
			}
			return nil
		}
	}
	eventually(t, "the policy to be refused", refused(true))
	return func() {
		_, err := kubectl(t.Context(), manifest, "delete", "--filename", "-")
		require.NoError(t, err)
		eventually(t, "the policy to be accepted", refused(false))
	}
}

// What Helm holds for deployed has differed from what was there: an upgrade to audit that failed left, after the one that went back, policies
// which only log, under agents that said Armed.
func TestUpgradeThatFailsAndTheOneThatGoesBackLeaveNoNodeOpen(t *testing.T) {
	for version, helm := range map[string]func(*testing.T) helm{"Helm 3": helm3, "Helm 4": helm4} {
		t.Run(version, func(t *testing.T) {
			prepare(t)
			helm := helm(t)
			do := func(values map[string]any, args ...string) error {
				said, err := helm.run(t, append(args, helm.with(t, values)...)...)
				if err != nil {
					err = fmt.Errorf("helm %s: %w: %s", args[0], err, said)
				}
				return err
			}
			asEnforced := func(when string) {
				t.Helper()
				requireArmed(t)
				requireProtected(t, when)
				log, err := helm.run(t, "test", name)
				require.NoError(t, err, "helm test %s: %s", when, log)
			}
			require.NoError(t, do(values(), "install", "--create-namespace"))
			asEnforced("installed")
			closed := unreached(t, place.Select(neither(scene.Protected, scene.Protected)))
			require.Error(t, do(missing(with(map[string]any{"mode": "audit"})), "upgrade", "--wait", "--timeout", "5s"))
			requireProtected(t, "after the upgrade that failed")
			// The one that is left would keep its node as it is: it ends as well.
			_, err := kubectl(t.Context(), "", "delete", "pods", "--namespace", namespace, "--selector", ofAgents)
			require.NoError(t, err)
			requireProtected(t, "without an agent that runs")
			require.NoError(t, do(values(), "upgrade"))
			asEnforced("after the one that went back")
			require.NoError(t, told(helm.command(t.Context(), "rollback", name, "1")))
			asEnforced("rolled back")
			closed()
			require.NoError(t, told(helm.command(t.Context(), "uninstall", name)))
			requireOpen(t, "after uninstall")
			requireNothingLeft(t)
		})
	}
}

// requireBrokenAgent waits until an agent's image is missed, and returns on which node.
func requireBrokenAgent(t *testing.T) (node string) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	eventually(t, "an agent to miss its image", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofAgents})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			for _, s := range p.Status.ContainerStatuses {
				if s.State.Waiting != nil && s.State.Waiting.Reason == "ErrImageNeverPull" {
					node = p.Spec.NodeName
					return nil
				}
			}
		}
		return errors.New("every agent has it")
	})
	return node
}

// requireKubeletServes makes the requests that go from a person through the API server to a kubelet.
func requireKubeletServes(t *testing.T) {
	t.Helper()
	logs, err := kubectl(t.Context(), "", "logs", "--namespace", namespace, "daemonset/"+name)
	require.NoError(t, err)
	assert.Contains(t, logs, "Armed", "kubectl logs")
	version, err := kubectl(t.Context(), "", "exec", "--namespace", namespace, "daemonset/"+name, "--", "/host-firewall-agent", "version")
	require.NoError(t, err)
	assert.Contains(t, version, "host-firewall-agent", "kubectl exec")

	ctx, cancel := context.WithCancel(t.Context())
	forward := cluster.Kubectl(ctx, nodes, "port-forward", "--namespace", "scene", "--address", "127.0.0.1", "daemonset/web", ":8080")
	out, err := forward.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, forward.Start())
	defer func() { cancel(); _ = forward.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	var port int
	_, err = fmt.Sscanf(strings.TrimPrefix(line, "Forwarding from 127.0.0.1:"), "%d", &port)
	require.NoError(t, err, line)
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(soon)))
	_, err = conn.Write([]byte("echo"))
	require.NoError(t, err)
	echo := make([]byte, 4)
	_, err = io.ReadFull(conn, echo)
	require.NoError(t, err, "kubectl port-forward")
	assert.Equal(t, "echo", string(echo))
}

// Felix changes its tables one after the other: a set with its rules before DNAT must not go before one with its rules after it has come.
func TestUpgradeBetweenRulesBeforeAndAfterDNATOpensAndCutsNothing(t *testing.T) {
	r := prepare(t)
	files := map[string]ciFile{}
	for _, file := range ciFiles(t) {
		files[file.name] = file
	}
	before, after := files["default"], files["host-ports-only"]
	_, err := r.Install(t.Context(), before.values)
	require.NoError(t, err)
	requireSettled(t, r, before)
	stop := oftenBetween(t, before.open, after.open)
	for _, next := range []ciFile{after, before} {
		_, err := r.Upgrade(t.Context(), next.values)
		require.NoError(t, err)
		requireSettled(t, r, next)
	}
	stop()
}
