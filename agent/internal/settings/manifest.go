package settings

// Manifest is the command that prints the manifest of a static pod.
func Manifest() Command {
	return Command{
		about: `PROGRAM manifest prints the manifest of a static pod that runs the agent of a release, the same for each node. The release says
what is in it (agent.staticPods.enabled): print it anew after each upgrade, for agents that nobody replaces stay as they are. It changes nothing.

Usage:
  kubectl -n NAMESPACE exec deploy/RELEASE-controller -- /PROGRAM manifest   has all settings from its environment`,
		groups: []group{
			{"What to print", []string{"release", "namespace"}},
			{apiServer, []string{"kubeconfig"}},
			{itself, []string{"log-level", "log-format"}},
		},
		logLevel: "warn",
	}
}
