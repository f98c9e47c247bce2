{{/*
The alerts, as a list of Prometheus' rules. What a person reads says what it means, what to do, and by which command to see more. Agents
restart at every upgrade, with another name of their pod: without that name an alert goes on as if nothing had happened.
*/}}
{{- define "host-firewall.alerts" -}}
{{- /* What is in double braces for Prometheus comes out of these, as braces of a template would be Helm's. */ -}}
{{- $node := "{{ $labels.node }}" -}}
{{- $value := "{{ $value }}" -}}
{{- $of := printf "namespace=%q" .Release.Namespace -}}
{{- $id := include "host-firewall.fullname" . -}}
{{- $kubectl := printf "kubectl -n %s" .Release.Namespace -}}
{{- $status := printf "%s exec deploy/%s -- /host-firewall-agent status" $kubectl (include "host-firewall.controllerName" .) -}}
{{- $annotate := printf "%s annotate --overwrite configmap %s host-firewall.io/" $kubectl $id -}}
{{- if not (include "host-firewall.agents" .) }}
- alert: HostFirewallNodesNotProtected
  expr: sum without (pod, state) (host_firewall_nodes{ {{- $of }}, state!~"Armed|Trying|Off|unknown"}) > 0
  for: 10m
  labels:
    severity: critical
  annotations:
    summary: host-firewall has not armed {{ $value }} nodes with the wanted policies.
    description: |-
      The controller has not armed {{ $value }} nodes with the wanted policies, or they have gone back from them, for ten minutes. They are open, or at the policies before. Why, and what has to be done:
      {{ $status }}
{{- else }}
- alert: HostFirewallNodeNotProtected
  expr: max without (pod) (host_firewall_armed{ {{- $of -}} }) == 0 and max without (pod) (host_firewall_ready{ {{- $of -}} }) == 0
  for: 10m
  labels:
    severity: critical
  annotations:
    summary: Node {{ $node }} is open, no policy of host-firewall applies to it.
    description: |-
      The agent of node {{ $node }} has not armed it, for ten minutes. It says why, and what has to be done:
      {{ $status }}
- alert: HostFirewallNodeNotEnforced
  expr: max without (pod, enforced) (host_firewall_enforced_info{ {{- $of }}, enforced="not enforced"}) == 1 and max without (pod) (host_firewall_armed{ {{- $of -}} }) == 1
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: Packets into node {{ $node }} do not meet the rules of host-firewall.
    description: |-
      Node {{ $node }} is armed, but what the policies drop is not dropped there. Felix is stuck, gone, or somebody has flushed its rules. Look at
      calico-node on that node, and restart it. What the agent has seen:
      {{ $status }}
- alert: HostFirewallNodeRolledBack
  expr: max without (pod) (host_firewall_state{ {{- $of }}, state="RolledBack"}) == 1
  for: 2m
  labels:
    severity: critical
  annotations:
    summary: Node {{ $node }} has gone back from its policies, as they cut something.
    description: |-
      Node {{ $node }} is at the policies before, or open, and no other node moves. What was cut:
      {{ $status }}
      Correct the values and upgrade. Where the cause was another one, and is gone, this lets all nodes try again:
      {{ $annotate }}retry="$(date)"
- alert: HostFirewallNodeConflict
  expr: max without (pod) (host_firewall_state{ {{- $of }}, state="Conflict"}) == 1
  for: 10m
  labels:
    severity: warning
  annotations:
    summary: Somebody else's host endpoint is in the way on node {{ $node }}.
    description: |-
      A HostEndpoint that is not of this release wins on node {{ $node }}, or has the name of ours. Whose it is, and what to do about it:
      {{ $status }}
- alert: HostFirewallNodeContested
  expr: sum without (pod) (increase(host_firewall_contested_total{ {{- $of -}} }[1h])) > 0
  labels:
    severity: warning
  annotations:
    summary: Somebody keeps changing the host endpoint of node {{ $node }}.
    description: |-
      The agent of node {{ $node }} sets a field of its HostEndpoint back more and more seldom, as somebody else keeps changing it. Which it is:
      kubectl describe node {{ $node }}
      Take it out of the other program's hands
- alert: HostFirewallNodeNotReady
  expr: max without (pod) (host_firewall_ready{ {{- $of -}} }) == 0 and max without (pod) (host_firewall_armed{ {{- $of -}} }) == 1
  for: 30m
  labels:
    severity: warning
  annotations:
    summary: Node {{ $node }} is armed, but not as the settings ask for.
    description: |-
      The agent of node {{ $node }} has not been ready for half an hour. The node is at policies before these, held back, or something is wrong with those that it has. Which:
      {{ $status }}
- alert: HostFirewallDropsNothing
  expr: count by (cluster, namespace, mode) (host_firewall_mode_info{ {{- $of }}, mode!="enforce"}) > 0
  for: 3d
  labels:
    severity: info
  annotations:
    summary: host-firewall drops nothing on {{ $value }} nodes, for three days.
    description: |-
      Their agents run with mode {{ "{{ $labels.mode }}" }}. To protect the nodes write `mode: enforce` and upgrade.
      Where they are meant to be so, leave this alert out: prometheusRule.disabled
