package kind

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// closedByTheHost has a node's own firewall close a port, and Felix leave it its say, as the README tells those who have one: without
// that, Felix on iptables accepts for good what a policy or the profile of an endpoint allows. What is returned wants the port to be closed.
func closedByTheHost(t *testing.T) (requireClosed func(when string)) {
	t.Helper()
	const port = 8081
	node := worker(t, 1)
	h, err := nodes.Host(node)
	require.NoError(t, err)
	m, err := nodes.Member(node)
	require.NoError(t, err)
	stranger, err := nodes.Host(cluster.StrangerHost)
	require.NoError(t, err)
	path := probe.Path{
		From: probe.Source{Name: cluster.StrangerHost, NetNS: stranger.NetNS()}, What: "a port that the host closes",
		To: []probe.Address{{Protocol: probe.TCP, AddrPort: netip.AddrPortFrom(m.Addresses.V4, port)}},
	}
	listenTCP(t, h.NetNS(), port)
	eventually(t, "the port to be open before", func(context.Context) error { return errors.Join(probe.Ask([]probe.Path{path})[0].Errors...) })
	setFelix(t, "iptablesFilterAllowAction", "Return")
	rule := []string{"INPUT", "--protocol", "tcp", "--dport", fmt.Sprint(port), "--jump", "DROP"}
	on(t, node, "iptables-nft", append([]string{"--append"}, rule...)...)
	t.Cleanup(func() { on(t, node, "iptables-nft", append([]string{"--delete"}, rule...)...) })
	return func(when string) {
		t.Helper()
		eventually(t, "the port to be closed "+when, func(context.Context) error {
			if a := probe.Ask([]probe.Path{path})[0]; !a.Closed() {
				return fmt.Errorf("open: %s (%v)", a, a.Errors)
			}
			return nil
		})
	}
}

// setFelix sets a field of the FelixConfiguration of all nodes for as long as the test lasts.
func setFelix(t *testing.T, field, value string) {
	t.Helper()
	const object = "default"
	client := calico(t, "felixconfigurations")
	_, err := client.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nodes.CalicoGroup().String(), "kind": "FelixConfiguration",
		"metadata": map[string]any{"name": object}, "spec": map[string]any{field: value},
	}}, metav1.CreateOptions{})
	patch := func(value string) {
		_, err := client.Patch(context.WithoutCancel(t.Context()), object, types.MergePatchType, fmt.Appendf(nil, `{"spec":{%q:%s}}`, field, value), metav1.PatchOptions{})
		require.NoError(t, err)
	}
	if apierrors.IsAlreadyExists(err) {
		patch(fmt.Sprintf("%q", value))
		t.Cleanup(func() { patch("null") })
		return
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, client.Delete(context.WithoutCancel(t.Context()), object, metav1.DeleteOptions{}))
	})
}
