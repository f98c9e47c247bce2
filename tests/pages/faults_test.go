// Package pages holds that what a page tells its reader to run is there.
package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

var (
	// command is how docs/faults.md has a test run, by its whole name.
	command = regexp.MustCompile("`go test (?:-run|-run NONE -bench) ((?:Test|Fuzz|Benchmark)\\w+) (\\./[\\w/]+)`")
	// row is a fault of a table: what happened, found by what, and the commands.
	row = regexp.MustCompile(`^\| (.+) \| (.+) \| (.+) \|$`)
)

// A fault whose test was renamed or deleted is held by nothing any more.
func TestEachFaultOfThePageIsShownByATestThatIsThere(t *testing.T) {
	root, err := cluster.Root()
	require.NoError(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs", "faults.md"))
	require.NoError(t, err)
	faults := 0
	for line := range strings.Lines(string(page)) {
		cells := row.FindStringSubmatch(strings.TrimSpace(line))
		if cells == nil || cells[1] == "what happened" {
			continue
		}
		faults++
		commands := command.FindAllStringSubmatch(cells[3], -1)
		assert.Len(t, commands, strings.Count(cells[3], "`")/2, "one of the commands is none of these: %s", cells[3])
		assert.NotEmpty(t, commands, "nothing shows: %s", cells[1])
		for _, c := range commands {
			assert.True(t, strings.Contains(testsIn(t, filepath.Join(root, c[2])), "func "+c[1]+"("), "%s has no %s: %s", c[2], c[1], cells[1])
		}
	}
	require.Equal(t, strings.Count(string(page), "\n| ")-strings.Count(string(page), "\n| what happened"), faults, "each row of a table is a fault")
}

// testsIn is the text of all tests of a package.
func testsIn(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	require.NoError(t, err)
	var text strings.Builder
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		text.Write(source)
	}
	return text.String()
}
