package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/host-firewall/host-firewall/tests/cluster/binaries"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/pki"
)

var (
	calicoV3    = schema.GroupVersion{Group: "projectcalico.org", Version: "v3"}
	apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
)

// How the API server finds Calico's: by a Service without pods.
const (
	calicoAPIName      = "calico-api"
	calicoAPINamespace = metav1.NamespaceSystem
	calicoAPIPort      = 5443
)

// calicoAPIService is the name of the APIService: the version before the group.
func calicoAPIService() string { return calicoV3.Version + "." + calicoV3.Group }

// CalicoGroup is the API group by which Calico is to be reached: projectcalico.org/v3 where the cluster has Calico's own API
// server, else that of Calico's custom resources.
func (c *Cluster) CalicoGroup() schema.GroupVersion {
	if c.record.CalicoAPI {
		return calicoV3
	}
	return c.StorageGroup()
}

// StorageGroup is the API group of the custom resources in which Calico keeps what it knows: that of definitions of its newer kind, which
// need no API server of Calico's, where the cluster has them.
func (c *Cluster) StorageGroup() schema.GroupVersion {
	return c.record.Storage
}

// AddCalicoAPI starts Calico's aggregated API server and returns when projectcalico.org/v3 is served. The program is
// built first where it is missing. Where it is running already nothing is done.
func (c *Cluster) AddCalicoAPI(ctx context.Context, root string) error {
	if c.record.CalicoAPI {
		return nil
	}
	programs, err := binaries.Ensure(ctx, modules(root), c.out, binaries.CalicoAPIServer)
	if err != nil {
		return err
	}
	c.record.Binaries[binaries.CalicoAPIServer] = programs[binaries.CalicoAPIServer]
	ca, err := pki.Open(c.layout.pki())
	if err != nil {
		return err
	}
	service := calicoAPIName + "." + calicoAPINamespace + ".svc"
	if err := ca.Issue(calicoAPIName, pki.Identity{User: calicoAPIName, Names: []string{service}}); err != nil {
		return err
	}
	if err := c.StartCalicoAPI(ctx); err != nil {
		return err
	}
	if err := c.registerCalicoAPI(ctx, ca); err != nil {
		return err
	}
	if err := c.waitCalicoAPI(ctx, true); err != nil {
		return err
	}
	c.record.CalicoAPI = true
	return c.layout.write(c.record)
}

// RemoveCalicoAPI takes Calico's aggregated API server out of the cluster and returns when projectcalico.org/v3 is not
// known any more. What was written by it stays, as objects of crd.projectcalico.org/v1.
func (c *Cluster) RemoveCalicoAPI(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	objects, err := c.Dynamic()
	if err != nil {
		return err
	}
	// The registration goes first: as long as it is there, the server is missed.
	for _, err := range []error{
		objects.Resource(apiServices).Delete(ctx, calicoAPIService(), metav1.DeleteOptions{}),
		client.CoreV1().Services(calicoAPINamespace).Delete(ctx, calicoAPIName, metav1.DeleteOptions{}),
		client.DiscoveryV1().EndpointSlices(calicoAPINamespace).Delete(ctx, calicoAPIName, metav1.DeleteOptions{}),
	} {
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove Calico's API server: %w", err)
		}
	}
	if err := c.waitCalicoAPI(ctx, false); err != nil {
		return err
	}
	if err := c.StopCalicoAPI(ctx); err != nil {
		return err
	}
	c.record.CalicoAPI = false
	return c.layout.write(c.record)
}

