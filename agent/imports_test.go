package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/host-firewall/host-firewall/agent"

// clientGo are the only packages of client-go that the agent may import. What
// they import themselves comes with them.
func clientGo() []string {
	return []string{
		"k8s.io/client-go/rest",
		"k8s.io/client-go/tools/cache",
		"k8s.io/client-go/tools/clientcmd",
		"k8s.io/client-go/util/flowcontrol",
		"k8s.io/client-go/util/workqueue",
	}
}

// list runs go list and returns the lines of its output.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	require.NoError(t, err, "go list: %s", stderr.String())
	return strings.Fields(string(out))
}

// imports returns what one of our packages imports itself.
func imports(t *testing.T, pkg string) []string {
	t.Helper()
	return list(t, "-f", `{{join .Imports "\n"}}`, pkg)
}

func TestAgentImportsNoMoreOfClientGoThanItNeeds(t *testing.T) {
	allowed := list(t, append([]string{"-deps"}, clientGo()...)...)
	used := list(t, "-deps", ".")
	require.Contains(t, used, "k8s.io/client-go/rest", "go list has seen the agent")
	for _, pkg := range used {
		if strings.HasPrefix(pkg, "k8s.io/client-go") {
			assert.Contains(t, allowed, pkg)
		}
		for _, fat := range []string{
			"k8s.io/client-go/kubernetes", "k8s.io/client-go/discovery", "k8s.io/client-go/informers", "k8s.io/client-go/dynamic",
			"sigs.k8s.io/controller-runtime", "github.com/spf13/cobra", "helm.sh/helm", "text/template",
		} {
			assert.False(t, pkg == fat || strings.HasPrefix(pkg, fat+"/"), "the agent imports %s", pkg)
		}
	}
	for _, pkg := range list(t, "./...") {
		for _, imported := range imports(t, pkg) {
			if strings.HasPrefix(imported, "k8s.io/client-go") {
				assert.Contains(t, clientGo(), imported, "imported by %s", pkg)
			}
		}
	}
}

