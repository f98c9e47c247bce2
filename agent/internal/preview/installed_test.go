package preview

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
)

// fake is an API server: what it answers, by the kind.
type fake map[string]any

func (f fake) Find(context.Context) error { return nil }

func (f fake) Read(_ context.Context, kind, _, _ string, into any) (bool, error) {
	answer, there := f[kind]
	if err, failed := answer.(error); failed {
		return false, err
	}
	text, err := json.Marshal(answer)
	if err == nil && there {
		err = json.Unmarshal(text, into)
	}
	return there, err
}

func (f fake) List(ctx context.Context, kind, _ string, _ metav1.ListOptions, into any) error {
	read := struct {
		Items any `json:"items"`
	}{into}
	_, err := f.Read(ctx, kind, "", "", &read)
	return err
}

type fields = map[string]any

func items(of ...any) fields { return fields{"items": of} }

// cluster has this rendering installed.
func cluster(t *testing.T, text string) fake {
	t.Helper()
	objects, err := documents([]byte(text))
	require.NoError(t, err)
	f := fake{
		"GlobalNetworkSet": items(fields{
			"metadata": fields{"name": "fw-node-n1", "labels": fields{"host-firewall.io/release": "fw", "host-firewall.io/trust": "node"}},
			"spec":     fields{"nets": []string{"192.0.2.1/32"}},
		}),
		"IPPool":        items(fields{"spec": fields{"cidr": "10.244.0.0/16"}}, fields{"spec": fields{"cidr": "10.0.0.0/8", "disabled": true}}),
		"Node":          items(fields{"spec": fields{"podCIDRs": []string{"10.245.1.0/24"}}}),
		"EndpointSlice": fields{"endpoints": []any{fields{"addresses": []string{"192.0.2.200"}}}},
	}
	var policies []any
	for _, o := range objects {
		switch o.Kind {
		case "DaemonSet":
			f["DaemonSet"] = o
		case "GlobalNetworkPolicy":
			policies = append(policies, o)
		}
	}
	f["GlobalNetworkPolicy"] = items(policies...)
	return f
}

// connect lets agents tell of peers, nil for one that tells nothing.
func (f fake) connect(nodes map[string][]peers.Port) {
	var endpoints []any
	for node, ports := range nodes {
		annotations := fields{}
		if ports != nil {
			annotations[peers.Annotation] = peers.Summary{Since: time.Unix(1, 0), Until: time.Unix(2, 0), Ports: ports}.Encode()
		}
		endpoints = append(endpoints, endpointOf(node, "aaaa", annotations))
	}
	f["HostEndpoint"] = items(endpoints...)
}

// endpointOf is one of a node, with a set.
func endpointOf(node, set string, annotations fields) fields {
	labels := fields{"host-firewall.io/release": "fw"}
	if set != "" {
		labels["host-firewall.io/set"] = set
	}
	return fields{"metadata": fields{"name": node, "labels": labels, "annotations": annotations}, "spec": fields{"node": node}}
}

// While nodes move, or wait, the set of their agents is not what all of them have.
func TestNodesThatHaveAnotherSetAreCounted(t *testing.T) {
	f := cluster(t, trusting.text(t, "aaaa"))
	f["HostEndpoint"] = items(endpointOf("n1", "aaaa", nil), endpointOf("n2", "aaaa.0000", nil), endpointOf("n3", "0000", nil), endpointOf("n3", "0000", nil), endpointOf("n4", "", nil))
	text, err := run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.NoError(t, err)
	assert.Contains(t, text, "  3 of 4 nodes carry another set, or none: there something else changes\n")
	f["HostEndpoint"] = items(endpointOf("n1", "aaaa", nil))
	text, err = run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.NoError(t, err)
	assert.NotContains(t, text, "another set,")
	off := trusting
	off.mode = "off"
	f = cluster(t, off.text(t, "aaaa"))
	f["HostEndpoint"] = items(endpointOf("n1", "", nil))
	text, err = run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.NoError(t, err)
	assert.NotContains(t, text, "another set,", "in mode off no node has one")
}

