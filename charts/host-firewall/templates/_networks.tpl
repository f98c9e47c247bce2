{{/*
Networks and ports: split by family, and searched for what a pattern cannot see.
*/}}

{{/*
Whether two lists of ports have one in common: true, or nothing. Takes a list of the two.
*/}}
{{- define "host-firewall.meet" -}}
{{- $meet := "" -}}
{{- $others := last . -}}
{{- range first . -}}
{{- $ends := splitList ":" (toString .) -}}
{{- range $others -}}
{{- $others := splitList ":" (toString .) -}}
{{- if and (le (first $ends | int) (last $others | int)) (le (first $others | int) (last $ends | int)) -}}
{{- $meet = "true" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $meet -}}
{{- end -}}

{{/*
Networks for a person to read: all of a short list, the first ten of a long one.
*/}}
{{- define "host-firewall.some" -}}
{{- $more := sub (len .) 10 -}}
{{- if gt $more 0 -}}
{{- slice . 0 10 | join ", " }} and {{ $more }} more
{{- else -}}
{{- join ", " . -}}
{{- end -}}
{{- end -}}

{{/*
By which values everybody may connect to SSH over one family, in words, or nothing: lists that together let everybody in to one of its
ports. With cluster.cidrs that leave nobody out nothing is closed at all, so they count without ssh.cidrs, too. Takes a dict of root and
family.
*/}}
{{- define "host-firewall.everybody" -}}
{{- $family := .family -}}
{{- $values := .root.Values -}}
{{- $words := "" -}}
{{- $seen := dict -}}
{{- range $port := $values.ssh.ports | default (list 22) -}}
{{- $lists := dict "cluster.cidrs" $values.cluster.cidrs -}}
{{- if $values.ssh.cidrs -}}
{{- $_ := set $lists "ssh.cidrs" $values.ssh.cidrs -}}
{{- range $i, $entry := $values.ingress -}}
{{- if and (eq (toString $entry.protocol) "TCP") (include "host-firewall.meet" (list (list $port) $entry.ports)) -}}
{{- $_ := set $lists (printf "ingress[%d].cidrs" $i) $entry.cidrs -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $key := keys $lists | sortAlpha | join " " -}}
{{- if not (or $words (hasKey $seen $key)) -}}
{{- $_ := set $seen $key true -}}
{{- if include "host-firewall.everywhere" (dict "lists" (values $lists) "family" $family) -}}
{{- $names := list -}}
{{- range $name, $cidrs := $lists -}}
{{- if include "host-firewall.everywhere" (dict "lists" (list $cidrs) "family" $family) -}}
{{- $names = list $name -}}
{{- break -}}
{{- else if include "host-firewall.family" (dict "cidrs" $cidrs "family" $family) | fromJsonArray -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{- $words = printf "%s %s nobody out over IPv%d" (join " and " $names) (len $names | eq 1 | ternary "leaves" "leave") $family -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $words -}}
{{- end -}}

{{/*
The networks of one family, in their order and without repetitions, as a JSON array. Takes a dict of cidrs and family (4 or 6; none
is both). Calico refuses a rule that names both families, and on crd.projectcalico.org/v1 refusing means ignoring. There may be
thousands of them: `append` and `uniq` take as long as their square.
*/}}
{{- define "host-firewall.family" -}}
{{- $family := .family -}}
{{- $seen := dict -}}
[
{{- range .cidrs -}}
{{- $network := lower . -}}
{{- if and (or (not $family) (eq $family (contains ":" . | ternary 6 4))) (not (hasKey $seen $network)) -}}
{{- if $seen }},{{ end -}}
{{- $_ := set $seen $network true -}}
{{- toJson $network -}}
{{- end -}}
{{- end -}}
]
{{- end -}}

{{/*
The fields of an IPv6 address, joined by commas, with the zeros that :: stands for.
*/}}
{{- define "host-firewall.ipv6Fields" -}}
{{- $halves := splitList "::" . -}}
{{- $fields := first $halves | splitList ":" | compact -}}
{{- if gt (len $halves) 1 -}}
{{- $right := last $halves | splitList ":" | compact -}}
{{- range until (sub 8 (add (len $fields) (len $right)) | int) -}}
{{- $fields = append $fields "0" -}}
{{- end -}}
{{- $fields = concat $fields $right -}}
{{- end -}}
{{- join "," $fields -}}
{{- end -}}

{{/*
The bits of a CIDR's address, all of them, as a text of 0 and 1.
*/}}
{{- define "host-firewall.bits" -}}
{{- $address := splitList "/" (lower .) | first -}}
{{- if contains ":" $address -}}
{{- range include "host-firewall.ipv6Fields" $address | splitList "," -}}
{{- printf "0x%s" . | int64 | printf "%016b" -}}
{{- end -}}
{{- else -}}
{{- range splitList "." $address -}}
{{- int64 . | printf "%08b" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Whether the networks of one family in some lists leave no sender out: true, or nothing. Takes a dict of lists and family. Nobody sends from 0.0.0.0/8,
127.0.0.0/8 and 224.0.0.0/3, and over the Internet only 2000::/3 does, so the rest counts as if it were in the list.

In sorted order a network comes right before those that it contains. What is left without these lies apart from each other, so it is
everything when two of n bits count as one of n-1 bits, and one of no bits is there in the end.
*/}}
{{- define "host-firewall.everywhere" -}}
{{- $networks := eq .family 4 | ternary (dict "00000000" 4 "01111111" 4 "111" 4) (dict "000" 6 "01" 6 "1" 6) -}}
{{- range .lists -}}
{{- range . -}}
{{- if eq $.family (contains ":" . | ternary 6 4) -}}
{{- $_ := set $networks (include "host-firewall.bits" . | trunc (splitList "/" . | last | int)) . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $ofLength := dict -}}
{{- $before := "none" -}}
{{- range keys $networks | sortAlpha -}}
{{- if not (hasPrefix $before .) -}}
{{- $before = . -}}
{{- $length := len . | toString -}}
{{- $_ := set $ofLength $length (get $ofLength $length | default 0 | add1) -}}
{{- end -}}
{{- end -}}
{{- $count := 0 -}}
{{- range untilStep 128 -1 -1 -}}
{{- $count = get $ofLength (toString .) | default 0 | add (div $count 2) -}}
{{- end -}}
{{- if $count -}}
true
{{- end -}}
{{- end -}}

{{/*
The network that a CIDR with host bits lies in; nothing for a CIDR without.
*/}}
{{- define "host-firewall.networkOfHost" -}}
{{- $prefix := splitList "/" . | last | int -}}
{{- $bits := include "host-firewall.bits" . -}}
{{- if contains "1" (substr $prefix -1 $bits) -}}
{{- $v6 := contains ":" . -}}
{{- $network := list -}}
{{- range regexFindAll ($v6 | ternary "[01]{16}" "[01]{8}") (repeat 128 "0" | printf "%s%s" (trunc $prefix $bits) | trunc (len $bits)) -1 -}}
{{- $network = append $network (printf "0b%s" . | int64 | printf ($v6 | ternary "%x" "%d")) -}}
{{- end -}}
{{- $v6 | ternary (regexReplaceAll "(:0)+$" (join ":" $network) "::") (join "." $network) -}}/{{ $prefix -}}
{{- end -}}
{{- end -}}
