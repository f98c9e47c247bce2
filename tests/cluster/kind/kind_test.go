package kind

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

// fake puts a shell script in the place of docker and kind, and returns what they were called with so far: one line a
// call, and after it what they were given to read.
func fake(t *testing.T, script string) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	for _, program := range []string{"docker", "kind"} {
		text := "#!/bin/sh\necho " + program + ` "$@" >> ` + log + "\nnetwork=$KIND_EXPERIMENTAL_DOCKER_NETWORK\n" + script
		require.NoError(t, os.WriteFile(filepath.Join(dir, program), []byte(text), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		raw, err := os.ReadFile(log)
		require.NoError(t, err)
		return string(raw)
	}
}

func member(name, v4, v6 string) cluster.Member {
	return cluster.Member{Name: name, Role: cluster.Worker, Addresses: cluster.Addresses{V4: netip.MustParseAddr(v4), V6: netip.MustParseAddr(v6)}}
}

func TestOutsidersAreInTheNetworkAndInNoRangeOfTheCluster(t *testing.T) {
	c := newCluster(t.TempDir())
	for _, o := range outsiders() {
		require.True(t, netip.MustParsePrefix(network4).Contains(o.Addresses.V4))
		require.True(t, netip.MustParsePrefix(network6).Contains(o.Addresses.V6))
		for _, cidr := range c.ClusterCIDRs() {
			p := netip.MustParsePrefix(cidr)
			require.False(t, p.Contains(o.Addresses.V4) || p.Contains(o.Addresses.V6), "%s is in %s", o.Name, cidr)
		}
	}
	for i, cidr := range c.AdminCIDRs() {
		p := netip.MustParsePrefix(cidr)
		require.True(t, p.Contains(outsiders()[0].Addresses.Of([]int{4, 6}[i])))
		require.False(t, p.Contains(outsiders()[1].Addresses.Of([]int{4, 6}[i])))
	}
}

func TestConfigurationIsDualStackWithThreeNodesAndNoNetworkOfKinds(t *testing.T) {
	var config struct {
		Networking map[string]any
		Nodes      []struct{ Role string }
	}
	require.NoError(t, yaml.Unmarshal([]byte(configuration), &config))
	require.Equal(t, true, config.Networking["disableDefaultCNI"])
	require.Equal(t, "dual", config.Networking["ipFamily"])
	require.Equal(t, "198.18.0.0/16,2001:db8:a::/56", config.Networking["podSubnet"])
	require.Len(t, config.Nodes, 3)
	require.Equal(t, "control-plane", config.Nodes[0].Role)
}

func TestKubernetesOfTheVersionThatWasAskedForIsCreated(t *testing.T) {
	require.NotContains(t, createArgs("k", Options{}), "--image")
	require.Equal(t, []string{"--image", "kindest/node:v1.36.3"}, createArgs("k", Options{Kubernetes: "v1.36.3"})[9:])
}

func TestHostIsTheProcessOfItsContainer(t *testing.T) {
	calls := fake(t, "echo 4711\n")
	h, err := newCluster(t.TempDir()).Host(cluster.AdminHost)
	require.NoError(t, err)
	require.Equal(t, "/proc/4711/ns/net", h.NetNS())
	require.Equal(t, "docker inspect --type container --format {{.State.Pid}} host-firewall-admin\n", calls())
}

func TestHostThatStandsStillIsNoHost(t *testing.T) {
	fake(t, "echo 0\n")
	_, err := newCluster(t.TempDir()).Host("host-firewall-worker")
	require.ErrorContains(t, err, `host "host-firewall-worker" is not running`)
}

func TestErrorShowsTheCommandAndWhatItSaid(t *testing.T) {
	fake(t, "echo no such thing >&2; exit 3\n")
	_, err := call(t.Context(), "", "kind", "get", "clusters")
	require.ErrorContains(t, err, "kind get clusters: exit status 3\nno such thing")
}

func TestKindUsesOurNetworkAndReadsWhatItIsGiven(t *testing.T) {
	fake(t, `echo "$network"; cat`)
	out, err := call(t.Context(), "text", "kind", "create")
	require.NoError(t, err)
	require.Equal(t, name+"\ntext", out)
}

func TestOnlyARunningClusterIsOpened(t *testing.T) {
	fake(t, "echo another\n")
	_, err := Open(t.Context(), t.TempDir())
	require.ErrorContains(t, err, "no kind cluster host-firewall is running")
}

func TestDownGoesOnToTheEndAndTellsEveryError(t *testing.T) {
	calls := fake(t, `case "$*" in *admin) echo gone wrong >&2; exit 1;; "network ls"*) echo bridge; echo host-firewall;; esac`)
	require.ErrorContains(t, Down(t.TempDir()), "gone wrong")
	require.Equal(t, `kind delete cluster --name host-firewall
docker rm --force --volumes host-firewall-admin
docker rm --force --volumes host-firewall-stranger
docker network ls --format {{.Name}}
docker network rm host-firewall
`, calls())
}

func TestNodeThatJoinsGetsAWorkersSettingsUnderItsOwnNameAndAddresses(t *testing.T) {
	calls := fake(t, `
case "$*" in
*Config.Image*) echo kindest/node:v1 ;;
*IPAddress*) echo 192.0.2.30 ;;
*GlobalIPv6Address*) echo 2001:db8:1::30 ;;
"exec host-firewall-worker cat"*) echo "name: host-firewall-worker of host-firewall-worker2 node-ip: 192.0.2.3,2001:db8:1::3 api: 192.0.2.33" ;;
*/dev/stdin*) cat >> "$(dirname "$0")/calls" ;;
esac`)
	c := newCluster(t.TempDir())
	c.nodes = []cluster.Member{member("host-firewall-worker", "192.0.2.3", "2001:db8:1::3")}
	c.loaded = []string{"a.tar"}
	m, err := c.AddNode("worker-3")
	require.NoError(t, err)
	require.Equal(t, member("worker-3", "192.0.2.30", "2001:db8:1::30"), m)
	require.Equal(t, m, c.Nodes()[1])
	log := calls()
	require.Contains(t, log, "name: worker-3 of host-firewall-worker2 node-ip: 192.0.2.30,2001:db8:1::30 api: 192.0.2.33\n")
	require.Contains(t, log, "--label io.x-k8s.kind.cluster=host-firewall --label io.x-k8s.kind.role=worker")
	require.Contains(t, log, "kind load image-archive a.tar --name host-firewall --nodes worker-3\n")
	require.True(t, strings.HasSuffix(log, "docker exec worker-3 kubeadm join --config /kind/kubeadm.conf --ignore-preflight-errors=all\n"), log)
}

func TestNodeThatCannotJoinLeavesNoContainer(t *testing.T) {
	calls := fake(t, `
case "$*" in
*IPAddress*) echo 192.0.2.30 ;;
*GlobalIPv6Address*) echo 2001:db8:1::30 ;;
*kubeadm*join*) exit 1 ;;
esac`)
	c := newCluster(t.TempDir())
	c.nodes = []cluster.Member{member("host-firewall-worker", "192.0.2.3", "2001:db8:1::3")}
	_, err := c.AddNode("worker-3")
	require.ErrorContains(t, err, "kubeadm join")
	require.True(t, strings.HasSuffix(calls(), "docker rm --force --volumes worker-3\n"), calls())
	require.Len(t, c.Nodes(), 1)
}

func TestMemberHasTheRoleAndTheAddressesOfItsNode(t *testing.T) {
	node := corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "n"},
			{Type: corev1.NodeInternalIP, Address: "192.0.2.2"},
			{Type: corev1.NodeInternalIP, Address: "2001:db8:1::2"},
		}},
	}
	m, err := memberOf(&node)
	require.NoError(t, err)
	want := member("n", "192.0.2.2", "2001:db8:1::2")
	want.Role = cluster.ControlPlane
	require.Equal(t, want, m)

	node.Status.Addresses = node.Status.Addresses[:2]
	_, err = memberOf(&node)
	require.ErrorContains(t, err, "IPv6")
}

