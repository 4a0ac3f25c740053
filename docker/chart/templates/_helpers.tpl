{{- define "ctr.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* What selects pods of a component; it never changes in the life of a release. */ -}}
{{- define "ctr.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "ctr.labels" -}}
{{ include "ctr.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ctr.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}
{{- else }}{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* Whole CPUs of a request such as 2, "1500m" or 0.5: rounded down, at least one. */ -}}
{{- define "ctr.cpus" -}}
{{- $request := .Values.resources.requests.cpu | toString }}
{{- $cpus := 0 }}
{{- if hasSuffix "m" $request }}{{ $cpus = div (trimSuffix "m" $request | int64) 1000 }}
{{- else }}{{ $cpus = $request | float64 | floor | int64 }}
{{- end }}
{{- max 1 $cpus }}
{{- end }}

{{- /* A quantity such as 2, "1500m" or "1.5Gi" as a number, to compare with another. */ -}}
{{- define "ctr.amount" -}}
{{- $unit := toString . | regexFind "[a-zA-Z]*$" }}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
    "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624
    "Ei" 1152921504606846976 }}
{{- mulf (toString . | trimSuffix $unit | float64) (get $units $unit | default 1) }}
{{- end }}

{{- /* One for each requested CPU; one on a GPU, which they would share. */ -}}
{{- define "ctr.workers" -}}
{{- if .Values.workers }}{{ .Values.workers | int64 }}
{{- else if .Values.gpu.count }}1
{{- else }}{{ include "ctr.cpus" . }}
{{- end }}
{{- end }}

{{- /* Without a CPU limit the service would take the node's cores for its own. */ -}}
{{- define "ctr.engineThreads" -}}
{{- max 1 (sub (div (include "ctr.cpus" . | int64) (include "ctr.workers" . | int64)) 1) }}
{{- end }}

{{- /* The time that an end may take, and ten seconds to spare. */ -}}
{{- define "ctr.endSeconds" -}}
{{- add .Values.preStopSeconds (ceil .Values.lameDuckSeconds) (ceil .Values.drainSeconds) 10 }}
{{- end }}

{{- define "ctr.bundlesVolume" -}}
{{- with .Values.bundles }}
{{- if .existingClaim }}
persistentVolumeClaim: {claimName: {{ .existingClaim }}}
{{- else if .newClaim.size }}
persistentVolumeClaim: {claimName: {{ include "ctr.name" $ }}-bundles}
{{- else if .volume }}
{{- toYaml .volume }}
{{- else }}
emptyDir: {}
{{- end }}
{{- end }}
{{- end }}

{{- /* A claim by its name, or any other volume; .what says whose. */ -}}
{{- define "ctr.volume" -}}
{{- if .existingClaim }}
persistentVolumeClaim: {claimName: {{ .existingClaim }}}
{{- else }}
{{- toYaml .volume }}
{{- end }}
{{- end }}

{{- define "ctr.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user | int64 }}
runAsGroup: {{ .Values.group | int64 }}
fsGroup: {{ .Values.group | int64 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ctr.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* What a release asks of its pods beside their containers. */ -}}
{{- define "ctr.podChoices" -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- with .Values.serviceAccount }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* The password is a file beside the URL, read at each connection. */ -}}
{{- define "ctr.storeUrl" -}}
{{- $url := .Values.store.url }}
{{- if .Values.store.passwordSecret.name }}{{ printf "%s%spassword_file=/etc/ctr/store-password" $url (contains "?" $url | ternary "&" "?") }}
{{- else }}{{ $url }}
{{- end }}
{{- end }}

{{- define "ctr.redisEnv" -}}
{{- if .Values.redis.url }}
- {name: CTR_REDIS_URL, value: {{ .Values.redis.url | quote }}}
{{- if .Values.redis.passwordSecret.name }}
- {name: CTR_REDIS_PASSWORD_FILE, value: /etc/ctr/redis-password}
{{- end }}
{{- end }}
{{- end }}

{{- define "ctr.secretSource" -}}
- secret:
    name: {{ .secret.name }}
    items: [{key: {{ .secret.key }}, path: {{ .path }}}]
{{- end }}

{{- define "ctr.gateSource" -}}
- configMap:
    name: {{ .Values.gate.configMap }}
    items: [{key: {{ .Values.gate.key }}, path: gate.toml}]
{{- end }}
