package workload_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/workload"
)

// fake is what the API server says of PodTemplate ns/fw; empty: there is none.
type fake string

func (f fake) Read(_ context.Context, kind, namespace, name string, into any) (bool, error) {
	switch {
	case kind != "PodTemplate" || namespace != "ns" || name != "fw":
		return false, errors.New("nobody asks for " + kind + " " + namespace + "/" + name)
	case f == "":
		return false, nil
	}
	return true, json.Unmarshal([]byte(f), into)
}

func print(f fake) (string, error) {
	var out bytes.Buffer
	err := workload.Print(context.Background(), f, settings.Settings{Release: "fw", Namespace: "ns"}, &out)
	return out.String(), err
}

// The kubelet gets what the PodTemplate says, field by field.
func TestManifestIsThePodOfTheTemplate(t *testing.T) {
	text, err := print(`{"kind":"PodTemplate","metadata":{"name":"fw","uid":"1"},"template":{"metadata":{"creationTimestamp":null,"labels":{"a":"b"}},
		"spec":{"hostNetwork":true,"priority":2000001000,"containers":[{"name":"agent","args":["--set=1e5"]}]}}}`)
	require.NoError(t, err)
	assert.Equal(t, `apiVersion: v1
kind: Pod
metadata:
  labels:
    a: b
  name: fw
  namespace: ns
spec:
  containers:
  - args:
    - --set=1e5
    name: agent
  hostNetwork: true
  priority: 2000001000
`, text)
}

func TestReleaseWithoutStaticPodsIsTold(t *testing.T) {
	text, err := print("")
	require.ErrorContains(t, err, "PodTemplate ns/fw is not there")
	require.ErrorContains(t, err, "agent.staticPods.enabled: true")
	assert.Empty(t, text)
}
