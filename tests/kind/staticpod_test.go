package kind

import (
	"context"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

// credentials is the folder of the test's nodes with what their agents show to the API server.
const credentials = "/var/lib/host-firewall"

// Kubelets run the agents by themselves, each with a token that is bound to its node, and nobody replaces them.
func TestStaticPodsProtectTheirNodesAndStayAsTheyAreUntilTheirFilesAreWrittenAnew(t *testing.T) {
	local(t, "write a file where kubelets look for static pods")
	r := prepare(t)
	static := func(values map[string]any) map[string]any {
		values["agent"].(map[string]any)["staticPods"] = map[string]any{"enabled": true, "folder": credentials}
		return values
	}
	_, err := r.Install(t.Context(), static(values()))
	require.NoError(t, err)
	writeCredentials(t)
	// An agent whose file is still there would make the next test's endpoints. It ends before anything is made clean.
	t.Cleanup(func() { removeManifests(context.WithoutCancel(t.Context()), t) })
	writeManifests(t)
	requireAgents(t, report{State: "Armed", Ready: true})
	requireProtected(t, "by static pods")
	_, set := setOf(t, r, static(values()))
	requireSet(t, set)
	told, err := kubectl(t.Context(), "", statusCommand()...)
	require.NoError(t, err, "the controller's account may look at static pods: %s", told)

	node := worker(t, 1)
	patchEndpoint(t, node, `{"metadata":{"labels":{"`+release.SetLabel+`":null}}}`)
	eventually(t, "the endpoint that was edited to be armed again", func(ctx context.Context) error {
		hep, err := endpointOf(ctx, t, node)
		if err == nil {
			err = release.Armed(hep)
		}
		return err
	})
	agent := asAgent(t, &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: node})
	_, err = agent("hostendpoints").Patch(t.Context(), worker(t, 2), types.MergePatchType, []byte(`{"metadata":{"annotations":{"note":"mine"}}}`), metav1.PatchOptions{})
	assertRefused(t, err, "writes host endpoints of that node only", "another node's endpoint")

	_, err = r.Upgrade(t.Context(), static(atOnce(openToMore())))
	require.NoError(t, err)
	eventually(t, "status to say that nobody has replaced the agents", func(ctx context.Context) error {
		told, err := kubectl(ctx, "", statusCommand()...)
		if err == nil || !strings.Contains(told, "its agent is not the present one") {
			return fmt.Errorf("it says %s", told)
		}
		return nil
	})
	requireSet(t, set)
	_, next := setOf(t, r, static(atOnce(openToMore())))
	writeManifests(t)
	requireTable(t, expected(t, static(atOnce(openToMore()))), "with the agents of the upgrade")
	requireAgents(t, report{State: "Armed", Ready: true})
	requireSet(t, next)

	require.NoError(t, r.Uninstall())
	requireOpen(t, "after uninstall")
	left, err := release.Leftovers(t.Context(), nodes)
	require.NoError(t, err)
	assert.Empty(t, left, "although the agents still run")
	removeManifests(t.Context(), t)
	requireNothingLeft(t)
}

// writeCredentials gives the agent of each node its kubeconfig, as docs/alternatives.md says.
func writeCredentials(t *testing.T) {
	t.Helper()
	ca, err := kubectl(t.Context(), "", "--namespace", namespace, "get", "configmap", "kube-root-ca.crt", "--output", `jsonpath={.data.ca\.crt}`)
	require.NoError(t, err)
	kubeconfig := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "https://%s:%d", certificate-authority: ca.crt}}]
users: [{name: agent, user: {tokenFile: token}}]
contexts: [{name: agent, context: {cluster: cluster, user: agent}}]
current-context: agent
`, controlPlane(t).Addresses.V4, cluster.APIPort)
	for _, node := range nodeNames() {
		token, err := kubectl(t.Context(), "", "--namespace", namespace, "create", "token", name, "--bound-object-kind=Node", "--bound-object-name="+node, "--duration=1h")
		require.NoError(t, err)
		for file, text := range map[string]string{"token": token, "ca.crt": ca, "kubeconfig": kubeconfig} {
			writeOn(t, node, path.Join(credentials, file), text, "--owner=65532", "--mode=0400")
		}
	}
}

// writeManifests lets the kubelet of each node run the agent of the release as it is now.
func writeManifests(t *testing.T) {
	t.Helper()
	manifest, err := kubectl(t.Context(), "", "--namespace", namespace, "exec", "deployment/"+name+"-controller", "--", "/host-firewall-agent", "manifest")
	require.NoError(t, err)
	for _, node := range nodeNames() {
		writeOn(t, node, path.Join(cluster.StaticPodPath, name+".yaml"), manifest)
	}
}

// writeOn writes a file on a node, and its folder.
func writeOn(t *testing.T, node, file, text string, flags ...string) {
	t.Helper()
	cmd, err := nodes.Command(t.Context(), node, "install", append(flags, "-D", "/dev/stdin", file)...)
	require.NoError(t, err)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// removeManifests ends the agents of all nodes.
func removeManifests(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, node := range nodeNames() {
		cmd, err := nodes.Command(ctx, node, "rm", "--force", path.Join(cluster.StaticPodPath, name+".yaml"))
		require.NoError(t, err)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
