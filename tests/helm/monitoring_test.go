package helm_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const measured = "agent: {metrics: {enabled: true}}\n"

func TestNobodyIsWatchedUnasked(t *testing.T) {
	for _, values := range []string{``, measured, measured + `podMonitor: {enabled: true}`} {
		r := render(t, setting{values: values})
		require.Empty(t, r.prometheusRules)
		require.Empty(t, r.dashboards)
	}
}

// What the alerts say is read in testdata/alerts, and asked of Prometheus itself in tests/alerts.
func TestAlertsAreTheOnesThatOthersTest(t *testing.T) {
	for _, s := range []setting{{}, {release: "edge", namespace: "kube-system"}} {
		s.values = measured + `prometheusRule: {enabled: true}`
		rules := render(t, s).prometheusRules
		require.Len(t, rules, 1)
		content, err := yaml.Marshal(rules[0].Spec)
		require.NoError(t, err)
		compareWithFile(t, filepath.Join("testdata", "alerts", orElse(s.release, "host-firewall")+".yaml"), string(content))
	}
}

func TestPrometheusRuleIsAWholeObject(t *testing.T) {
	r := render(t, setting{release: "edge", namespace: "kube-system", values: measured + `
prometheusRule:
  enabled: true
  labels: {release: prometheus}
  alertLabels: {team: network, severity: page}
  disabled: [HostFirewallNodeConflict, HostFirewallDropsNothing]`})
	want := objectLabels("edge", "edge-host-firewall")
	want["release"] = "prometheus"
	require.Len(t, r.prometheusRules, 1)
	rule := r.prometheusRules[0]
	require.Equal(t, metav1.TypeMeta{APIVersion: monitoringV1, Kind: "PrometheusRule"}, rule.TypeMeta)
	require.Equal(t, metav1.ObjectMeta{Name: "edge-host-firewall", Namespace: "kube-system", Labels: want}, rule.ObjectMeta)
	require.Len(t, rule.Spec.Groups, 1)
	all := render(t, setting{release: "edge", namespace: "kube-system", values: measured + `prometheusRule: {enabled: true}`}).prometheusRules[0].Spec.Groups[0]
	require.Equal(t, all.Name, rule.Spec.Groups[0].Name)
	kept := slices.DeleteFunc(slices.Clone(all.Rules), func(rule monitoring.Rule) bool {
		return rule.Alert == "HostFirewallNodeConflict" || rule.Alert == "HostFirewallDropsNothing"
	})
	require.Len(t, kept, len(all.Rules)-2)
	for i := range kept {
		kept[i].Labels = map[string]string{"team": "network", "severity": "page"}
	}
	require.Equal(t, kept, rule.Spec.Groups[0].Rules)
}

func TestNoAlertAtAllIsAGroupWithoutRules(t *testing.T) {
	rules := render(t, setting{values: measured + `prometheusRule: {enabled: true}`}).prometheusRules[0].Spec.Groups[0].Rules
	var names []string
	for _, rule := range rules {
		names = append(names, rule.Alert)
	}
	none := render(t, setting{values: measured + `prometheusRule: {enabled: true, disabled: [` + strings.Join(names, ", ") + `]}`})
	require.Empty(t, none.prometheusRules[0].Spec.Groups[0].Rules)
}

func TestDashboardIsTheFileAsGrafanaReadsIt(t *testing.T) {
	file, err := os.ReadFile(filepath.Join(chartDir, "dashboards", "host-firewall.json"))
	require.NoError(t, err)
	dashboard := func(values string) corev1.ConfigMap {
		r := render(t, setting{release: "edge", namespace: "kube-system", values: measured + values})
		require.Len(t, r.dashboards, 1)
		return r.dashboards[0]
	}
	want := objectLabels("edge", "edge-host-firewall")
	want["grafana_dashboard"] = "1"
	require.Equal(t, corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "edge-host-firewall-dashboard", Namespace: "kube-system", Labels: want},
		Data:       map[string]string{"edge-host-firewall.json": string(file)},
	}, dashboard(`dashboard: {enabled: true}`))
	other := dashboard(`dashboard: {enabled: true, labels: {grafana_dashboard: null, board: "yes"}, annotations: {grafana_folder: Network}}`)
	require.NotContains(t, other.Labels, "grafana_dashboard")
	require.Equal(t, "yes", other.Labels["board"])
	require.Equal(t, map[string]string{"grafana_folder": "Network"}, other.Annotations)
}
