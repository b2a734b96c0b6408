"""The types of spec and status in the CRDs, and the rules of single fields.

Generated from charts/partition-operator by `make generate`. docs/reference describes the fields.
"""

from typing import Any, Literal, NotRequired, TypedDict

from partition_operator.api.rule import Rule


class Replication(TypedDict):
    mode: NotRequired[Literal["None", "Raft"]]


class Autogrow(TypedDict):
    whenFreeBelow: str
    step: str
    max: str


class SnapshotRef(TypedDict):
    name: str


class CredentialsSecretRef(TypedDict):
    name: str


class Retention(TypedDict):
    count: NotRequired[int]
    maxAge: NotRequired[str]
    minSuccessful: NotRequired[int]


class ObjectStore(TypedDict):
    prefix: NotRequired[str]
    endpoint: NotRequired[str]
    bucket: str
    region: NotRequired[str]
    credentialsSecretRef: CredentialsSecretRef
    allowHTTP: NotRequired[bool]
    virtualHostedStyle: NotRequired[bool]


class Resources(TypedDict):
    requests: NotRequired[dict[str, int | str]]
    limits: NotRequired[dict[str, int | str]]


class Settings(TypedDict):
    electionTimeoutMilliseconds: NotRequired[int]
    heartbeatIntervalMilliseconds: NotRequired[int]
    logTrailEntries: NotRequired[int]
    logTrailSize: NotRequired[str]
    diskReserve: NotRequired[str]
    consumerLagEntries: NotRequired[int]


class MaintenanceWindow(TypedDict):
    schedule: str
    durationMinutes: int
    timeZone: NotRequired[str]


class Client(TypedDict):
    name: str
    rights: Literal["Read", "Write", "Admin"]
    revision: NotRequired[int]


class SecretRef(TypedDict):
    name: str


class IssuerRef(TypedDict):
    name: str
    kind: NotRequired[str]
    group: NotRequired[str]


class PodMarks(TypedDict):
    labels: NotRequired[dict[str, str]]
    annotations: NotRequired[dict[str, str]]


class Service(TypedDict):
    type: NotRequired[Literal["ClusterIP", "NodePort", "LoadBalancer"]]
    annotations: NotRequired[dict[str, str]]
    loadBalancerClass: NotRequired[str]
    loadBalancerSourceRanges: NotRequired[list[str]]
    externalTrafficPolicy: NotRequired[Literal["Cluster", "Local"]]
    externalHostnames: NotRequired[list[str]]
    ipFamilyPolicy: NotRequired[Literal["SingleStack", "PreferDualStack", "RequireDualStack"]]
    ipFamilies: NotRequired[list[Literal["IPv4", "IPv6"]]]


class ServiceAccount(TypedDict):
    annotations: NotRequired[dict[str, str]]


class Backfill(TypedDict):
    fromLSN: NotRequired[str]
    doneLSN: NotRequired[str]
    targetLSN: NotRequired[str]
    percent: NotRequired[int]
    progressTime: NotRequired[str]


class SnapshotsStatus(TypedDict):
    schedule: NotRequired[str]
    suspended: NotRequired[bool]
    since: NotRequired[str]
    scheduledUntil: NotRequired[str]
    immediateAt: NotRequired[str]
    lastScheduleTime: NotRequired[str]
    nextScheduleTime: NotRequired[str]
    lastSuccessfulTime: NotRequired[str]
    lastSuccessfulLSN: NotRequired[str]
    lastSnapshot: NotRequired[str]
    missed: NotRequired[int]


class Restore(TypedDict):
    attempts: NotRequired[int]
    phase: NotRequired[str]
    percent: NotRequired[int]


class Restored(TypedDict):
    snapshotID: NotRequired[str]
    lsn: NotRequired[str]
    term: NotRequired[str]
    digest: NotRequired[str]
    keys: NotRequired[int]
    files: NotRequired[int]
    sizeBytes: NotRequired[int]


