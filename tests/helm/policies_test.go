package helm_test

import (
	"slices"
	"strings"
	"testing"

	projectcalico "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// releaseOnly selects endpoints that may not be armed. The specs here have it, for the set is told by them: specs() takes its term away.
const releaseOnly = "host-firewall.io/release == 'host-firewall'"

func allow(source projectcalico.EntityRule) projectcalico.Rule {
	return projectcalico.Rule{Action: projectcalico.Allow, Source: source}
}

func allowICMP(family int, kind int) projectcalico.Rule {
	protocol := map[int]string{4: "ICMP", 6: "ICMPv6"}[family]
	return projectcalico.Rule{
		Action:    projectcalico.Allow,
		IPVersion: &family,
		Protocol:  pointer(numorstring.ProtocolFromString(protocol)),
		ICMP:      &projectcalico.ICMPFields{Type: &kind},
	}
}

func nets(cidrs ...string) projectcalico.EntityRule { return projectcalico.EntityRule{Nets: cidrs} }

func ports(ports ...numorstring.Port) projectcalico.EntityRule {
	return projectcalico.EntityRule{Ports: ports}
}

func port(number uint16) numorstring.Port { return numorstring.SinglePort(number) }

func portRange(t testing.TB, first, last uint16) numorstring.Port {
	t.Helper()
	ports, err := numorstring.PortFromRange(first, last)
	require.NoError(t, err)
	return ports
}

func trustedNodes() projectcalico.Rule {
	return allow(projectcalico.EntityRule{Selector: releaseOnly + " && host-firewall.io/trust == 'node'", NamespaceSelector: "global()"})
}

func trustedPods() projectcalico.Rule {
	return allow(projectcalico.EntityRule{Selector: onlyPods, NamespaceSelector: "all()"})
}

func trustedAPIServer() projectcalico.Rule {
	return allow(projectcalico.EntityRule{Services: &projectcalico.ServiceMatch{Namespace: "default", Name: "kubernetes"}})
}

// openPorts lets everybody in, over both families.
func openPorts(to ...numorstring.Port) projectcalico.Rule {
	return projectcalico.Rule{Action: projectcalico.Allow, Protocol: pointer(numorstring.ProtocolFromString("TCP")), Destination: ports(to...)}
}

func essentialRules() []projectcalico.Rule {
	udp := pointer(numorstring.ProtocolFromString("UDP"))
	rules := []projectcalico.Rule{
		{Action: projectcalico.Allow, Source: nets("127.0.0.0/8"), Destination: nets("127.0.0.0/8")},
		{Action: projectcalico.Allow, Source: nets("::1/128"), Destination: nets("::1/128")},
		allow(nets("169.254.20.10/32")),
	}
	for _, kind := range []int{130, 131, 132, 133, 134, 135, 136, 143} {
		rules = append(rules, allowICMP(6, kind))
	}
	return append(rules,
		openPorts(port(6443)),
		projectcalico.Rule{Action: projectcalico.Allow, IPVersion: pointer(4), Protocol: udp, Source: ports(port(67)), Destination: ports(port(68))},
		projectcalico.Rule{Action: projectcalico.Allow, Protocol: udp, Source: nets("fe80::/10"), Destination: ports(port(546))},
		allowICMP(4, 8),
		allowICMP(6, 128),
	)
}

// entryRule is what an entry of ingress becomes for one of its networks.
func entryRule(name string, protocol numorstring.Protocol, cidr string, to ...numorstring.Port) projectcalico.Rule {
	rule := projectcalico.Rule{
		Action:   projectcalico.Allow,
		Metadata: &projectcalico.RuleMetadata{Annotations: map[string]string{"host-firewall.io/ingress": name}},
		Protocol: &protocol,
		Source:   nets(cidr),
	}
	if len(to) > 0 {
		rule.Destination = ports(to...)
	}
	return rule
}

func outboundSpec() projectcalico.GlobalNetworkPolicySpec {
	return projectcalico.GlobalNetworkPolicySpec{
		Order:    pointer(10.0),
		Selector: releaseOnly,
		Types:    []projectcalico.PolicyType{projectcalico.PolicyTypeEgress},
		Egress:   []projectcalico.Rule{{Action: projectcalico.Allow}},
	}
}

// ingressSpec is that of a policy for what comes in, before the translation of addresses.
func ingressSpec(order float64, rules ...projectcalico.Rule) projectcalico.GlobalNetworkPolicySpec {
	return projectcalico.GlobalNetworkPolicySpec{
		Order:          &order,
		Selector:       releaseOnly,
		Types:          []projectcalico.PolicyType{projectcalico.PolicyTypeIngress},
		PreDNAT:        true,
		ApplyOnForward: true,
		Ingress:        rules,
	}
}

// hostOnly is the same for the host's own ports only.
func hostOnly(spec projectcalico.GlobalNetworkPolicySpec) projectcalico.GlobalNetworkPolicySpec {
	spec.PreDNAT, spec.ApplyOnForward = false, false
	return spec
}

func dropSpec() projectcalico.GlobalNetworkPolicySpec {
	return ingressSpec(20, projectcalico.Rule{Action: projectcalico.Deny})
}

// namedSpec is a spec by its purpose, without the term of its set.
type namedSpec struct {
	name string
	spec projectcalico.GlobalNetworkPolicySpec
}

func (r *rendered) specs() []namedSpec {
	var specs []namedSpec
	for _, policy := range r.policies {
		set := policy.Labels[setLabel]
		spec := *policy.Spec.DeepCopy()
		spec.Selector = strings.TrimSuffix(spec.Selector, " && host-firewall.io/set contains '"+set+"'")
		specs = append(specs, namedSpec{strings.TrimSuffix(strings.TrimPrefix(policy.Name, "host-firewall-"), "-"+set), spec})
	}
	return specs
}

func TestDefaultPoliciesAreWholeObjectsInBothGroups(t *testing.T) {
	for _, group := range []string{apiV3, apiV1} {
		t.Run(group, func(t *testing.T) {
			r := render(t, setting{served: clusterServing(group)})
			set := argumentsOf(t, r)["set"]
			var want []projectcalico.GlobalNetworkPolicy
			for _, policy := range []namedSpec{
				{"allow-cluster", ingressSpec(10, trustedNodes(), trustedPods(), trustedAPIServer())},
				{"allow-essential", ingressSpec(10, essentialRules()...)},
				{"allow-outbound", outboundSpec()},
				{"drop-other", dropSpec()},
			} {
				policy.spec.Selector += " && host-firewall.io/set contains '" + set + "'"
				labels := objectLabels("host-firewall", "host-firewall")
				labels[setLabel] = set
				want = append(want, projectcalico.GlobalNetworkPolicy{
					TypeMeta: metav1.TypeMeta{APIVersion: group, Kind: "GlobalNetworkPolicy"},
					ObjectMeta: metav1.ObjectMeta{
						Name:   "host-firewall-" + policy.name + "-" + set,
						Labels: labels,
						Annotations: map[string]string{
							"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Prune=false", "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
						},
					},
					Spec: policy.spec,
				})
			}
			require.Equal(t, want, r.policies)
		})
	}
}

func TestPoliciesSayWhatTheValuesSay(t *testing.T) {
	t.Parallel()
	tcp := pointer(numorstring.ProtocolFromString("TCP"))
	ssh := func(source projectcalico.EntityRule, destination ...numorstring.Port) projectcalico.Rule {
		return projectcalico.Rule{Action: projectcalico.Allow, Protocol: tcp, Source: source, Destination: ports(destination...)}
	}
	withoutLast := func(rules []projectcalico.Rule, count int) []projectcalico.Rule { return rules[:len(rules)-count] }
	essential := essentialRules()

	defaults := map[string]projectcalico.GlobalNetworkPolicySpec{
		"allow-outbound":  outboundSpec(),
		"allow-cluster":   ingressSpec(10, trustedNodes(), trustedPods(), trustedAPIServer()),
		"allow-essential": ingressSpec(10, essential...),
		"drop-other":      dropSpec(),
	}
	for name, test := range map[string]struct {
		values string
		// changed against the defaults; nil takes the policy away
		changed map[string]*projectcalico.GlobalNetworkPolicySpec
	}{
		"ssh from one network": {
			`ssh: {cidrs: [192.0.2.0/24], narrowFailsafe: false}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-ssh": pointer(ingressSpec(10, ssh(nets("192.0.2.0/24"), port(22))))},
		},
		"ssh from IPv6 only": {
			`ssh: {cidrs: ["2001:db8::/32"], narrowFailsafe: false}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-ssh": pointer(ingressSpec(10, ssh(nets("2001:db8::/32"), port(22))))},
		},
		"ssh on ranges, families mixed, networks and ports repeated": {
			`ssh: {cidrs: [192.0.2.0/24, "2001:DB8::/32", 198.51.100.7/32, 192.0.2.0/24, "2001:db8::/32"], ports: [22, "2200:2299", 22]}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-ssh": pointer(ingressSpec(10,
				ssh(nets("192.0.2.0/24", "198.51.100.7/32"), port(22), portRange(t, 2200, 2299)),
				ssh(nets("2001:db8::/32"), port(22), portRange(t, 2200, 2299))))},
		},
		"networks of the cluster": {
			`cluster: {cidrs: ["2001:db8::/32", 10.0.0.0/8, 172.16.0.0/12]}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-cluster": pointer(ingressSpec(10, trustedNodes(), trustedPods(), trustedAPIServer(),
				allow(nets("10.0.0.0/8", "172.16.0.0/12")), allow(nets("2001:db8::/32"))))},
		},
		"networks instead of selectors": {
			`cluster: {cidrs: [10.0.0.0/8], trustNodes: false, trustPods: false, trustAPIServer: false}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-cluster": pointer(ingressSpec(10, allow(nets("10.0.0.0/8"))))},
		},
		"nodes without pods": {
			`cluster: {trustPods: false}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-cluster": pointer(ingressSpec(10, trustedNodes(), trustedAPIServer()))},
		},
		"further connections, an entry at a time": {
			`
ingress:
  - {name: web, cidrs: [0.0.0.0/0, "::/0"], protocol: TCP, ports: [443, "30000:32767", 443]}
  - {name: bfd, cidrs: ["2001:DB8::/32"], protocol: UDP, ports: [3784]}
  - {name: signalling, cidrs: [192.0.2.0/24, 192.0.2.0/24], protocol: SCTP, ports: [36412]}
  - {name: pmtu, cidrs: [192.0.2.0/24], protocol: ICMP}
  - {name: pmtu-6, cidrs: ["2001:db8::/32"], protocol: ICMPv6, ports: []}
  - {name: vrrp, cidrs: [192.0.2.0/24], protocol: 112}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-ingress": pointer(ingressSpec(10,
				entryRule("web", numorstring.ProtocolFromString("TCP"), "0.0.0.0/0", port(443), portRange(t, 30000, 32767)),
				entryRule("web", numorstring.ProtocolFromString("TCP"), "::/0", port(443), portRange(t, 30000, 32767)),
				entryRule("bfd", numorstring.ProtocolFromString("UDP"), "2001:db8::/32", port(3784)),
				entryRule("signalling", numorstring.ProtocolFromString("SCTP"), "192.0.2.0/24", port(36412)),
				entryRule("pmtu", numorstring.ProtocolFromString("ICMP"), "192.0.2.0/24"),
				entryRule("pmtu-6", numorstring.ProtocolFromString("ICMPv6"), "2001:db8::/32"),
				entryRule("vrrp", numorstring.ProtocolFromInt(112), "192.0.2.0/24"),
			))},
		},
		"further connections to the hosts' own ports": {
			`
ingress: [{name: web, cidrs: [192.0.2.0/24], protocol: TCP, ports: [443]}]
policies: {allowIngress: {order: 3, preDNAT: false, applyOnForward: true}, dropOther: {preDNAT: false}}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{
				"allow-ingress": func() *projectcalico.GlobalNetworkPolicySpec {
					spec := ingressSpec(3, entryRule("web", numorstring.ProtocolFromString("TCP"), "192.0.2.0/24", port(443)))
					spec.PreDNAT = false
					return &spec
				}(),
				"drop-other": func() *projectcalico.GlobalNetworkPolicySpec {
					spec := dropSpec()
					spec.PreDNAT = false
					return &spec
				}(),
			},
		},
		"audit drops nothing": {
			`mode: audit`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"drop-other": pointer(ingressSpec(20, projectcalico.Rule{Action: projectcalico.Log}))},
		},
		"a cluster policy with nothing to say": {
			`cluster: {trustNodes: false, trustPods: false, trustAPIServer: false}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-cluster": nil},
		},
		"no echo": {
			`essential: {icmpEcho: false}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-essential": pointer(ingressSpec(10, withoutLast(essential, 2)...))},
		},
		"neither echo nor DHCP": {
			`essential: {icmpEcho: false, dhcp: false}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-essential": pointer(ingressSpec(10, withoutLast(essential, 4)...))},
		},
		"nothing that can be switched off: loopback and neighbours stay": {
			`essential: {icmpEcho: false, dhcp: false, nodeLocalDNS: []}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-essential": pointer(ingressSpec(10,
				append(append([]projectcalico.Rule{}, essential[:2]...), essential[3:12]...)...))},
		},
		"an API server on other ports": {
			`essential: {apiServerPorts: [443, 16443, 443]}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-essential": pointer(ingressSpec(10,
				slices.Concat(essential[:11], []projectcalico.Rule{openPorts(port(443), port(16443))}, essential[12:])...))},
		},
		"an API server that nobody outside needs": {
			`essential: {apiServerPorts: []}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-essential": pointer(ingressSpec(10, slices.Concat(essential[:11], essential[12:])...))},
		},
		"NodeLocal DNSCache of both families": {
			`essential: {nodeLocalDNS: [169.254.20.10/32, "fd00::10/128"]}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-essential": pointer(ingressSpec(10,
				append(append(append([]projectcalico.Rule{}, essential[:3]...), allow(nets("fd00::10/128"))), essential[3:]...)...))},
		},
		"no policy for what goes out": {
			`policies: {allowOutbound: {enabled: false}}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-outbound": nil},
		},
		"orders of one's own": {
			`policies: {allowOutbound: {order: 1.5}, allowEssential: {order: -3}, allowCluster: {order: 100}, dropOther: {order: 1000000}}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{
				"allow-outbound": func() *projectcalico.GlobalNetworkPolicySpec {
					spec := outboundSpec()
					spec.Order = pointer(1.5)
					return &spec
				}(),
				"allow-essential": pointer(ingressSpec(-3, essential...)),
				"allow-cluster":   pointer(ingressSpec(100, trustedNodes(), trustedPods(), trustedAPIServer())),
				"drop-other":      pointer(ingressSpec(1000000, projectcalico.Rule{Action: projectcalico.Deny})),
			},
		},
		"the drop behind the translation of addresses, the rest before": {
			`policies: {dropOther: {preDNAT: false, applyOnForward: false}}`,
			map[string]*projectcalico.GlobalNetworkPolicySpec{"drop-other": pointer(hostOnly(dropSpec()))},
		},
		"ports of the hosts only": {
			ciFiles(t)["host-ports-only"],
			map[string]*projectcalico.GlobalNetworkPolicySpec{
				"allow-cluster":   pointer(hostOnly(ingressSpec(10, trustedNodes(), trustedPods(), trustedAPIServer()))),
				"allow-essential": pointer(hostOnly(ingressSpec(10, essential...))),
				"allow-ssh":       pointer(hostOnly(ingressSpec(10, ssh(nets("192.0.2.0/24"), port(22))))),
				"drop-other":      pointer(hostOnly(dropSpec())),
			},
		},
		"the example of the article": {
			ciFiles(t)["article"],
			map[string]*projectcalico.GlobalNetworkPolicySpec{"allow-cluster": pointer(ingressSpec(10, allow(nets("10.240.0.0/16", "192.168.0.0/16"))))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]projectcalico.GlobalNetworkPolicySpec{}
			for name, spec := range defaults {
				want[name] = spec
			}
			for name, spec := range test.changed {
				if spec == nil {
					delete(want, name)
				} else {
					want[name] = *spec
				}
			}
			got := map[string]projectcalico.GlobalNetworkPolicySpec{}
			for _, policy := range render(t, setting{values: test.values}).specs() {
				got[policy.name] = policy.spec
			}
			require.Equal(t, want, got)
		})
	}
}

// What an ingress range of one port says, Calico's API server writes as that port, and the digest would be another one.
func TestRangeOfOnePortIsThatPort(t *testing.T) {
	r := render(t, setting{values: entry(`ports: ["443:443", 443, "80:81"]`)})
	require.Equal(t, []numorstring.Port{port(443), portRange(t, 80, 81)}, r.policy(t, "allow-ingress").Spec.Ingress[0].Destination.Ports)
}

func TestAnnotationsOfAllObjectsDoNotTakeThoseOfPoliciesAway(t *testing.T) {
	r := render(t, setting{values: `
commonAnnotations: {argocd.argoproj.io/sync-options: "ServerSideApply=true,Prune=false", argocd.argoproj.io/compare-options: ServerSideDiff=true, helm.sh/resource-policy: drop, example.org/owner: network}`})
	for _, policy := range r.policies {
		require.Equal(t, map[string]string{
			"argocd.argoproj.io/sync-options": "Prune=false,ServerSideApply=true", "argocd.argoproj.io/compare-options": "IgnoreExtraneous,ServerSideDiff=true",
			"helm.sh/resource-policy": "keep", "example.org/owner": "network",
		}, policy.Annotations)
	}
	require.Equal(t, "ServerSideApply=true,Prune=false", r.daemonSet(t).Annotations["argocd.argoproj.io/sync-options"])
}

func TestSetIsOneForAllPoliciesAgentsAndController(t *testing.T) {
	t.Parallel()
	for name, values := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			r := render(t, setting{values: values})
			set := argumentsOf(t, r)["set"]
			require.Regexp(t, `^[0-9a-f]{8}$`, set)
			require.Equal(t, set, controllerArguments(t, r)["set"])
			for _, policy := range r.policies {
				require.Equal(t, set, policy.Labels[setLabel], policy.Name)
			}
		})
	}
}

func TestSetChangesWithThePoliciesAndTheLabelsOfEndpointsOnly(t *testing.T) {
	t.Parallel()
	set := func(s setting) string { return argumentsOf(t, render(t, s))["set"] }
	plain := set(setting{})
	for _, same := range []setting{
		{namespace: "elsewhere"},
		{kubernetes: oldestKubernetes},
		{values: `agent: {image: {tag: "2"}, log: {level: debug}}`},
		{values: `commonLabels: {team: network}`},
		{values: `commonAnnotations: {example.org/owner: network}`},
		{values: `cluster: {cidrs: []}`},
		{release: "other", values: `fullnameOverride: host-firewall`},
	} {
		require.Equal(t, plain, set(same), "%+v", same)
	}
	seen := map[string]setting{plain: {}}
	for _, other := range []setting{
		{release: "other"},
		{served: clusterServing(apiV1)},
		{values: `ssh: {cidrs: [192.0.2.0/24], narrowFailsafe: false}`},
		{values: `ssh: {cidrs: [192.0.2.0/24], ports: [2222], narrowFailsafe: false}`},
		{values: `cluster: {cidrs: [10.0.0.0/8]}`},
		{values: `cluster: {trustPods: false}`},
		{values: `cluster: {trustAPIServer: false}`},
		{values: `essential: {dhcp: false}`},
		{values: `mode: audit`},
		{values: `hostEndpoint: {labels: {host-endpoint: armed}}`},
		{values: `hostEndpoint: {nodeLabels: [zone]}`},
		{values: `ingress: [{name: web, cidrs: [192.0.2.0/24], protocol: TCP, ports: [443]}]`},
		{values: `policies: {dropOther: {order: 30}}`},
		{values: `policies: {allowOutbound: {enabled: false}}`},
	} {
		changed := set(other)
		require.NotContains(t, seen, changed, "%+v", other)
		seen[changed] = other
	}
}

// An upgrade writes a set beside the one that is in force, and never into it; going back finds it as it was.
func TestWhatDiffersInAnySpecHasNoPolicyInCommon(t *testing.T) {
	t.Parallel()
	specs := map[string][]namedSpec{}
	for _, group := range []string{apiV3, apiV1} {
		for name, values := range valuesFiles(t) {
			r := render(t, setting{values: values, served: operated(clusterServing(group))})
			for _, policy := range r.policies {
				all := append(r.specs(), namedSpec{name: group})
				if known, there := specs[policy.Name]; there {
					require.Equal(t, known, all, "%s of %s is of another set, too", policy.Name, name)
				}
				specs[policy.Name] = all
			}
		}
	}
	names := func(values string) []string { return render(t, setting{values: values}).policyNames() }
	files := ciFiles(t)
	require.Equal(t, names(files["default"]), names(files["metrics"]), "what is the same is one set")
	require.Equal(t, names(files["default"]), names(`mode: off`))
	require.NotEqual(t, names(files["default"]), names(files["audit"]))
}
