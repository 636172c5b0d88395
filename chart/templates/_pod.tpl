{{/* Parts of a VM's pod. Each takes (dict "root" $ "name" VM "vm" its settings). */}}

{{/* The pod's own. Beside NET_ADMIN, which makes the guest's network, all of it is what Pod Security
     calls restricted. */}}
{{- define "berth.podSecurity" -}}
{{- $security := .vm.security -}}
runAsNonRoot: {{ ne (int64 $security.run_as_user) 0 }}
runAsUser: {{ int64 $security.run_as_user }}
runAsGroup: {{ int64 $security.run_as_group }}
fsGroup: {{ int64 $security.run_as_group }}
fsGroupChangePolicy: OnRootMismatch
{{- with $security.supplemental_groups }}
supplementalGroups: {{ toJson . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- with $security.sysctls }}
sysctls:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "berth.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- if .net }}
  add: [NET_ADMIN]
  {{- end }}
{{- end }}

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
  value: {{ trimSuffix "i" . | quote }}
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

{{/* Memory is the guest's and the overhead; huge pages are counted apart. */}}
{{- define "berth.resources" -}}
{{- $cpu := .vm.vmconfig.cpu -}}
{{- $names := .root.Values.device_plugin.resources -}}
{{- $overhead := int64 (include "berth.overheadMb" .) -}}
{{- $memory := printf "%dMi" (add (int64 $cpu.ram_mb) $overhead) -}}
{{- if $cpu.hugepages }}{{ $memory = printf "%dMi" $overhead }}{{ end -}}
{{- $requests := dict "memory" $memory "cpu" (printf "%dm" (mul 100 (int64 $cpu.vcpu))) -}}
{{- include "berth.overlay" (list $requests .vm.resources.requests) -}}
{{- $limits := dict "memory" $requests.memory -}}
{{- include "berth.overlay" (list $limits .vm.resources.limits) -}}
{{- $_ := set $limits $names.kvm 1 -}}
{{- if and (include "berth.networked" .) $names.tun }}{{ $_ := set $limits $names.tun 1 }}{{ end -}}
{{- with include "berth.vhost" . }}{{ $_ := set $limits . 1 }}{{ end -}}
{{- with $cpu.hugepages }}{{ $_ := set $limits (printf "hugepages-%s" .) (printf "%dMi" (int64 $cpu.ram_mb)) }}{{ end -}}
{{ toYaml (dict "requests" $requests "limits" $limits) }}
{{- end }}

{{- define "berth.mounts" -}}
- name: image
  mountPath: /image
- name: run
  mountPath: /run/berth
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
{{- if .vm.vmconfig.cpu.hugepages }}
- name: hugepages
  mountPath: /dev/hugepages
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
{{- with .vm.vmconfig.cpu.hugepages }}
- name: hugepages
  emptyDir: {medium: HugePages-{{ . }}}
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

{{/* What Berth answers, over HTTP or, without port 5900, by a command in the container. */}}
{{- define "berth.look" -}}
{{- if .vm.vnc.enabled -}}
httpGet: {path: {{ ternary "/readyz" "/healthz" .ready }}, port: 5900}
{{- else -}}
exec:
  command: [berth, health{{ if .ready }}, --ready{{ end }}]
{{- end }}
{{- end }}

{{- define "berth.probes" -}}
{{- $probes := .vm.probes -}}
{{- $period := int64 $probes.period_seconds -}}
startupProbe:
  {{- include "berth.look" (merge (dict "ready" false) .) | nindent 2 }}
  periodSeconds: {{ $period }}
  timeoutSeconds: 5
  failureThreshold: {{ max 1 (div (add (int64 $probes.startup_seconds) $period -1) $period) }}
{{- if $probes.liveness_seconds }}
livenessProbe:
  {{- include "berth.look" (merge (dict "ready" false) .) | nindent 2 }}
  periodSeconds: {{ $period }}
  timeoutSeconds: 5
  failureThreshold: {{ max 1 (div (add (int64 $probes.liveness_seconds) $period -1) $period) }}
{{- end }}
readinessProbe:
  {{- if .vm.netconfig.readinessTcpProbe }}
  tcpSocket: {port: {{ int .vm.netconfig.readinessTcpProbe }}}
  {{- else }}
  {{- include "berth.look" (merge (dict "ready" true) .) | nindent 2 }}
  {{- end }}
  periodSeconds: {{ $period }}
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{- define "berth.containerPorts" -}}
{{- $screen := .vm.vnc.enabled -}}
{{- range $port := (include "berth.ports" . | fromJson).list }}
{{- if and (eq (int $port.target) 5900) (eq $port.protocol "TCP") }}{{ $screen = false }}{{ end }}
- {name: {{ $port.name }}, containerPort: {{ int $port.target }}, protocol: {{ $port.protocol }}}
{{- end }}
{{- if $screen }}
- {name: berth-vnc, containerPort: 5900, protocol: TCP}
{{- end }}
{{- end }}

{{/* Fetches the base into the image cache, unless it is there. */}}
{{- define "berth.fetch" -}}
{{- $rootfs := .vm.vmconfig.rootfs -}}
- name: fetch
  image: {{ include "berth.image" .root }}
  imagePullPolicy: {{ .root.Values.images.pull_policy }}
  command: [berth, image, pull]
  env:
    - name: IMG_SOURCE
      value: {{ $rootfs.sourceurl | quote }}
    - name: IMG_TARGET
      value: {{ include "berth.target" . | quote }}
    - name: IMG_DIR
      value: /images
    {{- with $rootfs.sha256 }}
    - name: IMG_SHA256
      value: {{ . | quote }}
    {{- end }}
    {{- include "berth.fetchEnv" . | trim | nindent 4 }}
    {{- with .vm.pod.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  securityContext:
    {{- include "berth.containerSecurity" (dict "net" "") | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 64Mi}
    limits: {memory: 256Mi}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - name: images
      mountPath: /images
    - name: tmp
      mountPath: /tmp
    {{- with .vm.pod.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
