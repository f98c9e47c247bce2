package readme

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMergePutsListsBehindEachOther(t *testing.T) {
	one := Row{Values: map[string]any{"cluster": map[string]any{"cidrs": []any{"192.0.2.0/24"}}}}
	two := Row{Values: map[string]any{"cluster": map[string]any{"cidrs": []any{"198.51.100.0/24"}}, "mode": "audit"}}
	require.Equal(t, map[string]any{
		"cluster": map[string]any{"cidrs": []any{"192.0.2.0/24", "198.51.100.0/24"}}, "mode": "audit",
	}, Merge([]Row{one, two}))
	require.Equal(t, map[string]any{"cluster": map[string]any{"cidrs": []any{"192.0.2.0/24"}}}, one.Values, "the rows stay as they are")
}
