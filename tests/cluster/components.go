package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
)

// Ports of a node that the tests connect to. Nothing of Kubernetes listens there.
const (
	SSHPort      = 22
	OrdinaryPort = 8080
	// FailsafePort (Typha's) and FailsafeUDPPort (DHCP's) are two of those that Felix accepts from everywhere.
	FailsafePort    = 5473
	FailsafeUDPPort = 68
)

// ListenPorts are all of these.
func ListenPorts() []int { return []int{SSHPort, OrdinaryPort, FailsafePort, FailsafeUDPPort} }

// APIPort is the API server's, on the control plane's node.
const APIPort = 6443

// OutsidePort is open on every outsider: what nodes mean by the world outside. DNSPort is open there too; the nodes' name server is the stranger,
// who sends every question back.
const (
	OutsidePort = 8080
	DNSPort     = 53
)

// listener stands for the services of a host. A firewall test needs a connection, no SSH protocol.
func listener(l layout, ports ...int) host.Component {
	args := []string{l.bin("workload"), "listen"}
	for _, p := range ports {
		args = append(args, fmt.Sprintf(":%d", p))
	}
	return host.Component{Name: "listener", Args: args}
}

// controlPlane is what runs on the control plane's node besides what runs on every node.
func controlPlane(l layout, bin binaries.Set, m Member, o Options) []host.Component {
	pki := func(name string) string { return filepath.Join(l.pki(), name) }
	const etcd = "http://127.0.0.1:2379"
	return []host.Component{
		{Name: "etcd", Args: []string{bin["etcd"],
			"--data-dir=/var/lib/etcd", "--unsafe-no-fsync",
			"--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=default=http://127.0.0.1:2380", "--logger=zap", "--log-level=warn",
		}},
		{Name: "kube-apiserver", Args: []string{bin["kube-apiserver"],
			"--etcd-servers=" + etcd,
			"--advertise-address=" + m.Addresses.V4.String(), fmt.Sprintf("--secure-port=%d", APIPort),
			"--service-cluster-ip-range=" + serviceCIDR4 + "," + serviceCIDR6,
			"--client-ca-file=" + pki("ca.crt"),
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
			"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet.key"),
			"--kubelet-preferred-address-types=InternalIP", // nothing here resolves node names
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + pki("sa.key"), "--service-account-signing-key-file=" + pki("sa.key"),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--requestheader-client-ca-file=" + pki("ca.crt"), "--requestheader-allowed-names=front-proxy",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + pki("front-proxy.crt"), "--proxy-client-key-file=" + pki("front-proxy.key"),
			"--enable-aggregator-routing=true",
			"--audit-policy-file=" + filepath.Join(l.host(m.Name), auditPolicy), "--audit-log-path=" + l.auditLog(m.Name),
			"--profiling=false",
		}},
		{Name: "kube-controller-manager", Env: []string{"KUBECONFIG=" + pki("controller-manager.kubeconfig")}, Args: append([]string{
			l.bin("cluster"), controllerStart, l.host(m.Name), bin["kube-controller-manager"],
			"--kubeconfig=" + pki("controller-manager.kubeconfig"),
			"--authentication-kubeconfig=" + pki("controller-manager.kubeconfig"),
			"--authorization-kubeconfig=" + pki("controller-manager.kubeconfig"),
			"--root-ca-file=" + pki("ca.crt"), // without it every pod gets an empty ca.crt
			"--service-account-private-key-file=" + pki("sa.key"),
			"--use-service-account-credentials=true", "--leader-elect=false", "--profiling=false",
		}, o.ControllerManager...)},
		{Name: "kube-scheduler", Env: []string{"KUBECONFIG=" + pki("scheduler.kubeconfig")}, Args: []string{
			l.bin("cluster"), controllerStart, l.host(m.Name), bin["kube-scheduler"],
			"--kubeconfig=" + pki("scheduler.kubeconfig"),
			"--authentication-kubeconfig=" + pki("scheduler.kubeconfig"),
			"--authorization-kubeconfig=" + pki("scheduler.kubeconfig"),
			"--leader-elect=false", "--profiling=false",
		}},
	}
}

