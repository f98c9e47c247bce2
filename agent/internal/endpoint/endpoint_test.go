package endpoint_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

func shape() endpoint.Shape {
	return endpoint.Shape{
		Release: "fw",
		Labels:  map[string]string{"host-endpoint": "ingress"},
	}
}

func star() endpoint.Interface { return endpoint.Interface{Name: endpoint.AllInterfaces} }

func node() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid", Labels: map[string]string{"zone": "a"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
			{Type: corev1.NodeHostName, Address: "n1"},
		}},
	}
}

// stored is the endpoint as the API server would return it after a create.
func stored(set string) *v3.HostEndpoint {
	hep, _ := shape().Desired(node(), star(), nil, set)
	hep.ResourceVersion = "7"
	hep.UID = "hep-uid"
	return hep
}

// apply returns what an API server makes of the object and the merge patch.
func apply(t *testing.T, hep *v3.HostEndpoint, patch []byte) *v3.HostEndpoint {
	t.Helper()
	before, err := json.Marshal(hep)
	require.NoError(t, err)
	after, err := jsonpatch.MergePatch(before, patch)
	require.NoError(t, err)
	var patched v3.HostEndpoint
	require.NoError(t, json.Unmarshal(after, &patched))
	return &patched
}

func TestDesiredEndpointHoldsWhatTheAgentOwnsAndNothingElse(t *testing.T) {
	want := &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{
			Name:            "n1",
			Labels:          map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/node": "n1"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node-uid"}},
		},
		Spec: v3.HostEndpointSpec{
			Node:          "n1",
			InterfaceName: "*",
			ExpectedIPs:   []string{"192.0.2.1"},
			Profiles:      []string{"projectcalico-default-allow"},
		},
	}
	unarmed, invalid := shape().Desired(node(), star(), nil, "")
	assert.Equal(t, want, unarmed)
	assert.Empty(t, invalid)

	want.Labels["host-endpoint"], want.Labels["host-firewall.io/set"] = "ingress", "r1"
	armed, _ := shape().Desired(node(), star(), nil, "r1")
	assert.Equal(t, want, armed, "an armed endpoint differs by its labels only")
}

