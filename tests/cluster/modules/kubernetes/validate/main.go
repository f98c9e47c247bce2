// Command validate asks Kubernetes itself whether it takes objects: it reads a JSON array of them from standard input, and writes what the
// API server would find wrong with each to standard output, a JSON array of the same length, empty where it finds nothing. Of a
// pod it also says what Pod Security finds, where that is asked for: "validate baseline". "validate admission" reads requests, each with the
// admission policy that is asked about it, and says why that denies them.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	"k8s.io/kubernetes/pkg/apis/batch"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string, objects io.Reader, complaints io.Writer) error {
	var given []json.RawMessage
	if err := json.NewDecoder(objects).Decode(&given); err != nil {
		return fmt.Errorf("read objects: %w", err)
	}
	judge := refused
	switch {
	case len(arguments) > 0 && arguments[0] == "admission":
		judge = denied
	case len(arguments) > 0:
		evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
		if err != nil {
			return fmt.Errorf("read the checks of Pod Security: %w", err)
		}
		level, err := api.ParseLevel(arguments[0])
		if err != nil {
			return fmt.Errorf("read a level of Pod Security: %w", err)
		}
		judge = func(raw []byte) string {
			return insecure(raw, evaluator, api.LevelVersion{Level: level, Version: api.LatestVersion()})
		}
	}
	found := make([]string, len(given))
	for i, raw := range given {
		found[i] = judge(raw)
	}
	if err := json.NewEncoder(complaints).Encode(found); err != nil {
		return fmt.Errorf("write what is wrong: %w", err)
	}
	return nil
}

// refused says why the API server would not create an object.
func refused(raw []byte) string {
	object, err := runtime.Decode(legacyscheme.Codecs.UniversalDecoder(), raw)
	if err != nil {
		return err.Error()
	}
	var strategy rest.RESTCreateStrategy
	switch object.(type) {
	case *apps.DaemonSet:
		strategy = daemonset.Strategy
	case *apps.Deployment:
		strategy = deployment.Strategy
	case *batch.Job:
		strategy = job.Strategy
	case *core.Pod:
		strategy = pod.Strategy
	default:
		return fmt.Sprintf("nobody has said how to create a %T", object)
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return err.Error()
	}
	rest.FillObjectMetaSystemFields(accessor)
	ctx := request.WithNamespace(context.Background(), accessor.GetNamespace())
	if err := rest.BeforeCreate(strategy, ctx, object); err != nil {
		return err.Error()
	}
	return ""
}

// insecure says what Pod Security forbids of a pod.
func insecure(raw []byte, evaluator policy.Evaluator, level api.LevelVersion) string {
	var pod corev1.Pod
	if err := json.Unmarshal(raw, &pod); err != nil {
		return err.Error()
	}
	legacyscheme.Scheme.Default(&pod)
	var reasons []string
	for _, result := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
		if !result.Allowed {
			reasons = append(reasons, result.ForbiddenReason)
		}
	}
	return strings.Join(reasons, ", ")
}
