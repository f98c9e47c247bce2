package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// Readiness is what Felix says of itself.
type Readiness string

const (
	// Ready: it has given the kernel all that there was at its start, and goes on.
	Ready Readiness = "ready"
	// NotReady: it has not, or is too busy to say so.
	NotReady Readiness = "not ready"
	// Silent: nobody answers. So it is while Felix starts, and for good where healthEnabled is
	// false or healthPort is another one.
	Silent Readiness = "silent"
)

// felixPatience is how long Felix has for an answer, which it gives from memory.
const felixPatience = time.Second

// FelixReady asks the Felix of this node, at its usual port and at OpenShift's. The error says
// why it is not Ready.
func FelixReady(ctx context.Context) (Readiness, error) {
	return felixReady(ctx, "127.0.0.1:9099", "127.0.0.1:9199")
}

func felixReady(ctx context.Context, addresses ...string) (Readiness, error) {
	// Neither a proxy nor a connection that stays open.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: felixPatience}
	var problems []error
	for _, address := range addresses {
		status, err := get(ctx, client, "http://"+address+"/readiness")
		switch {
		case err == nil:
			return Ready, nil
		case status == http.StatusServiceUnavailable, os.IsTimeout(err):
			return NotReady, err
		}
		problems = append(problems, err)
	}
	return Silent, errors.Join(problems...)
}

// get returns the status of an answer; 0: there was none. The error is nil for success only.
func get(ctx context.Context, client *http.Client, url string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("GET %s: %s", url, answer.Status)
	}
	return answer.StatusCode, err
}