func peer(addr string, n int) peers.Peer {
	return peers.Peer{Addr: netip.MustParseAddr(addr), Connections: n}
}

// run compares what is installed with a rendering.
func run(f Cluster, told settings.Settings, files map[string]string) (string, error) {
	var out bytes.Buffer
	err := Run(context.Background(), f, told, func(name string) ([]byte, error) {
		text, there := files[name]
		if !there {
			return nil, fmt.Errorf("open %s: %w", name, os.ErrNotExist)
		}
		return []byte(text), nil
	}, &out)
	return out.String(), err
}

var (
	toInstalled = settings.Settings{Release: "fw", Namespace: "ns", Old: settings.Installed, New: "-"}
	trusting    = values{mode: "enforce", nodes: true, pods: true, apiServer: true, preDNAT: true, apiServerPorts: []int{6443}, cidrs: []string{"10.4.0.0/16", "2001:db8:4::/48"}}
	without     = values{mode: "enforce", nodes: true, pods: true, apiServer: true, preDNAT: true, apiServerPorts: []int{6443}, ingress: []entry{{[]string{"0.0.0.0/0", "::/0"}, "TCP", []any{443.0}}}}
)

func TestWhoUsesWhatIsClosedIsTold(t *testing.T) {
	f := cluster(t, trusting.text(t, "aaaa"))
	f.connect(map[string][]peers.Port{
		"worker-1": {{Port: 443, From: []peers.Peer{peer("10.4.0.9", 7)}}, {Port: 6443, From: []peers.Peer{peer("10.4.0.9", 1)}}, {Port: 9100, From: []peers.Peer{peer("2001:db8:4::9", 1)}}},
		"worker-2": {
			{Port: 9100, From: []peers.Peer{peer("::ffff:10.4.0.9", 3), peer("192.0.2.1", 5), peer("10.244.1.1", 5), peer("10.245.1.1", 5), peer("192.0.2.200", 5), peer("198.51.100.1", 5)}},
			{Port: 10250, From: []peers.Peer{peer("10.4.0.10", 1)}},
		},
	})
	text, err := run(f, toInstalled, map[string]string{"-": without.text(t, "bbbb")})
	require.NoError(t, err)
	assert.Equal(t, `From what is installed (set aaaa) to the standard input (set bbbb):
  closes everything to 10.4.0.0/16 and 2001:db8:4::/48, but what cluster,
    failsafe and ingress[e0] let in
      used lately: tcp/9100 from 10.4.0.9 (3 connections, worker-2)
      used lately: tcp/9100 from 2001:db8:4::9 (1 connection, worker-1)
      used lately: tcp/10250 from 10.4.0.10 (1 connection, worker-2)
  opens tcp/443 to everybody
`, text)

	told := toInstalled
	told.Output = "json"
	text, err = run(f, told, map[string]string{"-": without.text(t, "bbbb")})
	require.NoError(t, err)
	var report struct {
		Before, After struct{ Name, Set, Mode string }
		Changes       []struct {
			Does              string
			What, On, To, But []string
			InUse             []peers.Cut
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &report))
	assert.Equal(t, "installed", report.Before.Name)
	assert.Equal(t, "bbbb", report.After.Set)
	require.Len(t, report.Changes, 2)
	assert.Equal(t, []string{"everything"}, report.Changes[0].What)
	assert.Equal(t, []string{"10.4.0.0/16", "2001:db8:4::/48"}, report.Changes[0].To)
	assert.Equal(t, peers.Cut{Node: "worker-2", Port: 9100, From: netip.MustParseAddr("10.4.0.9"), Connections: 3}, report.Changes[0].InUse[0])
}

