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

{{/* Labels of the pods that hold, restore and verify the volumes of Partitions. The operator sets them. */}}
{{- define "partition-operator.partitionPods" -}}
matchLabels:
  app.kubernetes.io/managed-by: partition-operator
matchExpressions:
  - {key: logstore.dev/partition, operator: Exists}
  - {key: app.kubernetes.io/component, operator: In, values: [{{ join ", " . }}]}
{{- end -}}

{{/* The pod of `helm test`. The Deployment must not select it. */}}
{{- define "partition-operator.testSelector" -}}
app.kubernetes.io/name: partition-operator-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "partition-operator.podLabels" -}}
{{- $own := include "partition-operator.selector" . | fromYaml }}
{{- range $key := keys .Values.podLabels }}
{{- if hasKey $own $key }}
{{- fail (printf "podLabels: %s is a label by which the operator's pods are found; choose another one" $key) }}
{{- end }}
{{- end }}
{{- toYaml (merge $own .Values.podLabels) }}
{{- end -}}

{{/* Of the variables with a place in the chart, the value that sets each. */}}
{{- define "partition-operator.extraEnv" -}}
{{- $places := dict
  "PARTITION_OPERATOR_NAMESPACE" "the release's namespace"
  "PARTITION_OPERATOR_IDENTITY" "the pod's name"
  "PARTITION_OPERATOR_IMAGE" "image"
  "PARTITION_OPERATOR_IMAGE_AUTO_UPDATE" "replicaImage.autoUpdate"
  "PARTITION_OPERATOR_WATCH" "watchNamespaces"
  "PARTITION_OPERATOR_WATCH_NODES" "watchNodes"
  "PARTITION_OPERATOR_CLUSTER_DOMAIN" "clusterDomain"
  "PARTITION_OPERATOR_LOG_LEVEL" "logLevel"
  "PARTITION_OPERATOR_WORKERS" "workers"
  "PARTITION_OPERATOR_BACKFILL_STALLED_SECONDS" "backfillStalledSeconds"
  "PARTITION_OPERATOR_CERTIFICATE_SECONDS" "certificates.lifetimeDays"
  "PARTITION_OPERATOR_AUTHORITY_SECONDS" "certificates.authorityLifetimeDays"
  "PARTITION_OPERATOR_AUTHORITY_OVERLAP_SECONDS" "certificates.overlapDays"
  "PARTITION_OPERATOR_HTTP_PORT" "the probes of the chart, which ask port 8080" }}
{{- range .Values.extraEnv }}
{{- $name := .name }}
{{- with get $places $name }}
{{- fail (printf "extraEnv: %s is set by %s; remove it from extraEnv" $name .) }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{- toYaml . }}
{{- end }}
{{- end -}}

{{- define "partition-operator.affinity" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "partition-operator.selector" . | nindent 12 }}
{{- end -}}

{{/* matchLabelKeys: an upgrade counts only the new pods, so that these do not share a node in the end. */}}
{{- define "partition-operator.spread" -}}
{{- range $n, $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
{{- if $n }}
{{ end -}}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "partition-operator.selector" $ | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end -}}

{{/* The operator's permissions in the watched namespaces. It can't list or watch Secrets. */}}
{{- define "partition-operator.rules" -}}
- apiGroups: [logstore.dev]
  resources: [partitions]
  verbs: [get, list, watch, patch]   # patch: the finalizer of spec.deletionPolicy SnapshotThenDelete
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
# The operator deletes unbound claims, to recreate them with another class or size, and the claims of members that get
# new volumes. With deletionPolicy SnapshotThenDelete it deletes all claims of a Partition that ends.
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

{{/* Only where it watches all namespaces: kopf looks for the CustomResourceDefinitions. */}}
{{- define "partition-operator.clusterRules" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [list, watch]
{{- end -}}

{{/* With watchNodes. A lost member's volume is kept: its reclaim policy is set to Retain before its claim goes. */}}
{{- define "partition-operator.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, patch]
- apiGroups: [storage.k8s.io]
  resources: [storageclasses, volumeattributesclasses]
  verbs: [get]
{{- end -}}

{{/* In its own namespace: the Lease, and the Secret with its certificate authority. */}}
{{- define "partition-operator.ownRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [partition-operator]
  verbs: [get, update]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [partition-operator-ca]
  verbs: [get, patch]
{{- end -}}
