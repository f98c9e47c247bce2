package helm_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// Values that go into a Kubernetes object as they are, or are maps of the user's own keys. They are leaves of the chart's values.
var openValues = []string{
	"agent.affinity",
	"agent.nodeSelector",
	"agent.podAnnotations",
	"agent.podLabels",
	"agent.resources",
	"agent.updateStrategy",
	"commonAnnotations",
	"commonLabels",
	"controller.affinity",
	"controller.nodeSelector",
	"controller.podAnnotations",
	"controller.podLabels",
	"controller.resources",
	"dashboard.annotations",
	"dashboard.labels",
	"hostEndpoint.labels",
	"podMonitor.labels",
	"prometheusRule.alertLabels",
	"prometheusRule.labels",
	"serviceAccount.annotations",
}

// leaves of values.yaml, by path.
func leaves(t testing.TB) map[string]any {
	t.Helper()
	return leavesOf(loadChart(t).Values)
}

func leavesOf(values map[string]any) map[string]any {
	found := map[string]any{}
	var walk func(path string, values map[string]any)
	walk = func(path string, values map[string]any) {
		for key, value := range values {
			path := strings.TrimPrefix(path+"."+key, ".")
			if inner, isMap := value.(map[string]any); isMap && !slices.Contains(openValues, path) {
				walk(path, inner)
				continue
			}
			found[path] = value
		}
	}
	walk("", values)
	return found
}

// documented is what stands above a value in values.yaml.
type documented struct {
	text    string
	written string // the default in words, where the value itself says too little
}

var keyLine = regexp.MustCompile(`^( *)([A-Za-z]+):( |$)`)

// documentation of every key in values.yaml that has a `# --` above it, and the keys in their order.
func documentation(t testing.TB) (map[string]documented, []string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	require.NoError(t, err)
	found := map[string]documented{}
	var order, path, comment []string
	for _, line := range strings.Split(string(content), "\n") {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "#") {
			comment = append(comment, strings.TrimSpace(strings.TrimPrefix(trimmed, "#")))
			continue
		}
		if key := keyLine.FindStringSubmatch(line); key != nil {
			path = append(path[:min(len(path), len(key[1])/2)], key[2])
			if len(comment) > 0 && strings.HasPrefix(comment[0], "-- ") {
				var doc documented
				var words []string
				for _, line := range comment {
					if written, isDefault := strings.CutPrefix(line, "@default -- "); isDefault {
						doc.written = written
						continue
					}
					words = append(words, strings.TrimPrefix(line, "-- "))
				}
				doc.text = strings.Join(words, " ")
				found[strings.Join(path, ".")] = doc
				order = append(order, strings.Join(path, "."))
			}
		}
		comment = nil
	}
	return found, order
}

func TestEveryValueIsDocumented(t *testing.T) {
	documented, order := documentation(t)
	require.ElementsMatch(t, slices.Collect(maps.Keys(leaves(t))), order)
	for path, doc := range documented {
		require.Regexp(t, `\.$`, doc.text, path)
	}
}

// helm-docs writes the README (make docs), and make lint runs it to see that nothing is out of date. This is the same table, row by
// row, without a second program.
func TestReadmeListsTheValuesAsTheyAre(t *testing.T) {
	values := leaves(t)
	documented, order := documentation(t)
	var want []string
	for _, path := range order {
		written := documented[path].written
		if written == "" {
			content, err := json.Marshal(values[path])
			require.NoError(t, err)
			written = "`" + string(content) + "`"
		}
		want = append(want, fmt.Sprintf("| %s | %s | %s | %s |", path, kindOf(t, values[path]), written, documented[path].text))
	}
	content, err := os.ReadFile(filepath.Join(chartDir, "README.md"))
	require.NoError(t, err)
	_, table, found := strings.Cut(string(content), "\n| Key | Type | Default | Description |\n|-----|------|---------|-------------|\n")
	require.True(t, found, "there is no table of values")
	table, _, _ = strings.Cut(table, "\n\n")
	require.Equal(t, want, strings.Split(table, "\n"), "make docs writes the table anew")
}

// kindOf names the kind of a value as helm-docs does.
func kindOf(t *testing.T, value any) string {
	t.Helper()
	switch v := value.(type) {
	case string:
		return "string"
	case bool:
		return "bool"
	case []any:
		return "list"
	case map[string]any:
		return "object"
	case float64:
		require.Equal(t, float64(int64(v)), v)
		return "int"
	}
	t.Fatalf("a value is a %T", value)
	return ""
}

