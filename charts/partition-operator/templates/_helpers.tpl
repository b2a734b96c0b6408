{{- define "partition-operator.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "partition-operator.selector" -}}
app.kubernetes.io/name: partition-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "partition-operator.labels" -}}
{{ include "partition-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* The operator's permissions in the watched namespaces. It can't list or watch Secrets. */}}
{{- define "partition-operator.rules" -}}
- apiGroups: [logstore.dev]
  resources: [partitions]
  verbs: [get, list, watch]
- apiGroups: [logstore.dev]
  resources: [partitions/status, partitionsnapshots/status]
  verbs: [patch]
- apiGroups: [logstore.dev]
  resources: [partitionsnapshots]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# The operator deletes only unbound claims, to recreate them with another class or size.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# The operator deletes only Secrets of clients that spec.clients no longer names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
# For spec.tls.issuerRef.
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [get, list, create, patch]
{{- end -}}
