package settings

import (
	"fmt"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// This file is what only the controller asks for.

// What the controller does about a node where somebody who is connected would be cut off.
const (
	// ReportCuts says who that is.
	ReportCuts = "report"
	// WaitForCuts holds the node back as well.
	WaitForCuts = "wait"
)

// Agentless says which Nodes the controller keeps where no Agents run, and how it moves them.
type Agentless struct {
	Agents         bool
	Nodes          labels.Selector
	MaxUnavailable intstr.IntOrString
}

// Controller is the controller of a release.
func Controller() Command {
	return Command{
		about: `PROGRAM controller looks at the whole cluster for the agents of a release, until SIGTERM: it keeps the addresses
of all nodes trusted, and says in the ConfigMap of the release which set of policies may be armed, on which nodes, or why not.
Of policies it writes only witnesses, by which nodes see that a set is enforced; it deletes sets of policies that nobody uses any more.
It writes no endpoint, unless no agents run: then it keeps those of all nodes itself.

Usage:
  PROGRAM controller [--name=value ...]`,
		groups: []group{
			{"What to look after", []string{"release", "namespace", "mode", "set", "rollout", "policies"}},
			{"Who is trusted", []string{"trust-nodes", "cluster-cidrs"}},
			{"How nodes move", []string{"verify", "confirm", "own-node"}},
			{"Where no agents run", []string{"agents", "nodes", "max-unavailable"}},
			{"What holds nodes back", []string{"api-server-ports", "accept-policies", "on-would-cut"}},
			{"Who would be cut", []string{"accept-cuts-ports", "accept-cuts-cidrs", "ssh-cidrs", "ssh-ports", "narrow-failsafe"}},
			{"The agents' endpoints", []string{"interfaces", "node-labels", "adopt", "endpoint-labels"}},
			{apiServer, []string{"api-group", "kubeconfig"}},
			{"The controller itself", []string{"health-port", "metrics-address", "resync", "log-level", "log-format"}},
		},
		// An agent may be on the same node.
		healthPort: "9095",
	}
}

// clearing says when nodes are cleared, and of what.
func (c Command) clearing(s *Settings) []option {
	return []option{
		{"confirm", "", "time in which a person has to confirm a set, or all nodes leave it again; empty: nobody has to",
			into(&s.Confirm, optional(readTime("15m")))},
		{"own-node", "", "name of the Node of this controller (downward API: spec.nodeName), which cannot try that one from outside; empty: not known",
			into(&s.OwnNode, optional(valid("the name of a Node", validation.IsDNS1123Subdomain)))},
		{"agents", "true", "whether agents run; without them the controller keeps the endpoints of all nodes itself",
			into(&s.Agents, readBool)},
		{"nodes", "", "labels of the Nodes that are kept without agents, as kubectl get --selector takes them; empty: all",
			into(&s.Nodes, readSelector)},
		{"max-unavailable", "1", "how many nodes may move from one set to another at a time, without agents: a number, or a part (25%)",
			into(&s.MaxUnavailable, readShare)},
		{"trust-nodes", "true", "let every node in to every other one, by one network set for each",
			into(&s.TrustNodes, readBool)},
		{"cluster-cidrs", "", "networks that the policies let in anyway, comma separated; without --trust-nodes they have to hold all nodes",
			into(&s.ClusterCIDRs, list(readCIDR))},
		{"api-server-ports", "", "TCP ports open to everybody; an API server of the node has to be on one, or on a failsafe port; empty: anywhere",
			into(&s.APIServerPorts, optional(readPorts))},
		{"accept-policies", "", "GlobalNetworkPolicies of others that may apply to the node, comma separated; * accepts all",
			into(&s.AcceptPolicies, names("policy", checkAccepted))},
		{"on-would-cut", ReportCuts, "report says who is connected to a node and would be cut off by the set; wait holds that node back as well, and each for a minute",
			into(&s.OnWouldCut, oneOf(ReportCuts, WaitForCuts))},
		{"accept-cuts-ports", "", "TCP ports, or ranges (9000:9100), comma separated, of which nobody has to be told who would be cut off",
			into(&s.AcceptCutsPorts, optional(readPorts))},
		{"accept-cuts-cidrs", "", "networks, comma separated, of which the same is so",
			into(&s.AcceptCutsCIDRs, list(readCIDR))},
	}
}

func checkAccepted(name string) []string {
	if name == "*" {
		return nil
	}
	return validation.IsDNS1123Subdomain(name)
}

func readSelector(text string) (labels.Selector, error) {
	selector, err := labels.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%q selects no labels: write for example kubernetes.io/os=linux: %w", text, err)
	}
	return selector, nil
}

// readShare reads a number, or a part of all in percent.
func readShare(text string) (intstr.IntOrString, error) {
	share := intstr.Parse(text)
	if most, err := intstr.GetScaledValueFromIntOrPercent(&share, 100, true); err != nil || most < 1 {
		return share, fmt.Errorf("%q is neither a number nor a part of all: write for example 1 or 25%%", text)
	}
	return share, nil
}
