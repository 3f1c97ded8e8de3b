{{- /* What the schema cannot say. Every message says what to do. */ -}}
{{- define "tollgate.validate" -}}
{{- range $preset, $values := .Values.presets }}
  {{- if and (ne $preset "kubernetesAttributes") $values $values.enabled }}
    {{- fail (printf "presets.%s: Tollgate has no such preset yet. Run an OpenTelemetry Collector with it and let it send OTLP to Tollgate." $preset) }}
  {{- end }}
{{- end }}

{{- if and (not .Values.configMap.create) (not .Values.configMap.existingName) }}
  {{- fail "configMap.existingName is needed with configMap.create: false" }}
{{- end }}
{{- if and .Values.configMap.create .Values.configMap.existingName }}
  {{- fail "configMap.existingName is set: set configMap.create: false too" }}
{{- end }}
{{- if and .Values.policies.configMap.create .Values.policies.configMap.existingName }}
  {{- fail "policies.configMap.existingName is set: set policies.configMap.create: false too" }}
{{- end }}
{{- if and .Values.config (not .Values.configMap.create) }}
  {{- fail "config is not used with configMap.create: false; remove one of the two" }}
{{- end }}
{{- if and .Values.policies.config (not .Values.policies.configMap.create) }}
  {{- fail "policies.config is not used with policies.configMap.create: false; remove one of the two" }}
{{- end }}
{{- if and .Values.destination.endpoint (or .Values.config (not .Values.configMap.create)) }}
  {{- fail "destination is not used with a configuration of your own: write the exporter there" }}
{{- end }}
{{- if .Values.policies.watch.enabled }}
  {{- if not (include "tollgate.policiesMapName" .) }}
    {{- fail "policies.watch.enabled: there is no ConfigMap to follow; set policies.configMap.create: true or policies.configMap.existingName" }}
  {{- end }}
  {{- if and .Values.configMap.create .Values.config (not (regexMatch "config_map\\W" (include "tollgate.text" .Values.config))) }}
    {{- fail (printf "policies.watch.enabled: your config does not follow the ConfigMap; write `config_map: { name: %s }` in its extension `policies`" (include "tollgate.policiesMapName" .)) }}
  {{- end }}
{{- end }}
{{- if and (include "tollgate.knowsPods" .) .Values.configMap.create .Values.config (not (regexMatch "k8s_?attributes\\W|pods\\W" (include "tollgate.text" .Values.config))) }}
  {{- fail "presets.kubernetesAttributes.enabled: your config does not watch pods; write the processor `k8s_attributes` or the extension `pods` in it" }}
{{- end }}
{{- if and (include "tollgate.asksApiServer" .) .Values.rbac.create (eq (include "tollgate.serviceAccountName" .) "default") }}
  {{- fail "policies.watch.enabled and presets.kubernetesAttributes.enabled would grant rights to the ServiceAccount `default`, which others use: set serviceAccount.create: true or serviceAccount.name" }}
{{- end }}
{{- range $name, $text := dict "config" (include "tollgate.text" .Values.config) "policies.config" (include "tollgate.text" .Values.policies.config) }}
  {{- if gt (len $text) 1000000 }}
    {{- fail (printf "%s has %d bytes; a ConfigMap holds one MiB" $name (len $text)) }}
  {{- end }}
{{- end }}

{{- if and .Values.configMap.create .Values.config (or .Values.readinessProbe .Values.livenessProbe) }}
  {{- $config := .Values.config }}
  {{- if kindIs "string" $config }}
    {{- $config = fromYaml $config }}
    {{- with $config.Error }}{{ fail (printf "config is not YAML: %s" .) }}{{ end }}
  {{- end }}
  {{- $reachable := false }}
  {{- range (dig "service" "extensions" list $config) }}
    {{- if regexMatch "^health_check(/|$)" . }}
      {{- $check := default dict (get (default dict $config.extensions) .) }}
      {{- $host := regexReplaceAll ":[^:]*$" (default "localhost:13133" $check.endpoint) "" }}
      {{- if not (has $host (list "localhost" "127.0.0.1" "::1" "[::1]")) }}{{ $reachable = true }}{{ end }}
    {{- end }}
  {{- end }}
  {{- if not $reachable }}
    {{- fail (printf "config: the probes ask the extension health_check on the pod's address. Add `health_check: { endpoint: '${env:MY_POD_IP}:%s' }` to extensions and its name to service.extensions, or set readinessProbe and livenessProbe to null" (include "tollgate.healthPort" .)) }}
  {{- end }}
{{- end }}
{{- if not .Values.config }}
  {{- if not (or .Values.ports.otlp.enabled (index .Values.ports "otlp-http").enabled) }}
    {{- fail "ports: enable otlp or otlp-http; the generated configuration would receive nothing" }}
  {{- end }}
  {{- if and .Values.readinessProbe .Values.livenessProbe }}
    {{- if or (ne (int .Values.readinessProbe.httpGet.port) (int .Values.livenessProbe.httpGet.port)) (ne .Values.readinessProbe.httpGet.path .Values.livenessProbe.httpGet.path) }}
      {{- fail "livenessProbe.httpGet and readinessProbe.httpGet must be the same: there is one health check" }}
    {{- end }}
  {{- end }}
{{- end }}