class Survivor(TypedDict):
    pod: NotRequired[str]
    memberID: str
    term: NotRequired[str]
    lastTerm: NotRequired[str]
    lastLSN: NotRequired[str]
    appliedLSN: NotRequired[str]


Recovery = TypedDict(
    "Recovery",
    {
        "phase": NotRequired[str],
        "from": NotRequired[str],
        "memberID": NotRequired[str],
        "acceptLoss": NotRequired[str],
        "memberToken": NotRequired[str],
        "lastLSN": NotRequired[str],
        "clusterID": NotRequired[str],
        "formerClusterID": NotRequired[str],
    },
)


class StorageStatus(TypedDict):
    size: NotRequired[str]
    className: NotRequired[str]
    volumeAttributesClassName: NotRequired[str]
    specSize: NotRequired[str]


class KeptPodSpec(TypedDict):
    inputs: str
    spec: str


class Rebuild(TypedDict):
    request: str
    pod: NotRequired[str]
    claimUID: NotRequired[str]


class Member(TypedDict):
    memberID: str
    pod: NotRequired[str]
    role: NotRequired[str]


class CertificatesStatus(TypedDict):
    authority: NotRequired[str]
    phase: NotRequired[str]
    expiresAt: NotRequired[str]


class ClientState(TypedDict):
    name: str
    rights: str
    state: str


class Condition(TypedDict):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    lastTransitionTime: str
    observedGeneration: NotRequired[int]


class PartitionRef(TypedDict):
    name: str


class StoredInVolume(TypedDict):
    claim: NotRequired[str]
    claimUID: NotRequired[str]


class Verification(TypedDict):
    method: NotRequired[str]
    attempts: NotRequired[int]
    pod: NotRequired[str]
    jobID: NotRequired[str]
    restarted: NotRequired[bool]
    silentSince: NotRequired[str]
    nextAttemptTime: NotRequired[str]
    completionTime: NotRequired[str]


class Storage(TypedDict):
    size: str
    className: NotRequired[str]
    replacement: NotRequired[Literal["Never", "Rolling"]]
    whenReplaced: NotRequired[Literal["Retain", "Delete"]]
    volumeAttributesClassName: NotRequired[str]
    autogrow: NotRequired[Autogrow]


class RestoreStore(TypedDict):
    path: str
    snapshot: NotRequired[str]
    endpoint: NotRequired[str]
    bucket: str
    region: NotRequired[str]
    credentialsSecretRef: CredentialsSecretRef
    allowHTTP: NotRequired[bool]
    virtualHostedStyle: NotRequired[bool]


class Destination(TypedDict):
    volume: NotRequired[dict[str, Any]]
    objectStore: NotRequired[ObjectStore]


class UpdateStrategy(TypedDict):
    type: NotRequired[Literal["Rolling", "Supervised", "OnDelete"]]
    progressDeadlineSeconds: NotRequired[int]
    maintenanceWindows: NotRequired[list[MaintenanceWindow]]


class Tls(TypedDict):
    secretRef: NotRequired[SecretRef]
    issuerRef: NotRequired[IssuerRef]


class PodTemplate(TypedDict):
    metadata: NotRequired[PodMarks]
    spec: NotRequired[dict[str, Any]]


class QuorumLoss(TypedDict):
    token: NotRequired[str]
    survivors: NotRequired[list[Survivor]]
    lost: NotRequired[list[str]]
    message: NotRequired[str]


class PartitionSnapshotSpec(TypedDict):
    partitionRef: PartitionRef
    destination: NotRequired[Destination]
    verify: NotRequired[Literal["None", "Checksum", "Restore"]]
    full: NotRequired[bool]


class StoredIn(TypedDict):
    volume: NotRequired[StoredInVolume]
    objectStore: NotRequired[dict[str, Any]]


