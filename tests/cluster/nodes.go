package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Node reads a Node object.
func (c *Cluster) Node(ctx context.Context, name string) (*corev1.Node, error) {
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get node: %w", err)
	}
	return n, nil
}

// WatchReady notes every moment in which a node is not Ready, until stop is called, which returns them.
func (c *Cluster) WatchReady(ctx context.Context) (stop func() []string, err error) {
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	events, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	var unready []string
	var group sync.WaitGroup
	group.Go(func() {
		for e := range events.ResultChan() {
			n, ok := e.Object.(*corev1.Node)
			if !ok || e.Type == watch.Deleted {
				continue
			}
			if err := NodeReady(n); err != nil {
				unready = append(unready, err.Error())
			}
		}
	})
	return func() []string {
		events.Stop()
		group.Wait()
		return unready
	}, nil
}

// Call is one kind of request that was made of the API server.
type Call struct {
	Verb, Group, Resource string
}

// Calls lists what a user, a service account, has asked the API server for so far, each kind once.
func (c *Cluster) Calls(user string) ([]Call, error) {
	var calls []Call
	err := c.audit(user, func(r Request) {
		if r.Call.Resource != "" && !slices.Contains(calls, r.Call) {
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
		if e.User.Username != user || seen[e.AuditID] {
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