{{- $agent := include "tollgate.isAgent" . }}
{{- range $key := list "podDisruptionBudget" "autoscaling" "keda" "ingress" }}
  {{- if and $agent (index $.Values $key).enabled }}
    {{- fail (printf "%s is for gateways: mode deployment or statefulset" $key) }}
  {{- end }}
{{- end }}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled }}
  {{- fail "autoscaling and keda: enable one of the two, they would fight over the replicas" }}
{{- end }}
{{- if and .Values.keda.enabled (not .Values.keda.triggers) }}
  {{- fail "keda.triggers is empty: nothing would scale" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.targetCPUUtilizationPercentage) (not .Values.autoscaling.targetMemoryUtilizationPercentage) (not .Values.autoscaling.additionalMetrics) }}
  {{- fail "autoscaling has no metric: set a target" }}
{{- end }}
{{- if and .Values.policies.lastGood.persistence.enabled (not (include "tollgate.hasClaims" .)) }}
  {{- fail "policies.lastGood.persistence is for mode statefulset with policies.lastGood.enabled" }}
{{- end }}
{{- if and .Values.destination.persistence.enabled (ne .Values.mode "statefulset") }}
  {{- fail "destination.persistence is for mode statefulset: only its pods keep their volumes" }}
{{- end }}
{{- if and .Values.destination.persistence.enabled .Values.destination.queueBytes }}
  {{- fail "destination.queueBytes is memory, and destination.persistence keeps the queue on disk: set one of the two" }}
{{- end }}
{{- with .Values.destination.persistence }}
  {{- if and .enabled (hasSuffix "Gi" .size) (hasSuffix "GiB" .maxSize) }}
    {{- if ge (trimSuffix "GiB" .maxSize | float64) (trimSuffix "Gi" .size | float64) }}
      {{- fail (printf "destination.persistence.maxSize (%s) must be less than size (%s): the file system and the queue's reserve need some of it" .maxSize .size) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not (include "tollgate.hasService" .)) }}
  {{- fail "ingress needs the Service: service.enabled" }}
{{- end }}
{{- range $key := list "podMonitor" "serviceMonitor" }}
  {{- if and (index $.Values $key).enabled (not $.Values.ports.metrics.enabled) }}
    {{- fail (printf "%s needs the metrics on the pod's address: set ports.metrics.enabled: true" $key) }}
  {{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not (include "tollgate.hasService" .)) }}
  {{- fail "serviceMonitor needs the Service: set service.enabled: true, or use podMonitor" }}
{{- end }}

{{- $strategies := get (dict "daemonset" (list "RollingUpdate" "OnDelete") "deployment" (list "RollingUpdate" "Recreate") "statefulset" (list "RollingUpdate" "OnDelete")) .Values.mode }}
{{- if not (has .Values.rollout.strategy $strategies) }}
  {{- fail (printf "rollout.strategy %s does not exist for mode %s; there are: %s" .Values.rollout.strategy .Values.mode (join ", " $strategies)) }}
{{- end }}
{{- if and $agent .Values.rollout.rollingUpdate.maxSurge }}
  {{- range $name, $port := .Values.ports }}
    {{- if and $port.enabled (or $port.hostPort $.Values.hostNetwork) }}
      {{- fail (printf "rollout.rollingUpdate.maxSurge: two agents cannot hold a port of one node; set ports.%s.hostPort: 0 or use maxUnavailable" $name) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $drain := add (ternary 0 .Values.preStopSleepSeconds (not (empty .Values.lifecycleHooks))) .Values.shutdownGraceSeconds 2 }}
{{- if lt (include "tollgate.gracePeriod" . | int) (int $drain) }}
  {{- fail (printf "terminationGracePeriodSeconds must be at least %d: preStopSleepSeconds + shutdownGraceSeconds + 2, or what is queued is lost" (int $drain)) }}
{{- end }}
{{- end -}}