class Bootstrap(TypedDict):
    adopt: NotRequired[bool]
    snapshotRef: NotRequired[SnapshotRef]
    objectStore: NotRequired[RestoreStore]


class Snapshots(TypedDict):
    schedule: NotRequired[str]
    timeZone: NotRequired[str]
    startingDeadlineSeconds: NotRequired[int]
    suspend: NotRequired[bool]
    immediate: NotRequired[bool]
    retention: NotRequired[Retention]
    verify: NotRequired[Literal["None", "Checksum", "Restore"]]
    destination: NotRequired[Destination]


class PartitionStatus(TypedDict):
    observedGeneration: NotRequired[int]
    state: NotRequired[str]
    mode: NotRequired[str]
    backfill: NotRequired[Backfill]
    snapshots: NotRequired[SnapshotsStatus]
    restore: NotRequired[Restore]
    restored: NotRequired[Restored]
    quorumLoss: NotRequired[QuorumLoss]
    recovery: NotRequired[Recovery]
    storage: NotRequired[StorageStatus]
    keptPodSpec: NotRequired[KeptPodSpec]
    rebuild: NotRequired[Rebuild]
    image: NotRequired[str]
    switchover: NotRequired[str]
    podSpecHash: NotRequired[str]
    revision: NotRequired[str]
    updatedReplicas: NotRequired[int]
    operator: NotRequired[str]
    ready: NotRequired[str]
    replicas: NotRequired[int]
    readyReplicas: NotRequired[int]
    selector: NotRequired[str]
    leader: NotRequired[str]
    lag: NotRequired[str]
    term: NotRequired[str]
    clusterID: NotRequired[str]
    bootstrapped: NotRequired[bool]
    members: NotRequired[list[Member]]
    certificates: NotRequired[CertificatesStatus]
    clients: NotRequired[list[ClientState]]
    quorumCriticalPods: NotRequired[list[str]]
    conditions: NotRequired[list[Condition]]


class PartitionSnapshotStatus(TypedDict):
    observedGeneration: NotRequired[int]
    state: NotRequired[str]
    message: NotRequired[str]
    phase: NotRequired[str]
    percent: NotRequired[int]
    snapshotID: NotRequired[str]
    clusterID: NotRequired[str]
    leastLSN: NotRequired[str]
    lsn: NotRequired[str]
    term: NotRequired[str]
    keys: NotRequired[int]
    files: NotRequired[int]
    sizeBytes: NotRequired[int]
    transferredBytes: NotRequired[int]
    digest: NotRequired[str]
    full: NotRequired[bool]
    sourcePod: NotRequired[str]
    triedPods: NotRequired[list[str]]
    location: NotRequired[str]
    destination: NotRequired[StoredIn]
    attempts: NotRequired[int]
    jobID: NotRequired[str]
    attemptTime: NotRequired[str]
    nextAttemptTime: NotRequired[str]
    progressTime: NotRequired[str]
    silentSince: NotRequired[str]
    waitingSince: NotRequired[str]
    startTime: NotRequired[str]
    completionTime: NotRequired[str]
    verification: NotRequired[Verification]
    conditions: NotRequired[list[Condition]]


class PartitionSpec(TypedDict):
    replicas: NotRequired[int]
    replication: NotRequired[Replication]
    storage: Storage
    bootstrap: NotRequired[Bootstrap]
    snapshots: NotRequired[Snapshots]
    resources: NotRequired[Resources]
    affinity: NotRequired[dict[str, Any]]
    tolerations: NotRequired[list[dict[str, Any]]]
    paused: NotRequired[bool]
    deletionPolicy: NotRequired[Literal["Retain", "Delete", "SnapshotThenDelete"]]
    hibernated: NotRequired[bool]
    image: NotRequired[str]
    settings: NotRequired[Settings]
    updateStrategy: NotRequired[UpdateStrategy]
    clients: NotRequired[list[Client]]
    tls: NotRequired[Tls]
    podTemplate: NotRequired[PodTemplate]
    service: NotRequired[Service]
    serviceAccount: NotRequired[ServiceAccount]


