package helm_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	projectcalico "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

func TestEveryValuesFileRendersOnEveryKubernetesAndCalico(t *testing.T) {
	t.Parallel()
	for name, values := range ciFiles(t) {
		for _, kubernetes := range []string{oldestKubernetes, newestKubernetes} {
			for _, s := range []setting{{}, edgeOne(apiV3), edgeOne(apiV1)} {
				s.values, s.kubernetes = values, kubernetes
				r := render(t, s)
				require.NotNil(t, r.deployment(t), name)
				kinds := []string{"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "DaemonSet"}
				others := slices.Repeat([]string{"GlobalNetworkPolicy"}, len(r.policies))
				if kubernetes == newestKubernetes {
					others = append([]string{"FlowSchema"}, append(others, "PriorityLevelConfiguration")...)
					count := len(r.admissionPolicies)
					others = append(others, slices.Repeat([]string{"ValidatingAdmissionPolicy"}, count)...)
					others = append(others, slices.Repeat([]string{"ValidatingAdmissionPolicyBinding"}, count)...)
				}
				require.Equal(t, append(kinds, others...), r.kinds, name)
				var hooks []string
				for _, hook := range r.hooks {
					hooks = append(hooks, hook.Kind)
				}
				if name == "off" {
					require.Empty(t, hooks)
				} else {
					require.Equal(t, []string{"Job"}, hooks, name)
				}
			}
		}
	}
}

func TestSameInputsRenderTheSameBytes(t *testing.T) {
	t.Parallel()
	for name, values := range valuesFiles(t) {
		first := render(t, setting{values: values})
		second, err := tryRenderChart(t, loadChart(t), setting{values: values})
		require.NoError(t, err)
		require.Equal(t, first.manifest, second.manifest, name)
		require.Equal(t, first.notes, second.notes, name)
	}
}

func TestLintFindsNothing(t *testing.T) {
	t.Parallel()
	for name, values := range valuesFiles(t) {
		given, err := chartutil.ReadValues([]byte(values))
		require.NoError(t, err)
		kubernetes, err := chartutil.ParseKubeVersion(newestKubernetes)
		require.NoError(t, err)
		linter := lint.AllWithKubeVersion(chartDir, given, "host-firewall", kubernetes)
		for _, message := range linter.Messages {
			// What helm lint --strict fails on.
			require.Less(t, message.Severity, support.WarningSev, "%s: %s", name, message)
		}
	}
}

// What Artifact Hub shows has to be what is there.
func TestAnnotationsOfTheChartAreTrue(t *testing.T) {
	metadata := loadChart(t).Metadata
	read := func(key string, into any) {
		t.Helper()
		require.NoError(t, yaml.UnmarshalStrict([]byte(metadata.Annotations["artifacthub.io/"+key]), into))
	}
	var images []struct {
		Name, Image string
		Platforms   []string
	}
	read("images", &images)
	require.Len(t, images, 1)
	require.Equal(t, render(t, setting{}).container(t).Image, images[0].Image)
	var changes []struct{ Kind, Description string }
	read("changes", &changes)
	require.NotEmpty(t, changes)
	for _, change := range changes {
		require.Contains(t, []string{"added", "changed", "deprecated", "removed", "fixed", "security"}, change.Kind)
		require.NotEmpty(t, change.Description)
	}
	var links []struct{ Name, URL string }
	read("links", &links)
	require.NotEmpty(t, links)
	require.Equal(t, "security", metadata.Annotations["artifacthub.io/category"])
	require.Equal(t, metadata.Version, metadata.AppVersion, "chart and agent have one version")
}

// The release id names objects of the whole cluster, and everything of a release is found by it.
func TestNamesFitWhateverTheRelease(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 53)
	for release, id := range map[string]string{
		"host-firewall":                "host-firewall",
		"edge":                         "edge-host-firewall",
		"my-host-firewall-2":           "my-host-firewall-2",
		"edge.eu.example":              "edge-eu-example-host-firewall",
		"1e3":                          "1e3-host-firewall",
		long:                           long[:38],
		strings.Repeat("y", 37):        strings.Repeat("y", 37),
		strings.Repeat("z", 36) + "-z": strings.Repeat("z", 36) + "-z",
	} {
		for _, namespace := range []string{"host-firewall", "kube-system"} {
			r := render(t, setting{release: release, namespace: namespace})
			for _, object := range r.all() {
				accessor, err := meta.Accessor(object)
				require.NoError(t, err)
				require.Truef(t, accessor.GetName() == id || strings.HasPrefix(accessor.GetName(), id+"-"), "%s for %s", accessor.GetName(), release)
				require.Empty(t, validation.IsDNS1123Label(accessor.GetName()))
				want := objectLabels(release, id)
				if _, isPolicy := object.(*projectcalico.GlobalNetworkPolicy); isPolicy {
					want[setLabel] = argumentsOf(t, r)["set"]
				}
				if _, isPod := object.(*corev1.Pod); !isPod {
					require.Equal(t, want, accessor.GetLabels())
				}
				require.Contains(t, namespacesOf(object, namespace), accessor.GetNamespace())
			}
			require.Equal(t, namespace, r.daemonSet(t).Namespace)
			require.Equal(t, namespace, r.serviceAccounts[0].Namespace)
			require.Equal(t, id, argumentsOf(t, r)["release"])
		}
	}
}

