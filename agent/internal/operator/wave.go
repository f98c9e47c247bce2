package operator

import (
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// wave says which nodes wait until others are through with the move to the wanted set, and one
// of those others. It is what the update of a DaemonSet does for agents: a node that is not
// well with the set, or has left it again, keeps its place, and so stops the others. Nodes without any
// set have nothing to lose by coming together, as agents do that are all new.
func (o *Operator) wave(v *view) (ahead string, wait map[string]bool) {
	set := o.config.Keeper.Set
	if !v.said.ClearsAll(set) {
		return "", nil // it is one node's turn, or nobody's
	}
	var busy, behind []string
	for name, s := range v.nodes {
		switch {
		case s.place.busy:
			busy = append(busy, name)
		case s.place.behind:
			behind = append(behind, name)
		}
	}
	slices.Sort(busy)
	slices.Sort(behind)
	free := max(0, o.most(len(v.nodes))-len(busy))
	wait = map[string]bool{}
	for _, name := range behind {
		if free == 0 {
			wait[name] = true
		} else if hold, _ := v.said.Hold(name); hold == "" && isReady(v.nodes[name].node) {
			free--
			busy = append(busy, name)
		}
	}
	if len(wait) == 0 {
		return "", nil
	}
	return busy[0], wait
}

// place is where a node is on its way to the wanted set: busy with it, or behind, at another one.
type place struct{ busy, behind bool }

// placeOf reads it from an endpoint, which may be nil.
func (o *Operator) placeOf(hep *v3.HostEndpoint) place {
	if hep == nil {
		return place{}
	}
	set, carried := o.config.Keeper.Set, endpoint.SetOf(hep)
	last := trial.Parse(endpoint.AnnotationsOf(hep)[trial.Annotation])
	busy := last.Set == set && last.Phase != trial.Armed || carried == set && endpoint.LeavesOf(hep) != ""
	return place{busy, !busy && carried != "" && carried != set}
}

// most is how many of so many nodes may move at a time, one at least. What can't be read
// was refused when the program started.
func (o *Operator) most(nodes int) int {
	most, _ := intstr.GetScaledValueFromIntOrPercent(&o.config.MaxUnavailable, nodes, true)
	return max(1, most)
}

// isReady tells whether the Node is, says its kubelet.
func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(condition corev1.NodeCondition) bool {
		return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
	})
}
