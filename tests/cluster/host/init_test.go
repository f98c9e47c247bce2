package host

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestComponentsKubeconfigIsNotThatOfWhoStartsTheCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", "/theirs")
	got := environment(Component{Env: []string{"KUBECONFIG=/ours"}})
	assert.Contains(t, got, "KUBECONFIG=/ours")
	assert.NotContains(t, got, "KUBECONFIG=/theirs")
}
