{{/* Name of everything of this release. */}}
{{- define "tagstream.name" -}}
{{- if contains "tagstream" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-tagstream" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tagstream.selector" -}}
app.kubernetes.io/name: tagstream
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tagstream.labels" -}}
{{ include "tagstream.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "tagstream.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "tagstream.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "tagstream.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/*
A TOML value of a YAML value. JSON writes strings, numbers, truth values and lists as TOML does;
tables become inline tables, except where they are sections. Numbers come as floats from YAML's
parser: whole ones are written as such.
*/}}
{{- define "tagstream.toml.value" -}}
{{- if kindIs "map" . -}}
{ {{- range $i, $key := keys . | sortAlpha -}}
{{- if $i }}, {{ end }}{{ $key | toJson }} = {{ include "tagstream.toml.value" (get $ $key) -}}
{{- end -}} }
{{- else if kindIs "slice" . -}}
[{{- range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "tagstream.toml.value" $item }}{{ end -}}]
{{- else if kindIs "float64" . -}}
{{- if eq (. | floor) . }}{{ . | int64 }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{- . | toRawJson -}}
{{- end -}}
{{- end -}}

{{/* A configuration as TOML: a section for each key. A key without a value is left out. */}}
{{- define "tagstream.toml" -}}
{{- range $section := keys . | sortAlpha }}
[{{ $section }}]
{{- $keys := get $ $section }}
{{- range $key := keys $keys | sortAlpha }}
{{- $value := get $keys $key }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "tagstream.toml.value" $value }}
{{- end }}
{{- end }}
{{ end }}
{{- end -}}

{{/* What the chart knows better than its values. */}}
{{- define "tagstream.stage.toml" -}}
{{- $config := deepCopy .Values.config -}}
{{- $drain := mul .Values.stage.drainSeconds 1000 -}}
{{- $set := dict "http" (dict "bind" "0.0.0.0:9464") "shutdown" (dict "drain_timeout_ms" $drain) -}}
{{- $log := dict "log" (dict "format" "json") -}}
{{- include "tagstream.toml" (mergeOverwrite $log $config $set) -}}
{{- end -}}

{{- define "tagstream.retrain.toml" -}}
{{- $stage := .Values.config -}}
{{- $config := dict
  "registry" (dict "url" (regexReplaceAll "@[^/]*$" $stage.model.path ""))
  "labels" (dict "url" $stage.output.url)
  "log" (dict "format" "json") -}}
{{- with $stage.fetch }}{{ $_ := set $config "fetch" (deepCopy .) }}{{ end -}}
{{- with $stage.object_store }}{{ $_ := set $config "object_store" (deepCopy .) }}{{ end -}}
{{- $folders := dict
  "features" (dict "cache" "/scratch/features")
  "train" (dict "work_folder" "/scratch/train") -}}
{{- include "tagstream.toml" (mergeOverwrite $config (deepCopy .Values.retrain.config) $folders) -}}
{{- end -}}

{{/* Nothing of the image can be written to, and nothing of the node is had. */}}
{{- define "tagstream.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tagstream.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Environment and secrets, by reference. */}}
{{- define "tagstream.environment" -}}
env:
  - {name: TAGSTREAM_CACHE, value: /cache}
  {{- with .Values.extraEnvironment }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.secretEnvironment }}
envFrom:
  {{- range . }}
  - secretRef: {name: {{ . | quote }}}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Resources with GPUs, which are limits that requests follow. Takes resources and gpu. */}}
{{- define "tagstream.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .gpu.count) 0 -}}
{{- $limits := get $resources "limits" | default dict -}}
{{- $resources = mergeOverwrite $resources (dict "limits" (set $limits .gpu.resource (.gpu.count | toString))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "tagstream.placement" -}}
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
