package helm_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/tests/helm/readme"
)

// Whoever takes a row of the README's table gets policies that Calico enforces, and that say something else than the defaults do.
func TestEverySituationOfTheREADMEIsRendered(t *testing.T) {
	rows, err := readme.Rows(filepath.Join("..", ".."))
	require.NoError(t, err)
	policies := func(values map[string]any) []namedSpec {
		text, err := yaml.Marshal(values)
		require.NoError(t, err)
		r := render(t, setting{values: string(text)})
		require.Empty(t, r.broken(t, "host-firewall"))
		return r.specs()
	}
	defaults := policies(nil)
	for _, row := range rows {
		t.Run(row.Name, func(t *testing.T) { require.NotEqual(t, defaults, policies(row.Values)) })
	}
	t.Run("all of them", func(t *testing.T) { require.NotEqual(t, defaults, policies(readme.Merge(rows))) })
}
