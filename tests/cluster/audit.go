package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// Call is one kind of request that was made of the API server.
type Call struct {
	Verb, Group, Resource string
}

// Calls lists what a user, a service account, has asked the API server for since then, each kind once.
func (c *Cluster) Calls(user string, since time.Time) ([]Call, error) {
	var calls []Call
	err := c.audit(user, func(r Request) {
		if r.Call.Resource != "" && !r.At.Before(since) && !slices.Contains(calls, r.Call) {
			calls = append(calls, r.Call)
		}
	})
	return calls, err
}

// Request is one request that was made of the API server.
type Request struct {
	Call           // without a resource: for something else, such as what the API server serves
	Pod  string    // whose token was used; empty: no pod's
	At   time.Time // when it came in
}

// Requests lists every request that a user, a service account, has made of the API server so far. A watch is one request, at
// the time when it began.
func (c *Cluster) Requests(user string) ([]Request, error) {
	var requests []Request
	err := c.audit(user, func(r Request) { requests = append(requests, r) })
	return requests, err
}

// audit shows every request of a user in the API server's audit log, once.
func (c *Cluster) audit(user string, show func(Request)) error {
	log, err := os.Open(c.layout.auditLog(ControlPlaneNode))
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	defer log.Close()
	seen := map[string]bool{}
	events := json.NewDecoder(log)
	for {
		var e struct {
			AuditID string    `json:"auditID"` // a watch has two events
			Verb    string    `json:"verb"`
			At      time.Time `json:"requestReceivedTimestamp"`
			Agent   string    `json:"userAgent"`
			User    struct {
				Username string              `json:"username"`
				Extra    map[string][]string `json:"extra"`
			} `json:"user"`
			ObjectRef struct {
				APIGroup string `json:"apiGroup"`
				Resource string `json:"resource"`
			} `json:"objectRef"`
		}
		// The API server may be writing the last line just now.
		if err := events.Decode(&e); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read audit log: %w", err)
		}
		// A test may have had a token of the user's.
		if e.User.Username != user || e.Agent == rest.DefaultKubernetesUserAgent() || seen[e.AuditID] {
			continue
		}
		seen[e.AuditID] = true
		show(Request{
			Call: Call{Verb: e.Verb, Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource},
			Pod:  strings.Join(e.User.Extra["authentication.kubernetes.io/pod-name"], ""),
			At:   e.At,
		})
	}
}
