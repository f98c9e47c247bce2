package alerts_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/stretchr/testify/require"
)

// rulesOf is what the chart renders for a release; tests/helm holds it against the chart.
func rulesOf(release string) string { return "../helm/testdata/alerts/" + release + ".yaml" }

// fire evaluates the rules step by step on these series (promtool's notation, a value each minute), and returns which alerts fire at each
// of two moments, as name{node} or name.
func fire(t *testing.T, step, first, second time.Duration, series ...string) (atFirst, atSecond []string) {
	t.Helper()
	load := "load 1m\n"
	for _, s := range series {
		load += "  " + strings.Replace(s, "{", `{namespace="host-firewall",`, 1) + "\n"
	}
	loader, err := promqltest.NewLazyLoader(load, promqltest.LazyLoaderOpts{EnableAtModifier: true})
	require.NoError(t, err)
	defer loader.Close()
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(loader.QueryEngine(), loader.Storage()), Appendable: loader.Storage(), Context: t.Context(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Logger: slog.New(slog.DiscardHandler),
	})
	groups, errs := manager.LoadGroups(step, labels.EmptyLabels(), "", nil, false, rulesOf("host-firewall"))
	require.Empty(t, errs)
	for at := time.Duration(0); at <= second; at += step {
		loader.WithSamplesTill(time.Unix(0, 0).Add(at), func(err error) {
			require.NoError(t, err)
			for _, group := range groups {
				group.Eval(loader.Context(), time.Unix(0, 0).Add(at))
			}
		})
		if at == first {
			atFirst = firing(t, groups)
		}
	}
	return atFirst, firing(t, groups)
}

func firing(t *testing.T, groups map[string]*rules.Group) (fired []string) {
	t.Helper()
	for _, group := range groups {
		for _, rule := range group.AlertingRules() {
			require.NoError(t, rule.LastError(), rule.Name())
			rule.ForEachActiveAlert(func(alert *rules.Alert) {
				if alert.State == rules.StateFiring {
					fired = append(fired, describe(t, rule.Name(), alert))
				}
			})
		}
	}
	slices.Sort(fired)
	return fired
}

func describe(t *testing.T, name string, alert *rules.Alert) string {
	t.Helper()
	require.Contains(t, []string{"critical", "warning", "info"}, alert.Labels.Get("severity"))
	require.Equal(t, "host-firewall", alert.Labels.Get("namespace"), "of which release it is")
	require.Empty(t, alert.Labels.Get("pod"), "an agent that restarts would begin anew")
	alert.Annotations.Range(func(l labels.Label) {
		require.NotContains(t, l.Value, "<error", name)
		require.NotContains(t, l.Value, "<no value>", name)
		require.NotContains(t, l.Value, "{{", name)
		if node := alert.Labels.Get("node"); node != "" {
			require.Regexp(t, `\b`+node+`\b`, l.Value, name)
		}
	})
	if node := alert.Labels.Get("node"); node != "" {
		return name + "{" + node + "}"
	}
	return name
}

// well are the series of two nodes and a controller where nothing is wrong.
var well = []string{
	`host_firewall_armed{node="n1",pod="a"} 1x10000`, `host_firewall_armed{node="n2",pod="b"} 1x10000`,
	`host_firewall_ready{node="n1",pod="a"} 1x10000`, `host_firewall_ready{node="n2",pod="b"} 1x10000`,
	`host_firewall_state{node="n1",pod="a",state="RolledBack"} 0x10000`, `host_firewall_state{node="n1",pod="a",state="Armed"} 1x10000`,
	`host_firewall_state{node="n1",pod="a",state="Conflict"} 0x10000`, `host_firewall_contested_total{node="n1",pod="a"} 0x10000`,
	`host_firewall_enforced_info{node="n1",pod="a",enforced="IPv4 and IPv6"} 1x10000`, `host_firewall_mode_info{node="n1",pod="a",mode="enforce"} 1x10000`,
	`host_firewall_controller_ready{pod="c"} 1x10000`, `host_firewall_held_nodes{pod="c"} 0x10000`, `host_firewall_untrusted_nodes{pod="c"} 0x10000`,
	`host_firewall_nodes{pod="c",state="Armed"} 2x10000`, `host_firewall_confirm_deadline_timestamp_seconds{pod="c"} 0x10000`,
}

