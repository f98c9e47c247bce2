package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/controller"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// scrape returns what a scraper reads.
func (m *metrics) scrape(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(m.handler())
	defer server.Close()
	response, err := http.Get(server.URL)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

// ofAgent are the metrics of an agent that has done something, of which status points to how it is.
func ofAgent(status *keeper.Status) *metrics {
	told := settings.Settings{MetricsAddress: ":0", Mode: "audit", Set: "r2"}
	m, count := newMetrics(told)
	m.MustRegister(ofNode(told, func() keeper.Status { return *status }))
	meter := newMeter(m)
	meter.Repaired("deleted")
	meter.Contested()
	meter.Passed(2 * time.Millisecond)
	count("list", 200)
	count("watch", 0)
	return m
}

// ofController are those of a controller.
func ofController(status *controller.Status) *metrics {
	m, count := newMetrics(settings.Settings{MetricsAddress: ":0"})
	m.MustRegister(ofRelease(func() controller.Status { return *status }))
	count("patch", 409)
	return m
}

func TestMetricsSayHowTheNodeIs(t *testing.T) {
	status := keeper.Status{State: keeper.Armed, Ready: true, Set: "r1", Endpoints: 2, Enforced: "IPv4, and IPv6 is not protected", Since: time.Unix(100, 0), Success: time.Unix(200, 0)}
	m := ofAgent(&status)
	text := m.scrape(t)
	for _, line := range []string{
		`host_firewall_state{state="Armed"} 1`, `host_firewall_state{state="Waiting"} 0`, `host_firewall_state{state="Conflict"} 0`, `host_firewall_state{state="Off"} 0`,
		`host_firewall_ready 1`, `host_firewall_armed 1`, `host_firewall_endpoints 2`,
		`host_firewall_enforced_info{enforced="IPv4"} 1`,
		`host_firewall_state_since_timestamp_seconds 100`, `host_firewall_last_success_timestamp_seconds 200`,
		`host_firewall_set_info{armed="r1",wanted="r2"} 1`, `host_firewall_mode_info{mode="audit"} 1`,
		`host_firewall_repairs_total{reason="deleted"} 1`, `host_firewall_repairs_total{reason="changed"} 0`, `host_firewall_contested_total 1`,
		`host_firewall_api_requests_total{code="200",verb="list"} 1`, `host_firewall_api_requests_total{code="0",verb="watch"} 1`,
		`host_firewall_reconcile_duration_seconds_bucket{le="0.005"} 1`, `host_firewall_reconcile_duration_seconds_bucket{le="0.001"} 0`,
	} {
		assert.Contains(t, text, line+"\n")
	}
	status = keeper.Status{State: keeper.Off}
	text = m.scrape(t)
	assert.Contains(t, text, `host_firewall_set_info{armed="",wanted="r2"} 1`+"\n")
	assert.Contains(t, text, `host_firewall_enforced_info{enforced="unknown"} 1`+"\n")
	assert.NotContains(t, text, `armed="r1"`, "a set that is gone is not shown")
	assert.Contains(t, text, "host_firewall_last_success_timestamp_seconds 0\n")
}

func TestMetricsSayHowTheReleaseIs(t *testing.T) {
	status := controller.Status{
		State: controller.Cleared, Ready: true, Held: 1, Untrusted: 2, TrustSets: 3, Sets: 4, Drift: []string{"r1"}, Deadline: time.Unix(300, 0),
		Nodes: map[string]int{"Armed": 5, "Trying": 1}, Proven: map[string]int{"IPv4 and IPv6": 4, "unproven": 2},
		WouldCut: []peers.Cut{{Node: "n1", Port: 22, Connections: 2}, {Node: "n1", Port: 22, Connections: 3}, {Node: "n2", Port: 22, Connections: 1}},
	}
	m := ofController(&status)
	text := m.scrape(t)
	for _, line := range []string{
		`host_firewall_controller_ready 1`, `host_firewall_cleared 1`, `host_firewall_held_nodes 1`, `host_firewall_untrusted_nodes 2`,
		`host_firewall_trust_sets 3`, `host_firewall_policy_sets 4`, `host_firewall_policy_drift{set="r1"} 1`,
		`host_firewall_nodes{state="Armed"} 5`, `host_firewall_nodes{state="Trying"} 1`,
		`host_firewall_armed_nodes{enforced="IPv4 and IPv6"} 4`, `host_firewall_armed_nodes{enforced="unproven"} 2`,
		`host_firewall_would_cut{node="n1",port="22"} 5`, `host_firewall_would_cut{node="n2",port="22"} 1`,
		`host_firewall_confirm_deadline_timestamp_seconds 300`, `host_firewall_api_requests_total{code="409",verb="patch"} 1`,
	} {
		assert.Contains(t, text, line+"\n")
	}
	status = controller.Status{State: controller.Canary}
	text = m.scrape(t)
	assert.Contains(t, text, "host_firewall_cleared 0\n")
	assert.Contains(t, text, "host_firewall_confirm_deadline_timestamp_seconds 0\n")
	assert.NotContains(t, text, `set="r1"`, "what is set right is not shown")
	assert.NotContains(t, text, "host_firewall_nodes{", "nor what no node is any more")
}

func TestWhereNobodyAsksNothingIsMeasured(t *testing.T) {
	m, count := newMetrics(settings.Settings{})
	assert.Nil(t, m)
	assert.Nil(t, count)
}

// The page is held against all that the registries have.
func TestEveryMetricIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(host_firewall_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|").FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = row[2] + " " + strings.Trim(row[3], " `")
	}
	has := map[string]string{}
	release := controller.Status{Drift: []string{"r1"}, Nodes: map[string]int{"Armed": 1}, Proven: map[string]int{"IPv4": 1}, WouldCut: []peers.Cut{{Node: "n1", Port: 22, Connections: 1}}}
	for _, m := range []*metrics{ofAgent(&keeper.Status{}), ofController(&release)} {
		families, err := m.Gather()
		require.NoError(t, err)
		for _, family := range families {
			var labels []string
			for _, pair := range family.GetMetric()[0].GetLabel() {
				labels = append(labels, pair.GetName())
			}
			has[family.GetName()] = strings.ToLower(family.GetType().String()) + " " + strings.Join(labels, "`, `")
		}
	}
	assert.Equal(t, has, documented)
	for _, state := range keeper.States() {
		assert.Contains(t, string(page), "`"+string(state)+"`")
	}
}
