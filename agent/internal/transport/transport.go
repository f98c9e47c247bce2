// Package transport is what every request to the API server goes through.
package transport

import (
	"io"
	"math/rand/v2"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// New returns a transport over next that counts what the API server answers, and is patient.
// count is told of every answer, by verb and HTTP status; the status is 0 when there was none.
func New(next http.RoundTripper, count func(verb string, code int)) http.RoundTripper {
	return &patience{RoundTripper: next, count: count}
}

// patience is a transport that obeys an API server that says when to come again:
// until then it answers in the server's place, as the server did, so that whoever
// made the request waits as for the server.
//
// It is left alone with everything, for what it refuses is too much of all, and for
// a random time longer than it has said, for it says the same to thousands of agents.
// The more it has to refuse, the longer it says itself: up to 32 seconds. Only the
// writes by which a node is protected do not wait because something else was refused.
type patience struct {
	http.RoundTripper
	count func(verb string, code int)

	mu                sync.Mutex
	others, endpoints time.Time // not before
}

// hostEndpoints is how the API server calls them.
const hostEndpoints = "hostendpoints"

// spread is by how much longer than told an agent waits at most.
const spread = 4 * time.Second

// RoundTrip makes the request, unless it is too early for it.
func (p *patience) RoundTrip(request *http.Request) (*http.Response, error) {
	until := &p.others
	if writesEndpoint(request) {
		until = &p.endpoints
	}
	p.mu.Lock()
	left := time.Until(*until)
	p.mu.Unlock()
	if left > 0 {
		if request.Body != nil {
			request.Body.Close()
		}
		return tooEarly(request, left), nil
	}
	response, err := p.RoundTripper.RoundTrip(request)
	if err != nil {
		p.count(verbOf(request), 0)
		return response, err
	}
	p.count(verbOf(request), response.StatusCode)
	if delay := retryAfter(response); delay > 0 {
		p.mu.Lock()
		if then := time.Now().Add(delay + rand.N(spread)); then.After(*until) {
			*until = then
		}
		p.mu.Unlock()
	}
	return response, nil
}

// WrappedRoundTripper lets client-go find the transport underneath.
func (p *patience) WrappedRoundTripper() http.RoundTripper { return p.RoundTripper }

// writesEndpoint tells whether the request creates, changes or deletes an endpoint.
func writesEndpoint(request *http.Request) bool {
	folder, last := path.Split(request.URL.Path)
	return request.Method != http.MethodGet && (last == hostEndpoints || path.Base(folder) == hostEndpoints)
}

// retryAfter is how long the API server wants to be left alone; zero: it does not
// say. Its header is in seconds; no API server sends a date.
func retryAfter(response *http.Response) time.Duration {
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode < http.StatusInternalServerError {
		return 0
	}
	seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
	return time.Duration(max(seconds, 0)) * time.Second
}

// tooEarly is the answer to a request that has to wait.
func tooEarly(request *http.Request, left time.Duration) *http.Response {
	const text = "the API server has asked to be left alone for a while"
	return &http.Response{
		StatusCode: http.StatusTooManyRequests,
		Header: http.Header{
			"Retry-After":  {strconv.Itoa(int((left + time.Second - 1) / time.Second))},
			"Content-Type": {"text/plain"},
		},
		ContentLength: int64(len(text)),
		Body:          io.NopCloser(strings.NewReader(text)),
		Request:       request,
	}
}

// verbOf is what Kubernetes calls the request.
func verbOf(request *http.Request) string {
	switch query := request.URL.Query(); {
	case request.Method == http.MethodPost:
		return "create"
	case request.Method == http.MethodPatch, request.Method == http.MethodDelete:
		return strings.ToLower(request.Method)
	case query.Get("watch") != "":
		return "watch"
	case query.Has("limit"), query.Has("resourceVersion"), query.Has("fieldSelector"), query.Has("labelSelector"):
		return "list"
	default:
		return "get"
	}
}
