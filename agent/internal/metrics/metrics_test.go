package metrics_test

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/metrics"
)

func text(t *testing.T, r *metrics.Registry) string {
	t.Helper()
	var b bytes.Buffer
	n, err := r.WriteTo(&b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), n)
	return b.String()
}

func TestExpositionIsWhatPrometheusReads(t *testing.T) {
	r := metrics.New()
	state := r.Gauge("hf_state", "State of the node.", "state")
	state.Set(1, "Armed")
	state.Set(0, "Waiting")
	r.Gauge("hf_unset", "Has no value yet.")
	r.Gauge("hf_huge", "Large numbers.").Set(1.5e12)
	requests := r.Counter("hf_requests_total", "Requests\nby \\ code.", "verb", "code")
	requests.Inc("patch", "200")
	requests.Add(2, "get", "404")
	requests.Inc("get", "404")
	requests.Add(-5, "get", "404")
	requests.Add(math.NaN(), "get", "404")
	r.Counter("hf_repairs_total", "Starts at zero.")
	duration := r.Histogram("hf_seconds", "Durations.", []float64{0.01, 0.1, 1}, "what")
	for _, seconds := range []float64{0.01, 0.0625, 0.5, 5} {
		duration.Observe(seconds, "pass")
	}
	r.Gauge("hf_odd", "Odd label values.", "reason").Set(math.Inf(1), "say \"no\"\nto \\ \xff")
	assert.Equal(t, strings.TrimLeft(`
# HELP hf_huge Large numbers.
# TYPE hf_huge gauge
hf_huge 1.5e+12
# HELP hf_odd Odd label values.
# TYPE hf_odd gauge
hf_odd{reason="say \"no\"\nto \\ �"} +Inf
# HELP hf_repairs_total Starts at zero.
# TYPE hf_repairs_total counter
hf_repairs_total 0
# HELP hf_requests_total Requests\nby \\ code.
# TYPE hf_requests_total counter
hf_requests_total{verb="get",code="404"} 3
hf_requests_total{verb="patch",code="200"} 1
# HELP hf_seconds Durations.
# TYPE hf_seconds histogram
hf_seconds_bucket{what="pass",le="0.01"} 1
hf_seconds_bucket{what="pass",le="0.1"} 2
hf_seconds_bucket{what="pass",le="1"} 3
hf_seconds_bucket{what="pass",le="+Inf"} 4
hf_seconds_sum{what="pass"} 5.5725
hf_seconds_count{what="pass"} 4
# HELP hf_state State of the node.
# TYPE hf_state gauge
hf_state{state="Armed"} 1
hf_state{state="Waiting"} 0
# HELP hf_unset Has no value yet.
# TYPE hf_unset gauge
`, "\n"), text(t, r))
}

func TestGaugeForgetsLabelsThatAreGone(t *testing.T) {
	r := metrics.New()
	g := r.Gauge("hf_foreign_policy", "Policies in the way.", "name")
	g.Set(1, "a")
	g.Forget()
	g.Set(1, "b")
	assert.NotContains(t, text(t, r), `"a"`)
	assert.Contains(t, text(t, r), `hf_foreign_policy{name="b"} 1`)
}

func TestHistogramWithoutLabelsStartsAtZero(t *testing.T) {
	r := metrics.New()
	r.Histogram("hf_seconds", "Durations.", []float64{1})
	assert.Contains(t, text(t, r), "hf_seconds_bucket{le=\"1\"} 0\nhf_seconds_bucket{le=\"+Inf\"} 0\nhf_seconds_sum 0\nhf_seconds_count 0\n")
}

func TestScraperIsToldTheFormat(t *testing.T) {
	r := metrics.New()
	r.Gauge("hf_up", "Is up.").Set(1)
	server := httptest.NewServer(r)
	defer server.Close()
	response, err := http.Get(server.URL)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Equal(t, "text/plain; version=0.0.4; charset=utf-8", response.Header.Get("Content-Type"))
	assert.Equal(t, "# HELP hf_up Is up.\n# TYPE hf_up gauge\nhf_up 1\n", string(body))
}

func TestMistakesOfTheProgramPanic(t *testing.T) {
	for name, mistake := range map[string]func(*metrics.Registry){
		"a name with a dash":      func(r *metrics.Registry) { r.Gauge("hf-state", "") },
		"a name with a digit":     func(r *metrics.Registry) { r.Gauge("2hf", "") },
		"no name":                 func(r *metrics.Registry) { r.Gauge("", "") },
		"a name twice":            func(r *metrics.Registry) { r.Gauge("hf", ""); r.Counter("hf", "") },
		"a label with a colon":    func(r *metrics.Registry) { r.Gauge("hf", "", "a:b") },
		"a label of Prometheus":   func(r *metrics.Registry) { r.Gauge("hf", "", "__name") },
		"a label twice":           func(r *metrics.Registry) { r.Gauge("hf", "", "a", "a") },
		"too few label values":    func(r *metrics.Registry) { r.Gauge("hf", "", "a").Set(1) },
		"too many label values":   func(r *metrics.Registry) { r.Counter("hf", "").Inc("a") },
		"bounds that do not grow": func(r *metrics.Registry) { r.Histogram("hf", "", []float64{2, 1}) },
		"a histogram's own label": func(r *metrics.Registry) { r.Histogram("hf", "", nil, "le") },
	} {
		t.Run(name, func(t *testing.T) { assert.Panics(t, func() { mistake(metrics.New()) }) })
	}
}

func TestMetricsAreForManyGoroutines(t *testing.T) {
	r := metrics.New()
	c, h := r.Counter("hf_total", "", "who"), r.Histogram("hf_seconds", "", []float64{1})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 {
				c.Inc("me")
				h.Observe(0.5)
				_, _ = r.WriteTo(io.Discard)
			}
		})
	}
	group.Wait()
	assert.Contains(t, text(t, r), `hf_total{who="me"} 8000`)
	assert.Contains(t, text(t, r), "hf_seconds_count 8000")
}
