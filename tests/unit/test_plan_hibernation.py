"""A Partition that sleeps, and wakes with what it had."""

from dataclasses import replace

from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions

from tests.support.partition_views import (
    after,
    by_type,
    complete,
    empty,
    group,
    look,
    partition,
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


def test_a_backfill_comes_to_its_end_first() -> None:
    found = group(1, spec={"hibernated": True, "replication": {"mode": "Raft"}})
    alone = replace(found.replicas[0], standalone=True)
    step = look(with_status(replace(found, replicas=(alone,)), mode="Backfilling"))
    assert by_type(step)["Hibernated"]["reason"] == "Waiting"
