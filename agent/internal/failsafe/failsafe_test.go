package failsafe_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

const (
	node    = "n1"
	release = "fw"
)

// ports reads a list as Felix writes it: "TCP:22 UDP:68 TCP:22@192.0.2.0/24".
func ports(text string) []v3.ProtoPort {
	list := []v3.ProtoPort{}
	for item := range strings.FieldsSeq(text) {
		item, net, _ := strings.Cut(item, "@")
		protocol, number, found := strings.Cut(item, ":")
		if !found {
			protocol, number = "", item
		}
		var port uint16
		if err := json.Unmarshal([]byte(number), &port); err != nil {
			panic(err)
		}
		list = append(list, v3.ProtoPort{Protocol: protocol, Port: port, Net: net})
	}
	return list
}

// configuration returns a FelixConfiguration with the list; "-" for none.
func configuration(name, list string) *v3.FelixConfiguration {
	c := &v3.FelixConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "7"}}
	if list != "-" {
		inbound := ports(list)
		c.Spec.FailsafeInboundHostPorts = &inbound
	}
	return c
}

func want(list []uint16, cidrs ...string) *failsafe.Want {
	w := &failsafe.Want{Ports: list}
	for _, cidr := range cidrs {
		w.CIDRs = append(w.CIDRs, netip.MustParsePrefix(cidr))
	}
	return w
}

func admins() *failsafe.Want { return want([]uint16{22}, "192.0.2.0/24", "2001:db8::/32") }

// read returns a FelixConfiguration as the agent reads it.
func read(t testing.TB, typed *v3.FelixConfiguration) *failsafe.Configuration {
	t.Helper()
	if typed == nil {
		return nil
	}
	return convert[failsafe.Configuration](t, typed)
}

// convert does what happens to an object on its way through an API server: it goes
// in as JSON and comes out as JSON. What Calico's types don't know is an error.
func convert[To any](t testing.TB, from any) *To {
	t.Helper()
	data, err := json.Marshal(from)
	require.NoError(t, err)
	to := new(To)
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(to))
	return to
}

// plan plans for objects of Calico's types.
func plan(t testing.TB, own, def *v3.FelixConfiguration, w *failsafe.Want) (failsafe.Change, error) {
	t.Helper()
	ours, theirs := read(t, own), read(t, def)
	change, err := failsafe.Plan(ours, theirs, node, release, w, nil)
	require.Equal(t, read(t, own), ours, "the plan changes its input")
	require.Equal(t, read(t, def), theirs, "the plan changes its input")
	return change, err
}

// apply does to an object what an API server does with a change. asV3 fills in
// what Calico's v3 API fills in.
func apply(t testing.TB, own *v3.FelixConfiguration, change failsafe.Change, asV3 bool) *v3.FelixConfiguration {
	t.Helper()
	switch {
	case change.Create != nil:
		require.True(t, own == nil, "an object is created that is there")
		own = convert[v3.FelixConfiguration](t, change.Create)
	case change.Delete:
		require.NotNil(t, own)
		return nil
	case change.Patch != nil:
		require.NotNil(t, own)
		var head struct {
			Metadata struct{ ResourceVersion string }
		}
		require.NoError(t, json.Unmarshal(change.Patch, &head))
		require.Equal(t, own.ResourceVersion, head.Metadata.ResourceVersion)
		before, err := json.Marshal(own)
		require.NoError(t, err)
		after, err := jsonpatch.MergePatch(before, change.Patch)
		require.NoError(t, err)
		own = &v3.FelixConfiguration{}
		require.NoError(t, json.Unmarshal(after, own))
	default:
		return own
	}
	own.ResourceVersion += "1"
	if asV3 {
		if own.Spec.FloatingIPs == nil {
			own.Spec.FloatingIPs = pointer(v3.FloatingIPsDisabled)
		}
		if own.Spec.BPFConnectTimeLoadBalancing == nil {
			own.Spec.BPFConnectTimeLoadBalancing = pointer(v3.BPFConnectTimeLBTCP)
		}
		if own.Spec.BPFHostNetworkedNATWithoutCTLB == nil {
			own.Spec.BPFHostNetworkedNATWithoutCTLB = pointer(v3.BPFHostNetworkedNATEnabled)
		}
	}
	return own
}

