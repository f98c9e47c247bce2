package kind

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Whoever takes over a node has its agent's token. With it only that node may be opened.
func TestAgentsTokenWritesItsOwnNodesObjectsAndNoOthers(t *testing.T) {
	install(t)
	own, other := worker(t, 1), worker(t, 2)
	const note, endpointOnly = `{"metadata":{"annotations":{"note":"mine"}}}`, "writes host endpoints of that node only"
	const nameOnly, hash = "names a host endpoint by that node and the interface only", "-0123456789ab"
	felixOnly := "writes the FelixConfiguration node." + own + " only"
	agent := asAgent(t, podOn(t, own))
	endpoints, felix := agent("hostendpoints"), agent("felixconfigurations")
	patch := func(client dynamic.ResourceInterface, name, patch string) error {
		_, err := client.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	create := func(client dynamic.ResourceInterface, kind, name string, spec map[string]any) error {
		_, err := client.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": nodes.CalicoGroup().String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
		}}, metav1.CreateOptions{})
		return err
	}
	on := func(node, iface string) map[string]any { return map[string]any{"node": node, "interfaceName": iface} }
	of := func(node string) map[string]any { return on(node, "none1") }

	for _, node := range []string{own, other} {
		eventually(t, "the Felix configuration of "+node, func(ctx context.Context) error {
			_, err := calico(t, "felixconfigurations").Get(ctx, "node."+node, metav1.GetOptions{})
			return err
		})
	}
	// The API server needs a moment to read a new policy.
	eventually(t, "the policy to be enforced", func(context.Context) error {
		if err := patch(endpoints, other, note); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			return errors.Join(errors.New("the endpoint of another node may be written"), err)
		}
		return nil
	})
	for what, refused := range map[string]struct {
		err   error
		words string
	}{
		"another node's endpoint":                             {patch(endpoints, other, note), endpointOnly},
		"an endpoint of another node":                         {create(endpoints, "HostEndpoint", other+"-none1", of(other)), endpointOnly},
		"an endpoint of another node by one's own name":       {create(endpoints, "HostEndpoint", own+"-none1", of(other)), endpointOnly},
		"an endpoint by another node's name":                  {create(endpoints, "HostEndpoint", other+"-none1", of(own)), nameOnly},
		"an endpoint by the name of a node that begins alike": {create(endpoints, "HostEndpoint", own+"-b", on(own, "*")), nameOnly},
		"the same for one of its interfaces":                  {create(endpoints, "HostEndpoint", own+"-b-none1", on(own, "b-none1")), nameOnly},
		"an endpoint by another interface's name":             {create(endpoints, "HostEndpoint", own+"-none2", of(own)), nameOnly},
		"the same as a name with a hash":                      {create(endpoints, "HostEndpoint", own+"-none-2"+hash, on(own, "none-1")), nameOnly},
		"the own endpoint given to another node":              {patch(endpoints, own, `{"spec":{"node":"`+other+`"}}`), endpointOnly},
		"another node's Felix configuration":                  {patch(felix, "node."+other, note), felixOnly},
		"another node's Felix configuration deleted":          {felix.Delete(t.Context(), "node."+other, metav1.DeleteOptions{}), felixOnly},
		"a Felix configuration of another node":               {create(felix, "FelixConfiguration", "node.elsewhere", map[string]any{}), felixOnly},
		"the Felix configuration of all nodes":                {create(felix, "FelixConfiguration", "default", map[string]any{}), felixOnly},
	} {
		assertRefused(t, refused.err, "the agent of node "+own, what)
		assert.ErrorContains(t, refused.err, refused.words, what)
	}

	require.NoError(t, patch(endpoints, own, note))
	require.NoError(t, patch(felix, "node."+own, note))
	// A configuration with something of others stays when the release goes.
	require.NoError(t, patch(felix, "node."+own, `{"metadata":{"annotations":{"note":null}}}`))
	for iface, suffix := range map[string]string{
		"none1": "-none1", "none1.100": "-none1.100", "none-1": "-none-1" + hash, "None_1": "-none-1" + hash, "..": hash,
	} {
		require.NoError(t, create(endpoints, "HostEndpoint", own+suffix, on(own, iface)), iface)
		require.NoError(t, endpoints.Delete(t.Context(), own+suffix, metav1.DeleteOptions{}), iface)
	}
	putEndpoint(t, other+"-none1", other, "none1", nil)
	assertRefused(t, endpoints.Delete(t.Context(), other+"-none1", metav1.DeleteOptions{}), endpointOnly, "another node's endpoint deleted")
	require.NoError(t, calico(t, "hostendpoints").Delete(t.Context(), other+"-none1", metav1.DeleteOptions{}), "the policy is for agents only")

	for _, resource := range []string{"globalnetworkpolicies", "globalnetworksets", "clusterinformations"} {
		_, err := agent(resource).List(t.Context(), metav1.ListOptions{})
		assert.True(t, apierrors.IsForbidden(err), "to list %s: %v", resource, err)
	}
	assertRefused(t, patch(endpoints, own, `{"metadata":{"labels":{"host-firewall.io/trust":"node"}}}`), "host-firewall.io/trust", "the own endpoint as one that is trusted")

	const bound = "has to be bound to a pod on a node"
	unbound := asAgent(t, nil)
	assertRefused(t, patch(unbound("hostendpoints"), own, note), bound, "a token that is bound to no node")
	// Who acts as the account, without its token, brings nothing else along.
	config, err := nodes.RESTConfig()
	require.NoError(t, err)
	config = rest.CopyConfig(config)
	config.Impersonate.UserName = "system:serviceaccount:" + namespace + ":" + name
	impersonated, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	assertRefused(t, patch(impersonated.Resource(nodes.CalicoGroup().WithResource("hostendpoints")), own, note), bound, "nothing is known of a token")
}

