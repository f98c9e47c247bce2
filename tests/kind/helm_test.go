package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// helm is a program of Helm's, as somebody runs it on this machine: it can be killed, and there is one of each version.
type helm struct{ program, home string }

// helm3 is that of the version which the tests have in themselves.
func helm3(t *testing.T) helm {
	t.Helper()
	home := t.TempDir()
	program := filepath.Join(home, "helm")
	require.NoError(t, os.Symlink(tool(t, "helm.sh/helm/v3/cmd/helm"), program))
	return helm{program, home}
}

// tool builds a program of tools/go.mod. It stays in dist, one for each cluster, as parts of the suite run beside each other: to link it takes
// longer than what it does.
func tool(t *testing.T, pkg string) (program string) {
	t.Helper()
	program = filepath.Join(root, "dist", "tools"+os.Getenv("CLUSTER_NAME"), path.Base(pkg))
	build := exec.CommandContext(t.Context(), "go", "build", "-modfile="+filepath.Join("tools", "go.mod"), "-o", program, pkg)
	build.Dir = root
	require.NoError(t, told(build))
	return program
}

// helm4 is that of the next one.
func helm4(t *testing.T) helm {
	t.Helper()
	programs, err := binaries.Ensure(t.Context(), filepath.Join(root, "tests", "cluster", "modules"), t.Output(), binaries.Helm4)
	require.NoError(t, err)
	return helm{programs[binaries.Helm4], t.TempDir()}
}

func (h helm) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.program, append(args, "--namespace", namespace, "--kubeconfig", nodes.Kubeconfig())...)
	cmd.Dir, cmd.Env = root, host.Environment("HOME="+h.home)
	return cmd
}

// run does it, and returns what it said.
func (h helm) run(t *testing.T, args ...string) (said string, err error) {
	t.Helper()
	output, err := h.command(t.Context(), args...).CombinedOutput()
	return string(output), err
}

// with are the arguments for the chart and values.
func (h helm) with(t *testing.T, values map[string]any) []string {
	t.Helper()
	raw, err := yaml.Marshal(values)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "values.yaml")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	return []string{name, filepath.Join("charts", "host-firewall"), "--values", file}
}

// helmProcess is a Helm that is at work.
type helmProcess struct {
	cmd    *exec.Cmd
	output bytes.Buffer
}

// start begins something that may be killed.
func start(t *testing.T, h helm, args ...string) *helmProcess {
	t.Helper()
	p := &helmProcess{cmd: h.command(t.Context(), args...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	require.NoError(t, p.cmd.Start())
	return p
}

// kill ends it as the end of its machine would. One that is done is no error.
func (p *helmProcess) kill() error {
	if err := p.cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// wait returns when it has ended, with what it failed of.
func (p *helmProcess) wait() error {
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, p.output.String())
	}
	return nil
}

// edit changes a policy of the set in force as somebody with kubectl would, so that it lets everybody in, and waits until that is told.
func edit(t *testing.T) (policy string) {
	t.Helper()
	policy = policyName("drop-other", setInForce(t))
	_, err := calico(t, "globalnetworkpolicies").Patch(t.Context(), policy, types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/ingress/0/action","value":"Allow"}]`), metav1.PatchOptions{})
	require.NoError(t, err)
	requireClearance(t, "drift", policy)
	return policy
}

// Helm 4 upgrades what Helm 3 has installed as that did. Where it is told to let the API server merge, it finds what somebody has edited, and what the
// README says puts it right. Its --wait is for every pod, also where all of them may be away at once, of which Helm 3 waits for none. Helm 3 can go on then.
func TestUpgradeByHelm4MendsWhatWasEditedAndHelm3GoesOn(t *testing.T) {
	prepare(t)
	do := func(h helm, values map[string]any, args ...string) error {
		said, err := h.run(t, append(args, h.with(t, values)...)...)
		if err != nil {
			err = fmt.Errorf("helm %s: %w: %s", args[0], err, said)
		}
		return err
	}
	before, next := helm3(t), helm4(t)
	require.NoError(t, do(before, values(), "install", "--create-namespace"))
	requireArmed(t)
	edited := edit(t)
	require.NoError(t, do(next, values(), "upgrade"))
	requireClearance(t, "drift", edited)
	err := do(next, values(), "upgrade", "--server-side=true")
	require.ErrorContains(t, err, "conflict")
	require.ErrorContains(t, err, edited)
	require.NoError(t, do(next, values(), "upgrade", "--server-side=true", "--force-conflicts"))
	requireArmed(t)
	requireProtected(t, "mended")

	require.NoError(t, do(next, atOnce(openToMore()), "upgrade", "--wait"))
	for _, node := range nodeNames() {
		got, err := agentOn(t.Context(), node)
		require.NoError(t, err)
		require.True(t, got.Ready, "%s as soon as --wait is over: %+v", node, got)
	}
	requireTable(t, expected(t, openToMore()), "upgraded by Helm 4")
	require.NoError(t, do(before, values(), "upgrade"))
	requireArmed(t)
	requireProtected(t, "upgraded by Helm 3")
}
