{{/*
Which of Calico's two APIs is written to. The policies, the agent's arguments and the RBAC rules all come from this one answer.

calico.apiGroup decides where it is set. After that, what the cluster serves: Helm lists every kind of a cluster as
group/version/Kind in .Capabilities.APIVersions, and GlobalNetworkPolicy is asked for, not just the group, because
crd.projectcalico.org is also there when a half-installed Calico has some other CRD of it.

When neither is there, two cases have to be told apart, and `lookup` cannot: it returns an empty map without a cluster,
and fails the rendering for a user who may not read what it asks for. Capabilities can: without a cluster Helm fills them with the
groups and versions that are compiled into it and with what --api-versions adds, never with kinds of its own, while
discovery of a real cluster always brings the kinds, and no cluster is without v1/Node. So:
 - v1/Node is there: a real cluster (or a tool that repeats one's whole list, as Argo CD does) that has no Calico. Refused.
 - v1/Node is not there: `helm template` or `helm lint` on somebody's desk. v3, or v1 where --api-versions names only that group.
*/}}
{{- define "host-firewall.apiGroup" -}}
{{- $served := .Capabilities.APIVersions -}}
{{- $v3 := "projectcalico.org/v3" -}}
{{- $v1 := "crd.projectcalico.org/v1" -}}
{{- if .Values.calico.apiGroup -}}
{{- .Values.calico.apiGroup -}}
{{- else if $served.Has (printf "%s/GlobalNetworkPolicy" $v3) -}}
{{- $v3 -}}
{{- else if $served.Has (printf "%s/GlobalNetworkPolicy" $v1) -}}
{{- $v1 -}}
{{- else if $served.Has "v1/Node" -}}
{{- include "host-firewall.refuse" (printf "This cluster serves GlobalNetworkPolicy neither in %s nor in %s: Calico is not installed in it, or its CRDs are missing, or its API server does not answer. Install Calico first (this chart does not bring its CRDs: they have to be those of your Calico), check with `kubectl api-resources | grep calico`, then install this chart again." $v3 $v1) -}}
{{- else if and ($served.Has $v1) (not ($served.Has $v3)) -}}
{{- $v1 -}}
{{- else -}}
{{- $v3 -}}
{{- end -}}
{{- end -}}
