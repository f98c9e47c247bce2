package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MetadataAnnotation is where Calico keeps the metadata of an object that was
// written through its v3 API or calicoctl and is stored in
// crd.projectcalico.org/v1. Felix lets what it says win over the object's own
// labels, so on an endpoint of ours it is drift. It means something in
// crd.projectcalico.org/v1 only: a reader of another API has to drop it.
const MetadataAnnotation = "projectcalico.org/metadata"

// metadata is the part of an object's metadata that Felix or Kubernetes acts on.
type metadata struct {
	labels, annotations map[string]string
	owners              []metav1.OwnerReference
}

// effective returns the metadata as Felix reads it: the object's own, and over
// it what the annotation says, which itself is left out. An annotation that
// can't be read says nothing. Mostly there is none, and what comes back is the
// object's own, which is not to be changed.
func effective(object metav1.Object) metadata {
	seen := metadata{labels: object.GetLabels(), annotations: object.GetAnnotations(), owners: object.GetOwnerReferences()}
	text, shadowed := seen.annotations[MetadataAnnotation]
	if !shadowed {
		return seen
	}
	seen.annotations = copyOf(seen.annotations)
	delete(seen.annotations, MetadataAnnotation)
	var shadow metav1.ObjectMeta
	if err := json.Unmarshal([]byte(text), &shadow); err != nil {
		return seen
	}
	seen.labels = copyOf(seen.labels)
	maps.Copy(seen.labels, shadow.Labels)
	maps.Copy(seen.annotations, shadow.Annotations)
	for _, ref := range shadow.OwnerReferences {
		if !slices.ContainsFunc(seen.owners, func(own metav1.OwnerReference) bool { return own.UID == ref.UID }) {
			seen.owners = append(slices.Clip(seen.owners), ref)
		}
	}
	return seen
}

// typed is an object of one type.
type typed[T any] interface {
	metav1.Object
	DeepCopy() T
}

// Plain returns a copy of an object with its metadata as Felix reads it, and without the
// annotation that would win over it.
func Plain[T typed[T]](object T) T {
	seen := effective(object)
	plain := object.DeepCopy()
	plain.SetLabels(copyOf(seen.labels))
	plain.SetAnnotations(copyOf(seen.annotations))
	plain.SetOwnerReferences(slices.Clone(seen.owners))
	return plain
}

// MergePatch returns the JSON merge patch (RFC 7386) that makes next of current, nil where
// they are the same. It carries current's resourceVersion, so that the API server refuses it
// with 409 when current is not the newest.
func MergePatch[T typed[T]](current, next T) ([]byte, error) {
	before, err := json.Marshal(current)
	after, problem := json.Marshal(next)
	if err = errors.Join(err, problem); err != nil || bytes.Equal(before, after) {
		return nil, err
	}
	patch, err := jsonpatch.CreateMergePatch(before, after)
	if err != nil {
		return nil, err
	}
	version := fmt.Sprintf(`{"metadata":{"resourceVersion":%q}}`, current.GetResourceVersion())
	return jsonpatch.MergeMergePatches(patch, []byte(version))
}

// copyOf is maps.Clone that never returns nil.
func copyOf(m map[string]string) map[string]string {
	c := make(map[string]string, len(m))
	maps.Copy(c, m)
	return c
}
