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
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// Who connects: people outside, and, seen from a node, the node itself, another one, a pod on it or on another one.
const (
	Admin    = "admin"
	Stranger = "stranger"
	Itself   = "the node itself"
	Node     = "another node"
	PodNear  = "pod on the node"
	PodFar   = "pod elsewhere"
)

// Where to. With what belongs to nodes every node is meant, unless said otherwise.
const (
	SSH          = "SSH"
	Ordinary     = "ordinary port"
	OrdinaryUDP  = "ordinary UDP" // a question and an answer, as of DNS
	Failsafe     = "failsafe port"
	Loopback     = "over loopback"
	Kubelet      = "kubelet"
	APIServer    = "API server"    // on the node of the control plane
	NodePortNear = "NodePort near" // whose pod is on the node that is asked
	NodePortFar  = "NodePort far"  // whose pod is on another node
	NodePortUDP  = "NodePort UDP"
	Pods         = "pod"     // at its own address
	Service      = "Service" // at its ClusterIP
	Ping         = "ping"
	Outside      = "the outside" // seen from which every node is another one
)

// Rows are who connects, in the order of a table.
func Rows() []string { return []string{Admin, Stranger, Itself, Node, PodNear, PodFar} }

// Columns are where to, in the order of a table.
func Columns() []string {
	return []string{SSH, Ordinary, OrdinaryUDP, Failsafe, Loopback, Kubelet, APIServer, NodePortNear, NodePortFar, NodePortUDP, Pods, Service, Ping, Outside}
}

// outsider tells whether a row is about somebody who is no part of the cluster.
func outsider(row string) bool { return row == Admin || row == Stranger }

// Namespace is where the scene's pods are.
const Namespace = "scene"

const (
	web         = "web"
	backend     = "backend"
	webPort     = 8080
	kubeletPort = 10250
)

// Cluster is what a scene is set in.
type Cluster interface {
	Client() (kubernetes.Interface, error)
	// Members are the nodes and outsiders of the moment, in the order in which they came, and Nodes those that are nodes.
	Members() []cluster.Member
	Nodes() []cluster.Member
	Host(name string) (*host.Host, error)
	// Route gives the outsiders a way to a network behind a node.
	Route(to netip.Prefix, node string) error
}

// Scene is a cluster with pods in it, one on every worker and one behind a Service, to which the outsiders have routes, as they
// have where Calico tells its routes to others (BGP).
type Scene struct {
	cluster  Cluster
	client   kubernetes.Interface
	nodePort map[probe.Protocol]uint16
	hosts    map[string]place // nodes and outsiders by name
	pods     []place
	service  place // its addresses are the ClusterIPs, its node is that of its only pod
	// What a firewall trusts, and is not in the table.
	tunnels    map[string]cluster.Addresses // of nodes, by name
	apiServers []netip.Addr
}

// place is where connections come from and go to.
type place struct {
	probe.Source
	cluster.Addresses
	node string // that a pod is on, or that the place is
	app  string // of a pod
	role cluster.Role
}

// Set creates the pods and the Service, and waits until there is a pod on every worker.
func Set(ctx context.Context, c Cluster) (*Scene, error) {
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	s := &Scene{cluster: c, client: client, nodePort: map[probe.Protocol]uint16{}}
	for _, m := range c.Nodes() {
		if m.Role == cluster.Worker && s.service.node == "" {
			s.service.node = m.Name
		}
	}
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create namespace: %w", err)
	}
	if _, err := client.AppsV1().DaemonSets(Namespace).Create(ctx, webPods(), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create pods: %w", err)
	}
	if _, err := client.AppsV1().Deployments(Namespace).Create(ctx, backendPod(s.service.node), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create the Service's pod: %w", err)
	}
	service, err := client.CoreV1().Services(Namespace).Create(ctx, backendService(), metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create service: %w", err)
	}
	for _, port := range service.Spec.Ports {
		s.nodePort[probe.Protocol(port.Protocol)] = uint16(port.NodePort)
	}
	if s.service.Addresses, err = addresses(service.Spec.ClusterIPs); err != nil {
		return nil, fmt.Errorf("read addresses of the Service: %w", err)
	}
	return s, s.Refresh(ctx)
}

// addresses sorts a pair of addresses by family.
func addresses(texts []string) (a cluster.Addresses, err error) {
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return a, err
		}
		if addr.Is4() {
			a.V4 = addr
		} else {
			a.V6 = addr
		}
	}
	if !a.V4.IsValid() || !a.V6.IsValid() {
		return a, fmt.Errorf("one of each family is wanted, got %v", texts)
	}
	return a, nil
}

