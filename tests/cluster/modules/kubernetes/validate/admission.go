package main

import (
	"context"
	"encoding/json"
	"errors"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistration "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
)

// review is a request that an admission policy is asked about.
type review struct {
	Policy  admissionregistration.ValidatingAdmissionPolicy
	Request admissionv1.AdmissionRequest
}

// notAsked is what denied says where the policy's conditions leave the request alone.
const notAsked = "not asked"

// denied says why an admission policy refuses a request; empty: it does not.
func denied(raw []byte) string {
	var r review
	if err := json.Unmarshal(raw, &r); err != nil {
		return err.Error()
	}
	validator, err := compiled(r.Policy)
	if err != nil {
		return err.Error()
	}
	object, err := decoded(r.Request.Object)
	if err != nil {
		return err.Error()
	}
	old, err := decoded(r.Request.OldObject)
	if err != nil {
		return err.Error()
	}
	extra := map[string][]string{}
	for key, values := range r.Request.UserInfo.Extra {
		extra[key] = values
	}
	kind := schema.GroupVersionKind(r.Request.Kind)
	resource := schema.GroupVersionResource(r.Request.Resource)
	attributes := &admission.VersionedAttributes{
		Attributes: admission.NewAttributesRecord(object, old, kind, "", r.Request.Name, resource, "", admission.Operation(r.Request.Operation), nil, false,
			&user.DefaultInfo{Name: r.Request.UserInfo.Username, Extra: extra}),
		VersionedObject: object, VersionedOldObject: old, VersionedKind: kind,
	}
	decisions := validator.Validate(context.Background(), resource, attributes, nil, nil, celconfig.RuntimeCELCostBudget, nil).Decisions
	if len(decisions) == 0 {
		return notAsked
	}
	for _, decision := range decisions {
		if decision.Action == validating.ActionDeny {
			return decision.Message
		}
	}
	return ""
}

// compiled is a policy as the oldest Kubernetes that gets one takes it.
func compiled(policy admissionregistration.ValidatingAdmissionPolicy) (validating.Validator, error) {
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(version.MajorMinor(1, 30)))
	if err != nil {
		return nil, err
	}
	const as = environment.NewExpressions
	var variables []cel.NamedExpressionAccessor
	for _, v := range policy.Spec.Variables {
		variables = append(variables, &validating.Variable{Name: v.Name, Expression: v.Expression})
	}
	optional := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	compiler.CompileAndStoreVariables(variables, optional, as)
	var conditions, validations, messages []cel.ExpressionAccessor
	for i := range policy.Spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[i]))
	}
	for _, v := range policy.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
		if v.MessageExpression == "" {
			messages = append(messages, nil)
		} else {
			messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
		}
	}
	if len(validations) == 0 {
		return nil, errors.New("the policy validates nothing")
	}
	fail := policy.Spec.FailurePolicy
	return validating.NewValidator(
		compiler.CompileCondition(validations, optional, as),
		matchconditions.NewMatcher(compiler.CompileCondition(conditions, optional, as), fail, "policy", "validate", policy.Name),
		compiler.CompileCondition(nil, optional, as),
		compiler.CompileCondition(messages, cel.OptionalVariableDeclarations{}, as),
		fail, nil,
	), nil
}

// decoded is an object of a request, nil where there is none.
func decoded(raw runtime.RawExtension) (runtime.Object, error) {
	if len(raw.Raw) == 0 || string(raw.Raw) == "null" {
		return nil, nil
	}
	object := &unstructured.Unstructured{}
	return object, json.Unmarshal(raw.Raw, &object.Object)
}
