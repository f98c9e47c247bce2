package transport

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// busy is an API server that answers all requests in one way, and counts them.
type busy struct {
	code     int
	after    string
	err      error
	requests int
}

func (b *busy) RoundTrip(request *http.Request) (*http.Response, error) {
	b.requests++
	if b.err != nil {
		return nil, b.err
	}
	return &http.Response{StatusCode: b.code, Header: http.Header{"Retry-After": {b.after}}, Body: http.NoBody, Request: request}, nil
}

func (b *busy) refuse(code int, after string) { b.code, b.after, b.requests = code, after, 0 }

const endpointsPath = "/apis/crd.projectcalico.org/v1/hostendpoints"

func TestBusyAPIServerIsLeftAloneWithEverythingAsLongAsItSays(t *testing.T) {
	for name, test := range map[string]struct {
		code    int
		after   string
		refused *http.Request
		other   *http.Request
		waits   bool // the other one
	}{
		"the same": {429, "3", httptest.NewRequest("GET", "/api/v1/nodes", nil), httptest.NewRequest("GET", "/api/v1/nodes", nil), true},
		"another":  {429, "3", httptest.NewRequest("GET", "/api/v1/nodes", nil), httptest.NewRequest("POST", "/api/v1/namespaces/default/events", nil), true},
		"one that restarts": {503, "3", httptest.NewRequest("GET", "/api/v1/nodes", nil),
			httptest.NewRequest("GET", endpointsPath, nil), true},
		"a repair does not wait for an event": {429, "3", httptest.NewRequest("POST", "/api/v1/namespaces/default/events", nil),
			httptest.NewRequest("PATCH", endpointsPath+"/n1", nil), false},
		"a repair waits for its own kind": {429, "3", httptest.NewRequest("POST", endpointsPath, nil), httptest.NewRequest("PATCH", endpointsPath+"/n1", nil), true},
		"nothing else waits for a repair": {429, "3", httptest.NewRequest("POST", endpointsPath, nil), httptest.NewRequest("GET", endpointsPath, nil), false},
		"it does not say for how long":    {429, "", httptest.NewRequest("GET", "/api/v1/nodes", nil), httptest.NewRequest("GET", "/api/v1/nodes", nil), false},
		"it is refused for other reasons": {403, "3", httptest.NewRequest("GET", "/api/v1/nodes", nil), httptest.NewRequest("GET", "/api/v1/nodes", nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &busy{}
				p := New(server, func(string, int) {})
				server.refuse(test.code, test.after)
				response, err := p.RoundTrip(test.refused)
				require.NoError(t, err)
				assert.Equal(t, test.code, response.StatusCode)
				require.Equal(t, 1, server.requests)

				server.refuse(http.StatusOK, "")
				time.Sleep(3*time.Second - 1)
				response, err = p.RoundTrip(test.other)
				require.NoError(t, err)
				if !test.waits {
					assert.Equal(t, http.StatusOK, response.StatusCode)
					return
				}
				assert.Zero(t, server.requests)
				assert.Equal(t, http.StatusTooManyRequests, response.StatusCode)
				after, err := strconv.Atoi(response.Header.Get("Retry-After"))
				require.NoError(t, err)
				_, err = io.ReadAll(response.Body)
				require.NoError(t, err)

				time.Sleep(time.Duration(after) * time.Second)
				response, err = p.RoundTrip(test.other)
				require.NoError(t, err)
				assert.Equal(t, http.StatusOK, response.StatusCode, "who waits as told need not wait again")
			})
		})
	}
}

func TestAPIServerThatIsNotReachedIsNoneThatIsBusy(t *testing.T) {
	server := &busy{err: errors.New("connection refused")}
	p := New(server, func(string, int) {})
	for range 2 {
		_, err := p.RoundTrip(httptest.NewRequest("GET", "/", nil))
		assert.ErrorIs(t, err, server.err)
	}
	assert.Equal(t, 2, server.requests)
}
