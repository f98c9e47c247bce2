package settings

// Command is one of the things that the program does, and what it has to be told.
type Command struct {
	about  string // what it does, for its help
	groups []group
	// healthPort and logLevel are what differs in options that several have; an empty level is info.
	healthPort, logLevel string
	// operands are options that may be given without their names, spared those that need not be given.
	operands, spared []string
	// wide tells that it has a table of which it prints whole lines, if told so.
	wide bool
}

// group is a part of the help text: the names of options, in their order.
type group struct {
	title string
	names []string
}

const (
	apiServer = "The API server"
	itself    = "The command itself"
)

// Agent is the agent of a node.
func Agent() Command {
	return Command{
		about: `PROGRAM keeps the Calico HostEndpoints of one node and arms them when the controller of its release gives clearance.

Usage:
  PROGRAM [--name=value ...]   keep the endpoints, until SIGTERM
  PROGRAM controller           say which nodes may be armed, until SIGTERM; see PROGRAM controller --help
  PROGRAM cleanup              remove what the agents of a release have made; see PROGRAM cleanup --help
  PROGRAM status               say how a release is; see PROGRAM status --help
  PROGRAM preview              say what an upgrade would change; see PROGRAM preview --help
  PROGRAM manifest             print the manifest of a static pod; see PROGRAM manifest --help
  PROGRAM version              print the version
  PROGRAM --help               print this text`,
		groups: []group{
			{"What to look after", []string{"node-name", "release", "namespace", "mode", "api-group"}},
			{"The endpoints", []string{"interfaces", "node-labels", "adopt", "endpoint-labels"}},
			{"When to arm", []string{"set", "rollout", "verify", "watch-peers"}},
			{"SSH", []string{"ssh-cidrs", "ssh-ports", "narrow-failsafe"}},
			{apiServer, []string{"kubeconfig"}},
			{"The agent itself", []string{"health-port", "metrics-address", "resync", "log-level", "log-format"}},
		},
		healthPort: "9097",
	}
}

// Cleanup is the command that takes a release away.
func Cleanup() Command {
	return Command{
		about: `PROGRAM cleanup takes a firewall away: it closes the release's clearance, so that agents open their nodes and write
nothing any more, stops controller and agents, then removes what is left of the release's HostEndpoints, of what was written into
FelixConfigurations, of its GlobalNetworkPolicies and GlobalNetworkSets. It can be run again at any time. It touches nothing, and ends
with 2, where neither Helm nor Argo CD has installed the release: others run hooks as they apply them.

Usage:
  PROGRAM cleanup [--name=value ...]`,
		groups: []group{
			{"What to remove", []string{"release", "namespace", "daemonset", "deployment", "account", "test-pod"}},
			{apiServer, []string{"api-group", "kubeconfig"}},
			{itself, []string{"timeout", "log-level", "log-format"}},
		},
	}
}

// Status is the command that says how a release is.
func Status() Command {
	return Command{
		about: `PROGRAM status says how a release is: the state of each node, what is not as the values ask for, and what it waits for. All is
well when every node with an agent is armed with the set (in mode off none is), every policy of the set is there and unchanged, the controller
is ready and its clearance objects to nothing. It changes nothing, and ends with 1 if not all is well: also while a rollout is on its
way, which says so in its first line; --wait=5m waits for the end of it.

Usage:
  PROGRAM status [--name=value ...]
  kubectl -n NAMESPACE exec deploy/RELEASE-controller -- /PROGRAM status   has all settings from its environment`,
		groups: []group{
			{"What to look at", []string{"release", "namespace", "mode", "set", "policies", "agents", "nodes"}},
			{apiServer, []string{"api-group", "kubeconfig"}},
			{itself, []string{"output", "wait", "log-level", "log-format"}},
		},
		logLevel: "warn",
		wide:     true,
	}
}
