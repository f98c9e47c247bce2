package helm_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// withoutAgents lets the controller keep all nodes, with all that there is to see of it.
const withoutAgents = `
agent: {enabled: false, metrics: {enabled: true}}
ssh: {cidrs: [203.0.113.0/24]}
podMonitor: {enabled: true}
prometheusRule: {enabled: true}
`

// What there is instead is in the golden file.
func TestWithoutAgentsNothingOfThemIsRendered(t *testing.T) {
	t.Parallel()
	r := render(t, setting{values: withoutAgents, served: operated(clusterServing(apiV3))})
	require.Empty(t, r.daemonSets)
	require.Empty(t, r.serviceAccounts)
	require.Empty(t, r.clusterRoles)
	require.Empty(t, r.clusterRoleBindings)
	require.Empty(t, r.roles)
	require.Empty(t, r.roleBindings)
	require.Empty(t, r.podMonitors)
	require.Empty(t, r.flowSchemas)
	require.Empty(t, r.priorityLevels)
	for _, policy := range r.admissionPolicies {
		require.Equal(t, "host-firewall-networksets", policy.Name)
	}
	require.NotRegexp(t, `(?i)\b(agents disarm|each agent|agents? (makes|keeps?|narrows?|serves))\b`, r.notes)
	for _, words := range []string{"runs no agents", "Nobody sees on a node what packets meet there", "Nobody looks before who is logged in", "The controller disarms the nodes"} {
		require.Contains(t, r.notes, words)
	}
}

func TestWithoutAgentsItIsToldWhereNothingHoldsTheControllersToken(t *testing.T) {
	t.Parallel()
	r := render(t, setting{values: `agent: {enabled: false}`, kubernetes: "v1.29.9", served: clusterServing(apiV1)})
	require.Empty(t, r.admissionPolicies)
	require.Contains(t, r.notes, "ATTENTION: who has the controller's token can open and close all nodes")
}

func TestNodesThatTheControllerKeepsAreThoseThatWouldGetAnAgent(t *testing.T) {
	t.Parallel()
	affinity := func(expressions string) string {
		return fmt.Sprintf(`{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [%s]}]}}}`, expressions)
	}
	for values, want := range map[string]string{
		`agent: {enabled: false}`:                                     "kubernetes.io/os=linux,type notin (virtual-kubelet),eks.amazonaws.com/compute-type notin (fargate)",
		`agent: {enabled: false, affinity: null, nodeSelector: null}`: "",
		`agent: {enabled: false, nodeSelector: {kubernetes.io/os: null, pool: edge}, affinity: ` +
			affinity(`{key: a, operator: In, values: [north, south]}, {key: b, operator: Exists}, {key: c, operator: DoesNotExist}`) + `}`: "pool=edge,a in (north,south),b,!c",
	} {
		told := controllerArguments(t, render(t, setting{values: values}))
		require.Equal(t, want, told["nodes"])
		require.Equal(t, "false", told["agents"])
		require.Equal(t, "25%", told["max-unavailable"])
	}
}
