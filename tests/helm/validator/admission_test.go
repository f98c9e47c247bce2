package validator_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	projectcalico "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistration "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	releaseLabel = "host-firewall.io/release"
	setLabel     = "host-firewall.io/set"
	trustLabel   = "host-firewall.io/trust"
	witnessLabel = "host-firewall.io/witness"
	metadataKey  = "projectcalico.org/metadata"
)

// review is a request that an admission policy of the chart is asked about.
type review struct {
	Policy  admissionregistration.ValidatingAdmissionPolicy
	Request admissionv1.AdmissionRequest
}

// write is a request: what was there before, and what is to be there.
type write struct {
	old, object any
	denied      string // words of the denial; empty: it is allowed
}

// ours are the admission policies of the release host-firewall by name, and the set that is wanted.
func ours(t *testing.T) (policies map[string]admissionregistration.ValidatingAdmissionPolicy, set string) {
	t.Helper()
	return oursWith(t, "")
}

func oursWith(t *testing.T, values string) (policies map[string]admissionregistration.ValidatingAdmissionPolicy, set string) {
	t.Helper()
	objects, err := release(t, values, "ValidatingAdmissionPolicy", "GlobalNetworkPolicy")
	require.NoError(t, err)
	policies = map[string]admissionregistration.ValidatingAdmissionPolicy{}
	for _, object := range objects {
		if object.GetKind() == "GlobalNetworkPolicy" {
			set = object.GetLabels()[setLabel]
			continue
		}
		var policy admissionregistration.ValidatingAdmissionPolicy
		require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &policy))
		policies[policy.Name] = policy
	}
	require.NotEmpty(t, set)
	return policies, set
}

// requireDecisions holds what a policy says of writes by somebody to a resource of Calico's.
func requireDecisions(t *testing.T, policy admissionregistration.ValidatingAdmissionPolicy, who authenticationv1.UserInfo, resource string, writes map[string]write) {
	t.Helper()
	require.Contains(t, policy.Spec.MatchConstraints.ResourceRules[0].Resources, resource)
	var reviews []review
	var names []string
	for name, w := range writes {
		request := admissionv1.AdmissionRequest{
			Kind:      metav1.GroupVersionKind{Group: "crd.projectcalico.org", Version: "v1", Kind: "X"},
			Resource:  metav1.GroupVersionResource{Group: "crd.projectcalico.org", Version: "v1", Resource: resource},
			Operation: admissionv1.Update, UserInfo: who, Object: raw(t, w.object), OldObject: raw(t, w.old),
		}
		switch {
		case w.old == nil:
			request.Operation = admissionv1.Create
		case w.object == nil:
			request.Operation = admissionv1.Delete
		}
		reviews, names = append(reviews, review{policy, request}), append(names, name)
	}
	for i, answer := range ask(t, "kubernetes", reviews, "admission") {
		if want := writes[names[i]].denied; want == "" {
			assert.Empty(t, answer, names[i])
		} else {
			assert.Contains(t, answer, want, names[i])
		}
	}
}

func raw(t *testing.T, object any) runtime.RawExtension {
	t.Helper()
	if object == nil {
		return runtime.RawExtension{}
	}
	text, err := json.Marshal(object)
	require.NoError(t, err)
	return runtime.RawExtension{Raw: text}
}

var controllerAccount = authenticationv1.UserInfo{Username: "system:serviceaccount:host-firewall:host-firewall-controller"}

