package kind

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

func TestAgentAndControllerAskForWhatTheirRolesListAndNothingElse(t *testing.T) {
	audited := local(t, "read the API server's audit log")
	r := install(t)
	accounts := map[string][]cluster.Call{name: nil, name + "-controller": nil}
	widen := func(who ...string) {
		for _, account := range who {
			for _, call := range rightsOf(t, account) {
				if !slices.Contains(accounts[account], call) {
					accounts[account] = append(accounts[account], call)
				}
			}
		}
	}
	widen(name, name+"-controller")
	upgrade := func(values map[string]any, who ...string) {
		_, err := r.Upgrade(t.Context(), values)
		require.NoError(t, err)
		requireArmed(t)
		widen(who...)
	}
	// Not every call is made in every release: other networks change what was narrowed, switching it off takes it back, and what other
	// settings have left on a node goes. Without nodes that are trusted their network sets go, and with them they come.
	node := worker(t, 1)
	putEndpoint(t, node+"-left1", node, "left1", map[string]any{"host-firewall.io/release": name, "host-firewall.io/node": node})
	for _, changes := range []map[string]any{
		{"ssh": map[string]any{"cidrs": nodes.AdminCIDRs()[1:], "narrowFailsafe": false}},
		{"cluster": map[string]any{"trustNodes": false, "cidrs": nodes.ClusterCIDRs()}},
		{"ssh": map[string]any{"cidrs": append(nodes.AdminCIDRs(), "203.0.113.77/32")}},
		nil,
	} {
		upgrade(with(changes), name, name+"-controller")
	}
	// Without agents the controller does what they do, and takes it back.
	upgrade(operated(with(map[string]any{"ssh": map[string]any{"cidrs": nodes.AdminCIDRs()[1:]}})), name+"-controller")
	openByHand(t)
	eventually(t, "what the controller has kept to go", func(ctx context.Context) error {
		left, err := calico(t, "hostendpoints").List(ctx, metav1.ListOptions{})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("there are %d endpoints", len(left.Items))
		}
		return err
	})
	closeByHand(t)
	requireArmed(t)
	upgrade(values(), name, name+"-controller")
	require.NoError(t, calico(t, "globalnetworksets").Delete(t.Context(), name+"-node-"+node, metav1.DeleteOptions{}))
	patchTrust(t, node, `{"spec":{"nets":[]}}`)
	require.NoError(t, clearances(t).Delete(t.Context(), name, metav1.DeleteOptions{}))
	_, _ = kubectl(t.Context(), "", statusCommand()...) // it may well be that not all is well at the moment
	for account, allowed := range accounts {
		requireCalls(t, audited, account, allowed)
	}
	requireArmed(t)
}

// requireCalls waits until an account has made every call of its roles, and wants it to have made no other one, since the release is there: a test before
// may have had one of this name, for other agents with other rights.
func requireCalls(t *testing.T, audited *cluster.Cluster, account string, allowed []cluster.Call) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	began, err := client.CoreV1().ServiceAccounts(namespace).Get(t.Context(), name+"-controller", metav1.GetOptions{})
	require.NoError(t, err)
	// A set of policies goes when nobody has needed it for minutes: make upgrades waits for that.
	later := func(call cluster.Call) bool {
		return call.Verb == "delete" && strings.HasSuffix(call.Resource, "globalnetworkpolicies")
	}
	eventually(t, account+" to have made every call of its roles", func(context.Context) error {
		made, err := audited.Calls("system:serviceaccount:"+namespace+":"+account, began.CreationTimestamp.Time)
		if err != nil {
			return err
		}
		for _, call := range made {
			if !slices.Contains(allowed, call) {
				return fmt.Errorf("not in the roles: %+v", call)
			}
		}
		for _, call := range allowed {
			// Where the API server can't stream a list with a watch, it is asked for one.
			streamed := call
			if call.Verb == "list" {
				streamed.Verb = "watch"
			}
			if !slices.Contains(made, call) && !slices.Contains(made, streamed) && !later(call) {
				return fmt.Errorf("in the roles, but not needed: %+v", call)
			}
		}
		return nil
	})
}

// patchTrust changes what makes a Node trusted, once it is there.
func patchTrust(t *testing.T, node, patch string) {
	t.Helper()
	eventually(t, "the trust in "+node+" to be changed", func(ctx context.Context) error {
		_, err := calico(t, "globalnetworksets").Patch(ctx, name+"-node-"+node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	})
}

// rightsOf lists what an account of the release may ask for, by all roles that are bound to it.
func rightsOf(t *testing.T, account string) []cluster.Call {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	is := func(subjects []rbacv1.Subject) bool {
		return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			return s.Kind == rbacv1.ServiceAccountKind && s.Namespace == namespace && s.Name == account
		})
	}
	var rules []rbacv1.PolicyRule
	ofCluster, err := client.RbacV1().ClusterRoleBindings().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, b := range ofCluster.Items {
		if is(b.Subjects) {
			role, err := client.RbacV1().ClusterRoles().Get(t.Context(), b.RoleRef.Name, metav1.GetOptions{})
			require.NoError(t, err)
			rules = append(rules, role.Rules...)
		}
	}
	ofNamespaces, err := client.RbacV1().RoleBindings(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, b := range ofNamespaces.Items {
		if is(b.Subjects) {
			role, err := client.RbacV1().Roles(b.Namespace).Get(t.Context(), b.RoleRef.Name, metav1.GetOptions{})
			require.NoError(t, err)
			rules = append(rules, role.Rules...)
		}
	}
	require.NotEmpty(t, rules, account)
	return callsOf(t, rules)
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
	eventually(t, "the audit log to show every call", func(context.Context) error {
		made, err := audited.Calls("system:serviceaccount:"+namespace+":"+name+"-test", time.Time{})
		if err != nil {
			return err
		}
		allowed := rightsOf(t, name+"-test")
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

func TestAgentAndControllerHaveNoRightsOnTheirNodes(t *testing.T) {
	install(t)
	client, err := nodes.Client()
	require.NoError(t, err)
	priorities := map[string]string{name: "system-node-critical", name + "-controller": "system-cluster-critical"}
	controllers, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: ofController})
	require.NoError(t, err)
	agents, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: ofAgents})
	require.NoError(t, err)
	require.Len(t, controllers.Items, 1)
	require.Len(t, agents.Items, len(nodeNames()))
	for _, p := range slices.Concat(agents.Items, controllers.Items) {
		assert.Equal(t, priorities[p.Spec.ServiceAccountName], p.Spec.PriorityClassName, p.Name)
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
