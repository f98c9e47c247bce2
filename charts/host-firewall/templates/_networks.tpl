{{/*
Networks. The schema has checked their form; here they are split by family and searched for what a pattern cannot see.
*/}}

{{/*
The networks of one family, without repetitions, as a JSON array. Takes a dict of cidrs and family (4 or 6). Calico refuses a
rule that names both families, and on crd.projectcalico.org/v1 refusing means ignoring.
*/}}
{{- define "host-firewall.family" -}}
{{- $family := .family -}}
{{- $networks := list -}}
{{- range .cidrs -}}
{{- if eq $family (contains ":" . | ternary 6 4) -}}
{{- $networks = append $networks (lower .) -}}
{{- end -}}
{{- end -}}
{{- $networks | uniq | toJson -}}
{{- end -}}

{{/*
The fields of an IPv6 address, joined by commas, with the zeros that :: stands for.
*/}}
{{- define "host-firewall.ipv6Fields" -}}
{{- $halves := splitList "::" . -}}
{{- $fields := regexFindAll "[0-9a-f]+" (first $halves) -1 -}}
{{- if gt (len $halves) 1 -}}
{{- $right := regexFindAll "[0-9a-f]+" (last $halves) -1 -}}
{{- range until (sub 8 (add (len $fields) (len $right)) | int) -}}
{{- $fields = append $fields "0" -}}
{{- end -}}
{{- $fields = concat $fields $right -}}
{{- end -}}
{{- join "," $fields -}}
{{- end -}}

{{/*
The network that a CIDR with host bits lies in; nothing for a CIDR without. Field by field: of the 8 bits (IPv4) or 16 bits
(IPv6) of a field, those behind the prefix have to be zero, that is, the field has to be a multiple of 2 to their number.
*/}}
{{- define "host-firewall.networkOfHost" -}}
{{- $parts := splitList "/" (lower .) -}}
{{- $prefix := last $parts | int -}}
{{- $v6 := contains ":" . -}}
{{- $width := $v6 | ternary 16 8 -}}
{{- $fields := $v6 | ternary (include "host-firewall.ipv6Fields" (first $parts) | splitList ",") (first $parts | splitList ".") -}}
{{- $network := list -}}
{{- $hostBits := false -}}
{{- range $i, $field := $fields -}}
{{- $inPrefix := sub $prefix (mul $i $width) | min $width | max 0 -}}
{{- $step := 1 -}}
{{- range until (sub $width $inPrefix | int) -}}
{{- $step = mul $step 2 -}}
{{- end -}}
{{- $value := $v6 | ternary (printf "0x%s" $field) $field | int64 -}}
{{- $rest := mod $value $step -}}
{{- if $rest -}}
{{- $hostBits = true -}}
{{- end -}}
{{- $network = append $network (sub $value $rest | printf ($v6 | ternary "%x" "%d")) -}}
{{- end -}}
{{- if $hostBits -}}
{{- $v6 | ternary (regexReplaceAll "(:0)+$" (join ":" $network) "::") (join "." $network) -}}/{{ $prefix -}}
{{- end -}}
{{- end -}}