func TestNamesCanBeOverridden(t *testing.T) {
	// A name that YAML would read as a number stays a name.
	r := render(t, setting{values: `{fullnameOverride: "123", nameOverride: "007"}`})
	require.Equal(t, "123", r.daemonSet(t).Name)
	set := argumentsOf(t, r)["set"]
	require.Equal(t, "123-drop-other-"+set, r.policy(t, "drop-other").Name)
	require.Equal(t, "123-controller", r.deployment(t).Name)
	require.Equal(t, "007", r.daemonSet(t).Spec.Selector.MatchLabels["app.kubernetes.io/name"])
	require.Equal(t, "host-firewall.io/release == '123' && host-firewall.io/set contains '"+set+"'", r.policies[0].Spec.Selector)

	require.Equal(t, "edge-hf", render(t, setting{release: "edge", values: `nameOverride: hf`}).daemonSet(t).Name)
}

func TestCommonLabelsAndAnnotationsAreOnEveryObject(t *testing.T) {
	r := render(t, setting{values: `{commonLabels: {team: network}, commonAnnotations: {example.org/owner: network}, agent: {metrics: {enabled: true}}, podMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}`})
	for _, object := range r.all() {
		accessor, err := meta.Accessor(object)
		require.NoError(t, err)
		require.Equal(t, "network", accessor.GetLabels()["team"], accessor.GetName())
		require.Equal(t, "network", accessor.GetAnnotations()["example.org/owner"], accessor.GetName())
	}
}

