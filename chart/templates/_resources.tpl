{{/* What a pod asks of its node. Each takes (dict "root" $ "name" VM "vm" its settings). */}}

{{/* Memory is the guest's and the overhead; of a guest on huge pages, which are counted apart and must be
     limited to what is requested, the overhead. */}}
{{- define "berth.resources" -}}
{{- $cpu := .vm.vmconfig.cpu -}}
{{- $names := .root.Values.device_plugin.resources -}}
{{- $overhead := int64 (include "berth.overheadMb" .) -}}
{{- $ram := int64 $cpu.ram_mb -}}
{{- $huge := dict -}}
{{- with $cpu.hugepages }}{{ $huge = dict (printf "hugepages-%s" .) (printf "%dMi" $ram) }}{{ $ram = 0 }}{{ end -}}
{{- $memory := printf "%dMi" (add $ram $overhead) -}}
{{- $requests := merge (dict "memory" $memory "cpu" (printf "%dm" (mul 100 (int64 $cpu.vcpu)))) $huge -}}
{{- include "berth.overlay" (list $requests .vm.resources.requests) -}}
{{- $limits := merge (dict "memory" $requests.memory) $huge -}}
{{- include "berth.overlay" (list $limits .vm.resources.limits) -}}
{{- $_ := set $limits $names.kvm 1 -}}
{{- if and (include "berth.networked" .) $names.tun }}{{ $_ := set $limits $names.tun 1 }}{{ end -}}
{{- with include "berth.vhost" . }}{{ $_ := set $limits . 1 }}{{ end -}}
{{ toYaml (dict "requests" $requests "limits" $limits) }}
{{- end }}

{{/* Memory beside the guest's, in MiB: docs/helm.md says what is in it. */}}
{{- define "berth.overheadMb" -}}
{{- $cpu := .vm.vmconfig.cpu -}}
{{- $computed := add 64 (mul 4 (int64 $cpu.vcpu)) (div (add (int64 $cpu.ram_mb) 127) 128) -}}
{{ .vm.resources.overhead_mb | default $computed | int64 }}
{{- end }}

{{/* Whether the guest has a network, which takes NET_ADMIN and a tap: "yes" or nothing. */}}
{{- define "berth.networked" -}}
{{- if ne .vm.netconfig.mode "none" }}yes{{ end -}}
{{- end }}

{{/* The name of the resource for /dev/vhost-net, or nothing. */}}
{{- define "berth.vhost" -}}
{{- $name := .root.Values.device_plugin.resources.vhost_net -}}
{{- if and (include "berth.networked" .) $name (ne .vm.netconfig.vhost "off") }}{{ $name }}{{ end -}}
{{- end }}
