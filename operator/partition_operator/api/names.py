"""The names, labels and annotations that the operator uses in Kubernetes."""

import datetime as dt

GROUP = "logstore.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "Partition"
PLURAL = "partitions"
SNAPSHOT_KIND = "PartitionSnapshot"
SNAPSHOT_PLURAL = "partitionsnapshots"

FIELD_MANAGER = "partition-operator"
SNAPSHOT_MANAGER = "partition-operator-snapshots"
"""The field manager of the part of a Partition's status about its snapshots."""
MANAGED_BY = "partition-operator"

FINALIZER = f"{GROUP}/last-snapshot"
"""On a Partition with spec.deletionPolicy SnapshotThenDelete."""

LABEL_PARTITION = f"{GROUP}/partition"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_CLUSTER_ID = f"{GROUP}/cluster-id"
"""On a PVC: the cluster ID of its volume, written before the volume is used."""

ANNOTATION_GIVEN_UP = f"{GROUP}/given-up"
"""On a PVC: the operator deletes it, so that its replica gets another volume."""

ANNOTATION_OPERATOR = f"{GROUP}/operator"
"""On a Partition: the namespace of the operator that manages it, instead of the first one."""

ANNOTATION_TRUST_CHANGED = f"{GROUP}/trust-changed"
"""On a Secret with a certificate: when its authorities last changed, RFC 3339."""

ANNOTATION_FORMER_ENDS = f"{GROUP}/former-certificates-end"
"""On a Secret with a certificate: until when certificates of a former authority may be in use."""

ANNOTATION_BROUGHT = f"{GROUP}/brought-along"
"""On a Secret with a certificate: "true" if somebody else issued it."""

ANNOTATION_CLIENTS_CHANGED = f"{GROUP}/clients-changed"
"""On the Secret with the replicas' certificate: when the list of clients last changed."""

ANNOTATION_RENEW = f"{GROUP}/renew-authority"
"""On the Secret of the operator's authority: a new value makes the operator renew it."""
ANNOTATION_RENEWED = f"{GROUP}/renewed-authority"
"""On the Secret of the operator's authority: the value of the other annotation that was followed
last."""

ANNOTATION_RESTART = f"{GROUP}/restart"
"""On a Partition, and from there on its pods: a new value replaces all pods, in order."""

ANNOTATION_SWITCHOVER = f"{GROUP}/switchover"
"""On a Partition: the pod that shall lead. A new value is followed once."""

ANNOTATION_FENCE = f"{GROUP}/fence"
"""On a Partition: the pods whose replicas shall answer nobody, separated by commas."""

ANNOTATION_REBUILD = f"{GROUP}/rebuild"
"""On a Partition: the pod that shall get a new volume. A new value is followed once."""

ANNOTATION_RECOVER = f"{GROUP}/recover"
"""On a Partition that has lost its quorum: {"from": pod, "acceptLoss": status.quorumLoss.token}."""

ANNOTATION_APPROVE = f"{GROUP}/approve-rollout"
"""On a Partition with update strategy Supervised: the revision that its pods may get."""

ANNOTATION_POD_INPUTS = f"{GROUP}/pod-inputs"
"""On a StatefulSet: a hash of what its pods' spec was made of."""
ANNOTATION_POD_SPEC = f"{GROUP}/pod-spec"
"""On a StatefulSet: its pods' spec, as the operator made it, in JSON."""

LABEL_REVISION = "controller-revision-hash"
"""Kubernetes' label on a pod of a StatefulSet: the revision of the template that it was made of."""

ANNOTATION_APPLIED = f"{GROUP}/applied-hash"
"""On applied objects: the hash of the content that was applied last."""

LABEL_SNAPSHOT = f"{GROUP}/snapshot"
"""On a verifying pod: the name of its snapshot."""
ANNOTATION_PINNED = f"{GROUP}/pinned"
"""On a PartitionSnapshot: "true" exempts it from retention."""
ANNOTATION_SCHEDULED_AT = f"{GROUP}/scheduled-at"
"""On a scheduled PartitionSnapshot: its due time, RFC 3339 in UTC."""
ANNOTATION_ATTEMPT = f"{GROUP}/attempt"
"""On a verifying or restoring pod: the number of its attempt, from 1."""

