{{/* Who the processes are, and what they may do. Each takes (dict "root" $ "name" VM "vm" its settings) unless it says otherwise. */}}

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

{{/* Takes (dict "net" "yes" or nothing). */}}
{{- define "berth.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- if .net }}
  add: [NET_ADMIN]
  {{- end }}
{{- end }}