// but is what is well with other series in the place of those that begin so.
func but(with map[string][]string) (all []string) {
	for _, series := range well {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(with)), func(begin string) bool { return strings.HasPrefix(series, begin) }) {
			all = append(all, series)
		}
	}
	for _, series := range with {
		all = append(all, series...)
	}
	return all
}

func TestEachAlertFiresWhenItIsTimeAndNotBefore(t *testing.T) {
	tested := map[string]bool{}
	for name, test := range map[string]struct {
		with  map[string][]string
		quiet time.Duration // nothing fires until then
		fires time.Duration
		want  []string
	}{
		"all is well": {nil, 4 * 24 * time.Hour, 4 * 24 * time.Hour, nil},
		"a node is not armed, and its agent restarts": {map[string][]string{
			`host_firewall_armed{node="n1"`: {`host_firewall_armed{node="n1",pod="a"} 0x5 stale`, `host_firewall_armed{node="n1",pod="d"} _x5 0x100`},
			`host_firewall_ready{node="n1"`: {`host_firewall_ready{node="n1",pod="a"} 0x5 stale`, `host_firewall_ready{node="n1",pod="d"} _x5 0x100`},
		}, 9 * time.Minute, 10 * time.Minute, []string{"HostFirewallNodeNotProtected{n1}"}},
		"a node is not to be armed": {map[string][]string{
			`host_firewall_armed{node="n1"`: {`host_firewall_armed{node="n1",pod="a"} 0x1000`},
		}, time.Hour, time.Hour, nil},
		"a node moves": {map[string][]string{
			`host_firewall_ready{node="n1"`: {`host_firewall_ready{node="n1",pod="a"} 1x10 0x29 1x100`},
		}, 2 * time.Hour, 2 * time.Hour, nil},
		"a node is armed, and its agent not ready": {map[string][]string{
			`host_firewall_ready{node="n1"`: {`host_firewall_ready{node="n1",pod="a"} 0x100`},
		}, 29 * time.Minute, 30 * time.Minute, []string{"HostFirewallNodeNotReady{n1}"}},
		"rules are flushed": {map[string][]string{
			`host_firewall_enforced_info`: {`host_firewall_enforced_info{node="n1",pod="a",enforced="not enforced"} 1x100`},
		}, 4 * time.Minute, 5 * time.Minute, []string{"HostFirewallNodeNotEnforced{n1}"}},
		"a node that waits for Felix": {map[string][]string{
			`host_firewall_enforced_info`:   {`host_firewall_enforced_info{node="n1",pod="a",enforced="not enforced"} 1x100`},
			`host_firewall_armed{node="n1"`: {`host_firewall_armed{node="n1",pod="a"} 0x1000`},
		}, time.Hour, time.Hour, nil},
		"a node has gone back": {map[string][]string{
			`host_firewall_state{node="n1",pod="a",state="RolledBack"`: {`host_firewall_state{node="n1",pod="a",state="RolledBack"} 1x100`},
		}, time.Minute, 2 * time.Minute, []string{"HostFirewallNodeRolledBack{n1}"}},
		"an endpoint of somebody else": {map[string][]string{
			`host_firewall_state{node="n1",pod="a",state="Conflict"`: {`host_firewall_state{node="n1",pod="a",state="Conflict"} 1x100`},
		}, 9 * time.Minute, 10 * time.Minute, []string{"HostFirewallNodeConflict{n1}"}},
		"somebody fights": {map[string][]string{
			`host_firewall_contested_total`: {`host_firewall_contested_total{node="n1",pod="a"} 0x9 1x200`},
		}, 9 * time.Minute, 10 * time.Minute, []string{"HostFirewallNodeContested{n1}"}},
		"a fight of yesterday": {map[string][]string{
			`host_firewall_contested_total`: {`host_firewall_contested_total{node="n1",pod="a"} 7x1000`},
		}, time.Hour, 2 * time.Hour, nil},
		"audit for days": {map[string][]string{
			`host_firewall_mode_info`: {`host_firewall_mode_info{node="n1",pod="a",mode="audit"} 1x10000`},
		}, 3*24*time.Hour - time.Hour, 3 * 24 * time.Hour, []string{"HostFirewallDropsNothing"}},
		"an agent is gone": {map[string][]string{
			`host_firewall_ready{node="n2"`: nil, `host_firewall_armed{node="n2"`: nil,
		}, 14 * time.Minute, 15 * time.Minute, []string{"HostFirewallAgentsMissing"}},
		"all agents are gone": {map[string][]string{
			`host_firewall_ready`: nil, `host_firewall_armed`: nil,
		}, 14 * time.Minute, 15 * time.Minute, []string{"HostFirewallAgentsMissing"}},
		"a node without an agent": {map[string][]string{
			`host_firewall_nodes{`: {`host_firewall_nodes{pod="c",state="Armed"} 2x100`, `host_firewall_nodes{pod="c",state="unknown"} 1x100`},
		}, 14 * time.Minute, 15 * time.Minute, []string{"HostFirewallNodesWithoutEndpoint"}},
		"the controller is away": {map[string][]string{
			`host_firewall_controller_ready`: nil, `host_firewall_held_nodes`: nil, `host_firewall_untrusted_nodes`: nil, `host_firewall_nodes`: nil, `host_firewall_confirm`: nil,
		}, 9 * time.Minute, 10 * time.Minute, []string{"HostFirewallControllerAway"}},
		"the release is held up": {map[string][]string{
			`host_firewall_controller_ready`: {`host_firewall_controller_ready{pod="c"} 0x100`},
		}, 9 * time.Minute, 10 * time.Minute, []string{"HostFirewallControllerNotReady"}},
		"a node is held back": {map[string][]string{
			`host_firewall_held_nodes`: {`host_firewall_held_nodes{pod="c"} 1x100`},
		}, 9 * time.Minute, 10 * time.Minute, []string{"HostFirewallNodesHeld"}},
		"a node is shut out": {map[string][]string{
			`host_firewall_untrusted_nodes`: {`host_firewall_untrusted_nodes{pod="c"} 1x100`},
		}, 9 * time.Minute, 10 * time.Minute, []string{"HostFirewallNodesNotTrusted"}},
		"somebody would be cut": {map[string][]string{
			`host_firewall_would_cut`: {`host_firewall_would_cut{pod="c",node="n1",port="9100"} 3x100`, `host_firewall_would_cut{pod="c",node="n2",port="9100"} 1x3 stale`},
		}, 4 * time.Minute, 5 * time.Minute, []string{"HostFirewallWouldCut{n1}"}},
		"a policy was edited": {map[string][]string{
			`host_firewall_policy_drift`: {`host_firewall_policy_drift{pod="c",set="1a2b3c4d"} 1x100`},
		}, 4 * time.Minute, 5 * time.Minute, []string{"HostFirewallPolicyDrift"}},
		"nobody confirms within fifteen minutes": {map[string][]string{
			`host_firewall_confirm`: {`host_firewall_confirm_deadline_timestamp_seconds{pod="c"} 900x100`},
		}, 5 * time.Minute, 6 * time.Minute, []string{"HostFirewallConfirmRunsOut"}},
		"nobody has confirmed": {map[string][]string{
			`host_firewall_confirm`: {`host_firewall_confirm_deadline_timestamp_seconds{pod="c"} 900x100`},
		}, 5 * time.Minute, 15 * time.Minute, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, fired := range test.want {
				tested[strings.SplitN(fired, "{", 2)[0]] = true
			}
			step := time.Minute
			if test.fires > 24*time.Hour {
				step = time.Hour
			}
			before, then := fire(t, step, test.quiet, test.fires, but(test.with)...)
			require.Empty(t, before)
			require.Equal(t, test.want, then)
		})
	}
	for _, rule := range parsed(t, "host-firewall") {
		require.Contains(t, tested, rule.Alert, "nobody has seen it fire")
	}
}