// Whoever has the controller's token can have addresses trusted, as nodes of this release, make witnesses, and take old sets away. That is all.
func TestControllersTokenWritesNetworkSetsOfNodesAndNothingElse(t *testing.T) {
	policies, _ := ours(t)
	set := func(name string, labels map[string]string, nets ...string) *projectcalico.GlobalNetworkSet {
		return &projectcalico.GlobalNetworkSet{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: projectcalico.GlobalNetworkSetSpec{Nets: nets},
		}
	}
	const own, address = "host-firewall-node-n1", "192.0.2.1/32"
	labels := map[string]string{releaseLabel: "host-firewall", trustLabel: "node"}
	with := func(key, value string) map[string]string {
		more := maps.Clone(labels)
		more[key] = value
		return more
	}
	annotated := func(of *projectcalico.GlobalNetworkSet, text string) *projectcalico.GlobalNetworkSet {
		of.Annotations = map[string]string{metadataKey: text}
		return of
	}
	witnesses := func(labels map[string]string, nets ...string) *projectcalico.GlobalNetworkSet {
		return set("host-firewall-witness", labels, nets...)
	}
	witnessing := with(trustLabel, "witness")
	good, empty := set(own, labels, address, "2001:db8::1/128"), set(own, labels)
	tooMany := make([]string, 65)
	for i := range tooMany {
		tooMany[i] = address
	}
	const name, others, label, single = "names a network set", "writes objects of that release only", "labels a network set as one of a node", "single addresses, at most 64"
	kept := `{"labels":{"host-firewall.io/release":"host-firewall","host-firewall.io/trust":"node"}}`
	requireDecisions(t, policies["host-firewall-controller"], controllerAccount, "globalnetworksets", map[string]write{
		"a set of a node":                                    {nil, good, ""},
		"a set without addresses":                            {nil, empty, ""},
		"other addresses of a node":                          {empty, good, ""},
		"a set of a node that is gone":                       {good, nil, ""},
		"a label of somebody else's is left":                 {set(own, with("team", "a")), set(own, with("team", "a"), address), ""},
		"what Calico's API server has kept":                  {annotated(set(own, nil), kept), annotated(set(own, labels, address), kept), ""},
		"and taken away":                                     {annotated(set(own, nil), kept), good, ""},
		"another name":                                       {nil, set("host-firewall-nodes", labels, address), name},
		"the name of another release's":                      {nil, set("host-firewall-2-node-n1", labels, address), name},
		"no release":                                         {nil, set(own, map[string]string{trustLabel: "node"}, address), label},
		"another release":                                    {nil, set(own, with(releaseLabel, "other"), address), label},
		"no trust":                                           {nil, set(own, map[string]string{releaseLabel: "host-firewall"}, address), label},
		"another trust":                                      {nil, set(own, with(trustLabel, "admin"), address), label},
		"a label that others may select by":                  {nil, set(own, with("role", "admins"), address), label},
		"the same added later":                               {good, set(own, with("role", "admins"), address), label},
		"the same with another value":                        {set(own, with("role", "a")), set(own, with("role", "b")), label},
		"labels in Calico's annotation":                      {nil, annotated(set(own, labels, address), `{"labels":{"role":"admins"}}`), label},
		"somebody else's set":                                {set(own, nil, address), good, others},
		"somebody else's set deleted":                        {set("admins", nil, address), nil, others},
		"a set of another release":                           {set(own, with(releaseLabel, "other")), good, others},
		"a set of another release deleted":                   {set("other-node-n1", with(releaseLabel, "other")), nil, others},
		"something of ours that is no set of a node":         {set("host-firewall-more", labels), nil, name},
		"the set of witnesses":                               {nil, witnesses(witnessing, "127.66.1.2/32"), ""},
		"the same changed":                                   {witnesses(witnessing), witnesses(witnessing, "127.66.1.2/32", "127.66.3.4/32"), ""},
		"the same that goes":                                 {witnesses(witnessing, "127.66.1.2/32"), nil, ""},
		"the set of witnesses with what it trusts":           {nil, witnesses(labels, "127.66.1.2/32"), label},
		"the set of a node as one of witnesses":              {nil, set(own, witnessing, address), label},
		"another address in the set of witnesses":            {nil, witnesses(witnessing, "127.66.1.2/32", address), single},
		"all of theirs":                                      {nil, witnesses(witnessing, "127.66.0.0/16"), single},
		"everybody":                                          {nil, set(own, labels, "0.0.0.0/0"), single},
		"an IPv6 network with the length of an IPv4 address": {nil, set(own, labels, "2001:db8::/32"), single},
		"a network among addresses":                          {good, set(own, labels, address, "10.0.0.0/8"), single},
		"more than a node has":                               {nil, set(own, labels, tooMany...), single},
		"all at once":                                        {nil, nil, "one object at a time"},
	})
	for _, resource := range []string{"hostendpoints", "felixconfigurations"} {
		const never = "writes neither host endpoints nor Felix configurations"
		of := &projectcalico.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{releaseLabel: "host-firewall"}}}
		requireDecisions(t, policies["host-firewall-controller"], controllerAccount, resource, map[string]write{
			"created": {nil, of, never}, "changed": {of, of, never}, "deleted": {of, nil, never},
		})
	}
}

