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
The first bits of a CIDR's address, as many as its prefix says, as a text of 0 and 1.
*/}}
{{- define "host-firewall.bits" -}}
{{- $parts := splitList "/" (lower .) -}}
{{- $bits := "" -}}
{{- if contains ":" . -}}
{{- range include "host-firewall.ipv6Fields" (first $parts) | splitList "," -}}
{{- $bits = printf "0x%s" . | int64 | printf "%s%016b" $bits -}}
{{- end -}}
{{- else -}}
{{- range first $parts | splitList "." -}}
{{- $bits = int64 . | printf "%s%08b" $bits -}}
{{- end -}}
{{- end -}}
{{- trunc (last $parts | int) $bits -}}
{{- end -}}

{{/*
Whether networks of one family leave no sender out: true, or nothing. Takes a dict of cidrs and family. Nobody sends from 224.0.0.0/3,
and over the Internet only 2000::/3 does, so the rest counts as if it were in the list. Networks that no other contains are apart
from each other, so they are everything when their shares of the whole add up to it.
*/}}
{{- define "host-firewall.everywhere" -}}
{{- $networks := eq .family 4 | ternary (list "111") (list "000" "01" "1") -}}
{{- $given := include "host-firewall.family" (dict "cidrs" .cidrs "family" .family) | fromJsonArray -}}
{{- range $given -}}
{{- $networks = append $networks (include "host-firewall.bits" .) -}}
{{- end -}}
{{- $networks = uniq $networks -}}
{{- /* In parts of 2^62, which an int64 holds; what is smaller counts as one part. */ -}}
{{- $whole := int64 4611686018427387904 -}}
{{- $share := int64 0 -}}
{{- range $network := $networks -}}
{{- $contained := false -}}
{{- range $networks -}}
{{- if and (ne . $network) (hasPrefix . $network) -}}
{{- $contained = true -}}
{{- end -}}
{{- end -}}
{{- if not $contained -}}
{{- $part := $whole -}}
{{- range until (len $network | min 62 | int) -}}
{{- $part = div $part 2 -}}
{{- end -}}
{{- $share = add $share $part -}}
{{- end -}}
{{- end -}}
{{- if and $given (ge $share $whole) -}}
true
{{- end -}}
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
