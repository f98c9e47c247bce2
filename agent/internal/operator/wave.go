package operator

import (
	"maps"
	"slices"

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
	var busy, next []string
	for _, name := range slices.Sorted(maps.Keys(v.nodes)) {
		s := v.nodes[name]
		if s.endpoint == nil {
			continue
		}
		hold, _ := v.said.Hold(name)
		last := trial.Parse(endpoint.AnnotationsOf(s.endpoint)[trial.Annotation])
		switch carried := endpoint.SetOf(s.endpoint); {
		case last.Set == set && last.Phase != trial.Armed, carried == set && endpoint.LeavesOf(s.endpoint) != "":
			busy = append(busy, name)
		case carried != "" && carried != set && isReady(s.node) && hold == "":
			next = append(next, name)
		}
	}
	free := max(0, o.most(len(v.nodes))-len(busy))
	if len(next) <= free {
		return "", nil
	}
	wait = map[string]bool{}
	for _, name := range next[free:] {
		wait[name] = true
	}
	return slices.Concat(busy, next)[0], wait
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
