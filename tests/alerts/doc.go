// Package alerts asks Prometheus itself about the chart's alerts and dashboard: whether it reads them, when they fire, and whether what
// they ask for is there. It is a module of its own, so that nothing of Prometheus comes near the agent.
package alerts
