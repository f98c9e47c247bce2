// Package metrics counts and measures, and writes what it has in Prometheus' text
// format (version 0.0.4). It has what agent and controller use and no more; their tests
// see to it that names are right. Prometheus' own library would cost every agent memory,
// also where nobody asks for metrics.
package metrics

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Registry holds metrics. All methods of it and of its metrics may be called from
// any goroutine.
type Registry struct {
	mu      sync.Mutex
	metrics []*Metric
}

// Metric is one metric with all its samples.
type Metric struct {
	registry         *Registry
	name, help, kind string
	labels           []string
	bounds           []float64
	samples          []sample // in the order in which they came
}

type sample struct {
	head  string // name and labels
	value float64
}

// Gauge registers a value that goes up and down, for each combination of label values
// that is set.
func (r *Registry) Gauge(name, help string, labels ...string) *Metric {
	return r.register(&Metric{name: name, help: help, kind: "gauge", labels: labels})
}

// Counter registers a value that only grows, for each combination of label values that is
// counted. Without labels it starts at zero.
func (r *Registry) Counter(name, help string, labels ...string) *Metric {
	m := r.register(&Metric{name: name, help: help, kind: "counter", labels: labels})
	if len(labels) == 0 {
		m.Add(0)
	}
	return m
}

// Histogram registers one that counts what it is shown in buckets with these upper bounds,
// which grow. The bucket that holds everything is added.
func (r *Registry) Histogram(name, help string, bounds ...float64) *Metric {
	m := r.register(&Metric{name: name, help: help, kind: "histogram", bounds: bounds})
	m.observe(0, 0)
	return m
}

func (r *Registry) register(m *Metric) *Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.registry = r
	r.metrics = append(r.metrics, m)
	return m
}

// Set sets the gauge for these values of its labels.
func (m *Metric) Set(value float64, labels ...string) {
	m.registry.mu.Lock()
	defer m.registry.mu.Unlock()
	*m.sample("", labels...) = value
}

// Add adds to the counter for these values of its labels.
func (m *Metric) Add(value float64, labels ...string) {
	m.registry.mu.Lock()
	defer m.registry.mu.Unlock()
	*m.sample("", labels...) += value
}

// Observe puts a value into the buckets of the histogram.
func (m *Metric) Observe(value float64) { m.observe(value, 1) }

func (m *Metric) observe(value, times float64) {
	m.registry.mu.Lock()
	defer m.registry.mu.Unlock()
	for _, bound := range m.bounds {
		bucket := m.sample(fmt.Sprintf("_bucket{le=%q}", number(bound)))
		if value <= bound {
			*bucket += times
		}
	}
	*m.sample(`_bucket{le="+Inf"}`) += times
	*m.sample("_sum") += value
	*m.sample("_count") += times
}

// Forget drops all values of the gauge, for labels whose values come and go.
func (m *Metric) Forget() {
	m.registry.mu.Lock()
	defer m.registry.mu.Unlock()
	m.samples = nil
}

// sample returns the one of these label values, which is made when it is not there.
func (m *Metric) sample(suffix string, values ...string) *float64 {
	var pairs []string
	for i, label := range m.labels {
		value := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.ToValidUTF8(values[i], "\uFFFD"))
		pairs = append(pairs, label+`="`+value+`"`)
	}
	head := m.name + suffix
	if len(pairs) > 0 {
		head += "{" + strings.Join(pairs, ",") + "}"
	}
	at := slices.IndexFunc(m.samples, func(s sample) bool { return s.head == head })
	if at < 0 {
		at = len(m.samples)
		m.samples = append(m.samples, sample{head: head})
	}
	return &m.samples[at].value
}

// ServeHTTP answers a scraper.
func (r *Registry) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	var text bytes.Buffer
	r.mu.Lock()
	for _, m := range r.metrics {
		fmt.Fprintf(&text, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		for _, s := range m.samples {
			fmt.Fprintf(&text, "%s %s\n", s.head, number(s.value))
		}
	}
	r.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(text.Bytes()) // the scraper may be gone
}

func number(value float64) string { return strconv.FormatFloat(value, 'g', -1, 64) }