// parsed are the rules as Prometheus reads them.
func parsed(t *testing.T, release string) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rulesOf(release), false, model.LegacyValidation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	require.Empty(t, errs)
	require.Len(t, groups.Groups, 1)
	return groups.Groups[0].Rules
}

func TestEachAlertSaysWhatToDoAndByWhichCommand(t *testing.T) {
	page := read(t, "../../docs/metrics.md")
	for _, rule := range parsed(t, "host-firewall") {
		require.ElementsMatch(t, []string{"summary", "description"}, slices.Collect(maps.Keys(rule.Annotations)), rule.Alert)
		require.Regexp(t, `(?m)^kubectl |prometheusRule\.disabled`, rule.Annotations["description"], rule.Alert)
		require.Contains(t, page, "| `"+rule.Alert+"` | "+rule.Labels["severity"]+" |")
	}
	require.Equal(t, len(parsed(t, "host-firewall")), strings.Count(page, "\n| `HostFirewall"))
}

// scraped are the labels that Prometheus gives to what it scrapes.
var scraped = []string{"namespace", "pod", "cluster"}

// documented are the labels of each metric, as the page says.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	metrics := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(host_firewall_[a-z_]+)` \\| (\\w+) \\|([^|]*)\\|").FindAllStringSubmatch(read(t, "../../docs/metrics.md"), -1) {
		names := slices.Clone(scraped)
		for _, label := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[3], -1) {
			names = append(names, label[1])
		}
		if metrics[row[1]] = names; row[2] == "histogram" {
			metrics[row[1]+"_bucket"] = append(names, "le")
		}
	}
	require.NotEmpty(t, metrics)
	return metrics
}