type schemaNode struct {
	Required             []string               `json:"required"`
	Ref                  string                 `json:"$ref"`
	Type                 any                    `json:"type"`
	Properties           map[string]*schemaNode `json:"properties"`
	AdditionalProperties any                    `json:"additionalProperties"`
	Items                *schemaNode            `json:"items"`
	Definitions          map[string]*schemaNode `json:"definitions"`
}

func loadSchema(t testing.TB) *schemaNode {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	require.NoError(t, err)
	root := &schemaNode{}
	require.NoError(t, json.Unmarshal(content, root))
	return root
}

func (n *schemaNode) resolve(t testing.TB, root *schemaNode) *schemaNode {
	t.Helper()
	if n.Ref == "" {
		return n
	}
	definition := root.Definitions[strings.TrimPrefix(n.Ref, "#/definitions/")]
	require.NotNil(t, definition, n.Ref)
	return definition
}

func TestSchemaIsClosedAndKnowsExactlyTheValues(t *testing.T) {
	root := loadSchema(t)
	var known []string
	var walk func(path string, node *schemaNode)
	walk = func(path string, node *schemaNode) {
		for key, property := range node.Properties {
			path := strings.TrimPrefix(path+"."+key, ".")
			property = property.resolve(t, root)
			require.NotNil(t, property.Type, "%s may be anything", path)
			switch {
			case path == "enabled": // a parent chart's
			case property.Properties != nil && !slices.Contains(openValues, path):
				walk(path, property)
			default:
				known = append(known, path)
			}
		}
	}
	content, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	require.NoError(t, err)
	require.NotContains(t, string(content), `"pattern":`, "a text of the wrong form is refused in words, by _forms.tpl")
	walk("", root)
	require.ElementsMatch(t, slices.Collect(maps.Keys(leaves(t))), known)
}

// What Kubernetes does not know it refuses, when half of the release is there.
func TestSchemaSaysWhatIsInEveryObject(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	require.NoError(t, err)
	var root map[string]any
	require.NoError(t, json.Unmarshal(content, &root))
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch n := node.(type) {
		case []any:
			for i, item := range n {
				walk(fmt.Sprintf("%s/%d", path, i), item)
			}
		case map[string]any:
			if kind, written := n["type"]; written && strings.Contains(fmt.Sprint(kind), "object") && path != "/properties/global" {
				require.Contains(t, n, "additionalProperties", path)
				require.NotEqual(t, true, n["additionalProperties"], path)
			}
			for key, inner := range n {
				walk(path+"/"+key, inner)
			}
		}
	}
	walk("", root)
}

// oldest are all values of an older chart. What it did not know yet, `helm upgrade --reuse-values` does not bring: Helm takes them in
// place of the defaults of this chart.
func oldest(t testing.TB) map[string]any {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "oldest-values.yaml"))
	require.NoError(t, err)
	var values map[string]any
	require.NoError(t, yaml.Unmarshal(content, &values))
	return values
}

func TestValuesOfAnOlderChartAreTaken(t *testing.T) {
	reuse := func(values map[string]any) *rendered {
		content, err := yaml.Marshal(values)
		require.NoError(t, err)
		return render(t, setting{reused: string(content)})
	}
	require.Empty(t, reuse(oldest(t)).broken(t, "host-firewall"))

	given := known(loadChart(t).Values, oldest(t))
	newer := slices.DeleteFunc(slices.Collect(maps.Keys(leaves(t))), func(path string) bool { return leavesOf(given)[path] != nil })
	got, want := reuse(given), render(t, setting{})
	require.True(t, got.manifest+got.notes == want.manifest+want.notes,
		"without these keys, which are newer than testdata/oldest-values.yaml, the chart does not do as by default: %v. Read them with their default: dig", newer)
}

// known is what is left of values where only the keys of older ones are.
func known(values, older map[string]any) map[string]any {
	left := map[string]any{}
	for key, old := range older {
		value, there := values[key]
		if !there {
			continue // a key that is gone
		}
		inner, isMap := value.(map[string]any)
		if oldInner, both := old.(map[string]any); isMap && both {
			value = known(inner, oldInner)
		}
		left[key] = value
	}
	return left
}

