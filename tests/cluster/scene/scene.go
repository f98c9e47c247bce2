// Package scene puts something to connect to into a test cluster, and knows who can be asked to connect: the people,
// nodes, pods and ports between which a firewall decides.
package scene

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// Who connects.
const (
	Admin    = "admin"
	Stranger = "stranger"
	Node     = "another node"
	Pod      = "a pod"
	Itself   = "the node itself"
)

// Where to. A node's addresses stand for it; with SSH, Ordinary, NodePort and Kubelet every node is meant.
const (
	SSH       = "SSH"
	Ordinary  = "ordinary port"
	NodePort  = "NodePort"
	Kubelet   = "kubelet"
	APIServer = "API server"
	Pods      = "pods"
	Loopback  = "loopback"
	Outside   = "the outside"
)

// Rows are who connects, in the order of a table.
func Rows() []string { return []string{Admin, Stranger, Node, Pod, Itself} }

// Columns are where to, in the order of a table.
func Columns() []string {
	return []string{SSH, Ordinary, NodePort, Kubelet, APIServer, Pods, Loopback, Outside}
}

const (
	namespace     = "scene"
	web           = "web"
	webPort       = 8080
	kubeletPort   = 10250
	kubeletHealth = 10248 // on loopback only
)

// Cluster is what a scene is set in.
type Cluster interface {
	Client() (kubernetes.Interface, error)
	// Members are the nodes and outsiders of the moment, in the order in which they came, and Nodes those that are nodes.
	Members() []cluster.Member
	Nodes() []cluster.Member
	Host(name string) (*host.Host, error)
}

// Scene is a cluster with pods and a Service in it.
type Scene struct {
	cluster  Cluster
	client   kubernetes.Interface
	nodePort uint16
	hosts    map[string]place // nodes and outsiders by name
	pods     []place
}

// place is where connections come from and go to.
type place struct {
	probe.Source
	cluster.Addresses
	node string // that a pod is on, or that the place is
	role cluster.Role
}

// Set creates the pods and the Service, and waits until there is a pod on every worker.
func Set(ctx context.Context, c Cluster) (*Scene, error) {
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	s := &Scene{cluster: c, client: client}
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create namespace: %w", err)
	}
	if _, err := client.AppsV1().DaemonSets(namespace).Create(ctx, webPods(), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create pods: %w", err)
	}
	service, err := client.CoreV1().Services(namespace).Create(ctx, webService(), metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create service: %w", err)
	}
	s.nodePort = uint16(service.Spec.Ports[0].NodePort)
	return s, s.Refresh(ctx)
}

// Remove deletes what Set created and waits until it is gone.
func (s *Scene) Remove(ctx context.Context) error {
	if err := s.client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete namespace: %w", err)
	}
	return cluster.Poll(ctx, time.Minute, "namespace "+namespace+" to be gone", func(ctx context.Context) error {
		if _, err := s.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err == nil {
			return errors.New("it is still there")
		}
		return nil
	})
}

func webLabels() map[string]string { return map[string]string{"app": web} }

func webPods() *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: web},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: webLabels()},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: webLabels()},
				Spec: corev1.PodSpec{
					DNSPolicy:                     corev1.DNSDefault,
					TerminationGracePeriodSeconds: new(int64),
					Containers: []corev1.Container{{
						Name: web, Image: cluster.WorkloadImage, ImagePullPolicy: corev1.PullNever,
						Args: []string{"listen", fmt.Sprintf(":%d", webPort)},
						// kubelet makes this one over the pod network, where it has to go on working.
						ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
							TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(webPort)},
						}},
					}},
				},
			},
		},
	}
}

func webService() *corev1.Service {
	both := corev1.IPFamilyPolicyRequireDualStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: web},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, IPFamilyPolicy: &both, Selector: webLabels(),
			Ports: []corev1.ServicePort{{Port: webPort}},
		},
	}
}

// Refresh takes in the nodes and pods of the moment, and waits until there is a ready pod on every worker.
func (s *Scene) Refresh(ctx context.Context) error {
	s.hosts = map[string]place{}
	for _, m := range s.cluster.Members() {
		h, err := s.cluster.Host(m.Name)
		if err != nil {
			return err
		}
		s.hosts[m.Name] = place{Source: probe.Source{Name: m.Name, NetNS: h.NetNS()}, Addresses: m.Addresses, node: m.Name, role: m.Role}
	}
	return cluster.Poll(ctx, time.Minute, "a ready pod on every worker", func(ctx context.Context) error {
		list, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		s.pods = nil
		for _, p := range list.Items {
			found, err := placeOf(&p)
			if err != nil {
				return err
			}
			s.pods = append(s.pods, found)
		}
		if workers := len(s.nodes()) - 1; len(s.pods) != workers {
			return fmt.Errorf("%d pods for %d workers", len(s.pods), workers)
		}
		return nil
	})
}

