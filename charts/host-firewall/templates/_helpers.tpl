{{/*
Names, labels and the image. All names are quoted where they are used: a release may be called 1e3.
*/}}

{{- define "host-firewall.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end -}}

{{/*
The release id: the name of every object, and the value of the label host-firewall.io/release. Calico reads what stands before
a dot in a policy's name as a tier, so there is none. 38 characters leave room for the longest suffix, -allow-essential and a revision.
*/}}
{{- define "host-firewall.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "host-firewall.name" . -}}
{{- $fullname := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $fullname | replace "." "-" | trunc 38 | trimAll "-" -}}
{{- end -}}
{{- end -}}

{{- define "host-firewall.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "host-firewall.fullname" .) -}}
{{- end -}}

{{- define "host-firewall.selectorLabels" -}}
app.kubernetes.io/name: {{ include "host-firewall.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "host-firewall.labels" -}}
{{ include "host-firewall.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
host-firewall.io/release: {{ include "host-firewall.fullname" . | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Annotations of an object: `own` wins over commonAnnotations. Takes a dict of root and own, gives nothing where there are none.
*/}}
{{- define "host-firewall.annotations" -}}
{{- $common := .root.Values.commonAnnotations | default dict -}}
{{- with merge (dict) (.own | default dict) $common -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/*
Annotations by which Argo CD treats an object as we want, beside what commonAnnotations ask of it.
*/}}
{{- define "host-firewall.argo" -}}
{{- $own := dict -}}
{{- range $kind, $option := .options -}}
{{- $key := printf "argocd.argoproj.io/%s" $kind -}}
{{- $others := get ($.root.Values.commonAnnotations | default dict) $key | splitList "," -}}
{{- $_ := set $own $key (prepend $others $option | compact | uniq | join ",") -}}
{{- end -}}
{{- toYaml $own -}}
{{- end -}}

{{/*
The image. A registry takes the place of the one that the repository names: that is what stands before the first slash, where it has a
dot or a port or is localhost.
*/}}
{{- define "host-firewall.image" -}}
{{- $image := .Values.agent.image -}}
{{- $tag := $image.tag -}}
{{- if not (or $tag $image.digest) -}}
{{- $tag = .Chart.AppVersion -}}
{{- end -}}
{{- $repository := $image.repository -}}
{{- with (.Values.global | default dict).imageRegistry | default $image.registry -}}
{{- $repository = regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "" | printf "%s/%s" . -}}
{{- end -}}
{{- $repository -}}
{{- with $tag }}:{{ . }}{{ end -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/*
Secrets for the image's registry, the parent chart's too, each once; nothing where there are none.
*/}}
{{- define "host-firewall.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat ((.Values.global | default dict).imagePullSecrets | default list) (.Values.agent.imagePullSecrets | default list) -}}
{{- $names = append $names (kindIs "string" . | ternary (dict "name" .) . | dig "name" "") -}}
{{- end -}}
{{- range $i, $name := uniq $names -}}
{{- if not $i -}}
imagePullSecrets:
{{- end }}
  - name: {{ $name | quote }}
{{- end -}}
{{- end -}}

{{/*
The labels that an armed endpoint carries beside that of its set, as sorted key=value pairs.
*/}}
{{- define "host-firewall.endpointLabels" -}}
{{- $pairs := list -}}
{{- range $key, $value := .Values.hostEndpoint.labels -}}
{{- $pairs = append $pairs (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end -}}

{{/*
enforce, audit or off. YAML reads an off without quotes as false.
*/}}
{{- define "host-firewall.mode" -}}
{{- kindIs "bool" .Values.mode | ternary "off" .Values.mode -}}
{{- end -}}

{{/*
Whether agents run: true, or nothing. Without them the controller keeps the endpoints of all nodes itself.
*/}}
{{- define "host-firewall.agents" -}}
{{- if dig "enabled" true .Values.agent -}}
true
{{- end -}}
{{- end -}}

{{/*
Which Nodes would get an agent, as a selector of labels: agent.nodeSelector, and what agent.affinity requires, of which guardAgentless takes what can
be written so.
*/}}
{{- define "host-firewall.nodes" -}}
{{- $all := list -}}
{{- range $key, $value := .Values.agent.nodeSelector -}}
{{- $all = append $all (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- range dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" list (.Values.agent.affinity | default dict) -}}
{{- range .matchExpressions -}}
{{- $all = get (dict "Exists" .key "DoesNotExist" (print "!" .key)) .operator | default (printf "%s %s (%s)" .key (lower .operator) (join "," .values)) | append $all -}}
{{- end -}}
{{- end -}}
{{- join "," $all -}}
{{- end -}}

{{/*
Whether the agents narrow SSH's failsafe, unless the mode keeps them from it: true, or nothing.
*/}}
{{- define "host-firewall.narrows" -}}
{{- if and .Values.ssh.narrowFailsafe .Values.ssh.cidrs -}}
true
{{- end -}}
{{- end -}}

{{/*
Whether a kind of Kubernetes' own can be rendered ("root", its "kind" with group and version, and from which "version" of Kubernetes on):
true, or nothing. Without a cluster (see _calico.tpl how that shows) its version alone decides.
*/}}
{{- define "host-firewall.serves" -}}
{{- $served := .root.Capabilities.APIVersions -}}
{{- if semverCompare (printf ">=%s-0" .version) .root.Capabilities.KubeVersion.Version -}}
{{- if or (not ($served.Has "v1/Node")) ($served.Has .kind) -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Whether the admission policies are rendered: true, or nothing. Before Kubernetes 1.30 a token does not name the node that it is bound to.
*/}}
{{- define "host-firewall.admission" -}}
{{- if .Values.admissionPolicy.enabled -}}
{{- include "host-firewall.serves" (dict "root" . "version" "1.30" "kind" "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy") -}}
{{- end -}}
{{- end -}}

{{/*
Whether NetworkSets are held to what they are, see networksets: true, or nothing. And the name of what does it.
*/}}
{{- define "host-firewall.networkSets" -}}
{{- if .Values.cluster.trustPods -}}
{{- include "host-firewall.admission" . -}}
{{- end -}}
{{- end -}}

{{- define "host-firewall.networkSetsName" -}}
{{- include "host-firewall.fullname" . -}}-networksets
{{- end -}}

{{/*
Whether the requests of agents and controller get a queue of their own: true, or nothing.
*/}}
{{- define "host-firewall.fairness" -}}
{{- if and .Values.priorityAndFairness.enabled (include "host-firewall.agents" .) -}}
{{- include "host-firewall.serves" (dict "root" . "version" "1.29" "kind" "flowcontrol.apiserver.k8s.io/v1/FlowSchema") -}}
{{- end -}}
{{- end -}}

{{/*
Environment variables of all containers beside their own settings; nothing where there are none.
*/}}
{{- define "host-firewall.environment" -}}
{{- with .Values.agent.kubernetesService -}}
{{- if .host -}}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ int .port | quote }}
{{ end -}}
{{- end -}}
{{- with .Values.agent.extraEnv -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/*
What agents, controller and test are told alike, as items of a list of arguments.
*/}}
{{- define "host-firewall.wantedArguments" -}}
{{- include "host-firewall.policySet" . -}}
- {{ printf "--release=%s" (include "host-firewall.fullname" .) | quote }}
- {{ printf "--namespace=%s" .Release.Namespace | quote }}
- {{ printf "--mode=%s" (include "host-firewall.mode" .) | quote }}
- {{ printf "--api-group=%s" (include "host-firewall.apiGroup" .) | quote }}
- {{ printf "--set=%s" .policySet.revision | quote }}
{{- if not (include "host-firewall.agents" .) }}
- "--agents=false"
- {{ printf "--nodes=%s" (include "host-firewall.nodes" .) | quote }}
{{- end }}
{{- end -}}

{{/*
A hash of what the controller judges nodes by, and of how long it gives them. Judged by other values than its own, an armed node's agent has
nothing to say: it stays ready, and none is armed. Of two controllers with other values the older one writes nothing.
*/}}
{{- define "host-firewall.rollout" -}}
{{- include "host-firewall.policySet" . -}}
{{- $judged := list .policySet.revision (include "host-firewall.mode" .) .Values.hostEndpoint .Values.cluster.trustNodes .Values.cluster.cidrs (include "host-firewall.apiServerPorts" .) -}}
{{- append $judged (list (include "host-firewall.verify" .) (include "host-firewall.confirm" .)) | toJson | sha256sum | trunc 8 -}}
{{- end -}}

{{/*
Whether nodes that have moved try what worked before: true or false. And how long a person has to confirm a set; nothing where nobody has to.
*/}}
{{- define "host-firewall.verify" -}}
{{- dig "verify" true (.Values.rollout | default dict) -}}
{{- end -}}

{{- define "host-firewall.confirm" -}}
{{- dig "confirm" "" (.Values.rollout | default dict) -}}
{{- end -}}

{{/*
When agents look who is connected to their nodes: auto, always or never.
*/}}
{{- define "host-firewall.watchPeers" -}}
{{- dig "watchPeers" "auto" (.Values.rollout | default dict) -}}
{{- end -}}

{{/*
Whose resolver agents have. The cluster's is the one that people fear to lose, so it is the one to try after a move: a kubelet that knows none
gives the node's. But where the way to the API server may begin with a name, it must not need what may come later than the agent, or be cut: so
it may with the kubeconfig of a static pod.
*/}}
{{- define "host-firewall.dnsPolicy" -}}
{{- $host := (.Values.agent.kubernetesService | default dict).host | default "" | toString -}}
{{- $named := or (include "host-firewall.staticPods" .) (and (regexMatch "[A-Za-z]" $host) (not (contains ":" $host))) -}}
{{- range .Values.agent.extraEnv -}}
{{- $named = or $named (regexMatch "(?i)^(http|https|all)_proxy$" (toString .name)) -}}
{{- end -}}
{{- empty $named | ternary "ClusterFirstWithHostNet" "Default" -}}
{{- end -}}

{{/*
What agents and controller are told alike beside that: what endpoints are to be, whether nodes try them, and how to run. Takes a dict of root and ports, a dict
of health and metrics.
*/}}
{{- define "host-firewall.loopArguments" -}}
{{- $values := .root.Values -}}
- {{ printf "--rollout=%s" (include "host-firewall.rollout" .root) | quote }}
- {{ printf "--verify=%s" (include "host-firewall.verify" .root) | quote }}
- {{ printf "--endpoint-labels=%s" (include "host-firewall.endpointLabels" .root) | quote }}
- {{ printf "--interfaces=%s" (join "," $values.hostEndpoint.interfaces) | quote }}
{{- with $values.hostEndpoint.nodeLabels }}
- {{ printf "--node-labels=%s" (join "," .) | quote }}
{{- end }}
{{- if $values.hostEndpoint.adopt }}
- "--adopt=true"
{{- end }}
- {{ printf "--health-port=%d" (int .ports.health) | quote }}
{{- with $values.agent.metrics }}
{{- if .enabled }}
- {{ printf "--metrics-address=%s:%d" (contains ":" .address | ternary (printf "[%s]" .address) .address) (int $.ports.metrics) | quote }}
{{- end }}
{{- end }}
- {{ printf "--resync=%s" $values.agent.resync | quote }}
- {{ printf "--log-level=%s" $values.agent.log.level | quote }}
- {{ printf "--log-format=%s" $values.agent.log.format | quote }}
{{- end -}}

{{/*
The ports on the host of agents and controller, as a YAML map by their paths in the values. Both may run on one node.
*/}}
{{- define "host-firewall.hostPorts" -}}
agent.health.port: {{ .Values.agent.health.port }}
controller.health.port: {{ dig "health" "port" 9095 (.Values.controller | default dict) }}
{{- if .Values.agent.metrics.enabled }}
agent.metrics.port: {{ .Values.agent.metrics.port }}
controller.metrics.port: {{ dig "metrics" "port" 9094 (.Values.controller | default dict) }}
{{- end }}
{{- end -}}

{{/*
Who the processes of each pod run as. The cluster says it where agent.runAsUser is null.
*/}}
{{- define "host-firewall.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.agent.runAsUser }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
What each container is kept from, which needs no right on its node.
*/}}
{{- define "host-firewall.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end -}}

{{/*
The probes of agents and controller, by the kubelet of the same node over loopback, which is never closed. Takes the port.
*/}}
{{- define "host-firewall.probes" -}}
livenessProbe:
  httpGet:
    host: 127.0.0.1
    port: {{ int . }}
    path: /livez
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet:
    host: 127.0.0.1
    port: {{ int . }}
    path: /readyz
  periodSeconds: 2
  timeoutSeconds: 5
{{- end -}}

{{/*
Resources of a container without those that are null, of which Kubernetes would make 0; nothing where there are none.
*/}}
{{- define "host-firewall.resources" -}}
{{- $resources := dict -}}
{{- range $of, $amounts := . -}}
{{- range $resource, $amount := $amounts -}}
{{- if not (kindIs "invalid" $amount) -}}
{{- $_ := set $resources $of (get $resources $of | default dict | merge (dict $resource $amount)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $resources -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/*
The spec of a pod that runs one command of the agent's program. Takes a dict of root, command, account (its service account) and
arguments, items of a list.
*/}}
{{- define "host-firewall.commandPod" -}}
{{- $agent := .root.Values.agent -}}
restartPolicy: Never
{{- with include "host-firewall.imagePullSecrets" .root }}
{{ . }}
{{- end }}
serviceAccountName: {{ .account | quote }}
automountServiceAccountToken: true
# The way to the API server that agents have is one that is open.
hostNetwork: true
dnsPolicy: Default
enableServiceLinks: false
terminationGracePeriodSeconds: 10
# Any node that is alive will do. What holds for the agents (agent.nodeSelector, agent.affinity, agent.tolerations) may match none.
nodeSelector:
  kubernetes.io/os: linux
tolerations:
  - key: node-role.kubernetes.io/control-plane
    operator: Exists
  - key: CriticalAddonsOnly
    operator: Exists
  - key: node.kubernetes.io/network-unavailable
    operator: Exists
  {{- with dig "tolerations" list .root.Values.cleanup }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext:
  {{- include "host-firewall.podSecurity" .root | nindent 2 }}
containers:
  - name: {{ .command }}
    image: {{ include "host-firewall.image" .root | quote }}
    imagePullPolicy: {{ $agent.image.pullPolicy }}
    args:
      - {{ .command }}
      {{- .arguments | nindent 6 }}
      {{- if ne .command "status" }}
      - {{ printf "--log-level=%s" $agent.log.level | quote }}
      {{- end }}
      - {{ printf "--log-format=%s" $agent.log.format | quote }}
    {{- with include "host-firewall.environment" .root | trim }}
    env:
      {{- nindent 6 . }}
    {{- end }}
    {{- with include "host-firewall.resources" $agent.resources }}
    resources:
      {{- nindent 6 . }}
    {{- end }}
    securityContext:
      {{- include "host-firewall.containerSecurity" . | nindent 6 }}
{{- end -}}

{{/*
Labels of such a pod and of the controller's: not those that the DaemonSet selects its pods by, and its own before commonLabels. Takes a dict of root and command.
*/}}
{{- define "host-firewall.commandLabels" -}}
{{- $own := dict "app.kubernetes.io/instance" .root.Release.Name "app.kubernetes.io/component" .command -}}
{{- merge $own (.root.Values.commonLabels | default dict) | toYaml -}}
{{- end -}}

{{/*
The name of everything that belongs to the controller.
*/}}
{{- define "host-firewall.controllerName" -}}
{{- include "host-firewall.fullname" . -}}-controller
{{- end -}}

{{/*
What the controller's pod is known by: no pod of anybody else has the release id.
*/}}
{{- define "host-firewall.controllerSelector" -}}
app.kubernetes.io/component: controller
host-firewall.io/release: {{ include "host-firewall.fullname" . | quote }}
{{- end -}}

{{/*
Where the controller runs: where its affinity says, or that of the agents, and best on a control plane node, which lives as long as the
API server does.
*/}}
{{- define "host-firewall.controllerAffinity" -}}
{{- $first := dict "weight" 100 "preference" (dict "matchExpressions" (list (dict "key" "node-role.kubernetes.io/control-plane" "operator" "Exists"))) -}}
{{- $preferred := dict "nodeAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list $first)) -}}
{{- dig "affinity" dict (.Values.controller | default dict) | default .Values.agent.affinity | default dict | mergeOverwrite $preferred | toYaml -}}
{{- end -}}

{{/*
The name of everything that belongs to helm test.
*/}}
{{- define "host-firewall.testName" -}}
{{- include "host-firewall.fullname" . -}}-test
{{- end -}}

{{/*
The name of everything that belongs to the uninstall hook.
*/}}
{{- define "host-firewall.cleanupName" -}}
{{- include "host-firewall.fullname" . -}}-cleanup
{{- end -}}

{{/*
Annotations of everything that belongs to the uninstall hook: Argo CD, which may go on before the hook has ended
(https://github.com/argoproj/argo-cd/issues/29100), leaves it alone, or the nodes would stay closed.
*/}}
{{- define "host-firewall.cleanupStays" -}}
{{- include "host-firewall.argo" (dict "root" . "options" (dict "sync-options" "Delete=false")) -}}
{{- end -}}

{{/*
When the Job of the uninstall hook is over at the latest, in seconds: a little more than the cleanup's own time, for the image to be
pulled.
*/}}
{{- define "host-firewall.cleanupDeadline" -}}
{{- add (int .Values.cleanup.timeoutSeconds) 45 -}}
{{- end -}}

{{/*
What Prometheus scrapes, as an item of a list. Takes a dict of values, those of podMonitor, and relabelings of the chart's own.
*/}}
{{- define "host-firewall.podMetricsEndpoint" -}}
- port: metrics
  {{- with .values.interval }}
  interval: {{ . }}
  {{- end }}
  {{- with .values.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  {{- with concat (.relabelings | default list) (.values.relabelings | default list) }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