// Remove deletes what Set created and waits until it is gone.
func (s *Scene) Remove(ctx context.Context) error {
	if err := s.client.CoreV1().Namespaces().Delete(ctx, Namespace, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete namespace: %w", err)
	}
	return cluster.Poll(ctx, time.Minute, "namespace "+Namespace+" to be gone", func(ctx context.Context) error {
		if _, err := s.client.CoreV1().Namespaces().Get(ctx, Namespace, metav1.GetOptions{}); err == nil {
			return errors.New("it is still there")
		}
		return nil
	})
}

func webPods() *appsv1.DaemonSet {
	selector, template := pod(web)
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: web},
		Spec:       appsv1.DaemonSetSpec{Selector: selector, Template: template},
	}
}

// backendPod is the only pod behind the Service, so that each node is known to have it or not.
func backendPod(node string) *appsv1.Deployment {
	selector, template := pod(backend)
	template.Spec.NodeName = node
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: backend},
		Spec: appsv1.DeploymentSpec{
			Selector: selector, Template: template,
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
		},
	}
}

// pod is a pod that sends back what it gets, and what selects it.
func pod(app string) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	labels := map[string]string{"app": app}
	return &metav1.LabelSelector{MatchLabels: labels}, corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			DNSPolicy:                     corev1.DNSDefault,
			TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{
				Name: app, Image: cluster.WorkloadImage, ImagePullPolicy: corev1.PullNever,
				Args: []string{"listen", fmt.Sprintf(":%d", webPort)},
				// Without a share of its own it gets what others leave. The kernel takes TCP connections for it then, but nobody answers
				// datagrams.
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}},
				// kubelet makes this one over the pod network, where it has to go on working.
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(webPort)},
				}},
			}},
		},
	}
}

func backendService() *corev1.Service {
	both := corev1.IPFamilyPolicyRequireDualStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: backend},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, IPFamilyPolicy: &both, Selector: map[string]string{"app": backend},
			Ports: []corev1.ServicePort{
				{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: webPort},
				{Name: "udp", Protocol: corev1.ProtocolUDP, Port: webPort},
			},
		},
	}
}