func pointer[T any](v T) *T { return &v }

// settle plans and applies, looks at what came back, and proves that another plan finds
// nothing to do.
func settle(t testing.TB, own, def *v3.FelixConfiguration, w *failsafe.Want, asV3 bool) *v3.FelixConfiguration {
	t.Helper()
	change, err := plan(t, own, def, w)
	require.NoError(t, err)
	stored := apply(t, own, change, asV3)
	if filled := change.Filled(read(t, stored)); len(filled) > 0 && w != nil {
		change, err = failsafe.Plan(read(t, stored), read(t, def), node, release, w, filled)
		require.NoError(t, err)
		stored = apply(t, stored, change, asV3)
	}
	own = stored
	again, err := plan(t, own, def, w)
	require.NoError(t, err)
	require.True(t, again.None(), "the second plan: %s", again.Patch)
	return own
}

func bothAPIs(t *testing.T, test func(t *testing.T, asV3 bool)) {
	t.Run("crd.projectcalico.org/v1", func(t *testing.T) { test(t, false) })
	t.Run("projectcalico.org/v3", func(t *testing.T) { test(t, true) })
}

func TestBuiltinIsFelixsOwnList(t *testing.T) {
	assert.Equal(t, ports("TCP:22 UDP:68 TCP:179 TCP:2379 TCP:2380 TCP:5473 TCP:6443 TCP:6666 TCP:6667"), failsafe.Builtin())
}

func TestEntriesForSSHGiveWayToOneForEachNetwork(t *testing.T) {
	const both = "TCP:22@192.0.2.0/24 TCP:22@2001:db8::/32"
	for name, test := range map[string]struct {
		own, def string // "": there is no such object, "-": it has no list
		want     *failsafe.Want
		list     string // "-": nothing is written
	}{
		"Felix's built-in list":                  {"", "", admins(), both + " UDP:68 TCP:179 TCP:2379 TCP:2380 TCP:5473 TCP:6443 TCP:6666 TCP:6667"},
		"default without a list":                 {"", "-", admins(), both + " UDP:68 TCP:179 TCP:2379 TCP:2380 TCP:5473 TCP:6443 TCP:6666 TCP:6667"},
		"default's list":                         {"", "UDP:68 TCP:22 TCP:10250", admins(), "UDP:68 " + both + " TCP:10250"},
		"the node's own list before default's":   {"TCP:22 TCP:9100", "TCP:22 TCP:10250", admins(), both + " TCP:9100"},
		"the node's own object without a list":   {"-", "TCP:22 TCP:10250", admins(), both + " TCP:10250"},
		"protocols in small letters, and none":   {"", "tcp:22 udp:68 179", admins(), both + " udp:68 179"},
		"no protocol is TCP":                     {"", "22", admins(), both},
		"twice the same port":                    {"", "TCP:22 TCP:179 TCP:22@10.0.0.0/8", admins(), both + " TCP:179"},
		"an entry that is narrowed to others":    {"", "TCP:22@10.0.0.0/8 TCP:6443@10.0.0.0/8", admins(), both + " TCP:6443@10.0.0.0/8"},
		"UDP is not SSH":                         {"", "UDP:22 TCP:22", admins(), "UDP:22 " + both},
		"two ports":                              {"", "TCP:22 TCP:179 TCP:2222", want([]uint16{2222, 22}, "192.0.2.0/24"), "TCP:22@192.0.2.0/24 TCP:179 TCP:2222@192.0.2.0/24"},
		"a port that is no failsafe":             {"", "TCP:22 TCP:179", want([]uint16{22, 2222}, "192.0.2.0/24"), "TCP:22@192.0.2.0/24 TCP:179"},
		"networks with host bits, and twice one": {"", "TCP:22", want([]uint16{22}, "192.0.2.7/24", "192.0.2.0/24"), "TCP:22@192.0.2.0/24"},
		"one family, so the other is closed":     {"", "TCP:22 UDP:68", want([]uint16{22}, "192.0.2.0/24"), "TCP:22@192.0.2.0/24 UDP:68"},
		"nothing for SSH in the list":            {"", "TCP:179", admins(), "-"},
		"no failsafes at all":                    {"", "", want([]uint16{2222}, "192.0.2.0/24"), "-"},
		"no failsafes at all, on this node":      {" ", "TCP:22", admins(), "-"},
		"already so":                             {both, "", admins(), "-"},
	} {
		t.Run(name, func(t *testing.T) {
			bothAPIs(t, func(t *testing.T, asV3 bool) {
				var own, def *v3.FelixConfiguration
				if test.own != "" {
					own = configuration("node.n1", test.own)
				}
				if test.def != "" {
					def = configuration("default", test.def)
				}
				after := settle(t, own, def, test.want, asV3)
				if test.list == "-" {
					assert.Equal(t, own, after)
					return
				}
				require.NotNil(t, after)
				assert.Equal(t, "node.n1", after.Name)
				assert.Equal(t, ports(test.list), *after.Spec.FailsafeInboundHostPorts)
				assert.Equal(t, release, failsafe.WrittenBy(read(t, after)))

				// And back.
				restored := settle(t, after, def, nil, asV3)
				if own == nil {
					assert.True(t, restored == nil, "we made it")
					return
				}
				assert.Equal(t, own.Spec.FailsafeInboundHostPorts, restored.Spec.FailsafeInboundHostPorts)
				assert.Empty(t, restored.Annotations)
				assert.Empty(t, failsafe.WrittenBy(read(t, restored)))
			})
		})
	}
}

