// Package metrics counts and measures, and writes what it has in Prometheus' text
// format (version 0.0.4). It has what the agent uses and no more: gauges,
// counters and histograms, with labels.
//
// A name that Prometheus would refuse, a name that is registered twice and a
// wrong number of label values are mistakes in the program: they panic.
package metrics

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// contentType is what a scraper is told.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// Registry holds metrics. All methods of it and of its metrics may be called from
// any goroutine.
type Registry struct {
	mu       sync.Mutex
	families []*family
}

// New returns an empty registry.
func New() *Registry { return &Registry{} }

// Gauge is a value that goes up and down.
type Gauge struct{ f *family }

// Counter is a value that only grows.
type Counter struct{ f *family }

// Histogram counts what it is shown in buckets.
type Histogram struct{ f *family }

// Gauge registers a gauge. It has one value for each combination of label values
// that is set, and none before.
func (r *Registry) Gauge(name, help string, labels ...string) Gauge {
	return Gauge{r.register(name, help, "gauge", nil, labels)}
}

// Counter registers a counter. Without labels it starts at zero; with labels it
// has one value for each combination that is counted.
func (r *Registry) Counter(name, help string, labels ...string) Counter {
	return Counter{r.register(name, help, "counter", nil, labels)}
}

// Histogram registers a histogram with the upper bounds of its buckets, in
// growing order; the last bucket, which holds everything, is added.
func (r *Registry) Histogram(name, help string, bounds []float64, labels ...string) Histogram {
	if !slices.IsSorted(bounds) || slices.Contains(labels, "le") {
		panic("metric " + name + " has bounds that do not grow, or a label le")
	}
	return Histogram{r.register(name, help, "histogram", bounds, labels)}
}

// Set sets the gauge for these label values.
func (g Gauge) Set(value float64, labels ...string) {
	g.f.change(labels, func(s *series) { s.value = value })
}

// Forget drops all values of the gauge, for labels whose values come and go.
func (g Gauge) Forget() {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	clear(g.f.series)
}

// Inc counts one more for these label values.
func (c Counter) Inc(labels ...string) { c.Add(1, labels...) }

// Add adds to the counter for these label values. What is below zero is not added.
func (c Counter) Add(value float64, labels ...string) {
	if value < 0 || math.IsNaN(value) {
		return
	}
	c.f.change(labels, func(s *series) { s.value += value })
}

// Observe puts the value into its buckets, for these label values.
func (h Histogram) Observe(value float64, labels ...string) {
	h.f.change(labels, func(s *series) {
		if s.buckets == nil {
			s.buckets = make([]uint64, len(h.f.bounds))
		}
		for i, bound := range h.f.bounds {
			if value <= bound {
				s.buckets[i]++
			}
		}
		s.count++
		s.value += value
	})
}

// ServeHTTP answers a scraper.
func (r *Registry) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	_, _ = r.WriteTo(&b) // a buffer takes everything
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(b.Bytes()) // the scraper may be gone
}

// WriteTo writes all metrics, in an order that does not change.
func (r *Registry) WriteTo(w io.Writer) (int64, error) {
	r.mu.Lock()
	families := slices.Clone(r.families)
	r.mu.Unlock()
	slices.SortFunc(families, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	var b bytes.Buffer
	for _, f := range families {
		f.write(&b)
	}
	n, err := w.Write(b.Bytes())
	return int64(n), err
}

// family is one metric with all its series.
type family struct {
	name, help, kind string
	bounds           []float64
	labels           []string

	mu     sync.Mutex
	series map[string]*series
}

// series is one combination of label values.
type series struct {
	labels  []string
	value   float64 // of a histogram: the sum
	count   uint64
	buckets []uint64
}

func (r *Registry) register(name, help, kind string, bounds []float64, labels []string) *family {
	for i, label := range labels {
		if !validName(label, false) || slices.Contains(labels[:i], label) || strings.HasPrefix(label, "__") {
			panic(fmt.Sprintf("metric %s has a bad label %q", name, label))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !validName(name, true) || slices.ContainsFunc(r.families, func(f *family) bool { return f.name == name }) {
		panic(fmt.Sprintf("metric %q has a bad name, or is there twice", name))
	}
	f := &family{name: name, help: help, kind: kind, bounds: slices.Clone(bounds), labels: slices.Clone(labels), series: map[string]*series{}}
	r.families = append(r.families, f)
	if kind != "gauge" && len(labels) == 0 {
		f.change(nil, func(s *series) { s.buckets = make([]uint64, len(bounds)) })
	}
	return f
}

// change changes one series, which is made when it is not there.
func (f *family) change(labels []string, change func(*series)) {
	if len(labels) != len(f.labels) {
		panic(fmt.Sprintf("metric %s has labels %q, given %q", f.name, f.labels, labels))
	}
	valid := make([]string, len(labels))
	for i, label := range labels {
		valid[i] = strings.ToValidUTF8(label, "\uFFFD")
	}
	// No valid UTF-8 holds this byte.
	key := strings.Join(valid, "\xff")
	f.mu.Lock()
	defer f.mu.Unlock()
	s, there := f.series[key]
	if !there {
		s = &series{labels: valid}
		f.series[key] = s
	}
	change(s)
}

func (f *family) write(b *bytes.Buffer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]*series, 0, len(f.series))
	for _, s := range f.series {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *series) int { return slices.Compare(a.labels, b.labels) })
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", f.name, strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(f.help), f.name, f.kind)
	for _, s := range all {
		if f.kind != "histogram" {
			f.line(b, "", s, "", s.value)
			continue
		}
		for i, bound := range f.bounds {
			f.line(b, "_bucket", s, number(bound), float64(s.buckets[i]))
		}
		f.line(b, "_bucket", s, "+Inf", float64(s.count))
		f.line(b, "_sum", s, "", s.value)
		f.line(b, "_count", s, "", float64(s.count))
	}
}

// line writes one value. le is the bound of a bucket.
func (f *family) line(b *bytes.Buffer, suffix string, s *series, le string, value float64) {
	b.WriteString(f.name + suffix)
	pairs := make([]string, 0, len(f.labels)+1)
	for i, label := range f.labels {
		pairs = append(pairs, label+`="`+escape(s.labels[i])+`"`)
	}
	if le != "" {
		pairs = append(pairs, `le="`+le+`"`)
	}
	if len(pairs) > 0 {
		b.WriteString("{" + strings.Join(pairs, ",") + "}")
	}
	b.WriteString(" " + number(value) + "\n")
}

func escape(value string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(value)
}

func number(value float64) string {
	if math.IsInf(value, +1) {
		return "+Inf"
	}
	return strconv.FormatFloat(value, 'g', -1, 64)
}

// validName tells whether Prometheus takes the name of a metric or, without
// colons, of a label.
func validName(name string, colons bool) bool {
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == ':' && colons, c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return name != ""
}