class PartitionSnapshot(TypedDict):
    apiVersion: NotRequired[str]
    kind: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    spec: PartitionSnapshotSpec
    status: NotRequired[PartitionSnapshotStatus]


class Partition(TypedDict):
    apiVersion: NotRequired[str]
    kind: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    spec: PartitionSpec
    status: NotRequired[PartitionStatus]


RULES: dict[str, dict[str, Rule]] = {
    "Partition": {
        "metadata.name": Rule(
            type="string",
            max_length=40,
            pattern="^[a-z]([-a-z0-9]*[a-z0-9])?$",
            words="lower-case letters, digits and '-' are allowed, beginning with a letter and ending with a letter or digit",
        ),
    },
    "PartitionSpec": {
        "replicas": Rule(type="integer", default=3, allowed=(1, 3, 5, 7)),
        "replication": Rule(type="object", of="Replication", default={}),
        "storage": Rule(
            type="object", of="Storage", required=True, words="the volumes of the replicas"
        ),
        "bootstrap": Rule(type="object", of="Bootstrap"),
        "snapshots": Rule(type="object", of="Snapshots"),
        "resources": Rule(type="object", of="Resources"),
        "affinity": Rule(type="object"),
        "tolerations": Rule(type="array"),
        "paused": Rule(type="boolean"),
        "deletionPolicy": Rule(type="string", allowed=("Retain", "Delete", "SnapshotThenDelete")),
        "hibernated": Rule(type="boolean"),
        "image": Rule(
            type="string",
            max_length=1024,
            pattern="^[^\\s]+$",
            words="the image of the replicas, without spaces",
        ),
        "settings": Rule(type="object", of="Settings"),
        "updateStrategy": Rule(type="object", of="UpdateStrategy", default={}),
        "clients": Rule(type="array", of="Client", max_items=64),
        "tls": Rule(type="object", of="Tls"),
        "podTemplate": Rule(type="object", of="PodTemplate"),
        "service": Rule(type="object", of="Service"),
        "serviceAccount": Rule(type="object", of="ServiceAccount"),
    },
    "Replication": {
        "mode": Rule(type="string", default="Raft", allowed=("None", "Raft")),
    },
    "Storage": {
        "size": Rule(
            type="string",
            required=True,
            max_length=32,
            words="the size of each replica's volume, a quantity of at least 64Mi such as 10Gi",
        ),
        "className": Rule(type="string", max_length=253),
        "replacement": Rule(type="string", allowed=("Never", "Rolling")),
        "whenReplaced": Rule(type="string", allowed=("Retain", "Delete")),
        "volumeAttributesClassName": Rule(type="string", min_length=1, max_length=253),
        "autogrow": Rule(type="object", of="Autogrow"),
    },
    "Autogrow": {
        "whenFreeBelow": Rule(
            type="string",
            required=True,
            max_length=32,
            pattern="^([1-8]?[0-9]%|90%|[0-9][0-9.]*[numkKMGTPE]?i?)$",
            words="the free space below which the volumes grow: a share of the volume such as 20%, at most 90%, or a quantity such as 5Gi",
        ),
        "step": Rule(
            type="string",
            required=True,
            max_length=32,
            words="by how much the volumes grow at a time, a quantity such as 10Gi",
        ),
        "max": Rule(
            type="string",
            required=True,
            max_length=32,
            words="the size beyond which the volumes don't grow by themselves",
        ),
    },
    "Bootstrap": {
        "adopt": Rule(type="boolean"),
        "snapshotRef": Rule(type="object", of="SnapshotRef"),
        "objectStore": Rule(type="object", of="RestoreStore"),
    },
    "SnapshotRef": {
        "name": Rule(
            type="string",
            required=True,
            min_length=1,
            max_length=253,
            words="the name of a PartitionSnapshot in this namespace",
        ),
    },
    "RestoreStore": {
        "path": Rule(
            type="string",
            required=True,
            max_length=512,
            words="the store's root in the bucket, which is the folder that holds format.json",
        ),
        "snapshot": Rule(type="string", default="latest", max_length=63),
        "endpoint": Rule(
            type="string",
            max_length=512,
            pattern="^https?://[^/]",
            words="a URL such as https://s3.example.org is allowed",
        ),
        "bucket": Rule(
            type="string",
            required=True,
            max_length=63,
            pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
            words="3 to 63 lower-case letters, digits, '.' and '-' are allowed",
        ),
        "region": Rule(type="string", max_length=64),
        "credentialsSecretRef": Rule(
            type="object",
            of="CredentialsSecretRef",
            required=True,
            words="a Secret in this namespace with the keys accessKeyId and secretAccessKey",
        ),
        "allowHTTP": Rule(type="boolean"),
        "virtualHostedStyle": Rule(type="boolean"),
    },
    "CredentialsSecretRef": {
        "name": Rule(
            type="string",
            required=True,
            min_length=1,
            max_length=253,
            words="the name of a Secret with the keys accessKeyId and secretAccessKey",
        ),
    },
    "Snapshots": {
        "schedule": Rule(
            type="string",
            max_length=100,
            pattern="^\\s*\\S+(\\s+\\S+){4}\\s*$",
            words="five fields are allowed, minute hour day-of-month month day-of-week, such as '0 3 * * *'; seconds are not supported",
        ),
        "timeZone": Rule(type="string", default="Etc/UTC", max_length=64),
        "startingDeadlineSeconds": Rule(type="integer", minimum=10),
        "suspend": Rule(type="boolean"),
        "immediate": Rule(type="boolean"),
        "retention": Rule(type="object", of="Retention"),
        "verify": Rule(type="string", default="Checksum", allowed=("None", "Checksum", "Restore")),
        "destination": Rule(type="object", of="Destination"),
    },
    "Retention": {
        "count": Rule(type="integer", minimum=1),
        "maxAge": Rule(
            type="string",
            max_length=32,
            pattern="^([0-9]{1,7}[smhd]){1,4}$",
            words="a duration above 0 such as 720h or 30d",
        ),
        "minSuccessful": Rule(type="integer", default=1, minimum=0),
    },
    "Destination": {
        "volume": Rule(type="object"),
        "objectStore": Rule(type="object", of="ObjectStore"),
    },
    "ObjectStore": {
        "prefix": Rule(type="string", max_length=300),
        "endpoint": Rule(
            type="string",
            max_length=512,
            pattern="^https?://[^/]",
            words="a URL such as https://s3.example.org is allowed",
        ),
        "bucket": Rule(
            type="string",
            required=True,
            max_length=63,
            pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
            words="3 to 63 lower-case letters, digits, '.' and '-' are allowed",
        ),
        "region": Rule(type="string", max_length=64),
        "credentialsSecretRef": Rule(
            type="object",
            of="CredentialsSecretRef",
            required=True,
            words="a Secret in this namespace with the keys accessKeyId and secretAccessKey",
        ),
        "allowHTTP": Rule(type="boolean"),
        "virtualHostedStyle": Rule(type="boolean"),
    },
    "Resources": {
        "requests": Rule(type="object"),
        "limits": Rule(type="object"),
    },
    "Settings": {
        "electionTimeoutMilliseconds": Rule(type="integer", minimum=250, maximum=60000),
        "heartbeatIntervalMilliseconds": Rule(type="integer", minimum=50, maximum=10000),
        "logTrailEntries": Rule(type="integer", minimum=1, maximum=100000000),
        "logTrailSize": Rule(type="string", max_length=32),
        "diskReserve": Rule(type="string", max_length=32),
        "consumerLagEntries": Rule(type="integer", minimum=1000, maximum=1000000000000),
    },
    "UpdateStrategy": {
        "type": Rule(
            type="string", default="Rolling", allowed=("Rolling", "Supervised", "OnDelete")
        ),
        "progressDeadlineSeconds": Rule(type="integer", default=600, minimum=1),
        "maintenanceWindows": Rule(type="array", of="MaintenanceWindow", max_items=16),
    },
    "MaintenanceWindow": {
        "schedule": Rule(
            type="string",
            required=True,
            max_length=256,
            words="when the window opens, a cron expression with five fields",
        ),
        "durationMinutes": Rule(
            type="integer",
            required=True,
            minimum=5,
            maximum=10080,
            words="how long the window is open",
        ),
        "timeZone": Rule(type="string", max_length=64),
    },
    "Client": {
        "name": Rule(
            type="string",
            required=True,
            max_length=40,
            pattern="^[a-z]([-a-z0-9]*[a-z0-9])?$",
            words="lower-case letters, digits and '-' are allowed, beginning with a letter and ending with a letter or digit",
        ),
        "rights": Rule(
            type="string",
            required=True,
            allowed=("Read", "Write", "Admin"),
            words="read allows to read, to tail and to keep a consumer",
        ),
        "revision": Rule(type="integer", default=1, minimum=1),
    },
    "Tls": {
        "secretRef": Rule(type="object", of="SecretRef"),
        "issuerRef": Rule(type="object", of="IssuerRef"),
    },
    "SecretRef": {
        "name": Rule(
            type="string",
            required=True,
            min_length=1,
            max_length=253,
            words="the name of the Secret, in the namespace of the Partition",
        ),
    },
    "IssuerRef": {
        "name": Rule(
            type="string",
            required=True,
            min_length=1,
            max_length=253,
            words="the name of the issuer",
        ),
        "kind": Rule(type="string", default="Issuer", min_length=1, max_length=63),
        "group": Rule(type="string", default="cert-manager.io", min_length=1, max_length=253),
    },
    "PodTemplate": {
        "metadata": Rule(type="object", of="PodMarks"),
        "spec": Rule(type="object"),
    },
    "PodMarks": {
        "labels": Rule(type="object", values="string"),
        "annotations": Rule(type="object", values="string"),
    },
    "Service": {
        "type": Rule(type="string", allowed=("ClusterIP", "NodePort", "LoadBalancer")),
        "annotations": Rule(type="object", values="string"),
        "loadBalancerClass": Rule(type="string", min_length=1, max_length=253),
        "loadBalancerSourceRanges": Rule(type="array", max_items=64),
        "externalTrafficPolicy": Rule(type="string", allowed=("Cluster", "Local")),
        "externalHostnames": Rule(type="array", max_items=32),
        "ipFamilyPolicy": Rule(
            type="string", allowed=("SingleStack", "PreferDualStack", "RequireDualStack")
        ),
        "ipFamilies": Rule(type="array", max_items=2),
    },
    "ServiceAccount": {
        "annotations": Rule(type="object", values="string"),
    },
    "PartitionSnapshot": {
        "metadata.name": Rule(
            type="string",
            pattern="^[a-z0-9]([-a-z0-9]{0,54}[a-z0-9])?$",
            words="at most 56 lower-case letters, digits and '-' are allowed, beginning and ending with a letter or digit",
        ),
    },
    "PartitionSnapshotSpec": {
        "partitionRef": Rule(
            type="object",
            of="PartitionRef",
            required=True,
            words="the Partition that the snapshot is taken of",
        ),
        "destination": Rule(type="object", of="Destination"),
        "verify": Rule(type="string", allowed=("None", "Checksum", "Restore")),
        "full": Rule(type="boolean"),
    },
    "PartitionRef": {
        "name": Rule(
            type="string",
            required=True,
            min_length=1,
            max_length=40,
            words="the name of a Partition in this namespace",
        ),
    },
}
"""By object and field."""