// requireDocumented: a query that asks for what nobody serves is silent for ever.
func requireDocumented(t *testing.T, query string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	require.NoError(t, err, query)
	metrics, seen := documented(t), 0
	known := slices.Clone(scraped)
	var grouped []string
	require.NoError(t, parser.Walk(visitor(func(node parser.Node) {
		switch n := node.(type) {
		case *parser.VectorSelector:
			seen++
			require.Contains(t, metrics, n.Name, query)
			known = append(known, metrics[n.Name]...)
			for _, matcher := range n.LabelMatchers {
				if matcher.Name != labels.MetricName {
					require.Contains(t, metrics[n.Name], matcher.Name, query)
				}
			}
		case *parser.AggregateExpr:
			grouped = append(grouped, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				grouped = append(grouped, n.VectorMatching.MatchingLabels...)
			}
		}
	}), expr, nil))
	require.Positive(t, seen, query)
	require.Subset(t, append(known, "node", "instance"), grouped, query)
}

type visitor func(parser.Node)

// Visit is for parser.Walk.
func (v visitor) Visit(node parser.Node, _ []parser.Node) (parser.Visitor, error) {
	if node != nil {
		v(node)
	}
	return v, nil
}

func TestAlertsAskForWhatIsDocumented(t *testing.T) {
	for _, rule := range parsed(t, "host-firewall") {
		requireDocumented(t, rule.Expr)
	}
}

// dashboard is what matters here of one of Grafana's.
type dashboard struct {
	UID    string
	Panels []struct {
		ID          int
		Title, Type string
		Description string
		GridPos     struct{ X, Y, W, H int }
		Datasource  struct{ UID string }
		Targets     []struct {
			RefID, Expr string
			Datasource  struct{ UID string }
		}
	}
	Templating struct{ List []struct{ Name string } }
}

func TestEachPanelAsksForWhatIsDocumented(t *testing.T) {
	var d dashboard
	require.NoError(t, json.NewDecoder(strings.NewReader(read(t, "../../charts/host-firewall/dashboards/host-firewall.json"))).Decode(&d))
	require.Equal(t, "host-firewall", d.UID)
	var variables []string
	for _, variable := range d.Templating.List {
		variables = append(variables, variable.Name)
	}
	require.Equal(t, []string{"datasource", "namespace"}, variables)
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, panel := range d.Panels {
		require.False(t, ids[panel.ID], panel.Title)
		ids[panel.ID] = true
		require.NotEmpty(t, panel.Description, panel.Title)
		for x := range panel.GridPos.W {
			for y := range panel.GridPos.H {
				place := [2]int{panel.GridPos.X + x, panel.GridPos.Y + y}
				require.Less(t, place[0], 24, panel.Title)
				require.Empty(t, taken[place], "%s lies on another panel", panel.Title)
				taken[place] = panel.Title
			}
		}
		require.NotEmpty(t, panel.Targets, panel.Title)
		require.Equal(t, "${datasource}", panel.Datasource.UID)
		for _, target := range panel.Targets {
			require.Equal(t, "${datasource}", target.Datasource.UID)
			require.Contains(t, target.Expr, `namespace="$namespace"`, panel.Title)
			requireDocumented(t, strings.NewReplacer("$namespace", "x", "$__rate_interval", "4m").Replace(target.Expr))
		}
	}
}

// Rules of another release look at that one's namespace, and name its objects.
func TestAlertsOfAnotherReleaseAreAboutThatOne(t *testing.T) {
	other := read(t, "../helm/testdata/alerts/edge.yaml")
	require.Len(t, parsed(t, "edge"), len(parsed(t, "host-firewall")))
	require.NotContains(t, other, `namespace="host-firewall"`)
	require.NotContains(t, other, "-n host-firewall")
	require.NotRegexp(t, `(deploy/|configmap |daemonset )host-firewall`, other)
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}