const manifest = `kind: ConfigMap
apiVersion: v1
metadata: {name: calico-config}
data:
  cni_network_config: |-
    {"mtu": __CNI_MTU__, "ipam": {"type": "calico-ipam"}}
---
kind: CustomResourceDefinition
apiVersion: apiextensions.k8s.io/v1
metadata: {name: hostendpoints.crd.projectcalico.org}
---
kind: DaemonSet
apiVersion: apps/v1
metadata: {name: calico-node}
spec:
  template:
    spec:
      containers:
        - name: calico-node
          image: calico/node:v3.32.1
          env:
            - {name: FELIX_IPV6SUPPORT, value: "false"}
            - {name: IP, value: autodetect}
`

func TestManifestIsMadeDualStack(t *testing.T) {
	got, err := dualStack([]byte(manifest), "v3.32.1")
	require.NoError(t, err)
	objects, err := cluster.DecodeObjects([]byte(got))
	require.NoError(t, err)
	require.Len(t, objects, 3)
	require.Equal(t, `{"mtu": __CNI_MTU__, "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}}`,
		objects[0].Object["data"].(map[string]any)["cni_network_config"])
	require.Equal(t, 1, strings.Count(got, "FELIX_IPV6SUPPORT"))
	for _, setting := range []string{
		"- name: FELIX_IPV6SUPPORT\n          value: \"true\"", "- name: IP6\n          value: autodetect",
		"- name: IP\n          value: autodetect", "- name: CALICO_IPV6POOL_CIDR\n          value: 2001:db8:a::/56",
	} {
		require.Contains(t, got, setting)
	}
}

func TestManifestOfAnotherReleaseOrFormIsRefused(t *testing.T) {
	for change, want := range map[[2]string]string{
		{"v3.32.1", "v3.31.0"}:                                "not of release v3.32.1",
		{`{"type": "calico-ipam"}`, `{"type": "host-local"}`}: `has no "type": "calico-ipam"`,
		{"- name: calico-node", "- name: other"}:              "there is no container calico-node",
		{"kind: CustomResourceDefinition", "kind: Other"}:     "there is no CustomResourceDefinition in it",
	} {
		_, err := dualStack([]byte(strings.ReplaceAll(manifest, change[0], change[1])), "v3.32.1")
		require.ErrorContains(t, err, want)
	}
	_, err := calicoManifest(t.Context(), "master")
	require.ErrorContains(t, err, `CALICO_VERSION is "master"`)
}
