{{- /* The host to listen on: an unbracketed IPv6 address is understood, empty means every address. */ -}}
{{- define "tollgate.listenHost" -}}
{{- if eq .Values.listenOn "podIP" }}${env:MY_POD_IP}{{ end -}}
{{- end -}}

{{- /* The text of collector.yaml. */ -}}
{{- define "tollgate.config" -}}
{{- if .Values.config }}{{ include "tollgate.text" .Values.config }}{{ else }}{{ include "tollgate.generatedConfig" . }}{{ end -}}
{{- end -}}

{{- define "tollgate.generatedConfig" -}}
{{- $host := include "tollgate.listenHost" . -}}
{{- $exporter := ternary "debug" (ternary "otlp_grpc" "otlp_http" (eq .Values.destination.protocol "grpc")) (empty .Values.destination.endpoint) -}}
{{- $extensions := list "health_check" -}}
{{- if include "tollgate.policiesMapName" . }}{{ $extensions = append $extensions "policies" }}{{ end -}}
{{- if include "tollgate.keepsQueue" . }}{{ $extensions = append $extensions "file_storage" }}{{ end -}}
{{- $extensions = append $extensions "admin" -}}
{{- $processors := list "memory_limiter" "tenant" "sampling" -}}
{{- if include "tollgate.knowsPods" . }}
  {{- $extensions = append $extensions "pods" }}
  {{- $processors = list "memory_limiter" "k8s_attributes" "tenant" "sampling" }}
{{- end -}}
receivers:
  otlp:
    protocols:
      {{- if .Values.ports.otlp.enabled }}
      grpc:
        endpoint: {{ printf "%s:%d" $host (int .Values.ports.otlp.containerPort) | quote }}
      {{- end }}
      {{- if (index .Values.ports "otlp-http").enabled }}
      http:
        endpoint: {{ printf "%s:%d" $host (int (index .Values.ports "otlp-http").containerPort) | quote }}
      {{- end }}

processors:
  # Refuses before the container's memory limit would kill the process.
  memory_limiter:
    check_interval: 1s
    limit_percentage: 80
    spike_limit_percentage: 20
  {{- with .Values.presets.kubernetesAttributes }}
  {{- if .enabled }}
  k8s_attributes:
    {{- if not (include "tollgate.isAgent" $) }}
    # Data comes through agents and other collectors: it says itself which pod it is of.
    pod_association:
      - sources: [{ from: resource_attribute, name: k8s.pod.ip }]
      - sources: [{ from: resource_attribute, name: k8s.pod.uid }]
      - sources: [{ from: connection }]
    {{- end }}
    extract:
      metadata:
        - k8s.namespace.name
        - k8s.deployment.name
        - k8s.statefulset.name
        - k8s.daemonset.name
        - k8s.cronjob.name
        - k8s.job.name
        - k8s.node.name
        - k8s.pod.name
        - k8s.pod.uid
        - k8s.pod.start_time
      {{- if .extractAllPodLabels }}
      labels: [{ tag_name: "$$1", key_regex: "(.*)", from: pod }]
      {{- end }}
      {{- if .extractAllPodAnnotations }}
      annotations: [{ tag_name: "$$1", key_regex: "(.*)", from: pod }]
      {{- end }}
  {{- end }}
  {{- end }}
  tenant:
  sampling:

exporters:
  {{- if eq $exporter "debug" }}
  debug:
  {{- else }}
  {{ $exporter }}:
    endpoint: {{ .Values.destination.endpoint | quote }}
    compression: {{ .Values.destination.compression }}
    {{- with .Values.destination.tls }}
    tls:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.destination.headers }}
    headers:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    sending_queue:
      {{- if include "tollgate.keepsQueue" . }}
      storage: file_storage
      {{- else }}
      max_bytes: {{ default (ternary "64MiB" "256MiB" (eq .Values.mode "daemonset")) .Values.destination.queueBytes }}
      {{- end }}
  {{- end }}

extensions:
  health_check:
    endpoint: {{ printf "%s:%s" $host (include "tollgate.healthPort" .) | quote }}
    {{- with .Values.readinessProbe }}
    path: {{ .httpGet.path | quote }}
    {{- end }}
  {{- if has "policies" $extensions }}
  # The file is named by --policies.
  policies:
    {{- if .Values.policies.lastGood.enabled }}
    last_good: /var/lib/tollgate/policies.last-good.yaml
    {{- end }}
    {{- if .Values.policies.watch.enabled }}
    config_map: { name: {{ include "tollgate.policiesMapName" . }}, key: {{ .Values.policies.configMap.key }} }
    {{- end }}
  {{- end }}
  {{- if has "pods" $extensions }}
  pods:
    {{- if include "tollgate.isAgent" . }}
    filter: { node_from_env_var: K8S_NODE_NAME }
    {{- else }}
    cluster_wide: true
    {{- end }}
  {{- end }}
  {{- if include "tollgate.keepsQueue" . }}
  # On the claimed volume: what was answered with OK survives the pod.
  file_storage:
    directory: /var/lib/tollgate/queue
    max_size: {{ .Values.destination.persistence.maxSize }}
  {{- end }}
  # On the pod's loopback: kubectl port-forward reaches it.
  admin:

service:
  extensions: [{{ join ", " $extensions }}]
  {{- if .Values.ports.metrics.enabled }}
  telemetry:
    metrics:
      readers:
        - pull: { exporter: { prometheus: { host: {{ default "::" $host | quote }}, port: {{ int .Values.ports.metrics.containerPort }} } } }
  {{- end }}
  pipelines:
    {{- range list "traces" "metrics" "logs" }}
    {{ . }}: { receivers: [otlp], processors: [{{ join ", " $processors }}], exporters: [{{ $exporter }}] }
    {{- end }}
{{- end -}}

{{- /* The text of policies.yaml. */ -}}
{{- define "tollgate.policies" -}}
{{- if .Values.policies.config }}{{ include "tollgate.text" .Values.policies.config }}{{ else }}{{ .Files.Get "files/policies.yaml" }}{{ end -}}
{{- end -}}
