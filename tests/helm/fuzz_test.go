package helm_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/yaml"
)

// FuzzValues takes any values file.
func FuzzValues(f *testing.F) {
	for _, values := range valuesFiles(f) {
		f.Add(values)
	}
	for _, values := range []string{
		"", "null", "ssh", "[]", "ssh: 1", "agent: []", "ssh: {cidrs: [null]}", "ingress: [null]", "policies: {dropOther: {order: .inf}}",
		"policies: {dropOther: {order: 1e400}}", "hostEndpoint: {labels: {a: null}}", "hostEndpoint: {labels: {in: x, has: y, all: z}}",
		"ssh: {cidrs: [::/0, 0.0.0.0/0], ports: [65535, \"1:1\"], allowEverywhere: true}", "commonLabels: {app.kubernetes.io/component: x}",
		"agent: {metrics: {enabled: true, address: \"1::2::3\"}}", "serviceAccount: {name: a..b}", "hostEndpoint: {acceptPolicies: [a.-b]}",
		"commonAnnotations: {a: \"b\\n\\n  c\\n\"}", "commonAnnotations: {argocd.argoproj.io/sync-options: \" ,Prune=true\"}", "controller: {}", "global: {a: b}", "global: 1",
	} {
		f.Add(values)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := chartutil.ReadValues([]byte(text))
		if err != nil {
			return // Helm itself does not take it
		}
		clean, err := yaml.Marshal(values)
		require.NoError(t, err)
		requireRefusedOrSound(t, setting{values: string(clean)})
	})
}

// The same without the fuzzer, each time alike: values that somebody may have written.
func TestMadeUpValuesAreRefusedInWordsOrSound(t *testing.T) {
	const files, inTurn = 100, 20
	paths := slices.Sorted(maps.Keys(leaves(t)))
	outcomes := make(chan bool, files)
	t.Run("values", func(t *testing.T) {
		for first := uint64(0); first < files; first += inTurn {
			t.Run(fmt.Sprint(first), func(t *testing.T) {
				t.Parallel()
				for seed := first; seed < first+inTurn; seed++ {
					i := inventor{rand.New(rand.NewPCG(seed, 0))}
					values, err := yaml.Marshal(i.values(paths))
					require.NoError(t, err)
					outcomes <- requireRefusedOrSound(t, setting{
						release:    pick(i, "host-firewall", "edge.eu", "1e3", strings.Repeat("long-", 10)+"end"),
						kubernetes: pick(i, oldestKubernetes, newestKubernetes),
						served:     pick(i, nil, clusterServing(apiV1), clusterServing(apiV3, apiV1)),
						values:     string(values),
					})
				}
			})
		}
	})
	close(outcomes)
	count := map[bool]int{}
	for rendered := range outcomes {
		count[rendered]++
	}
	require.Greater(t, count[true], files/5, "too many are refused to say anything")
	require.Greater(t, count[false], files/5, "too few are refused to say anything")
}

// requireRefusedOrSound tells whether the values were taken.
func requireRefusedOrSound(t *testing.T, s setting) bool {
	t.Helper()
	// Nobody asks for the same again, so it is not kept.
	r, err := tryRenderChart(t, loadChart(t), s)
	if err != nil {
		require.Empty(t, unhelpful(t, err), s.values)
		return false
	}
	require.Empty(t, r.broken(t, "host-firewall"), s.values)
	return true
}

var (
	refusedBySchema = regexp.MustCompile(`(?m)^- at '(/[^']+'|': (missing|additional) propert)`)
	pathOfGuard     = regexp.MustCompile(`^[A-Za-z]+(\.[A-Za-z]+|\[\d+\])*`)
	advice          = regexp.MustCompile(`\b([Ww]rite|Leave|Install)\b`)
)

// unhelpful says what a refusal lacks: the path of a value that there is, and where the chart's own guards speak, what to write.
func unhelpful(t testing.TB, refusal error) string {
	t.Helper()
	words := refusal.Error()
	if strings.Contains(words, "does not match pattern") {
		return "a regular expression is no help: " + words
	}
	if refusedBySchema.MatchString(words) {
		return ""
	}
	_, guard, isGuard := strings.Cut(words, "\n\n")
	if !isGuard {
		return "neither the schema nor a guard speaks: " + words
	}
	path := regexp.MustCompile(`\[\d+\]`).ReplaceAllString(pathOfGuard.FindString(guard), "")
	if !isValue(t, path) {
		return "no value is named: " + guard
	}
	if !advice.MatchString(guard) {
		return "nothing is said about what to write: " + guard
	}
	return ""
}

