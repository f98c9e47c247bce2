package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"github.com/fluxcd/pkg/ssa/normalize"
	"github.com/fluxcd/pkg/ssa/utils"
	"helm.sh/helm/v4/pkg/kube"
	release "helm.sh/helm/v4/pkg/release/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// correct says what in the cluster is not as the release has it, and puts that right where the HelmRelease wants it: a line for each object.
func (r *reconciler) correct(ctx context.Context, last *release.Release) error {
	drift := r.of.GetDriftDetection()
	if !drift.MustDetectChanges() {
		fmt.Println("in sync")
		return nil
	}
	api := r.config.KubeClient.(*waiter).api
	wanted, err := objectsOf(api, last)
	if err != nil {
		return err
	}
	owner := client.FieldOwner(kube.ManagedFieldsManager)
	differ, err := jsondiff.UnstructuredList(ctx, client.NewDryRunClient(api), wanted, jsondiff.FieldOwner(kube.ManagedFieldsManager),
		jsondiff.ExclusionSelector{v2.DriftDetectionMetadataKey: v2.DriftDetectionDisabledValue}, jsondiff.Rationalize(true), jsondiff.Graceful(true))
	if err != nil {
		return fmt.Errorf("look for drift: %w", err)
	}
	if !differ.HasChanges() {
		fmt.Println("in sync")
		return nil
	}
	var failed []error
	for _, d := range differ {
		var err error
		switch d.Type {
		case jsondiff.DiffTypeCreate:
			fmt.Printf("missing: %s %s\n", d.GroupVersionKind().Kind, d.GetName())
			if drift.GetMode() == v2.DriftDetectionEnabled {
				err = api.Create(ctx, d.DesiredObject, owner)
			}
		case jsondiff.DiffTypeUpdate:
			patch, encoding := json.Marshal(d.Patch)
			fmt.Printf("changed: %s %s %s\n", d.GroupVersionKind().Kind, d.GetName(), patch)
			if err = encoding; err == nil && drift.GetMode() == v2.DriftDetectionEnabled {
				err = api.Patch(ctx, d.DesiredObject, client.RawPatch(types.JSONPatchType, patch), owner)
			}
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("correct %s %s: %w", d.GroupVersionKind().Kind, d.GetName(), err))
		}
	}
	return errors.Join(failed...)
}

// objectsOf returns what Helm has written for a release, with what it adds to each.
func objectsOf(api client.Client, last *release.Release) ([]*unstructured.Unstructured, error) {
	objects, err := utils.ReadObjects(strings.NewReader(last.Manifest))
	if err != nil {
		return nil, fmt.Errorf("read what helm has written: %w", err)
	}
	if err := normalize.UnstructuredListWithScheme(objects, api.Scheme()); err != nil {
		return nil, fmt.Errorf("read what helm has written: %w", err)
	}
	for _, o := range objects {
		labels, annotations := o.GetLabels(), o.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		labels["app.kubernetes.io/managed-by"] = "Helm"
		annotations["meta.helm.sh/release-name"], annotations["meta.helm.sh/release-namespace"] = last.Name, last.Namespace
		o.SetLabels(labels)
		o.SetAnnotations(annotations)
		namespaced, err := apiutil.IsObjectNamespaced(o, api.Scheme(), api.RESTMapper())
		if err != nil {
			return nil, fmt.Errorf("find the kind %s: %w", o.GetKind(), err)
		}
		if namespaced && o.GetNamespace() == "" {
			o.SetNamespace(last.Namespace)
		}
	}
	return objects, nil
}