func TestOnlyWhatWeMadeAndNobodyElseUsesGoesWithItsNode(t *testing.T) {
	bothAPIs(t, func(t *testing.T, asV3 bool) {
		of := func(uid types.UID) *failsafe.Want {
			w := admins()
			w.Node = uid
			return w
		}
		owners := func(uid types.UID) []metav1.OwnerReference {
			return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node, UID: uid}}
		}
		made := settle(t, nil, nil, of("1"), asV3)
		assert.Equal(t, owners("1"), made.OwnerReferences)
		assert.Equal(t, owners("2"), settle(t, made, nil, of("2"), asV3).OwnerReferences, "the Node has registered again")

		earlier := made.DeepCopy()
		earlier.OwnerReferences = nil
		assert.Equal(t, owners("1"), settle(t, earlier, nil, of("1"), asV3).OwnerReferences, "made before we cared")

		used := made.DeepCopy()
		used.Spec.LogSeverityScreen = "Debug"
		used = settle(t, used, nil, of("1"), asV3)
		assert.Empty(t, used.OwnerReferences, "somebody else uses it")
		used.Spec.LogSeverityScreen = ""
		assert.Equal(t, owners("1"), settle(t, used, nil, of("1"), asV3).OwnerReferences, "not any more")

		given := made.DeepCopy()
		given.Labels["team"] = "network"
		assert.Empty(t, settle(t, given, nil, nil, asV3).OwnerReferences, "taken back, it is somebody else's")

		assert.Empty(t, settle(t, configuration("node.n1", "-"), nil, of("1"), asV3).OwnerReferences, "made by somebody else")
	})
}

func TestNothingElseOfTheObjectIsTouched(t *testing.T) {
	own := configuration("node.n1", "-")
	own.Labels = map[string]string{"team": "network"}
	own.Annotations = map[string]string{"note": "ours"}
	own.Spec.LogSeverityScreen = "Debug"
	own.Spec.FailsafeOutboundHostPorts = &[]v3.ProtoPort{{Protocol: "UDP", Port: 53}}
	after := settle(t, own, nil, admins(), false)
	assert.Equal(t, "ours", after.Annotations["note"])
	restored := settle(t, after, nil, nil, false)
	restored.ResourceVersion = own.ResourceVersion
	assert.Equal(t, own, restored)
}

