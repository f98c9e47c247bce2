package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// First arguments with which cmd/cluster is run in the place of a node's component, to do what has to come before it. Each
// is followed by the host's folder and the component's command; Start does the rest.
const (
	calicoStart     = "calico-start"
	controllerStart = "controller-start"
	kubeletStart    = "kubelet-start"
)

// Start is called by cmd/cluster with its arguments; it returns false if they are none of a component's start.
func Start(ctx context.Context, args []string) (bool, error) {
	if len(args) < 3 {
		return false, nil
	}
	name, component := filepath.Base(args[1]), args[2:]
	l := layout(filepath.Dir(filepath.Dir(args[1])))
	var err error
	switch args[0] {
	case calicoStart:
		err = beforeFelix(ctx, l, name)
	case controllerStart:
		err = beforeController(ctx)
	case kubeletStart:
		err = beforeKubelet(ctx, l)
	default:
		return false, nil
	}
	if err == nil {
		err = syscall.Exec(component[0], component, os.Environ())
	}
	return true, err // the host starts us again
}

// beforeController waits for the API server and for what its roles are made of. Without them a controller ends, again and again.
func beforeController(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	return waitAPI(ctx, config)
}

// beforeKubelet imports the cluster's images: pods come as soon as kubelet has registered, and nothing here can be pulled.
func beforeKubelet(ctx context.Context, l layout) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(l.images(), "*.tar"))
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, archive := range archives {
		if err := Poll(ctx, time.Minute, "containerd to import "+filepath.Base(archive), func(ctx context.Context) error {
			return run(exec.CommandContext(ctx, r.Binaries["ctr"], importArgs(archive)...))
		}); err != nil {
			return err
		}
	}
	return nil
}

// importArgs are ctr's, on a node.
func importArgs(archive string) []string {
	return []string{"--address", containerdSocket, "--namespace", "k8s.io", "images", "import", archive}
}

func run(cmd *exec.Cmd) error {
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// beforeFelix does on a node what the start of a calico-node container does: it waits for the Node and gives it the
// addresses of the node's VXLAN tunnels, out of Calico's pools.
func beforeFelix(ctx context.Context, l layout, name string) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	if err := Poll(ctx, time.Minute, "Node "+name+" to be described", func(ctx context.Context) error {
		return describeNode(ctx, client, l, name)
	}); err != nil {
		return err
	}
	for _, dir := range []string{"/run/calico", "/var/lib/calico"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make Felix's folder: %w", err)
		}
	}
	// Calico's plugin takes this file as the sign that pods can have a network.
	if err := os.WriteFile("/var/lib/calico/nodename", []byte(name), 0o644); err != nil {
		return fmt.Errorf("write the node's name: %w", err)
	}
	return nil
}

// describeNode writes Calico's annotations on a Node that hasn't got them yet.
func describeNode(ctx context.Context, client kubernetes.Interface, l layout, name string) error {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node: %w", err)
	}
	const v4Tunnel, v6Tunnel = "projectcalico.org/IPv4VXLANTunnelAddr", "projectcalico.org/IPv6VXLANTunnelAddr"
	if node.Annotations[v4Tunnel] != "" && node.Annotations[v6Tunnel] != "" {
		return nil
	}
	tunnels, err := tunnelAddresses(ctx, l, name)
	if err != nil {
		return err
	}
	annotations := map[string]string{v4Tunnel: tunnels.V4.String(), v6Tunnel: tunnels.V6.String()}
	for _, a := range node.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		switch {
		case err != nil: // the host name
		case addr.Is4():
			annotations["projectcalico.org/IPv4Address"] = netip.PrefixFrom(addr, nodes.v4.Bits()).String()
		default:
			annotations["projectcalico.org/IPv6Address"] = netip.PrefixFrom(addr, nodes.v6.Bits()).String()
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return fmt.Errorf("annotate node: %w", err)
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotate node: %w", err)
	}
	return nil
}

// tunnelAddresses takes two addresses out of the node's blocks with Calico's own IPAM plugin, as for a pod.
func tunnelAddresses(ctx context.Context, l layout, node string) (Addresses, error) {
	list, err := os.ReadFile(filepath.Join(l.host(node), "cni", "10-calico.conflist"))
	if err != nil {
		return Addresses{}, fmt.Errorf("read CNI configuration: %w", err)
	}
	var conf struct {
		Plugins []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal(list, &conf); err != nil {
		return Addresses{}, fmt.Errorf("read CNI configuration: %w", err)
	}
	plugin := conf.Plugins[0]
	plugin["name"], plugin["cniVersion"] = "k8s-pod-network", "0.3.1"
	stdin, err := json.Marshal(plugin)
	if err != nil {
		return Addresses{}, fmt.Errorf("assign tunnel addresses: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(l.cni(), "bin", "calico-ipam"))
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=tunnel-"+node, "CNI_NETNS=/proc/self/ns/net", "CNI_NETNS_OVERRIDE=true", "CNI_IFNAME=tunnel",
		"CNI_PATH="+filepath.Join(l.cni(), "bin"))
	out, err := cmd.Output()
	if err != nil {
		return Addresses{}, fmt.Errorf("assign tunnel addresses: %w: %s", err, out)
	}
	var result struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return Addresses{}, fmt.Errorf("assign tunnel addresses: %w: %s", err, out)
	}
	var a Addresses
	for _, ip := range result.IPs {
		if addr := ip.Address.Addr(); addr.Is4() {
			a.V4 = addr
		} else {
			a.V6 = addr
		}
	}
	if !a.V4.IsValid() || !a.V6.IsValid() {
		return Addresses{}, fmt.Errorf("assign tunnel addresses: one of each family is wanted, got %s", out)
	}
	return a, nil
}