func TestControllersTokenDeletesOldSetsAndChangesNoPolicy(t *testing.T) {
	policies, set := ours(t)
	policy := func(name string, labels map[string]string) *projectcalico.GlobalNetworkPolicy {
		return &projectcalico.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	of := func(release, set string) map[string]string {
		return map[string]string{releaseLabel: release, setLabel: set}
	}
	wanted := policy("host-firewall-drop-other-"+set, of("host-firewall", set))
	old := policy("host-firewall-drop-other-00000000", of("host-firewall", "00000000"))
	kept := policy("default.host-firewall-drop-other-00000000", nil)
	kept.Annotations = map[string]string{metadataKey: `{"labels":{"host-firewall.io/release":"host-firewall","host-firewall.io/set":"00000000"}}`}
	witness := policy("host-firewall-witness-"+set, map[string]string{releaseLabel: "host-firewall", witnessLabel: set})
	const others, only, deny = "writes objects of that release only", "of policies the controller only deletes witnesses and those that are not of the wanted set ", "of policies the controller only creates witnesses"
	requireDecisions(t, policies["host-firewall-controller"], controllerAccount, "globalnetworkpolicies", map[string]write{
		"one of an old set deleted":                     {old, nil, ""},
		"the same as Calico's API server keeps it":      {kept, nil, ""},
		"one of the wanted set deleted":                 {wanted, nil, only + set},
		"the same with the label of another set":        {policy(wanted.Name, of("host-firewall", "00000000")), nil, only},
		"another name with the label of the wanted set": {policy(old.Name, of("host-firewall", set)), nil, only},
		"one of another release deleted":                {policy("other-drop-00000000", of("other", "00000000")), nil, others},
		"somebody else's deleted":                       {policy("default-deny", nil), nil, others},
		"one created":                                   {nil, policy("host-firewall-more-00000000", of("host-firewall", "00000000")), deny},
		"one without labels created":                    {nil, policy("allow-all", nil), deny},
		"a witness of the wanted set deleted":           {witness, nil, ""},
		"the same as Calico's server keeps its name":    {policy("default."+witness.Name, witness.Labels), nil, ""},
		"a witness changed":                             {witness, witness, only},
		"one of an old set changed":                     {old, old, only},
		"one of the wanted set changed":                 {wanted, wanted, only},
		"somebody else's changed":                       {policy("default-deny", nil), policy("default-deny", of("host-firewall", "00000000")), others},
	})
}

// witnessSpec is as the controller creates it.
const witnessSpec = `{"order": 9, "selector": "host-firewall.io/release == 'host-firewall'", "types": ["Ingress"], "preDNAT": true, "applyOnForward": true, "ingress": [
	{"action": "Deny", "protocol": "TCP", "destination": {"nets": ["127.66.91.47/32"], "ports": [9]}, "source": {
		"nets": ["127.66.57.27/32"], "selector": "host-firewall.io/release == 'host-firewall' && host-firewall.io/trust == 'witness'", "namespaceSelector": "global()"}},
	{"action": "Deny", "protocol": "TCP", "destination": {"nets": ["::1/128"], "ports": [9]}, "source": {"nets": ["::1/128"]}}
]}`

// Whatever the controller's token creates decides over one port of loopback, which nobody uses.
func TestControllersTokenCreatesWitnessesAndNoOtherPolicy(t *testing.T) {
	policies, set := ours(t)
	const deny, label = "of policies the controller only creates witnesses, which deny TCP to port 9 of one loopback address each", "names and labels a witness as one of host-firewall"
	writes := map[string]write{}
	try := func(what, denied string, change func(*projectcalico.GlobalNetworkPolicy)) {
		policy := &projectcalico.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{
			Name: "host-firewall-witness-" + set, Labels: map[string]string{releaseLabel: "host-firewall", witnessLabel: set},
		}}
		require.NoError(t, json.Unmarshal([]byte(witnessSpec), &policy.Spec))
		change(policy)
		writes[what] = write{nil, policy, denied}
	}
	rule := func(change func(*projectcalico.Rule)) func(*projectcalico.GlobalNetworkPolicy) {
		return func(p *projectcalico.GlobalNetworkPolicy) { change(&p.Spec.Ingress[0]) }
	}
	spec := func(change func(*projectcalico.GlobalNetworkPolicySpec)) func(*projectcalico.GlobalNetworkPolicy) {
		return func(p *projectcalico.GlobalNetworkPolicy) { change(&p.Spec) }
	}
	meta := func(change func(*metav1.ObjectMeta)) func(*projectcalico.GlobalNetworkPolicy) {
		return func(p *projectcalico.GlobalNetworkPolicy) { change(&p.ObjectMeta) }
	}
	try("as it makes it", "", func(*projectcalico.GlobalNetworkPolicy) {})
	try("as Calico completes it", "", func(p *projectcalico.GlobalNetworkPolicy) {
		p.Spec.Tier, p.Labels["projectcalico.org/tier"] = "default", "default"
	})
	try("it allows", deny, rule(func(r *projectcalico.Rule) { r.Action = "Allow" }))
	try("it only logs", deny, rule(func(r *projectcalico.Rule) { r.Action = "Log" }))
	try("another port", deny, rule(func(r *projectcalico.Rule) { r.Destination.Ports[0].MinPort = 8 }))
	try("a port more", deny, rule(func(r *projectcalico.Rule) { r.Destination.Ports = append(r.Destination.Ports, r.Destination.Ports[0]) }))
	try("every port", deny, rule(func(r *projectcalico.Rule) { r.Destination.Ports = nil }))
	try("another protocol", deny, rule(func(r *projectcalico.Rule) { r.Protocol = nil }))
	try("an address of the node", deny, rule(func(r *projectcalico.Rule) { r.Destination.Nets = []string{"192.0.2.1/32"} }))
	try("more than an address", deny, rule(func(r *projectcalico.Rule) { r.Destination.Nets = []string{"127.66.0.0/16"} }))
	try("an address more", deny, rule(func(r *projectcalico.Rule) { r.Destination.Nets = append(r.Destination.Nets, "192.0.2.1/32") }))
	try("every address", deny, rule(func(r *projectcalico.Rule) { r.Destination.Nets = nil }))
	try("no rule", deny, spec(func(s *projectcalico.GlobalNetworkPolicySpec) { s.Ingress = nil }))
	try("a drop at its end", deny, spec(func(s *projectcalico.GlobalNetworkPolicySpec) { s.PreDNAT = false }))
	try("what goes out", deny, spec(func(s *projectcalico.GlobalNetworkPolicySpec) { s.Types = append(s.Types, "Egress") }))
	try("what is not tracked", deny, spec(func(s *projectcalico.GlobalNetworkPolicySpec) { s.DoNotTrack = true }))
	try("another tier", deny, spec(func(s *projectcalico.GlobalNetworkPolicySpec) { s.Tier = "first" }))
	carriers := func(selector, of string) func(*projectcalico.GlobalNetworkPolicy) {
		return func(p *projectcalico.GlobalNetworkPolicy) {
			p.Name, p.Labels[witnessLabel], p.Spec.Selector, p.Spec.Ingress = "host-firewall-witness-"+of, of, selector, p.Spec.Ingress[:1]
		}
	}
	const ofSet = "host-firewall.io/release == 'host-firewall' && host-firewall.io/set contains '00000000'"
	try("for who carries a set", "", carriers(ofSet, set+"-moved"))
	try("by the name of another", label, func(p *projectcalico.GlobalNetworkPolicy) {
		carriers(ofSet, set+"-moved")(p)
		p.Name = "host-firewall-witness-" + set
	})
	try("for who carries any set", deny, carriers("host-firewall.io/release == 'host-firewall' && has(host-firewall.io/set)", set+"-moved"))
	try("for who carries a set or not", deny, carriers(ofSet+" || all()", set+"-moved"))
	try("everybody's endpoints", deny, spec(func(s *projectcalico.GlobalNetworkPolicySpec) { s.Selector = "all()" }))
	try("another name", label, meta(func(m *metav1.ObjectMeta) { m.Name = "host-firewall-allow-" + set }))
	try("another set's name", label, meta(func(m *metav1.ObjectMeta) { m.Labels[witnessLabel] = "00000000" }))
	try("another release's", label, meta(func(m *metav1.ObjectMeta) { m.Labels[releaseLabel] = "other" }))
	try("a policy of the set", label, meta(func(m *metav1.ObjectMeta) { m.Labels[setLabel] = set }))
	try("labels in Calico's annotation", label, meta(func(m *metav1.ObjectMeta) { m.Annotations = map[string]string{metadataKey: "{}"} }))
	requireDecisions(t, policies["host-firewall-controller"], controllerAccount, "globalnetworkpolicies", writes)
}

