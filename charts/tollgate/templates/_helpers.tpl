{{- /* Names. */ -}}

{{- define "tollgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Room for the longest suffix: names of services and of pods' labels have 63 characters. */ -}}
{{- define "tollgate.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "tollgate.workloadName" -}}
{{- include "tollgate.fullname" . -}}{{- if eq .Values.mode "daemonset" -}}-agent{{- end -}}
{{- end -}}

{{- /* Of the whole cluster, where releases of other namespaces may have the same name. */ -}}
{{- define "tollgate.clusterRoleName" -}}
{{- printf "%s-%s" (include "tollgate.namespace" .) (include "tollgate.workloadName" .) -}}
{{- end -}}

{{- define "tollgate.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "tollgate.serviceAccountName" -}}
{{- default (ternary (include "tollgate.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "tollgate.image" -}}
{{- $registry := .Values.global.imageRegistry -}}
{{- $repository := required "image.repository is needed: no image is published yet. Build one with the project's Containerfile, push it, and give its place: --set image.repository=registry.example.com/tollgate" .Values.image.repository -}}
{{- if $registry }}{{ $registry | trimSuffix "/" }}/{{ end }}{{ $repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end -}}

{{- define "tollgate.configMapName" -}}
{{- if .Values.configMap.create }}{{ include "tollgate.workloadName" . }}-config{{ else }}{{ .Values.configMap.existingName }}{{ end -}}
{{- end -}}

{{- /* Empty if there is no policies file. */ -}}
{{- define "tollgate.policiesMapName" -}}
{{- if .Values.policies.configMap.create }}{{ include "tollgate.workloadName" . }}-policies{{ else }}{{ .Values.policies.configMap.existingName }}{{ end -}}
{{- end -}}

{{- /* Labels. What selects never changes in a release: Kubernetes refuses to change it. */ -}}

{{- define "tollgate.component" -}}
{{- get (dict "daemonset" "agent-collector" "deployment" "standalone-collector" "statefulset" "statefulset-collector") .Values.mode -}}
{{- end -}}

{{- define "tollgate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tollgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ include "tollgate.component" . }}
{{- end -}}

{{- define "tollgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "tollgate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: opentelemetry-collector
{{- with .Values.additionalLabels }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end -}}

{{- /* The head of an object: name, namespace, labels, annotations. Takes root, name, annotations, labels. */ -}}
{{- define "tollgate.metadata" -}}
name: {{ .name }}
namespace: {{ default (include "tollgate.namespace" .root) .namespace }}
labels:
  {{- include "tollgate.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Questions asked in several places; "true" or empty. */ -}}

{{- define "tollgate.isAgent" -}}
{{- if eq .Values.mode "daemonset" }}true{{ end -}}
{{- end -}}

{{- define "tollgate.knowsPods" -}}
{{- with .Values.presets.kubernetesAttributes }}{{ if .enabled }}true{{ end }}{{ end -}}
{{- end -}}

{{- define "tollgate.asksApiServer" -}}
{{- if or .Values.policies.watch.enabled (include "tollgate.knowsPods" .) }}true{{ end -}}
{{- end -}}

{{- define "tollgate.hasService" -}}
{{- if kindIs "invalid" .Values.service.enabled -}}
{{- if not (include "tollgate.isAgent" .) }}true{{ end -}}
{{- else if .Values.service.enabled -}}
true
{{- end -}}
{{- end -}}

{{- define "tollgate.isScaled" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled }}true{{ end -}}
{{- end -}}

{{- define "tollgate.hasClaims" -}}
{{- if and (eq .Values.mode "statefulset") .Values.policies.lastGood.enabled .Values.policies.lastGood.persistence.enabled }}true{{ end -}}
{{- end -}}

{{- define "tollgate.keepsQueue" -}}
{{- if and (eq .Values.mode "statefulset") .Values.destination.persistence.enabled }}true{{ end -}}
{{- end -}}

{{- /* A claim for each pod: name and values. */ -}}
{{- define "tollgate.claim" -}}
- metadata:
    name: {{ .name }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .values.storageClassName }}
    storageClassName: {{ . }}
    {{- end }}
    resources: { requests: { storage: {{ .values.size }} } }
{{- end -}}

{{- define "tollgate.healthPort" -}}
{{- with .Values.readinessProbe }}{{ .httpGet.port | int }}{{ else }}13133{{ end -}}
{{- end -}}

{{- define "tollgate.gracePeriod" -}}
{{- $needed := add (ternary 0 .Values.preStopSleepSeconds (not (empty .Values.lifecycleHooks))) .Values.shutdownGraceSeconds -}}
{{- default (add $needed 5) .Values.terminationGracePeriodSeconds | int -}}
{{- end -}}

{{- /* A map or a text, as text. */ -}}
{{- define "tollgate.text" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- /* A text as the value of a key of `data`, without blanks on empty lines. */ -}}
{{- define "tollgate.indented" -}}
{{- regexReplaceAll "(?m)^ +$" (. | trimSuffix "\n" | nindent 4) "" -}}
{{- end -}}

{{- define "tollgate.resources" -}}
{{- if .Values.resources -}}
{{- toYaml .Values.resources -}}
{{- else if include "tollgate.isAgent" . -}}
requests: { cpu: 100m, memory: 128Mi }
limits: { memory: 256Mi }
{{- else -}}
requests: { cpu: 500m, memory: 512Mi }
limits: { memory: 1Gi }
{{- end -}}
{{- end -}}