func TestNotesSayWhatIsOpenAndHowToGetBackIn(t *testing.T) {
	t.Parallel()
	always := []string{
		"179, 2379, 2380, 5473, 6443, 6666, 6667 and udp 68",
		"  kubectl -n host-firewall get configmap host-firewall -o yaml\n",
		"kubectl get hostendpoints.projectcalico.org -l host-firewall.io/release=host-firewall \\\n" +
			"    -o custom-columns='NODE:.spec.node,INTERFACE:.spec.interfaceName,SET:.metadata.labels.host-firewall\\.io/set,STATE:.metadata.annotations.host-firewall\\.io/state'\n",
		"  kubectl -n host-firewall exec deploy/host-firewall-controller -- /host-firewall-agent status\n",
		"LOCKED OUT? This opens every node again, from wherever kubectl still works",
		":\n  kubectl -n host-firewall annotate configmap host-firewall host-firewall.io/open=\"why\"\n",
		"to protect the nodes again:\n  kubectl -n host-firewall annotate configmap host-firewall host-firewall.io/open-\n",
	}
	const (
		open22     = "tcp 22 is open to everybody"
		failsafe22 = "tcp 22, 179,"
		waits      = "A node waits while a policy of somebody else would apply"
		narrows    = "Each agent narrows Calico's failsafe for tcp 22 to ssh.cidrs"
		hookCleans = "A Job of that command lets the agents disarm, removes controller, agents, endpoints and policies"
		byHand     = "  kubectl -n host-firewall annotate configmap host-firewall host-firewall.io/open=\"it goes\"\n" +
			"  kubectl get hostendpoints.projectcalico.org -l host-firewall.io/release=host-firewall       # until there are none\n" +
			"  helm uninstall host-firewall -n host-firewall\n" +
			"  kubectl delete globalnetworkpolicies.projectcalico.org,globalnetworksets.projectcalico.org -l host-firewall.io/release=host-firewall\n" +
			"  kubectl -n host-firewall delete configmap host-firewall\n"
		closedPorts = "NodePorts and forwarded connections from outside included"
		hostPorts   = "NodePorts and forwarded connections are left alone"
		alone       = "ATTENTION: cluster.trustNodes is off and cluster.cidrs is empty"
		testLogs    = "helm test host-firewall -n host-firewall --logs\n"
		uninstall   = "helm uninstall host-firewall -n host-firewall\n"
		protects    = "protects a node once its agent has armed it"
	)
	for name, test := range map[string]struct {
		values  string
		says    []string
		silence []string
	}{
		"defaults": {
			``,
			[]string{"to the nodes of the cluster: every port", "all pods of the cluster: every port", "the API server, wherever it runs: every port", "the API server (tcp 6443), ping, answers of DHCP", "(tcp 6443 stays open)", "there is no policy for SSH", open22, failsafe22, closedPorts, "What goes out is allowed.", "makes a host endpoint for its node,\nand arms", waits, hookCleans, testLogs, uninstall, protects},
			[]string{"ATTENTION", "SSH, tcp", narrows, byHand, "Other interfaces", "METRICS"},
		},
		"ssh on 22": {
			`ssh: {cidrs: [192.0.2.0/24, "2001:db8::/32"], ports: [22, "2200:2299"]}`,
			[]string{"to 192.0.2.0/24, 2001:db8::/32: SSH, tcp 22, 2200:2299", narrows},
			[]string{"there is no policy for SSH", "ATTENTION", open22, failsafe22},
		},
		"ssh on 22 behind the failsafe": {
			`ssh: {cidrs: [192.0.2.0/24], narrowFailsafe: false}`,
			[]string{"to 192.0.2.0/24: SSH, tcp 22\n", "ATTENTION: " + open22, "set ssh.narrowFailsafe: true", failsafe22},
			[]string{"there is no policy for SSH", narrows},
		},
		"ssh on a range around 22": {
			`ssh: {cidrs: [192.0.2.0/24], ports: ["20:30"]}`,
			[]string{"SSH, tcp 20:30", narrows},
			[]string{open22},
		},
		"ssh on another port": {
			`ssh: {cidrs: [192.0.2.0/24], ports: [2222]}`,
			[]string{"SSH, tcp 2222", "SSH on tcp 2222 is open to ssh.cidrs.", open22, failsafe22, "take it out of\nfailsafeInboundHostPorts"},
			[]string{"ATTENTION", narrows},
		},
		"agents that wait for a person": {
			`{mode: audit, agent: {updateStrategy: {type: OnDelete}}}`,
			[]string{"ATTENTION: agent.updateStrategy is OnDelete.", "  kubectl -n host-firewall delete pods -l app.kubernetes.io/name=host-firewall,app.kubernetes.io/instance=host-firewall\n"},
			nil,
		},
		"a move that is tried": {
			``,
			[]string{"One node goes first, alone.\nA node that has moved tries for ten seconds", "WENT BACK?", "  kubectl -n host-firewall annotate --overwrite configmap host-firewall host-firewall.io/retry=\"$(date)\"\n"},
			[]string{"confirm"},
		},
		"a move that is not":               {`rollout: {verify: false}`, []string{"One node goes first, alone.\n"}, []string{"ten seconds", "WENT BACK?"}},
		"a move that the controller tries": {`agent: {enabled: false}`, []string{"by new connections, its kubelet, and whether the controller's own host still reaches\nthe API server and DNS", "WENT BACK?"}, []string{"Ready"}},
		"a person who has to confirm": {
			`{mode: audit, rollout: {verify: false, confirm: 15m}}`,
			[]string{
				"ATTENTION: somebody has to confirm these policies within 15m ",
				"  kubectl -n host-firewall annotate --overwrite configmap host-firewall host-firewall.io/confirm=" + argumentsOf(t, render(t, setting{values: "mode: audit"}))["set"] + "\n",
				"kubectl -n host-firewall get configmap host-firewall -o jsonpath='{.data.confirm-until}'\n", "WENT BACK?",
			},
			[]string{"ten seconds"},
		},
		"nothing to confirm": {`{mode: off, rollout: {confirm: 15m}}`, nil, []string{"confirm", "ten seconds", "WENT BACK?"}},
		"ports behind the translation": {
			`{ingress: [{name: np, cidrs: [10.0.0.0/8], protocol: TCP, ports: [30080]}], policies: {allowEssential: {preDNAT: false}, allowCluster: {preDNAT: false}, allowIngress: {preDNAT: false}, dropOther: {preDNAT: false}}}`,
			[]string{"ports of ingress are those of the host and of pods, not node ports"},
			nil,
		},
		"many networks": {
			`cluster: {cidrs: [10.0.0.0/24, 10.0.1.0/24, 10.0.2.0/24, 10.0.3.0/24, 10.0.4.0/24, 10.0.5.0/24, 10.0.6.0/24, 10.0.7.0/24, 10.0.8.0/24, 10.0.9.0/24, 10.0.10.0/24, 10.0.11.0/24]}`,
			[]string{"10.0.8.0/24, 10.0.9.0/24 and 2 more: every port"},
			[]string{"10.0.10.0/24"},
		},
		"off": {
			`mode: off`,
			[]string{"ATTENTION: mode is off", "protects nothing", "Admission policies let each agent write", "What follows is what `mode: enforce` would do."},
			[]string{protects},
		},
		"audit": {
			`mode: audit`,
			[]string{"ATTENTION: mode is audit", "drops nothing", "journalctl --dmesg --grep calico-packet", "helm upgrade host-firewall CHART -n host-firewall --reset-then-reuse-values --set mode=enforce\n", "What follows is what `mode: enforce` would do."},
			[]string{protects, "protects nothing"},
		},
		"further connections": {
			`ingress: [{name: web, cidrs: [0.0.0.0/0, "::/0"], protocol: TCP, ports: [443, "30000:32767"]}, {name: vrrp, cidrs: [192.0.2.0/24], protocol: 112}]`,
			[]string{"  - to 0.0.0.0/0, ::/0: web, TCP 443, 30000:32767\n", "  - to 192.0.2.0/24: vrrp, protocol 112\n"},
			nil,
		},
		"ssh for everybody": {
			`ssh: {cidrs: [0.0.0.0/0, "::/0"], allowEverywhere: true}`,
			[]string{"ssh.cidrs leaves nobody out over IPv4: SSH is open to everybody there, as ssh.allowEverywhere says.\nssh.cidrs leaves nobody out over IPv6: SSH"},
			[]string{"Of all others"},
		},
		"ssh for everybody by another list": {
			`{ssh: {cidrs: [192.0.2.0/24], allowEverywhere: true}, cluster: {cidrs: [0.0.0.0/0]}}`,
			[]string{"cluster.cidrs leaves nobody out over IPv4: SSH is open to everybody there", "Of all others only these connect over IPv6: nodes; pods;", "no administrator connects over IPv6"},
			[]string{"connects over IPv4"},
		},
		"ssh for others": {
			`{ssh: {cidrs: [192.0.2.0/24]}, cluster: {cidrs: [10.0.0.0/8]}, ingress: [{name: jump, cidrs: [203.0.113.0/24], protocol: TCP, ports: ["20:29"]}, {name: web, cidrs: [0.0.0.0/0], protocol: TCP, ports: [443]}]}`,
			[]string{"Of all others only these connect to SSH: nodes; pods; API servers; cluster.cidrs (10.0.0.0/8); NodeLocal DNSCache (169.254.20.10/32); ingress jump (203.0.113.0/24).\n"},
			[]string{"ingress web"},
		},
		"ssh for nobody else": {
			`{ssh: {cidrs: [192.0.2.0/24, "2001:db8::/32"], ports: [2222]}, cluster: {trustNodes: false, trustPods: false, trustAPIServer: false}, essential: {nodeLocalDNS: []}}`,
			[]string{"Of all others only these connect to SSH: nobody.\n"},
			[]string{"connects over IPv6", "connects over IPv4"},
		},
		"ssh over IPv4": {
			`ssh: {cidrs: [192.0.2.0/24]}`,
			[]string{"ssh.cidrs has no IPv6 network: no administrator connects over IPv6.\n"},
			[]string{"connects over IPv4"},
		},
		"ssh over IPv6": {
			`ssh: {cidrs: ["2001:db8::/32"]}`,
			[]string{"ssh.cidrs has no IPv4 network: no administrator connects over IPv4.\n"},
			[]string{"connects over IPv6"},
		},
		"ssh for some, although everybody might": {
			`ssh: {cidrs: [192.0.2.0/24], allowEverywhere: true}`,
			nil,
			[]string{"leaves nobody out"},
		},
		"no admission policy wanted": {`admissionPolicy: {enabled: false}`, nil, []string{"admission policy", "token of its agent"}},
		"interfaces": {
			`hostEndpoint: {interfaces: [eth0, "bond?"], acceptPolicies: ["*"]}`,
			[]string{"host endpoints for the interfaces eth0, bond? of its node", "Other interfaces are not protected."},
			[]string{waits},
		},
		"everything and an interface": {
			`hostEndpoint: {interfaces: ["*", eth0]}`,
			[]string{"host endpoints for the interfaces *, eth0 of its node"},
			[]string{"Other interfaces"},
		},
		"without cleanup": {
			`cleanup: {enabled: false}`,
			[]string{byHand, "cleanup.enabled is off", "leaves endpoints, policies and network sets behind, in force", "helm test host-firewall -n host-firewall\n", uninstall},
			[]string{hookCleans},
		},
		"a cleanup that takes longer than Helm waits": {
			`cleanup: {timeoutSeconds: 600}`,
			[]string{"helm uninstall host-firewall -n host-firewall --timeout 660s\n"},
			nil,
		},
		"metrics": {
			`agent: {metrics: {enabled: true}}`,
			[]string{"METRICS", "/metrics at every address of its node, tcp 9096, and the controller where it runs, tcp 9094,\nwithout TLS", "Everybody reaches that until the node is armed"},
			nil,
		},
		"metrics on loopback": {
			`agent: {metrics: {enabled: true, address: 127.0.0.1}}`,
			[]string{"/metrics at 127.0.0.1, tcp 9096,", "Nobody outside the node reaches that."},
			[]string{"Everybody reaches that"},
		},
		"metrics while nothing is closed": {
			"mode: audit\nagent: {metrics: {enabled: true}}",
			[]string{"While mode is audit, everybody reaches that."},
			nil,
		},
		"little": {
			`{cluster: {trustNodes: false, trustPods: false, trustAPIServer: false}, essential: {icmpEcho: false, dhcp: false, nodeLocalDNS: [], apiServerPorts: []}, policies: {allowOutbound: {enabled: false}}}`,
			[]string{alone, "IPv6 neighbour discovery\n", "What goes out is allowed where no policy of your own governs it"},
			[]string{"every port", "ping", "DHCP", "NodeLocal"},
		},
		"cidrs instead of nodes": {
			`cluster: {cidrs: [10.0.0.0/8], trustNodes: false}`,
			[]string{"to 10.0.0.0/8: every port"},
			[]string{alone},
		},
		"host ports": {ciFiles(t)["host-ports-only"], []string{hostPorts}, []string{closedPorts}},
	} {
		t.Run(name, func(t *testing.T) {
			notes := render(t, setting{values: test.values}).notes
			for _, words := range append(always, test.says...) {
				require.Contains(t, notes, words)
			}
			for _, words := range test.silence {
				require.NotContains(t, notes, words)
			}
			require.NotRegexp(t, regexp.MustCompile(`(?m)[ \t]+$`), notes, "a line ends in spaces")
			requireAttentionFirst(t, notes)
		})
	}
}

