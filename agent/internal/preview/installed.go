package preview

import (
	"context"
	"errors"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/peers"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/trust"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
	"github.com/host-firewall/host-firewall/agent/internal/witness"
	"github.com/host-firewall/host-firewall/agent/internal/workload"
)

// Cluster is what the package needs of the API server.
type Cluster interface {
	// Find finds out by which API group Calico is reached.
	Find(ctx context.Context) error
	// Read reads an object as JSON, and tells whether it is there.
	Read(ctx context.Context, kind, namespace, name string, into any) (found bool, err error)
	// List reads the selected objects of a kind, each as JSON, into a slice of pointers.
	List(ctx context.Context, kind, namespace string, selected metav1.ListOptions, into any) error
}

// list reads all objects of a kind.
func list[T any](ctx context.Context, cluster Cluster, kind string) (all []*T, err error) {
	err = cluster.List(ctx, kind, "", metav1.ListOptions{}, &all)
	return all, err
}

// installed reads what is installed, and Felix's configuration for all nodes, nil where there is none.
func installed(ctx context.Context, cluster Cluster, told settings.Settings) (s *Side, forAll *failsafe.Configuration, err error) {
	if told.Release == "" || told.Namespace == "" {
		return nil, nil, errors.New("what is installed is not known: write --release (the chart's full name) and --namespace, or name two files")
	}
	if err := cluster.Find(ctx); err != nil {
		return nil, nil, err
	}
	var agent object
	if _, err := workload.Read(ctx, cluster, told.Namespace, told.Release, &agent, workload.DaemonSet, workload.PodTemplate); err != nil {
		// Where no agents run the controller is told what they would be.
		if there, _ := cluster.Read(ctx, "Deployment", told.Namespace, told.Release+"-controller", &agent); !there {
			return nil, nil, err
		}
	}
	all, err := list[struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              map[string]any `json:"spec"`
	}](ctx, cluster, v3.KindGlobalNetworkPolicy)
	if err != nil {
		return nil, nil, err
	}
	var policies []Policy
	for _, p := range all {
		if labels := endpoint.LabelsOf(&p.ObjectMeta); labels[endpoint.ReleaseLabel] == told.Release && p.DeletionTimestamp == nil && labels[witness.Label] == "" {
			policies = append(policies, Policy{p.Name, labels[endpoint.SetLabel], p.Spec})
		}
	}
	if s, err = sideOf(settings.Installed, argumentsOf(agent), policies); err != nil {
		return nil, nil, err
	}
	felix, err := list[failsafe.Configuration](ctx, cluster, v3.KindFelixConfiguration)
	if at := slices.IndexFunc(felix, func(c *failsafe.Configuration) bool { return c.Name == failsafe.ForAll }); at >= 0 {
		forAll = felix[at]
	}
	return s, forAll, err
}

// connected are those who are connected to nodes, as their agents tell.
type connected struct {
	nodes, tell int // how many nodes have an endpoint, and how many agents tell
	elsewhere   int // how many of them are not, or not only, at the set of their agents
	peers       []peers.Cut
	world       verdict.World // by what they are trusted
}

// whoIsConnected reads who is connected to the nodes of a release, and by what they are trusted.
func whoIsConnected(ctx context.Context, cluster Cluster, of *Side) (c connected, err error) {
	endpoints, err := list[v3.HostEndpoint](ctx, cluster, v3.KindHostEndpoint)
	if err != nil {
		return c, err
	}
	nodes, tell, elsewhere := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, hep := range endpoints {
		if endpoint.ReleaseOf(hep) != of.Release {
			continue
		}
		nodes[hep.Spec.Node] = true
		if endpoint.SetOf(hep) != of.Set || endpoint.LeavesOf(hep) != "" {
			elsewhere[hep.Spec.Node] = true
		}
		summary := peers.Parse(endpoint.AnnotationsOf(hep)[peers.Annotation])
		if !summary.Since.IsZero() {
			tell[hep.Spec.Node] = true
		}
		for _, port := range summary.Ports {
			for _, peer := range port.From {
				c.peers = append(c.peers, peers.Cut{Node: hep.Spec.Node, Port: port.Port, From: peer.Addr, Connections: peer.Connections})
			}
		}
	}
	if c.nodes, c.tell, c.elsewhere = len(nodes), len(tell), len(elsewhere); len(c.peers) == 0 {
		return c, nil
	}
	return c, c.find(ctx, cluster, of.Release)
}

// find reads by what addresses are trusted.
func (c *connected) find(ctx context.Context, cluster Cluster, release string) error {
	var servers verdict.APIServers
	sets, err := list[v3.GlobalNetworkSet](ctx, cluster, v3.KindGlobalNetworkSet)
	pools, ofPools := list[v3.IPPool](ctx, cluster, v3.KindIPPool)
	nodes, ofNodes := list[struct {
		Spec struct {
			PodCIDRs []string `json:"podCIDRs"`
		} `json:"spec"`
	}](ctx, cluster, "Node")
	_, ofServers := cluster.Read(ctx, "EndpointSlice", "default", "kubernetes", &servers)
	if err = errors.Join(err, ofPools, ofNodes, ofServers); err != nil {
		return err
	}
	sets = slices.DeleteFunc(sets, func(set *v3.GlobalNetworkSet) bool { return endpoint.ReleaseOf(set) != release })
	var cidrs []string
	for _, n := range nodes {
		cidrs = append(cidrs, n.Spec.PodCIDRs...)
	}
	c.world = verdict.World{Nodes: trust.Nodes(sets), Pods: verdict.Pods(pools, cidrs), APIServers: servers.Addresses()}
	return nil
}

// inUse says at each change who would not be let in any more by it. An address may be trusted as several things.
func (r *Report) inUse(t *table, who connected) {
	for _, u := range who.peers {
		c, _ := connection(u.From, stranger, target{what{protocol: verdict.TCP, first: u.Port}, verdict.ToHost})
		if !r.Before.judge(c, who.world).Allowed || r.After.judge(c, who.world).Allowed {
			continue
		}
		for _, change := range r.Changes {
			if change.group.sign == closes && t.concerns(change, c, who.world) {
				change.InUse = append(change.InUse, u)
				break
			}
		}
	}
	for _, change := range r.Changes {
		slices.SortFunc(change.InUse, peers.Compare)
	}
	inOrder(r.Changes)
}
