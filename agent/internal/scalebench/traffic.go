package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// slack is by how much a repeated request may be early: clocks are read at
// different moments.
const slack = 20 * time.Millisecond

// traffic counts the requests of all members.
type traffic struct {
	mu        sync.Mutex
	requests  map[string]int
	watches   int // that are open
	tooMany   int
	disobeyed map[string]int
}

func newTraffic() *traffic { return &traffic{requests: map[string]int{}, disobeyed: map[string]int{}} }

func (t *traffic) fill(r *report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Requests, r.Watches, r.TooMany, r.Disobeyed = maps.Clone(t.requests), t.watches, t.tooMany, maps.Clone(t.disobeyed)
}

// observed is the transport of one member. It counts, and notices a request that
// comes again sooner than the API server has asked for.
type observed struct {
	next    http.RoundTripper
	traffic *traffic

	mu        sync.Mutex
	notBefore map[string]time.Time // by what was asked for
}

// RoundTrip makes one request.
func (o *observed) RoundTrip(request *http.Request) (*http.Response, error) {
	early := o.early(request)
	response, err := o.next.RoundTrip(request)
	code := "failed"
	if err == nil {
		code = strconv.Itoa(response.StatusCode)
	}
	tooMany := err == nil && response.StatusCode == http.StatusTooManyRequests
	if tooMany {
		// Without the header, or with a date, there is nothing to obey that client-go knows.
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		what := subject(request)
		o.mu.Lock()
		o.notBefore[what] = time.Now().Add(time.Duration(seconds) * time.Second)
		o.mu.Unlock()
	}

	o.traffic.mu.Lock()
	defer o.traffic.mu.Unlock()
	o.traffic.requests[kind(request)+" "+code]++
	if tooMany {
		o.traffic.tooMany++
	}
	if early {
		o.traffic.disobeyed[kind(request)]++
	}
	if err == nil && response.StatusCode == http.StatusOK && request.URL.Query().Get("watch") != "" {
		o.traffic.watches++
		response.Body = &watched{ReadCloser: response.Body, traffic: o.traffic}
	}
	return response, err
}

// watched is what a watch reads from.
type watched struct {
	io.ReadCloser
	traffic *traffic
	once    sync.Once
}

// Close ends the watch.
func (w *watched) Close() error {
	w.once.Do(func() {
		w.traffic.mu.Lock()
		defer w.traffic.mu.Unlock()
		w.traffic.watches--
	})
	return w.ReadCloser.Close()
}

// early tells whether a request comes sooner than it was to.
func (o *observed) early(request *http.Request) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Mostly there is nothing to obey, and the agents' own machines would not have to look.
	return len(o.notBefore) > 0 && time.Until(o.notBefore[subject(request)]) > slack
}

// subject is what two requests have in common when one is the other, made again.
// A member has several caches of one resource, and several events to write.
func subject(request *http.Request) string {
	query := request.URL.Query()
	parts := []string{request.Method, request.URL.Path}
	for _, name := range []string{"watch", "labelSelector", "fieldSelector", "continue"} {
		parts = append(parts, query.Get(name))
	}
	if request.GetBody != nil {
		if body, err := request.GetBody(); err == nil {
			content, _ := io.ReadAll(body) // it is in memory
			parts = append(parts, string(content))
		}
	}
	return strings.Join(parts, " ")
}

// kind is a request without the name of an object.
func kind(request *http.Request) string {
	method := request.Method
	query := request.URL.Query()
	switch {
	case method == http.MethodGet && query.Get("watch") != "":
		method = "WATCH"
	case method == http.MethodGet && query.Get("limit") != "":
		method = "LIST"
	}
	// /api/v1/RESOURCE/NAME, /apis/GROUP/VERSION/RESOURCE/NAME, or with namespaces/NAMESPACE before the resource
	parts := strings.Split(strings.Trim(path.Clean(request.URL.Path), "/"), "/")
	skip := 2
	if parts[0] == "apis" {
		skip = 3
	}
	if len(parts) > skip+2 && parts[skip] == "namespaces" {
		skip += 2
	}
	if len(parts) <= skip {
		return fmt.Sprintf("%s %s", method, request.URL.Path)
	}
	return fmt.Sprintf("%s %s", method, parts[skip])
}
