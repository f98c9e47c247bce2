package bench

import (
	"math"
	"slices"
	"time"
)

// Distribution is what a number of rounds took, in milliseconds. In the percentiles a round that was given up counts as
// the limit.
type Distribution struct {
	Rounds int     `json:"rounds"` // all
	Missed int     `json:"missed"` // of these, those that were given up
	Limit  float64 `json:"limit"`  // when a round is given up
	P50    float64 `json:"p50"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
	// Samples are those that were not given up, in the order in which they were measured.
	Samples []float64 `json:"samples"`
}

func distribution(samples []time.Duration, missed int, limit time.Duration) Distribution {
	d := Distribution{Rounds: len(samples) + missed, Missed: missed, Limit: milliseconds(limit), Samples: []float64{}}
	for _, s := range samples {
		d.Samples = append(d.Samples, milliseconds(s))
	}
	sorted := append(slices.Sorted(slices.Values(d.Samples)), slices.Repeat([]float64{d.Limit}, missed)...)
	d.P50, d.P90, d.P99, d.Max = percentile(sorted, 50), percentile(sorted, 90), percentile(sorted, 99), percentile(sorted, 100)
	return d
}

// percentile is the smallest of the sorted values that at least p percent of them don't exceed: always a measured one.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(p/100*float64(len(sorted))))-1, 0)]
}

// milliseconds are rounded to hundredths.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond).Microseconds()) / 1000
}
