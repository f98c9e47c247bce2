package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sources are the Go files here and below, without tests.
func sources(t *testing.T) (files []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files = append(files, filepath.ToSlash(path))
		}
		return err
	}))
	require.Contains(t, files, "main.go")
	return files
}

func TestFunctionsAreShort(t *testing.T) {
	const most = 60
	for _, file := range sources(t) {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			name := "a function literal"
			switch f := n.(type) {
			case *ast.FuncDecl:
				name = f.Name.Name
			case *ast.FuncLit:
			default:
				return true
			}
			first, last := set.Position(n.Pos()).Line, set.Position(n.End()).Line
			assert.LessOrEqual(t, last-first+1, most, "lines of %s, %s:%d", name, file, first)
			return true
		})
	}
}

// What has to be read and understood stays small: that a feature comes is no reason for
// more, before something else has become simpler.
func TestSourceKeepsToItsBudgets(t *testing.T) {
	in := func(file string, folders ...string) bool {
		return slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(file, "internal/"+folder+"/") })
	}
	// What only the controller asks for or decides by is its own.
	ofController := func(file string) bool {
		return in(file, "advice", "controller", "operator", "policyset", "trust", "witness") || path.Base(file) == "controller.go" ||
			slices.Contains([]string{"internal/calico/apiserver.go", "internal/clearance/write.go", "internal/failsafe/ports.go"}, file)
	}
	// What looks who is connected.
	ofPeers := func(file string) bool {
		return in(file, "probe") && slices.Contains([]string{"banner.go", "sights.go", "sockets.go", "watcher.go"}, path.Base(file))
	}
	// What says what an upgrade would change.
	ofPreview := func(file string) bool { return in(file, "preview") || path.Base(file) == "preview.go" }
	// What reads what runs the pods, and is for agents that are static pods.
	ofStaticPods := func(file string) bool {
		return in(file, "workload") || slices.Contains([]string{"manifest.go", "staticpod.go"}, path.Base(file))
	}
	for name, budget := range map[string]struct {
		lines int
		holds func(file string) bool
	}{
		"keeper and calico": {3000, func(file string) bool { return in(file, "keeper", "calico") }},
		// The bench at scale is no part of the agent, nor is the oracle of the tests.
		// Nor is what proves a set on the wire, or says who would be cut: they have budgets of their own.
		"the agent without the controller": {6750, func(file string) bool {
			return !ofController(file) && !ofPreview(file) && !ofStaticPods(file) && !in(file, "scalebench", "status", "probe", "trial", "peers", "verdict") && !strings.HasPrefix(file, "oracle/")
		}},
		"peers and verdict": {1800, func(file string) bool { return ofPeers(file) || in(file, "peers", "verdict") }},
		"preview":           {1690, ofPreview},
		"static pods":       {135, ofStaticPods},
		"status":            {700, func(file string) bool { return in(file, "status") && !ofStaticPods(file) }},
		"probe and trial":   {1050, func(file string) bool { return !ofPeers(file) && in(file, "probe", "trial") }},
	} {
		lines := 0
		for _, file := range sources(t) {
			if budget.holds(file) {
				text, err := os.ReadFile(file)
				require.NoError(t, err)
				lines += strings.Count(string(text), "\n")
			}
		}
		t.Logf("%s: %d of %d lines", name, lines, budget.lines)
		assert.LessOrEqual(t, lines, budget.lines, name)
	}
}
