{{/*
The pod of an agent, as a template of pods. As a static pod it has a kubeconfig of its node in the place of an account.
*/}}
{{- define "host-firewall.agentPod" -}}
{{- $static := include "host-firewall.staticPods" . -}}
metadata:
  labels:
    {{- include "host-firewall.selectorLabels" . | nindent 4 }}
    {{- with merge (dict) (.Values.agent.podLabels | default dict) (.Values.commonLabels | default dict) }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "host-firewall.annotations" (dict "root" . "own" .Values.agent.podAnnotations) }}
  {{- nindent 2 . }}
  {{- end }}
spec:
  {{- if $static }}
  # The kubelet runs a static pod before it knows an API server, so such a pod has nothing that comes from there.
  automountServiceAccountToken: false
  {{- else }}
  {{- with include "host-firewall.imagePullSecrets" . }}
  {{- nindent 2 . }}
  {{- end }}
  serviceAccountName: {{ include "host-firewall.serviceAccountName" . | quote }}
  automountServiceAccountToken: true
  {{- end }}
  {{- with .Values.agent.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  # The agent has to run before the pod network does, and its checks have to see what the host sees.
  hostNetwork: true
  dnsPolicy: {{ include "host-firewall.dnsPolicy" . }}
  enableServiceLinks: false
  # The agent leaves its node as it is when it stops, so there is nothing to wait for.
  terminationGracePeriodSeconds: 10
  {{- if not $static }}
  {{- with .Values.agent.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.agent.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with .Values.agent.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "host-firewall.podSecurity" . | nindent 4 }}
  containers:
    - name: agent
      image: {{ include "host-firewall.image" . | quote }}
      imagePullPolicy: {{ .Values.agent.image.pullPolicy }}
      args:
        {{- include "host-firewall.wantedArguments" . | nindent 8 }}
        {{- with $static }}
        - {{ printf "--kubeconfig=%s/kubeconfig" . | quote }}
        {{- end }}
        {{- if include "host-firewall.narrows" . }}
        - "--narrow-failsafe=true"
        - {{ printf "--ssh-cidrs=%s" (include "host-firewall.family" (dict "cidrs" .Values.ssh.cidrs) | fromJsonArray | join ",") | quote }}
        {{- end }}
        {{- with .Values.ssh.ports }}
        - {{ printf "--ssh-ports=%s" (join "," (uniq .)) | quote }}
        {{- end }}
        {{- with include "host-firewall.watchPeers" . }}
        {{- if ne . "auto" }}
        - "--watch-peers={{ . }}"
        {{- end }}
        {{- end }}
        {{- include "host-firewall.loopArguments" (dict "root" . "ports" (dict "health" .Values.agent.health.port "metrics" .Values.agent.metrics.port)) | nindent 8 }}
      env:
        - name: HOST_FIREWALL_NODE_NAME
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        {{- with include "host-firewall.environment" . | trim }}
        {{- nindent 8 . }}
        {{- end }}
      {{- if .Values.agent.metrics.enabled }}
      ports:
        - name: metrics
          containerPort: {{ int .Values.agent.metrics.port }}
      {{- end }}
      {{- include "host-firewall.probes" .Values.agent.health.port | nindent 6 }}
      {{- with include "host-firewall.resources" .Values.agent.resources }}
      resources:
        {{- nindent 8 . }}
      {{- end }}
      securityContext:
        {{- include "host-firewall.containerSecurity" . | nindent 8 }}
      {{- with $static }}
      volumeMounts:
        - name: credentials
          mountPath: {{ . | quote }}
          readOnly: true
  volumes:
    - name: credentials
      hostPath:
        path: {{ . | quote }}
        type: Directory
      {{- end }}
{{- end -}}

{{/*
The folder of each node in which its agent finds a kubeconfig, where agents are static pods; nothing where they are a DaemonSet's.
*/}}
{{- define "host-firewall.staticPods" -}}
{{- with .Values.agent.staticPods -}}
{{- if .enabled -}}
{{- .folder | default "/etc/host-firewall" -}}
{{- end -}}
{{- end -}}
{{- end -}}
