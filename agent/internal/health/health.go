// Package health answers the kubelet's probes, on loopback only: the kubelet
// probes a host-networked pod at 127.0.0.1, and nobody else has to ask.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Report is the body of /readyz.
type Report struct {
	State  string    `json:"state"`
	Ready  bool      `json:"ready"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// Checks are the questions that the server passes on. Both are called from any
// goroutine and have to answer at once.
type Checks struct {
	// Alive returns an error when a restart is the only way out.
	Alive func() error
	// Report says how the node is.
	Report func() Report
}

// Server answers probes on a port of 127.0.0.1.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen opens the port and returns a server for it that does not answer yet.
// Port 0 takes a free one. An error means that the port could not be had.
func Listen(port int, checks Checks) (*Server, error) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for health probes: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", checks.livez)
	mux.HandleFunc("GET /readyz", checks.readyz)
	return &Server{
		listener: listener,
		http: &http.Server{
			Handler:           mux,
			ReadHeaderTimeout: 2 * time.Second,
			ReadTimeout:       5 * time.Second,
			WriteTimeout:      5 * time.Second,
			IdleTimeout:       30 * time.Second,
			MaxHeaderBytes:    8 << 10,
		},
	}, nil
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Serve answers probes until the context ends, then closes the port. The error
// is nil unless serving broke by itself.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health probes: %w", err)
	}
	return nil
}

func (c Checks) livez(w http.ResponseWriter, _ *http.Request) {
	if err := c.Alive(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (c Checks) readyz(w http.ResponseWriter, _ *http.Request) {
	report := c.Report()
	body, err := json.Marshal(report)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !report.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintf(w, "%s\n", body)
}
