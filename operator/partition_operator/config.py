"""Settings of the operator's process."""

from dataclasses import dataclass

from partition_operator.api.names import CLUSTER_DOMAIN
from partition_operator.errors import OperatorError
from partition_operator.resources.certificates import LIFETIMES, Lifetimes

LEASE_NAME = "partition-operator"


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """namespace: the operator's own, with its Lease and authority. watch: namespaces to watch,
    empty for all. image: the image of new replicas and of restoring and verifying pods.
    image_auto_update: replicas without spec.image follow it. cluster_domain: the cluster's DNS
    domain. Names that end in _s are seconds."""

    namespace: str
    identity: str
    image: str
    image_auto_update: bool = False
    watch_nodes: bool = False
    """Whether nodes are watched and volumes are read, which needs rights in the cluster."""
    watch: tuple[str, ...] = ()
    cluster_domain: str = CLUSTER_DOMAIN
    http_port: int = 8080
    lease_name: str = LEASE_NAME
    authority_secret: str = "partition-operator-ca"  # noqa: S105  # a name
    workers: int = 8
    """How many turns run at once, of Partitions, their schedules and PartitionSnapshots."""
    resync_s: float = 60.0
    poll_s: float = 3.0
    """Seconds between status requests to the replicas of a settled Partition."""
    poll_progressing_s: float = 1.0
    poll_backfill_s: float = 0.5
    """Used while replication is being enabled, which may take less than a second."""
    backfill_stalled_s: float = 300.0
    """A backfill without progress for this time is reported as stalled."""
    replica_timeout_s: float = 5.0
    request_timeout_s: float = 30.0
    events_a_minute_max: int = 120
    lifetimes: Lifetimes = LIFETIMES
    authority_look_s: float = 30.0
    """The Secret with the authority is read at most once in this time."""
    lease_duration_s: float = 15.0
    lease_renew_deadline_s: float = 10.0
    lease_retry_s: float = 2.0


class ConfigError(OperatorError):
    """A setting is missing or not allowed; the message contains what is allowed."""
