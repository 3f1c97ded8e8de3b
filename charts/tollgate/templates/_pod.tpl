{{- define "tollgate.podTemplate" -}}
metadata:
  labels:
    {{- include "tollgate.selectorLabels" . | nindent 4 }}
    {{- with .Values.additionalLabels }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
    {{- with .Values.podLabels }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- $checksum := and .Values.enableConfigChecksumAnnotation .Values.configMap.create }}
  {{- if or $checksum .Values.podAnnotations }}
  annotations:
    {{- if $checksum }}
    checksum/config: {{ include "tollgate.config" . | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "tollgate.serviceAccountName" . }}
  automountServiceAccountToken: {{ or .Values.serviceAccount.automountServiceAccountToken (not (empty (include "tollgate.asksApiServer" .))) }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "tollgate.gracePeriod" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  {{- end }}
  dnsPolicy: {{ default (ternary "ClusterFirstWithHostNet" "ClusterFirst" .Values.hostNetwork) .Values.dnsPolicy }}
  {{- range $key := list "priorityClassName" "runtimeClassName" "schedulerName" }}
  {{- with index $.Values $key }}
  {{ $key }}: {{ . }}
  {{- end }}
  {{- end }}
  {{- range $key := list "dnsConfig" "hostAliases" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with index $.Values $key }}
  {{ $key }}:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  containers:
    - name: tollgate
      {{- include "tollgate.container" . | nindent 6 }}
    {{- with .Values.extraContainers }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "tollgate.configMapName" . }}
        items: [{ key: {{ .Values.configMap.key }}, path: collector.yaml }]
    {{- with include "tollgate.policiesMapName" . }}
    - name: policies
      configMap:
        name: {{ . }}
        items: [{ key: {{ $.Values.policies.configMap.key }}, path: policies.yaml }]
    {{- end }}
    {{- if and .Values.policies.lastGood.enabled (not (include "tollgate.hasClaims" .)) }}
    - name: last-good
      emptyDir: { sizeLimit: 8Mi }
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "tollgate.container" -}}
image: {{ include "tollgate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - run
  - --config=/etc/tollgate/config/collector.yaml
  {{- if include "tollgate.policiesMapName" . }}
  - --policies=/etc/tollgate/policies/policies.yaml
  {{- end }}
  - --shutdown-grace={{ .Values.shutdownGraceSeconds }}s
  {{- with .Values.workers }}
  - --workers={{ . }}
  {{- end }}
  {{- with .Values.command.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- range $name, $port := .Values.ports }}
  {{- if $port.enabled }}
  - name: {{ $name }}
    containerPort: {{ $port.containerPort }}
    protocol: {{ default "TCP" $port.protocol }}
    {{- if and $port.hostPort (include "tollgate.isAgent" $) (not $.Values.hostNetwork) }}
    hostPort: {{ $port.hostPort }}
    {{- end }}
  {{- end }}
  {{- end }}
  - name: health
    containerPort: {{ include "tollgate.healthPort" . }}
    protocol: TCP
env:
  - { name: MY_POD_IP, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: status.podIP } } }
  - { name: K8S_NODE_NAME, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: spec.nodeName } } }
  - { name: OTEL_K8S_NODE_NAME, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: spec.nodeName } } }
  - { name: OTEL_K8S_NODE_IP, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: status.hostIP } } }
  - { name: OTEL_K8S_NAMESPACE, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: metadata.namespace } } }
  - { name: OTEL_K8S_POD_NAME, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: metadata.name } } }
  - { name: OTEL_K8S_POD_IP, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: status.podIP } } }
  {{- with .Values.extraEnvs }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnvsFrom }}
envFrom:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
{{- if .Values.lifecycleHooks }}
lifecycle:
  {{- toYaml .Values.lifecycleHooks | nindent 2 }}
{{- else if .Values.preStopSleepSeconds }}
lifecycle:
  preStop: { sleep: { seconds: {{ .Values.preStopSleepSeconds }} } }
{{- end }}
{{- if and .Values.livenessProbe (kindIs "map" .Values.startupProbe) (not .Values.startupProbe) }}
startupProbe:
  httpGet:
    {{- toYaml .Values.livenessProbe.httpGet | nindent 4 }}
  periodSeconds: 2
  timeoutSeconds: {{ default 1 .Values.livenessProbe.timeoutSeconds }}
  failureThreshold: 150
{{- end }}
{{- range $key := list "startupProbe" "livenessProbe" "readinessProbe" "resizePolicy" }}
{{- with index $.Values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
resources:
  {{- include "tollgate.resources" . | nindent 2 }}
volumeMounts:
  - { name: config, mountPath: /etc/tollgate/config, readOnly: true }
  {{- if include "tollgate.policiesMapName" . }}
  # The directory, never a subPath: only so a change arrives.
  - { name: policies, mountPath: /etc/tollgate/policies, readOnly: true }
  {{- end }}
  {{- if .Values.policies.lastGood.enabled }}
  - { name: last-good, mountPath: /var/lib/tollgate }
  {{- end }}
  {{- if include "tollgate.keepsQueue" . }}
  - { name: queue, mountPath: /var/lib/tollgate/queue }
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
{{- end -}}
