package helm_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// parentChart has this one as its only dependency.
func parentChart(t *testing.T) *chart.Chart {
	t.Helper()
	child, err := loader.Load(chartDir)
	require.NoError(t, err)
	parent := &chart.Chart{
		Metadata: &chart.Metadata{APIVersion: "v2", Name: "platform", Version: "1.0.0", Dependencies: []*chart.Dependency{{
			Name: child.Name(), Version: child.Metadata.Version, Condition: child.Name() + ".enabled",
		}}},
	}
	parent.AddDependency(child)
	return parent
}

func TestChartIsADependencyLikeAnyOther(t *testing.T) {
	const anchors = "x-anchors: {resources: &small {limits: {memory: 64Mi}}}"
	r, err := tryRenderChart(t, parentChart(t), setting{values: `
global: {imageRegistry: mirror.example.org, imagePullSecrets: [shared], storageClass: fast}
host-firewall: {enabled: true, ` + anchors + `, agent: {resources: *small}}`})
	require.NoError(t, err)
	require.Equal(t, "mirror.example.org/host-firewall/agent:0.1.0", r.container(t).Image)
	limits := r.container(t).Resources.Limits
	require.Equal(t, "64Mi", limits.Memory().String())
	for _, pod := range r.pods(t) {
		require.Equal(t, "shared", pod.ImagePullSecrets[0].Name)
	}

	r, err = tryRenderChart(t, parentChart(t), setting{values: `host-firewall: {enabled: false}`})
	require.NoError(t, err)
	require.Empty(t, r.all())
}
