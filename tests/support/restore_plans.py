"""Observations of a Partition that is restored from a snapshot, as its plan takes them."""

import datetime as dt
import json
from dataclasses import replace
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition, parse
from partition_operator.api.times import stamp
from partition_operator.reconcile.observed.partition import (
    ObservedClaim,
    ObservedMember,
    ObservedPartition,
    ObservedPod,
    ObservedReplica,
)
from partition_operator.reconcile.observed.restore import ObservedRestore
from partition_operator.reconcile.partition.actions import (
    Apply,
    CreatePod,
)
from partition_operator.reconcile.partition.plan import Plan, plan

from tests.support.snapshot_objects import NOW, stored

OURS = "22222222-2222-4222-8222-222222222222"
SOURCE = stored("snap", NOW - dt.timedelta(hours=1))
ON_VOLUME = {"volume": {"claim": "data-part-1", "claimUID": "u1"}}
REPORT = {
    "state": "succeeded",
    "snapshotID": "snap",
    "lsn": 2**60,
    "term": 3,
    "digest": "abc",
    "keys": 1,
    "files": 2,
    "clusterID": "old",
}


def partition(status: dict[str, Any] | None = None, **spec: Any) -> Partition:
    bootstrap = spec.pop("bootstrap", {"snapshotRef": {"name": "snap"}})
    return parse(
        {
            "metadata": {
                "name": "copy",
                "namespace": "ns",
                "uid": "u",
                "generation": 1,
                "creationTimestamp": stamp(NOW),
                "resourceVersion": "7",
            },
            "spec": {"replicas": 3, "storage": {"size": "1Gi"}, "bootstrap": bootstrap} | spec,
            "status": {"clusterID": OURS, "bootstrapped": False} | (status or {}),
        }
    )


def see(found: Partition, **more: Any) -> ObservedPartition:
    values: dict[str, Any] = {
        "partition": found,
        "now": NOW,
        "objects": {},
        "pods": (),
        "claims": (),
        "replicas": (),
        "certificates_good": {"copy-replica-tls": True, "copy-client-tls": True},
        "restore": ObservedRestore(snapshot=SOURCE),
    }
    return ObservedPartition(**(values | more))


def next_plan(observed: ObservedPartition) -> Plan:
    return plan(observed, "image:1", draw=lambda: OURS)


def condition(step: Plan, kind: str = "Restored") -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in step.status["conditions"] if c["type"] == kind)
    return found


def account(observed: ObservedPartition) -> ObservedPartition:
    step = next_plan(observed)
    assert isinstance(step.action, Apply)
    assert step.action.body["kind"] == "ServiceAccount"
    return replace(observed, objects={("ServiceAccount", "copy"): step.action.body})


def ready_for_pod(observed: ObservedPartition) -> ObservedPartition:
    return replace(account(observed), claims=(ObservedClaim(0, stamp(NOW), OURS),))


def with_pod(observed: ObservedPartition, **status: Any) -> ObservedPartition:
    """As if the pod that the plan asks for had this status."""
    step = next_plan(observed)
    assert isinstance(step.action, CreatePod)
    body = step.action.body
    meta = body["metadata"] | {"creationTimestamp": stamp(NOW), "uid": "pod-uid"}
    assert observed.restore is not None
    pod = body | {"metadata": meta, "status": status}
    return replace(observed, restore=replace(observed.restore, pod=pod))


def ended(code: int, report: dict[str, Any] | None = None) -> dict[str, Any]:
    message = "" if report is None else json.dumps(report)
    state = {"terminated": {"exitCode": code, "message": message, "finishedAt": stamp(NOW)}}
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{"name": "restore", "state": state}],
    }


def from_volume(**more: Any) -> ObservedPartition:
    """Of a snapshot that is on the volume of another Partition's replica."""
    seen = ObservedRestore(
        snapshot=stored("snap", NOW, destination=ON_VOLUME),
        running=frozenset({"part-1"}),
        volumes={"data-part-1": "u1"},
    )
    return ready_for_pod(see(partition(**more), restore=seen))


def replica(cluster: str, *, leads: bool = False) -> ObservedReplica:
    """Replica 0 after its restore, as it answers."""
    member = ObservedMember(100, names.address("copy", "ns", 0), True, 10, True, "replicate")
    return ObservedReplica(
        ordinal=0,
        cluster_id=cluster,
        member_id=100,
        role="leader" if leads else "unbootstrapped",
        term=3,
        leader_id=100,
        last_index=10,
        committed=10,
        applied=10,
        serving=leads,
        changing=False,
        disk_full=False,
        members=(member,) if leads else (),
    )


def restored(*replicas: ObservedReplica) -> ObservedPartition:
    """The snapshot is restored, and all objects that come first are applied."""
    observed = see(
        partition({"restored": {"snapshotID": "snap", "lsn": "9"}}),
        claims=(ObservedClaim(0, stamp(NOW), OURS),),
        pods=(ObservedPod(0, "10.0.0.1", True, False),),
        replicas=replicas,
        restore=ObservedRestore(snapshot=SOURCE),
    )
    for _ in range(10):
        step = next_plan(observed)
        if not isinstance(step.action, Apply):
            return observed
        body = step.action.body
        key = (body["kind"], body["metadata"]["name"])
        observed = replace(observed, objects=observed.objects | {key: body})
    raise AssertionError("the plan applies for ever")
