package kind

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"

	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
	"github.com/host-firewall/host-firewall/tests/cluster/scene"
)

// applyUntilEnd applies a manifest and takes it away when the test ends.
func applyUntilEnd(t *testing.T, manifest string) {
	t.Helper()
	t.Cleanup(func() {
		_, err := kubectl(context.WithoutCancel(t.Context()), manifest, "delete", "--ignore-not-found", "--filename", "-")
		require.NoError(t, err)
	})
	_, err := kubectl(t.Context(), manifest, "apply", "--filename", "-")
	require.NoError(t, err)
}

// on runs a command on a node or an outsider.
func on(t *testing.T, hostName, name string, args ...string) {
	t.Helper()
	cmd, err := nodes.Command(context.WithoutCancel(t.Context()), hostName, name, args...)
	require.NoError(t, err)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s %s: %s", hostName, name, strings.Join(args, " "), out)
}

// networkSet is what somebody may write who has a say in one namespace: a set of the stranger's addresses, with more metadata.
func networkSet(more string) string {
	return fmt.Sprintf(`{"apiVersion": %q, "kind": "NetworkSet", "metadata": {"name": "strangers", "namespace": "default"%s}, "spec": {"nets": ["%s"]}}`,
		nodes.CalicoGroup(), more, strings.Join(nodes.StrangerCIDRs(), `", "`))
}

// requireNoNetworkSetThatPassesForPods tries the label that pods are trusted by on a NetworkSet: where it belongs, where Calico's API server
// keeps it, and with one letter of it written otherwise.
func requireNoNetworkSetThatPassesForPods(t *testing.T) {
	t.Helper()
	for what, more := range map[string]string{
		"as a label":      `, "labels": {"projectcalico.org/orchestrator": "k8s"}`,
		"as Calico's own": `, "annotations": {"projectcalico.org/metadata": "{\"labels\":{\"projectcalico.org/orchestrator\":\"k8s\"}}"}`,
		"in disguise":     `, "annotations": {"projectcalico.org/metadata": "{\"labels\":{\"projectcalico.org/\\u006frchestrator\":\"k8s\"}}"}`,
	} {
		eventually(t, "a NetworkSet with a pod's label, "+what+", to be refused", func(ctx context.Context) error {
			_, err := kubectl(ctx, networkSet(more), "apply", "--dry-run=server", "--filename", "-")
			if err == nil || !strings.Contains(err.Error(), "would count as a pod") {
				return fmt.Errorf("it is not: %w", err)
			}
			return nil
		})
	}
}

// deregister deletes the Node of a machine that goes on running, and waits until what belongs to it is gone. register creates it
// again, as a kubelet that starts would; the one that runs goes on with the new Node.
func deregister(t *testing.T, node string) (register func()) {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	before, err := nodes.Node(t.Context(), node)
	require.NoError(t, err)
	require.NoError(t, client.CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}))
	registered := false
	register = func() {
		t.Helper()
		if registered {
			return
		}
		registered = true
		ctx := context.WithoutCancel(t.Context())
		_, err = client.CoreV1().Nodes().Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: node, Labels: before.Labels, Annotations: before.Annotations}, Spec: before.Spec,
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		m, err := nodes.Member(node)
		require.NoError(t, err)
		require.NoError(t, nodes.WaitNode(ctx, m))
		now, err := nodes.Node(ctx, node)
		require.NoError(t, err)
		require.NotEqual(t, before.UID, now.UID)
	}
	t.Cleanup(register)
	requireCollected(t, node, "")
	return register
}

// requireServedByAPIServerThatIsNoNode takes the Node of the control plane away: its API server is then where those of managed clusters
// are, outside. It connects to kubelets, for logs and exec, and to webhooks in pods.
func requireServedByAPIServerThatIsNoNode(t *testing.T, r *release.Release) {
	machines := local(t, "run an API server that is no Node")
	outside := controlPlane(t)
	inside, err := nodes.Member(worker(t, 1))
	require.NoError(t, err)
	h, err := machines.Host(outside.Name)
	require.NoError(t, err)
	kubelet := []probe.Path{{From: probe.Source{Name: "API server", NetNS: h.NetNS()}, What: "kubelet",
		To: []probe.Address{{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(inside.Addresses.V4, 10250)}}}}
	pod := place.PodOn(inside.Name)
	// Where it is no node, it reaches pods by routes, and not by their network's tunnels.
	route := []string{pod.Addresses.V4.String(), "via", inside.Addresses.V4.String()}
	on(t, outside.Name, "ip", append([]string{"route", "add"}, route...)...)
	t.Cleanup(func() { on(t, outside.Name, "ip", append([]string{"route", "del"}, route...)...) })
	startWebhook(t, pod.NetNS, pod.Addresses.V4)
	client, err := nodes.Client()
	require.NoError(t, err)
	create := func(ctx context.Context) error {
		_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "asked-", Labels: map[string]string{"webhook": "asked"}},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}

	without := values()
	without["cluster"] = map[string]any{"trustAPIServer": false}
	_, err = r.Upgrade(t.Context(), without)
	require.NoError(t, err)
	register := deregister(t, outside.Name)
	eventually(t, "the API server to be kept out", func(context.Context) error {
		if a := probe.Ask(kubelet)[0]; !a.Closed() {
			return fmt.Errorf("it reaches the kubelet: %s", a)
		}
		return nil
	})
	require.ErrorContains(t, create(t.Context()), "failed calling webhook")

	_, err = r.Upgrade(t.Context(), values())
	require.NoError(t, err)
	eventually(t, "the API server to reach a kubelet and a webhook", func(ctx context.Context) error {
		a := probe.Ask(kubelet)[0]
		return errors.Join(append(a.Errors, create(ctx))...)
	})
	log, err := kubectl(t.Context(), "", "--namespace", scene.Namespace, "logs", pod.Name)
	require.NoError(t, err)
	require.Contains(t, log, "listening on")
	said, err := kubectl(t.Context(), "", "--namespace", scene.Namespace, "exec", pod.Name, "--", "/workload", "say", "hello")
	require.NoError(t, err)
	require.Equal(t, "hello\n", said)
	register()
}

// startWebhook answers admission reviews in the network of a pod, and has the API server ask it, and nobody else, about some ConfigMaps.
func startWebhook(t *testing.T, netns string, address netip.Addr) {
	t.Helper()
	crt, key, err := cert.GenerateSelfSignedCertKey(address.String(), []net.IP{address.AsSlice()}, nil)
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(crt, key)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		_ = json.NewEncoder(w).Encode(review)
	}))
	require.NoError(t, server.Listener.Close())
	require.NoError(t, host.InNetNS(netns, func() error {
		server.Listener, err = net.Listen("tcp", netip.AddrPortFrom(address, 8443).String())
		return err
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	bundle, err := json.Marshal(crt)
	require.NoError(t, err)
	applyUntilEnd(t, fmt.Sprintf(`{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "in-a-pod"}, "webhooks": [{
		"name": "in-a-pod.example.org", "failurePolicy": "Fail", "timeoutSeconds": 2, "sideEffects": "None", "admissionReviewVersions": ["v1"],
		"clientConfig": {"url": "https://%s:8443/", "caBundle": %s}, "objectSelector": {"matchLabels": {"webhook": "asked"}},
		"rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]}]}`, address, bundle))
}
