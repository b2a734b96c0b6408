{{/* The fields of an object store without prefix or path. Three places use them. */}}
{{- define "partition-operator.objectStoreFields" -}}
endpoint:
  description: A URL such as https://s3.example.org:9000. If it is absent, Amazon S3 in the region.
  type: string
  maxLength: 512
  x-kubernetes-validations:
    - rule: self.matches('^https?://[^/]')
      message: "endpoint: a URL such as https://s3.example.org is allowed"
bucket:
  description: The name of the bucket.
  type: string
  maxLength: 63
  x-kubernetes-validations:
    - rule: self.matches('^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$')
      message: "bucket: 3 to 63 lower-case letters, digits, '.' and '-' are allowed"
region: {description: 'The region of the bucket. If it is absent, us-east-1.', type: string, maxLength: 64}
credentialsSecretRef:
  description: >-
    A Secret in this namespace with the keys accessKeyId and secretAccessKey. It may also have
    sessionToken, and ca.crt (PEM, trusted beside the authorities of the system).
  type: object
  required: [name]
  properties:
    name:
      description: The name of a Secret with the keys accessKeyId and secretAccessKey.
      type: string
      minLength: 1
      maxLength: 253
allowHTTP:
  description: True allows an endpoint with plain HTTP.
  type: boolean
virtualHostedStyle:
  description: True puts the name of the bucket into the host instead of the path.
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
    description: A path in the bucket. The group's store is `<prefix>/<namespace>/<partition>/<cluster ID>`.
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
    description: The volume of the replica that takes the snapshot. Files are hard-linked.
    type: object
  objectStore:
    description: An S3-compatible store.
{{ include "partition-operator.objectStore" . | indent 4 }}
{{- end -}}

{{- define "partition-operator.conditions" -}}
description: docs/operations/troubleshooting.md says what each condition means.
type: array
x-kubernetes-list-type: map
x-kubernetes-list-map-keys: [type]
items:
  type: object
  required: [type, status, lastTransitionTime, reason, message]
  properties:
    type: {description: What the condition is about., type: string}
    status: {description: Whether it holds., type: string, enum: ['True', 'False', Unknown]}
    reason: {description: 'Why, in one word.', type: string}
    message: {description: 'Why, for people.', type: string}
    lastTransitionTime: {description: When status last changed., type: string, format: date-time}
    observedGeneration: {description: The generation of the spec that the condition describes., type: integer, format: int64}
{{- end -}}

{{/* spec.snapshots of a Partition. */}}
{{- define "partition-operator.snapshots" -}}
description: Stored snapshots. Where they go, on which schedule, and how long they are kept.
type: object
x-kubernetes-validations:
  - rule: "!has(self.schedule) || has(self.destination)"
    message: "spec.snapshots.destination: a schedule needs one"
properties:
  schedule:
    description: >-
      Five cron fields, such as `0 3 * * *`: minute, hour, day of month, month, day of week. If it
      is absent, snapshots are only taken on demand.
    type: string
    maxLength: 100
    x-kubernetes-validations:
      - rule: self.matches('^\\s*\\S+(\\s+\\S+){4}\\s*$')
        message: "spec.snapshots.schedule: five fields are allowed, minute hour day-of-month month day-of-week, such as '0 3 * * *'; seconds are not supported"
  timeZone:
    description: The time zone of the schedule, a name of the IANA database.
    type: string
    maxLength: 64
    default: Etc/UTC
  startingDeadlineSeconds:
    description: >-
      A run that cannot start within so many seconds is missed. If it is absent, the newest due run
      starts late. Older runs are always missed.
    type: integer
    format: int32
    minimum: 10
  suspend:
    description: True stops the schedule. Runs that are due meanwhile are never started.
    type: boolean
  immediate:
    description: True takes one snapshot at once when the schedule is made. If the schedule is suspended, it is taken afterwards.
    type: boolean
  retention:
    description: >-
      Which snapshots of this Partition are kept, beside those with the annotation
      logstore.dev/pinned "true". The newest three failed ones are kept, too.
    type: object
    properties:
      count:
        description: The number of good snapshots that are kept.
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
        description: The number of good snapshots that stay, no matter how old.
        type: integer
        format: int32
        minimum: 0
        default: 1
  verify:
    description: >-
      How a stored snapshot is verified. Checksum reads every object again. Restore restores it in a
      pod that is removed afterwards, and compares the states.
    type: string
    enum: [None, Checksum, Restore]
    default: Checksum
  destination:
    description: Where snapshots go. A schedule needs it.
{{ include "partition-operator.destination" . | indent 4 }}
{{- end -}}

{{/* The fields of spec.bootstrap that restore a snapshot. */}}
{{- define "partition-operator.bootstrapSources" -}}
snapshotRef:
  description: >-
    A PartitionSnapshot of this namespace, which the operator waits for. Keys, files, modes and LSNs
    continue. The cluster ID is new.
  type: object
  required: [name]
  properties:
    name:
      description: The name of a PartitionSnapshot in this namespace.
      type: string
      minLength: 1
      maxLength: 253
objectStore:
  description: A store in a bucket. The cluster that wrote it need not exist any more.
  type: object
  required: [bucket, credentialsSecretRef, path]
  x-kubernetes-validations:
    - rule: "!has(self.endpoint) || !self.endpoint.startsWith('http://') || (has(self.allowHTTP) && self.allowHTTP)"
      message: "endpoint: use https://, or set allowHTTP to true to send data and requests in the clear"
  properties:
    path:
      description: The store's root in the bucket, which is the folder that holds format.json.
      type: string
      maxLength: 512
    snapshot:
      description: A snapshot's ID, or latest.
      type: string
      maxLength: 63
      default: latest
{{ include "partition-operator.objectStoreFields" . | indent 4 }}
{{- end -}}