// A node may be an API server, and its addresses in a pool: what is still let in as one of them is not closed.
func TestWhoIsTrustedAsSeveralThingsIsCutWhereNoneIsLeft(t *testing.T) {
	f := cluster(t, trusting.text(t, "aaaa"))
	f["EndpointSlice"] = fields{"endpoints": []any{fields{"addresses": []string{"192.0.2.1"}}}}
	f["IPPool"] = items(fields{"spec": fields{"cidr": "192.0.2.0/30"}})
	f.connect(map[string][]peers.Port{"n1": {{Port: 9100, From: []peers.Peer{peer("192.0.2.1", 1)}}}})
	in := func(nodes, pods, apiServer bool) string {
		v := trusting
		v.nodes, v.pods, v.apiServer = nodes, pods, apiServer
		text, err := run(f, toInstalled, map[string]string{"-": v.text(t, "bbbb")})
		require.NoError(t, err)
		return text
	}
	for _, text := range []string{in(true, false, false), in(false, true, false), in(false, false, true)} {
		assert.Contains(t, text, "closes ")
		assert.NotContains(t, text, "used lately")
	}
	assert.Contains(t, in(false, false, false), "used lately: tcp/9100 from 192.0.2.1 (1 connection, n1)")
}

// Of thousands of connections the first lines tell enough.
func TestTextStaysShortWithManyNodesAndNetworks(t *testing.T) {
	many, few := trusting, without
	few.nodes, few.pods = false, false
	many.cidrs = nil
	nodes := map[string][]peers.Port{}
	for i := range 3000 {
		addr := fmt.Sprintf("10.%d.%d.9", 4+i/250, i%250)
		many.cidrs = append(many.cidrs, strings.TrimSuffix(addr, "9")+"0/24")
		nodes[fmt.Sprintf("node-%04d", i)] = []peers.Port{{Port: 9100, From: []peers.Peer{peer(addr, 2)}}}
	}
	f := cluster(t, many.text(t, "aaaa"))
	f.connect(nodes)
	began := time.Now()
	text, err := run(f, toInstalled, map[string]string{"-": few.text(t, "bbbb")})
	require.NoError(t, err)
	t.Logf("%s\n%s", time.Since(began), text)
	assert.LessOrEqual(t, strings.Count(text, "\n"), 14, text)
	assert.Contains(t, text, "closes everything to nodes, pods, 10.4.0.0/24, 10.4.1.0/24, 10.4.2.0/24,\n    10.4.3.0/24 and 2996 more,")
	assert.Contains(t, text, "used lately: tcp/9100 from 10.4.0.9 (2 connections, node-0000)\n")
	assert.Contains(t, text, "and 5990 connections more, on 2995 nodes\n")
}

func TestWhatIsNotKnownOfWhoIsConnectedIsSaid(t *testing.T) {
	f := cluster(t, trusting.text(t, "aaaa"))
	f.connect(map[string][]peers.Port{"n1": nil, "n2": nil})
	text, err := run(f, toInstalled, map[string]string{"-": without.text(t, "bbbb")})
	require.NoError(t, err)
	assert.Contains(t, strings.Join(strings.Fields(text), " "), "who is or was connected is not known: agents tell it")
	f.connect(map[string][]peers.Port{"n1": nil, "n2": {}})
	text, err = run(f, toInstalled, map[string]string{"-": without.text(t, "bbbb")})
	require.NoError(t, err)
	assert.Contains(t, strings.Join(strings.Fields(text), " "), "is known of 1 of 2 nodes")
	text, err = run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.NoError(t, err)
	assert.NotContains(t, text, "connected", "nothing is closed")
}

// Felix's failsafe is that of the cluster.
func TestFailsafeIsWhatTheClusterSays(t *testing.T) {
	f := cluster(t, trusting.text(t, "aaaa"))
	f.connect(nil)
	ssh := trusting
	ssh.sshCIDRs, ssh.sshPorts, ssh.narrow = []string{"198.51.100.0/24"}, []int{22}, true
	text, err := run(f, toInstalled, map[string]string{"-": ssh.text(t, "bbbb")})
	require.NoError(t, err)
	assert.Contains(t, text, "closes tcp/22 to everybody, but what cluster and ssh.cidrs let in\n")
	f["FelixConfiguration"] = items(fields{"metadata": fields{"name": "default"}, "spec": fields{"failsafeInboundHostPorts": []any{fields{"protocol": "TCP", "port": 6443}}}})
	text, err = run(f, toInstalled, map[string]string{"-": ssh.text(t, "bbbb")})
	require.NoError(t, err)
	assert.Contains(t, text, "opens tcp/22 to 198.51.100.0/24\n")
}