func TestDefaultIsFollowed(t *testing.T) {
	def := configuration("default", "TCP:22 TCP:179")
	own := settle(t, nil, def, admins(), false)
	def = configuration("default", "TCP:22 TCP:10250")
	own = settle(t, own, def, admins(), false)
	assert.Equal(t, ports("TCP:22@192.0.2.0/24 TCP:22@2001:db8::/32 TCP:10250"), *own.Spec.FailsafeInboundHostPorts)
	own = settle(t, own, def, want([]uint16{22}, "198.51.100.0/24"), false)
	assert.Equal(t, ports("TCP:22@198.51.100.0/24 TCP:10250"), *own.Spec.FailsafeInboundHostPorts)

	// Once default has no SSH there is nothing to narrow, and our list goes.
	assert.True(t, settle(t, own, configuration("default", "TCP:10250"), admins(), false) == nil)
}

func TestPortsAreThoseThatDefaultStillHas(t *testing.T) {
	own := settle(t, nil, configuration("default", "TCP:22 TCP:6443 UDP:68"), admins(), false)
	open := func(own *v3.FelixConfiguration, def string) []uint16 {
		ports, err := failsafe.Ports(read(t, own), read(t, configuration("default", def)))
		require.NoError(t, err)
		return ports
	}
	assert.Equal(t, []uint16{22, 6443}, open(own, "TCP:22 TCP:6443 UDP:68"))
	assert.Equal(t, []uint16{22}, open(own, "TCP:22 UDP:68"), "the agent is about to take the other one away")
	edited := configuration(failsafe.Name(node), "TCP:22 TCP:6443")
	assert.Equal(t, []uint16{22, 6443}, open(edited, "TCP:22"), "somebody else has written that")
}

func TestListThatSomebodyEditedIsNotMistakenForOurs(t *testing.T) {
	own := settle(t, nil, nil, admins(), false)
	edited := ports("TCP:22@10.0.0.0/8 TCP:9100")
	own.Spec.FailsafeInboundHostPorts = &edited

	kept := settle(t, own, nil, nil, false)
	require.NotNil(t, kept)
	assert.Equal(t, edited, *kept.Spec.FailsafeInboundHostPorts)
	assert.Empty(t, kept.Labels, "it is somebody else's now")
	assert.Empty(t, kept.Annotations)

	narrowed := settle(t, own, nil, admins(), false)
	assert.Equal(t, ports("TCP:22@192.0.2.0/24 TCP:22@2001:db8::/32 TCP:9100"), *narrowed.Spec.FailsafeInboundHostPorts)
	kept = settle(t, narrowed, nil, nil, false)
	assert.Equal(t, edited, *kept.Spec.FailsafeInboundHostPorts)
}

func TestObjectThatWeMadeStaysWhenOthersUseIt(t *testing.T) {
	for name, change := range map[string]func(*v3.FelixConfiguration){
		"a field":                    func(c *v3.FelixConfiguration) { c.Spec.LogSeverityScreen = "Debug" },
		"a field that Calico fills":  func(c *v3.FelixConfiguration) { c.Spec.FloatingIPs = pointer(v3.FloatingIPsEnabled) },
		"a label":                    func(c *v3.FelixConfiguration) { c.Labels["team"] = "network" },
		"an annotation":              func(c *v3.FelixConfiguration) { c.Annotations["note"] = "theirs" },
		"an owner":                   func(c *v3.FelixConfiguration) { c.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} },
		"a finalizer":                func(c *v3.FelixConfiguration) { c.Finalizers = []string{"example.org/x"} },
		"an annotation of calicoctl": func(c *v3.FelixConfiguration) { shadow(t, c, map[string]string{"note": "theirs"}) },
	} {
		t.Run(name, func(t *testing.T) {
			own := settle(t, nil, nil, admins(), false)
			change(own)
			rest := settle(t, own, nil, nil, false)
			require.NotNil(t, rest)
			assert.Nil(t, rest.Spec.FailsafeInboundHostPorts)
			assert.Empty(t, failsafe.WrittenBy(read(t, rest)))
			rest = settle(t, rest, nil, nil, false)
			assert.NotNil(t, rest, "it is not ours any more")
		})
	}
}

