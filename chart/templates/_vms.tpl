{{/* The VMs that exist, as JSON: name to settings, laid over vmdefaults. Takes $. */}}
{{- define "berth.vms" -}}
{{- $vms := dict -}}
{{- if kindIs "map" .Values.vmlist -}}
{{- range $name, $given := .Values.vmlist -}}
{{- $vm := dict -}}
{{- if kindIs "map" $given }}{{ $vm = deepCopy $.Values.vmdefaults }}{{ end -}}
{{- include "berth.overlay" (list $vm ($given | default dict)) -}}
{{- if eq $vm.enabled true }}{{ $_ := set $vms $name $vm }}{{ end -}}
{{- end -}}
{{- end -}}
{{ toJson $vms }}
{{- end }}

{{/* Lays one map over another, in place: maps are joined, everything else is replaced, also by what
     is empty or false; null leaves what was there. Takes (list UNDER OVER). */}}
{{- define "berth.overlay" -}}
{{- $under := index . 0 -}}
{{- range $key, $over := index . 1 -}}
{{- if and (kindIs "map" $over) (kindIs "map" (get $under $key)) -}}
{{- include "berth.overlay" (list (get $under $key) $over) -}}
{{- else if not (kindIs "invalid" $over) -}}
{{- $_ := set $under $key $over -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Ports of a VM, as a JSON list of {name, port, target, protocol, node_port}. */}}
{{- define "berth.ports" -}}
{{- $ports := list -}}
{{- range $name, $given := .vm.netconfig.ports -}}
{{- $port := dict "port" $given -}}
{{- if kindIs "map" $given }}{{ $port = $given }}{{ end -}}
{{- $ports = append $ports (dict "name" $name "port" (int $port.port) "target" (int ($port.target | default $port.port))
    "protocol" ($port.protocol | default "TCP") "node_port" (int ($port.node_port | default 0))) -}}
{{- end -}}
{{ dict "list" $ports | toJson }}
{{- end }}

{{/* Documents of the config drive, as JSON: name to text. */}}
{{- define "berth.documents" -}}
{{- $documents := dict -}}
{{- range $key := list "metadata" "userdata" "networkdata" "vendordata" -}}
{{- $given := get $.vm.cloudconfig $key -}}
{{- if and (kindIs "map" $given) $given -}}
{{- $head := ternary "#cloud-config\n" "" (eq $key "userdata") -}}
{{- $_ := set $documents $key (printf "%s%s\n" $head (toYaml $given)) -}}
{{- else if $given -}}
{{- $_ := set $documents $key $given -}}
{{- end -}}
{{- end -}}
{{ toJson $documents }}
{{- end }}

{{/* Access mode of a claim. Takes also "mode" and "claim", its name. What a claim that exists has
     cannot be changed, so it is kept when the cluster learns of other modes. */}}
{{- define "berth.accessMode" -}}
{{- if ne .mode "auto" -}}
{{ .mode }}
{{- else -}}
{{- $claim := lookup "v1" "PersistentVolumeClaim" .root.Release.Namespace .claim -}}
{{- if $claim -}}
{{ first $claim.spec.accessModes }}
{{- else if semverCompare ">=1.29.0-0" .root.Capabilities.KubeVersion.Version -}}
ReadWriteOncePod
{{- else -}}
ReadWriteOnce
{{- end -}}
{{- end -}}
{{- end }}
