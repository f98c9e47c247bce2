package failsafe

import (
	"encoding/json"
	"fmt"
	"maps"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Configuration is a FelixConfiguration. Every version of Calico knows more fields
// of its spec, and what somebody has set must be seen, and left alone, by an agent
// that has never heard of it. So the spec is what the API server has, field by
// field, as JSON.
type Configuration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec map[string]any `json:"spec"`
}

// DeepCopy returns a copy that shares nothing with c.
func (c *Configuration) DeepCopy() *Configuration {
	copied := &Configuration{TypeMeta: c.TypeMeta, Spec: runtime.DeepCopyJSON(c.Spec)}
	c.ObjectMeta.DeepCopyInto(&copied.ObjectMeta)
	return copied
}

// DeepCopyObject is for the client, as for every object of Kubernetes.
func (c *Configuration) DeepCopyObject() runtime.Object { return c.DeepCopy() }

// Version is the object's resourceVersion, empty where there is no object.
func (c *Configuration) Version() string {
	if c == nil {
		return ""
	}
	return c.ResourceVersion
}

// inbound is the field that is narrowed.
const inbound = "failsafeInboundHostPorts"

// listOf returns the inbound list of a configuration, nil where it has none.
func listOf(c *Configuration) (list *[]v3.ProtoPort, err error) {
	if c == nil || c.Spec[inbound] == nil {
		return nil, nil
	}
	data, err := json.Marshal(c.Spec[inbound])
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("read spec.%s of FelixConfiguration %s: %w", inbound, c.Name, err)
	}
	return list, nil
}

// set makes a list, nil for none, the inbound one of a configuration.
func (c *Configuration) set(list *[]v3.ProtoPort) {
	delete(c.Spec, inbound)
	if list == nil {
		return
	}
	if c.Spec == nil {
		c.Spec = map[string]any{}
	}
	// A list of ports can always be encoded.
	data, _ := json.Marshal(*list)
	var value any
	_ = json.Unmarshal(data, &value)
	c.Spec[inbound] = value
}

// fieldsOf returns the fields that the spec of a configuration has, none if there is
// no object. Calico's types write one field even where it is empty.
func fieldsOf(c *Configuration) map[string]any {
	if c == nil {
		return nil
	}
	fields := maps.Clone(c.Spec)
	maps.DeleteFunc(fields, func(_ string, value any) bool { return value == nil || value == "" })
	return fields
}