// Where no agents run the controller's token writes what theirs would, and nothing else of it.
func TestControllersTokenWithoutAgentsWritesEndpointsAsItMakesThem(t *testing.T) {
	policies, _ := oursWith(t, "agent: {enabled: false}")
	ours, noted := map[string]string{releaseLabel: "host-firewall"}, map[string]string{"host-firewall.io/state": "{}"}
	endpoint := func(labels, annotations map[string]string, profiles ...string) *projectcalico.HostEndpoint {
		return &projectcalico.HostEndpoint{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: labels, Annotations: annotations},
			Spec:       projectcalico.HostEndpointSpec{Node: "n1", InterfaceName: "*", Profiles: profiles},
		}
	}
	const allow, made, profile = "projectcalico-default-allow", "deletes no host endpoint that it has not made", "gives a host endpoint the profile projectcalico-default-allow"
	requireDecisions(t, policies["host-firewall-controller"], controllerAccount, "hostendpoints", map[string]write{
		"as it makes it":                {nil, endpoint(ours, noted, allow), ""},
		"no profile":                    {nil, endpoint(ours, noted), profile},
		"another profile":               {endpoint(ours, noted, allow), endpoint(ours, noted, "deny"), profile},
		"one profile more":              {endpoint(ours, noted, allow), endpoint(ours, noted, allow, "deny"), profile},
		"the profile taken away":        {endpoint(ours, noted, allow), endpoint(ours, noted), profile},
		"put right":                     {endpoint(nil, nil), endpoint(ours, noted, allow), ""},
		"opened as it is":               {endpoint(ours, noted, "deny"), endpoint(ours, nil, "deny"), ""},
		"taken away":                    {endpoint(ours, nil, allow), nil, ""},
		"without its label":             {endpoint(nil, noted, allow), nil, ""},
		"as Calico's API server has it": {endpoint(nil, map[string]string{metadataKey: `{"labels":{"host-firewall.io/release":"host-firewall"}}`}, allow), nil, ""},
		"made by hand":                  {endpoint(nil, nil, allow), nil, made},
	})
}

