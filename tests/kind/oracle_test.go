package kind

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// expected is what the values leave open, as verdict works it out of the policies that they are rendered to.
func expected(t *testing.T, values map[string]any) scene.Expectation {
	t.Helper()
	r, err := release.New(root, nodes.Kubeconfig(), namespace, name)
	require.NoError(t, err)
	f, err := r.Firewall(t.Context(), values)
	require.NoError(t, err)
	want, err := place.Expect(f)
	require.NoError(t, err)
	return want
}

// Verdict is no better than what it is held against: what people wrote down of the matrix, who have not read the policies, is the same.
func TestVerdictSaysOfTheMatrixWhatPeopleDo(t *testing.T) {
	for name, says := range map[string]struct {
		people scene.Expectation
		values map[string]any
	}{
		"defaults":            {scene.ProtectedButSSH, nil},
		"an admin":            {scene.Protected, values()},
		"named interfaces":    {scene.Protected, with(map[string]any{"hostEndpoint": map[string]any{"interfaces": []any{"eth*"}}})},
		"admins from nowhere": {scene.ProtectedFromAll, with(map[string]any{"ssh": map[string]any{"cidrs": []any{"10.0.0.0/8"}}})},
		"not narrowed":        {scene.ProtectedButSSH, with(map[string]any{"ssh": map[string]any{"cidrs": nodes.AdminCIDRs(), "narrowFailsafe": false}})},
		"audit":               {scene.Everything, with(map[string]any{"mode": "audit"})},
		"off":                 {scene.Everything, with(map[string]any{"mode": "off"})},
		"host ports only": {func(c scene.Cell) bool { return scene.Protected(c) || scene.OfServices(c) || c.Column == scene.Pods },
			with(map[string]any{"policies": withoutPreDNAT()})},
	} {
		want := expected(t, says.values)
		for _, c := range scene.Cells() {
			if len(place.Paths(c)) > 0 {
				assert.Equal(t, says.people(c), want(c), "%s: %+v", name, c)
			}
		}
	}
}
