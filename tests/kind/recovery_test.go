package kind

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// The headings of docs/recovery.md that say where a command helps, or what it is for.
const (
	oursCloses     = "Our own policies close too much"
	anybodyCloses  = "Whatever closes the nodes"
	onConsole      = "On a node's console, without the API server"
	correction     = "The admins' networks are wrong"
	endOfTheFreeze = "Let them go on"
)

// way is one way back in: a code block of docs/recovery.md, and the headings that it is under.
type way struct{ section, name, commands string }

// waysBack reads docs/recovery.md. A heading with no block, or with two, is one that somebody in need would misread.
func waysBack(t *testing.T) []way {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "docs", "recovery.md"))
	require.NoError(t, err)
	var ways []way
	var section string
	inBlock := false
	for _, line := range strings.Split(string(raw), "\n") {
		switch {
		case line == "```sh":
			require.NotEmpty(t, ways, "a command before any heading")
			require.Empty(t, ways[len(ways)-1].commands, "a second block under %q", ways[len(ways)-1].name)
			inBlock = true
		case line == "```":
			inBlock = false
		case inBlock:
			ways[len(ways)-1].commands += line + "\n"
		case strings.HasPrefix(line, "## "):
			section = strings.TrimPrefix(line, "## ")
		case strings.HasPrefix(line, "### "):
			ways = append(ways, way{section: section, name: strings.TrimPrefix(line, "### ")})
		}
	}
	for _, w := range ways {
		require.NotEmpty(t, w.commands, "no block under %q", w.name)
	}
	return ways
}

func TestEveryWayOfTheRecoveryPageOpensLockedNodesSoon(t *testing.T) {
	admin := adminsShell(t)
	ways := waysBack(t)
	last := len(ways) - 1
	require.Equal(t, endOfTheFreeze, ways[last].name)
	afterwards := ways[last].commands
	for _, w := range ways[:last] {
		t.Run(w.name, func(t *testing.T) {
			switch {
			case w.name == correction:
				lockWithWrongNetworks(t)
				requireOpenedBy(t, w, admin, scene.Protected)
			case w.section == oursCloses:
				lockWithWrongNetworks(t)
				requireOpenedBy(t, w, admin, scene.Everything)
			case w.section == anybodyCloses:
				lockWithAnothersPolicy(t)
				requireOpenedBy(t, w, admin, scene.Everything)
			case w.section == onConsole:
				lockWithAnothersPolicy(t)
				t.Cleanup(func() { require.NoError(t, onEveryConsole(context.WithoutCancel(t.Context()), afterwards)) })
				requireOpenedBy(t, w, onEveryConsole, scene.Everything)
				require.NoError(t, onEveryConsole(t.Context(), afterwards))
				requireCutOff(t)
			default:
				t.Fatalf("no test for what is under %q", w.section)
			}
		})
	}
}

// shell runs commands as a person would, somewhere.
type shell func(ctx context.Context, commands string) error

// requireOpenedBy runs a way's commands and wants everything open in time, counted from their start.
func requireOpenedBy(t *testing.T, w way, run shell, want scene.Expectation) {
	t.Helper()
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- run(t.Context(), w.commands) }()
	table := place.MeasureUntil(t.Context(), want, recoveryTime)
	t.Logf("open %s after the start of the commands", time.Since(start).Round(100*time.Millisecond))
	require.NoError(t, <-done)
	require.Empty(t, table.Surprises(want), table)
}

// lockWithWrongNetworks installs a release that lets nobody in, by a slip in its values.
func lockWithWrongNetworks(t *testing.T) {
	t.Helper()
	r := prepare(t)
	_, err := r.Install(t.Context(), release.Values(map[string]any{"ssh": map[string]any{
		"cidrs": []any{"203.0.113.128/25", "2001:db8:3:1::/64"},
	}}))
	require.NoError(t, err)
	requireArmed(t)
	requireTable(t, scene.ProtectedFromAll, "locked")
}

// lockWithAnothersPolicy is the worst: on top of wrong networks, a policy that is not ours cuts the nodes even from each
// other and from themselves.
func lockWithAnothersPolicy(t *testing.T) {
	t.Helper()
	lockWithWrongNetworks(t)
	_, err := calico(t, "globalnetworkpolicies").Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": "GlobalNetworkPolicy",
		"metadata": map[string]any{"name": "close-everything"},
		"spec": map[string]any{
			"order": 1, "selector": "has(host-firewall.io/release)", "types": []any{"Ingress"},
			"preDNAT": true, "applyOnForward": true, "ingress": []any{map[string]any{"action": "Deny"}},
		},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	requireCutOff(t)
}

// requireCutOff wants nobody to reach the nodes from elsewhere. Over IPv6 that can be told to the one who asks, where not
// even neighbours are found any more.
func requireCutOff(t *testing.T) {
	t.Helper()
	eventually(t, "the nodes to be cut off", func(context.Context) error {
		table := place.Measure()
		for _, row := range []string{scene.Admin, scene.Stranger, scene.Node} {
			for _, column := range []string{scene.SSH, scene.Ordinary, scene.Kubelet} {
				for _, family := range []int{4, 6} {
					for _, answer := range table[scene.Cell{Row: row, Column: column, Family: family}] {
						if answer.Reached > 0 {
							return fmt.Errorf("%s reaches %s over IPv%d", answer.From.Name, column, family)
						}
					}
				}
			}
		}
		return nil
	})
}

// adminsShell has kubectl, helm and a kubeconfig, on the host of the admin, whose packets meet the policies as
// anybody's from outside do.
func adminsShell(t *testing.T) shell {
	t.Helper()
	home := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-modfile="+filepath.Join("tools", "go.mod"), "-o", filepath.Join(home, "helm"), "helm.sh/helm/v3/cmd/helm")
	build.Dir = root
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)

	config, err := clientcmd.LoadFromFile(nodes.Kubeconfig())
	require.NoError(t, err)
	for _, c := range config.Clusters {
		c.Server = "https://" + net.JoinHostPort(controlPlane(t).Addresses.V4.String(), fmt.Sprint(cluster.APIPort))
	}
	kubeconfig := filepath.Join(home, "kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(*config, kubeconfig))

	host, err := nodes.Host(cluster.AdminHost)
	require.NoError(t, err)
	return func(ctx context.Context, commands string) error {
		// What the page has as examples, the networks of the local cluster's admin and the group of its CRDs, is what the
		// reader is told to replace.
		commands = strings.NewReplacer(
			strings.Join(cluster.AdminCIDRs(), ","), strings.Join(nodes.AdminCIDRs(), ","),
			"crd.projectcalico.org", nodes.CalicoGroup().Group,
		).Replace(commands)
		cmd := exec.CommandContext(ctx, "nsenter", "--net="+host.NetNS(), "--", "sh", "-euc", commands)
		cmd.Dir = root
		cmd.Env = []string{
			"HOME=" + home, "KUBECONFIG=" + kubeconfig,
			"PATH=" + strings.Join([]string{home, filepath.Dir(nodes.Binary("kubectl")), os.Getenv("PATH")}, ":"),
		}
		return told(cmd)
	}
}

// onEveryConsole runs commands as root on all nodes.
func onEveryConsole(ctx context.Context, commands string) error {
	var consoles errgroup.Group
	for _, node := range nodeNames() {
		consoles.Go(func() error {
			cmd, err := nodes.Command(ctx, node, "sh", "-euc", commands)
			if err != nil {
				return err
			}
			return told(cmd)
		})
	}
	return consoles.Wait()
}

// told is a command's error, with what it said.
func told(cmd *exec.Cmd) error {
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, output)
	}
	return nil
}