// StartCalicoAPI starts the server that AddCalicoAPI has added and StopCalicoAPI has stopped. It doesn't wait.
func (c *Cluster) StartCalicoAPI(ctx context.Context) error {
	h, err := c.Host(ControlPlaneNode)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.layout.logs(h.Name), binaries.CalicoAPIServer+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start Calico's API server: %w", err)
	}
	defer log.Close()
	pki := func(name string) string { return filepath.Join(c.layout.pki(), name) }
	kubeconfig := pki("calico.kubeconfig")
	// It is no component of the host, for those are there from the host's start to its end.
	cmd := h.Command(context.WithoutCancel(ctx), c.record.Binaries[binaries.CalicoAPIServer],
		fmt.Sprintf("--secure-port=%d", calicoAPIPort),
		"--tls-cert-file="+pki(calicoAPIName+".crt"), "--tls-private-key-file="+pki(calicoAPIName+".key"),
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
	)
	cmd.Env = host.Environment("DATASTORE_TYPE=kubernetes", "KUBECONFIG="+kubeconfig, "LOG_LEVEL=info")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start Calico's API server: %w", err)
	}
	go func() { _ = cmd.Wait() }() // no zombie, should this program outlive it
	return nil
}

// StopCalicoAPI ends the server as a machine that fails would, and leaves everything else as it is: the API server still
// tells everybody that projectcalico.org/v3 is there, and fails whoever asks for it.
func (c *Cluster) StopCalicoAPI(ctx context.Context) error {
	h, err := c.Host(ControlPlaneNode)
	if err != nil {
		return err
	}
	return Poll(ctx, 30*time.Second, "Calico's API server to end", func(context.Context) error {
		pids, err := h.Processes(c.record.Binaries[binaries.CalicoAPIServer])
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		return errors.New("it has been told to")
	})
}

// registerCalicoAPI tells the API server where Calico's is, and whose certificate to expect of it.
func (c *Cluster) registerCalicoAPI(ctx context.Context, ca *pki.Authority) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	objects, err := c.Dynamic()
	if err != nil {
		return err
	}
	bundle, err := os.ReadFile(ca.Path("ca.crt"))
	if err != nil {
		return fmt.Errorf("read certificate authority: %w", err)
	}
	at, err := c.Member(ControlPlaneNode)
	if err != nil {
		return err
	}
	meta := metav1.ObjectMeta{Name: calicoAPIName}
	if _, err := client.CoreV1().Services(calicoAPINamespace).Create(ctx, &corev1.Service{
		ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443}}},
	}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create service: %w", err)
	}
	meta.Labels = map[string]string{discoveryv1.LabelServiceName: calicoAPIName}
	port, name := int32(calicoAPIPort), "https"
	if _, err := client.DiscoveryV1().EndpointSlices(calicoAPINamespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{at.Addresses.V4.String()}}},
		Ports:     []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create endpoint slice: %w", err)
	}
	return create(ctx, objects.Resource(apiServices), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiServices.GroupVersion().String(), "kind": "APIService",
		"metadata": map[string]any{"name": calicoAPIService()},
		"spec": map[string]any{
			"group": calicoV3.Group, "version": calicoV3.Version, "groupPriorityMinimum": int64(1500), "versionPriority": int64(200),
			"caBundle": base64.StdEncoding.EncodeToString(bundle),
			"service":  map[string]any{"name": calicoAPIName, "namespace": calicoAPINamespace, "port": int64(443)},
		},
	}})
}

// waitCalicoAPI waits until clients find Calico's API where they look for it: in the list of all that is served.
func (c *Cluster) waitCalicoAPI(ctx context.Context, wanted bool) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	what := calicoV3.String() + " to be served"
	if !wanted {
		what = calicoV3.String() + " to be gone"
	}
	return Poll(ctx, time.Minute, what, func(ctx context.Context) error {
		_, lists, err := client.Discovery().ServerGroupsAndResources()
		if err != nil {
			return err
		}
		served := slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool {
			return l.GroupVersion == calicoV3.String() && len(l.APIResources) > 0
		})
		if served != wanted {
			return fmt.Errorf("is it served? %t", served)
		}
		if wanted {
			// That it is listed does not mean yet that requests are passed on to it.
			return client.Discovery().RESTClient().Get().AbsPath("/apis", calicoV3.String(), "hostendpoints").Do(ctx).Error()
		}
		return nil
	})
}