func TestDependenciesPointOneWay(t *testing.T) {
	want := map[string][]string{
		"": {"/internal/calico", "/internal/cleanup", "/internal/controller", "/internal/endpoint", "/internal/health",
			"/internal/keeper", "/internal/links", "/internal/operator", "/internal/peers", "/internal/preview", "/internal/settings", "/internal/status", "/internal/wiring", "/internal/workload"},
		"/internal/advice":     {"/internal/peers", "/internal/verdict"},
		"/internal/agenda":     {},
		"/internal/calico":     {"/internal/cleanup", "/internal/clearance", "/internal/endpoint", "/internal/failsafe", "/internal/policyset", "/internal/transport", "/internal/verdict", "/internal/witness"},
		"/internal/cleanup":    {"/internal/clearance", "/internal/endpoint", "/internal/failsafe", "/internal/settings"},
		"/internal/clearance":  {"/internal/peers"},
		"/internal/controller": {"/internal/advice", "/internal/clearance", "/internal/endpoint", "/internal/event", "/internal/failsafe", "/internal/loop", "/internal/peers", "/internal/policyset", "/internal/trial", "/internal/trust", "/internal/verdict", "/internal/witness"},
		"/internal/endpoint":   {"/internal/peers"},
		"/internal/event":      {},
		"/internal/failsafe":   {"/internal/endpoint"},
		"/internal/health":     {},
		"/internal/keeper":     {"/internal/agenda", "/internal/clearance", "/internal/endpoint", "/internal/event", "/internal/failsafe", "/internal/loop", "/internal/peers", "/internal/probe", "/internal/proof", "/internal/trial"},
		"/internal/links":      {"/internal/endpoint"},
		"/internal/loop":       {},
		"/internal/operator":   {"/internal/clearance", "/internal/endpoint", "/internal/event", "/internal/failsafe", "/internal/keeper", "/internal/loop", "/internal/probe", "/internal/trial"},
		"/internal/peers":      {"/internal/verdict"},
		"/internal/policyset":  {"/internal/clearance", "/internal/endpoint", "/internal/witness"},
		"/internal/preview":    {"/internal/endpoint", "/internal/failsafe", "/internal/peers", "/internal/settings", "/internal/trust", "/internal/verdict", "/internal/witness", "/internal/workload"},
		"/internal/probe":      {"/internal/clearance", "/internal/endpoint", "/internal/links", "/internal/peers", "/internal/trial"},
		"/internal/proof":      {"/internal/probe", "/internal/trial"},
		// The bench at scale: it is no part of the agent, but drives its packages.
		"/internal/scalebench": {"/internal/calico", "/internal/clearance", "/internal/endpoint", "/internal/keeper", "/internal/probe", "/internal/settings", "/internal/trial", "/internal/wiring"},
		"/internal/settings":   {"/internal/endpoint"},
		"/internal/workload":   {"/internal/settings"},
		"/internal/status":     {"/internal/clearance", "/internal/endpoint", "/internal/event", "/internal/peers", "/internal/policyset", "/internal/settings", "/internal/trial", "/internal/workload"},
		"/internal/transport":  {},
		"/internal/trial":      {"/internal/clearance"},
		"/internal/trust":      {"/internal/endpoint"},
		"/internal/verdict":    {},
		// What the tests of the whole ask.
		"/oracle":           {"/internal/failsafe", "/internal/verdict"},
		"/internal/wiring":  {"/internal/calico", "/internal/clearance", "/internal/controller", "/internal/endpoint", "/internal/failsafe", "/internal/keeper", "/internal/links", "/internal/operator", "/internal/peers", "/internal/probe", "/internal/settings", "/internal/trial"},
		"/internal/witness": {"/internal/clearance", "/internal/endpoint", "/internal/trust"},
	}
	got := map[string][]string{}
	for _, pkg := range list(t, "./...") {
		ours := []string{}
		for _, imported := range imports(t, pkg) {
			if rest, ok := strings.CutPrefix(imported, module); ok {
				ours = append(ours, rest)
			}
		}
		slices.Sort(ours)
		got[strings.TrimPrefix(pkg, module)] = ours
	}
	assert.Equal(t, want, got)
}

func TestPurePackagesDoNoIO(t *testing.T) {
	for _, pkg := range []string{
		"./internal/advice", "./internal/clearance", "./internal/endpoint", "./internal/failsafe", "./internal/peers", "./internal/policyset", "./internal/preview", "./internal/settings", "./internal/trial", "./internal/trust", "./internal/verdict", "./internal/witness",
	} {
		for _, imported := range imports(t, pkg) {
			assert.NotContains(t, []string{"net", "net/http", "os", "os/exec", "syscall", "log"}, imported, "imported by %s", pkg)
		}
		for _, dependency := range list(t, "-deps", pkg) {
			assert.False(t, strings.HasPrefix(dependency, "k8s.io/client-go"), "%s comes to %s", dependency, pkg)
		}
	}
}

func TestOnlyTheCalicoPackageMakesRequests(t *testing.T) {
	for _, pkg := range list(t, "./...") {
		for _, imported := range imports(t, pkg) {
			if imported == "k8s.io/client-go/rest" {
				assert.Contains(t, []string{module, module + "/internal/calico"}, pkg, "main only reads its configuration")
			}
		}
	}
}

func TestBinaryKeepsToItsBudget(t *testing.T) {
	const budget = 18_000_000
	dockerfile, err := os.ReadFile("../Dockerfile")
	require.NoError(t, err)
	build := regexp.MustCompile(`(?s)go build .* -o /host-firewall-agent \./agent\n`).FindString(string(dockerfile))
	require.NotEmpty(t, build, "the Dockerfile builds the agent")

	binary := filepath.Join(t.TempDir(), "agent")
	command := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(build, "/host-firewall-agent", binary, 1))
	command.Dir = ".."
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "VERSION=v1.2.3")
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s: %s", build, out)
	info, err := os.Stat(binary)
	require.NoError(t, err)
	t.Logf("%.2f of %.0f MB", float64(info.Size())/1e6, budget/1e6)
	assert.LessOrEqual(t, info.Size(), int64(budget))
}
