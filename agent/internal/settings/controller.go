package settings

// Controller is the controller of a release.
func Controller() Command {
	return Command{
		about: `PROGRAM controller looks at the whole cluster for the agents of a release, until SIGTERM: it keeps the addresses
of all nodes trusted, and says in the ConfigMap of the release which set of policies may be armed, on which nodes, or why not.
It writes no endpoint, and of policies only witnesses, by which nodes see that a set is enforced; it deletes sets of policies that
nobody uses any more.

Usage:
  PROGRAM controller [--name=value ...]`,
		groups: []group{
			{"What to look after", []string{"release", "namespace", "mode", "set", "rollout", "policies"}},
			{"Who is trusted", []string{"trust-nodes", "cluster-cidrs"}},
			{"How nodes move", []string{"verify", "confirm"}},
			{"What holds nodes back", []string{"api-server-ports", "accept-policies"}},
			{"The agents' endpoints", []string{"interfaces", "node-labels", "adopt", "endpoint-labels"}},
			{apiServer, []string{"api-group", "kubeconfig"}},
			{"The controller itself", []string{"health-port", "metrics-address", "resync", "log-level", "log-format"}},
		},
		// An agent may be on the same node.
		healthPort: "9095",
	}
}
