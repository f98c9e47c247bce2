{{/*
The policies: what may pass. They are rendered once, by host-firewall.policySet, as a list of name, spec and digest; everything else (the
objects, the arguments of controller, agents and test) reads that list. Every policy has `types`, for on
crd.projectcalico.org/v1 nothing is defaulted and a policy without them governs both directions; none has a `tier`, which
older Calico does not know. No field is null, false or empty: those are what Calico's APIs add and take away, and digests leave them out.
*/}}

{{/*
Annotations of every policy: a set stays until no endpoint carries it. Helm and Argo CD leave it alone, and the controller removes it. To Argo CD
a set that the chart does not render any more is no difference: with self-heal it would sync again and again.
*/}}
{{- define "host-firewall.keep" -}}
helm.sh/resource-policy: keep
{{ include "host-firewall.argo" (dict "root" . "options" (dict "sync-options" "Prune=false" "compare-options" "IgnoreExtraneous")) }}
{{- end -}}

{{/*
What every endpoint of this release is selected by, armed or not.
*/}}
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
Rules that let the cluster in. The nodes are known by the GlobalNetworkSets that the controller writes, one for each. global() keeps out
a pod that borrows their labels. all() is every pod, and every
NetworkSet of every namespace, with whatever addresses somebody has put into it: Calico itself puts the orchestrator's label on each pod.
*/}}
{{- define "host-firewall.clusterRules" -}}
{{- if .Values.cluster.trustNodes }}
- action: Allow
  source:
    selector: {{ include "host-firewall.releaseSelector" . | printf "%s && host-firewall.io/trust == 'node'" | quote }}
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
everything, protocol and ports. A name is left on the rules, for whoever reads them. A range of one port is that port, as Calico
would write it.
*/}}
{{- define "host-firewall.allowFrom" -}}
{{- $from := . -}}
{{- $ports := list -}}
{{- range .ports -}}
{{- $ends := toString . | splitList ":" | uniq -}}
{{- $ports = append $ports (eq (len $ends) 1 | ternary (first $ends | int) .) -}}
{{- end -}}
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
  {{- with $ports }}
  destination:
    ports: {{ uniq . | toJson }}
  {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/*
The rules that let something in, as a YAML map by their policy's key in .Values.policies. A policy that has nothing to say is not there.
*/}}
{{- define "host-firewall.allowing" -}}
{{- range $key := list "essential" "cluster" "SSH" "ingress" -}}
{{- with include (printf "host-firewall.%sRules" (lower $key)) $ | trim }}
allow{{ title $key }}:
  {{- nindent 2 . }}
{{- end }}
{{- end -}}
{{- end -}}

{{/*
The specs of all policies, as a YAML map by their key in .Values.policies, and without the set that they belong to, which their content
decides. What nothing allows the last one drops, or logs: preDNAT policies have no drop at their end, so one that only logs lets everything
pass. A normal policy that only logs would drop: audit without preDNAT is refused.
*/}}
{{- define "host-firewall.specs" -}}
{{- $selector := include "host-firewall.releaseSelector" . | quote -}}
{{- $rules := include "host-firewall.allowing" . | fromYaml -}}
{{- $_ := set $rules "dropOther" (list (dict "action" (eq (include "host-firewall.mode" .) "audit" | ternary "Log" "Deny"))) -}}
{{- with .Values.policies.allowOutbound }}
{{- if .enabled }}
allowOutbound:
  order: {{ toJson .order }}
  selector: {{ $selector }}
  types: [Egress]
  egress:
    - action: Allow
{{- end }}
{{- end }}
{{- range $key, $ingress := $rules }}
{{- with get $.Values.policies $key }}
{{ $key }}:
  order: {{ toJson .order }}
  selector: {{ $selector }}
  types: [Ingress]
  {{- if .preDNAT }}
  preDNAT: true
  {{- end }}
  {{- if .applyOnForward }}
  applyOnForward: true
  {{- end }}
  ingress:
    {{- toYaml $ingress | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Checks the values and renders the policies, once: all templates get the same root, and there the outcome is left for whoever asks
next, as .policySet with policies, revision, and digests, which are those of the specs by the names. Gives nothing.

The policies of a revision are a set of their own beside those of any other: they select the endpoints that carry it, alone or with
the one that they come from, and nothing of them is ever changed. The revision covers the API group, the specs, and the labels by which policies of the
user's own select endpoints: nodes try those, too, and go back from them.
*/}}
{{- define "host-firewall.policySet" -}}
{{- if not (hasKey . "policySet") -}}
{{- include "host-firewall.guards" . -}}
{{- $id := include "host-firewall.fullname" . -}}
{{- $specs := include "host-firewall.specs" . | fromYaml -}}
{{- $labels := list (include "host-firewall.endpointLabels" .) .Values.hostEndpoint.nodeLabels -}}
{{- $revision := list (include "host-firewall.apiGroup" .) $specs $labels | toJson | sha256sum | trunc 8 -}}
{{- $policies := list -}}
{{- $digests := list -}}
{{- range $key, $spec := $specs -}}
{{- $_ := set $spec "selector" (printf "%s && host-firewall.io/set contains '%s'" $spec.selector $revision) -}}
{{- $name := printf "%s-%s-%s" $id (kebabcase $key) $revision -}}
{{- $policies = append $policies (dict "name" $name "spec" $spec) -}}
{{- $digests = toJson $spec | sha256sum | trunc 16 | printf "%s=%s" $name | append $digests -}}
{{- end -}}
{{- $_ := set . "policySet" (dict "policies" $policies "revision" $revision "digests" (join "," $digests)) -}}
{{- end -}}
{{- end -}}

{{/*
Asks the cluster once, at an upgrade, for the policies that Helm has written for this release, and leaves them in the root as .policiesThere. Gives nothing.
*/}}
{{- define "host-firewall.policiesThere" -}}
{{- if not (hasKey . "policiesThere") -}}
{{- $there := list -}}
{{- if .Release.IsUpgrade -}}
{{- range (lookup (include "host-firewall.apiGroup" .) "GlobalNetworkPolicy" "" "").items -}}
{{- if and (eq (dig "annotations" "meta.helm.sh/release-name" "" .metadata) $.Release.Name)
  (eq (dig "annotations" "meta.helm.sh/release-namespace" "" .metadata) $.Release.Namespace) -}}
{{- $there = append $there . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set . "policiesThere" $there -}}
{{- end -}}
{{- end -}}

{{/*
Not empty while there are policies that the release had before there were sets, as they were or as the set `before`.
*/}}
{{- define "host-firewall.fromBeforeSets" -}}
{{- include "host-firewall.policiesThere" . -}}
{{- range .policiesThere -}}
{{- if and (dig "labels" "host-firewall.io/release" "" .metadata) (eq (dig "labels" "host-firewall.io/set" "before" .metadata) "before") -}}
true
{{- end -}}
{{- end -}}
{{- end -}}
