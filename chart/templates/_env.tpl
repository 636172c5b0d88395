{{/* Settings of Berth, which docs/run.md lists. Each takes (dict "root" $ "name" VM "vm" its settings). */}}

{{/* The settings that both fetching and running have. */}}
{{- define "berth.fetchEnv" -}}
{{- $rootfs := .vm.vmconfig.rootfs -}}
{{- with $rootfs.format }}
- name: IMG_FORMAT
  value: {{ . | quote }}
{{- end }}
- name: BERTH_LOG_FORMAT
  value: {{ .vm.vmconfig.log_format | quote }}
- name: BERTH_LOG_LEVEL
  value: {{ .vm.vmconfig.log_level | quote }}
{{- end }}

{{- define "berth.imageEnv" -}}
{{- $rootfs := .vm.vmconfig.rootfs -}}
{{- if include "berth.cached" . }}
- name: IMG_SOURCE
  value: {{ printf "/images/%s" (include "berth.target" .) | quote }}
{{- else if not $rootfs.block_claim }}
{{- with $rootfs.sourceurl }}
- name: IMG_SOURCE
  value: {{ . | quote }}
{{- end }}
{{- with $rootfs.localtarget }}
- name: IMG_TARGET
  value: {{ . | quote }}
{{- end }}
{{- with $rootfs.sha256 }}
- name: IMG_SHA256
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- if not $rootfs.block_claim }}
{{- with $rootfs.size }}
- name: IMG_SIZE
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "berth.networkEnv" -}}
{{- $net := .vm.netconfig -}}
- name: NET
  value: {{ $net.mode | quote }}
- name: READY
  value: {{ ternary "running" $net.ready (and (eq $net.mode "none") (eq $net.ready "lease")) | quote }}
{{- if include "berth.networked" . }}
- name: VHOST
  value: {{ $net.vhost | quote }}
{{- with $net.address }}
- name: VM_IP
  value: {{ . | quote }}
{{- end }}
{{- with $net.gateway }}
- name: VM_GW
  value: {{ . | quote }}
{{- end }}
{{- with $net.mac }}
- name: BERTH_MAC
  value: {{ . | quote }}
{{- end }}
{{- with $net.mtu }}
- name: BERTH_MTU
  value: {{ int . | quote }}
{{- end }}
{{- if not $net.dhcp }}
- name: NO_DHCP
  value: "1"
{{- end }}
{{- end }}
{{- end }}

{{- define "berth.env" -}}
{{- $config := .vm.vmconfig -}}
{{- /* A StatefulSet's pod is called NAME-0; the VM is NAME, and so are its disk and its host. */ -}}
- name: HOSTNAME
  value: {{ .name | quote }}
{{- include "berth.imageEnv" . }}
- name: IMG_VCPU
  value: {{ int64 $config.cpu.vcpu | quote }}
- name: IMG_RAM_MB
  value: {{ int64 $config.cpu.ram_mb | quote }}
{{- with $config.cpu.hugepages }}
- name: HUGEPAGES
  value: {{ . | quote }}
{{- end }}
- name: BOOT
  value: {{ $config.boot | quote }}
{{- with $config.cmdline }}
- name: CMDLINE
  value: {{ . | quote }}
{{- end }}
{{ include "berth.networkEnv" . }}
{{- if .vm.vnc.enabled }}
- name: VNC_PASSWORD_FILE
  value: /run/secrets/berth/vnc/password
{{- else }}
- name: NO_VNC
  value: "1"
{{- end }}
- name: STOP_TIMEOUT
  value: {{ int64 $config.stop_timeout | quote }}
{{- include "berth.fetchEnv" . | trim | nindent 0 }}
{{- with .vm.pod.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