func TestControllersTokenWithoutAgentsNarrowsTheFailsafeAndChangesNothingElseOfFelix(t *testing.T) {
	policies, _ := oursWith(t, "agent: {enabled: false}")
	const failsafes, note, override = "failsafeInboundHostPorts", "host-firewall.io/failsafe", "config.projectcalico.org/FailsafeInboundHostPorts"
	type fields = map[string]any
	felix := func(annotations, spec fields) any {
		meta := fields{"name": "node.n1"}
		if annotations != nil {
			meta["annotations"] = annotations
		}
		return fields{"metadata": meta, "spec": spec}
	}
	narrowed := fields{failsafes: []any{fields{"protocol": "TCP", "port": 22, "net": "203.0.113.0/24"}}, "nftablesMode": "Auto", "nftablesFlowTableOffload": "Disabled"}
	noted, by := fields{note: `{"release":"host-firewall"}`}, fields{metadataKey: `{"annotations":{"` + override + `":"none"}}`}
	with := func(of fields, field string, value any) fields {
		more := maps.Clone(of)
		more[field] = value
		return more
	}
	logging := with(narrowed, "logSeverityScreen", "Debug")
	const fieldsOnly, annotationsOnly, nothingElse = "changes nothing in a Felix configuration but the failsafe", "changes no annotation config.projectcalico.org", "deletes no Felix configuration but one that holds nothing else"
	requireDecisions(t, policies["host-firewall-controller"], controllerAccount, "felixconfigurations", map[string]write{
		"as it makes it, and Calico fills in":  {nil, felix(noted, narrowed), ""},
		"with a field more":                    {nil, felix(noted, logging), fieldsOnly},
		"that overrides":                       {nil, felix(with(noted, override, "none"), narrowed), annotationsOnly},
		"that overrides as Calico keeps it":    {nil, felix(by, narrowed), annotationsOnly},
		"narrowed beside what is there":        {felix(nil, fields{"logSeverityScreen": "Debug"}), felix(noted, logging), ""},
		"put right as all nodes have it":       {felix(noted, narrowed), felix(noted, with(narrowed, "nftablesMode", "Enabled")), ""},
		"taken back":                           {felix(noted, logging), felix(nil, fields{"logSeverityScreen": "Debug"}), ""},
		"another field":                        {felix(noted, narrowed), felix(noted, with(narrowed, "chainInsertMode", "Append")), fieldsOnly},
		"another value":                        {felix(noted, logging), felix(noted, with(narrowed, "logSeverityScreen", "None")), fieldsOnly},
		"a field taken away":                   {felix(noted, logging), felix(noted, narrowed), fieldsOnly},
		"all taken away":                       {felix(noted, logging), felix(noted, fields{}), fieldsOnly},
		"it overrides":                         {felix(noted, narrowed), felix(with(noted, override, "none"), narrowed), annotationsOnly},
		"it overrides no more":                 {felix(with(noted, override, "none"), narrowed), felix(noted, narrowed), annotationsOnly},
		"written as Kubernetes keeps it":       {felix(by, narrowed), felix(fields{override: "none", note: "{}"}, narrowed), ""},
		"the same with another value":          {felix(by, narrowed), felix(fields{override: "tcp:22", note: "{}"}, narrowed), annotationsOnly},
		"its own deleted":                      {felix(noted, narrowed), nil, ""},
		"its own, as Calico's clients keep it": {felix(fields{metadataKey: `{"annotations":{"` + note + `":"{}"}}`}, with(narrowed, "bpfLogLevel", "")), nil, ""},
		"somebody else's deleted":              {felix(nil, narrowed), nil, nothingElse},
		"one with more in it":                  {felix(noted, logging), nil, nothingElse},
	})
}

