package calico

import (
	"context"

	"k8s.io/client-go/rest"
)

// Direct is the API server as a command sees it: without caches, for it runs once and looks at all nodes. Its methods
// may be called from any goroutine; those on Calico's objects only once Find has returned without an error.
type Direct struct {
	*Cluster
}

// NewDirect returns a Direct for the API server of config. It makes no request.
// An error means that config can't be used.
func NewDirect(config *rest.Config, options Options) (*Direct, error) {
	cluster, err := open(config, options)
	return &Direct{cluster}, err
}

// Find finds out by which API group Calico is reached, unless that is told.
func (d *Direct) Find(ctx context.Context) (err error) {
	if d.group = d.options.APIGroup; d.group == "" {
		d.group, err = d.findGroup(ctx)
	}
	return err
}
