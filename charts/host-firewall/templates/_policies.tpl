{{/*
The policies: what may pass. They are rendered once, by host-firewall.policySet, as a list of name and spec; everything else (the
objects, the agent's arguments) reads that list. Every policy has `types`, for on
crd.projectcalico.org/v1 nothing is defaulted and a policy without them governs both directions; none has a `tier`, which
older Calico does not know.
*/}}

{{/*
Endpoints of this release, and of them those that the agent has armed.
*/}}
{{- define "host-firewall.selector" -}}
{{- $terms := list (include "host-firewall.releaseSelector" .) -}}
{{- range $key, $value := .Values.hostEndpoint.labels -}}
{{- $terms = append $terms (printf "%s == '%s'" $key $value) -}}
{{- end -}}
{{- join " && " $terms -}}
{{- end -}}

{{- define "host-firewall.releaseSelector" -}}
host-firewall.io/release == '{{ include "host-firewall.fullname" . }}'
{{- end -}}

{{/*
Rules that let in what a node cannot live without. preDNAT policies see loopback too, and ICMPv6 130-136 and 143 (multicast
listeners and neighbours) each time, for the kernel never tracks them. ICMP types go one to a rule.
*/}}
{{- define "host-firewall.essentialRules" -}}
- action: Allow
  source:
    nets: [127.0.0.0/8]
  destination:
    nets: [127.0.0.0/8]
- action: Allow
  source:
    nets: ["::1/128"]
  destination:
    nets: ["::1/128"]
{{ include "host-firewall.allowFrom" (dict "cidrs" .Values.essential.nodeLocalDNS) }}
{{- range list 130 131 132 133 134 135 136 143 }}
- action: Allow
  ipVersion: 6
  protocol: ICMPv6
  icmp:
    type: {{ . }}
{{- end }}
{{- with include "host-firewall.apiServerPorts" . }}
- action: Allow
  protocol: TCP
  destination:
    ports: [{{ . }}]
{{- end }}
{{- if .Values.essential.dhcp }}
- action: Allow
  ipVersion: 4
  protocol: UDP
  source:
    ports: [67]
  destination:
    ports: [68]
- action: Allow
  protocol: UDP
  source:
    nets: ["fe80::/10"]
  destination:
    ports: [546]
{{- end }}
{{- if .Values.essential.icmpEcho }}
- action: Allow
  ipVersion: 4
  protocol: ICMP
  icmp:
    type: 8
- action: Allow
  ipVersion: 6
  protocol: ICMPv6
  icmp:
    type: 128
{{- end }}
{{- end -}}

{{/*
The ports of the API server, each once, joined by commas.
*/}}
{{- define "host-firewall.apiServerPorts" -}}
{{- $ports := list -}}
{{- range dig "apiServerPorts" (list 6443) .Values.essential -}}
{{- $ports = append $ports (int .) -}}
{{- end -}}
{{- uniq $ports | join "," -}}
{{- end -}}

{{/*
Rules that let the cluster in. The nodes are known by the addresses on the endpoints of this release, armed or not: a node
that is not armed yet must reach those that are. global() keeps out a pod that borrows the label. all() is every pod, and every
NetworkSet of every namespace, with whatever addresses somebody has put into it: Calico itself puts the orchestrator's label on each pod.
*/}}
{{- define "host-firewall.clusterRules" -}}
{{- if .Values.cluster.trustNodes }}
- action: Allow
  source:
    selector: {{ include "host-firewall.releaseSelector" . | quote }}
    namespaceSelector: global()
{{- end }}
{{- if .Values.cluster.trustPods }}
- action: Allow
  source:
    selector: has(projectcalico.org/orchestrator)
    namespaceSelector: all()
{{- end }}
{{- if dig "trustAPIServer" true .Values.cluster }}
- action: Allow
  source:
    services:
      name: kubernetes
      namespace: default
{{- end }}
{{ include "host-firewall.allowFrom" (dict "cidrs" .Values.cluster.cidrs) }}
{{- end -}}

{{- define "host-firewall.sshRules" -}}
{{- include "host-firewall.allowFrom" (dict "cidrs" .Values.ssh.cidrs "protocol" "TCP" "ports" .Values.ssh.ports) -}}
{{- end -}}

{{- define "host-firewall.ingressRules" -}}
{{- range .Values.ingress }}
{{ include "host-firewall.allowFrom" . }}
{{- end }}
{{- end -}}

