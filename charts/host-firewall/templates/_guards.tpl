{{/*
What values.schema.json cannot say, because it takes two values together, or arithmetic, or better words. Every message names the
value and says what to write instead.
*/}}
{{- define "host-firewall.guards" -}}
{{- include "host-firewall.guardForms" . -}}
{{- include "host-firewall.guardNetworks" . -}}
{{- include "host-firewall.guardPorts" . -}}
{{- include "host-firewall.guardSSH" . -}}
{{- include "host-firewall.guardIngress" . -}}
{{- include "host-firewall.guardEndpoints" . -}}
{{- include "host-firewall.guardPolicies" . -}}
{{- include "host-firewall.guardRollout" . -}}
{{- include "host-firewall.guardAgent" . -}}
{{- include "host-firewall.guardAgentless" . -}}
{{- include "host-firewall.guardMonitoring" . -}}
{{- include "host-firewall.guardMetadata" . -}}
{{- end -}}

{{/*
Refuses the values, with the words it is given, on a line of their own behind what Helm says first.
*/}}
{{- define "host-firewall.refuse" -}}
{{- fail (printf "\n\n%s" .) -}}
{{- end -}}

{{- define "host-firewall.guardNetworks" -}}
{{- $lists := dict "ssh.cidrs" .Values.ssh.cidrs "cluster.cidrs" .Values.cluster.cidrs "essential.nodeLocalDNS" .Values.essential.nodeLocalDNS "rollout.acceptCuts.cidrs" (dig "acceptCuts" "cidrs" list (.Values.rollout | default dict)) -}}
{{- range $i, $entry := .Values.ingress -}}
{{- $_ := set $lists (printf "ingress[%d].cidrs" $i) $entry.cidrs -}}
{{- end -}}
{{- range $path, $cidrs := $lists -}}
{{- range $i, $cidr := $cidrs -}}
{{- with include "host-firewall.networkOfHost" $cidr -}}
{{- $host := printf "%s/%s" (splitList "/" $cidr | first) (contains ":" $cidr | ternary "128" "32") -}}
{{- include "host-firewall.refuse" (printf "%s[%d] is %s, which has host bits: is the network meant or the host? Write %s for the network or %s for the host." $path $i $cidr . $host) -}}
{{- end -}}
{{- /* Calico takes ::ffff:192.0.2.1 for IPv4 with a prefix length that IPv4 does not have. */ -}}
{{- if and (contains ":" $cidr) (regexMatch "^(0+,){5}ffff," (include "host-firewall.ipv6Fields" (splitList "/" (lower $cidr) | first))) -}}
{{- include "host-firewall.refuse" (printf "%s[%d] is %s, an IPv4 address in IPv6 clothes. Write it as IPv4." $path $i $cidr) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* Each list is one argument, for which Linux has 128 KiB; that of SSH is one annotation, too, for which Kubernetes has 256. */ -}}
{{- range $path, $cidrs := dict "ssh.cidrs" (.Values.ssh.cidrs | default list) "cluster.cidrs" (.Values.cluster.cidrs | default list) -}}
{{- if or (gt (len $cidrs) 4000) (gt (join "," $cidrs | len) 120000) -}}
{{- include "host-firewall.refuse" (printf "%s has %d networks, more than a program can be given: at most 4000, and 120,000 characters. Write fewer and larger ones." $path (len $cidrs)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "host-firewall.guardPorts" -}}
{{- if and .Values.ssh.cidrs (not .Values.ssh.ports) -}}
{{- include "host-firewall.refuse" "ssh.ports is empty while ssh.cidrs is not: a rule without ports lets the networks in to every port. Write the ports of SSH, for example ssh.ports: [22], or leave ssh.cidrs empty." -}}
{{- end -}}
{{- $lists := dict "ssh.ports" .Values.ssh.ports "rollout.acceptCuts.ports" (dig "acceptCuts" "ports" list (.Values.rollout | default dict)) -}}
{{- range $i, $entry := .Values.ingress -}}
{{- $_ := set $lists (printf "ingress[%d].ports" $i) $entry.ports -}}
{{- end -}}
{{- range $path, $ports := $lists -}}
{{- range $i, $port := $ports -}}
{{- if kindIs "string" $port -}}
{{- $ends := splitList ":" $port -}}
{{- if gt (first $ends | int) (last $ends | int) -}}
{{- include "host-firewall.refuse" (printf "%s[%d] is %q, a range that ends before it begins. Write \"%s:%s\"." $path $i $port (last $ends) (first $ends)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Networks that leave nobody out are no restriction, and one slip of the hand is enough to write them.
*/}}
{{- define "host-firewall.guardSSH" -}}
{{- if not .Values.ssh.allowEverywhere -}}
{{- range $family := list 4 6 -}}
{{- with include "host-firewall.everybody" (dict "root" $ "family" $family) -}}
{{- include "host-firewall.refuse" (printf "%s: SSH would be open to everybody%s. Write the networks that are meant, or if everybody is meant, ssh.allowEverywhere: true." . (hasPrefix "cluster.cidrs leaves" . | ternary ", and so would everything else" "")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $others := dict "179" "BGP" "2379" "etcd" "2380" "etcd" "5473" "Typha" "6443" "the API server" "6666" "etcd" "6667" "etcd" -}}
{{- range include "host-firewall.apiServerPorts" . | splitList "," -}}
{{- $_ := set $others . "the API server" -}}
{{- end -}}
{{- range $i, $port := .Values.ssh.ports -}}
{{- $held := list -}}
{{- range $other, $whose := $others -}}
{{- if include "host-firewall.meet" (list (list $port) (list $other)) -}}
{{- $held = append $held (printf "%s (%s)" $other $whose) -}}
{{- end -}}
{{- end -}}
{{- with $held -}}
{{- include "host-firewall.refuse" (printf "ssh.ports[%d] is %s and holds ports that must stay open to others: %s. Narrowed to ssh.cidrs, they would not. Write ports and ranges without them." $i (toJson $port) (join ", " .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The entries of ingress, each of which Calico has to take: only TCP, UDP and SCTP have ports, and each ICMP is for one family.
*/}}
{{- define "host-firewall.guardIngress" -}}
{{- $names := dict -}}
{{- range $i, $entry := .Values.ingress -}}
{{- $path := printf "ingress[%d]" $i -}}
{{- if hasKey $names $entry.name -}}
{{- include "host-firewall.refuse" (printf "%s.name is %s, the name of %s too: nobody could tell them apart. Write another name." $path $entry.name (get $names $entry.name)) -}}
{{- end -}}
{{- $_ := set $names $entry.name $path -}}
{{- if not $entry.cidrs -}}
{{- include "host-firewall.refuse" (printf "%s.cidrs is empty: who is to be let in? Write the networks of the clients, or for everybody %s.cidrs: [0.0.0.0/0, \"::/0\"]." $path $path) -}}
{{- end -}}
{{- $protocol := $entry.protocol -}}
{{- if not (kindIs "string" $protocol) -}}
{{- with get (dict "1" "ICMP" "6" "TCP" "17" "UDP" "58" "ICMPv6" "132" "SCTP") (int $protocol | toString) -}}
{{- include "host-firewall.refuse" (printf "%s.protocol is %d, the number of %s. Write %s.protocol: %s." $path (int $protocol) . $path .) -}}
{{- end -}}
{{- end -}}
{{- $hasPorts := has $protocol (list "TCP" "UDP" "SCTP") -}}
{{- if and $hasPorts (not $entry.ports) -}}
{{- include "host-firewall.refuse" (printf "%s.ports is empty: without ports all of %s would be open. Write the ports that clients connect to, for example %s.ports: [443], or [\"1:65535\"] for all." $path $protocol $path) -}}
{{- end -}}
{{- if and $entry.ports (not $hasPorts) -}}
{{- include "host-firewall.refuse" (printf "%s.ports is given and %s.protocol is %v: only TCP, UDP and SCTP have ports. Leave %s.ports out, or write one of these three." $path $path $protocol $path) -}}
{{- end -}}
{{- range $j, $cidr := $entry.cidrs -}}
{{- if and (eq (toString $protocol) "ICMP") (contains ":" $cidr) -}}
{{- include "host-firewall.refuse" (printf "%s.cidrs[%d] is %s and %s.protocol is ICMP: that is for IPv4 only. Write an entry with protocol: ICMPv6 for it." $path $j $cidr $path) -}}
{{- end -}}
{{- if and (eq (toString $protocol) "ICMPv6") (not (contains ":" $cidr)) -}}
{{- include "host-firewall.refuse" (printf "%s.cidrs[%d] is %s and %s.protocol is ICMPv6: that is for IPv6 only. Write an entry with protocol: ICMP for it." $path $j $cidr $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "host-firewall.guardEndpoints" -}}
{{- if not .Values.hostEndpoint.interfaces -}}
{{- include "host-firewall.refuse" "hostEndpoint.interfaces is empty: no node would have an endpoint, and nothing would be protected. Write hostEndpoint.interfaces: [\"*\"] for all interfaces, or names such as [eth0]." -}}
{{- end -}}
{{- range $i, $interface := .Values.hostEndpoint.interfaces -}}
{{- if hasPrefix "cali" $interface -}}
{{- include "host-firewall.refuse" (printf "hostEndpoint.interfaces[%d] is %s: interfaces of pods are Calico's own and get no host endpoint. Write interfaces of the node, or \"*\"." $i $interface) -}}
{{- end -}}
{{- end -}}
{{- range $i, $key := .Values.hostEndpoint.nodeLabels -}}
{{- if or (hasPrefix "host-firewall.io/" $key) (hasKey ($.Values.hostEndpoint.labels | default dict) $key) -}}
{{- include "host-firewall.refuse" (printf "hostEndpoint.nodeLabels[%d] is %s: that label says what an endpoint is, or that it is armed (hostEndpoint.labels), and whoever can label a Node must not decide that. Write another label." $i $key) -}}
{{- end -}}
{{- end -}}
{{- range $key, $value := .Values.hostEndpoint.labels -}}
{{- if regexMatch "^(host-firewall\\.io|([a-z0-9.-]+\\.)?projectcalico\\.org)/" $key -}}
{{- include "host-firewall.refuse" (printf "hostEndpoint.labels has %s: labels of host-firewall.io and projectcalico.org have a meaning already. Write a label of your own, for example hostEndpoint.labels: {host-endpoint: ingress}." $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The policies against each other. allowOutbound is left out: it governs what goes out, and no order puts a drop of what comes in
before it.
*/}}
{{- define "host-firewall.guardPolicies" -}}
{{- $settings := .Values.policies -}}
{{- $drop := $settings.dropOther -}}
{{- $allowing := include "host-firewall.allowing" . | fromYaml | keys | sortAlpha -}}
{{- if and (eq (include "host-firewall.mode" .) "audit") (not $drop.preDNAT) -}}
{{- include "host-firewall.refuse" "mode is audit and policies.dropOther.preDNAT is false: a policy that only logs lets everything pass only where it is preDNAT, as any other drops what it does not allow. Write preDNAT: true and applyOnForward: true in all of policies for as long as you look, or mode: off." -}}
{{- end -}}
{{- range $key := append $allowing "dropOther" -}}
{{- $policy := get $settings $key -}}
{{- if and $policy.preDNAT (not $policy.applyOnForward) -}}
{{- include "host-firewall.refuse" (printf "policies.%s.preDNAT is true and policies.%s.applyOnForward is false: what comes before the translation of addresses is forwarded traffic too, and Calico takes no preDNAT policy that is not applied to it. Write policies.%s.applyOnForward: true, or preDNAT: false." $key $key $key) -}}
{{- end -}}
{{- end -}}
{{- range $key := $allowing -}}
{{- $policy := get $settings $key -}}
{{- if le (float64 $drop.order) (float64 $policy.order) -}}
{{- include "host-firewall.refuse" (printf "policies.dropOther.order is %v and policies.%s.order is %v: the drop would come first, and nothing of %s would pass. Write a policies.dropOther.order above %v." $drop.order $key $policy.order $key $policy.order) -}}
{{- end -}}
{{- if and $drop.preDNAT (not $policy.preDNAT) -}}
{{- include "host-firewall.refuse" (printf "policies.dropOther.preDNAT is true and policies.%s.preDNAT is false: Calico asks all preDNAT policies before all others, whatever their order, so the drop would come first and %s would never be asked. Write policies.%s.preDNAT: true, or policies.dropOther.preDNAT: false." $key $key $key) -}}
{{- end -}}
{{- if and (not $drop.preDNAT) (not $policy.preDNAT) (ne $drop.applyOnForward $policy.applyOnForward) -}}
{{- include "host-firewall.refuse" (printf "policies.dropOther.applyOnForward is %t and policies.%s.applyOnForward is %t, neither of them preDNAT: as soon as one such policy is applied to forwarded traffic, Calico drops what none of them allows there, so one without the other drops what the values say may pass. Write the same for both." $drop.applyOnForward $key $policy.applyOnForward) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "host-firewall.guardRollout" -}}
{{- $rollout := .Values.rollout | default dict -}}
{{- if and (eq (dig "onWouldCut" "report" $rollout) "wait") (eq (dig "watchPeers" "auto" $rollout) "never") -}}
{{- include "host-firewall.refuse" "rollout.onWouldCut is wait and rollout.watchPeers is never: nodes would wait for ever for what nobody looks at. Write rollout.watchPeers: auto, or rollout.onWouldCut: report." -}}
{{- end -}}
{{- with dig "confirm" "" (.Values.rollout | default dict) -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- $seconds = regexFind "[hms]" . | get (dict "h" 3600 "m" 60 "s" 1) | mul (regexFind "[0-9]+" . | atoi) | add $seconds -}}
{{- end -}}
{{- if lt $seconds 60 -}}
{{- include "host-firewall.refuse" (printf "rollout.confirm is %s: the nodes would be back before anybody has looked at them. Write at least 1m, and more than it takes until all nodes have moved, for example 15m." .) -}}
{{- else if gt $seconds 86400 -}}
{{- include "host-firewall.refuse" (printf "rollout.confirm is %s: that far ahead nobody remembers that the nodes will go back. Write at most 24h, or nothing where nobody has to confirm." .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "host-firewall.guardAgent" -}}
{{- if eq (toJson .Values.enabled) "false" -}}
{{- include "host-firewall.refuse" "enabled is false, and nothing heeds it: it is for the condition of a parent chart (`condition: host-firewall.enabled` in its dependencies). Write mode: off, or leave it out." -}}
{{- end -}}
{{- if eq (toString .Values.agent.runAsUser) "0" -}}
{{- include "host-firewall.refuse" "agent.runAsUser is 0: the agent needs no rights on the node, and its pod would not start as root. Write any other number, such as agent.runAsUser: 65532." -}}
{{- end -}}
{{- $ports := dict -}}
{{- range $path, $port := include "host-firewall.hostPorts" . | fromYaml -}}
{{- with get $ports (toString $port) -}}
{{- include "host-firewall.refuse" (printf "%s and %s are both %v: where agent and controller run on one node, only one of them could be served. Write two different ports." . $path $port) -}}
{{- end -}}
{{- $_ := set $ports (toString $port) $path -}}
{{- end -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) -}}
{{- include "host-firewall.refuse" "serviceAccount.create is false and serviceAccount.name is empty: the agent would run with an account that nobody made for it. Write the name of the account in serviceAccount.name, or serviceAccount.create: true." -}}
{{- end -}}
{{- if and .Values.serviceAccount.create (eq .Values.serviceAccount.name "default") -}}
{{- include "host-firewall.refuse" "serviceAccount.name is default, an account that each namespace has already, and serviceAccount.create is true. Write another name, or serviceAccount.create: false." -}}
{{- end -}}
{{- if has (include "host-firewall.serviceAccountName" .) (list (include "host-firewall.controllerName" .) (include "host-firewall.cleanupName" .) (include "host-firewall.testName" .)) -}}
{{- include "host-firewall.refuse" (printf "serviceAccount.name is %s, the name of an account of this release that has other rights than the agents. Write another name." .Values.serviceAccount.name) -}}
{{- end -}}
{{- range $of := list "agent" "controller" -}}
{{- $resources := dig "resources" dict (index $.Values $of | default dict) | include "host-firewall.resources" | fromYaml -}}
{{- range $resource, $request := $resources.requests -}}
{{- $limit := dig "limits" $resource "none" $resources -}}
{{- if ne (toString $limit) "none" -}}
{{- if gt (include "host-firewall.quantity" $request | float64) (include "host-firewall.quantity" $limit | float64) -}}
{{- include "host-firewall.refuse" (printf "%s.resources.requests.%s is %v and %s.resources.limits.%s is %v: no pod may ask for more than its limit. Write a limit that is not below the request." $of $resource $request $of $resource $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $static := include "host-firewall.staticPods" . -}}
{{- if and $static (include "host-firewall.admission" .) (semverCompare "<1.31-0" .Capabilities.KubeVersion.Version) -}}
{{- include "host-firewall.refuse" (printf "agent.staticPods.enabled is true, and this is Kubernetes %s: before 1.31 the admission policy can't tell whose token an agent has that no kubelet asked for. Write agent.staticPods.enabled: false, or admissionPolicy.enabled: false, and then who takes over one node can open all others." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- $variables := dict -}}
{{- range $i, $env := .Values.agent.extraEnv -}}
{{- if and $static (or (dig "valueFrom" "secretKeyRef" "" $env) (dig "valueFrom" "configMapKeyRef" "" $env)) -}}
{{- include "host-firewall.refuse" (printf "agent.extraEnv[%d] (%s) comes from a Secret or a ConfigMap, and agent.staticPods.enabled is true: no kubelet reads these for a static pod. Write its value." $i $env.name) -}}
{{- end -}}
{{- if hasKey $variables $env.name -}}
{{- include "host-firewall.refuse" (printf "agent.extraEnv[%d].name is %s, the name of agent.extraEnv[%v] too. Write each variable once." $i $env.name (get $variables $env.name)) -}}
{{- end -}}
{{- $_ := set $variables $env.name $i -}}
{{- if regexMatch "^(HOST_FIREWALL|KUBERNETES_SERVICE)_" $env.name -}}
{{- include "host-firewall.refuse" (printf "agent.extraEnv[%d] is %s: settings come from values of their own (cluster, hostEndpoint, agent.log, agent.health, agent.metrics, agent.resync, agent.kubernetesService), and this would fight with them or be without effect. Write the value instead." $i $env.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
What only agents can do, where none run.
*/}}
{{- define "host-firewall.guardAgentless" -}}
{{- if not (include "host-firewall.agents" .) -}}
{{- $rollout := .Values.rollout | default dict -}}
{{- if include "host-firewall.staticPods" . -}}
{{- include "host-firewall.refuse" "agent.enabled is false and agent.staticPods.enabled is true: static pods are agents. Write one of them only." -}}
{{- end -}}
{{- if ne (toJson .Values.hostEndpoint.interfaces) "[\"*\"]" -}}
{{- include "host-firewall.refuse" (printf "agent.enabled is false and hostEndpoint.interfaces is %s: only an agent sees which interfaces its node has. Write hostEndpoint.interfaces: [\"*\"], or agent.enabled: true." (toJson .Values.hostEndpoint.interfaces)) -}}
{{- end -}}
{{- if eq (dig "watchPeers" "auto" $rollout) "always" -}}
{{- include "host-firewall.refuse" "agent.enabled is false and rollout.watchPeers is always: only an agent sees who is connected to its node. Write rollout.watchPeers: never, or agent.enabled: true." -}}
{{- end -}}
{{- if eq (dig "onWouldCut" "report" $rollout) "wait" -}}
{{- include "host-firewall.refuse" "agent.enabled is false and rollout.onWouldCut is wait: nodes would wait for ever for what only agents see. Write rollout.onWouldCut: report, or agent.enabled: true." -}}
{{- end -}}
{{- if eq (dig "type" "" (.Values.agent.updateStrategy | default dict)) "OnDelete" -}}
{{- include "host-firewall.refuse" "agent.enabled is false and agent.updateStrategy.type is OnDelete: there is no pod of an agent to delete, so no node would ever move. Write type: RollingUpdate, of which rollingUpdate.maxUnavailable holds for nodes, or agent.enabled: true." -}}
{{- end -}}
{{- $affinity := .Values.agent.affinity | default dict -}}
{{- $terms := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" list $affinity -}}
{{- $plain := and (le (len $terms) 1) (not (or $affinity.podAffinity $affinity.podAntiAffinity)) -}}
{{- range $terms -}}
{{- $plain = and $plain (not .matchFields) -}}
{{- range .matchExpressions -}}
{{- $plain = and $plain (has .operator (list "In" "NotIn" "Exists" "DoesNotExist")) -}}
{{- end -}}
{{- end -}}
{{- if not $plain -}}
{{- include "host-firewall.refuse" "agent.enabled is false and agent.affinity says more than which labels a Node has: without agents nothing is scheduled. Write one term of nodeAffinity, with matchExpressions of In, NotIn, Exists and DoesNotExist, or agent.enabled: true." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
An amount of a resource as a number: 100m is 0.1, 64Mi is 67108864, 1e9 is what it says.
*/}}
{{- define "host-firewall.quantity" -}}
{{- $factors := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- mulf (regexFind `^[0-9.]+([eE][+-]?[0-9]+)?` (toString .)) (get $factors (regexFind `[A-Za-z]*$` (toString .))) -}}
{{- end -}}

{{- define "host-firewall.guardMonitoring" -}}
{{- $metrics := .Values.agent.metrics -}}
{{- range $of, $kind := dict "podMonitor" "PodMonitor" "prometheusRule" "PrometheusRule" "dashboard" "ConfigMap" -}}
{{- if (get $.Values $of | default dict).enabled -}}
{{- if not $metrics.enabled -}}
{{- include "host-firewall.refuse" (printf "%s.enabled is true and agent.metrics.enabled is false: there would be nothing to scrape. Write agent.metrics.enabled: true, or %s.enabled: false." $of $of) -}}
{{- end -}}
{{- $served := or (eq $kind "ConfigMap") (printf "monitoring.coreos.com/v1/%s" $kind | $.Capabilities.APIVersions.Has) -}}
{{- if and ($.Capabilities.APIVersions.Has "v1/Node") (not $served) -}}
{{- include "host-firewall.refuse" (printf "%s.enabled is true and this cluster does not serve %s in monitoring.coreos.com/v1. Install Prometheus Operator first, or write %s.enabled: false." $of $kind $of) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled (or (hasPrefix "127." $metrics.address) (eq "::1" $metrics.address)) -}}
{{- include "host-firewall.refuse" (printf "podMonitor.enabled is true and agent.metrics.address is %s: Prometheus comes from outside the node. Write agent.metrics.address: \"\", or podMonitor.enabled: false." $metrics.address) -}}
{{- end -}}
{{- $alerts := list -}}
{{- range include "host-firewall.alerts" . | fromYamlArray -}}
{{- $alerts = append $alerts .alert -}}
{{- end -}}
{{- range $i, $alert := (.Values.prometheusRule | default dict).disabled | default list -}}
{{- if not (has $alert $alerts) -}}
{{- include "host-firewall.refuse" (printf "prometheusRule.disabled[%d] is %s, and no alert is called so. Write one of %s." $i $alert (join ", " $alerts)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "host-firewall.guardMetadata" -}}
{{- $controller := .Values.controller | default dict -}}
{{- $dashboard := .Values.dashboard | default dict -}}
{{- $lists := dict "commonLabels" .Values.commonLabels "agent.podLabels" .Values.agent.podLabels "podMonitor.labels" .Values.podMonitor.labels "prometheusRule.labels" (dig "labels" dict (.Values.prometheusRule | default dict)) "dashboard.labels" (dig "labels" dict $dashboard) "dashboard.annotations" (dig "annotations" dict $dashboard) "commonAnnotations" .Values.commonAnnotations "controller.podLabels" (dig "podLabels" dict $controller) "controller.podAnnotations" (dig "podAnnotations" dict $controller) "agent.podAnnotations" .Values.agent.podAnnotations "serviceAccount.annotations" .Values.serviceAccount.annotations -}}
{{- range $path, $map := $lists -}}
{{- range $key, $value := $map -}}
{{- if or (eq (print $path "/" $key) "controller.podLabels/app.kubernetes.io/component") (regexMatch "^(host-firewall\\.io/|helm\\.sh/(chart$|hook)|app\\.kubernetes\\.io/(name|instance|version|managed-by)$)" $key) -}}
{{- include "host-firewall.refuse" (printf "%s has %s, which this chart writes itself: programs and selectors would no longer find what they look for. Write another key." $path $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
