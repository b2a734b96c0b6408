{{/* A rule of egress. to: peers and ports; without peers, any address; without ports, no rule at all. udp: also UDP. */}}
{{- define "partition-operator.egress" -}}
{{- if .to.ports -}}
- ports:
  {{- range .to.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- if $.udp }}
    - {protocol: UDP, port: {{ . }}}
    {{- end }}
  {{- end }}
  {{- with .to.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The operator's pods, from any namespace. */}}
{{- define "partition-operator.operatorPeer" -}}
namespaceSelector:
  matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}
podSelector:
  matchLabels: {{- include "partition-operator.selector" . | nindent 4 }}
{{- end -}}

{{- define "partition-operator.watchedNamespaces" -}}
{{- if .Values.watchNamespaces -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: In
    values: {{- toYaml .Values.watchNamespaces | nindent 6 }}
{{- else -}}
{}
{{- end }}
{{- end -}}