func TestNoNewKeyIsRequired(t *testing.T) {
	root := loadSchema(t)
	var walk func(path string, node *schemaNode, older any)
	walk = func(path string, node *schemaNode, older any) {
		inner, _ := older.(map[string]any)
		for _, key := range node.Required {
			require.Contains(t, inner, key, "%s requires a key that testdata/oldest-values.yaml does not have", path)
		}
		for key, property := range node.Properties {
			if value, there := inner[key]; there { // what is not there lacks nothing
				walk(path+"/"+key, property.resolve(t, root), value)
			}
		}
	}
	walk("", root, oldest(t))
}

// A value that nothing reads is a promise that nobody keeps.
func TestEveryValueMakesADifference(t *testing.T) {
	t.Parallel()
	const (
		ssh       = "ssh: {cidrs: [192.0.2.0/24]}\n"
		ingress   = "ingress: [{name: web, cidrs: [0.0.0.0/0], protocol: TCP, ports: [443]}]\n"
		metrics   = "agent: {metrics: {enabled: true}}"
		scraped   = metrics + "\npodMonitor: {enabled: true"
		alerts    = metrics + "\nprometheusRule: {enabled: true"
		dashboard = metrics + "\ndashboard: {enabled: true"
		dropLate  = "dropOther: {preDNAT: false}"
		hostsOnly = "{preDNAT: false, applyOnForward: false}"
	)
	// For each value what differs, and before that what it takes for the value to matter.
	type pair struct{ before, after string }
	tests := map[string]pair{
		"mode":                                   {``, `mode: off`},
		"ssh.allowEverywhere":                    {ssh, `ssh: {cidrs: [0.0.0.0/0], allowEverywhere: true}`},
		"ingress":                                {``, ingress},
		"policies.allowIngress.order":            {ingress, ingress + `policies: {allowIngress: {order: 1}}`},
		"policies.allowIngress.preDNAT":          {ingress + `policies: {` + dropLate + `}`, ingress + `policies: {` + dropLate + `, allowIngress: {preDNAT: false}}`},
		"policies.allowIngress.applyOnForward":   {hostPorts(ingress, "allowIngress", true), hostPorts(ingress, "allowIngress", false)},
		"admissionPolicy.enabled":                {``, `admissionPolicy: {enabled: false}`},
		"priorityAndFairness.enabled":            {``, `priorityAndFairness: {enabled: false}`},
		"podMonitor.enabled":                     {metrics, scraped + "}"},
		"podMonitor.labels":                      {scraped + "}", scraped + `, labels: {release: prometheus}}`},
		"podMonitor.scrapeTimeout":               {scraped + "}", scraped + `, scrapeTimeout: 5s}`},
		"podMonitor.relabelings":                 {scraped + "}", scraped + `, relabelings: [{targetLabel: cluster, replacement: a}]}`},
		"podMonitor.metricRelabelings":           {scraped + "}", scraped + `, metricRelabelings: [{action: drop, sourceLabels: [__name__], regex: go_.*}]}`},
		"podMonitor.interval":                    {scraped + "}", scraped + `, interval: 30s}`},
		"prometheusRule.enabled":                 {metrics, alerts + "}"},
		"prometheusRule.labels":                  {alerts + "}", alerts + `, labels: {release: prometheus}}`},
		"prometheusRule.alertLabels":             {alerts + "}", alerts + `, alertLabels: {team: network}}`},
		"prometheusRule.disabled":                {alerts + "}", alerts + `, disabled: [HostFirewallDropsNothing]}`},
		"dashboard.enabled":                      {metrics, dashboard + "}"},
		"dashboard.labels":                       {dashboard + "}", dashboard + `, labels: {team: network}}`},
		"dashboard.annotations":                  {dashboard + "}", dashboard + `, annotations: {grafana_folder: network}}`},
		"ssh.narrowFailsafe":                     {ssh, `ssh: {cidrs: [192.0.2.0/24], narrowFailsafe: false}`},
		"hostEndpoint.interfaces":                {``, `hostEndpoint: {interfaces: [eth0]}`},
		"hostEndpoint.nodeLabels":                {``, `hostEndpoint: {nodeLabels: [zone]}`},
		"hostEndpoint.adopt":                     {``, `hostEndpoint: {adopt: true}`},
		"hostEndpoint.acceptPolicies":            {``, `hostEndpoint: {acceptPolicies: ["*"]}`},
		"agent.enabled":                          {``, `agent: {enabled: false}`},
		"agent.metrics.enabled":                  {``, metrics},
		"agent.metrics.address":                  {metrics, `agent: {metrics: {enabled: true, address: 127.0.0.1}}`},
		"agent.metrics.port":                     {metrics, `agent: {metrics: {enabled: true, port: 9199}}`},
		"cleanup.enabled":                        {``, `cleanup: {enabled: false}`},
		"cleanup.tolerations":                    {``, `cleanup: {tolerations: [{key: dedicated}]}`},
		"cleanup.timeoutSeconds":                 {``, `cleanup: {timeoutSeconds: 60}`},
		"calico.apiGroup":                        {``, `calico: {apiGroup: crd.projectcalico.org/v1}`},
		"ssh.cidrs":                              {``, ssh},
		"ssh.ports":                              {ssh, `ssh: {cidrs: [192.0.2.0/24], ports: [2222]}`},
		"cluster.cidrs":                          {``, `cluster: {cidrs: [10.0.0.0/8]}`},
		"cluster.trustNodes":                     {``, `cluster: {trustNodes: false}`},
		"cluster.trustPods":                      {``, `cluster: {trustPods: false}`},
		"cluster.trustAPIServer":                 {``, `cluster: {trustAPIServer: false}`},
		"essential.icmpEcho":                     {``, `essential: {icmpEcho: false}`},
		"essential.dhcp":                         {``, `essential: {dhcp: false}`},
		"essential.apiServerPorts":               {``, `essential: {apiServerPorts: [443]}`},
		"essential.nodeLocalDNS":                 {``, `essential: {nodeLocalDNS: []}`},
		"policies.allowOutbound.enabled":         {``, `policies: {allowOutbound: {enabled: false}}`},
		"policies.allowOutbound.order":           {``, `policies: {allowOutbound: {order: 1}}`},
		"policies.allowEssential.order":          {``, `policies: {allowEssential: {order: 1}}`},
		"policies.allowEssential.preDNAT":        {`policies: {` + dropLate + `}`, `policies: {` + dropLate + `, allowEssential: {preDNAT: false}}`},
		"policies.allowEssential.applyOnForward": {hostPorts(ssh, "allowEssential", true), hostPorts(ssh, "allowEssential", false)},
		"policies.allowCluster.order":            {``, `policies: {allowCluster: {order: 1}}`},
		"policies.allowCluster.preDNAT":          {`policies: {` + dropLate + `}`, `policies: {` + dropLate + `, allowCluster: {preDNAT: false}}`},
		"policies.allowCluster.applyOnForward":   {hostPorts(ssh, "allowCluster", true), hostPorts(ssh, "allowCluster", false)},
		"policies.allowSSH.order":                {ssh, ssh + `policies: {allowSSH: {order: 1}}`},
		"policies.allowSSH.preDNAT":              {ssh + `policies: {` + dropLate + `}`, ssh + `policies: {` + dropLate + `, allowSSH: {preDNAT: false}}`},
		"policies.allowSSH.applyOnForward":       {hostPorts(ssh, "allowSSH", true), hostPorts(ssh, "allowSSH", false)},
		"policies.dropOther.order":               {``, `policies: {dropOther: {order: 21}}`},
		"policies.dropOther.preDNAT":             {``, `policies: {` + dropLate + `}`},
		"policies.dropOther.applyOnForward":      {`policies: {` + dropLate + `}`, `policies: {dropOther: ` + hostsOnly + `}`},
		"hostEndpoint.labels":                    {``, `hostEndpoint: {labels: {zone: dmz}}`},
		"global.imageRegistry":                   {``, `global: {imageRegistry: mirror.example.org}`},
		"global.imagePullSecrets":                {``, `global: {imagePullSecrets: [shared]}`},
		"rollout.verify":                         {``, `rollout: {verify: false}`},
		"rollout.watchPeers":                     {``, `rollout: {watchPeers: never}`},
		"rollout.confirm":                        {``, `rollout: {confirm: 15m}`},
		"rollout.onWouldCut":                     {``, `rollout: {onWouldCut: wait}`},
		"rollout.acceptCuts.ports":               {``, `rollout: {acceptCuts: {ports: [9100]}}`},
		"rollout.acceptCuts.cidrs":               {``, `rollout: {acceptCuts: {cidrs: [10.4.0.0/16]}}`},
		"agent.image.registry":                   {``, `agent: {image: {registry: mirror.example.org}}`},
		"agent.image.repository":                 {``, `agent: {image: {repository: other}}`},
		"agent.image.tag":                        {``, `agent: {image: {tag: other}}`},
		"agent.image.digest":                     {``, `agent: {image: {digest: "sha256:` + strings.Repeat("0", 64) + `"}}`},
		"agent.image.pullPolicy":                 {``, `agent: {image: {pullPolicy: Always}}`},
		"agent.imagePullSecrets":                 {``, `agent: {imagePullSecrets: [{name: pull}]}`},
		"agent.runAsUser":                        {``, `agent: {runAsUser: 10000000}`},
		"agent.resources":                        {``, `agent: {resources: {limits: {memory: 64Mi}}}`},
		"agent.tolerations":                      {``, `agent: {tolerations: []}`},
		"agent.nodeSelector":                     {``, `agent: {nodeSelector: {a: b}}`},
		"agent.affinity":                         {``, `agent: {affinity: {podAntiAffinity: {}}}`},
		"agent.priorityClassName":                {``, `agent: {priorityClassName: ""}`},
		"agent.updateStrategy":                   {``, `agent: {updateStrategy: {type: OnDelete}}`},
		"agent.staticPods.enabled":               {``, `agent: {staticPods: {enabled: true}}`},
		"agent.staticPods.folder":                {`agent: {staticPods: {enabled: true}}`, `agent: {staticPods: {enabled: true, folder: /var/lib/edge}}`},
		"agent.podLabels":                        {``, `agent: {podLabels: {a: b}}`},
		"agent.podAnnotations":                   {``, `agent: {podAnnotations: {a: b}}`},
		"agent.extraEnv":                         {``, `agent: {extraEnv: [{name: A, value: b}]}`},
		"agent.kubernetesService.host":           {``, `agent: {kubernetesService: {host: 192.0.2.1}}`},
		"agent.kubernetesService.port":           {`agent: {kubernetesService: {host: 192.0.2.1}}`, `agent: {kubernetesService: {host: 192.0.2.1, port: 443}}`},
		"agent.health.port":                      {``, `agent: {health: {port: 9096}}`},
		"agent.log.level":                        {``, `agent: {log: {level: warn}}`},
		"agent.log.format":                       {``, `agent: {log: {format: json}}`},
		"agent.resync":                           {``, `agent: {resync: 1m}`},
		"rbac.create":                            {``, `rbac: {create: false}`},
		"controller.resources":                   {``, `controller: {resources: {limits: {memory: 1Gi}}}`},
		"controller.tolerations":                 {``, `controller: {tolerations: [{key: dedicated}]}`},
		"controller.nodeSelector":                {``, `controller: {nodeSelector: {a: b}}`},
		"controller.affinity":                    {``, `controller: {affinity: {podAntiAffinity: {}}}`},
		"controller.priorityClassName":           {``, `controller: {priorityClassName: ""}`},
		"controller.podLabels":                   {``, `controller: {podLabels: {a: b}}`},
		"controller.podAnnotations":              {``, `controller: {podAnnotations: {a: b}}`},
		"controller.health.port":                 {``, `controller: {health: {port: 19095}}`},
		"controller.metrics.port":                {metrics, metrics + "\ncontroller: {metrics: {port: 19094}}"},
		"serviceAccount.create":                  {`serviceAccount: {name: account}`, `serviceAccount: {create: false, name: account}`},
		"serviceAccount.name":                    {``, `serviceAccount: {name: other}`},
		"serviceAccount.annotations":             {``, `serviceAccount: {annotations: {a: b}}`},
		"nameOverride":                           {``, `nameOverride: other`},
		"fullnameOverride":                       {``, `fullnameOverride: other`},
		"commonLabels":                           {``, `commonLabels: {a: b}`},
		"commonAnnotations":                      {``, `commonAnnotations: {a: b}`},
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(leaves(t))), slices.Collect(maps.Keys(tests)))
	for path, test := range tests {
		require.NotEqual(t, render(t, setting{values: test.before}).manifest, render(t, setting{values: test.after}).manifest, path)
	}
}

// hostPorts makes one policy and the drop normal ones, applied to forwarded traffic or not; the two have to agree.
func hostPorts(before, policy string, applyOnForward bool) string {
	return before + fmt.Sprintf("policies: {%[1]s: {preDNAT: false, applyOnForward: %[2]t}, dropOther: {preDNAT: false, applyOnForward: %[2]t}}",
		policy, applyOnForward)
}