// isValue tells whether a path is that of a leaf of values.yaml, of what is above leaves, or of what may stand below one.
func isValue(t testing.TB, path string) bool {
	t.Helper()
	if path == "enabled" { // a parent chart's
		return true
	}
	for leaf := range leaves(t) {
		if leaf == path || strings.HasPrefix(leaf, path+".") {
			return true
		}
		if strings.HasPrefix(path, leaf+".") && (slices.Contains([]string{"ingress", "agent.extraEnv", "agent.tolerations", "cleanup.tolerations", "controller.tolerations"}, leaf) || slices.Contains(openValues, leaf)) {
			return true
		}
	}
	return false
}

// inventor makes up values that are right more often than not, one by one.
type inventor struct{ *rand.Rand }

func pick[T any](i inventor, from ...T) T { return from[i.IntN(len(from))] }

func (i inventor) values(paths []string) map[string]any {
	values := map[string]any{}
	for range 1 + i.IntN(6) {
		path := strings.Split(pick(i, paths...), ".")
		at := values
		for _, key := range path[:len(path)-1] {
			if _, isMap := at[key].(map[string]any); !isMap {
				at[key] = map[string]any{}
			}
			at = at[key].(map[string]any)
		}
		at[path[len(path)-1]] = i.value(strings.Join(path, "."))
	}
	return values
}

func (i inventor) value(path string) any {
	if i.IntN(25) == 0 {
		return pick[any](i, nil, true, -1, 0, 70000, 1.5, "", "x y", "*", []any{}, []any{nil}, map[string]any{}, map[string]any{"x": nil}, map[string]any{"x": 1})
	}
	switch path {
	case "mode":
		return pick[any](i, "enforce", "audit", "off", false)
	case "calico.apiGroup":
		return pick(i, "", apiV3, apiV1)
	case "ssh.cidrs":
		return append(i.list(i.network), "192.0.2.0/24", "2001:db8::/32")
	case "essential.apiServerPorts":
		return i.list(func() any { return pick[any](i, 443, 6443, 0, 65536, "443") })
	case "cluster.cidrs", "essential.nodeLocalDNS":
		return i.list(i.network)
	case "ssh.ports":
		return i.list(i.ports)
	case "ingress":
		return i.list(i.entry)
	case "hostEndpoint.labels":
		return i.labels("host-endpoint", "zone", "example.org/firewall", "in", "not", "host-firewall.io/node")
	case "agent.podLabels", "commonLabels", "controller.podLabels", "podMonitor.labels", "agent.podAnnotations", "commonAnnotations",
		"prometheusRule.labels", "prometheusRule.alertLabels", "dashboard.labels", "dashboard.annotations",
		"controller.podAnnotations", "serviceAccount.annotations":
		return i.labels("team", "zone", "example.org/owner", "app.kubernetes.io/component", "app.kubernetes.io/part-of", "helm.sh/hook")
	case "hostEndpoint.interfaces":
		return i.list(func() any { return pick(i, "*", "eth0", "eth*", "bond?", "en[op]1", "eth[", "") })
	case "hostEndpoint.nodeLabels":
		return i.list(func() any {
			return pick(i, "zone", "topology.kubernetes.io/*", "example.org/x", "host-endpoint", "host-firewall.io/release", "a/b/c")
		})
	case "hostEndpoint.acceptPolicies":
		return i.list(func() any { return pick(i, "projectcalico-default-allow", "site", "a.b", "a..b", "*") })
	case "agent.image.repository":
		return pick(i, "agent", "mirror.example.org:5000/hf/agent", "", "a b")
	case "agent.staticPods.folder":
		return pick(i, "/var/lib/edge", "etc", "/a/../b", "/a//b")
	case "agent.image.digest":
		return pick(i, "", "sha256:"+strings.Repeat("0", 64), "sha256:1")
	case "agent.image.pullPolicy":
		return pick(i, "Always", "Never", "Sometimes")
	case "agent.imagePullSecrets":
		return i.list(func() any { return map[string]any{"name": pick(i, "pull", "")} })
	case "agent.extraEnv":
		return i.list(func() any {
			return map[string]any{"name": pick(i, "A", "B", "HOST_FIREWALL_MODE"), "value": pick(i, "", "a\nb\n\n", "{{ .x }}", "1")}
		})
	case "agent.affinity", "controller.affinity":
		return pick(i, map[string]any{}, map[string]any{"podAntiAffinity": map[string]any{}}, map[string]any{"nodeAffinity": map[string]any{"required": nil}})
	case "agent.resources", "controller.resources":
		return map[string]any{"limits": map[string]any{"memory": pick[any](i, "64Mi", "16Mi", 1e9, "64MB"), "cpu": pick[any](i, "1", 0.5, "5m", "-1")}}
	case "agent.updateStrategy":
		return map[string]any{"type": pick(i, "RollingUpdate", "OnDelete", "Recreate")}
	case "podMonitor.relabelings", "podMonitor.metricRelabelings":
		return i.list(func() any { return map[string]any{"action": pick(i, "drop", "Drop", "DROP"), "regex": "go_.*"} })
	case "prometheusRule.disabled":
		return i.list(func() any { return pick(i, "HostFirewallDropsNothing", "HostFirewallNodeConflict", "Watchdog") })
	case "agent.tolerations", "cleanup.tolerations", "controller.tolerations":
		return i.list(func() any { return map[string]any{"operator": "Exists"} })
	case "agent.nodeSelector", "controller.nodeSelector":
		return i.labels("zone", "kubernetes.io/arch")
	case "agent.kubernetesService.host":
		return pick(i, "", "api.example.org", "192.0.2.1", "2001:db8::1", "https://api")
	case "agent.metrics.address":
		return pick(i, "", "127.0.0.1", "::1", "2001:db8::1", "1::2::3", "300.0.0.1", "localhost")
	case "agent.log.level":
		return pick(i, "debug", "warn", "loud")
	case "agent.log.format":
		return pick(i, "json", "xml")
	case "agent.resync", "rollout.confirm", "podMonitor.interval", "podMonitor.scrapeTimeout":
		return pick(i, "1m", "90s", "10", "1h30m", "1d")
	case "serviceAccount.name", "nameOverride", "fullnameOverride", "agent.priorityClassName", "controller.priorityClassName", "agent.image.tag":
		return pick(i, "", "edge", "1e3", "007", "a.b", "a..b", "null", strings.Repeat("n", 38))
	}
	_, key, _ := strings.Cut(path[strings.LastIndex(path, ".")-1:], ".")
	switch key {
	case "order":
		return pick[any](i, 9, 9.5, -3, 1e6, 10, 30)
	case "port", "runAsUser", "timeoutSeconds":
		return pick(i, 0, 80, 1024, 9097, 9096, 9095, 60000, 70000)
	}
	return i.IntN(2) == 0 // all others are switches
}

