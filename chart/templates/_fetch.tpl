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