// Whoever takes over the controller could open every node, were it not for what its token may not do: with it no endpoint is written, no policy comes but
// witnesses, none but those of old sets goes, and nobody is trusted but as the address of a Node.
func TestControllersTokenOpensNoNode(t *testing.T) {
	install(t)
	set, node := setInForce(t), worker(t, 1)
	controller := asAccount(t, name+"-controller", nil)
	policies, sets, endpoints := controller("globalnetworkpolicies"), controller("globalnetworksets"), controller("hostendpoints")
	object := func(kind, name string, labels map[string]any, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": nodes.CalicoGroup().String(), "kind": kind, "metadata": map[string]any{"name": name, "labels": labels}, "spec": spec,
		}}
	}
	create := func(client dynamic.ResourceInterface, o *unstructured.Unstructured) error {
		_, err := client.Create(t.Context(), o, metav1.CreateOptions{})
		return err
	}
	patch := func(client dynamic.ResourceInterface, name, patch string) error {
		_, err := client.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	trusted := map[string]any{"host-firewall.io/release": name, "host-firewall.io/trust": "node"}
	strangers := map[string]any{"nets": []any{stranger(t).V4.String() + "/32"}}
	own, force := name+"-node-"+node, policyName("drop-other", set)
	for what, err := range map[string]error{
		"an endpoint that is made":    create(endpoints, object("HostEndpoint", node+"-none1", nil, map[string]any{"node": node, "interfaceName": "none1"})),
		"an endpoint that is changed": patch(endpoints, node, `{"metadata":{"labels":{"host-firewall.io/set":null}}}`),
		"an endpoint that is deleted": endpoints.Delete(t.Context(), node, metav1.DeleteOptions{}),
		"a policy that is changed":    patch(policies, force, `{"spec":{"ingress":[{"action":"Allow"}]}}`),
	} {
		assert.True(t, apierrors.IsForbidden(err), "%s: %v", what, err)
	}
	putForeign(t, "has(nothing)")
	const admission = name + "-controller"
	for what, err := range map[string]error{
		"a policy that allows":                      create(policies, object("GlobalNetworkPolicy", name+"-allow-more-"+set, nil, map[string]any{"selector": "all()", "types": []any{"Ingress"}})),
		"a policy in force that is deleted":         policies.Delete(t.Context(), force, metav1.DeleteOptions{}),
		"a policy of somebody else that is deleted": policies.Delete(t.Context(), foreign, metav1.DeleteOptions{}),
		"a network set by another name":             create(sets, object("GlobalNetworkSet", "strangers", trusted, strangers)),
		"a network set with more labels":            create(sets, object("GlobalNetworkSet", name+"-node-x", map[string]any{"host-firewall.io/release": name, "host-firewall.io/trust": "node", "partner": "yes"}, strangers)),
		"a network set without labels":              create(sets, object("GlobalNetworkSet", name+"-node-x", nil, strangers)),
		"a network set of everybody":                create(sets, object("GlobalNetworkSet", name+"-node-x", trusted, map[string]any{"nets": []any{"0.0.0.0/0"}})),
		"a network set that loses its labels":       patch(sets, own, `{"metadata":{"labels":{"host-firewall.io/release":null}}}`),
		"a network set that gets a network of many": patch(sets, own, `{"spec":{"nets":["203.0.113.0/24"]}}`),
	} {
		assertRefusedBy(t, admission, err, "controller", what)
	}
	require.NoError(t, patch(sets, own, `{"metadata":{"annotations":{"note":"mine"}}}`), "what it does itself")
	requireProtected(t, "after all of this")
}

// assertRefused holds that it was the admission policy for agents which refused a write.
func assertRefused(t *testing.T, err error, words, what string) {
	t.Helper()
	assertRefusedBy(t, name, err, words, what)
}

// assertRefusedBy holds that it was an admission policy which refused a write.
func assertRefusedBy(t *testing.T, admission string, err error, words, what string) {
	t.Helper()
	if assert.Error(t, err, what) {
		assert.ErrorContains(t, err, "ValidatingAdmissionPolicy '"+admission+"'", what)
		assert.ErrorContains(t, err, words, what)
	}
}

// podOn is the agent's pod on a node, as a token is bound to it.
func podOn(t *testing.T, node string) *authenticationv1.BoundObjectReference {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	pods, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(), LabelSelector: ofAgents,
	})
	require.NoError(t, err)
	require.Len(t, pods.Items, 1)
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pods.Items[0].Name, UID: pods.Items[0].UID}
}

// asAgent is Calico's API by a token of the agents' account, bound to a pod as a kubelet asks for it, or to nothing.
func asAgent(t *testing.T, pod *authenticationv1.BoundObjectReference) func(resource string) dynamic.ResourceInterface {
	t.Helper()
	return asAccount(t, name, pod)
}

// asAccount is the same by a token of any account of the release.
func asAccount(t *testing.T, account string, pod *authenticationv1.BoundObjectReference) func(resource string) dynamic.ResourceInterface {
	t.Helper()
	client, err := nodes.Client()
	require.NoError(t, err)
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: pod}}, metav1.CreateOptions{})
	require.NoError(t, err)
	config, err := nodes.RESTConfig()
	require.NoError(t, err)
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = token.Status.Token
	calico, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	return func(resource string) dynamic.ResourceInterface {
		return calico.Resource(nodes.CalicoGroup().WithResource(resource))
	}
}
