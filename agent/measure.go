package main

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// metrics are what scrapers are told; nil: nobody asks, so that nothing is counted and no memory
// is spent. docs/metrics.md lists them.
type metrics struct{ *prometheus.Registry }

// newMetrics begins with what agent and controller have both. count is told of the answers of
// the API server.
func newMetrics(s settings.Settings) (m *metrics, count func(verb string, code int)) {
	if s.MetricsAddress == "" {
		return nil, nil
	}
	m = &metrics{prometheus.NewRegistry()}
	promauto.With(m).NewGaugeVec(prometheus.GaugeOpts{Name: "host_firewall_build_info", Help: "Version of this build."}, []string{"version", "goversion"}).
		WithLabelValues(buildVersion(), runtime.Version()).Set(1)
	requests := promauto.With(m).NewCounterVec(prometheus.CounterOpts{
		Name: "host_firewall_api_requests_total",
		Help: "Requests to the API server, by verb and HTTP status; 0 where there was no answer.",
	}, []string{"verb", "code"})
	return m, func(verb string, code int) { requests.WithLabelValues(verb, strconv.Itoa(code)).Inc() }
}

// handler answers scrapers.
func (m *metrics) handler() http.Handler { return promhttp.HandlerFor(m, promhttp.HandlerOpts{}) }

// gauges are what a status says at the moment of a scrape: a prometheus.Collector.
type gauges[S any] struct {
	status func() S
	all    []gauge[S]
}

// gauge says one thing of a status, for each combination of label values.
type gauge[S any] struct {
	*prometheus.Desc
	say func(status S, is is)
}

// is is told a value and those of the labels.
type is func(value float64, labels ...string)

// desc is that of a gauge.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe is for the registry.
func (g gauges[S]) Describe(descs chan<- *prometheus.Desc) {
	for _, one := range g.all {
		descs <- one.Desc
	}
}

// Collect is for scrapers.
func (g gauges[S]) Collect(values chan<- prometheus.Metric) {
	status := g.status()
	for _, one := range g.all {
		one.say(status, func(value float64, labels ...string) {
			values <- prometheus.MustNewConstMetric(one.Desc, prometheus.GaugeValue, value, labels...)
		})
	}
}

// number is yes or no.
func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// seconds is when; 0: never.
func seconds(when time.Time) float64 {
	if when.IsZero() {
		return 0
	}
	return float64(when.Unix())
}
