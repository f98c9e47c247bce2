{{/*
The forms of texts: by the path of a value which form it has, or its items have, or its keys and their values; and by the name of a form
what it looks like. The schema only knows that they are scalars, for all that it can say of a text that it does not like is a regular
expression, and of a number or a switch that should be a text, that it is none. A text may be empty only where this says "or nothing".
*/}}

{{- define "host-firewall.formOf" -}}
nameOverride: name or nothing
fullnameOverride: id or nothing
ssh.cidrs: list of network
ssh.ports: list of port
cluster.cidrs: list of network
essential.nodeLocalDNS: list of address
essential.apiServerPorts: list of single port
hostEndpoint.labels: label
hostEndpoint.interfaces: list of interface
hostEndpoint.nodeLabels: list of node label
hostEndpoint.acceptPolicies: list of policy
global.imageRegistry: registry or nothing
agent.image.registry: registry or nothing
agent.image.repository: repository
agent.image.tag: tag or nothing
agent.image.digest: digest or nothing
agent.kubernetesService.host: server or nothing
agent.metrics.address: node address or nothing
agent.staticPods.folder: folder
agent.resync: time
rollout.confirm: window or nothing
rollout.acceptCuts.ports: list of port
rollout.acceptCuts.cidrs: list of network
serviceAccount.name: object or nothing
serviceAccount.annotations: annotation
podMonitor.labels: label
podMonitor.interval: interval or nothing
podMonitor.scrapeTimeout: interval or nothing
prometheusRule.labels: label
prometheusRule.alertLabels: alert label
prometheusRule.disabled: list of alert
dashboard.labels: label
dashboard.annotations: annotation
commonLabels: label
commonAnnotations: annotation
agent.updateStrategy.rollingUpdate.maxUnavailable: percentage
{{- range $of := list "agent" "controller" }}
{{ $of }}.nodeSelector: label
{{ $of }}.podLabels: label
{{ $of }}.podAnnotations: annotation
{{ $of }}.priorityClassName: object or nothing
{{- range $amounts := list "limits" "requests" }}
{{- range list "cpu" "memory" "ephemeral-storage" }}
{{ $of }}.resources.{{ $amounts }}.{{ . }}: quantity
{{- end }}
{{- end }}
{{- end }}
{{- range $i, $entry := .Values.agent.extraEnv }}
agent.extraEnv[{{ $i }}].name: variable
agent.extraEnv[{{ $i }}].value: text or nothing
agent.extraEnv[{{ $i }}].valueFrom.fieldRef.fieldPath: field
agent.extraEnv[{{ $i }}].valueFrom.resourceFieldRef.resource: resource
{{- range list "configMapKeyRef" "secretKeyRef" }}
agent.extraEnv[{{ $i }}].valueFrom.{{ . }}.name: object
agent.extraEnv[{{ $i }}].valueFrom.{{ . }}.key: data key
{{- end }}
{{- end }}
{{- range $of := list "agent" "cleanup" "controller" }}
{{- range $i, $toleration := dig "tolerations" list (index $.Values $of | default dict) }}
{{ $of }}.tolerations[{{ $i }}].key: label key{{ eq (toString $toleration.operator) "Exists" | ternary " or nothing" "" }}
{{ $of }}.tolerations[{{ $i }}].value: label
{{- end }}
{{- end }}
{{- range $i, $entry := .Values.ingress }}
ingress[{{ $i }}].name: name
ingress[{{ $i }}].cidrs: list of network
ingress[{{ $i }}].protocol: protocol
ingress[{{ $i }}].ports: list of port
{{- end }}
{{- end -}}