// requireAttentionFirst: nobody reads notes to their end.
func requireAttentionFirst(t *testing.T, notes string) {
	t.Helper()
	for i, paragraph := range strings.Split(strings.TrimSpace(notes), "\n\n") {
		require.Equal(t, i < strings.Count(notes, "ATTENTION"), strings.HasPrefix(paragraph, "ATTENTION: "), paragraph)
	}
}

// Helm gives up on a hook after five minutes unless told otherwise, and the release hangs then between being there and being gone.
func TestUninstallWaitsForTheWholeCleanup(t *testing.T) {
	t.Parallel()
	timeout := regexp.MustCompile(`helm uninstall .*--timeout (\d+)s\n`)
	for _, seconds := range []int{30, 240, 254, 255, 300, 86400} {
		r := render(t, setting{values: fmt.Sprintf("cleanup: {timeoutSeconds: %d}", seconds)})
		waits := 300
		if given := timeout.FindStringSubmatch(r.notes); given != nil {
			var err error
			waits, err = strconv.Atoi(given[1])
			require.NoError(t, err)
		}
		require.Greater(t, int64(waits), *r.cleanup(t).Spec.ActiveDeadlineSeconds, seconds)
	}
}

// Files of the tests and of chart-testing are no part of what users download.
func TestPackageHoldsWhatItNeedsAndNoMore(t *testing.T) {
	loaded := loadChart(t)
	var names []string
	for _, file := range loaded.Raw {
		names = append(names, file.Name)
	}
	want := []string{"Chart.yaml", "values.yaml", "values.schema.json", "README.md", ".helmignore", "dashboards/host-firewall.json"}
	for _, template := range templates(t) {
		want = append(want, filepath.ToSlash(template))
	}
	require.ElementsMatch(t, want, names)
	require.Empty(t, loaded.CRDObjects(), "the CRDs are Calico's")
}

