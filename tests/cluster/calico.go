package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	calicoV1    = schema.GroupVersion{Group: "crd.projectcalico.org", Version: "v1"}
)

// groupsOf are those of Calico's that definitions are for. The one in which Calico is to keep what it knows is the last.
func groupsOf(crds []*unstructured.Unstructured) (groups []schema.GroupVersion) {
	for _, group := range []schema.GroupVersion{calicoV1, calicoV3} {
		if slices.ContainsFunc(crds, func(o *unstructured.Unstructured) bool { return o.GetName() == "clusterinformations."+group.Group }) {
			groups = append(groups, group)
		}
	}
	return groups
}

// installCalico creates Calico's definitions and, in each of their groups, the objects that its own installation would: the cluster
// information that Felix waits for, and a pool of pod addresses for each family, with VXLAN between nodes.
func installCalico(ctx context.Context, config *rest.Config, crds []*unstructured.Unstructured) error {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	for _, o := range crds {
		if err := create(ctx, client.Resource(definitions), o); err != nil {
			return err
		}
	}
	for _, o := range crds {
		if err := waitEstablished(ctx, client, o.GetName()); err != nil {
			return err
		}
	}
	for _, group := range groupsOf(crds) {
		own := func(resource, kind, name string, spec map[string]any) error {
			return create(ctx, client.Resource(group.WithResource(resource)), &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": group.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
			}})
		}
		pool := func(name, cidr string, blockSize int64) error {
			return own("ippools", "IPPool", name, map[string]any{
				"cidr": cidr, "blockSize": blockSize, "vxlanMode": "Always", "ipipMode": "Never", "natOutgoing": true,
				"nodeSelector": "all()", "allowedUses": []any{"Workload", "Tunnel"},
			})
		}
		if err := errors.Join(
			own("clusterinformations", "ClusterInformation", "default", map[string]any{
				"datastoreReady": true, "clusterGUID": "0123456789abcdef0123456789abcdef", "clusterType": "k8s",
			}),
			pool("pods-ipv4", podCIDR4, 26),
			pool("pods-ipv6", podCIDR6, 122),
		); err != nil {
			return err
		}
	}
	return nil
}

func create(ctx context.Context, client dynamic.ResourceInterface, o *unstructured.Unstructured) error {
	_, err := client.Create(ctx, o, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// readObjects reads every YAML document below dir.
func readObjects(dir string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		decoded, err := DecodeObjects(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		objects = append(objects, decoded...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	return objects, nil
}

// DecodeObjects reads YAML documents; empty ones are left out.
func DecodeObjects(raw []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(o); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, fmt.Errorf("decode objects: %w", err)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

func waitEstablished(ctx context.Context, client dynamic.Interface, name string) error {
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		o, err := client.Resource(definitions).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, nil
		}
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == string(metav1.ConditionTrue) {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s to be served: %w", name, err)
	}
	return nil
}
