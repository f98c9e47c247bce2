{{/*
Names, labels and the image. All names are quoted where they are used: a release may be called 1e3.
*/}}

{{- define "host-firewall.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end -}}

{{/*
The release id: the name of every object, and the value of the label host-firewall.io/release. Calico reads what stands before
a dot in a policy's name as a tier, so there is none. 47 characters leave room for the longest suffix, -allow-essential.
*/}}
{{- define "host-firewall.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "host-firewall.name" . -}}
{{- $fullname := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $fullname | replace "." "-" | trunc 47 | trimAll "-" -}}
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
The labels that arm an endpoint as sorted key=value pairs, for the agent.
*/}}
{{- define "host-firewall.armingLabels" -}}
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
Whether the admission policy is rendered: true, or nothing. Before Kubernetes 1.30 a token does not name the node that it is bound to.
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
Whether the agents' requests get a queue of their own: true, or nothing.
*/}}
{{- define "host-firewall.fairness" -}}
{{- if .Values.priorityAndFairness.enabled -}}
{{- include "host-firewall.serves" (dict "root" . "version" "1.29" "kind" "flowcontrol.apiserver.k8s.io/v1/FlowSchema") -}}
{{- end -}}
{{- end -}}

{{/*
Environment variables of the agent and of the cleanup beside their own settings; nothing where there are none.
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
What the agents and the test are told alike, as items of a list of arguments.
*/}}
{{- define "host-firewall.wantedArguments" -}}
{{- include "host-firewall.policySet" . -}}
{{- $policies := list -}}
{{- range .policySet.policies -}}
{{- $policies = append $policies .name -}}
{{- end -}}
- {{ printf "--release=%s" (include "host-firewall.fullname" .) | quote }}
- {{ printf "--mode=%s" (include "host-firewall.mode" .) | quote }}
- {{ printf "--policies=%s" (join "," $policies) | quote }}
- {{ printf "--policy-revision=%s" .policySet.revision | quote }}
- {{ printf "--api-group=%s" (include "host-firewall.apiGroup" .) | quote }}
- {{ printf "--arming-labels=%s" (include "host-firewall.armingLabels" .) | quote }}
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
The resources of each container without those that are null, of which Kubernetes would make 0; nothing where there are none.
*/}}
{{- define "host-firewall.resources" -}}
{{- $resources := dict -}}
{{- range $of, $amounts := .Values.agent.resources -}}
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
      - {{ printf "--namespace=%s" .root.Release.Namespace | quote }}
      - {{ printf "--daemonset=%s" (include "host-firewall.fullname" .root) | quote }}
      - {{ printf "--log-level=%s" $agent.log.level | quote }}
      - {{ printf "--log-format=%s" $agent.log.format | quote }}
    {{- with include "host-firewall.environment" .root | trim }}
    env:
      {{- nindent 6 . }}
    {{- end }}
    {{- with include "host-firewall.resources" .root }}
    resources:
      {{- nindent 6 . }}
    {{- end }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop:
          - ALL
{{- end -}}

{{/*
Labels of such a pod: not those that the DaemonSet selects its pods by, and its own before commonLabels. Takes a dict of root and command.
*/}}
{{- define "host-firewall.commandLabels" -}}
{{- $own := dict "app.kubernetes.io/instance" .root.Release.Name "app.kubernetes.io/component" .command -}}
{{- merge $own (.root.Values.commonLabels | default dict) | toYaml -}}
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
When the Job of the uninstall hook is over at the latest, in seconds: a little more than the cleanup's own time, for the image to be
pulled.
*/}}
{{- define "host-firewall.cleanupDeadline" -}}
{{- add (int .Values.cleanup.timeoutSeconds) 45 -}}
{{- end -}}
