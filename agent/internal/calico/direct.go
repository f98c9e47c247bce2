package calico

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/cleanup"
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

// object is what the commands look at of what is in a namespace. The whole types are a
// large part of Kubernetes' API.
type object = partial[struct {
	NodeName string               `json:"nodeName"`
	Selector metav1.LabelSelector `json:"selector"`
}, struct {
	Conditions             []corev1.PodCondition `json:"conditions"`
	ObservedGeneration     int64                 `json:"observedGeneration"`
	DesiredNumberScheduled int                   `json:"desiredNumberScheduled"`
	UpdatedNumberScheduled int                   `json:"updatedNumberScheduled"`
	Replicas               int                   `json:"replicas"`
	ReadyReplicas          int                   `json:"readyReplicas"`
	UpdatedReplicas        int                   `json:"updatedReplicas"`
}]

// observed tells whether the status is of the object as it was last written.
func observed(o *object) bool { return o.Status.ObservedGeneration >= o.Generation }

// get reads an object, nil where there is none.
func (d *Direct) get(ctx context.Context, o cleanup.Object) (*object, error) {
	read := &object{}
	if found, err := d.read(ctx, o, read); !found {
		return nil, err
	}
	return read, nil
}

// Read reads an object as JSON, or without a name all of its kind, and tells whether it is there.
func (d *Direct) Read(ctx context.Context, kind, namespace, name string, into any) (bool, error) {
	return d.read(ctx, cleanup.Object{Kind: kind, Namespace: namespace, Name: name}, into)
}