func TestFieldThatNoTypeKnowsIsSeenAndLeftAlone(t *testing.T) {
	own := read(t, settle(t, nil, nil, admins(), false))
	own.Spec["fieldOfALaterCalico"] = map[string]any{"limit": int64(1)}
	for name, w := range map[string]*failsafe.Want{"narrowed": want([]uint16{22}, "198.51.100.0/24"), "taken back": nil} {
		t.Run(name, func(t *testing.T) {
			change, err := failsafe.Plan(own, nil, node, release, w, nil)
			require.NoError(t, err)
			assert.False(t, change.Delete, "somebody else uses the object")
			assert.NotEmpty(t, change.Patch)
			assert.NotContains(t, string(change.Patch), "fieldOfALaterCalico")
		})
	}
}

func TestListThatIsNoneIsNamed(t *testing.T) {
	own := &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "node.n1"}, Spec: map[string]any{"failsafeInboundHostPorts": "tcp:22"}}
	_, err := failsafe.Plan(own, nil, node, release, admins(), nil)
	assert.ErrorContains(t, err, "read spec.failsafeInboundHostPorts of FelixConfiguration node.n1")
}

// shadow does what calicoctl does to an object that is stored in
// crd.projectcalico.org/v1: it moves labels and annotations into an annotation.
func shadow(t testing.TB, c *v3.FelixConfiguration, more map[string]string) {
	moved := metav1.ObjectMeta{Annotations: map[string]string{}, Labels: c.Labels}
	for _, m := range []map[string]string{c.Annotations, more} {
		for key, value := range m {
			moved.Annotations[key] = value
		}
	}
	data, err := json.Marshal(moved)
	require.NoError(t, err)
	c.Labels, c.Annotations = nil, map[string]string{"projectcalico.org/metadata": string(data)}
}

func TestNoteThatCalicoctlMovedIsFoundAgain(t *testing.T) {
	own := settle(t, nil, nil, admins(), false)
	shadow(t, own, nil)
	assert.Equal(t, release, failsafe.WrittenBy(read(t, own)))
	assert.True(t, settle(t, own.DeepCopy(), nil, nil, false) == nil, "we made it, and it holds nothing else")

	own = settle(t, own, nil, want([]uint16{22}, "198.51.100.0/24"), false)
	assert.NotContains(t, own.Annotations["projectcalico.org/metadata"], "host-firewall.io/failsafe", "the old note would win")
	assert.Contains(t, own.Annotations["host-firewall.io/failsafe"], "198.51.100.0/24")

	own = settle(t, nil, nil, admins(), false)
	own.Spec.LogSeverityScreen = "Debug"
	shadow(t, own, nil)
	left := settle(t, own, nil, nil, false)
	require.NotNil(t, left, "somebody has put something into it")
	assert.NotContains(t, left.Annotations["projectcalico.org/metadata"], "host-firewall.io", "it is theirs now")
}

// Calico's v3 API fills three fields in with every write, and so do its CRDs with others. In the object of a
// node they win over what default says.
func TestDefaultsOtherSettingsStayInForce(t *testing.T) {
	bothAPIs(t, func(t *testing.T, asV3 bool) {
		def := configuration("default", "-")
		def.Spec.FloatingIPs = pointer(v3.FloatingIPsEnabled)
		own := settle(t, nil, def, admins(), asV3)
		inForce := func(own, def *v3.FloatingIPType) v3.FloatingIPType {
			return *cmp.Or(own, def, pointer(v3.FloatingIPsDisabled))
		}
		assert.Equal(t, v3.FloatingIPsEnabled, inForce(own.Spec.FloatingIPs, def.Spec.FloatingIPs))

		def.Spec.FloatingIPs = nil
		def.Spec.BPFConnectTimeLoadBalancing = pointer(v3.BPFConnectTimeLBDisabled)
		own = settle(t, own, def, admins(), asV3)
		assert.Equal(t, v3.FloatingIPsDisabled, inForce(own.Spec.FloatingIPs, def.Spec.FloatingIPs))
		assert.Equal(t, v3.BPFConnectTimeLBDisabled, *cmp.Or(own.Spec.BPFConnectTimeLoadBalancing, def.Spec.BPFConnectTimeLoadBalancing))
		if !asV3 {
			assert.Nil(t, own.Spec.BPFConnectTimeLoadBalancing, "nothing is filled in there")
		}

		assert.True(t, settle(t, own, def, nil, asV3) == nil, "none of that is anybody else's")
	})
}