{{/*
Rules that let networks in, one for each family that is there; none without networks. Takes a dict of cidrs and, where it is not
everything, protocol and ports. A name is left on the rules, for whoever reads them.
*/}}
{{- define "host-firewall.allowFrom" -}}
{{- $from := . -}}
{{- range list 4 6 -}}
{{- with include "host-firewall.family" (dict "cidrs" $from.cidrs "family" .) | fromJsonArray }}
- action: Allow
  {{- with $from.name }}
  metadata:
    annotations:
      host-firewall.io/ingress: {{ . | quote }}
  {{- end }}
  {{- with $from.protocol }}
  protocol: {{ kindIs "string" . | ternary . (int .) }}
  {{- end }}
  source:
    nets: {{ toJson . }}
  {{- with $from.ports }}
  destination:
    ports: {{ uniq . | toJson }}
  {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/*
A policy for what comes in. Takes a dict of name, selector, settings (order, preDNAT, applyOnForward) and rules.
*/}}
{{- define "host-firewall.ingressPolicy" -}}
- name: {{ .name | quote }}
  spec:
    order: {{ toJson .settings.order }}
    selector: {{ .selector | quote }}
    types: [Ingress]
    {{- if .settings.preDNAT }}
    preDNAT: true
    {{- end }}
    {{- if .settings.applyOnForward }}
    applyOnForward: true
    {{- end }}
    ingress:
      {{- .rules | nindent 6 }}
{{- end -}}

{{/*
The policies that let something in, as a YAML map from their key in .Values.policies to name and rules. A policy that has nothing
to say is not there.
*/}}
{{- define "host-firewall.allowing" -}}
{{- $id := include "host-firewall.fullname" . -}}
allowEssential:
  name: {{ printf "%s-allow-essential" $id | quote }}
  rules:
    {{- include "host-firewall.essentialRules" . | trim | nindent 4 }}
{{- with include "host-firewall.clusterRules" . | trim }}
allowCluster:
  name: {{ printf "%s-allow-cluster" $id | quote }}
  rules:
    {{- nindent 4 . }}
{{- end }}
{{- with include "host-firewall.sshRules" . | trim }}
allowSSH:
  name: {{ printf "%s-allow-ssh" $id | quote }}
  rules:
    {{- nindent 4 . }}
{{- end }}
{{- with include "host-firewall.ingressRules" . | trim }}
allowIngress:
  name: {{ printf "%s-allow-ingress" $id | quote }}
  rules:
    {{- nindent 4 . }}
{{- end }}
{{- end -}}

{{/*
What becomes of what nothing allows. preDNAT policies have no drop at their end, so one that only logs lets everything pass. A normal
policy that only logs would drop: audit without preDNAT is refused.
*/}}
{{- define "host-firewall.otherRules" -}}
- action: {{ eq (include "host-firewall.mode" .) "audit" | ternary "Log" "Deny" }}
{{- end -}}

{{/*
All policies of the release, in the order in which Helm is to write them in an upgrade. What lets in comes before what drops, so
that a drop that somebody deleted does not come back before the rest. The other way round where the drop is no preDNAT policy: an
upgrade that leaves preDNAT behind must take the drop out of it first, or the drop is asked before the others for a moment.
*/}}
{{- define "host-firewall.policies" -}}
{{- $settings := .Values.policies -}}
{{- $id := include "host-firewall.fullname" . -}}
{{- $selector := include "host-firewall.selector" . -}}
{{- $drop := dict "name" (printf "%s-drop-other" $id) "selector" $selector "settings" $settings.dropOther "rules" (include "host-firewall.otherRules" .) -}}
{{- if not $settings.dropOther.preDNAT }}
{{ include "host-firewall.ingressPolicy" $drop }}
{{- end }}
{{- if $settings.allowOutbound.enabled }}
- name: {{ printf "%s-allow-outbound" $id | quote }}
  spec:
    order: {{ toJson $settings.allowOutbound.order }}
    selector: {{ $selector | quote }}
    types: [Egress]
    egress:
      - action: Allow
{{- end }}
{{- range $key, $policy := include "host-firewall.allowing" . | fromYaml }}
{{ include "host-firewall.ingressPolicy" (dict "name" $policy.name "selector" $selector "settings" (get $settings $key) "rules" (toYaml $policy.rules)) }}
{{- end }}
{{- if $settings.dropOther.preDNAT }}
{{ include "host-firewall.ingressPolicy" $drop }}
{{- end }}
{{- end -}}

{{/*
Checks the values and renders the policies, once: all templates get the same root, and there the outcome is left for whoever asks
next, as .policySet with policies and revision. Gives nothing.

The agents of this rollout arm a node only when every policy carries the revision. It covers the API group, the names and the specs; labels
and annotations change nothing in what may pass.
*/}}
{{- define "host-firewall.policySet" -}}
{{- if not (hasKey . "policySet") -}}
{{- include "host-firewall.guards" . -}}
{{- $policies := include "host-firewall.policies" . | fromYamlArray -}}
{{- $revision := list (include "host-firewall.apiGroup" .) $policies | toJson | sha256sum | trunc 16 -}}
{{- $_ := set . "policySet" (dict "policies" $policies "revision" $revision) -}}
{{- end -}}
{{- end -}}