// Who reads the package has nothing but the package.
func TestReadmeLinksToWhatItsReadersHave(t *testing.T) {
	loaded := loadChart(t)
	var held []string
	for _, file := range loaded.Raw {
		held = append(held, file.Name)
	}
	content, err := os.ReadFile(filepath.Join(chartDir, "README.md"))
	require.NoError(t, err)
	const repository = "https://github.com/host-firewall/host-firewall/blob/main/"
	links := regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(content), -1)
	require.NotEmpty(t, links)
	for _, link := range links {
		target, _, _ := strings.Cut(link[1], "#")
		if path, ours := strings.CutPrefix(target, repository); ours {
			require.FileExists(t, filepath.Join("..", "..", path))
		} else if target != "" && !strings.HasPrefix(target, "https://") {
			require.Contains(t, held, target)
		}
	}
}

// templates are the files under templates, relative to the chart.
func templates(t testing.TB) (paths []string) {
	t.Helper()
	root := os.DirFS(chartDir)
	require.NoError(t, fs.WalkDir(root, "templates", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			paths = append(paths, path)
		}
		return err
	}))
	return paths
}

// Words about a value that is called otherwise, or is gone, send people astray.
func TestWordsNameOnlyValuesThatThereAre(t *testing.T) {
	roots := slices.Sorted(maps.Keys(loadChart(t).Values))
	path := regexp.MustCompile(`(?:^|[^-\w./@$])(?:\.Values\.)?((?:` + strings.Join(roots, "|") + `)(?:\.[a-zA-Z]\w*)+)`)
	texts := append([]string{"README.md", "README.md.gotmpl", "values.yaml"}, templates(t)...)
	named := 0
	for _, text := range texts {
		content, err := os.ReadFile(filepath.Join(chartDir, text))
		require.NoError(t, err)
		words := strings.ReplaceAll(string(content), "rbac.authorization.k8s.io", "")
		for _, found := range path.FindAllStringSubmatch(words, -1) {
			named++
			require.True(t, isValue(t, found[1]), "%s speaks of %s", text, found[1])
		}
	}
	require.Greater(t, named, len(leaves(t)), "each value is named somewhere")
}

// --reuse-values leaves out the defaults of a newer chart, whatever that asks for.
func TestPagesUpgradeWithTheDefaultsOfTheNewerChart(t *testing.T) {
	said := 0
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", chartDir + "/*", chartDir + "/templates/*"} {
		pages, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, page := range pages {
			content, err := os.ReadFile(page)
			if errors.Is(err, syscall.EISDIR) {
				continue
			}
			require.NoError(t, err)
			require.NotContains(t, string(content), " --reuse-values", page)
			said += strings.Count(string(content), "--reset-then-reuse-values")
		}
	}
	require.Positive(t, said)
}

// One kind per file, and the file is named after it.
func TestTemplatesHoldOneKindEach(t *testing.T) {
	for _, template := range templates(t) {
		if filepath.Ext(template) != ".yaml" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(chartDir, template))
		require.NoError(t, err)
		kinds := regexp.MustCompile(`(?m)^kind: (\w+)$`).FindAllStringSubmatch(string(content), -1)
		require.Len(t, kinds, 1, template)
		singular := strings.TrimSuffix(filepath.Base(template), ".yaml")
		require.Contains(t, []string{singular, strings.TrimSuffix(singular, "ies") + "y"}, strings.ToLower(kinds[0][1]))
	}
}