CLUSTER_DOMAIN = "cluster.local"
"""The DNS domain of most clusters."""

GRPC_PORT = 7000
RAFT_PORT = 7001
"""Raft connections between the replicas of a Partition."""
HTTP_PORT = 7080
REPLICA_CONTAINER = "replica"
VOLUME = "data"
DATA_PATH = "/var/lib/partition"
TLS_VOLUME = "tls"
TLS_PATH = "/etc/partition/tls"
POD_NAME_VARIABLE = "POD_NAME"
VOLUME_PREFIX = "partition-"
"""Volumes of pods whose names begin so are the operator's."""
CLIENT_TLS_VOLUME = f"{VOLUME_PREFIX}client-tls"
CLIENT_TLS_PATH = "/etc/partition/client-tls"
SOCKET_VOLUME = f"{VOLUME_PREFIX}socket"
SOCKET_FOLDER = "/run/partition"
SOCKET = f"unix:{SOCKET_FOLDER}/replica.sock"
"""Where a replica serves the containers of its pod."""
GROUP_ID = 65532


CLIENTS_FILE = "clients.json"
"""The key in the data of the replicas' Secret with the list of clients. The replica reads the file
of this name beside its certificate."""


def headless_service(partition: str) -> str:
    return f"{partition}-replicas"


def client_service(partition: str) -> str:
    return partition


def tls_secret(partition: str) -> str:
    """The Secret with the replicas' certificate."""
    return f"{partition}-replica-tls"


def client_secret(partition: str) -> str:
    """The Secret with the clients' certificate."""
    return f"{partition}-client-tls"


def named_client_secret(partition: str, client: str) -> str:
    """The Secret of a client of spec.clients. The CRD refuses the client tls."""
    return f"{partition}-client-{client}"


def issued_secret(partition: str) -> str:
    """The Secret that cert-manager writes."""
    return f"{partition}-replica-issued"


def certificate(partition: str) -> str:
    """The Certificate that asks cert-manager for it."""
    return f"{partition}-replica"


def pod(partition: str, ordinal: int) -> str:
    return f"{partition}-{ordinal}"


def claim(partition: str, ordinal: int) -> str:
    return f"{VOLUME}-{partition}-{ordinal}"


def host(partition: str, namespace: str, ordinal: int) -> str:
    """A replica's stable name in the cluster's DNS."""
    return f"{pod(partition, ordinal)}.{headless_service(partition)}.{namespace}.svc"


def address(partition: str, namespace: str, ordinal: int) -> str:
    return f"{host(partition, namespace, ordinal)}:{GRPC_PORT}"


def selector(partition: str) -> dict[str, str]:
    return {LABEL_PARTITION: partition, "app.kubernetes.io/component": "replica"}


def labels(partition: str, component: str = "replica") -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "partition",
        "app.kubernetes.io/instance": partition,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "partition-operator",
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_PARTITION: partition,
    }


def endpoint(ip: str, port: int) -> str:
    """Returns the address to dial: a pod's IP with a port, IPv6 in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def scheduled_snapshot(partition: str, due: dt.datetime) -> str:
    """Returns the name of a run's snapshot. It depends only on the due time, so a run can't be
    created twice."""
    return f"{partition}-{due.astimezone(dt.UTC):%Y%m%d%H%M}"


def last_snapshot(partition: str, uid: str, number: int = 1) -> str:
    """The snapshot that is taken before a Partition is deleted. uid: of the Partition. number: from
    1; a further one follows if clients have written meanwhile."""
    further = f"-{number}" if number > 1 else ""
    return f"{partition}-last-{uid[:8]}{further}"


def verify_pod(snapshot: str) -> str:
    return f"{snapshot}-verify"


def restore_pod(partition: str) -> str:
    return f"{partition}-restore"
