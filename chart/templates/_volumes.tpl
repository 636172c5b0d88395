{{/* What is mounted, and where. Each takes (dict "root" $ "name" VM "vm" its settings). */}}

{{- define "berth.mounts" -}}
- name: image
  mountPath: /image
{{- /* Not /run/berth: a volume belongs to root, and is open to all. Berth makes a directory of its own. */}}
- name: run
  mountPath: /run
- name: tmp
  mountPath: /tmp
{{- if include "berth.cached" . }}
- name: images
  mountPath: /images
  readOnly: true
{{- end }}
{{- $keys := include "berth.documents" . | fromJson | keys }}
{{- if .vm.cloudconfig.existing.name }}{{ $keys = .vm.cloudconfig.existing.keys }}{{ end }}
{{- range $keys | sortAlpha }}
- name: cloudconfig
  mountPath: /{{ . }}
  subPath: {{ . }}
  readOnly: true
{{- end }}
{{- if .vm.vnc.enabled }}
- name: vnc
  mountPath: /run/secrets/berth/vnc
  readOnly: true
{{- end }}
{{- range $disk, $settings := .vm.vmconfig.disks }}
{{- if eq ($settings.mode | default "block") "filesystem" }}
- name: disk-{{ $disk }}
  mountPath: /volumes/{{ $disk }}
{{- end }}
{{- end }}
{{- with .vm.pod.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "berth.devices" -}}
{{- if .vm.vmconfig.rootfs.block_claim }}
- name: root
  devicePath: /dev/vm/root
{{- end }}
{{- range $disk, $settings := .vm.vmconfig.disks }}
{{- if eq ($settings.mode | default "block") "block" }}
- name: disk-{{ $disk }}
  devicePath: /dev/vm/disk-{{ $disk }}
{{- end }}
{{- end }}
{{- end }}

{{- define "berth.volumes" -}}
- name: image
  persistentVolumeClaim:
    claimName: {{ include "berth.claim" . }}
- name: run
  emptyDir: {medium: Memory, sizeLimit: 16Mi}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if include "berth.cached" . }}
- name: images
  persistentVolumeClaim:
    claimName: {{ include "berth.cacheClaim" .root }}
{{- end }}
{{- if or .vm.cloudconfig.existing.name (include "berth.documents" . | fromJson) }}
- name: cloudconfig
  {{- if eq .vm.cloudconfig.kind "Secret" }}
  secret:
    secretName: {{ include "berth.cloudconfigName" . }}
  {{- else }}
  configMap:
    name: {{ include "berth.cloudconfigName" . }}
  {{- end }}
{{- end }}
{{- if .vm.vnc.enabled }}
- name: vnc
  secret:
    secretName: {{ include "berth.vncSecret" . }}
    items: [{key: password, path: password}]
{{- end }}
{{- with .vm.vmconfig.rootfs.block_claim }}
- name: root
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- $c := . }}
{{- range $disk, $settings := .vm.vmconfig.disks }}
- name: disk-{{ $disk }}
  persistentVolumeClaim:
    claimName: {{ include "berth.diskClaim" (merge (dict "disk" $disk "settings" $settings) $c) }}
{{- end }}
{{- with .vm.pod.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
