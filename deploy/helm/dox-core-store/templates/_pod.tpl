{{/* What nodes and the making of the store have in common. */}}

{{- define "dox-core-store.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "dox-core-store.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A Service called "doxstore" would put DOXSTORE_PORT=tcp://… here, which is a setting. */}}
{{- define "dox-core-store.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "dox-core-store.podSecurity" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "dox-core-store.environment" -}}
- name: DOXSTORE_DATA
  value: /var/lib/doxstore/store
- name: DOXSTORE_HOST
  value: 0.0.0.0
- name: DOXSTORE_PORT
  value: "8420"
- name: DOXSTORE_DRAIN_SECONDS
  value: {{ .Values.drainSeconds | toString | quote }}
{{- if .Values.seal.keyFile.secret }}
- name: DOXSTORE_KEY_FILE
  value: /run/doxstore/root.key
{{- end }}
{{- if .Values.tls.secret }}
- name: DOXSTORE_TLS_CERTIFICATE_FILE
  value: /etc/doxstore/tls/tls.crt
- name: DOXSTORE_TLS_KEY_FILE
  value: /etc/doxstore/tls/tls.key
{{- end }}
{{- if .Values.database.url }}
- name: DOXSTORE_DATABASE
  value: {{ .Values.database.url | quote }}
{{- if .Values.database.passwordSecret.name }}
- name: DOXSTORE_DATABASE_PASSWORD_FILE
  value: /etc/doxstore/database/password
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: DOXSTORE_{{ upper $name }}
  {{- if kindIs "slice" $value }}
  value: {{ join "," $value | quote }}
  {{- else if kindIs "string" $value }}
  value: {{ $value | quote }}
  {{- else }}
  value: {{ $value | toJson | quote }}
  {{- end }}
{{- end }}
{{- with .Values.environment }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The key file is copied, because it has to be its owner's alone: a mounted Secret belongs to
     root, and the group that may read it makes it readable by others. */}}
{{- define "dox-core-store.copyKey" -}}
- name: copy-key
  image: {{ include "dox-core-store.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [install, -m, "0400", /etc/doxstore/root-key/root.key, /run/doxstore/root.key]
  securityContext:
    {{- include "dox-core-store.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    - name: root-key
      mountPath: /etc/doxstore/root-key
      readOnly: true
    - name: key
      mountPath: /run/doxstore
{{- end -}}

{{/* The operator's token that `init` prints is thrown away: logs are read by many. */}}
{{- define "dox-core-store.makeStore" -}}
- name: init
  image: {{ include "dox-core-store.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    - sh
    - -euc
    - |
      if said=$(doxstore init "$@" 2>&1 >/dev/null); then
        echo 'The store is made.'
      else
        case $said in
          *'[store_exists]'*) echo 'There is a store already: nothing to do.' ;;
          *) printf '%s\n' "$said" >&2; exit 1 ;;
        esac
      fi
    - init
    - --operator
    - {{ .Values.init.operator | quote }}
    - --slot
    - {{ .Values.init.slot }}
    {{- if eq .Values.init.slot "transit" }}
    - --transit-key
    - {{ .Values.init.transitKey | quote }}
    {{- else if eq .Values.init.slot "kms" }}
    - --kms-key
    - {{ .Values.init.kmsKey | quote }}
    {{- end }}
  env:
    {{- include "dox-core-store.environment" . | nindent 4 }}
  securityContext:
    {{- include "dox-core-store.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    {{- include "dox-core-store.mounts" . | nindent 4 }}
{{- end -}}

{{- define "dox-core-store.mounts" -}}
- name: data
  mountPath: /var/lib/doxstore
- name: tmp
  mountPath: /tmp
{{- if .Values.seal.keyFile.secret }}
- name: key
  mountPath: /run/doxstore
  readOnly: true
{{- end }}
{{- if .Values.tls.secret }}
- name: tls
  mountPath: /etc/doxstore/tls
  readOnly: true
{{- end }}
{{- if include "dox-core-store.databaseFiles" . }}
- name: database
  mountPath: /etc/doxstore/database
  readOnly: true
{{- end }}
{{- range $name, $_ := .Values.secrets }}
- name: secret-{{ $name }}
  mountPath: /etc/doxstore/secrets/{{ $name }}
  readOnly: true
{{- end }}
{{- range $name, $_ := .Values.configMaps }}
- name: config-{{ $name }}
  mountPath: /etc/doxstore/config/{{ $name }}
  readOnly: true
{{- end }}
{{- if .Values.serviceAccount.token.mount }}
- name: account-token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* All but `data`, which is each kind's own. Whole folders, never subPath: what is renewed in a
     Secret (a certificate, a password) then comes to the running node. */}}
{{- define "dox-core-store.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if .Values.seal.keyFile.secret }}
- name: root-key
  secret:
    secretName: {{ .Values.seal.keyFile.secret }}
    defaultMode: 0440
    items:
      - key: {{ .Values.seal.keyFile.key }}
        path: root.key
- name: key
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- end }}
{{- if .Values.tls.secret }}
- name: tls
  secret:
    secretName: {{ .Values.tls.secret }}
    defaultMode: 0440
{{- end }}
{{- with include "dox-core-store.databaseFiles" . }}
- name: database
  projected:
    defaultMode: 0440
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- range $name, $secret := .Values.secrets }}
- name: secret-{{ $name }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
{{- end }}
{{- range $name, $configMap := .Values.configMaps }}
- name: config-{{ $name }}
  configMap:
    name: {{ $configMap }}
{{- end }}
{{- with .Values.serviceAccount.token }}
{{- if .mount }}
- name: account-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: {{ .expirationSeconds }}
          {{- with .audience }}
          audience: {{ . | quote }}
          {{- end }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dox-core-store.databaseFiles" -}}
{{- with .Values.database -}}
{{- if .url -}}
{{- if .passwordSecret.name }}
- secret:
    name: {{ .passwordSecret.name }}
    items:
      - key: {{ .passwordSecret.key }}
        path: password
{{- end }}
{{- if .ca.secret }}
- secret:
    name: {{ .ca.secret }}
    items:
      - key: {{ .ca.key }}
        path: ca.crt
{{- else if .ca.configMap }}
- configMap:
    name: {{ .ca.configMap }}
    items:
      - key: {{ .ca.key }}
        path: ca.crt
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
