// Package validator_test asks Calico's own validator about the policies that the chart renders, and Kubernetes' about its pods. It stands
// apart from the chart's other tests for it compiles parts of both, which takes a while the first time, and runs make.
package validator_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	projectcalico "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/require"
)

// rendered are the policies of each values file. A test of the chart keeps them true.
func rendered(t *testing.T) map[string][]projectcalico.GlobalNetworkPolicy {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "testdata", "policies", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	policies := map[string][]projectcalico.GlobalNetworkPolicy{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		var list []projectcalico.GlobalNetworkPolicy
		require.NoError(t, json.Unmarshal(content, &list), path)
		policies[path] = list
	}
	return policies
}

// ask runs a program that is made of a project's own packages, and returns what is wrong with each object; empty: nothing.
func ask[T any](t *testing.T, project string, objects []T, arguments ...string) []string {
	t.Helper()
	input, err := json.Marshal(objects)
	require.NoError(t, err)
	// As the programs of the test cluster are built, so that what they have in common is built once.
	command := exec.CommandContext(t.Context(), "go", append([]string{"run", "-trimpath", "./validate"}, arguments...)...)
	command.Dir = filepath.Join("..", "..", "cluster", "modules", project)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	command.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	require.NoError(t, err, stderr.String())
	var found []string
	require.NoError(t, json.Unmarshal(output, &found))
	require.Len(t, found, len(objects))
	return found
}

func TestCalicoTakesEveryPolicy(t *testing.T) {
	var all []projectcalico.GlobalNetworkPolicy
	var of []string
	for path, policies := range rendered(t) {
		for _, policy := range policies {
			all, of = append(all, policy), append(of, path)
		}
	}
	for i, complaint := range ask(t, "calico", all) {
		require.Empty(t, complaint, "%s in %s", all[i].Name, of[i])
	}
}

// Calico is asked, and it answers.
func TestCalicoRefusesBrokenPolicies(t *testing.T) {
	var ssh projectcalico.GlobalNetworkPolicy
	for _, policy := range rendered(t)[filepath.Join("..", "testdata", "policies", "ssh.json")] {
		if strings.HasPrefix(policy.Name, "host-firewall-allow-ssh-") {
			ssh = policy
		}
	}
	require.NotEmpty(t, ssh.Spec.Ingress)
	broken := func(change func(*projectcalico.GlobalNetworkPolicy)) projectcalico.GlobalNetworkPolicy {
		policy := ssh.DeepCopy()
		change(policy)
		return *policy
	}
	found := ask(t, "calico", []projectcalico.GlobalNetworkPolicy{
		ssh,
		broken(func(p *projectcalico.GlobalNetworkPolicy) {
			p.Spec.Ingress[0].Source.Nets = append(p.Spec.Ingress[0].Source.Nets, "2001:db8::/32")
		}),
		broken(func(p *projectcalico.GlobalNetworkPolicy) { p.Spec.Ingress[0].Protocol = nil }),
		broken(func(p *projectcalico.GlobalNetworkPolicy) { p.Spec.ApplyOnForward = false }),
		broken(func(p *projectcalico.GlobalNetworkPolicy) { p.Spec.Selector = "host-endpoint =" }),
	})
	require.Empty(t, found[0])
	require.Contains(t, found[1], "rule contains both IPv4 and IPv6 CIDRs")
	require.Contains(t, found[2], "rules that specify ports must set protocol")
	require.Contains(t, found[3], "ApplyOnForward must be true")
	require.Contains(t, found[4], "Selector")
}
