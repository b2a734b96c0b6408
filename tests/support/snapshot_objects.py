"""Partitions and PartitionSnapshots as the operator sees them, for tests without an API server."""

import datetime as dt
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition, parse
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.api.times import stamp
from partition_operator.reconcile.observed.partition import (
    ObservedMember,
    ObservedPartition,
    ObservedPod,
    ObservedReplica,
)

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
CLUSTER = "11111111-1111-4111-8111-111111111111"
STORE = {
    "endpoint": "https://s3.example.org",
    "bucket": "bucket",
    "prefix": "backups",
    "credentialsSecretRef": {"name": "s3"},
}
OBJECT_STORE = {"objectStore": STORE}
VOLUME: dict[str, Any] = {"volume": {}}


def partition(
    snapshots: dict[str, Any] | None = None,
    *,
    status: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
) -> Partition:
    wanted: dict[str, Any] = {"replicas": 3, "storage": {"size": "1Gi"}} | (spec or {})
    if snapshots is not None:
        wanted["snapshots"] = snapshots
    found = {"clusterID": CLUSTER, "bootstrapped": True} | (status or {})
    return parse(
        {
            "kind": names.KIND,
            "metadata": {
                "name": "part",
                "namespace": "ns",
                "uid": "p-uid",
                "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "resourceVersion": "7",
            },
            "spec": wanted,
            "status": found,
        }
    )


def group(
    found: Partition, now: dt.datetime = NOW, *, replicas: int = 3, **more: Any
) -> ObservedPartition:
    """Replica 0 leads, the others follow and are caught up. `silent`: ordinals that don't answer;
    leaderless: nobody leads."""
    silent, leaderless = more.get("silent", ()), more.get("leaderless", False)
    members = tuple(
        ObservedMember(
            100 + n, names.address("part", "ns", n), True, 10, n not in silent, "replicate"
        )
        for n in range(replicas)
    )
    seen = tuple(
        ObservedReplica(
            ordinal=n,
            cluster_id=CLUSTER,
            member_id=100 + n,
            role="leader" if n == 0 and not leaderless else "follower",
            term=2,
            leader_id=100,
            last_index=10,
            committed=10,
            applied=10,
            serving=n == 0 and not leaderless,
            changing=False,
            disk_full=False,
            members=members if n == 0 else (),
        )
        for n in range(replicas)
        if n not in silent
    )
    pods = tuple(ObservedPod(n, f"10.0.0.{n}", True, False) for n in range(replicas))
    return ObservedPartition(found, now, {}, pods, (), seen)


def snapshot(
    name: str = "snap",
    *,
    created: dt.datetime = NOW,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    scheduled_at: dt.datetime | None = None,
    pinned: bool = False,
    labelled: bool = True,
) -> Snapshot:
    annotations = {}
    if scheduled_at is not None:
        annotations[names.ANNOTATION_SCHEDULED_AT] = stamp(scheduled_at)
    if pinned:
        annotations[names.ANNOTATION_PINNED] = "true"
    return parse_snapshot(
        {
            "kind": names.SNAPSHOT_KIND,
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": f"uid-{name}",
                "generation": 1,
                "creationTimestamp": stamp(created),
                "resourceVersion": "9",
                "labels": {names.LABEL_PARTITION: "part"} if labelled else {},
                "annotations": annotations,
            },
            "spec": {"partitionRef": {"name": "part"}} | (spec or {}),
            "status": status or {},
        }
    )


def stored(
    name: str,
    started: dt.datetime,
    *,
    state: str = "Verified",
    pod: str = "part-1",
    destination: dict[str, Any] | None = None,
    scheduled_at: dt.datetime | None = None,
    pinned: bool = False,
    more: dict[str, Any] | None = None,
) -> Snapshot:
    """One that has ended well."""
    where = destination or {
        "objectStore": STORE | {"prefix": f"backups/ns/part/{CLUSTER}"},
    }
    status = {
        "state": state,
        "startTime": stamp(started),
        "completionTime": stamp(started + dt.timedelta(seconds=20)),
        "clusterID": CLUSTER,
        "snapshotID": name,
        "sourcePod": pod,
        "destination": where,
        "attempts": 1,
        "lsn": "77",
    }
    return snapshot(
        name,
        created=started,
        status=status | (more or {}),
        scheduled_at=scheduled_at,
        pinned=pinned,
    )