func TestWhatIsInstalledIsTheSetOfItsAgents(t *testing.T) {
	f := cluster(t, trusting.text(t, "aaaa"))
	f.connect(nil)
	older, err := documents([]byte(without.text(t, "0000")))
	require.NoError(t, err)
	for _, o := range older[1:] {
		f["GlobalNetworkPolicy"] = items(append(f["GlobalNetworkPolicy"].(fields)["items"].([]any), o)...)
	}
	text, err := run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.NoError(t, err)
	assert.Contains(t, text, "nothing changes in who may reach what")

	delete(f, "DaemonSet")
	_, err = run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.EqualError(t, err, "read what is installed: DaemonSet ns/fw is not there")
	// Without agents the controller is told the same, most of it by its environment.
	f["Deployment"] = fields{"spec": fields{"template": fields{"spec": fields{"containers": []any{fields{
		"args": []string{"controller", "--interfaces=*"},
		"env":  []any{fields{"name": "HOST_FIREWALL_RELEASE", "value": "fw"}, fields{"name": "HOST_FIREWALL_NAMESPACE", "value": "ns"}, fields{"name": "HOST_FIREWALL_MODE", "value": "enforce"}, fields{"name": "HOST_FIREWALL_SET", "value": "aaaa"}},
	}}}}}}
	text, err = run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.NoError(t, err)
	assert.Contains(t, text, "nothing changes in who may reach what")
	delete(f, "Deployment")
	f["DaemonSet"] = errors.New("get daemonsets: forbidden")
	_, err = run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.EqualError(t, err, "read what is installed: get daemonsets: forbidden")
	assert.NotErrorIs(t, err, ErrUnreadable)
	_, err = run(f, settings.Settings{Old: settings.Installed, New: "-"}, map[string]string{"-": trusting.text(t, "aaaa")})
	assert.ErrorContains(t, err, "write --release")
}

// Agents that are static pods are read from a PodTemplate, in a rendering and in the cluster.
func TestStaticPodsAreReadWhereADaemonSetWouldBe(t *testing.T) {
	static := strings.NewReplacer("kind: DaemonSet", "kind: PodTemplate", "spec: {template: {spec: {", "template: {spec: {", "}]}}}", "}]}}")
	f := cluster(t, trusting.text(t, "aaaa"))
	f.connect(nil)
	agents := f["DaemonSet"].(object)
	delete(f, "DaemonSet")
	f["PodTemplate"] = fields{"template": agents.Spec["template"]}
	text, err := run(f, toInstalled, map[string]string{"-": static.Replace(trusting.text(t, "aaaa"))})
	require.NoError(t, err)
	assert.Contains(t, text, "nothing changes in who may reach what")

	f["PodTemplate"] = errors.New("get podtemplates: forbidden")
	_, err = run(f, toInstalled, map[string]string{"-": trusting.text(t, "aaaa")})
	require.EqualError(t, err, "read what is installed: DaemonSet ns/fw is not there\nget podtemplates: forbidden")
}