func TestWhatTheNodesOwnObjectSaysOfThemStays(t *testing.T) {
	bothAPIs(t, func(t *testing.T, asV3 bool) {
		own, def := configuration("node.n1", "-"), configuration("default", "-")
		own.Spec.FloatingIPs = pointer(v3.FloatingIPsDisabled)
		def.Spec.FloatingIPs = pointer(v3.FloatingIPsEnabled)
		narrowed := settle(t, own, def, admins(), asV3)
		assert.Equal(t, v3.FloatingIPsDisabled, *narrowed.Spec.FloatingIPs)
		rest := settle(t, narrowed, def, nil, asV3)
		assert.Equal(t, v3.FloatingIPsDisabled, *rest.Spec.FloatingIPs)
	})
}

// server keeps one FelixConfiguration, and fills fields in that nobody has sent.
type server struct {
	t        *testing.T
	presets  map[string]any
	stubborn string // comes back as it is in presets, whatever is sent
	stored   *failsafe.Configuration
	writes   int
}

func (s *server) spec() map[string]any { return s.stored.Spec }

// write does what a change says, and what goes with it to be noted.
func (s *server) write(def *failsafe.Configuration, w *failsafe.Want) {
	s.t.Helper()
	var filled map[string]any
	for range 4 {
		change, err := failsafe.Plan(s.stored, def, node, release, w, filled)
		require.NoError(s.t, err)
		switch {
		case change.None():
			return
		case change.Delete:
			s.stored = nil
			return
		case change.Create != nil:
			s.stored = change.Create.DeepCopy()
		default:
			s.patch(change.Patch)
		}
		for name, preset := range s.presets {
			if s.stored.Spec[name] == nil || name == s.stubborn {
				s.stored.Spec[name] = preset
			}
		}
		s.writes++
		filled = change.Filled(s.stored)
	}
	require.Fail(s.t, "it never rests")
}

func (s *server) patch(patch []byte) {
	s.t.Helper()
	data, err := json.Marshal(s.stored)
	require.NoError(s.t, err)
	data, err = jsonpatch.MergePatch(data, patch)
	require.NoError(s.t, err)
	s.stored = &failsafe.Configuration{}
	require.NoError(s.t, json.Unmarshal(data, s.stored))
}