// node is what runs on every node.
func node(l layout, bin binaries.Set, m Member, storage schema.GroupVersion) []host.Component {
	file := func(name string) string { return filepath.Join(l.host(m.Name), name) }
	pki := func(name string) string { return filepath.Join(l.pki(), name) }
	return []host.Component{
		listener(l, ListenPorts()...),
		{Name: "containerd", Args: []string{bin["containerd"], "--config", file("containerd.toml")},
			// containerd looks for its shim in PATH.
			Env: []string{"PATH=" + filepath.Dir(bin["containerd-shim-runc-v2"]) + ":" + host.Path}},
		{Name: "kubelet", Args: []string{l.bin("cluster"), kubeletStart, l.host(m.Name), bin["kubelet"],
			"--config=" + file("kubelet.yaml"),
			"--kubeconfig=" + pki(kubeletIdentity(m.Name)),
			"--hostname-override=" + m.Name,
			"--node-ip=" + m.Addresses.V4.String() + "," + m.Addresses.V6.String(),
		}},
		{Name: "kube-proxy", Args: []string{bin["kube-proxy"], "--config=" + file("kube-proxy.yaml"), "--hostname-override=" + m.Name}},
		{Name: "felix", Args: []string{l.bin("cluster"), calicoStart, l.host(m.Name), bin["calico-felix"], "--config-file=" + os.DevNull}, // the machine may have one, in /etc/calico
			Env: []string{
				// Nothing of BPF, which a Felix that was built without C panics over: not even the removal of what an earlier one may have left.
				"PATH=" + l.felixPath(), "FELIX_XDPENABLED=false", "FELIX_DebugSkipCTLBCleanup=true",
				"CALICO_API_GROUP=" + storage.String(), // it would find out, but for a cluster that has both
				"FELIX_DATASTORETYPE=kubernetes", "KUBECONFIG=" + pki("calico.kubeconfig"), "FELIX_FELIXHOSTNAME=" + m.Name,
				// IPv6 is in, as by default, and can be left out by Felix's configuration.
				"FELIX_BPFENABLED=false", "FELIX_USAGEREPORTINGENABLED=false",
				"FELIX_LOGFILEPATH=none", "FELIX_LOGSEVERITYSCREEN=info", "FELIX_LOGSEVERITYSYS=none",
				"FELIX_IPTABLESBACKEND=NFT", "FELIX_HEALTHENABLED=true",
				// What Calico's own manifests set: pods reach their node, kubelet's probes reach pods.
				"FELIX_DEFAULTENDPOINTTOHOSTACTION=ACCEPT",
			}},
	}
}

// felixPrograms are all that Felix is to find: no bpftool, by which it would come to BPF.
var felixPrograms = []string{"iptables*", "ip6tables*", "ipset", "nft", "conntrack", "ip", "modprobe"}

// linkFelixPrograms fills the folder that is Felix's PATH.
func linkFelixPrograms(l layout) error {
	if err := os.MkdirAll(l.felixPath(), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for _, dir := range filepath.SplitList(host.Path) {
		for _, pattern := range felixPrograms {
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				return fmt.Errorf("look for Felix's programs: %w", err)
			}
			for _, program := range found {
				err := os.Symlink(program, filepath.Join(l.felixPath(), filepath.Base(program)))
				if err != nil && !errors.Is(err, fs.ErrExist) { // the first one in PATH
					return fmt.Errorf("link Felix's programs: %w", err)
				}
			}
		}
	}
	return nil
}

// LoadUser is a service account whose requests leave no trace in the audit log: for the load of a whole cluster's agents.
const LoadUser = "system:serviceaccount:load:load"

// auditPolicy is a file in the folder of the control plane's node.
const auditPolicy = "audit-policy.yaml"

