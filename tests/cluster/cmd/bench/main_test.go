package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/tests/cluster/bench"
)

func env(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

func TestSettingsAreReadFromTheEnvironment(t *testing.T) {
	s, err := read(env(nil))
	require.NoError(t, err)
	assert.Equal(t, bench.Settings{Rounds: 200, Joins: 3, BareNodes: 20, Idle: 5 * time.Minute, Scale: []int{1000, 5000}}, s)

	s, err = read(env(map[string]string{"BENCH_ROUNDS": "5", "BENCH_JOINS": "1", "BENCH_IDLE": "30s", "SCALE": "0", "BENCH_ONLY": bench.Floor + ", " + bench.Agent}))
	require.NoError(t, err)
	assert.Equal(t, bench.Settings{Rounds: 5, Joins: 1, BareNodes: 5, Idle: 30 * time.Second, Only: []string{bench.Floor, bench.Agent}}, s)
}

func TestEveryBadSettingIsNamed(t *testing.T) {
	bad := map[string]string{"BENCH_ROUNDS": "none", "BENCH_JOINS": "-1", "BENCH_IDLE": "30", "SCALE": "many", "BENCH_ONLY": "felix"}
	_, err := read(env(bad))
	for name := range bad {
		assert.ErrorContains(t, err, name)
	}
}