{{/*
For each form a regular expression, what it is called, and what to write; and for one that may be a number, that in quotes.
*/}}
{{- define "host-firewall.forms" -}}
{{- $byte := `(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])` -}}
{{- $v4 := printf `%s(\.%s){3}` $byte $byte -}}
{{- $v6 := `((h:){7}h|(h:){1,7}:|(h:){1,6}:h|(h:){1,5}(:h){1,2}|(h:){1,4}(:h){1,3}|(h:){1,3}(:h){1,4}|(h:){1,2}(:h){1,5}|h:(:h){1,6}|:((:h){1,7}|:))` | replace "h" `[0-9A-Fa-f]{1,4}` -}}
{{- $port := `([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])` -}}
{{- $label := `[a-z0-9]([-a-z0-9]*[a-z0-9])?` -}}
{{- $object := printf `%s(\.%s)*` $label $label -}}
{{- $name := `[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?` -}}
{{- $character := `([-A-Za-z0-9_.?]|\[\^?([A-Za-z0-9_.](-[A-Za-z0-9_.])?)+\])` -}}
{{- $time := `[1-9][0-9]{0,5}[hms]([0-9]{1,6}[ms]){0,2}` -}}
{{- dict
  "network" (list (printf `%s/(3[0-2]|[12]?[0-9])|%s/(12[0-8]|1[01][0-9]|[1-9]?[0-9])` $v4 $v6) "a network with its prefix length" "for example 192.0.2.0/24 or 2001:db8::/32")
  "address" (list (printf `%s/32|%s/128` $v4 $v6) "a single address with /32 or /128" "for example 169.254.20.10/32")
  "node address" (list (printf `%s|%s` $v4 $v6) "an address of a node" "for example 127.0.0.1 or ::1 without a port, or nothing for all")
  "server" (list (printf `%s|%s|(%s\.)*([0-9][-0-9A-Za-z]*)?[A-Za-z]([-0-9A-Za-z]*[0-9A-Za-z])?` $v4 $v6 (replace "a-z" "A-Za-z" $label)) "an address or a name" "for example 192.0.2.1, 2001:db8::1 or api.example.org, without a port")
  "port" (list (printf `%s:%s` $port $port) "a port or a range of ports" "a number from 1 to 65535, or a range such as \"30000:32767\"" $port)
  "single port" (list `[^\x00-\x{10FFFF}]` "a port" "a number from 1 to 65535" $port)
  "protocol" (list `TCP|UDP|SCTP|ICMP|ICMPv6` "a protocol that Calico knows" "TCP, UDP, SCTP, ICMP, ICMPv6, or a number such as 112" `[0-9]+`)
  "interface" (list (printf `(%s\**){1,15}|\*+(%s\**){0,15}` $character $character) "the name of an interface or a glob" "at most 15 characters, for example *, eth0, eth* or bond?")
  "node label" (list (printf `(%s/)?(%s|[A-Za-z0-9][-A-Za-z0-9_.]{0,61}\*)|[a-z0-9]([-a-z0-9.]*[a-z0-9])?/\*` $object $name) "the key of a label or its beginning" "for example topology.kubernetes.io/zone or topology.kubernetes.io/*")
  "policy" (list (printf `\*|%s` $object) "the name of a policy" "the whole name, or * for all")
  "object" (list $object "the name of an object" "lower-case letters, digits, dashes and dots")
  "name" (list `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?` "a name" "at most 63 lower-case letters, digits and dashes")
  "id" (list `[a-z0-9]([-a-z0-9]{0,36}[a-z0-9])?` "a name that leaves room for those of the policies" "at most 38 lower-case letters, digits and dashes")
  "label" (list (printf `(%s)?` $name) "the value of a label" "at most 63 letters, digits, dashes, dots and underscores")
  "label key" (list (printf `(%s/)?%s` $object $name) "the key of a label" "for example zone or example.org/zone")
  "alert" (list `[A-Za-z_][A-Za-z0-9_]*` "the name of an alert" "for example HostFirewallDropsNothing")
  "alert label" (list `(?s).*` "" "")
  "alert label key" (list `[A-Za-z_][A-Za-z0-9_]*` "the name of a label of Prometheus" "letters, digits and underscores")
  "annotation" (list `(?s).*` "" "")
  "text" (list `(?s).*` "" "")
  "annotation key" (list (printf `(%s/)?%s` (replace "a-z" "A-Za-z" $object) $name) "the key of an annotation" "for example owner or example.org/owner")
  "registry" (list `[-A-Za-z0-9.]*(:[0-9]+)?(/[-a-z0-9._]+)*` "a registry" "for example mirror.example.org:5000/hub")
  "repository" (list `([A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]+)?/)?[a-z0-9][-a-z0-9._]*(/[a-z0-9][-a-z0-9._]*)*` "the name of an image without its tag" "for example registry.example.org/host-firewall/agent")
  "tag" (list `[A-Za-z0-9_][-A-Za-z0-9_.]{0,127}` "the tag of an image" "for example 0.1.0")
  "digest" (list `sha256:[0-9a-f]{64}` "the digest of an image" "sha256: and 64 digits, 0 to 9 and a to f")
  "variable" (list `[-._a-zA-Z][-._a-zA-Z0-9]*` "the name of an environment variable" "letters, digits and underscores, for example HTTPS_PROXY")
  "data key" (list `[-._a-zA-Z0-9]+` "a key of a ConfigMap or Secret" "letters, digits, dashes, dots and underscores")
  "field" (list `metadata\.(name|namespace|uid|(labels|annotations)\['[^']+'\])|spec\.(nodeName|serviceAccountName)|status\.(hostIPs?|podIPs?)` "a field of a pod that its variables can have" "for example spec.nodeName")
  "resource" (list `(limits|requests)\.(cpu|memory|ephemeral-storage)` "a resource of the agent" "for example limits.memory")
  "quantity" (list `[0-9]+(\.[0-9]+)?([mkMGTPE]|[KMGTPE]i|[eE][0-9]+)?` "an amount" "for example 100m or 64Mi" `[0-9.]+`)
  "folder" (list `(/[-A-Za-z0-9_][-A-Za-z0-9_.]*)+` "a folder of a node" "for example /etc/host-firewall")
  "percentage" (list `([1-9][0-9]?|100)%` "a percentage" "from 1% to 100%, or a number" `[1-9][0-9]*`)
  "time" (list $time "a time in hours, minutes and seconds" "for example 10m or 1h30m")
  "window" (list $time "a time in hours, minutes and seconds" "for example 15m, or nothing where nobody has to confirm")
  "interval" (list `([1-9][0-9]{0,5}h)?([1-9][0-9]{0,5}m)?([1-9][0-9]{0,5}s)?([1-9][0-9]{0,5}ms)?` "a time in hours, minutes and seconds" "for example 30s or 1m30s")
| toJson -}}
{{- end -}}