// What can't be read is named, with the document in it.
func TestUnreadableInputIsNamed(t *testing.T) {
	good := trusting.text(t, "aaaa")
	agent, policies, _ := strings.Cut(strings.TrimPrefix(good, "---\n"), "---\n")
	for name, test := range map[string]struct{ text, want string }{
		"no YAML":          {good + "---\n{\n", "new.yaml: document 5: "},
		"a text":           {"hello\n", "new.yaml: document 1: "},
		"nothing":          {"", "new.yaml is empty: did helm template fail?"},
		"no agents":        {policies, "new.yaml: there is neither a DaemonSet of this chart in it, nor a PodTemplate, nor a Deployment: "},
		"no policies":      {agent, "new.yaml: there is no GlobalNetworkPolicy of set aaaa in it"},
		"unknown argument": {strings.Replace(good, "--mode=enforce", "--mode=sometimes", 1), "new.yaml: the arguments of the agents: --mode"},
		"unknown rule":     {strings.Replace(good, `"namespaceSelector":"all()"`, `"namespaceSelector":"has(x)"`, 1), "new.yaml: policy fw-allow-cluster-aaaa: ingress["},
		"two releases":     {good + strings.ReplaceAll(good, "release: fw", "release: other"), "new.yaml: it holds the releases fw, other: say which one with --release"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := run(nil, settings.Settings{Old: "old.yaml", New: "new.yaml"}, map[string]string{"old.yaml": good, "new.yaml": test.text})
			require.ErrorIs(t, err, ErrUnreadable)
			assert.Contains(t, err.Error(), test.want)
		})
	}
	_, err := run(nil, settings.Settings{Old: "old.yaml", New: "gone.yaml"}, map[string]string{"old.yaml": good})
	require.ErrorIs(t, err, ErrUnreadable)
	assert.Contains(t, err.Error(), "gone.yaml")
	_, err = run(nil, settings.Settings{Old: "new.yaml", New: "new.yaml", Release: "fw"}, map[string]string{"new.yaml": good + strings.ReplaceAll(good, "release: fw", "release: other")})
	require.NoError(t, err, "it is said which one")
}

// What helm template writes, with all that is no policy and no DaemonSet.
func TestWholeManifestsAreRead(t *testing.T) {
	for _, name := range []string{"defaults", "everything"} {
		text, err := os.ReadFile(testdata + "/golden/" + name + ".yaml")
		require.NoError(t, err)
		side := read(t, name, string(text))
		assert.Equal(t, "host-firewall", side.Release)
		assert.Len(t, side.policies, map[string]int{"defaults": 4, "everything": 6}[name])
	}
}

// Nobody who pipes a rendering knows what the document - is.
func TestStandardInputThatIsEmptyIsCalledByItsName(t *testing.T) {
	f := cluster(t, trusting.text(t, "aaaa"))
	_, err := run(f, toInstalled, map[string]string{"-": "\n"})
	require.ErrorIs(t, err, ErrUnreadable)
	require.EqualError(t, err, "the standard input is empty: did helm template fail?")
	_, err = run(f, toInstalled, map[string]string{"-": "hello\n"})
	require.ErrorContains(t, err, "the standard input: document 1: ")
}

// SSH's failsafe is not narrowed in audit, so what its networks mean shows when that ends.
func TestTwoInAuditAreComparedAsEnforceWouldBe(t *testing.T) {
	with := trusting
	with.mode, with.sshCIDRs, with.sshPorts, with.narrow = "audit", []string{"198.51.100.0/24"}, []int{22}, true
	lost := with
	lost.sshCIDRs = nil
	f := cluster(t, with.text(t, "aaaa"))
	f.connect(nil)
	text, err := run(f, toInstalled, map[string]string{"-": lost.text(t, "bbbb")})
	require.NoError(t, err)
	assert.Contains(t, text, "  mode stays audit, and nothing is dropped: this is what changes in what mode\n    enforce would drop\n  opens tcp/22 to everybody\n")
}

func TestRenderingOfAnotherReleaseIsNoticed(t *testing.T) {
	f := cluster(t, trusting.text(t, "aaaa"))
	f.connect(nil)
	other := strings.NewReplacer("release=fw", "release=host-firewall", "host-firewall.io/release: fw", "host-firewall.io/release: host-firewall",
		`"host-firewall.io/release":"fw"`, `"host-firewall.io/release":"host-firewall"`, "host-firewall.io/release == 'fw'", "host-firewall.io/release == 'host-firewall'", `"fw-`, `"host-firewall-`)
	text, err := run(f, toInstalled, map[string]string{"-": other.Replace(trusting.text(t, "bbbb"))})
	require.NoError(t, err)
	assert.Contains(t, text, "  these are two releases: fw, and host-firewall as helm template NAME has it\n")
}
