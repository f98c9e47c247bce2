package kind

import (
	"context"
	"errors"
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
	"helm.sh/helm/v3/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// The headings of docs/recovery.md.
const (
	annotate        = "Open them"
	closeAgain      = "Protect them again"
	deleteEndpoints = "Without agents: delete the endpoints"
	correction      = "The admins' networks are wrong"
	tryAgain        = "Nodes went back by themselves"
	switchOff       = "Switch it off"
	emptyRules      = "Empty the rules"
	endOfTheFreeze  = "Let them go on"
	uninstall       = "Uninstall"
	hookIsAway      = "When the hook does not start"
)

// waysBack reads docs/recovery.md.
func waysBack(t *testing.T) map[string]string {
	t.Helper()
	ways := commandsOf(t, "recovery.md")
	for name, commands := range ways {
		require.NotEmpty(t, commands, "no block under %q", name)
	}
	return ways
}

// commandsOf reads a page: the commands under each heading. A heading with two blocks is one that somebody in need would misread.
func commandsOf(t *testing.T, page string) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "docs", page))
	require.NoError(t, err)
	ways := map[string]string{}
	heading, inBlock := "", false
	for _, line := range strings.Split(string(raw), "\n") {
		switch {
		case line == "```sh":
			require.NotEmpty(t, heading, "a command before any heading")
			require.Empty(t, ways[heading], "a second block under %q", heading)
			inBlock = true
		case line == "```":
			inBlock = false
		case inBlock:
			ways[heading] += line + "\n"
		case strings.HasPrefix(line, "## "):
			heading = ""
		case strings.HasPrefix(line, "### "):
			heading = strings.TrimPrefix(line, "### ")
			ways[heading] = ""
		}
	}
	return ways
}

func TestEveryWayOfTheRecoveryPageOpensLockedNodesSoon(t *testing.T) {
	admin := adminsShell(t)
	ways := waysBack(t)
	r := prepare(t)
	locked := func(name string, lock func(*testing.T, *release.Release), open func(t *testing.T, commands string)) {
		commands, there := ways[name]
		require.True(t, there, "the page has no %q", name)
		delete(ways, name)
		t.Run(name, func(t *testing.T) {
			lock(t, r)
			open(t, commands)
		})
	}
	goBack := ways[closeAgain]
	delete(ways, closeAgain)
	locked(annotate, lockWithAnothersPolicy, func(t *testing.T, commands string) {
		requireOpenedBy(t, commands, admin, scene.Everything)
		require.NoError(t, calico(t, "globalnetworkpolicies").Delete(t.Context(), anothersPolicy, metav1.DeleteOptions{}))
		require.NoError(t, admin(t.Context(), goBack))
		requireArmed(t)
		requireTable(t, scene.ProtectedFromAll, "without the policy")
	})
	locked(deleteEndpoints, lockWithAnothersPolicy, func(t *testing.T, commands string) {
		requireOpenedBy(t, commands, admin.inSpite, scene.Everything)
		require.NoError(t, calico(t, "globalnetworkpolicies").Delete(t.Context(), anothersPolicy, metav1.DeleteOptions{}))
	})
	// The page says that an upgrade then protects the nodes again, which here is the one that locks them.
	locked(correction, lockWithWrongNetworks, func(t *testing.T, commands string) {
		requireOpenedWithin(t, upgradeTime, commands, admin, scene.Protected)
	})
	locked(switchOff, lockWithWrongNetworks, func(t *testing.T, commands string) {
		requireOpenedBy(t, commands, admin, scene.Everything)
	})
	letGoOn := ways[endOfTheFreeze]
	delete(ways, endOfTheFreeze)
	locked(emptyRules, lockWithAnothersPolicy, func(t *testing.T, commands string) {
		t.Cleanup(func() {
			if t.Failed() {
				require.NoError(t, onEveryConsole(context.WithoutCancel(t.Context()), letGoOn))
			}
		})
		requireOpenedBy(t, commands, shell(onEveryConsole).inSpite, scene.Everything)
		require.NoError(t, onEveryConsole(t.Context(), letGoOn))
		requireCutOff(t)
	})
	// The nodes are cut off still.
	locked(uninstall, func(t *testing.T, _ *release.Release) { requireCutOff(t) }, func(t *testing.T, commands string) {
		requireOpenedBy(t, commands, admin, scene.Everything)
		require.NoError(t, calico(t, "globalnetworkpolicies").Delete(t.Context(), anothersPolicy, metav1.DeleteOptions{}))
		requireNothingLeft(t)
	})
	delete(ways, tryAgain)   // TestSetThatFailsIsTriedByOneNodeTwiceAndThenWhenAPersonSaysRetry
	delete(ways, hookIsAway) // TestUninstallWithoutItsImageChangesNothingAndCanBeRepeated
	require.Empty(t, ways, "without a test")
}

