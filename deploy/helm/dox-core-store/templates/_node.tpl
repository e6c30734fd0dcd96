{{/* The pod of a node; called with a dict of `root` and `init`, whether it makes its own store. */}}
{{- define "dox-core-store.nodeTemplate" -}}
{{- $root := .root -}}
{{- with $root -}}
metadata:
  labels:
    {{- include "dox-core-store.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "dox-core-store.account" . }}
  {{- include "dox-core-store.podDefaults" . | nindent 2 }}
  # Longer than all that a node does when it is told to stop.
  terminationGracePeriodSeconds: {{ include "dox-core-store.graceSeconds" . }}
  {{- if or .Values.seal.keyFile.secret $.init }}
  initContainers:
    {{- if .Values.seal.keyFile.secret }}
    {{- include "dox-core-store.copyKey" . | nindent 4 }}
    {{- end }}
    {{- if $.init }}
    {{- include "dox-core-store.makeStore" . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: doxstore
      image: {{ include "dox-core-store.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [doxstore, serve]
      env:
        {{- include "dox-core-store.environment" . | nindent 8 }}
      ports:
        - name: api
          containerPort: 8420
          protocol: TCP
      securityContext:
        {{- include "dox-core-store.containerSecurity" . | nindent 8 }}
      startupProbe:
        httpGet: {path: /v1/health, port: api, scheme: {{ include "dox-core-store.scheme" . }}}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: {{ .Values.startupAttempts }}
      # A sealed node and one whose database is away are healthy: a restart would not help them.
      livenessProbe:
        httpGet: {path: /v1/health, port: api, scheme: {{ include "dox-core-store.scheme" . }}}
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /v1/ready, port: api, scheme: {{ include "dox-core-store.scheme" . }}}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        {{- include "dox-core-store.mounts" . | nindent 8 }}
{{- end -}}
{{- end -}}

{{- define "dox-core-store.graceSeconds" -}}
{{- $requests := 10 -}}
{{- if hasKey .Values.settings "shutdown_seconds" -}}
{{- $requests = .Values.settings.shutdown_seconds -}}
{{- end -}}
{{- add .Values.drainSeconds $requests 20 -}}
{{- end -}}