func TestAdmissionPolicyOfTheControllerIsForItAlone(t *testing.T) {
	policies, _ := ours(t)
	deny := &projectcalico.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default-deny"}}
	for _, name := range []string{"system:serviceaccount:host-firewall:host-firewall", "system:serviceaccount:host-firewall:host-firewall-cleanup", "helm"} {
		requireDecisions(t, policies["host-firewall-controller"], authenticationv1.UserInfo{Username: name}, "globalnetworkpolicies", map[string]write{
			"created": {nil, deny, "not asked"}, "deleted": {deny, nil, "not asked"},
		})
	}
}

// What carries the label of trust is a node to all others, whatever addresses it has.
func TestAgentsTokenMakesNobodyTrusted(t *testing.T) {
	policies, _ := ours(t)
	agent := authenticationv1.UserInfo{
		Username: "system:serviceaccount:host-firewall:host-firewall",
		Extra:    map[string]authenticationv1.ExtraValue{"authentication.kubernetes.io/node-name": {"n1"}},
	}
	endpoint := func(labels map[string]string, kept string) *projectcalico.HostEndpoint {
		hep := &projectcalico.HostEndpoint{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: labels}, Spec: projectcalico.HostEndpointSpec{Node: "n1", InterfaceName: "*"},
		}
		if kept != "" {
			hep.Annotations = map[string]string{metadataKey: kept}
		}
		return hep
	}
	labels := map[string]string{releaseLabel: "host-firewall", setLabel: "00000000"}
	trusted := map[string]string{releaseLabel: "host-firewall", trustLabel: "node"}
	const never = "the agent of node n1 gives no host endpoint the label host-firewall.io/trust"
	other := endpoint(labels, "")
	other.Spec.Node = "n2"
	requireDecisions(t, policies["host-firewall"], agent, "hostendpoints", map[string]write{
		"an endpoint":                           {nil, endpoint(nil, ""), ""},
		"an armed endpoint":                     {endpoint(nil, ""), endpoint(labels, ""), ""},
		"an endpoint taken away":                {endpoint(labels, ""), nil, ""},
		"a trusted one taken away":              {endpoint(trusted, ""), nil, ""},
		"the label taken away":                  {endpoint(trusted, ""), endpoint(labels, ""), ""},
		"what Calico's API server keeps":        {endpoint(nil, ""), endpoint(nil, `{"labels":{"host-firewall.io/release":"host-firewall"},"annotations":{"a":"\"b\" \u0026"}}`), ""},
		"the label":                             {nil, endpoint(trusted, ""), never},
		"the label, later":                      {endpoint(labels, ""), endpoint(trusted, ""), never},
		"the label with nothing":                {nil, endpoint(map[string]string{trustLabel: ""}, ""), never},
		"the label as Calico's server keeps it": {endpoint(labels, ""), endpoint(labels, `{"labels":{"host-firewall.io/trust":"node"}}`), never},
		"the label with escapes":                {nil, endpoint(nil, strings.ReplaceAll(`{"labels":{"host-firewall.io/trust":"node"}}`, "t", `\u0074`)), never},
		"the label with an escaped slash":       {nil, endpoint(nil, `{"labels":{"host-firewall.io\/trust":"node"}}`), never},
		"another node's endpoint":               {nil, other, "writes host endpoints of that node only"},
	})
}
