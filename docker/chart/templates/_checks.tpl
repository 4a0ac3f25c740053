{{- /* What the schema cannot say, as it is about several values at once: one line for each fault. */ -}}
{{- define "ctr.checks" -}}
{{- $bundles := .Values.bundles }}
{{- $places := list $bundles.existingClaim $bundles.newClaim.size $bundles.volume $bundles.initContainer | compact | len }}
{{- if ne $places 1 }}
{{- fail (printf "bundles: give one of existingClaim, newClaim.size, volume and initContainer, not %d" $places) }}
{{- end }}
{{- if and $bundles.volume (ne (len $bundles.volume) 1) }}
{{- fail "bundles.volume: give one kind of volume" }}
{{- end }}
{{- if and $bundles.initContainer (not $bundles.initContainer.image) }}
{{- fail "bundles.initContainer: needs an image" }}
{{- end }}
{{- range $name := list "name" "securityContext" }}
{{- if hasKey $bundles.initContainer $name }}
{{- fail (printf "bundles.initContainer.%s: is the chart's own" $name) }}
{{- end }}
{{- end }}
{{- if regexMatch "(^|/)[.][.](/|$)" $bundles.path }}
{{- fail (printf "bundles.path: %s leads out of the volume" $bundles.path) }}
{{- end }}
{{- range $name := list "redis" "store" }}
{{- $url := (index $.Values $name).url }}
{{- if or (contains "@" $url) (regexMatch "[?&]([a-z]+_)?password=" $url) }}
{{- fail (printf "%s.url: a login does not belong into values: name a Secret in %s.passwordSecret" $name $name) }}
{{- end }}
{{- if and (not $url) (index $.Values $name).passwordSecret.name }}
{{- fail (printf "%s.passwordSecret: needs %s.url" $name $name) }}
{{- end }}
{{- end }}
{{- range $name := list "CTR_PROFILE_KEY" "CTR_ITEM_KEY" }}
{{- if and (hasKey $.Values.settings $name) (not $.Values.store.url) }}
{{- fail (printf "settings.%s: needs store.url" $name) }}
{{- end }}
{{- end }}
{{- range $name := keys (include "ctr.selector" (dict "root" $ "component" "") | fromYaml) }}
{{- if hasKey $.Values.pod.labels $name }}
{{- fail (printf "pod.labels.%s: is the chart's own" $name) }}
{{- end }}
{{- end }}
{{- range .Values.pod.extraVolumes }}
{{- if has .name (list "bundles" "temporary" "configuration" "requests" "feedback") }}
{{- fail (printf "pod.extraVolumes: %s is a volume of the chart" .name) }}
{{- end }}
{{- end }}
{{- range $name, $of := dict "resources" .Values.resources "trainer.resources" .Values.trainer.resources }}
{{- range $what, $least := $of.requests }}
{{- $most := index ($of.limits) $what }}
{{- if and $most (gt (include "ctr.amount" $least | float64) (include "ctr.amount" $most | float64)) }}
{{- fail (printf "%s.requests.%s: %v is more than %s.limits.%s, %v" $name $what $least $name $what $most) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.gpu.count (hasSuffix "service-cpu" .Values.image.repository) }}
{{- fail (printf "gpu.count: needs an image with CUDA, and image.repository is %s" .Values.image.repository) }}
{{- end }}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" (include "ctr.name" .)) }}
{{- fail (printf "the release's name, %s, names a Service: it begins with a letter and has no dot" .Release.Name) }}
{{- end }}
{{- if and .Values.admin.keySecret.name (eq (int .Values.admin.port) 8000) }}
{{- fail "admin.port: 8000 is the scoring port" }}
{{- end }}
{{- $end := include "ctr.endSeconds" . | int }}
{{- $grace := .Values.gracePeriodSeconds | int }}
{{- if and $grace (lt $grace (sub $end 4 | int)) }}
{{- fail (printf "gracePeriodSeconds: %d is too short: preStopSeconds + lameDuckSeconds + drainSeconds + 6 is %d" $grace (sub $end 4)) }}
{{- end }}
{{- $noticed := mul .Values.readiness.periodSeconds .Values.readiness.failureThreshold }}
{{- if lt (.Values.lameDuckSeconds | float64) ($noticed | float64) }}
{{- fail (printf "lameDuckSeconds: %v is too short: who asks /ready notices after readiness.periodSeconds x readiness.failureThreshold, %d" .Values.lameDuckSeconds $noticed) }}
{{- end }}
{{- if and (eq (.Values.strategy.maxSurge | toString) "0") (eq (.Values.strategy.maxUnavailable | toString) "0") }}
{{- fail "strategy: maxSurge and maxUnavailable are both 0, so no pod could ever be replaced" }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas: %d is more than autoscaling.maxReplicas, %d" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- $watched := or .Values.monitoring.serviceMonitor .Values.autoscaling.enabled }}
{{- if and $watched (eq (.Values.settings.CTR_METRICS | default "on") "off") }}
{{- fail "settings.CTR_METRICS: monitoring and autoscaling need the metrics that it turns off" }}
{{- end }}
{{- range $name := list "requestLog" "feedback" "trainer" }}
{{- $place := index $.Values $name }}
{{- if and $place.existingClaim $place.volume }}
{{- fail (printf "%s: give existingClaim or volume, not both" $name) }}
{{- end }}
{{- end }}
{{- $events := or .Values.feedback.existingClaim .Values.feedback.volume }}
{{- if and $events (not .Values.feedback.keySecret.name) }}
{{- fail "feedback: needs feedback.keySecret.name, as only who has a key may send events" }}
{{- end }}
{{- if and .Values.feedback.keySecret.name (not $events) }}
{{- fail "feedback.keySecret: needs feedback.existingClaim or feedback.volume for the events" }}
{{- end }}
{{- if and .Values.admin.from (not .Values.admin.keySecret.name) }}
{{- fail "admin.from: needs admin.keySecret.name" }}
{{- end }}
{{- if and .Values.admin.from (not .Values.networkPolicy.enabled) }}
{{- fail "admin.from: needs networkPolicy.enabled, which keeps others away from the admin port" }}
{{- end }}
{{- if .Values.trainer.enabled }}
{{- with .Values.trainer }}
{{- if not .configMap }}{{ fail "trainer.configMap: name the ConfigMap with the feature spec" }}{{ end }}
{{- if not (or .existingClaim .volume) }}{{ fail "trainer: give existingClaim or volume with the data" }}{{ end }}
{{- if not .data }}{{ fail "trainer.data: name the files of the data, below /data" }}{{ end }}
{{- end }}
{{- range .Values.trainer.data }}
{{- if or (hasPrefix "/" .) (contains "://" .) (regexMatch "(^|/)[.][.](/|$)" .) }}
{{- fail (printf "trainer.data: %s is not below /data" .) }}
{{- end }}
{{- end }}
{{- if or $bundles.initContainer $bundles.path }}
{{- fail "trainer: writes into a volume of bundles; not with bundles.initContainer or bundles.path" }}
{{- end }}
{{- end }}
{{- end }}
