package metrics_test

import (
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/host-firewall/host-firewall/agent/internal/metrics"
)

// text is what a scraper reads.
func text(r *metrics.Registry) string {
	answer := httptest.NewRecorder()
	r.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return answer.Body.String()
}

func TestExpositionIsWhatPrometheusReads(t *testing.T) {
	var r metrics.Registry
	state := r.Gauge("hf_state", "State of the node.", "state")
	state.Set(1, "Waiting")
	state.Set(0, "Armed")
	state.Set(0, "Waiting")
	r.Gauge("hf_unset", "Has no value yet.")
	r.Gauge("hf_huge", "Large numbers.").Set(1.5e12)
	requests := r.Counter("hf_requests_total", "Requests.", "verb", "code")
	requests.Add(1, "patch", "200")
	requests.Add(2, "get", "404")
	requests.Add(1, "get", "404")
	r.Counter("hf_repairs_total", "Starts at zero.")
	duration := r.Histogram("hf_seconds", "Durations.", 0.01, 0.1, 10)
	for _, seconds := range []float64{0.01, 0.0625, 0.5, 50} {
		duration.Observe(seconds)
	}
	r.Gauge("hf_odd", "Odd label values.", "reason").Set(math.Inf(1), "say \"no\"\nto \\ \xff")
	assert.Equal(t, strings.TrimLeft(`
# HELP hf_state State of the node.
# TYPE hf_state gauge
hf_state{state="Waiting"} 0
hf_state{state="Armed"} 0
# HELP hf_unset Has no value yet.
# TYPE hf_unset gauge
# HELP hf_huge Large numbers.
# TYPE hf_huge gauge
hf_huge 1.5e+12
# HELP hf_requests_total Requests.
# TYPE hf_requests_total counter
hf_requests_total{verb="patch",code="200"} 1
hf_requests_total{verb="get",code="404"} 3
# HELP hf_repairs_total Starts at zero.
# TYPE hf_repairs_total counter
hf_repairs_total 0
# HELP hf_seconds Durations.
# TYPE hf_seconds histogram
hf_seconds_bucket{le="0.01"} 1
hf_seconds_bucket{le="0.1"} 2
hf_seconds_bucket{le="10"} 3
hf_seconds_bucket{le="+Inf"} 4
hf_seconds_sum 50.5725
hf_seconds_count 4
# HELP hf_odd Odd label values.
# TYPE hf_odd gauge
hf_odd{reason="say \"no\"\nto \\ �"} +Inf
`, "\n"), text(&r))
}

func TestGaugeForgetsLabelsThatAreGone(t *testing.T) {
	var r metrics.Registry
	g := r.Gauge("hf_foreign_policy", "Policies in the way.", "name")
	g.Set(1, "a")
	g.Forget()
	g.Set(1, "b")
	assert.NotContains(t, text(&r), `"a"`)
	assert.Contains(t, text(&r), `hf_foreign_policy{name="b"} 1`)
}

func TestHistogramStartsAtZero(t *testing.T) {
	var r metrics.Registry
	r.Histogram("hf_seconds", "Durations.", 1)
	assert.Contains(t, text(&r), "hf_seconds_bucket{le=\"1\"} 0\nhf_seconds_bucket{le=\"+Inf\"} 0\nhf_seconds_sum 0\nhf_seconds_count 0\n")
}

func TestScraperIsToldTheFormat(t *testing.T) {
	answer := httptest.NewRecorder()
	new(metrics.Registry).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	assert.Equal(t, "text/plain; version=0.0.4; charset=utf-8", answer.Header().Get("Content-Type"))
}

func TestMetricsAreForManyGoroutines(t *testing.T) {
	var r metrics.Registry
	c, h := r.Counter("hf_total", "", "who"), r.Histogram("hf_seconds", "", 1)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 {
				c.Add(1, "me")
				h.Observe(0.5)
				text(&r)
			}
		})
	}
	group.Wait()
	assert.Contains(t, text(&r), `hf_total{who="me"} 8000`)
	assert.Contains(t, text(&r), "hf_seconds_count 8000")
}
