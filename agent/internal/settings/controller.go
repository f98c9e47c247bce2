package settings

import "slices"

// ParseController reads the settings of the command controller as Parse reads the
// agent's.
func ParseController(args []string, lookup func(string) (string, bool)) (Settings, error) {
	var s Settings
	told, err := read(controllerOptions(), &s, args, lookup)
	if err != nil {
		return Settings{}, err
	}
	s.told = told
	return s, nil
}

// controllerOptions are all settings of the command controller, in the order of the help
// text.
func controllerOptions() []option {
	running := shared("The controller itself", "health-port", "metrics-address", "resync", "log-level", "log-format")
	// An agent may be on the same node.
	running[0].preset = "9095"
	return slices.Concat(
		shared("What to look after", "release", "namespace", "mode", "set", "policies"),
		shared("Who is trusted", "trust-nodes", "cluster-cidrs"),
		shared("What holds nodes back", "api-server-ports", "accept-policies"),
		shared("The agents' endpoints", "interfaces", "node-labels", "adopt", "endpoint-labels"),
		shared(apiServer, "api-group", "kubeconfig"),
		running,
	)
}

// ControllerHelp returns the text for a person who asks for help with the command
// controller.
func ControllerHelp(program string) string {
	return help(program, "controller", `looks at the whole cluster for the agents of a release, until SIGTERM: it keeps the addresses
of all nodes trusted, and says in the ConfigMap of the release which set of policies may be armed, on which nodes, or why not.
It writes no endpoint and no policy; it deletes sets of policies that nobody uses any more.`, controllerOptions())
}
