// Package health answers the kubelet's probes, on loopback only: the kubelet
// probes a host-networked pod at 127.0.0.1, and nobody else has to ask. Where it
// is wanted, it serves metrics on an address of their own.
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
	// Enforced is an agent's: by which families of addresses packets meet the rules.
	Enforced string `json:"enforced,omitempty"`
}

// Server answers requests on one address.
type Server struct {
	what     string
	listener net.Listener
	http     *http.Server
}

// Listen opens the port of the probes on 127.0.0.1 and returns a server for it that
// does not answer yet. Port 0 takes a free one. alive returns an error when a restart is
// the only way out; both are called from any goroutine and have to answer at once.
func Listen(port int, alive func() error, report func() Report) (*Server, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		if err := alive(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		told := report()
		w.Header().Set("Content-Type", "application/json")
		if !told.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(told) // the kubelet may be gone
	})
	return listen("health probes", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), mux)
}

// ListenMetrics opens an address for /metrics and returns a server for it that does
// not answer yet.
func ListenMetrics(address string, metrics http.Handler) (*Server, error) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	return listen("metrics", address, mux)
}

func listen(what, address string, handler http.Handler) (*Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	return &Server{
		what:     what,
		listener: listener,
		http: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 2 * time.Second,
			ReadTimeout:       5 * time.Second,
			WriteTimeout:      5 * time.Second,
			IdleTimeout:       30 * time.Second,
			MaxHeaderBytes:    8 << 10,
		},
	}, nil
}

// Serve answers until the context ends, then closes the port. The error
// is nil unless serving broke by itself.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", s.what, err)
	}
	return nil
}