// Refresh takes in the nodes and pods of the moment, and waits until all pods are there and ready.
func (s *Scene) Refresh(ctx context.Context) error {
	s.hosts = map[string]place{}
	for _, m := range s.cluster.Members() {
		h, err := s.cluster.Host(m.Name)
		if err != nil {
			return err
		}
		s.hosts[m.Name] = place{Source: probe.Source{Name: m.Name, NetNS: h.NetNS()}, Addresses: m.Addresses, node: m.Name, role: m.Role}
	}
	if err := cluster.Poll(ctx, time.Minute, "a ready pod on every worker, and one behind the Service", func(ctx context.Context) error {
		list, err := s.client.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{})
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
		if nodes := len(s.nodes()); len(s.pods) != nodes { // the Service's pod stands for the node of the control plane, which has none
			return fmt.Errorf("%d pods, wanted %d", len(s.pods), nodes)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := s.refreshWorld(ctx); err != nil {
		return err
	}
	for _, behind := range append(slices.Clone(s.pods), s.service) {
		for _, family := range Families() {
			address := behind.Of(family)
			if err := s.cluster.Route(netip.PrefixFrom(address, address.BitLen()), behind.node); err != nil {
				return err
			}
		}
	}
	return nil
}

// placeOf finds a pod's network; an error says what the pod still lacks.
func placeOf(p *corev1.Pod) (place, error) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
			return place{}, fmt.Errorf("pod %s is not ready: %s", p.Name, c.Message)
		}
	}
	if len(p.Status.ContainerStatuses) == 0 {
		return place{}, fmt.Errorf("pod %s has no container yet", p.Name)
	}
	pid, err := host.ProcessOf(p.Status.ContainerStatuses[0].ContainerID)
	if err != nil {
		return place{}, err
	}
	var ips []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	found := place{Source: probe.Source{Name: p.Name, NetNS: fmt.Sprintf("/proc/%d/ns/net", pid)}, node: p.Spec.NodeName, app: p.Labels["app"]}
	if found.Addresses, err = addresses(ips); err != nil {
		return place{}, fmt.Errorf("read addresses of pod %s: %w", p.Name, err)
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

// Pod is a pod of the scene, by its name, its network and its addresses.
type Pod struct {
	probe.Source
	cluster.Addresses
}

// PodOn is a pod on a worker.
func (s *Scene) PodOn(node string) Pod {
	for _, p := range s.pods {
		if p.node == node {
			return Pod{p.Source, p.Addresses}
		}
	}
	panic("no pod on " + node)
}

// Paths are all connections that a cell of the table stands for, one path for each host or pod of the row. None: the
// question makes no sense, as an outsider's loopback.
func (s *Scene) Paths(c Cell) []probe.Path {
	var paths []probe.Path
	for _, q := range s.questions(c) {
		if last := len(paths) - 1; last >= 0 && paths[last].From == q.from.Source {
			paths[last].To = append(paths[last].To, q.address())
		} else {
			paths = append(paths, probe.Path{From: q.from.Source, What: c.Column, To: []probe.Address{q.address()}})
		}
	}
	return paths
}

// questions are all connections that a cell stands for, those of one source behind each other.
func (s *Scene) questions(c Cell) (all []question) {
	for _, from := range s.sources(c.Row) {
		for _, to := range s.targets(c.Column) {
			if meant(c, from, to) {
				all = append(all, question{c, from, to})
			}
		}
	}
	return all
}

func (s *Scene) sources(row string) []place {
	switch row {
	case Admin:
		return []place{s.hosts[cluster.AdminHost]}
	case Stranger:
		return []place{s.hosts[cluster.StrangerHost]}
	case PodNear, PodFar:
		return s.pods
	}
	return s.nodes()
}

// target is something that can be asked.
type target struct {
	place
	protocol probe.Protocol
	port     uint16
}

// meant tells whether a cell is about this source and this target.
func meant(c Cell, from place, to target) bool {
	near := from.node == to.node
	switch {
	case c.Column == Loopback:
		return c.Row == Itself && near
	case c.Column == Pods && from.Name == to.Name:
		return false // what a pod sends to itself never leaves it
	case outsider(c.Row):
		return c.Column != Outside
	}
	return near == (c.Row == Itself || c.Row == PodNear)
}

// targets are everything that a column is about.
func (s *Scene) targets(column string) []target {
	at := func(places []place, protocol probe.Protocol, ports ...uint16) (to []target) {
		for _, p := range places {
			for _, port := range ports {
				to = append(to, target{p, protocol, port})
			}
		}
		return to
	}
	nodes := s.nodes()
	ofNodes := func(wanted func(place) bool) []place {
		return slices.DeleteFunc(slices.Clone(nodes), func(p place) bool { return !wanted(p) })
	}
	switch column {
	case SSH:
		return at(nodes, probe.TCP, cluster.SSHPort)
	case Ordinary:
		return at(nodes, probe.TCP, cluster.OrdinaryPort)
	case OrdinaryUDP:
		return at(nodes, probe.UDP, cluster.OrdinaryPort)
	case Failsafe:
		return append(at(nodes, probe.TCP, cluster.FailsafePort), at(nodes, probe.UDP, cluster.FailsafeUDPPort)...)
	case Loopback:
		var own []place
		for _, n := range nodes {
			n.Addresses = cluster.Addresses{V4: netip.AddrFrom4([4]byte{127, 0, 0, 1}), V6: netip.IPv6Loopback()}
			own = append(own, n)
		}
		return append(at(own, probe.TCP, cluster.SSHPort, cluster.OrdinaryPort), at(own, probe.UDP, cluster.OrdinaryPort)...)
	case Kubelet:
		return at(nodes, probe.TCP, kubeletPort)
	case APIServer:
		return at(ofNodes(func(p place) bool { return p.role == cluster.ControlPlane }), probe.TCP, cluster.APIPort)
	case NodePortNear:
		return at(ofNodes(func(p place) bool { return p.node == s.service.node }), probe.TCP, s.nodePort[probe.TCP])
	case NodePortFar:
		return at(ofNodes(func(p place) bool { return p.node != s.service.node }), probe.TCP, s.nodePort[probe.TCP])
	case NodePortUDP:
		return at(nodes, probe.UDP, s.nodePort[probe.UDP])
	case Pods:
		return at(s.pods, probe.TCP, webPort)
	case Service:
		return at([]place{s.service}, probe.TCP, webPort)
	case Ping:
		return at(nodes, probe.Ping, 0)
	case Outside:
		stranger := []place{s.hosts[cluster.StrangerHost]}
		return append(at(stranger, probe.TCP, cluster.OutsidePort), at(stranger, probe.UDP, cluster.OutsidePort)...)
	}
	panic("no such column: " + column)
}
