// Package host makes hosts out of Linux namespaces: each one has its own network, processes, mounts and host name, held
// together by one init process of ours. When that process ends, the kernel ends everything that ran on the host and
// takes its interfaces and mounts away, so nothing has to be remembered in order to be cleaned up.
package host

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Spec says what a host is. Paths are absolute and are those of the machine.
type Spec struct {
	// Name is the host's name, also its hostname.
	Name string `json:"name"`
	// State is the folder that appears as /var/lib on the host, so that what is stored there is the host's own and
	// outlives a restart of the host. Empty: the host has no /var/lib of its own.
	State string `json:"state,omitempty"`
	// Logs is the folder in which every component's output is kept, one file a component.
	Logs string `json:"logs"`
	// Sysctls are the host's from its start: names with slashes, below /proc/sys; a * is each that is there.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Console is an address on the host, reached over its own loopback, to which the machine's loopback listener that
	// was given to Start is connected. Empty: no listener.
	Console string `json:"console,omitempty"`
	// Components are the programs that run on the host. One that ends is started again, as a service manager would.
	Components []Component `json:"components,omitempty"`
}

// Component is one program of a host.
type Component struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
}

// specFile is where a host's spec lies in its folder.
func specFile(dir string) string { return filepath.Join(dir, "spec.json") }

func readSpec(dir string) (*Spec, error) {
	raw, err := os.ReadFile(specFile(dir))
	if err != nil {
		return nil, fmt.Errorf("read host spec: %w", err)
	}
	spec := &Spec{}
	if err := json.Unmarshal(raw, spec); err != nil {
		return nil, fmt.Errorf("read host spec %s: %w", specFile(dir), err)
	}
	return spec, nil
}

func writeSpec(dir string, spec *Spec) error {
	raw, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("write host spec: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write host spec: %w", err)
	}
	if err := os.WriteFile(specFile(dir), raw, 0o644); err != nil {
		return fmt.Errorf("write host spec: %w", err)
	}
	return nil
}
