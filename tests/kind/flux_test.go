package kind

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// flux reconciles the HelmRelease of docs/gitops.md as helm-controller does.
type flux struct {
	program, home string
	spec          map[string]any
	document      map[string]any
}

func newFlux(t *testing.T) flux {
	t.Helper()
	programs, err := binaries.Ensure(t.Context(), filepath.Join(root, "tests", "cluster", "modules"), t.Output(), binaries.Flux)
	require.NoError(t, err)
	f := flux{program: programs[binaries.Flux], home: t.TempDir(), document: fromPage(t, "HelmRelease")}
	f.spec = f.document["spec"].(map[string]any)
	return f
}

// fromPage is the object of this kind in docs/gitops.md.
func fromPage(t *testing.T, kind string) (object map[string]any) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "gitops.md"))
	require.NoError(t, err)
	for _, block := range strings.Split(string(page), "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for _, text := range strings.Split(block, "\n---\n") {
			object = nil
			require.NoError(t, yaml.Unmarshal([]byte(text), &object))
			if object["kind"] == kind {
				return object
			}
		}
	}
	t.Fatal("docs/gitops.md has no " + kind)
	return nil
}

// reconcile does it once with these values, and returns what was done.
func (f flux) reconcile(t *testing.T, values map[string]any, args ...string) (done string, err error) {
	t.Helper()
	maps.Copy(f.spec, map[string]any{"values": values})
	manifest, err := yaml.Marshal(f.document)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), f.program, append([]string{"-chart", filepath.Join(root, "charts", "host-firewall"), "-kubeconfig", nodes.Kubeconfig()}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(manifest), &out, &said, host.Environment("HOME="+f.home)
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("%w: %s", err, said.String())
	}
	return out.String(), err
}

// requireDone reconciles, and wants this to be what was done.
func (f flux) requireDone(t *testing.T, want string, values map[string]any, args ...string) {
	t.Helper()
	done, err := f.reconcile(t, values, args...)
	require.NoError(t, err)
	require.Equal(t, want, strings.TrimSpace(done))
}

// What Flux looks at again and again is what it has written: it finds nothing to do where nobody has changed that, corrects what somebody has, and leaves
// the way out alone. A bad upgrade it takes back by itself. Nothing that must be open is cut by it, and nothing that is closed opened.
func TestFluxKeepsTheReleaseAsItWantsItAndTakesABadUpgradeBack(t *testing.T) {
	prepare(t)
	createNamespace(t)
	f := newFlux(t)
	open := undisturbed(t, scene.Protected)
	f.requireDone(t, "installed", values())
	requireArmed(t)
	requireProtected(t, "installed")
	f.requireDone(t, "in sync", values())

	openByHand(t)
	requireOpen(t, "with the way out")
	f.requireDone(t, "in sync", values())
	requireOpen(t, "after Flux has looked")
	closeByHand(t)
	requireArmed(t)
	requireProtected(t, "protected again")

	closed := unreached(t, place.Select(neither(scene.Protected, expected(t, openToMore()))))
	lost, edited := policyName("allow-ssh", setInForce(t)), policyName("drop-other", setInForce(t))
	policies := calico(t, "globalnetworkpolicies")
	require.NoError(t, policies.Delete(t.Context(), lost, metav1.DeleteOptions{}))
	_, err := policies.Patch(t.Context(), edited, types.MergePatchType, []byte(`{"spec":{"order":4000}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	_, err = kubectl(t.Context(), "", "delete", "clusterrolebinding", name)
	require.NoError(t, err)
	done, err := f.reconcile(t, values())
	require.NoError(t, err)
	for _, corrected := range []string{"missing: GlobalNetworkPolicy " + lost, "changed: GlobalNetworkPolicy " + edited, "missing: ClusterRoleBinding " + name} {
		require.Contains(t, done, corrected)
	}
	f.requireDone(t, "in sync", values())
	requireArmed(t)
	requireProtected(t, "corrected")

	f.requireDone(t, "upgraded", atOnce(openToMore()))
	requireTable(t, expected(t, openToMore()), "upgraded")
	f.spec["timeout"] = "10s"
	done, err = f.reconcile(t, missing(with(map[string]any{"mode": "audit"})))
	require.Error(t, err)
	require.Equal(t, "rolled back\n", done, "%v", err)
	requireArmed(t)
	requireTable(t, expected(t, openToMore()), "rolled back")
	closed()
	delete(f.spec, "timeout")
	f.requireDone(t, "uninstalled", values(), "-deleted")
	requireOpen(t, "uninstalled")
	requireNothingLeft(t)
	open()
}
