package kind

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// expected is what the values leave open, as verdict says it of the policies that they are rendered to.
func expected(t *testing.T, r *release.Release, values map[string]any) scene.Expectation {
	t.Helper()
	f, err := r.Firewall(t.Context(), values)
	require.NoError(t, err)
	want, err := place.Expect(f)
	require.NoError(t, err)
	return want
}

// What people wrote down of the matrix and what verdict works out are the same.
func TestVerdictSaysWhatPeopleExpect(t *testing.T) {
	r, err := release.New(root, nodes.Kubeconfig(), namespace, name)
	require.NoError(t, err)
	for _, s := range situations() {
		want := expected(t, r, s.in(s.mode))
		for _, c := range scene.Cells() {
			if len(place.Paths(c)) > 0 && want(c) != s.want(c) {
				t.Errorf("%s: %+v: verdict says %t", s.name, c, want(c))
			}
		}
	}
	for _, f := range ciFiles(t) {
		want := expected(t, r, f.values)
		for _, c := range scene.Cells() {
			if len(place.Paths(c)) > 0 && want(c) != f.open(c) {
				t.Errorf("%s: %+v: verdict says %t", f.name, c, want(c))
			}
		}
	}
}