// The way out takes nothing that works away from anybody, and whatever comes meanwhile, an upgrade too, makes nothing until it is taken back.
func TestEveryNodeOpensAndClosesByOneAnnotation(t *testing.T) {
	admin, ways := adminsShell(t), waysBack(t)
	r := install(t)
	stop := undisturbed(t, scene.Protected)
	requireOpenedBy(t, ways[annotate], admin, scene.Everything)
	requireNoEndpoint := func() {
		t.Helper()
		eventually(t, "endpoints and failsafes to be gone", func(ctx context.Context) error {
			for _, resource := range []string{"hostendpoints", "felixconfigurations"} {
				list, err := calico(t, resource).List(ctx, metav1.ListOptions{LabelSelector: release.Label})
				if err != nil {
					return err
				}
				if len(list.Items) > 0 {
					return fmt.Errorf("there is %s", list.Items[0].GetName())
				}
			}
			return nil
		})
	}
	requireNoEndpoint()
	_, err := r.Upgrade(t.Context(), changed(openToMore(), map[string]any{"agent": values()["agent"]}))
	require.NoError(t, err)
	requireAgents(t, report{State: "Waiting", Reason: "host-firewall.io/open"})
	requireNoEndpoint()
	requireOpen(t, "after an upgrade")
	require.NoError(t, admin(t.Context(), ways[closeAgain]))
	requireArmed(t)
	requireTable(t, expected(t, openToMore()), "closed again")
	stop()
	_, err = r.Upgrade(t.Context(), values())
	require.NoError(t, err)
}

// shell runs commands as a person would, somewhere.
type shell func(ctx context.Context, commands string) error

// inSpite runs commands of which the page says that some may fail, for what they would change is not there.
func (run shell) inSpite(ctx context.Context, commands string) error {
	return run(ctx, "set +e\n"+commands+"true\n")
}

// requireOpenedBy runs a way's commands and wants all of them to succeed, and everything open in time, counted from their start.
func requireOpenedBy(t *testing.T, commands string, run shell, want scene.Expectation) {
	t.Helper()
	requireOpenedWithin(t, recoveryTime, commands, run, want)
}

func requireOpenedWithin(t *testing.T, limit time.Duration, commands string, run shell, want scene.Expectation) {
	t.Helper()
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- run(t.Context(), commands) }()
	table := place.MeasureUntil(t.Context(), want, limit)
	t.Logf("open %s after the start of the commands", time.Since(start).Round(100*time.Millisecond))
	said := <-done
	require.Empty(t, table.Surprises(want), "%s\n%v", table, said)
	require.NoError(t, said)
}

// lockWithWrongNetworks makes a release let nobody in, by a slip in its values. Where there is no release it is installed.
func lockWithWrongNetworks(t *testing.T, r *release.Release) {
	t.Helper()
	wrong := release.Values(map[string]any{
		"ssh":   map[string]any{"cidrs": []any{"203.0.113.128/25", "2001:db8:3:1::/64"}},
		"agent": map[string]any{"updateStrategy": map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": "100%"}}},
	})
	_, err := r.Upgrade(t.Context(), wrong)
	if errors.Is(err, driver.ErrNoDeployedReleases) {
		_, err = r.Install(t.Context(), wrong)
	}
	require.NoError(t, err)
	requireArmed(t)
	requireTable(t, scene.ProtectedFromAll, "locked")
}

// anothersPolicy is the name of a policy that is not ours.
const anothersPolicy = "close-everything"

// lockWithAnothersPolicy is the worst: on top of wrong networks, a policy that is not ours cuts the nodes even from each
// other and from themselves.
func lockWithAnothersPolicy(t *testing.T, r *release.Release) {
	t.Helper()
	lockWithWrongNetworks(t, r)
	_, err := calico(t, "globalnetworkpolicies").Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": "GlobalNetworkPolicy",
		"metadata": map[string]any{"name": anothersPolicy},
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
	home := helm3(t).home
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
		// What the page has as an example, the networks of the local cluster's admin, is what the reader is told to replace.
		commands = strings.ReplaceAll(commands, strings.Join(cluster.AdminCIDRs(), ","), strings.Join(nodes.AdminCIDRs(), ","))
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
