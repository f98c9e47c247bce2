package helm_test

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	projectcalico "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	"github.com/projectcalico/calico/libcalico-go/lib/selector"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	releaseLabel = "host-firewall.io/release"
	setLabel     = "host-firewall.io/set"
	trustLabel   = "host-firewall.io/trust"
	// onlyPods selects what Calico itself labels: with namespaceSelector all() alone, NetworkSets are meant too.
	onlyPods = "has(projectcalico.org/orchestrator)"
)

// findings are what is broken, in words.
type findings []string

func (f *findings) unless(ok bool, format string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Sprintf(format, args...))
	}
}

// expected is what agents and controller of a release are told about its policies.
type expected struct {
	group, release, set string
	names               []string
}

func expectedOf(t testing.TB, r *rendered) expected {
	t.Helper()
	arguments := controllerArguments(t, r)
	e := expected{group: arguments["api-group"], release: arguments["release"], set: arguments["set"]}
	for _, policy := range strings.Split(arguments["policies"], ",") {
		name, _, _ := strings.Cut(policy, "=")
		e.names = append(e.names, name)
	}
	return e
}

// broken says what keeps the policies of a release from being enforced on its armed endpoints, on those alone, and without
// locking anybody out. Calico itself would not: on crd.projectcalico.org/v1 it drops a policy that it finds invalid with a line in
// Felix's log, and an allow that is dropped beside a drop that is not is a lock-out.
func (e expected) broken(policies []projectcalico.GlobalNetworkPolicy) []string {
	var found findings
	names := map[string]bool{}
	for _, policy := range policies {
		found.unless(!names[policy.Name], "%s: there are two of the name", policy.Name)
		names[policy.Name] = true
		found = append(found, e.brokenPolicy(policy)...)
	}
	found.unless(slices.Equal(slices.Sorted(maps.Keys(names)), slices.Sorted(slices.Values(e.names))), "the controller waits for %v", e.names)
	return append(found, brokenOrder(policies)...)
}

func (e expected) brokenPolicy(policy projectcalico.GlobalNetworkPolicy) []string {
	var found findings
	spec := policy.Spec
	unless := func(ok bool, format string, args ...any) {
		found.unless(ok, "%s: %s", policy.Name, fmt.Sprintf(format, args...))
	}
	unless(policy.APIVersion == e.group, "%s is not the group that the controller watches", policy.APIVersion)
	unless(len(validation.IsDNS1123Label(policy.Name)) == 0, "the name is no DNS label: a dot would be read as a tier")
	unless(strings.HasSuffix(policy.Name, "-"+e.set), "the name is not that of its set, so an upgrade would change it in place")
	unless(policy.Labels[releaseLabel] == e.release, "the release's label is missing")
	unless(policy.Labels[setLabel] == e.set, "it is of another set than the one that agents arm with")
	unless(policy.Annotations["helm.sh/resource-policy"] == "keep", "an upgrade would delete it while endpoints carry its set")
	unless(slices.Contains(strings.Split(policy.Annotations["argocd.argoproj.io/sync-options"], ","), "Prune=false"), "Argo CD would prune it")
	unless(slices.Contains(strings.Split(policy.Annotations["argocd.argoproj.io/compare-options"], ","), "IgnoreExtraneous"), "Argo CD would see a set that is kept as a difference")
	unless(spec.Tier == "", "older Calico knows no tier")
	unless(spec.Order != nil, "without an order it comes last")
	unless(spec.NamespaceSelector == "" && spec.ServiceAccountSelector == "", "selectors of namespaces and accounts exclude host endpoints")
	unless(!spec.DoNotTrack, "doNotTrack does not work on all interfaces")
	unless(asksForAll(spec.Selector, map[string]string{releaseLabel: e.release, setLabel: e.set}), "selector %q does not select exactly the armed endpoints of the release", spec.Selector)
	for _, moving := range []string{e.set + ".00000000", "00000000." + e.set} {
		unless(asksForAll(spec.Selector, map[string]string{releaseLabel: e.release, setLabel: moving}), "selector %q leaves out a node that moves between two sets", spec.Selector)
	}

	switch {
	case slices.Equal(spec.Types, []projectcalico.PolicyType{projectcalico.PolicyTypeIngress}):
		unless(len(spec.Ingress) > 0, "it says nothing")
		unless(len(spec.Egress) == 0, "it has rules for a direction that it does not govern")
	case slices.Equal(spec.Types, []projectcalico.PolicyType{projectcalico.PolicyTypeEgress}):
		unless(len(spec.Egress) > 0, "it says nothing")
		unless(len(spec.Ingress) == 0, "it has rules for a direction that it does not govern")
		unless(!spec.PreDNAT, "preDNAT is for what comes in")
	default:
		unless(false, "types %v are not one direction", spec.Types)
	}
	unless(!spec.PreDNAT || spec.ApplyOnForward, "preDNAT without applyOnForward")

	rules := slices.Concat(spec.Ingress, spec.Egress)
	lets := slices.ContainsFunc(rules, func(rule projectcalico.Rule) bool { return rule.Action != projectcalico.Log })
	unless(lets || spec.PreDNAT, "a normal policy that only logs drops everything")
	for i, rule := range rules {
		for _, fault := range e.brokenRule(rule) {
			unless(false, "rule %d %s", i, fault)
		}
	}
	for i, rule := range spec.Ingress {
		unless(!reflect.DeepEqual(rule, projectcalico.Rule{Action: projectcalico.Allow}), "rule %d lets everybody in to everything", i)
	}
	return found
}