func TestExpectedIPsAreTheNodesAddresses(t *testing.T) {
	type addresses = []corev1.NodeAddress
	for name, test := range map[string]struct {
		addresses   addresses
		annotations map[string]string
		want        []string
		invalid     []string
	}{
		"none": {},
		"internal and external, not names": {
			addresses: addresses{
				{Type: corev1.NodeHostName, Address: "n1"},
				{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
				{Type: corev1.NodeInternalDNS, Address: "192.0.2.9"},
				{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
			},
			want: []string{"192.0.2.1", "198.51.100.1"},
		},
		"the same in another order": {
			addresses: addresses{
				{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
				{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
			},
			want: []string{"192.0.2.1", "198.51.100.1"},
		},
		"every annotation of Calico": {
			annotations: map[string]string{
				"projectcalico.org/IPv4Address":                "192.0.2.1/24",
				"projectcalico.org/IPv6Address":                "2001:db8::1/64",
				"projectcalico.org/IPv4IPIPTunnelAddr":         "10.0.0.1",
				"projectcalico.org/IPv4VXLANTunnelAddr":        "10.0.0.2",
				"projectcalico.org/IPv6VXLANTunnelAddr":        "2001:db8:1::2",
				"projectcalico.org/IPv4WireguardInterfaceAddr": "10.0.0.3",
				"projectcalico.org/IPv6WireguardInterfaceAddr": "2001:db8:1::3",
				"projectcalico.org/ASNumber":                   "64512",
			},
			want: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1", "2001:db8::1", "2001:db8:1::2", "2001:db8:1::3"},
		},
		"each once, however it is written": {
			addresses: addresses{
				{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
				{Type: corev1.NodeExternalIP, Address: "::ffff:192.0.2.1"},
				{Type: corev1.NodeInternalIP, Address: "2001:DB8:0::1"},
			},
			annotations: map[string]string{
				"projectcalico.org/IPv4Address": "192.0.2.1/24",
				"projectcalico.org/IPv6Address": "2001:db8::1/64",
			},
			want: []string{"192.0.2.1", "2001:db8::1"},
		},
		"invalid ones left out and reported": {
			addresses: addresses{
				{Type: corev1.NodeInternalIP, Address: "192.0.2.256"},
				{Type: corev1.NodeInternalIP, Address: "fe80::1%eth0"},
				{Type: corev1.NodeExternalIP, Address: "0.0.0.0"},
				{Type: corev1.NodeExternalIP, Address: "192.0.2.1"},
			},
			annotations: map[string]string{"projectcalico.org/IPv4Address": "192.0.2.2/33", "projectcalico.org/IPv6Address": ""},
			want:        []string{"192.0.2.1"},
			invalid:     []string{"192.0.2.256", "fe80::1%eth0", "0.0.0.0", "192.0.2.2/33"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := node()
			n.Status.Addresses, n.Annotations = test.addresses, test.annotations
			hep, invalid := shape().Desired(n, star(), nil, "")
			assert.Equal(t, test.want, hep.Spec.ExpectedIPs)
			assert.Equal(t, test.invalid, invalid)
		})
	}
}

func TestEndpointIsArmedWithTheSetThatFelixReadsOnIt(t *testing.T) {
	assert.Equal(t, "r1", endpoint.SetOf(stored("r1")))
	assert.Empty(t, endpoint.SetOf(stored("")))
	shadowed := stored("r1")
	shadowed.Annotations = map[string]string{endpoint.MetadataAnnotation: `{"labels":{"host-firewall.io/set":"r2"}}`}
	assert.Equal(t, "r2", endpoint.SetOf(shadowed))
}

// Agents that knew no sets armed an endpoint by labels of the settings, which their note remembers, and wrote no set.
func TestEndpointThatWasArmedBeforeThereWereSetsCarriesTheOneOfThen(t *testing.T) {
	old := stored("")
	old.Labels["host-endpoint"] = "ingress"
	old.Annotations = map[string]string{endpoint.StateAnnotation: `{"state":"Armed","reason":"6 policies","since":"2026-01-02T03:04:05Z","labels":["host-endpoint"]}`}
	assert.Equal(t, endpoint.Before, endpoint.SetOf(old))
	assert.True(t, endpoint.Carries(old.Labels, endpoint.Before))
	assert.False(t, endpoint.Carries(stored("r1").Labels, endpoint.Before))

	disarm, err := endpoint.Disarm(old)
	require.NoError(t, err)
	disarmed := apply(t, old, disarm)
	assert.Empty(t, endpoint.SetOf(disarmed))
	assert.Equal(t, stored("").Labels, disarmed.Labels, "those of then select by that label, too")

	never := stored("")
	never.Annotations = map[string]string{endpoint.StateAnnotation: `{"state":"Waiting","reason":"held","since":"2026-01-02T03:04:05Z","labels":["zone"]}`}
	assert.Empty(t, endpoint.SetOf(never), "it was never armed")
	lost := stored("")
	lost.Labels["host-endpoint"] = "ingress"
	endpoint.SetNote(lost, nil, endpoint.Note{State: "Armed", Wanted: "r1"})
	require.NotEmpty(t, endpoint.NoteOf(lost).Labels)
	assert.Empty(t, endpoint.SetOf(lost), "an agent that knows sets has written it")
}

func TestAddressesOfTheNodesInterfacesAreAddedToThoseOfTheNode(t *testing.T) {
	more := []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1")}
	hep, _ := shape().Desired(node(), star(), more, "")
	assert.Equal(t, []string{"192.0.2.1", "198.51.100.7"}, hep.Spec.ExpectedIPs)
	hep, _ = shape().Desired(node(), endpoint.Interface{Name: "eth0"}, more, "")
	assert.Empty(t, hep.Spec.ExpectedIPs, "one interface has its own")
}

func TestOwnerOfAForeignEndpointIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		labels map[string]string
		want   string
	}{
		"another release":    {map[string]string{"host-firewall.io/release": "other"}, `"other"`},
		"Calico's automatic": {map[string]string{"projectcalico.org/created-by": "calico-kube-controllers"}, "calico-kube-controllers"},
		"by hand":            {nil, "no label host-firewall.io/release"},
	} {
		t.Run(name, func(t *testing.T) {
			hep := &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: test.labels}}
			assert.False(t, shape().Owns(hep))
			assert.Contains(t, endpoint.Owner(hep), test.want)
		})
	}
	assert.True(t, shape().Owns(stored("")))
}

func TestPatchSetsBackWhatTheAgentOwns(t *testing.T) {
	yes := true
	for name, test := range map[string]struct {
		set   string // desired
		spoil func(hep *v3.HostEndpoint)
		want  string
	}{
		"nothing differs": {
			spoil: func(*v3.HostEndpoint) {},
		},
		"arming": {
			set:   "r1",
			spoil: func(*v3.HostEndpoint) {},
			want:  `{"metadata":{"labels":{"host-endpoint":"ingress","host-firewall.io/set":"r1"},"resourceVersion":"7"}}`,
		},
		"moving to another set": {
			set: "r2",
			spoil: func(hep *v3.HostEndpoint) {
				hep.Labels["host-endpoint"], hep.Labels["host-firewall.io/set"] = "ingress", "r1"
			},
			want: `{"metadata":{"labels":{"host-firewall.io/set":"r2"},"resourceVersion":"7"}}`,
		},
		"the label of a set on an endpoint that is not armed": {
			spoil: func(hep *v3.HostEndpoint) { hep.Labels["host-firewall.io/set"] = "r1" },
			want:  `{"metadata":{"labels":{"host-firewall.io/set":null},"resourceVersion":"7"}}`,
		},
		"profiles added to": {
			spoil: func(hep *v3.HostEndpoint) { hep.Spec.Profiles = append(hep.Spec.Profiles, "deny") },
			want:  `{"metadata":{"resourceVersion":"7"},"spec":{"profiles":["projectcalico-default-allow"]}}`,
		},
		"profiles removed": {
			spoil: func(hep *v3.HostEndpoint) { hep.Spec.Profiles = nil },
			want:  `{"metadata":{"resourceVersion":"7"},"spec":{"profiles":["projectcalico-default-allow"]}}`,
		},
		"node, interface and addresses": {
			spoil: func(hep *v3.HostEndpoint) {
				hep.Spec.Node, hep.Spec.InterfaceName, hep.Spec.ExpectedIPs = "n2", "eth0", nil
			},
			want: `{"metadata":{"resourceVersion":"7"},"spec":{"node":"n1","interfaceName":"*","expectedIPs":["192.0.2.1"]}}`,
		},
		"owner removed": {
			spoil: func(hep *v3.HostEndpoint) { hep.OwnerReferences = nil },
			want:  `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"node-uid"}],"resourceVersion":"7"}}`,
		},
		"owner of a Node that is gone, among others": {
			spoil: func(hep *v3.HostEndpoint) {
				hep.OwnerReferences = []metav1.OwnerReference{
					{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "old-uid"},
					{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "their-uid"},
				}
			},
			want: `{"metadata":{"ownerReferences":[
				{"apiVersion":"v1","kind":"ConfigMap","name":"theirs","uid":"their-uid"},
				{"apiVersion":"v1","kind":"Node","name":"n1","uid":"node-uid"}],"resourceVersion":"7"}}`,
		},
		"owner that blocks the deletion of its Node": {
			spoil: func(hep *v3.HostEndpoint) { hep.OwnerReferences[0].BlockOwnerDeletion = &yes },
			want:  `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"node-uid"}],"resourceVersion":"7"}}`,
		},
		"the annotation that shadows labels": {
			spoil: func(hep *v3.HostEndpoint) {
				hep.Annotations = map[string]string{endpoint.MetadataAnnotation: `{"labels":{"host-firewall.io/set":"r1"}}`}
			},
			want: `{"metadata":{"annotations":null,"resourceVersion":"7"}}`,
		},
		"an annotation that shadows labels and is no JSON": {
			spoil: func(hep *v3.HostEndpoint) {
				hep.Annotations = map[string]string{endpoint.MetadataAnnotation: `{`}
			},
			want: `{"metadata":{"annotations":null,"resourceVersion":"7"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			current := stored("")
			test.spoil(current)
			untouched := current.DeepCopy()
			desired, _ := shape().Desired(node(), star(), nil, test.set)

			patch, err := endpoint.Patch(current, desired)
			require.NoError(t, err)
			assert.Equal(t, untouched, current, "what comes from a cache must not be changed")
			if test.want == "" {
				assert.Nil(t, patch)
				return
			}
			assert.JSONEq(t, test.want, string(patch))

			again, err := endpoint.Patch(apply(t, current, patch), desired)
			require.NoError(t, err)
			assert.Nil(t, again, "one patch is enough")
		})
	}
}

func TestPatchLeavesWhatOthersWrote(t *testing.T) {
	current := stored("")
	current.Labels["theirs"] = "label"
	current.Annotations = map[string]string{"theirs": "annotation"}
	current.Finalizers = []string{"theirs/finalizer"}
	their := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "their-uid"}
	current.OwnerReferences = append([]metav1.OwnerReference{their}, current.OwnerReferences...)
	current.Spec.Ports = []v3.EndpointPort{{Name: "theirs", Port: 80}}
	desired, _ := shape().Desired(node(), star(), nil, "")

	patch, err := endpoint.Patch(current, desired)
	require.NoError(t, err)
	assert.Nil(t, patch, "what others wrote is no difference")

	want := current.DeepCopy()
	want.Labels["host-endpoint"], want.Labels["host-firewall.io/set"] = "ingress", "r1"
	want.Spec.ExpectedIPs = []string{"192.0.2.2"}
	moved := node()
	moved.Status.Addresses[0].Address = "192.0.2.2"
	desired, _ = shape().Desired(moved, star(), nil, "r1")
	patch, err = endpoint.Patch(current, desired)
	require.NoError(t, err)
	got := apply(t, current, patch)
	assert.Equal(t, want.ObjectMeta, got.ObjectMeta)
	assert.Equal(t, want.Spec.ExpectedIPs, got.Spec.ExpectedIPs)
	assert.Equal(t, want.Spec.Ports[0].Name, got.Spec.Ports[0].Name)
}

// Calico moves labels, annotations and owners into the annotation when somebody
// edits the endpoint with calicoctl.
func TestEndpointEditedThroughCalicoIsStillOursAndComesBackWhole(t *testing.T) {
	whole := stored("r1")
	whole.Labels["theirs"] = "label"
	whole.Annotations = map[string]string{"theirs": "annotation"}
	shadow, err := json.Marshal(whole.ObjectMeta)
	require.NoError(t, err)
	current := &v3.HostEndpoint{
		ObjectMeta: metav1.ObjectMeta{
			Name:            "n1",
			ResourceVersion: "8",
			Annotations:     map[string]string{endpoint.MetadataAnnotation: string(shadow)},
		},
		Spec: whole.Spec,
	}
	require.True(t, shape().Owns(current))
	require.Equal(t, "r1", endpoint.SetOf(current), "Felix reads the annotation")

	desired, _ := shape().Desired(node(), star(), nil, "r1")
	patch, err := endpoint.Patch(current, desired)
	require.NoError(t, err)
	got := apply(t, current, patch)
	assert.Equal(t, whole.Labels, got.Labels)
	assert.Equal(t, whole.Annotations, got.Annotations)
	assert.Equal(t, whole.OwnerReferences, got.OwnerReferences)
}

func TestWhatTheAnnotationSaysOfALabelWins(t *testing.T) {
	hep := stored("r1")
	hep.Annotations = map[string]string{endpoint.MetadataAnnotation: `{"labels":{"host-firewall.io/set":"other"}}`}
	assert.True(t, shape().Owns(hep))
	assert.Equal(t, "other", endpoint.SetOf(hep), "Felix does not see the label of the object itself")
}

func TestNamedInterfaceHasItsOwnAddresses(t *testing.T) {
	hep, invalid := shape().Desired(node(), endpoint.Interface{Name: "eth0", Addresses: []netip.Addr{
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.7"),
	}}, nil, "r1")
	assert.Empty(t, invalid)
	assert.Equal(t, "n1-eth0", hep.Name)
	assert.Equal(t, v3.HostEndpointSpec{
		Node: "n1", InterfaceName: "eth0", ExpectedIPs: []string{"192.0.2.7", "2001:db8::1"}, Profiles: []string{"projectcalico-default-allow"},
	}, hep.Spec)
	assert.Equal(t, map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/node": "n1", "host-firewall.io/set": "r1", "host-endpoint": "ingress"}, hep.Labels)
}

func TestOnlyLabelsThatWereAskedForAreCopiedFromTheNode(t *testing.T) {
	n := node()
	n.Labels = map[string]string{
		"zone": "a", "zone-b": "b", "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "secret": "s",
		// What a kubelet could put on its own Node to own or arm an endpoint.
		"host-firewall.io/release": "other", "host-endpoint": "mine",
	}
	for name, test := range map[string]struct {
		asked []string
		want  map[string]string
	}{
		"none":            {nil, map[string]string{}},
		"an exact key":    {[]string{"zone"}, map[string]string{"zone": "a"}},
		"a prefix":        {[]string{"topology.kubernetes.io/*"}, map[string]string{"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"}},
		"a part of a key": {[]string{"zone*"}, map[string]string{"zone": "a", "zone-b": "b"}},
		"one that is not": {[]string{"missing"}, map[string]string{}},
		"all": {[]string{"*"}, map[string]string{
			"zone": "a", "zone-b": "b", "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "secret": "s",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := shape()
			s.NodeLabels = test.asked
			hep, _ := s.Desired(n, star(), nil, "")
			test.want["host-firewall.io/release"], test.want["host-firewall.io/node"] = "fw", "n1"
			assert.Equal(t, test.want, hep.Labels)
			assert.Empty(t, endpoint.SetOf(hep))
		})
	}
}

func TestLabelsOfOtherSettingsGoWhenThoseOfTheseSettingsTakeOver(t *testing.T) {
	before := shape()
	before.Labels = map[string]string{"old": "label"}
	before.NodeLabels = []string{"zone"}
	current, _ := before.Desired(node(), star(), nil, "r1")
	endpoint.SetNote(current, nil, endpoint.Note{State: "Armed", Reason: "r1", Since: time.Unix(1000, 5)})
	current.Labels["theirs"] = "label"
	current.ResourceVersion = "7"
	assert.JSONEq(t, `{"state":"Armed","reason":"r1","since":"1970-01-01T00:16:40Z","labels":["old","zone"]}`,
		current.Annotations[endpoint.StateAnnotation])

	waiting, _ := shape().Desired(node(), star(), nil, "")
	endpoint.Give(waiting, endpoint.Given(current))
	endpoint.SetNote(waiting, current, endpoint.Note{State: "Waiting", Since: time.Unix(2000, 0), Wanted: "r1"})
	patch, err := endpoint.Patch(current, waiting)
	require.NoError(t, err)
	current = apply(t, current, patch)
	assert.Equal(t, map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/node": "n1", "old": "label", "zone": "a", "theirs": "label"},
		current.Labels, "what other policies select stays until there is something else")

	armed, _ := shape().Desired(node(), star(), nil, "r1")
	endpoint.SetNote(armed, current, endpoint.Note{State: "Armed", Since: time.Unix(3000, 0), Wanted: "r1"})
	patch, err = endpoint.Patch(current, armed)
	require.NoError(t, err)
	current = apply(t, current, patch)
	assert.Equal(t, map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/node": "n1", "host-firewall.io/set": "r1", "host-endpoint": "ingress", "theirs": "label"}, current.Labels)
	assert.Equal(t, time.Unix(3000, 0).UTC(), endpoint.NoteOf(current).Since)
	assert.Equal(t, map[string]string{"old": "label", "zone": "a"}, endpoint.NoteOf(current).Before, "what it gets again where it goes back")
}

func TestNoteThatSaysTheSameIsNoDifference(t *testing.T) {
	current := stored("r1")
	endpoint.SetNote(current, nil, endpoint.Note{State: "Armed", Reason: "r", Since: time.Unix(1000, 0)})
	desired, _ := shape().Desired(node(), star(), nil, "r1")
	endpoint.SetNote(desired, current, endpoint.Note{State: "Armed", Reason: "r", Since: time.Unix(2000, 0)})
	patch, err := endpoint.Patch(current, desired)
	require.NoError(t, err)
	assert.Nil(t, patch, "never only for the time")
}

func TestNodeFitsALabel(t *testing.T) {
	long := strings.Repeat("node.", 40) + "example"
	assert.Equal(t, "n1.example", endpoint.NodeLabelValue("n1.example"))
	for _, name := range []string{long, long + "2", strings.Repeat("a", 46) + ".b.c.d.e.f.g.h.i.j.k"} {
		value := endpoint.NodeLabelValue(name)
		assert.Empty(t, validation.IsValidLabelValue(value), value)
	}
	assert.NotEqual(t, endpoint.NodeLabelValue(long), endpoint.NodeLabelValue(long+"2"))
}
