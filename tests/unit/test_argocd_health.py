"""Argo CD's health checks, run by a Lua engine on what the operator's plans write."""

from dataclasses import replace
from typing import Any

import pytest
from lupa import lua51
from partition_operator.api.partition import parse
from partition_operator.reconcile.observed.partition import Certificates, ObservedPartition
from partition_operator.reconcile.observed.snapshot import ObservedJob
from partition_operator.reconcile.snapshot.plan import plan as plan_snapshot

from dev.generate.argocd import script
from tests.support import partition_views, restore_plans, snapshot_plans
from tests.support.partition_views import (
    after,
    claims,
    complete,
    empty,
    group,
    look,
    partition,
    see,
)
from tests.support.rollouts import NEW, of, of_all, rolling, with_revision

CLOSED = ("string", "math", "io", "debug", "coroutine", "dofile", "loadfile", "require")
"""Libraries and functions that Argo CD does not give to a health check."""
STATUSES = {"Healthy", "Progressing", "Degraded", "Suspended", "Unknown"}


def health(kind: str, body: dict[str, Any]) -> tuple[str, str]:
    """(status, message), as Argo CD would show them."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    for name in CLOSED:
        lua.globals()[name] = None
    lua.execute('getmetatable("").__index = nil')
    lua.globals().obj = lua.table_from(body, recursive=True)
    found = lua.execute(script(kind))
    assert set(found) == {"status", "message"}
    assert found["status"] in STATUSES
    assert isinstance(found["message"], str)
    return found["status"], found["message"]


def of_partition(observed: ObservedPartition) -> tuple[str, str]:
    return health("Partition", observed.partition.body | {"status": look(observed).status})


def up_to_date() -> ObservedPartition:
    return after(with_revision(of_all(group(), NEW), NEW))


def test_a_partition_that_nobody_has_looked_at() -> None:
    body = group().partition.body
    for status in (None, {}, {"conditions": []}):
        found = {k: v for k, v in body.items() if k != "status"} | (
            {"status": status} if status else {}
        )
        assert health("Partition", found)[0] == "Progressing"


def test_a_group_that_serves_is_healthy() -> None:
    assert of_partition(up_to_date()) == ("Healthy", "every replica serves")


def test_a_spec_that_the_operator_has_not_seen() -> None:
    observed = up_to_date()
    body = observed.partition.body | {"status": look(observed).status}
    newer = body | {"metadata": body["metadata"] | {"generation": 4}}
    assert health("Partition", newer)[0] == "Progressing"


def test_a_group_that_does_not_exist_yet_is_progress() -> None:
    found = see(partition(), pods=partition_views.pods(3), claims=claims(3))
    found = complete(replace(found, replicas=tuple(empty(n) for n in range(3))))
    assert of_partition(found)[0] == "Progressing"


def test_no_leader_is_a_fault_and_not_seeing_one_is_unknown() -> None:
    observed = replace(up_to_date(), replicas=())
    assert of_partition(observed)[0] == "Degraded"
    refused = Certificates(refused={0: "the certificate has expired"})
    assert of_partition(replace(observed, certificates=refused))[0] == "Unknown"


def test_a_missing_replica_is_progress() -> None:
    observed = up_to_date()
    gone = of(observed, 2, ready=False)
    shown = of_partition(replace(gone, replicas=observed.replicas[:2]))
    assert shown[0] == "Progressing"
    assert "part-2" in shown[1]


def test_a_spec_that_can_not_be_followed() -> None:
    observed = up_to_date()
    body = observed.partition.body
    wrong = parse(body | {"spec": body["spec"] | {"replicas": 2}})
    shown = of_partition(replace(observed, partition=wrong))
    assert shown[0] == "Degraded"
    assert "replicas" in shown[1]


def test_a_rollout_is_progress_until_it_stalls() -> None:
    assert of_partition(rolling())[0] == "Progressing"
    since = "2026-01-01T00:00:00Z"
    began = of(rolling(), 2, revision=NEW, ready=False, since=since)
    assert of_partition(after(began, 100_000))[0] == "Degraded"


@pytest.mark.parametrize("kind", ["OnDelete", "Supervised"])
def test_a_rollout_that_waits_for_a_person_is_suspended(kind: str) -> None:
    assert of_partition(rolling(updateStrategy={"type": kind}))[0] == "Suspended"


def test_a_paused_partition_is_suspended() -> None:
    observed = up_to_date()
    body = observed.partition.body
    paused = parse(body | {"spec": body["spec"] | {"paused": True}})
    assert of_partition(replace(observed, partition=paused))[0] == "Suspended"


def test_a_hibernated_partition_is_suspended() -> None:
    observed = up_to_date()
    body = observed.partition.body
    asleep = parse(body | {"spec": body["spec"] | {"hibernated": True}})
    assert of_partition(replace(observed, partition=asleep))[0] == "Suspended"


def test_refused_certificates_are_a_fault() -> None:
    refused = Certificates(refused={1: "the certificate has expired"})
    shown = of_partition(replace(up_to_date(), certificates=refused))
    assert shown == ("Degraded", "part-1: the certificate has expired")


def test_a_full_disk_is_a_fault() -> None:
    observed = up_to_date()
    full = tuple(replace(r, disk_full=True) for r in observed.replicas)
    assert of_partition(replace(observed, replicas=full))[0] == "Degraded"


def test_a_restore_that_can_not_succeed_is_a_fault() -> None:
    found = restore_plans.ready_for_pod(restore_plans.see(restore_plans.partition()))
    shown = restore_plans.next_plan(found)
    assert health("Partition", found.partition.body | {"status": shown.status})[0] == "Progressing"
    report = {"state": "failed", "reason": "SnapshotDamaged", "message": "object 12ab is missing"}
    found = restore_plans.with_pod(found, **restore_plans.ended(65, report))
    shown = restore_plans.next_plan(found)
    assert health("Partition", found.partition.body | {"status": shown.status})[0] == "Degraded"


def of_snapshot(step: Any) -> str:
    body = snapshot_plans.snapshot().body | {"status": step.status}
    return health("PartitionSnapshot", body)[0]


def test_a_snapshot_from_its_beginning_to_its_verification() -> None:
    assert health("PartitionSnapshot", snapshot_plans.snapshot().body)[0] == "Progressing"
    found = snapshot_plans.snapshot(spec={"verify": "Checksum"})
    step = plan_snapshot(snapshot_plans.view(found), "image:1")
    assert of_snapshot(step) == "Progressing"
    found = snapshot_plans.succeeded()
    step = plan_snapshot(snapshot_plans.view(found), "image:1")
    assert (step.status["state"], of_snapshot(step)) == ("Succeeded", "Progressing")
    found = snapshot_plans.after(step, found)
    for job, state, wanted in (
        (ObservedJob("Running", "Verifying", 47), "Succeeded", "Progressing"),
        (ObservedJob("Succeeded"), "Verified", "Healthy"),
        (ObservedJob("Failed", reason="SnapshotDamaged"), "VerifyFailed", "Degraded"),
    ):
        step = plan_snapshot(snapshot_plans.view(found, job=job), "image:1")
        assert (step.status["state"], of_snapshot(step)) == (state, wanted)


def test_a_snapshot_without_verification_is_healthy() -> None:
    step = plan_snapshot(snapshot_plans.view(snapshot_plans.succeeded("None")), "image:1")
    assert (step.status["state"], of_snapshot(step)) == ("Succeeded", "Healthy")


def test_a_snapshot_that_failed_or_whose_volume_is_lost() -> None:
    found = snapshot_plans.run(snapshot_plans.started())
    job = ObservedJob("Failed", reason="StoreRefused", message="no such bucket")
    step = plan_snapshot(snapshot_plans.view(found, job=job), "image:1")
    assert (step.status["state"], of_snapshot(step)) == ("Failed", "Degraded")
    lost = {"type": "Available", "status": "False", "message": "its volume is gone"}
    body = found.body | {"status": {"state": "Verified", "conditions": [lost]}}
    assert health("PartitionSnapshot", body) == ("Degraded", "its volume is gone")