// asksForAll tells whether a selector, read as Felix reads it, selects what has all of these labels, and not what has another
// value for one of them or lacks it.
func asksForAll(text string, labels map[string]string) bool {
	parsed, err := selector.Parse(text)
	if err != nil || !parsed.Evaluate(labels) {
		return false
	}
	for key := range labels {
		other, without := map[string]string{}, map[string]string{}
		for k, v := range labels {
			other[k], without[k] = v, v
		}
		other[key] = "other"
		delete(without, key)
		if parsed.Evaluate(other) || parsed.Evaluate(without) {
			return false
		}
	}
	return true
}

// brokenRule says what Calico would refuse a rule for, or read otherwise than it is meant.
func (e expected) brokenRule(rule projectcalico.Rule) []string {
	var found findings
	families := map[int]bool{}
	for _, entity := range []projectcalico.EntityRule{rule.Source, rule.Destination} {
		for _, cidr := range slices.Concat(entity.Nets, entity.NotNets) {
			prefix, err := netip.ParsePrefix(cidr)
			if err != nil {
				found.unless(false, "has %s, which is no network", cidr)
				continue
			}
			found.unless(prefix == prefix.Masked(), "has %s, which has host bits", cidr)
			found.unless(!prefix.Addr().Is4In6(), "has %s, which is IPv4 to Calico, with another prefix length", cidr)
			families[map[bool]int{true: 4, false: 6}[prefix.Addr().Is4()]] = true
		}
		for _, ports := range slices.Concat(entity.Ports, entity.NotPorts) {
			found.unless(ports.PortName == "" && ports.MinPort > 0 && ports.MinPort <= ports.MaxPort, "has ports %v, which are none", ports)
		}
		if entity.Services != nil {
			found.unless(*entity.Services == projectcalico.ServiceMatch{Namespace: "default", Name: "kubernetes"}, "trusts the Service %v", *entity.Services)
			entity.Services = nil
			found.unless(reflect.DeepEqual(entity, projectcalico.EntityRule{}), "has something beside a Service: Calico takes that for invalid")
		}
		switch entity.NamespaceSelector {
		case "":
			found.unless(entity.Selector == "", "trusts pods that borrow the labels of a node")
		case "all()":
			found.unless(entity.Selector == onlyPods, "trusts NetworkSets of every namespace")
		case "global()":
			found.unless(asksForAll(entity.Selector, map[string]string{releaseLabel: e.release, trustLabel: "node"}), "trusts %q, which is not the nodes of the release", entity.Selector)
		default:
			found.unless(false, "has namespaces %q", entity.NamespaceSelector)
		}
	}
	found.unless(len(families) <= 1, "mixes IPv4 and IPv6")
	for family := range families {
		found.unless(rule.IPVersion == nil || *rule.IPVersion == family, "is for IPv%d and has networks of IPv%d", pointee(rule.IPVersion), family)
	}

	protocol := ""
	if rule.Protocol != nil {
		protocol = rule.Protocol.String()
		named := rule.Protocol.Type == numorstring.NumOrStringString
		found.unless(!named || slices.Contains([]string{"TCP", "UDP", "SCTP", "ICMP", "ICMPv6"}, protocol), "has protocol %s, which Calico does not know", protocol)
		found.unless(named || rule.Protocol.NumVal > 0, "has protocol 0, which is any")
	}
	if len(rule.Source.Ports)+len(rule.Destination.Ports) > 0 {
		found.unless(slices.Contains([]string{"TCP", "UDP", "SCTP"}, protocol), "has ports and protocol %q, which has none", protocol)
	}
	if family, isICMP := map[string]int{"ICMP": 4, "ICMPv6": 6}[protocol]; isICMP {
		found.unless(rule.IPVersion == nil || *rule.IPVersion == family, "is %s for IPv%d", protocol, pointee(rule.IPVersion))
		found.unless(!families[10-family], "is %s for networks of the other family", protocol)
	}
	if rule.ICMP != nil {
		found.unless(protocol == "ICMP" || protocol == "ICMPv6", "has an ICMP type without ICMP")
		found.unless(rule.ICMP.Type != nil, "has ICMP without its one type")
		found.unless(rule.IPVersion != nil, "has an ICMP type and no family")
	}
	found.unless(slices.Contains([]projectcalico.Action{projectcalico.Allow, projectcalico.Deny, projectcalico.Log}, rule.Action), "has action %q", rule.Action)
	return found
}

