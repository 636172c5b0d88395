{{/* What Kubernetes looks at. Each takes (dict "root" $ "name" VM "vm" its settings). */}}

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
