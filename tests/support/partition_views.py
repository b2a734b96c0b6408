"""What the plan of one Partition is given: the Partition, its pods, claims and replicas."""

import datetime as dt
from dataclasses import replace
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition, parse
from partition_operator.reconcile.observed.partition import (
    ObservedClaim,
    ObservedMember,
    ObservedPartition,
    ObservedPod,
    ObservedReplica,
)
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.plan import Plan, plan

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
CREATED = "2026-01-01T00:00:05Z"
CLUSTER = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
IMAGE = "image:1"


def partition(spec: dict[str, Any] | None = None, **status: Any) -> Partition:
    return parse(
        {
            "metadata": {
                "name": "part",
                "namespace": "ns",
                "uid": "u",
                "generation": 3,
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "resourceVersion": "7",
            },
            "spec": {"replicas": 3, "storage": {"size": "1Gi"}} | (spec or {}),
            "status": status,
        }
    )


def claim(ordinal: int, **more: Any) -> ObservedClaim:
    """Marked, unless cluster_id says otherwise."""
    values: dict[str, Any] = {"ordinal": ordinal, "created": CREATED, "cluster_id": CLUSTER}
    return ObservedClaim(**(values | more))


def claims(count: int, cluster_id: str = "", **more: Any) -> tuple[ObservedClaim, ...]:
    """Not marked, unless cluster_id says otherwise."""
    return tuple(claim(n, cluster_id=cluster_id, **more) for n in range(count))


def pod(ordinal: int, **more: Any) -> ObservedPod:
    """On a node of its own."""
    values: dict[str, Any] = {"ordinal": ordinal, "ip": f"10.0.0.{ordinal}", "ready": True}
    values |= {"deleting": False, "node": f"node-{ordinal}"}
    return ObservedPod(**(values | more))


def pods(count: int) -> tuple[ObservedPod, ...]:
    return tuple(pod(n) for n in range(count))


def member(ordinal: int, **more: Any) -> ObservedMember:
    values: dict[str, Any] = {
        "member_id": 100 + ordinal,
        "address": names.address("part", "ns", ordinal),
        "voter": True,
        "matched": 10,
        "recently_active": True,
        "progress": "replicate",
    }
    return ObservedMember(**(values | more))


def replica(ordinal: int, role: str, **more: Any) -> ObservedReplica:
    values: dict[str, Any] = {
        "ordinal": ordinal,
        "cluster_id": CLUSTER,
        "member_id": 100 + ordinal,
        "role": role,
        "term": 2,
        "leader_id": 100,
        "last_index": 10,
        "committed": 10,
        "applied": 10,
        "serving": role == "leader",
        "changing": False,
        "disk_full": False,
    }
    return ObservedReplica(**(values | more))


def empty(ordinal: int, member_id: int = 900) -> ObservedReplica:
    """On a new volume, which belongs to no group."""
    return replica(
        ordinal, "unbootstrapped", cluster_id="", member_id=member_id + ordinal, leader_id=0
    )


def see(found: Partition, **more: Any) -> ObservedPartition:
    values: dict[str, Any] = {
        "partition": found,
        "now": NOW,
        "objects": {},
        "pods": (),
        "claims": (),
        "replicas": (),
        "certificates_good": {"part-replica-tls": True, "part-client-tls": True},
    }
    return ObservedPartition(**(values | more))


def group(size: int = 3, **more: Any) -> ObservedPartition:
    """A group that serves, replica 0 leads, every object is applied and status is written."""
    members = tuple(member(n) for n in range(size))
    followers = tuple(replica(n, "follower", members=members) for n in range(1, size))
    values: dict[str, Any] = {
        "pods": pods(size),
        "claims": claims(size, CLUSTER),
        "replicas": (replica(0, "leader", members=members), *followers),
    }
    spec = {"replicas": size} | more.pop("spec", {})
    found = partition(spec, clusterID=CLUSTER, bootstrapped=True)
    return after(complete(see(found, **(values | more))))


def complete(observed: ObservedPartition) -> ObservedPartition:
    """With every object applied, as the plan itself asks for them."""
    for _ in range(10):
        step = look(observed)
        if not isinstance(step.action, actions.Apply):
            return observed
        body = step.action.body
        key = (body["kind"], body["metadata"]["name"])
        marks = {"uid": f"uid of {key[0]} {key[1]}", "resourceVersion": "1"}
        live = body | {"metadata": body["metadata"] | marks}
        observed = replace(observed, objects=observed.objects | {key: live})
    raise AssertionError("the plan applies for ever")


def look(observed: ObservedPartition) -> Plan:
    return plan(observed, IMAGE)


def draw(observed: ObservedPartition) -> Plan:
    """Where a cluster's ID may have to be drawn."""
    return plan(observed, IMAGE, draw=lambda: CLUSTER)


def after(observed: ObservedPartition, seconds: float = 0.0, **more: Any) -> ObservedPartition:
    """The same once the plan's status is written, `seconds` later."""
    body = observed.partition.body | {"status": look(observed).status}
    now = observed.now + dt.timedelta(seconds=seconds)
    return replace(observed, partition=parse(body), now=now, **more)


def with_spec(observed: ObservedPartition, **spec: Any) -> ObservedPartition:
    """The same with these fields of the spec."""
    body = observed.partition.body
    return replace(observed, partition=parse(body | {"spec": body["spec"] | spec}))


def with_status(observed: ObservedPartition, **status: Any) -> ObservedPartition:
    """The same with these fields of the status."""
    body = observed.partition.body
    return replace(observed, partition=parse(body | {"status": body["status"] | status}))


def condition(step: Plan, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in step.status["conditions"] if c["type"] == kind)
    return found


def reasons(step: Plan) -> list[str]:
    return [event.reason for event in step.events]


def by_type(step: Plan) -> dict[str, dict[str, Any]]:
    """The conditions of the status that a plan writes."""
    return {c["type"]: c for c in step.status["conditions"]}
