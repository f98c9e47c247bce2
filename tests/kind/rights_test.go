package kind

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

func TestAgentAsksForWhatItsRoleListsAndNothingElse(t *testing.T) {
	audited := local(t, "read the API server's audit log")
	r := install(t)
	allowed := roleOf(t)
	// Not every call is made in every release: other networks change what was narrowed, switching it off takes it back, and what other
	// settings have left on a node goes.
	node := worker(t, 1)
	putEndpoint(t, node+"-left1", node, "left1", map[string]any{"host-firewall.io/release": name, "host-firewall.io/node": node})
	for _, ssh := range []map[string]any{
		{"cidrs": nodes.AdminCIDRs()[1:], "narrowFailsafe": false},
		{"cidrs": nodes.AdminCIDRs()},
		{"cidrs": append(nodes.AdminCIDRs(), "203.0.113.77/32")},
		{"cidrs": nodes.AdminCIDRs()},
	} {
		_, err := r.Upgrade(t.Context(), with(map[string]any{"ssh": ssh}))
		require.NoError(t, err)
		requireArmed(t)
		for _, call := range roleOf(t) {
			if !slices.Contains(allowed, call) {
				allowed = append(allowed, call)
			}
		}
	}
	eventually(t, "the agents to have made every call of their role", func(context.Context) error {
		made, err := audited.Calls("system:serviceaccount:" + namespace + ":" + name)
		if err != nil {
			return err
		}
		for _, call := range made {
			if !slices.Contains(allowed, call) {
				return fmt.Errorf("not in the role: %+v", call)
			}
		}
		for _, call := range allowed {
			// Where the API server can't stream a list with a watch, it is asked for one.
			streamed := call
			if call.Verb == "list" {
				streamed.Verb = "watch"
			}
			if !slices.Contains(made, call) && !slices.Contains(made, streamed) {
				return fmt.Errorf("in the role, but not needed: %+v", call)
			}
		}
		return nil
	})
}

// roleOf lists what the agents of the release may ask for.
func roleOf(t *testing.T) []cluster.Call {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	role, err := client.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	apiServer, err := client.RbacV1().Roles(metav1.NamespaceDefault).Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	return callsOf(t, slices.Concat(role.Rules, apiServer.Rules))
}

func callsOf(t *testing.T, rules []rbacv1.PolicyRule) (allowed []cluster.Call) {
	t.Helper()
	for _, rule := range rules {
		require.Empty(t, rule.NonResourceURLs)
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					allowed = append(allowed, cluster.Call{Verb: verb, Group: group, Resource: resource})
				}
			}
		}
	}
	return allowed
}

func TestHelmTestAsksForWhatItsRolesListAndNothingElse(t *testing.T) {
	audited := local(t, "read the API server's audit log")
	r := install(t)
	log, err := r.Test()
	require.NoError(t, err, "helm test:\n%s", log)
	client, err := nodes.Client()
	require.NoError(t, err)
	ofCluster, err := client.RbacV1().ClusterRoles().Get(t.Context(), name+"-test", metav1.GetOptions{})
	require.NoError(t, err)
	ofNamespace, err := client.RbacV1().Roles(namespace).Get(t.Context(), name+"-test", metav1.GetOptions{})
	require.NoError(t, err)
	eventually(t, "the audit log to show every call", func(context.Context) error {
		made, err := audited.Calls("system:serviceaccount:" + namespace + ":" + name + "-test")
		if err != nil {
			return err
		}
		allowed := callsOf(t, append(ofCluster.Rules, ofNamespace.Rules...))
		in := func(calls []cluster.Call) func(cluster.Call) bool {
			return func(call cluster.Call) bool { return slices.Contains(calls, call) }
		}
		unused, extra := slices.DeleteFunc(slices.Clone(allowed), in(made)), slices.DeleteFunc(slices.Clone(made), in(allowed))
		if len(unused)+len(extra) > 0 {
			return fmt.Errorf("in the roles, but not needed: %+v; not in the roles: %+v", unused, extra)
		}
		return nil
	})
}

func TestAgentHasNoRightsOnItsNode(t *testing.T) {
	install(t)
	client, err := nodes.Client()
	require.NoError(t, err)
	pods, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: ofAgents})
	require.NoError(t, err)
	require.Len(t, pods.Items, len(nodeNames()))
	for _, p := range pods.Items {
		assert.Equal(t, name, p.Spec.ServiceAccountName)
		assert.Equal(t, "system-node-critical", p.Spec.PriorityClassName)
		pid, err := host.ProcessOf(p.Status.ContainerStatuses[0].ContainerID)
		require.NoError(t, err)
		// What the kernel says counts, not what was asked for.
		status := processStatus(t, pid)
		assert.Equal(t, []string{"65532", "65532", "65532", "65532"}, strings.Fields(status["Uid"]))
		assert.Equal(t, []string{"65532", "65532", "65532", "65532"}, strings.Fields(status["Gid"]))
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			assert.Equal(t, "0000000000000000", status[set], set)
		}
		assert.Equal(t, "1", status["NoNewPrivs"])
		assert.Equal(t, "2", status["Seccomp"], "a filter")
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", pid))
		require.NoError(t, err)
		options := strings.Split(strings.Fields(string(mounts))[3], ",")
		assert.Equal(t, "/", strings.Fields(string(mounts))[1])
		assert.Contains(t, options, "ro", "the root file system")
	}
}

// processStatus reads what the kernel says of a process.
func processStatus(t *testing.T, pid int) map[string]string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	status := map[string]string{}
	for _, line := range strings.Split(string(raw), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok {
			status[key] = strings.TrimSpace(value)
		}
	}
	return status
}
