package calico

import (
	"encoding/json"
	"fmt"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/policyset"
)

// This file says what is read of each kind. A decoder keeps what it knows of a type
// for as long as the process lives, and the whole types of Node and
// GlobalNetworkPolicy are large.

// partial is an object of which this is read, beside its metadata.
type partial[S, T any] struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   S                 `json:"spec,omitzero"`
	Status T                 `json:"status,omitzero"`
	Data   map[string]string `json:"data,omitempty"`
}

// DeepCopyObject is for the client, as is that of lists.
func (p *partial[S, T]) DeepCopyObject() runtime.Object { return copied(p) }

// copied returns a copy, by way of JSON: the client asks for none of what it reads.
func copied[T any](object *T) *T {
	into := new(T)
	data, _ := json.Marshal(object) // what was decoded can be encoded
	_ = json.Unmarshal(data, into)
	return into
}

// node is what is read of a Node.
type node = partial[struct {
	PodCIDRs []string `json:"podCIDRs"`
}, struct {
	Conditions      []corev1.NodeCondition     `json:"conditions"`
	Addresses       []corev1.NodeAddress       `json:"addresses"`
	DaemonEndpoints corev1.NodeDaemonEndpoints `json:"daemonEndpoints"`
	NodeInfo        corev1.NodeSystemInfo      `json:"nodeInfo"`
}]

// wholeNode returns the Node, of which nothing else is known: its heartbeat is left out.
func wholeNode(n *node) *corev1.Node {
	for i, condition := range n.Status.Conditions {
		n.Status.Conditions[i] = corev1.NodeCondition{Type: condition.Type, Status: condition.Status}
	}
	return &corev1.Node{
		ObjectMeta: n.ObjectMeta,
		Spec:       corev1.NodeSpec{PodCIDRs: n.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Conditions: n.Status.Conditions, Addresses: n.Status.Addresses, DaemonEndpoints: n.Status.DaemonEndpoints, NodeInfo: n.Status.NodeInfo},
	}
}

// policy is what is read of a GlobalNetworkPolicy.
type policy = partial[map[string]any, struct{}]

// configMap is what is read of a ConfigMap.
type configMap = partial[struct{}, struct{}]

// saying is the ConfigMap of a release's clearance. That may be long, and is looked at more
// often than it changes.
type saying struct {
	*configMap
	said clearance.Clearance
	err  error // why it can't be read
}

// readClearance returns what a ConfigMap says, or why there is nothing to be acted on.
func readClearance(m *saying, options Options) (said *clearance.Clearance, problem string) {
	switch where := options.Namespace + "/" + options.Release; {
	case m == nil:
		return nil, fmt.Sprintf("the controller has not said anything yet: there is no ConfigMap %s (kubectl -n %s get deployments %s-controller)", where, options.Namespace, options.Release)
	case m.err != nil && !m.said.Opened && !m.said.Closed:
		return nil, fmt.Sprintf("ConfigMap %s: %v", where, m.err)
	}
	return &m.said, ""
}

// listOf is a list of one of these kinds.
type listOf[T any] struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []T `json:"items"`
}

// DeepCopyObject is as that of partial.
func (l *listOf[T]) DeepCopyObject() runtime.Object { return copied(l) }

// kind is what T is as an object of Kubernetes.
type kind[T any] interface {
	*T
	runtime.Object
	metav1.Object
}

// newScheme knows what is read of Calico's kinds in both groups, where they look the
// same, so that one client serves both, and of Kubernetes' own.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, group := range []string{GroupV3, GroupCRD} {
		add[v3.HostEndpoint](scheme, group, v3.KindHostEndpoint)
		add[v3.ClusterInformation](scheme, group, v3.KindClusterInformation)
		add[v3.GlobalNetworkSet](scheme, group, v3.KindGlobalNetworkSet)
		add[policy](scheme, group, v3.KindGlobalNetworkPolicy)
		add[failsafe.Configuration](scheme, group, v3.KindFelixConfiguration)
	}
	add[node](scheme, "v1", "Node")
	add[configMap](scheme, "v1", "ConfigMap")
	// As refusals come. What else metav1 would add is for servers, or needs not be known.
	scheme.AddUnversionedTypes(corev1.SchemeGroupVersion, &metav1.Status{})
	return scheme
}

// add makes a scheme know a kind, and its list, by T.
func add[T any, P kind[T]](scheme *runtime.Scheme, group, kind string) {
	of := schema.FromAPIVersionAndKind(group, kind)
	scheme.AddKnownTypeWithName(of, P(new(T)))
	of.Kind += "List"
	scheme.AddKnownTypeWithName(of, &listOf[T]{})
}

// kept returns what is kept of an object that was read in the group.
func kept(group string, read any) any {
	switch o := read.(type) {
	case *node:
		read = wholeNode(o)
	case *policy:
		trim(group, o)
		read = policyset.Of(o.ObjectMeta, o.Spec)
	case *configMap:
		said, err := clearance.Parse(o.Data, o.Annotations)
		read = &saying{o, said, err}
	}
	if o, ok := read.(metav1.Object); ok {
		trim(group, o)
	}
	return read
}

// trim drops from an object that was read in the group what is of no use, and may
// be large.
func trim(group string, object metav1.Object) {
	if _, felix := object.(*failsafe.Configuration); !felix || group != GroupCRD {
		// Calico's own API server does not know what was written underneath it.
		object.SetManagedFields(nil)
	}
	if group != GroupCRD {
		// It means nothing there.
		delete(object.GetAnnotations(), endpoint.MetadataAnnotation)
	}
}