// brokenOrder says what would be dropped although the values let it in. Calico asks all preDNAT policies before all others,
// and of each kind those with a lower order first.
func brokenOrder(policies []projectcalico.GlobalNetworkPolicy) []string {
	var found findings
	var dropping, allowing []projectcalico.GlobalNetworkPolicy
	for _, policy := range policies {
		rules := slices.Concat(policy.Spec.Ingress, policy.Spec.Egress)
		switch {
		case !slices.ContainsFunc(rules, func(rule projectcalico.Rule) bool { return rule.Action != projectcalico.Allow }):
			allowing = append(allowing, policy)
		case len(rules) == 1 && reflect.DeepEqual(rules[0], projectcalico.Rule{Action: rules[0].Action}) && len(policy.Spec.Ingress) == 1:
			dropping = append(dropping, policy)
		default:
			found.unless(false, "%s: it allows and drops", policy.Name)
		}
	}
	if len(dropping) != 1 {
		return append(found, fmt.Sprintf("%d policies drop what nothing allows", len(dropping)))
	}
	drop := dropping[0].Spec
	for _, policy := range allowing {
		spec := policy.Spec
		if len(spec.Ingress) == 0 || spec.Order == nil || drop.Order == nil {
			continue
		}
		first := spec.PreDNAT && !drop.PreDNAT || spec.PreDNAT == drop.PreDNAT && *spec.Order < *drop.Order
		found.unless(first, "%s: the drop comes before it", policy.Name)
		found.unless(spec.PreDNAT || drop.PreDNAT || spec.ApplyOnForward == drop.ApplyOnForward, "%s: it and the drop are not applied to the same traffic", policy.Name)
	}
	return found
}

// namespacesOf are those that an object may be in. What is read in another namespace, no right in the release's own is for.
func namespacesOf(object runtime.Object, namespace string) []string {
	switch object.(type) {
	case *rbacv1.Role, *rbacv1.RoleBinding:
		return []string{namespace, "default"}
	}
	return []string{"", namespace}
}