// Each version of Calico fills in others. Nobody can know their names.
func TestWhatTheAPIServerFillsInOverridesNothingAndKeepsNoObject(t *testing.T) {
	forAll := func(spec map[string]any) *failsafe.Configuration {
		return &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: spec}
	}
	const mode, limit = "modeOfALaterCalico", "limitOfALaterCalico"
	presets := map[string]any{mode: "Auto", limit: int64(5)}
	start := func(t *testing.T, def *failsafe.Configuration) *server {
		s := &server{t: t, presets: presets}
		s.write(def, admins())
		return s
	}
	t.Run("default says nothing", func(t *testing.T) {
		s := start(t, nil)
		assert.Equal(t, 2, s.writes, "what came back is noted")
		s.write(nil, nil)
		assert.Nil(t, s.stored)
	})
	t.Run("default says the same", func(t *testing.T) {
		def := forAll(map[string]any{mode: "Auto", limit: 5.0})
		s := start(t, def)
		assert.Equal(t, 2, s.writes)
		s.write(def, nil)
		assert.Nil(t, s.stored)
	})
	t.Run("default says something else, and is followed", func(t *testing.T) {
		def := forAll(map[string]any{mode: "Enabled"})
		s := start(t, def)
		assert.Equal(t, "Enabled", s.spec()[mode])
		for _, value := range []any{"Disabled", "Auto", "Enabled"} {
			def.Spec[mode] = value
			s.write(def, admins())
			assert.Equal(t, value, s.spec()[mode])
		}
		delete(def.Spec, mode)
		s.write(def, admins())
		assert.Equal(t, "Auto", s.spec()[mode])
		def.Spec[mode] = "Enabled"
		s.write(def, admins())
		s.write(def, nil)
		assert.Nil(t, s.stored)
	})
	t.Run("somebody sets one of them on the node", func(t *testing.T) {
		s := start(t, nil)
		s.spec()[mode] = "Disabled"
		def := forAll(map[string]any{mode: "Enabled"})
		s.write(def, admins())
		assert.Equal(t, "Disabled", s.spec()[mode], "on the node that is meant")
		s.write(def, nil)
		require.NotNil(t, s.stored, "somebody else uses the object")
		assert.Equal(t, "Disabled", s.spec()[mode])
	})
	t.Run("the object is somebody's", func(t *testing.T) {
		def := forAll(map[string]any{mode: "Enabled"})
		s := &server{t: t, presets: presets, stored: &failsafe.Configuration{ObjectMeta: metav1.ObjectMeta{Name: "node.n1"}, Spec: map[string]any{mode: "Auto"}}}
		s.write(def, admins())
		assert.Equal(t, "Auto", s.spec()[mode], "it was there before")
		s.write(def, nil)
		assert.Equal(t, "Auto", s.spec()[mode])
	})
	t.Run("it begins to when Calico is upgraded", func(t *testing.T) {
		managed := func(fields string) []metav1.ManagedFieldsEntry {
			return []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(fields)}}
		}
		def := forAll(map[string]any{mode: "Enabled"})
		made := func(fields string) *server {
			s := &server{t: t}
			s.write(def, admins())
			s.spec()[mode], s.stored.ManagedFields = "Auto", managed(fields)
			return s
		}
		s := made(`{"f:metadata":{},"f:spec":{".":{},"f:failsafeInboundHostPorts":{}}}`)
		s.write(def, admins())
		assert.Equal(t, "Enabled", s.spec()[mode])
		s = made(`{"f:spec":{"f:failsafeInboundHostPorts":{}}}`)
		s.write(def, nil)
		assert.Nil(t, s.stored)
		for name, fields := range map[string]string{
			"somebody's":           `{"f:spec":{"f:failsafeInboundHostPorts":{},"f:` + mode + `":{}}}`,
			"nobody says whose":    `{"f:spec":{}}`,
			"what is said is none": `[]`,
		} {
			s = made(fields)
			s.write(def, admins())
			assert.Equal(t, "Auto", s.spec()[mode], name)
			s.write(def, nil)
			assert.NotNil(t, s.stored, name)
		}
	})
	t.Run("one of them does not change", func(t *testing.T) {
		s := &server{t: t, presets: presets, stubborn: mode}
		s.write(forAll(map[string]any{mode: "Enabled"}), admins())
		assert.Equal(t, 3, s.writes)
		s.write(forAll(map[string]any{mode: "Enabled"}), admins())
		assert.Equal(t, 3, s.writes, "and is not sent again and again")
	})
}

func TestWhatFelixWouldReadOtherwiseIsRefused(t *testing.T) {
	annotated := func(c *v3.FelixConfiguration, key, value string) *v3.FelixConfiguration {
		c.Annotations = map[string]string{key: value}
		return c
	}
	const override = "config.projectcalico.org/FailsafeInboundHostPorts"
	for name, test := range map[string]struct {
		own, def *v3.FelixConfiguration
		want     *failsafe.Want
		words    string
	}{
		"an annotation that wins over the node's list": {
			own: annotated(configuration("node.n1", "TCP:22"), override, "tcp:22"), want: admins(),
			words: "annotation " + override + " of FelixConfiguration node.n1 decides",
		},
		"an annotation that wins over default's list": {
			def: annotated(configuration("default", "-"), override, "tcp:22"), want: admins(),
			words: "annotation " + override + " of FelixConfiguration default decides",
		},
		"a protocol that Felix can't read": {
			def: configuration("default", "TCP:22 SCTP:36422"), want: admins(),
			words: "FelixConfiguration default hold SCTP",
		},
		"no network": {want: want([]uint16{22}), words: "no network is given"},
		"another release's": {
			own: annotated(configuration("node.n1", "TCP:22"), failsafe.Annotation, `{"release":"other","written":[]}`), want: admins(),
			words: `already narrowed by the release "other"`,
		},
		"a note that nobody can read": {
			own: annotated(configuration("node.n1", "TCP:22"), failsafe.Annotation, "yes"), want: admins(),
			words: "cannot be read",
		},
		"a note that nobody can read, when it is switched off": {
			own:   annotated(configuration("node.n1", "TCP:22"), failsafe.Annotation, "{}"),
			words: "cannot be read",
		},
	} {
		t.Run(name, func(t *testing.T) {
			change, err := plan(t, test.own, test.def, test.want)
			assert.ErrorContains(t, err, test.words)
			assert.True(t, change.None())
		})
	}
	t.Run("default's annotation does not matter where the node has its own list", func(t *testing.T) {
		settle(t, configuration("node.n1", "TCP:22"), annotated(configuration("default", "-"), override, "tcp:22"), admins(), false)
	})
}