// placeOf finds a pod's network; an error says what the pod still lacks.
func placeOf(p *corev1.Pod) (place, error) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
			return place{}, fmt.Errorf("pod %s is not ready: %s", p.Name, c.Message)
		}
	}
	if len(p.Status.ContainerStatuses) == 0 || len(p.Status.PodIPs) < 2 {
		return place{}, fmt.Errorf("pod %s has no container or no addresses yet", p.Name)
	}
	pid, err := host.ProcessOf(p.Status.ContainerStatuses[0].ContainerID)
	if err != nil {
		return place{}, err
	}
	found := place{Source: probe.Source{Name: p.Name, NetNS: fmt.Sprintf("/proc/%d/ns/net", pid)}, node: p.Spec.NodeName}
	for _, ip := range p.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return place{}, fmt.Errorf("read address of pod %s: %w", p.Name, err)
		}
		if addr.Is4() {
			found.V4 = addr
		} else {
			found.V6 = addr
		}
	}
	return found, nil
}

func (s *Scene) nodes() []place {
	var nodes []place
	for _, m := range s.cluster.Nodes() {
		if p, ok := s.hosts[m.Name]; ok {
			nodes = append(nodes, p)
		}
	}
	return nodes
}

func (s *Scene) controlPlane() []place {
	return slices.DeleteFunc(s.nodes(), func(p place) bool { return p.role != cluster.ControlPlane })
}

// Paths are all connections that a cell of the table stands for, one path for each host or pod of the row. None: the
// question makes no sense, as an outsider's loopback.
func (s *Scene) Paths(row, column string, family int) []probe.Path {
	var paths []probe.Path
	for _, from := range s.sources(row) {
		if to := s.targets(row, column, from, family); len(to) > 0 {
			paths = append(paths, probe.Path{From: from.Source, What: column, To: to})
		}
	}
	return paths
}

func (s *Scene) sources(row string) []place {
	switch row {
	case Admin:
		return []place{s.hosts[cluster.AdminHost]}
	case Stranger:
		return []place{s.hosts[cluster.StrangerHost]}
	case Pod:
		return s.pods
	}
	return s.nodes()
}

func (s *Scene) targets(row, column string, from place, family int) []netip.AddrPort {
	outsider := row == Admin || row == Stranger
	at := func(places []place, ports ...uint16) (to []netip.AddrPort) {
		for _, p := range places {
			for _, port := range ports {
				to = append(to, netip.AddrPortFrom(p.Of(family), port))
			}
		}
		return to
	}
	var meant []place // the nodes that are meant
	for _, n := range s.nodes() {
		switch self := n.node == from.node; {
		case row == Node && self, row == Itself && !self:
		default:
			meant = append(meant, n)
		}
	}
	switch column {
	case SSH:
		return at(meant, cluster.SSHPort)
	case Ordinary:
		return at(meant, cluster.OrdinaryPort)
	case NodePort:
		return at(meant, s.nodePort)
	case Kubelet:
		return at(meant, kubeletPort)
	case APIServer:
		if row == Itself && from.role != cluster.ControlPlane || row == Node && from.role == cluster.ControlPlane {
			return nil
		}
		return at(s.controlPlane(), cluster.APIPort)
	case Pods:
		if outsider || row == Itself {
			return nil // outsiders have no route to pods
		}
		return at(s.pods, webPort)
	case Loopback:
		if row != Itself {
			return nil
		}
		if family == 6 {
			return []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Loopback(), cluster.SSHPort), netip.AddrPortFrom(netip.IPv6Loopback(), cluster.OrdinaryPort)}
		}
		v4 := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		return []netip.AddrPort{netip.AddrPortFrom(v4, cluster.SSHPort), netip.AddrPortFrom(v4, cluster.OrdinaryPort), netip.AddrPortFrom(v4, kubeletHealth)}
	case Outside:
		if outsider || row == Node {
			return nil // the node itself is asked
		}
		return at([]place{s.hosts[cluster.StrangerHost]}, cluster.OutsidePort)
	}
	panic("no such column: " + column)
}
