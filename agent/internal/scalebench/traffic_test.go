package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type answer func() *http.Response

func (a answer) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

func TestRequestThatComesSoonerThanTheServerAskedForIsNoticed(t *testing.T) {
	for name, test := range map[string]struct {
		retryAfter string
		again      string
		disobeyed  map[string]int
	}{
		"the same again":          {"1", "/apis/g/v1/hostendpoints", map[string]int{"POST hostendpoints": 1}},
		"the same by selection":   {"1", "/apis/g/v1/hostendpoints?labelSelector=a%3Db", map[string]int{}},
		"another one":             {"1", "/apis/g/v1/hostendpoints/a", map[string]int{}},
		"the same, not held back": {"", "/apis/g/v1/hostendpoints", map[string]int{}},
	} {
		t.Run(name, func(t *testing.T) {
			counted := newTraffic()
			o := observed{traffic: counted, notBefore: map[string]time.Time{}, next: answer(func() *http.Response {
				return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {test.retryAfter}}}
			})}
			for _, path := range []string{"/apis/g/v1/hostendpoints", test.again} {
				_, err := o.RoundTrip(httptest.NewRequest(http.MethodPost, path, nil))
				require.NoError(t, err)
			}
			var r report
			counted.fill(&r)
			assert.Equal(t, 2, r.TooMany)
			assert.Equal(t, test.disobeyed, r.Disobeyed)
			assert.Equal(t, map[string]int{"POST hostendpoints 429": 2}, r.Requests)
		})
	}
}

func TestWatchesAreCountedWhileTheyAreOpen(t *testing.T) {
	counted := newTraffic()
	o := observed{traffic: counted, next: answer(func() *http.Response {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	})}
	open := func() (r report) {
		counted.fill(&r)
		return r
	}
	_, err := o.RoundTrip(httptest.NewRequest(http.MethodGet, "/api/v1/nodes?limit=250", nil))
	require.NoError(t, err)
	assert.Zero(t, open().Watches)
	watch, err := o.RoundTrip(httptest.NewRequest(http.MethodGet, "/api/v1/nodes?watch=true", nil))
	require.NoError(t, err)
	assert.Equal(t, 1, open().Watches)
	for range 2 {
		require.NoError(t, watch.Body.Close())
		assert.Zero(t, open().Watches)
	}
}

func TestRequestsAreCountedByVerbAndResource(t *testing.T) {
	for target, want := range map[string]string{
		"/api/v1/nodes?watch=true":                  "WATCH nodes",
		"/api/v1/nodes?limit=250":                   "LIST nodes",
		"/api/v1/namespaces/a/configmaps?watch=1":   "WATCH configmaps",
		"/api/v1/namespaces/default/events":         "GET events",
		"/api/v1/namespaces/default":                "GET namespaces",
		"/apis/crd.projectcalico.org/v1/policies/a": "GET policies",
		"/apis/crd.projectcalico.org/v1":            "GET /apis/crd.projectcalico.org/v1",
	} {
		assert.Equal(t, want, kind(httptest.NewRequest(http.MethodGet, target, nil)), target)
	}
}