func TestWhatIsNotOursIsNotTakenBack(t *testing.T) {
	other := configuration("node.n1", "TCP:22")
	other.Annotations = map[string]string{failsafe.Annotation: `{"release":"other","written":[{"protocol":"TCP","port":22}],"created":true}`}
	for _, own := range []*v3.FelixConfiguration{nil, configuration("node.n1", "TCP:22"), other} {
		change, err := plan(t, own, nil, nil)
		require.NoError(t, err)
		assert.True(t, change.None())
	}
}

func FuzzNarrowingChangesSSHAndNothingElse(f *testing.F) {
	f.Add("TCP:22 UDP:68 TCP:6443", uint16(22), uint16(2222), "192.0.2.0/24", true)
	f.Add("tcp:22 22 UDP:22 TCP:22@10.0.0.0/8", uint16(22), uint16(22), "2001:db8::/32", false)
	f.Add("", uint16(0), uint16(0), "0.0.0.0/0", false)
	f.Fuzz(func(t *testing.T, text string, first, second uint16, net string, own bool) {
		cidr, err := netip.ParsePrefix(net)
		if err != nil || cidr.Addr().Is4In6() {
			t.Skip()
		}
		var list []v3.ProtoPort
		for i, item := range strings.Fields(text) {
			if protocol, _, found := strings.Cut(item, ":"); found && protocol != "SCTP" && protocol != "sctp" {
				list = append(list, v3.ProtoPort{Protocol: []string{"TCP", "UDP", "tcp", ""}[len(item)%4], Port: []uint16{first, second, 6443, uint16(i)}[i%4]})
			}
		}
		ssh := func(entry v3.ProtoPort) bool {
			return !strings.EqualFold(entry.Protocol, "UDP") && (entry.Port == first || entry.Port == second)
		}
		before := configuration("node.n1", "-")
		before.Spec.FailsafeInboundHostPorts = &list
		object, def := before, (*v3.FelixConfiguration)(nil)
		if !own {
			object, def = nil, before
		}
		after := settle(t, object, def, &failsafe.Want{Ports: []uint16{first, second}, CIDRs: []netip.Prefix{cidr}}, own)
		if !slices.ContainsFunc(list, ssh) {
			require.Equal(t, object, after)
			return
		}
		require.NotNil(t, after)
		narrowed := *after.Spec.FailsafeInboundHostPorts
		for _, entry := range narrowed {
			if ssh(entry) {
				require.Equal(t, cidr.Masked().String(), entry.Net)
			}
		}
		require.Equal(t, others(list, ssh), others(narrowed, ssh))
		restored := settle(t, after, def, nil, own)
		if own {
			require.Equal(t, before.Spec.FailsafeInboundHostPorts, restored.Spec.FailsafeInboundHostPorts)
		} else {
			require.True(t, restored == nil)
		}
	})
}

func others(list []v3.ProtoPort, ssh func(v3.ProtoPort) bool) []v3.ProtoPort {
	return slices.DeleteFunc(slices.Clone(list), ssh)
}
