package status

import v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

// This file judges agents that are static pods: which nodes are to have one nobody says, and
// nobody but a person replaces them.

// oldPod is what is wrong with a static pod of another release.
const oldPod = "its agent is not the present one: write there what the command manifest prints now"

// judgeStaticPods judges how many there are.
func (r *report) judgeStaticPods(agents int) {
	if agents == 0 {
		r.problem("no node has an agent: write on each of them what the command manifest prints")
	}
}

// missing says what is wrong with a node that has no agent; empty: nothing, as far as one can
// tell. A static pod has been on each node that has an endpoint.
func (r *report) missing(n node, endpoints []*v3.HostEndpoint) string {
	if !r.static || len(endpoints) == 0 {
		return ""
	}
	return n.Reason
}
