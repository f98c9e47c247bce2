package kind

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

// DefaultCalico is the release of Calico that a cluster gets when nothing is said.
const DefaultCalico = "v3.32.1"

var releaseName = regexp.MustCompile(`^v3\.[0-9]+\.[0-9]+$`)

// calicoManifest fetches the manifest of a release, empty for DefaultCalico, and makes it one for both address families.
func calicoManifest(ctx context.Context, version string) (string, error) {
	version = cmp.Or(version, DefaultCalico)
	if !releaseName.MatchString(version) {
		return "", fmt.Errorf("CALICO_VERSION is %q: name a release of Calico, such as %s", version, DefaultCalico)
	}
	url := "https://raw.githubusercontent.com/projectcalico/calico/" + version + "/manifests/calico.yaml"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("get Calico's manifest: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("get Calico's manifest: %w", err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("get Calico's manifest: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get Calico's manifest: %s answers %s", url, response.Status)
	}
	return dualStack(raw, version)
}

// The address manager of Calico's CNI plugin in the manifest's configuration, which is no JSON before it is filled in.
const (
	addressManager     = `"type": "calico-ipam"`
	dualAddressManager = addressManager + `, "assign_ipv4": "true", "assign_ipv6": "true"`
)

// dualStack is the manifest with addresses of both families for nodes and pods, and with IPv6 under Felix's control. An
// error: it isn't the manifest of this release, or not of the form that this is written for.
func dualStack(manifest []byte, version string) (string, error) {
	objects, err := cluster.DecodeObjects(manifest)
	if err != nil {
		return "", fmt.Errorf("read Calico's manifest: %w", err)
	}
	var out strings.Builder
	changed := map[string]bool{}
	for _, o := range objects {
		var err error
		switch o.GetKind() + "/" + o.GetName() {
		case "ConfigMap/calico-config":
			err = assignBoth(o)
		case "DaemonSet/calico-node":
			err = watchBoth(o, version)
		}
		if err != nil {
			return "", fmt.Errorf("change Calico's manifest: %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		changed[o.GetKind()] = true
		raw, err := yaml.Marshal(o.Object)
		if err != nil {
			return "", fmt.Errorf("write Calico's manifest: %w", err)
		}
		out.WriteString("---\n")
		out.Write(raw)
	}
	for _, kind := range []string{"ConfigMap", "DaemonSet", "CustomResourceDefinition"} {
		if !changed[kind] {
			return "", fmt.Errorf("read Calico's manifest: there is no %s in it", kind)
		}
	}
	return out.String(), nil
}

func assignBoth(config *unstructured.Unstructured) error {
	const key = "cni_network_config"
	text, _, err := unstructured.NestedString(config.Object, "data", key)
	if err != nil {
		return err
	}
	if strings.Count(text, addressManager) != 1 {
		return fmt.Errorf("%s has no %s, or more than one", key, addressManager)
	}
	return unstructured.SetNestedField(config.Object, strings.Replace(text, addressManager, dualAddressManager, 1), "data", key)
}

func watchBoth(daemonSet *unstructured.Unstructured, version string) error {
	path := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedSlice(daemonSet.Object, path...)
	if err != nil {
		return err
	}
	for _, c := range containers {
		node, ok := c.(map[string]any)
		if !ok || node["name"] != "calico-node" {
			continue
		}
		if image, _ := node["image"].(string); !strings.HasSuffix(image, ":"+version) {
			return fmt.Errorf("its image is %q, not of release %s", image, version)
		}
		env, _ := node["env"].([]any)
		for _, setting := range [][2]string{
			{"IP6", "autodetect"}, {"FELIX_IPV6SUPPORT", "true"},
			{"CALICO_IPV4POOL_CIDR", pods4}, {"CALICO_IPV6POOL_CIDR", pods6}, {"CALICO_IPV6POOL_NAT_OUTGOING", "true"},
		} {
			env = slices.DeleteFunc(env, func(e any) bool {
				m, ok := e.(map[string]any)
				return ok && m["name"] == setting[0]
			})
			env = append(env, map[string]any{"name": setting[0], "value": setting[1]})
		}
		node["env"] = env
		return unstructured.SetNestedSlice(daemonSet.Object, containers, path...)
	}
	return errors.New("there is no container calico-node")
}