{{/*
What was meant by a text that does not have its form, in words; nothing where nobody can tell. Takes a dict of path, value, name and form.
What is written must be taken then: networks without host bits, ranges that begin before they end.
*/}}
{{- define "host-firewall.meant" -}}
{{- $form := .form -}}
{{- $name := .name -}}
{{- $meant := list -}}
{{- $known := true -}}
{{- range regexFindAll `[^\s,;]+` (regexReplaceAll ` *- *` .value "-") -1 -}}
{{- $written := . -}}
{{- $found := "" -}}
{{- $one := has $name (list "network" "address") | ternary (contains ":" . | ternary "128" "32" | printf "%s/%s" .) . -}}
{{- range list . $one (regexReplaceAll `-|–|\.\.` . ":") (lower .) (upper .) (upper . | replace "V6" "v6") -}}
{{- if $found -}}
{{- else if regexMatch (printf "^(%s)$" (first $form)) . -}}
{{- $found = . -}}
{{- if and (eq $name "network") (ne . $written) -}}
{{- $found = printf "%s with its prefix length (%s is that one address)" $written . -}}
{{- else if and (eq $name "network") (include "host-firewall.networkOfHost" .) -}}
{{- $found = "" -}}
{{- else if regexMatch `^[0-9]+:[0-9]+$` . -}}
{{- $ends := splitList ":" . -}}
{{- $found = gt (first $ends | int) (last $ends | int) | ternary (reverse $ends) $ends | join ":" | printf "%q" -}}
{{- end -}}
{{- else if and (gt (len $form) 3) (regexMatch (printf "^(%s)$" (last $form)) .) -}}
{{- $found = printf "%s without quotes" . -}}
{{- end -}}
{{- end -}}
{{- $known = and $known $found -}}
{{- $meant = append $meant $found -}}
{{- end -}}
{{- if and $known (eq (len $meant) 1) -}}
{{- first $meant -}}
{{- else if and $known $meant (hasSuffix "]" .path) -}}
each as an item of its own: {{ join ", " $meant }}
{{- end -}}
{{- end -}}

