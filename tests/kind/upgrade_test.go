package kind

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
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
	notes, err := r.Install(t.Context(), rolling()) // revision 1
	require.NoError(t, err)
	require.NotEmpty(t, notes)
	requireClosesInTime(t)
	closed := unreached(t, place.Select(func(c scene.Cell) bool { return !scene.Protected(c) && !strangersSSH(c) }))
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

	t.Run("an image that is not there", func(t *testing.T) {
		_, err := r.Upgrade(t.Context(), ofImage("missing"))
		require.NoError(t, err)
		broken := requireBrokenAgent(t)
		requireProtected(t, "with an agent that can't start")
		for _, node := range nodeNames() {
			hep, err := endpointOf(t.Context(), t, node)
			require.NoError(t, err)
			require.NoError(t, release.Armed(hep))
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

	_, err = r.Install(t.Context(), values())
	require.NoError(t, err)
	requireClosesInTime(t)
	open()
}

// requireBrokenAgent waits until an agent's image is missed, and returns on which node.
func requireBrokenAgent(t *testing.T) (node string) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	eventually(t, "an agent to miss its image", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
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
