package helm_test

import (
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func TestPodMonitorsAreWholeObjectsAndFindAgentsAndController(t *testing.T) {
	r := render(t, setting{release: "edge", namespace: "kube-system", values: `
agent: {metrics: {enabled: true, port: 9198}}
podMonitor:
  enabled: true
  labels: {release: prometheus}
  interval: 1m30s
  scrapeTimeout: 20s
  relabelings: [{targetLabel: cluster, replacement: edge}]
  metricRelabelings: [{action: drop, sourceLabels: [__name__], regex: "go_.*"}]`})
	want := objectLabels("edge", "edge-host-firewall")
	want["release"] = "prometheus"
	agents := monitoring.PodMonitor{
		TypeMeta:   metav1.TypeMeta{APIVersion: "monitoring.coreos.com/v1", Kind: "PodMonitor"},
		ObjectMeta: metav1.ObjectMeta{Name: "edge-host-firewall", Namespace: "kube-system", Labels: want},
		Spec: monitoring.PodMonitorSpec{
			Selector: metav1.LabelSelector{MatchLabels: selectorLabels("edge")},
			PodMetricsEndpoints: []monitoring.PodMetricsEndpoint{{
				Port:          pointer("metrics"),
				Interval:      "1m30s",
				ScrapeTimeout: "20s",
				RelabelConfigs: []monitoring.RelabelConfig{
					{SourceLabels: []monitoring.LabelName{"__meta_kubernetes_pod_node_name"}, TargetLabel: "node"},
					{TargetLabel: "cluster", Replacement: pointer("edge")},
				},
				MetricRelabelConfigs: []monitoring.RelabelConfig{
					{Action: "drop", SourceLabels: []monitoring.LabelName{"__name__"}, Regex: "go_.*"},
				},
			}},
		},
	}
	require.Equal(t, []monitoring.PodMonitor{agents}, r.podMonitors)
	controllers := agents.DeepCopy()
	controllers.Name += "-controller"
	controllers.Spec.Selector.MatchLabels = controllerLabels("edge-host-firewall")
	controllers.Spec.PodMetricsEndpoints[0].RelabelConfigs = controllers.Spec.PodMetricsEndpoints[0].RelabelConfigs[1:]
	require.Equal(t, controllers, controlling[*monitoring.PodMonitor](t, r))
	deployment := r.deployment(t).Spec.Template
	require.Subset(t, deployment.Labels, controllers.Spec.Selector.MatchLabels)
	require.Equal(t, "metrics", deployment.Spec.Containers[0].Ports[0].Name)

	monitor := r.podMonitors[0].Spec
	selector, err := metav1.LabelSelectorAsSelector(&monitor.Selector)
	require.NoError(t, err)
	require.True(t, selector.Matches(labels.Set(r.daemonSet(t).Spec.Template.Labels)))
	require.False(t, selector.Matches(labels.Set(r.cleanup(t).Spec.Template.Labels)))
	port := r.container(t).Ports[0]
	require.Equal(t, *monitor.PodMetricsEndpoints[0].Port, port.Name)
	require.Equal(t, int32(9198), port.ContainerPort)
	require.Equal(t, ":9198", argumentsOf(t, r)["metrics-address"])
}

func TestPodMonitorIsThereWhenAskedForOnly(t *testing.T) {
	require.Empty(t, render(t, setting{values: `agent: {metrics: {enabled: true}}`}).podMonitors)
	r := render(t, setting{values: "agent: {metrics: {enabled: true}}\npodMonitor: {enabled: true}"})
	require.Len(t, r.podMonitors, 1)
	require.Empty(t, r.podMonitors[0].Spec.PodMetricsEndpoints[0].Interval, "Prometheus' own")
}
