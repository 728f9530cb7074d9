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
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "ccproxy.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "ccproxy.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{ ternary (printf "%s@%s" $image .Values.image.digest) $image (ne .Values.image.digest "") | quote }}
{{- end -}}

{{/* A value as variables are written. Helm has read every number as a float, which prints as 2e+07; as JSON it does not. */}}
{{- define "ccproxy.text" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
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
{{ ternary "https" "http" (ne .Values.ingress.tlsSecret "") }}://{{ .Values.ingress.host }}{{ include "ccproxy.prefix" . }}
{{- else -}}
http://{{ include "ccproxy.name" . }}.{{ .Release.Namespace }}:{{ .Values.service.port }}{{ include "ccproxy.prefix" . }}
{{- end -}}
{{- end -}}

{{/* The settings that are no secrets, as the data of a ConfigMap. */}}
{{- define "ccproxy.settings" -}}
DRAIN_DELAY: {{ printf "%ds" (int .Values.drain.delaySeconds) | quote }}
DRAIN_TIMEOUT: {{ printf "%ds" (int .Values.drain.timeoutSeconds) | quote }}
{{- if not (hasKey .Values.settings "PROXY_API_KEYS") }}
# Keys of the ledger: the migration issues the first. PROXY_API_KEYS among the secrets stands over it.
PROXY_API_KEYS: ledger
{{- end }}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ include "ccproxy.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* What workers and the migration read of a Secret: where servers are and who logs in there, and no provider's key. */}}
{{- define "ccproxy.namesForWorkers" -}}
REDIS_URL RQ_REDIS_URL DATABASE_URL DATABASE_DIRECT_URL DB_HOST DB_NAME DB_PASSWORD DB_PORT DB_SSL DB_USER
{{- end -}}

{{/* Of `secrets`, what workers and the migration read. */}}
{{- define "ccproxy.secretsForWorkers" -}}
{{- $found := dict -}}
{{- range splitList " " (include "ccproxy.namesForWorkers" .) -}}
{{- if hasKey $.Values.secrets . }}{{ $_ := set $found . (get $.Values.secrets .) }}{{ end -}}
{{- end -}}
{{ toJson $found }}
{{- end -}}

{{/* The data of a Secret. */}}
{{- define "ccproxy.secretData" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ $value | b64enc | quote }}
{{- else }}
{}
{{- end }}
{{- end -}}

{{/* What comes before the migration and goes with it. */}}
{{- define "ccproxy.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "ccproxy.volumeOfCertificates" -}}
{{- with .Values.caCertificates }}
{{- if and .secret .configMap }}
{{- fail "caCertificates names a Secret and a ConfigMap; keep one of them" }}
{{- end }}
{{- if .secret }}
- name: ca
  # 0440: libpq reads no private key that others may read.
  secret: {secretName: {{ .secret | quote }}, defaultMode: 288}
{{- else if .configMap }}
- name: ca
  configMap: {name: {{ .configMap | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The parts of a pod that follow from values. Each is given (root, component's values). */}}

{{- define "ccproxy.podLabels" -}}
{{- $root := index . 0 -}}
{{- toYaml (merge (include "ccproxy.labels" $root | fromYaml) (index . 1).podLabels $root.Values.podLabels) -}}
{{- end -}}

{{/* A change of what a pod reads is a change of the pod, so that it is rolled. */}}
{{- define "ccproxy.podAnnotations" -}}
{{- $root := index . 0 -}}
{{- toYaml (merge (index . 2) (index . 1).podAnnotations $root.Values.podAnnotations) -}}
{{- end -}}

{{/* The component's own entries stand over those of all pods. In their order: $(NAME) is only known below NAME. */}}
{{- define "ccproxy.extraEnv" -}}
{{- $own := list -}}
{{- range (index . 1).extraEnv }}{{ $own = append $own .name }}{{ end -}}
{{- $shared := list -}}
{{- range (index . 0).Values.extraEnv }}{{ if not (has .name $own) }}{{ $shared = append $shared . }}{{ end }}{{ end -}}
{{- range concat $shared (index . 1).extraEnv }}
- name: {{ .name | quote }}
  {{- if hasKey . "value" }}
  value: {{ include "ccproxy.text" .value | quote }}
  {{- end }}
  {{- with .valueFrom }}
  valueFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "ccproxy.extraVolumes" -}}
{{- $root := index . 0 -}}
{{- include "ccproxy.volumeOfCertificates" $root }}
{{- with concat $root.Values.extraVolumes (index . 1).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "ccproxy.extraVolumeMounts" -}}
{{- $root := index . 0 -}}
{{- if or $root.Values.caCertificates.secret $root.Values.caCertificates.configMap }}
- {name: ca, mountPath: /etc/ccproxy-ca, readOnly: true}
{{- end }}
{{- with concat $root.Values.extraVolumeMounts (index . 1).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where it is scheduled. */}}
{{- define "ccproxy.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
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

{{/* Variables of workers and the migration, given (root, component's values, name of the Secret). A variable that
extraEnv has as well is left to it: a name may stand in a container once. */}}
{{- define "ccproxy.envOfWorkers" -}}
{{- $own := list -}}
{{- range concat (index . 0).Values.extraEnv (index . 1).extraEnv }}{{ $own = append $own .name }}{{ end -}}
{{- $secret := index . 2 -}}
{{- range splitList " " (include "ccproxy.namesForWorkers" .) }}
{{- if not (has . $own) }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $secret | quote }}, key: {{ . }}, optional: true}}
{{- end }}
{{- end }}
{{- include "ccproxy.extraEnv" . }}
{{- end -}}

{{/* Where proxies get their settings from. */}}
{{- define "ccproxy.envFrom" -}}
- configMapRef: {name: {{ include "ccproxy.name" . }}}
- secretRef: {name: {{ include "ccproxy.secret" . | quote }}}
{{- end -}}

{{/* Secrets of the proxies alone: neither in a ConfigMap, nor given to workers. */}}
{{- define "ccproxy.secretsOfProxies" -}}
ADMIN_TOKEN ANTHROPIC_ADMIN_KEY ANTHROPIC_API_KEY CLAUDE_CODE_OAUTH_TOKEN CLAUDE_OAUTH_SHARE_KEY METRICS_TOKEN VIEWER_TOKEN ZAI_API_KEY
{{- end -}}

{{- define "ccproxy.refuseMisplacedSecrets" -}}
{{- $secrets := splitList " " (include "ccproxy.secretsOfProxies" .) }}
{{- range $name, $_ := .Values.settings }}
{{- if regexMatch "_(KEY|PASSWORD|SECRET|TOKEN)$" $name }}
{{- fail (printf "settings.%s is a secret, and a ConfigMap is none; move it to secrets" $name) }}
{{- end }}
{{- end }}
{{- if ne (.Values.settings.PROXY_API_KEYS | default "ledger" | toString) "ledger" }}
{{- fail "settings.PROXY_API_KEYS has keys, and a ConfigMap is no secret; move it to secrets" }}
{{- end }}
{{- range concat .Values.extraEnv .Values.worker.extraEnv .Values.migrate.extraEnv }}
{{- if has .name (append $secrets "PROXY_API_KEYS") }}
{{- fail (printf "extraEnv has %s for workers, which need no such secret; move it to proxy.extraEnv" .name) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Refuses values without an address of Redis or Postgres; what an existing Secret has can't be seen here. */}}
{{- define "ccproxy.needsServers" -}}
{{- if not .Values.existingSecret }}
{{- $names := concat (keys .Values.secrets) (keys .Values.settings) }}
{{- range concat .Values.extraEnv .Values.proxy.extraEnv .Values.worker.extraEnv }}{{ $names = append $names .name }}{{ end }}
{{- if not (or (has "REDIS_URL" $names) (has "REDIS_URL_FILE" $names)) }}
{{- fail "secrets.REDIS_URL is missing: the address of your Redis" }}
{{- end }}
{{- if not (or (has "DATABASE_URL" $names) (has "DATABASE_URL_FILE" $names) (has "DB_HOST" $names)) }}
{{- fail "secrets.DATABASE_URL is missing: the address of your Postgres" }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A rule for connections to a server, given (to and ports, protocols...). */}}
{{- define "ccproxy.egress" -}}
{{- $server := first . -}}
{{- $protocols := rest . -}}
- ports:
    {{- range $port := $server.ports }}
    {{- range $protocols }}
    - {port: {{ $port }}, protocol: {{ . }}}
    {{- end }}
    {{- end }}
  {{- with $server.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