// broken says what is wrong with a release whose documents could be decoded: with its policies, and with what Kubernetes would
// refuse in any object.
func (r *rendered) broken(t testing.TB, namespace string) []string {
	t.Helper()
	var found findings = expectedOf(t, r).broken(r.policies)
	for _, object := range r.all() {
		accessor := object.(metav1.Object)
		name := object.GetObjectKind().GroupVersionKind().Kind + " " + accessor.GetName()
		found.unless(len(apivalidation.NameIsDNSSubdomain(accessor.GetName(), false)) == 0, "%s: the name is none", name)
		found.unless(slices.Contains(namespacesOf(object, namespace), accessor.GetNamespace()), "%s: it is in namespace %s", name, accessor.GetNamespace())
		metadata := []metav1.Object{accessor}
		switch o := object.(type) {
		case *appsv1.DaemonSet:
			metadata = append(metadata, &o.Spec.Template)
		case *appsv1.Deployment:
			metadata = append(metadata, &o.Spec.Template)
		case *batchv1.Job:
			metadata = append(metadata, &o.Spec.Template)
		}
		for _, m := range metadata {
			errs := metav1validation.ValidateLabels(m.GetLabels(), field.NewPath("labels"))
			errs = append(errs, apivalidation.ValidateAnnotations(m.GetAnnotations(), field.NewPath("annotations"))...)
			found.unless(len(errs) == 0, "%s: %v", name, errs.ToAggregate())
		}
	}
	told := []map[string]string{controllerArguments(t, r)}
	if len(r.daemonSets) > 0 {
		told = append(told, argumentsOf(t, r))
	}
	for _, arguments := range told {
		if address := arguments["metrics-address"]; !strings.HasPrefix(address, ":") && address != "" {
			_, err := netip.ParseAddrPort(address)
			found.unless(err == nil, "nobody can listen on %s", address)
		}
	}
	return found
}

func pointee(number *int) int {
	if number == nil {
		return 0
	}
	return *number
}

func TestEveryPolicyIsOneThatCalicoEnforces(t *testing.T) {
	for name, values := range valuesFiles(t) {
		for _, group := range []string{apiV3, apiV1} {
			for _, release := range []string{"host-firewall", "edge.eu", strings.Repeat("long-", 10) + "end"} {
				t.Run(fmt.Sprintf("%s/%s/%s", name, group, release), func(t *testing.T) {
					t.Parallel()
					r := render(t, setting{release: release, values: values, served: operated(clusterServing(group))})
					require.Equal(t, group, r.policies[0].APIVersion)
					require.Empty(t, r.broken(t, "host-firewall"))
				})
			}
		}
	}
}