{{/*
Refuses a scalar that does not have its form, or would have it as a text. Takes a dict of path, value, name and form.
*/}}
{{- define "host-firewall.guardForm" -}}
{{- $isText := kindIs "string" .value -}}
{{- $text := $isText | ternary .value (toJson .value) -}}
{{- $written := $isText | ternary (printf "%q" $text) $text -}}
{{- if not (regexMatch (printf "^(%s)$" (first .form)) $text) -}}
{{- $meant := include "host-firewall.meant" (merge (dict "value" $text) .) -}}
{{- include "host-firewall.refuse" (printf "%s is %s, not %s. Write %s." .path (empty $text | ternary "empty" $written) (index .form 1) ($meant | default (index .form 2))) -}}
{{- else if not $isText -}}
{{- include "host-firewall.refuse" (printf "%s is %s, not a text. Write it in quotes." .path $written) -}}
{{- end -}}
{{- end -}}

{{/*
Refuses a scalar where a list of them belongs. Takes a dict of path and value.
*/}}
{{- define "host-firewall.refuseScalar" -}}
{{- $items := list -}}
{{- range regexFindAll `[^\s,;]+` (toString .value) -1 -}}
{{- $items = append $items (regexMatch `^[0-9]+$` . | ternary . (toJson .)) -}}
{{- end -}}
{{- include "host-firewall.refuse" (printf "%s is %s, not a list. Write %s: [%s]." .path (toJson .value) .path (join ", " $items)) -}}
{{- end -}}

{{/*
All texts that have a form. A list of thousands is looked at in one go, and item by item only where something is wrong with it.
*/}}
{{- define "host-firewall.guardForms" -}}
{{- $forms := include "host-firewall.forms" . | fromJson -}}
{{- $values := deepCopy .Values -}}
{{- range $i, $entry := .Values.ingress -}}
{{- $_ := set $values (printf "ingress[%d]" $i) $entry -}}
{{- end -}}
{{- range $path := list "agent.extraEnv" "agent.tolerations" "cleanup.tolerations" "controller.tolerations" -}}
{{- $parent := splitList "." $path | first | get $values | default dict -}}
{{- $name := splitList "." $path | last -}}
{{- range $i, $entry := get $parent $name | default list -}}
{{- $_ := set $parent (printf "%s[%d]" $name $i) $entry -}}
{{- end -}}
{{- end -}}
{{- range $path, $of := include "host-firewall.formOf" . | fromYaml -}}
{{- $name := trimPrefix "list of " $of | trimSuffix " or nothing" -}}
{{- $form := get $forms $name -}}
{{- $value := $values -}}
{{- range splitList "." $path -}}
{{- $value = index ($value | default dict) . -}}
{{- end -}}
{{- if kindIs "slice" $value -}}
{{- $lines := join "\n" $value -}}
{{- if not (and (regexMatch (printf "^(%s)(\n(%s))*$" (first $form) (first $form)) $lines) (eq (len $value) (splitList "\n" $lines | len))) -}}
{{- range $i, $item := $value -}}
{{- if kindIs "string" $item -}}
{{- include "host-firewall.guardForm" (dict "path" (printf "%s[%d]" $path $i) "value" $item "name" $name "form" $form) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "map" $value -}}
{{- range $key, $text := $value -}}
{{- $keyName := printf "%s key" $name -}}
{{- include "host-firewall.guardForm" (dict "path" (printf "%s has a key that" $path) "value" $key "name" $keyName "form" (get $forms $keyName)) -}}
{{- include "host-firewall.guardForm" (dict "path" (printf "%s.%s" $path $key) "value" $text "name" $name "form" $form) -}}
{{- end -}}
{{- else if or (kindIs "invalid" $value) (and (eq (toString $value) "") (hasSuffix " or nothing" $of)) -}}
{{- else if hasPrefix "list of " $of -}}
{{- include "host-firewall.refuseScalar" (dict "path" $path "value" $value) -}}
{{- else if or (kindIs "string" $value) (eq (len $form) 3) -}}
{{- include "host-firewall.guardForm" (dict "path" $path "value" $value "name" $name "form" $form) -}}
{{- end -}}
{{- end -}}
{{- end -}}
