package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/record"
)

// Access is a way to a cluster's API server with every right: the path of a kubeconfig, for use on the machine.
type Access string

// Kubeconfig is its path.
func (a Access) Kubeconfig() string { return string(a) }

// RESTConfig reads Kubeconfig.
func (a Access) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", a.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS = -1 // no limit: a limiter's error would hide what a test waits for
	return config, nil
}

// Kubectl is a command of kubectl's on a cluster. Preferences, plugins and what is kept of other clusters, which whoever starts it
// may have in the home folder, play no part.
func Kubectl(ctx context.Context, c interface {
	Kubeconfig() string
	Binary(name string) string
}, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Binary("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Env = host.Environment("HOME=" + filepath.Dir(c.Kubeconfig()))
	return cmd
}

// Client is a client with every right.
func (a Access) Client() (kubernetes.Interface, error) {
	config, err := a.RESTConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

// Dynamic returns one for kinds that client-go does not know.
func (a Access) Dynamic() (dynamic.Interface, error) {
	config, err := a.RESTConfig()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

// Node reads a Node object.
func (a Access) Node(ctx context.Context, name string) (*corev1.Node, error) {
	client, err := a.Client()
	if err != nil {
		return nil, err
	}
	n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get node: %w", err)
	}
	return n, nil
}

// WatchReady begins a watch that every node stays Ready, as long as the API server tells.
func (a Access) WatchReady(ctx context.Context, r *record.Record, test string) (*record.Watch, error) {
	client, err := a.Client()
	if err != nil {
		return nil, err
	}
	events, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	const ready = "Ready"
	promise := record.Promise{Test: test, Kind: record.Stays, Allowed: []string{ready, record.Deleted, record.Untold}}
	return r.Follow(promise, events, func(o metav1.Object) string {
		if err := NodeReady(o.(*corev1.Node)); err != nil {
			return err.Error()
		}
		return ready
	}), nil
}

// WaitNodeReady waits until a node has registered and is Ready; it may have to pull the images of its network first.
func (a Access) WaitNodeReady(ctx context.Context, name string) error {
	return Poll(ctx, 5*time.Minute, "Node "+name+" to be Ready", func(ctx context.Context) error {
		n, err := a.Node(ctx, name)
		if err != nil {
			return err
		}
		return NodeReady(n)
	})
}

// NodeReady returns nil if the node's Ready condition is true, else what the node says.
func NodeReady(n *corev1.Node) error {
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			if cond.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("node %s is not ready: %s", n.Name, cond.Message)
		}
	}
	return fmt.Errorf("node %s has not reported yet", n.Name)
}

// FelixReady returns nil if the Felix on a node has programmed it, else what it says.
func FelixReady(ctx context.Context, h *host.Host) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9099/readiness", nil)
	if err != nil {
		return err
	}
	response, err := h.HTTPClient().Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		body, _ := io.ReadAll(response.Body)
		return fmt.Errorf("felix answers %s: %s", response.Status, body)
	}
	return nil
}

// DeleteNode deletes the Node and the pods of a machine that is gone. Kubernetes would find out about it, and send
// connections to the pods, for another minute.
func (a Access) DeleteNode(ctx context.Context, name string) error {
	client, err := a.Client()
	if err != nil {
		return err
	}
	// A node that never came so far has no Node.
	if err := client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node: %w", err)
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx,
		metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", name).String()})
	if err != nil {
		return fmt.Errorf("list the node's pods: %w", err)
	}
	for _, p := range pods.Items {
		err := client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete the node's pod: %w", err)
		}
	}
	return nil
}

// CollectRules writes the rules that the kernel of each node has, whichever program has made them, into the node's folder below dir.
func CollectRules(ctx context.Context, c interface {
	Nodes() []Member
	Command(ctx context.Context, hostName, name string, args ...string) (*exec.Cmd, error)
}, dir string) error {
	for _, m := range c.Nodes() {
		cmd, err := c.Command(ctx, m.Name, "nft", "list", "ruleset")
		if err != nil {
			return err
		}
		rules, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("list rules of %s: %w", m.Name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, m.Name, "rules"), rules, 0o644); err != nil {
			return fmt.Errorf("collect rules: %w", err)
		}
	}
	return nil
}