- alert: HostFirewallAgentsMissing
  expr: >-
    sum by (cluster, namespace) (host_firewall_nodes{ {{- $of }}, state!="unknown"})
    > (count by (cluster, namespace) (host_firewall_ready{ {{- $of -}} }) or 0 * sum by (cluster, namespace) (host_firewall_nodes{ {{- $of -}} }))
  for: 15m
  labels:
    severity: warning
  annotations:
    summary: Agents of host-firewall are missing, or Prometheus does not reach them.
    description: |-
      {{ $value }} nodes have an endpoint that an agent has written, but fewer agents are scraped. Nodes that are armed stay so; nobody repairs them and nobody moves them. See
      {{ $kubectl }} get {{ include "host-firewall.staticPods" . | empty | ternary (printf "daemonset %s" $id) "pods" }}
      and the targets in Prometheus
{{- end }}
- alert: HostFirewallNodesWithoutEndpoint
  expr: sum without (pod, state) (host_firewall_nodes{ {{- $of }}, state="unknown"}) > 0
  for: 15m
  labels:
    severity: warning
  annotations:
    {{- if include "host-firewall.agents" . }}
    summary: host-firewall does not protect {{ $value }} nodes, as no agent has written their endpoint.
    description: |-
      On {{ $value }} nodes no agent runs ({{ include "host-firewall.staticPods" . | empty | ternary "agent.nodeSelector, agent.affinity" "no static pod was written" }}, or a pod that does not start), or it may not make the endpoint yet. Which:
    {{- else }}
    summary: host-firewall does not protect {{ $value }} nodes, which have no endpoint.
    description: |-
      The controller keeps no endpoint for {{ $value }} nodes (agent.nodeSelector, agent.affinity), or it may not make it yet. Which:
    {{- end }}
      {{ $status }}
      Where nodes without an {{ if include "host-firewall.agents" . }}agent{{ else }}endpoint{{ end }} are meant, leave this alert out: prometheusRule.disabled
- alert: HostFirewallControllerAway
  expr: absent(host_firewall_controller_ready{ {{- $of -}} }) == 1
  for: 10m
  labels:
    severity: warning
  annotations:
    summary: The controller of host-firewall is away, or Prometheus does not reach it.
    description: |-
      Nodes that are armed stay so. New nodes are not trusted meanwhile, so armed ones shut them out, and no node moves to other policies. See
      {{ $kubectl }} get pods -o wide
      {{ $kubectl }} logs deploy/{{ include "host-firewall.controllerName" . }}
- alert: HostFirewallControllerNotReady
  expr: max without (pod) (host_firewall_controller_ready{ {{- $of -}} }) == 0
  for: 10m
  labels:
    severity: warning
  annotations:
    summary: Something holds up host-firewall, no node moves to the wanted policies.
    description: |-
      The controller has not been ready for ten minutes: policies are not complete, addresses of nodes are not trusted, the nodes were opened by hand, or it cannot do its work. Which:
      {{ $status }}
- alert: HostFirewallNodesHeld
  expr: max without (pod) (host_firewall_held_nodes{ {{- $of -}} }) > 0
  for: 10m
  labels:
    severity: warning
  annotations:
    summary: host-firewall holds {{ $value }} nodes back.
    description: |-
      {{ $value }} nodes may not move to the wanted policies: those of others would apply to them, or something would be cut. Each says why, and which value to write:
      {{ $status }}
- alert: HostFirewallWouldCut
  expr: sum without (pod) (host_firewall_would_cut{ {{- $of -}} }) > 0
  for: 5m
  labels:
    severity: warning
  annotations:
    summary: The wanted policies of host-firewall would cut {{ $value }} connections to port {{ "{{ $labels.port }}" }} of node {{ $node }}.
    description: |-
      Somebody is or was, within a day, connected to tcp/{{ "{{ $labels.port }}" }} of node {{ $node }} whom the wanted policies do not let in. From where:
      {{ $status }}
      Let them in (ingress, cluster.cidrs, ssh.cidrs), or write that they may be cut: rollout.acceptCuts
- alert: HostFirewallNodesNotTrusted
  expr: max without (pod) (host_firewall_untrusted_nodes{ {{- $of -}} }) > 0
  for: 10m
  labels:
    severity: critical
  annotations:
    summary: Armed nodes do not trust the addresses of {{ $value }} nodes, and shut them out.
    description: |-
      The addresses of {{ $value }} nodes are not in the network sets that the policies let in, or not in cluster.cidrs. Which, and why:
      {{ $status }}
- alert: HostFirewallPolicyDrift
  expr: max without (pod) (host_firewall_policy_drift{ {{- $of -}} }) == 1
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: A policy of host-firewall that nodes are armed with was changed or deleted.
    description: |-
      Set {{ "{{ $labels.set }}" }}, which nodes are armed with, is not as the chart has rendered it. What differs:
      {{ $status }}
      A policy that was deleted comes back with `helm upgrade`. One that was edited has to be changed back, or deleted before
- alert: HostFirewallConfirmRunsOut
  expr: max without (pod) (host_firewall_confirm_deadline_timestamp_seconds{ {{- $of -}} }) - time() > 0 < 600
  labels:
    severity: critical
  annotations:
    summary: Nobody has confirmed the policies of host-firewall yet, and all nodes go back in {{ "{{ $value | humanizeDuration }}" }}.
    description: |-
      Try by new connections what you need, SSH above all. The command that confirms is in what this says:
      {{ $status }}
{{- end -}}
