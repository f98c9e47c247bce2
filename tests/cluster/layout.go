package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// layout is the folder in which everything of one cluster lies.
type layout string

func (l layout) path(parts ...string) string {
	return filepath.Join(append([]string{string(l)}, parts...)...)
}
func (l layout) kubeconfig() string       { return l.path("kubeconfig") }
func (l layout) pki() string              { return l.path("pki") }
func (l layout) hosts() string            { return l.path("hosts") }
func (l layout) host(name string) string  { return l.path("hosts", name) }
func (l layout) state(name string) string { return l.path("hosts", name, "var-lib") }
func (l layout) logs(host string) string  { return l.path("logs", host) }

// failedLogs is where the logs of an Up that failed are kept until the next Up or Down.
func (l layout) failedLogs() string { return string(l) + ".failed-logs" }

func (l layout) auditLog(node string) string { return l.path("logs", node, "audit.log") }
func (l layout) images() string              { return l.path("images") }
func (l layout) cni() string                 { return l.path("cni") }
func (l layout) felixPath() string           { return l.path("felix-path") }
func (l layout) bin(name string) string      { return l.path("bin", name) }

// saved is what has to be known of a cluster to work with it later.
type saved struct {
	Console  string            `json:"console"` // the API server's address on the machine's loopback
	Members  []Member          `json:"members"`
	Next     byte              `json:"next"` // number of the next node
	Binaries map[string]string `json:"binaries"`
	// Storage is what StorageGroup returns.
	Storage schema.GroupVersion `json:"storage"`
	// CalicoAPI tells that projectcalico.org/v3 is served, by Calico's own API server.
	CalicoAPI bool `json:"calicoAPI,omitempty"`
}

// Role says what a member is for.
type Role string

// The roles of a cluster's members.
const (
	ControlPlane Role = "control-plane"
	Worker       Role = "worker"
	Outsider     Role = "outsider"
)

// Member is a node, or an outsider.
type Member struct {
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	Addresses Addresses `json:"addresses"`
}

func (l layout) read() (*saved, error) {
	raw, err := os.ReadFile(l.path("cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster in %s (make cluster-up starts one)", string(l))
	}
	if err != nil {
		return nil, fmt.Errorf("read cluster: %w", err)
	}
	r := &saved{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("read cluster: %w", err)
	}
	return r, nil
}

func (l layout) write(r *saved) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write cluster: %w", err)
	}
	if err := os.WriteFile(l.path("cluster.json"), raw, 0o644); err != nil {
		return fmt.Errorf("write cluster: %w", err)
	}
	return nil
}