// StaticPodPath is the folder of each node from which its kubelet runs pods by itself.
const StaticPodPath = "/var/lib/static-pods"

// kubeletIdentity is the file, in the pki folder, with a kubelet's kubeconfig.
func kubeletIdentity(node string) string { return "kubelet-" + node + ".kubeconfig" }

// writeNodeFiles writes the configuration that a node's components read.
func writeNodeFiles(l layout, m Member, storage schema.GroupVersion) error {
	file := func(name string) string { return filepath.Join(l.host(m.Name), name) }
	taints := "[]"
	if m.Role == ControlPlane {
		taints = "[{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]"
	}
	files := map[string]string{
		"containerd.toml": fmt.Sprintf(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = %[1]q

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %[2]q

[plugins."io.containerd.cri.v1.runtime"]
  # A machine without CAP_SYS_RESOURCE can't lower oom_score_adj.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [%[3]q]
  conf_dir = %[4]q
  use_internal_loopback = true

[plugins."io.containerd.nri.v1.nri"]
  disable = true
`, containerdSocket, WorkloadImage, filepath.Join(l.cni(), "bin"), filepath.Join(l.host(m.Name), "cni")),

		"kubelet.yaml": fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  x509: {clientCAFile: %[1]q}
containerRuntimeEndpoint: unix://%[2]s
podLogsDir: %[3]q
registerWithTaints: %[4]s
resolvConf: %[6]q
staticPodPath: %[7]q
# The node shares the machine's control groups, whatever their version, and keeps its pods below one of its own.
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: true
cgroupRoot: %[5]q
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
failSwapOn: false
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", imagefs.available: "0%%", nodefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
# A test's pods are gone when the test says so.
syncFrequency: 10s
`, filepath.Join(l.pki(), "ca.crt"), containerdSocket, filepath.Join(l.logs(m.Name), "pods"), taints, cgroupRoot(l, m.Name), file("resolv.conf"), StaticPodPath),

		"resolv.conf": fmt.Sprintf("nameserver %s\n", outside.address(10).V4),

		"kube-proxy.yaml": fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %q}
mode: nftables
clusterCIDR: %s,%s
conntrack: {maxPerCore: 0, min: 0}
`, filepath.Join(l.pki(), "kube-proxy.kubeconfig"), podCIDR4, podCIDR6),
	}
	if m.Role == ControlPlane {
		// What service accounts ask for is what their roles are measured by.
		files[auditPolicy] = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["` + LoadUser + `"]}
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
`
	}
	// A kubelet that finds no folder looks seldom whether one has come.
	if err := os.MkdirAll(filepath.Join(l.state(m.Name), filepath.Base(StaticPodPath)), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(file(name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write configuration of %s: %w", m.Name, err)
		}
	}
	return writeCNI(l, m, storage)
}

// writeCNI is the node's pod network: Calico's plugin, with addresses of both families from Calico's own pools.
func writeCNI(l layout, m Member, storage schema.GroupVersion) error {
	config := map[string]any{
		"name": "k8s-pod-network", "cniVersion": "0.3.1",
		"plugins": []any{map[string]any{
			"type": "calico", "datastore_type": "kubernetes", "nodename": m.Name, "calico_api_group": storage.String(),
			"log_level": "info", "log_file_path": filepath.Join(l.logs(m.Name), "cni.log"),
			"ipam":       map[string]any{"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
			"policy":     map[string]any{"type": "k8s"},
			"kubernetes": map[string]any{"kubeconfig": filepath.Join(l.pki(), "calico.kubeconfig")},
		}},
	}
	raw, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	dir := filepath.Join(l.host(m.Name), "cni")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "10-calico.conflist"), raw, 0o644); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	return nil
}

// containerdSocket is each node's own: the node's /run is.
const containerdSocket = "/run/containerd/containerd.sock"

// WorkloadImage is the image of cmd/workload: every pod's sandbox, and what the tests' pods run. It is never pulled.
const WorkloadImage = "host-firewall.test/workload:dev"
