package image

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPackedImageIsWhatTheDockerfileSays(t *testing.T) {
	raw, err := os.ReadFile("../../../Dockerfile")
	require.NoError(t, err)
	first, last, found := strings.Cut(string(raw), "\nFROM scratch\n")
	require.True(t, found, "the Dockerfile ends in a stage from scratch")
	var flags []string
	for _, flag := range buildFlags() {
		if strings.Contains(flag, " ") {
			flag = `"` + flag + `"`
		}
		flags = append(flags, flag)
	}
	oneLine := strings.ReplaceAll(first, "\\\n    ", "")
	require.Contains(t, oneLine, "go build "+strings.Join(flags, " ")+` -ldflags "-s -w -X main.version=`)

	got := Config{Arch: "arm64", Labels: map[string]string{}}
	for _, line := range strings.Split(last, "\n") {
		instruction, rest, _ := strings.Cut(line, " ")
		switch instruction {
		case "LABEL":
			key, value, _ := strings.Cut(rest, "=")
			got.Labels[key] = strings.ReplaceAll(strings.Trim(value, `"`), "${VERSION}", "1.2.3")
		case "ENV":
			got.Env = strings.Fields(rest)
		case "USER":
			got.User = rest
		case "ENTRYPOINT":
			got.Entrypoint = strings.Trim(rest, `[]"`)
		}
	}
	require.Equal(t, agentConfig("arm64", "1.2.3"), got)
}