// Each of these is one slip in a template away from what is rendered, and none may go unnoticed.
func TestNoBrokenPolicyGoesUnnoticed(t *testing.T) {
	values := `{ssh: {cidrs: [192.0.2.0/24]}, ingress: [{name: web, cidrs: [0.0.0.0/0], protocol: TCP, ports: [443]}]}`
	r := render(t, setting{values: values})
	e := expectedOf(t, r)
	require.Empty(t, e.broken(r.policies))

	type policy = projectcalico.GlobalNetworkPolicy
	rule := func(change func(*projectcalico.Rule)) func(*policy) {
		return func(p *policy) { change(&p.Spec.Ingress[0]) }
	}
	for name, test := range map[string]struct {
		policy string
		change func(*policy)
		words  string
	}{
		"no types":                        {"allow-ssh", func(p *policy) { p.Spec.Types = nil }, "not one direction"},
		"both types":                      {"allow-ssh", func(p *policy) { p.Spec.Types = append(p.Spec.Types, "Egress") }, "not one direction"},
		"the wrong type":                  {"allow-ssh", func(p *policy) { p.Spec.Types = []projectcalico.PolicyType{"Egress"} }, "does not govern"},
		"no rules":                        {"allow-ssh", func(p *policy) { p.Spec.Ingress = nil }, "says nothing"},
		"preDNAT alone":                   {"allow-ssh", func(p *policy) { p.Spec.ApplyOnForward = false }, "without applyOnForward"},
		"egress before translation":       {"allow-outbound", func(p *policy) { p.Spec.PreDNAT, p.Spec.ApplyOnForward = true, true }, "preDNAT is for"},
		"a dot in the name":               {"allow-ssh", func(p *policy) { p.Name = "edge.allow-ssh-" + e.set }, "read as a tier"},
		"a name twice":                    {"allow-ssh", func(p *policy) { p.Name = "host-firewall-drop-other-" + e.set }, "two of the name"},
		"another group":                   {"allow-ssh", func(p *policy) { p.APIVersion = apiV1 }, "not the group"},
		"no owner":                        {"allow-ssh", func(p *policy) { delete(p.Labels, releaseLabel) }, "label is missing"},
		"another set":                     {"allow-ssh", func(p *policy) { p.Labels[setLabel] = "x" }, "another set"},
		"a name for ever":                 {"allow-ssh", func(p *policy) { p.Name = "host-firewall-allow-ssh" }, "change it in place"},
		"a policy that nobody waits for":  {"allow-ssh", func(p *policy) { p.Name = "host-firewall-more-" + e.set }, "the controller waits for"},
		"one that Helm deletes":           {"allow-ssh", func(p *policy) { delete(p.Annotations, "helm.sh/resource-policy") }, "an upgrade would delete it"},
		"one that Argo CD deletes":        {"allow-ssh", func(p *policy) { p.Annotations["argocd.argoproj.io/sync-options"] = "Replace=true" }, "Argo CD would prune"},
		"one that Argo CD sees":           {"allow-ssh", func(p *policy) { delete(p.Annotations, "argocd.argoproj.io/compare-options") }, "as a difference"},
		"a tier":                          {"allow-ssh", func(p *policy) { p.Spec.Tier = "default" }, "no tier"},
		"no order":                        {"allow-ssh", func(p *policy) { p.Spec.Order = nil }, "without an order"},
		"pods only":                       {"allow-ssh", func(p *policy) { p.Spec.NamespaceSelector = "all()" }, "exclude host endpoints"},
		"every node":                      {"drop-other", func(p *policy) { p.Spec.Selector = "all()" }, "exactly the armed"},
		"any release":                     {"drop-other", func(p *policy) { p.Spec.Selector = "has(host-firewall.io/set)" }, "exactly the armed"},
		"none that moves":                 {"drop-other", func(p *policy) { p.Spec.Selector = releaseOnly + " && host-firewall.io/set == '" + e.set + "'" }, "moves between two sets"},
		"not armed yet":                   {"drop-other", func(p *policy) { p.Spec.Selector = releaseOnly }, "exactly the armed"},
		"one or the other":                {"drop-other", func(p *policy) { p.Spec.Selector = releaseOnly + " || host-firewall.io/set contains '" + e.set + "'" }, "exactly the armed"},
		"no selector":                     {"drop-other", func(p *policy) { p.Spec.Selector = "host-firewall.io/release =" }, "exactly the armed"},
		"a drop before the rest":          {"drop-other", func(p *policy) { p.Spec.Order = pointer(10.0) }, "drop comes before"},
		"an allow behind the translation": {"allow-ssh", func(p *policy) { p.Spec.PreDNAT = false }, "drop comes before"},
		"nothing that drops": {"drop-other", func(p *policy) {
			p.Spec.Ingress = []projectcalico.Rule{{Action: projectcalico.Allow, Protocol: pointer(numorstring.ProtocolFromString("TCP"))}}
		}, "0 policies drop"},
		"an allow that drops": {"allow-ssh", func(p *policy) {
			p.Spec.Ingress = append(p.Spec.Ingress, projectcalico.Rule{Action: projectcalico.Deny})
		}, "allows and drops"},
		"a normal policy that logs": {"drop-other", func(p *policy) {
			p.Spec.Ingress[0].Action, p.Spec.PreDNAT = projectcalico.Log, false
		}, "only logs"},
		"a rule for everybody":         {"allow-ssh", rule(func(r *projectcalico.Rule) { *r = projectcalico.Rule{Action: projectcalico.Allow} }), "everybody in"},
		"mixed families":               {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Source.Nets = append(r.Source.Nets, "::1/128") }), "mixes IPv4 and IPv6"},
		"mixed ends":                   {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Destination.Nets = []string{"::1/128"} }), "mixes IPv4 and IPv6"},
		"the other family":             {"allow-ssh", rule(func(r *projectcalico.Rule) { r.IPVersion = pointer(6) }), "networks of IPv4"},
		"host bits":                    {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Source.Nets = []string{"192.0.2.1/24"} }), "host bits"},
		"no network":                   {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Source.Nets = []string{"192.0.2.1"} }), "no network"},
		"IPv4 in IPv6 clothes":         {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Source.Nets = []string{"::ffff:192.0.2.0/120"} }), "IPv4 to Calico"},
		"ports of everything":          {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Protocol = nil }), "has ports and protocol"},
		"ports of VRRP":                {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Protocol = pointer(numorstring.ProtocolFromInt(112)) }), "has ports and protocol"},
		"an unknown protocol":          {"allow-ingress", rule(func(r *projectcalico.Rule) { r.Protocol = pointer(numorstring.ProtocolFromString("GRE")) }), "does not know"},
		"port 0":                       {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Destination.Ports = []numorstring.Port{port(0)} }), "which are none"},
		"ICMPv6 for IPv4":              {"allow-essential", rule(func(r *projectcalico.Rule) { *r = allowICMP(6, 135); r.IPVersion = pointer(4) }), "ICMPv6 for IPv4"},
		"ICMP without a type":          {"allow-essential", rule(func(r *projectcalico.Rule) { *r = allowICMP(4, 8); r.ICMP.Type = nil }), "one type"},
		"an ICMP type of TCP":          {"allow-ssh", rule(func(r *projectcalico.Rule) { r.ICMP = &projectcalico.ICMPFields{Type: pointer(8)} }), "without ICMP"},
		"trust in another release":     {"allow-cluster", rule(func(r *projectcalico.Rule) { r.Source.Selector = "has(host-firewall.io/trust)" }), "not the nodes of the release"},
		"trust in endpoints":           {"allow-cluster", rule(func(r *projectcalico.Rule) { r.Source.Selector = releaseOnly }), "not the nodes of the release"},
		"trust in a pod with a label":  {"allow-cluster", rule(func(r *projectcalico.Rule) { r.Source.NamespaceSelector = "" }), "borrow the label"},
		"trust in a NetworkSet":        {"allow-cluster", func(p *policy) { p.Spec.Ingress[1].Source.Selector = "" }, "trusts NetworkSets"},
		"trust in another Service":     {"allow-cluster", func(p *policy) { p.Spec.Ingress[2].Source.Services.Name = "web" }, "trusts the Service"},
		"a Service and networks":       {"allow-cluster", func(p *policy) { p.Spec.Ingress[2].Source.Nets = []string{"192.0.2.0/24"} }, "beside a Service"},
		"no action":                    {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Action = "" }), "allows and drops"},
		"what goes on to the next one": {"allow-ssh", rule(func(r *projectcalico.Rule) { r.Action = projectcalico.Pass }), `action "Pass"`},
	} {
		t.Run(name, func(t *testing.T) {
			policies := make([]policy, len(r.policies))
			for i, p := range r.policies {
				policies[i] = *p.DeepCopy()
				if p.Name == "host-firewall-"+test.policy+"-"+e.set {
					test.change(&policies[i])
				}
			}
			require.Contains(t, strings.Join(e.broken(policies), "\n"), test.words)
		})
	}
}
