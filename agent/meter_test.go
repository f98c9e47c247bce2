package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/controller"
	"github.com/host-firewall/host-firewall/agent/internal/keeper"
)

// scrape returns what a scraper reads of an agent.
func scrape(t *testing.T, m *meter, status keeper.Status) string {
	t.Helper()
	return read(t, m.handler(func() keeper.Status { return status }))
}

// read returns what a scraper reads.
func read(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	response, err := http.Get(server.URL)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

func TestMetricsSayHowTheNodeIs(t *testing.T) {
	m := newMeter("v1", "audit", "r2")
	m.Repaired("deleted")
	m.Contested()
	m.Passed(2 * time.Millisecond)
	m.request("list", 200)
	m.request("watch", 0)
	status := keeper.Status{State: keeper.Armed, Ready: true, Set: "r1", Endpoints: 2, Since: time.Unix(100, 0), Success: time.Unix(200, 0)}
	text := scrape(t, m, status)
	for _, line := range []string{
		`host_firewall_state{state="Armed"} 1`, `host_firewall_state{state="Waiting"} 0`, `host_firewall_state{state="Conflict"} 0`, `host_firewall_state{state="Off"} 0`,
		`host_firewall_ready 1`, `host_firewall_armed 1`, `host_firewall_endpoints 2`,
		`host_firewall_state_since_timestamp_seconds 100`, `host_firewall_last_success_timestamp_seconds 200`,
		`host_firewall_set_info{wanted="r2",armed="r1"} 1`, `host_firewall_mode_info{mode="audit"} 1`,
		`host_firewall_repairs_total{reason="deleted"} 1`, `host_firewall_repairs_total{reason="changed"} 0`, `host_firewall_contested_total 1`,
		`host_firewall_api_requests_total{verb="list",code="200"} 1`, `host_firewall_api_requests_total{verb="watch",code="0"} 1`,
		`host_firewall_reconcile_duration_seconds_bucket{le="0.005"} 1`, `host_firewall_reconcile_duration_seconds_bucket{le="0.001"} 0`,
	} {
		assert.Contains(t, text, line+"\n")
	}
	assert.Contains(t, scrape(t, m, keeper.Status{State: keeper.Off}), `host_firewall_set_info{wanted="r2",armed=""} 1`+"\n")
	assert.NotContains(t, scrape(t, m, keeper.Status{}), `armed="r1"`, "a set that is gone is not shown")
}

func TestMetricsSayHowTheReleaseIs(t *testing.T) {
	m := newReleaseMeter("v1")
	m.request("patch", 409)
	status := controller.Status{State: controller.Cleared, Ready: true, Held: 1, Untrusted: 2, TrustSets: 3, Sets: 4, Drift: []string{"r1"}}
	text := read(t, m.handler(func() controller.Status { return status }))
	for _, line := range []string{
		`host_firewall_controller_ready 1`, `host_firewall_cleared 1`, `host_firewall_held_nodes 1`, `host_firewall_untrusted_nodes 2`,
		`host_firewall_trust_sets 3`, `host_firewall_policy_sets 4`, `host_firewall_policy_drift{set="r1"} 1`,
		`host_firewall_api_requests_total{verb="patch",code="409"} 1`,
	} {
		assert.Contains(t, text, line+"\n")
	}
	text = read(t, m.handler(func() controller.Status { return controller.Status{State: controller.Canary} }))
	assert.Contains(t, text, "host_firewall_cleared 0\n")
	assert.NotContains(t, text, `set="r1"`, "what is set right is not shown")
}

func TestEveryMetricIsDocumented(t *testing.T) {
	m, r := newMeter("v1", "audit", "r2"), newReleaseMeter("v1")
	m.request("list", 200)
	kinds := map[string]string{}
	for line := range strings.Lines(scrape(t, m, keeper.Status{}) + read(t, r.handler(func() controller.Status { return controller.Status{} }))) {
		if fields := strings.Fields(line); fields[1] == "TYPE" {
			kinds[fields[2]] = fields[3]
		}
	}
	page, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(host_firewall_[a-z_]+)` \\| ([a-z]+) \\|").FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = row[2]
	}
	assert.Equal(t, kinds, documented)
	assert.True(t, slices.ContainsFunc(keeper.States(), func(s keeper.State) bool { return strings.Contains(string(page), string(s)) }))
}
