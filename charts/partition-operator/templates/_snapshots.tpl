{{/* The fields of an object store, but where in it: the same in three places. */}}
{{- define "partition-operator.objectStoreFields" -}}
endpoint:
  description: A URL such as https://s3.example.org:9000; absent means Amazon S3 in the region.
  type: string
  maxLength: 512
  x-kubernetes-validations:
    - rule: self.matches('^https?://[^/]')
      message: "endpoint: a URL such as https://s3.example.org is allowed"
bucket:
  type: string
  maxLength: 63
  x-kubernetes-validations:
    - rule: self.matches('^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$')
      message: "bucket: 3 to 63 lower-case letters, digits, '.' and '-' are allowed"
region: {type: string, maxLength: 64}
credentialsSecretRef:
  description: >-
    A Secret in this namespace with the keys accessKeyId and secretAccessKey, and where needed
    sessionToken and ca.crt (PEM, trusted beside the system's).
  type: object
  required: [name]
  properties:
    name:
      description: The name of a Secret with the keys accessKeyId and secretAccessKey.
      type: string
      minLength: 1
      maxLength: 253
allowHTTP:
  description: Plain HTTP is refused without it.
  type: boolean
virtualHostedStyle:
  description: The bucket's name in the host instead of the path.
  type: boolean
{{- end -}}

{{- define "partition-operator.objectStore" -}}
type: object
required: [bucket, credentialsSecretRef]
x-kubernetes-validations:
  - rule: "!has(self.endpoint) || !self.endpoint.startsWith('http://') || (has(self.allowHTTP) && self.allowHTTP)"
    message: "endpoint: use https://, or set allowHTTP to true to send data and requests in the clear"
properties:
  prefix:
    description: The group's store is <prefix>/<namespace>/<partition>/<cluster ID>.
    type: string
    maxLength: 300
{{ include "partition-operator.objectStoreFields" . | indent 2 }}
{{- end -}}

{{- define "partition-operator.destination" -}}
type: object
x-kubernetes-validations:
  - rule: has(self.volume) != has(self.objectStore)
    message: "destination: one of volume and objectStore is wanted"
properties:
  volume:
    description: The volume of the replica that takes the snapshot; files are hard-linked.
    type: object
  objectStore:
    description: An S3-compatible store.
{{ include "partition-operator.objectStore" . | indent 4 }}
{{- end -}}

{{- define "partition-operator.conditions" -}}
type: array
x-kubernetes-list-type: map
x-kubernetes-list-map-keys: [type]
items:
  type: object
  required: [type, status, lastTransitionTime, reason, message]
  properties:
    type: {type: string}
    status: {type: string, enum: ['True', 'False', Unknown]}
    reason: {type: string}
    message: {type: string}
    lastTransitionTime: {type: string, format: date-time}
    observedGeneration: {type: integer, format: int64}
{{- end -}}

{{/* spec.snapshots of a Partition. */}}
{{- define "partition-operator.snapshots" -}}
description: Stored snapshots - where they go, on which schedule, how long they are kept.
type: object
x-kubernetes-validations:
  - rule: "!has(self.schedule) || has(self.destination)"
    message: "spec.snapshots.destination: a schedule needs one"
properties:
  schedule:
    description: >-
      Five cron fields - minute, hour, day of month, month, day of week - such as '0 3 * * *'.
      Absent, snapshots are taken on demand alone.
    type: string
    maxLength: 100
    x-kubernetes-validations:
      - rule: self.matches('^\\s*\\S+(\\s+\\S+){4}\\s*$')
        message: "spec.snapshots.schedule: five fields are allowed, minute hour day-of-month month day-of-week, such as '0 3 * * *'; seconds are not supported"
  timeZone:
    description: A name of the IANA database.
    type: string
    maxLength: 64
    default: Etc/UTC
  startingDeadlineSeconds:
    description: >-
      A run that could not start within it is missed. Absent, the newest that is due starts late;
      older ones are missed in any case.
    type: integer
    format: int32
    minimum: 10
  suspend:
    description: Nothing is scheduled; what was due meanwhile is not made up for.
    type: boolean
  immediate:
    description: One snapshot at once, when the schedule is made; where that is suspended, afterwards.
    type: boolean
  retention:
    description: >-
      Of all snapshots of this Partition but those annotated logstore.dev/pinned "true". Failed ones
      are kept for reading, the newest three.
    type: object
    properties:
      count:
        description: So many good ones are kept.
        type: integer
        format: int32
        minimum: 1
      maxAge:
        description: A duration above 0 such as 720h or 30d. Older snapshots are removed.
        type: string
        maxLength: 32
        pattern: '^([0-9]{1,7}[smhd]){1,4}$'
        x-kubernetes-validations:
          - rule: "self.findAll('[0-9]+[smhd]').map(x, int(x.substring(0, x.size() - 1)) * (x.endsWith('d') ? 86400 : x.endsWith('h') ? 3600 : x.endsWith('m') ? 60 : 1)).sum() <= 3153600000"
            message: "spec.snapshots.retention.maxAge: at most 36500d; leave it out for ever"
      minSuccessful:
        description: So many good ones stay, however old.
        type: integer
        format: int32
        minimum: 0
        default: 1
  verify:
    description: >-
      How a snapshot is proven once it is stored - None, Checksum (every object is read again), or
      Restore (it is restored in a throw-away pod and compared).
    type: string
    enum: [None, Checksum, Restore]
    default: Checksum
  destination:
{{ include "partition-operator.destination" . | indent 4 }}
{{- end -}}

{{/* What of spec.bootstrap restores. */}}
{{- define "partition-operator.bootstrapSources" -}}
snapshotRef:
  description: >-
    A PartitionSnapshot of this namespace. Keys, files, modes and LSNs continue; the cluster ID is
    new. It is waited for.
  type: object
  required: [name]
  properties:
    name:
      description: The name of a PartitionSnapshot in this namespace.
      type: string
      minLength: 1
      maxLength: 253
objectStore:
  description: A store in a bucket; the cluster that wrote it need not exist any more.
  type: object
  required: [bucket, credentialsSecretRef, path]
  x-kubernetes-validations:
    - rule: "!has(self.endpoint) || !self.endpoint.startsWith('http://') || (has(self.allowHTTP) && self.allowHTTP)"
      message: "endpoint: use https://, or set allowHTTP to true to send data and requests in the clear"
  properties:
    path:
      description: The store's root in the bucket - the folder that holds format.json.
      type: string
      maxLength: 512
    snapshot:
      description: A snapshot's ID, or latest.
      type: string
      maxLength: 63
      default: latest
{{ include "partition-operator.objectStoreFields" . | indent 4 }}
{{- end -}}
