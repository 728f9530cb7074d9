{{/* The names, labels and parts that several templates share. */}}

{{- define "ccproxy.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ccproxy.labels" -}}
{{ include "ccproxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "ccproxy.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ccproxy.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{ ternary (printf "%s@%s" $image .Values.image.digest) $image (ne .Values.image.digest "") | quote }}
{{- end -}}

{{- define "ccproxy.secret" -}}
{{ .Values.existingSecret | default (include "ccproxy.name" .) }}
{{- end -}}

{{/* The path prefix of the settings, as the proxy reads it: with a slash before it and none behind. */}}
{{- define "ccproxy.prefix" -}}
{{- with .Values.settings.PROXY_BASE_PATH | default "" | toString | trimAll "/" }}/{{ . }}{{ end -}}
{{- end -}}

{{/* Where clients find it. */}}
{{- define "ccproxy.address" -}}
{{- if .Values.ingress.enabled -}}
{{ ternary "https" "http" (ne .Values.ingress.tlsSecret "") }}://{{ .Values.ingress.host }}
{{- else -}}
http://{{ include "ccproxy.name" . }}.{{ .Release.Namespace }}:{{ .Values.service.port }}
{{- end -}}
{{- end -}}

{{/* A change of settings is a change of the pods, so that they are rolled. */}}
{{- define "ccproxy.checksums" -}}
checksum/settings: {{ printf "%s%s%s" (toJson .Values.settings) (toJson .Values.secrets) .Values.config | sha256sum }}
{{- end -}}

{{- define "ccproxy.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "ccproxy.container" -}}
image: {{ include "ccproxy.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* What workers and the migration read of a Secret: where servers are and who logs in there, and no provider's key. */}}
{{- define "ccproxy.namesForWorkers" -}}
REDIS_URL RQ_REDIS_URL DATABASE_URL DATABASE_DIRECT_URL DB_HOST DB_NAME DB_PASSWORD DB_PORT DB_SSL DB_USER
{{- end -}}

{{- define "ccproxy.envOfWorkers" -}}
{{- $secret := . -}}
{{- range splitList " " (include "ccproxy.namesForWorkers" .) }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ . }}, optional: true}}
{{- end }}
{{- end -}}

{{/* Where proxies get their settings from. */}}
{{- define "ccproxy.envFrom" -}}
- configMapRef: {name: {{ include "ccproxy.name" . }}}
- secretRef: {name: {{ include "ccproxy.secret" . }}}
{{- end -}}
