"""A Partition that sleeps, and wakes with what it had."""

from dataclasses import replace

from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions

from tests.support.partition_views import (
    IMAGE,
    after,
    by_type,
    complete,
    empty,
    group,
    look,
    partition,
    pod,
    reasons,
    see,
    with_spec,
    with_status,
)

STATEFUL_SET = ("StatefulSet", "part")


def stopping() -> ObservedPartition:
    """The StatefulSet is written, and the pods end."""
    found = complete(with_spec(group(), hibernated=True))
    assert found.objects[STATEFUL_SET]["spec"]["replicas"] == 0
    return found


def asleep() -> ObservedPartition:
    return after(replace(after(stopping()), pods=(), replicas=()))


def test_all_pods_end_and_the_volumes_stay() -> None:
    step = look(stopping())
    assert step.action is None
    assert not step.settled
    assert by_type(step)["Hibernated"]["reason"] == "Hibernating"
    assert by_type(step)["Progressing"]["status"] == "True"
    step = look(replace(after(stopping()), pods=(), replicas=()))
    assert step.action is None
    assert step.settled
    assert step.status["state"] == "Hibernated"
    told = by_type(step)
    assert told["Hibernated"]["status"] == "True"
    assert told["QuorumAvailable"]["reason"] == "Hibernated"
    assert {"Hibernated"} == set(reasons(step)), "asked for, so no quorum is said to be lost"
    assert [m["pod"] for m in step.status["members"]] == ["part-0", "part-1", "part-2"]


def test_nothing_else_is_done_with_replicas_that_still_answer() -> None:
    found = stopping()
    found = replace(found, replicas=(found.replicas[0], found.replicas[1], empty(2)))
    assert look(found).action is None


def test_an_idle_sleeper_writes_nothing() -> None:
    found = asleep()
    step = look(found)
    assert step.status == found.partition.status
    assert step.events == []


def test_it_wakes_with_every_member_that_it_had() -> None:
    """A group that shrinks keeps its members' pods, for the election may need them."""
    for spec, pods in (({}, 3), ({"replicas": 1}, 3), ({"replicas": 5}, 5)):
        woken = with_spec(asleep(), hibernated=False, **spec)
        step = look(woken)
        assert isinstance(step.action, actions.Apply)
        assert step.action.body["kind"] == "StatefulSet"
        assert step.action.body["spec"]["replicas"] == pods
        assert "Woken" in reasons(step)
        assert step.status["state"] != "Hibernated"


def test_a_group_that_does_not_exist_yet_comes_to_that_first() -> None:
    step = look(see(partition({"hibernated": True})))
    assert isinstance(step.action, actions.RecordCluster)
    told = by_type(step)["Hibernated"]
    assert (told["status"], told["reason"]) == ("False", "Waiting")


BACKFILL = {
    "fromLSN": "1",
    "doneLSN": "4",
    "targetLSN": "10",
    "percent": 40,
    "progressTime": "2026-01-02T00:00:00Z",
}


def test_a_backfill_comes_to_its_end_first() -> None:
    found = group(1, spec={"replication": {"mode": "Raft"}})
    alone = replace(found.replicas[0], standalone=True)
    found = with_status(replace(found, replicas=(alone,)), mode="Backfilling", backfill=BACKFILL)
    found = with_spec(found, hibernated=True)
    assert by_type(look(found))["Hibernated"]["reason"] == "Waiting"


def test_a_standalone_log_sleeps_on_when_it_shall_be_replicated() -> None:
    """The backfill begins when it wakes. Until then nobody has asked for a pod."""
    found = group(1, spec={"replication": {"mode": "None"}})
    found = replace(found, replicas=(replace(found.replicas[0], standalone=True),))
    found = complete(with_spec(after(found), hibernated=True))
    found = after(replace(after(found), pods=(), replicas=()))
    assert found.partition.status["mode"] == "None"
    found = with_spec(found, replicas=3, replication={"mode": "Raft"})
    for _ in range(3):
        found = after(complete(found))
        assert found.objects[STATEFUL_SET]["spec"]["replicas"] == 0
        assert found.partition.status["state"] == "Hibernated"
    assert found.partition.status["mode"] == "Backfilling"
    # Its range was known before the pod ended. It does not stall, for nobody runs.
    found = after(with_status(found, backfill=BACKFILL))
    later = after(found, 100_000)
    assert later.partition.status == found.partition.status
    assert by_type(look(later))["BackfillComplete"]["reason"] == "Waiting"
    assert look(later).events == []


# --- while the operator is stopped --------------------------------------------------------------


def test_a_pause_keeps_the_pods_that_shall_hibernate() -> None:
    step = look(with_spec(after(group()), paused=True, hibernated=True))
    assert step.action is None
    told = by_type(step)
    assert (told["Hibernated"]["status"], told["Hibernated"]["reason"]) == ("False", "Waiting")
    assert "the replicas run on" in told["Hibernated"]["message"]
    assert told["QuorumAvailable"]["status"] == "True"
    assert step.status["state"] == "Ready"


def test_a_pause_keeps_a_sleeper_asleep() -> None:
    step = look(with_spec(asleep(), paused=True, hibernated=False))
    assert step.action is None
    told = by_type(step)
    assert told["Hibernated"]["status"] == "True"
    assert "they start once this is over: spec.paused is true" in told["Hibernated"]["message"]
    assert step.status["state"] == "Hibernated"
    assert "Woken" not in reasons(step)
    step = look(with_spec(asleep(), paused=True))
    assert by_type(step)["Hibernated"]["status"] == "True"
    ends = look(with_spec(stopping(), paused=True))
    assert by_type(ends)["Hibernated"]["reason"] == "Hibernating"


# --- the image ----------------------------------------------------------------------------------


def revised(found: ObservedPartition, revision: str) -> ObservedPartition:
    """The StatefulSet's controller has seen the newest template."""
    live = found.objects[STATEFUL_SET]
    live = live | {"status": {"observedGeneration": 1, "updateRevision": revision}}
    return replace(found, objects=found.objects | {STATEFUL_SET: live})


def test_an_image_that_no_pod_has_had_is_not_kept() -> None:
    """A sleeper follows the spec's template. Whether it works is known once it wakes."""
    found = after(
        revised(replace(group(), pods=tuple(pod(n, revision="r1") for n in range(3))), "r1")
    )
    assert (found.partition.status["image"], found.partition.status["revision"]) == (IMAGE, "r1")
    found = after(revised(complete(with_spec(found, hibernated=True)), "r1"))
    found = after(replace(found, pods=(), replicas=()))
    found = after(revised(complete(with_spec(found, image="bad:1")), "r2"))
    assert (found.partition.status["image"], found.partition.status["revision"]) == (IMAGE, "r1")
    assert found.objects[STATEFUL_SET]["spec"]["replicas"] == 0
    found = after(revised(complete(with_spec(found, hibernated=False)), "r2"))
    broken = tuple(pod(n, revision="r2", ready=False) for n in range(3))
    for _ in range(2):
        found = after(replace(found, pods=broken))
        assert found.partition.status["image"] == IMAGE
        told = by_type(look(found))["RolledOut"]
        assert (told["status"], told["reason"]) == ("False", "Rolling")
    works = replace(found, pods=tuple(replace(p, ready=True) for p in broken))
    assert look(works).status["image"] == "bad:1"
    back = look(works)
    assert by_type(back)["RolledOut"]["status"] == "True"
