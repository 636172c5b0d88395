{{/* Names and labels. Each takes (dict "root" $ "name" VM "vm" its settings) unless it says otherwise. */}}

{{/* Objects of a VM begin with this. A dot joins what follows, where a name may have one, so that no
     two VMs can meet: VMs have no dots. */}}
{{- define "berth.full" -}}
{{ .root.Release.Name }}-{{ .name }}
{{- end }}

{{/* What never changes: selectors of a StatefulSet cannot. */}}
{{- define "berth.selector" -}}
app.kubernetes.io/name: berth
app.kubernetes.io/instance: {{ .root.Release.Name }}
berth.dev/vm: {{ .name }}
{{- end }}

{{/* For objects, not for pods: the version changes with the chart, and would restart VMs. */}}
{{- define "berth.labels" -}}
{{ include "berth.selector" . }}
{{ include "berth.version" .root }}
{{- end }}

{{/* Takes $. */}}
{{- define "berth.version" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Of what belongs to no VM. Takes (dict "root" $ "component" NAME). */}}
{{- define "berth.component" -}}
app.kubernetes.io/name: berth
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The image with Berth. Takes $. */}}
{{- define "berth.image" -}}
{{ .Values.images.vmrunner | default (printf "berth:%s" .Chart.AppVersion) }}
{{- end }}

{{- define "berth.claim" -}}
{{ .vm.vmconfig.rootfs.pvc_existing | default (include "berth.full" .) }}
{{- end }}

{{/* Of a further disk: takes also "disk", its name, and "settings". */}}
{{- define "berth.diskClaim" -}}
{{ .settings.existing | default (printf "%s.%s" (include "berth.full" .) .disk) }}
{{- end }}

{{/* Takes $. */}}
{{- define "berth.cacheClaim" -}}
{{ .Values.imagecache.existing | default (printf "%s.images" .Release.Name) }}
{{- end }}

{{- define "berth.cloudconfigName" -}}
{{ .vm.cloudconfig.existing.name | default (printf "%s.cloudconfig" (include "berth.full" .)) }}
{{- end }}

{{- define "berth.vncSecret" -}}
{{ .vm.vnc.existing_secret | default (printf "%s.vnc" (include "berth.full" .)) }}
{{- end }}

{{/* The base's name in an image volume: what Berth itself would make of the URL. */}}
{{- define "berth.target" -}}
{{- $rootfs := .vm.vmconfig.rootfs -}}
{{- $last := $rootfs.sourceurl | splitList "#" | first | splitList "?" | first | base -}}
{{ $rootfs.localtarget | default ($last | trimSuffix ".gz" | trimSuffix ".xz" | trimSuffix ".zst") }}
{{- end }}

{{/* Whether the base comes from the image cache: "yes" or nothing. */}}
{{- define "berth.cached" -}}
{{- $rootfs := .vm.vmconfig.rootfs -}}
{{- if and .root.Values.imagecache.enabled (hasPrefix "http" $rootfs.sourceurl) (not $rootfs.block_claim) }}yes{{ end -}}
{{- end }}
