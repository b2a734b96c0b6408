"""Names, labels and annotations of the API that the plugin uses."""

GROUP = "logstore.dev"
API_VERSION = f"{GROUP}/v1alpha1"
PARTITIONS = f"partitions.{GROUP}"
SNAPSHOTS = f"partitionsnapshots.{GROUP}"

LABEL_PARTITION = f"{GROUP}/partition"
LABEL_REVISION = "controller-revision-hash"
REPLICAS = "app.kubernetes.io/component=replica"
OPERATOR = "app.kubernetes.io/name=partition-operator"

SWITCHOVER = f"{GROUP}/switchover"
RESTART = f"{GROUP}/restart"
APPROVE = f"{GROUP}/approve-rollout"
FENCE = f"{GROUP}/fence"
RECOVER = f"{GROUP}/recover"
POD_SPEC = f"{GROUP}/pod-spec"

REPLICA = "replica"
"""The container of the log store in a pod of a Partition."""
OPERATOR_CONTAINER = "operator"


def of(partition: str) -> str:
    """Returns the label selector of all objects of a Partition."""
    return f"{LABEL_PARTITION}={partition}"


def replicas(partition: str) -> str:
    """Returns the label selector of a Partition's replicas."""
    return f"{of(partition)},{REPLICAS}"