func (i inventor) list(item func() any) []any {
	items := []any{}
	for range i.IntN(4) {
		items = append(items, item())
	}
	return items
}

func (i inventor) labels(keys ...string) map[string]any {
	labels := map[string]any{}
	for range i.IntN(3) {
		labels[pick(i, keys...)] = pick[any](i, "x", "", "yes", "1e3", "null", "x y", nil, 1)
	}
	return labels
}

// network is a CIDR, written by Go, with host bits now and then.
func (i inventor) network() any {
	if i.IntN(10) == 0 {
		return pick(i, "0.0.0.0/0", "::/0", "10.0.0.0/8", "::1/128", "FE80::/10", "10.0.0.1", "::ffff:192.0.2.0/120", "any")
	}
	bytes := make([]byte, pick(i, 4, 16))
	for n := range bytes {
		bytes[n] = byte(pick(i, 0, i.IntN(256)))
	}
	address, _ := netip.AddrFromSlice(bytes)
	prefix := netip.PrefixFrom(address, i.IntN(address.BitLen()+1))
	if i.IntN(12) > 0 {
		prefix = prefix.Masked()
	}
	return prefix.String()
}

func (i inventor) ports() any {
	first, last := i.IntN(65537), i.IntN(65537)
	return pick[any](i, first, first, 443, fmt.Sprintf("%d:%d", min(first, last), max(first, last)), fmt.Sprintf("%d:%d", first, last))
}

func (i inventor) entry() any {
	entry := map[string]any{
		"name":     pick(i, "web", "dns", "bfd", "vrrp", "x"),
		"cidrs":    append(i.list(i.network), "198.51.100.0/24"),
		"protocol": pick[any](i, "TCP", "TCP", "UDP", "SCTP", "ICMP", "ICMPv6", 112, 6, "tcp"),
	}
	if protocol := entry["protocol"]; slices.Contains([]any{"TCP", "UDP", "SCTP"}, protocol) != (i.IntN(12) == 0) {
		entry["ports"] = append(i.list(i.ports), 443)
	}
	return entry
}
