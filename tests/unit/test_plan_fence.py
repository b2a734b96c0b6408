"""Replicas are fenced as an annotation says."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.reconcile.observed.fence_failure import FenceFailure
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions

from tests.support.partition_views import (
    CLUSTER,
    OTHER,
    after,
    by_type,
    claims,
    draw,
    group,
    look,
    partition,
    pods,
    reasons,
    replica,
    see,
    with_spec,
)
from tests.support.rollouts import NEW, annotated, of, rolling


def fenced(found: ObservedPartition, *ordinals: int) -> ObservedPartition:
    """As the replicas answer once they are fenced."""
    left = tuple(r for r in found.replicas if r.ordinal not in ordinals)
    closed = tuple(replica(n, "fenced", members=()) for n in ordinals)
    return replace(found, replicas=left, fenced=closed)


def told(found: ObservedPartition) -> tuple[Any, Any]:
    condition = by_type(look(found))["Fenced"]
    return condition["status"], condition["reason"]


def test_named_replicas_are_fenced_one_after_the_other_and_freed_again() -> None:
    found = annotated(after(group()), fence="part-2, part-1")
    assert look(found).action == actions.SetFenced(1, fenced=True)
    one = fenced(found, 1)
    assert look(one).action == actions.SetFenced(2, fenced=True)
    both = fenced(found, 1, 2)
    step = look(both)
    assert step.action is None
    assert told(both) == ("True", "Fenced")
    assert "ReplicaFenced" in reasons(step)
    freed = annotated(after(both), fence="part-2")
    assert look(freed).action == actions.SetFenced(1, fenced=False)
    none = annotated(after(fenced(found)), fence="")
    assert told(none) == ("False", "None")


def test_it_is_done_while_the_partition_is_paused() -> None:
    found = annotated(with_spec(group(), paused=True), fence="part-1")
    assert look(found).action == actions.SetFenced(1, fenced=True)
    assert look(annotated(fenced(found, 1), fence="")).action == actions.SetFenced(1, fenced=False)


def test_one_that_does_not_answer_is_waited_for() -> None:
    found = annotated(after(group()), fence="part-1")
    silent = replace(found, replicas=(found.replicas[0], found.replicas[2]))
    assert look(silent).action is None
    assert told(silent) == ("False", "Fencing")


def test_a_pod_that_does_not_exist_is_named_once() -> None:
    found = annotated(after(group()), fence="part-9")
    step = look(found)
    assert step.action is None
    assert told(found) == ("False", "UnknownPod")
    assert "FenceRefused" in reasons(step)
    assert look(after(found)).events == []


def test_no_fenced_pod_is_replaced() -> None:
    """Its process is what a person looks at."""
    found = annotated(rolling(), fence="part-1")
    step = look(fenced(found, 1))
    assert not isinstance(step.action, actions.EvictPod | actions.Delete)
    condition = by_type(step)["RolledOut"]
    assert (condition["status"], condition["reason"]) == ("False", "Fenced")
    assert NEW in condition["message"]


@pytest.mark.parametrize("ordinal", [0, 2])
def test_a_fenced_replica_is_no_new_volume(ordinal: int) -> None:
    """It tells no cluster, or nothing, of a volume that can't be opened."""
    found = annotated(after(group()), fence=f"part-{ordinal}")
    closed = replace(replica(ordinal, "fenced"), cluster_id="", member_id=0)
    step = look(replace(fenced(found, ordinal), fenced=(closed,)))
    assert not isinstance(step.action, actions.Join | actions.Bootstrap | actions.RemoveMember)


# --- fences that fail -------------------------------------------------------------------------


def failing(found: ObservedPartition, retry_s: float, *, fenced: bool = True) -> ObservedPartition:
    failure = FenceFailure(fenced, "SetFenced of part-1: UNIMPLEMENTED", retry_s)
    return replace(found, fence_failures={1: failure})


def test_other_steps_go_on_while_a_fence_waits_for_its_next_try() -> None:
    """Here the pods' rollout, which may bring the version that knows fences."""
    found = annotated(rolling(), fence="part-1")
    assert look(found).action == actions.SetFenced(1, fenced=True)
    held = failing(found, 30.0)
    step = look(held)
    assert isinstance(step.action, actions.EvictPod)
    assert told(held) == ("False", "Failed")
    assert "UNIMPLEMENTED" in by_type(step)["Fenced"]["message"]
    assert "FenceFailed" in reasons(look(failing(after(found), 30.0)))
    assert "FenceFailed" not in reasons(look(after(held)))
    assert look(failing(found, 0.0)).action == actions.SetFenced(1, fenced=True)
    # What failed was to end a fence; now one is asked for.
    assert look(failing(found, 30.0, fenced=False)).action == actions.SetFenced(1, fenced=True)


def test_the_next_replica_does_not_wait_for_one_that_fails() -> None:
    found = failing(annotated(after(group()), fence="part-1,part-2"), 30.0)
    assert look(found).action == actions.SetFenced(2, fenced=True)
    both = fenced(found, 2)
    assert told(both) == ("True", "Fenced")
    message = by_type(look(both))["Fenced"]["message"]
    assert "part-2 answers nobody" in message
    assert "part-1 can't be fenced" in message


@pytest.mark.parametrize("spec", [{}, {"paused": True}, {"replicas": 99}])
def test_a_settled_partition_is_back_in_time_for_the_next_try(spec: dict[str, Any]) -> None:
    step = look(failing(annotated(with_spec(after(group()), **spec), fence="part-1"), 4.0))
    assert step.action is None
    assert not step.settled
    assert step.retry_s == 4.0


# --- whose fence it is ------------------------------------------------------------------------


def test_a_fence_is_put_and_ended_while_the_spec_is_refused() -> None:
    found = with_spec(after(group()), replicas=99)
    assert by_type(look(found))["Accepted"]["status"] == "False"
    asked = annotated(found, fence="part-1")
    assert look(asked).action == actions.SetFenced(1, fenced=True)
    one = fenced(asked, 1)
    assert look(one).action is None
    assert told(one) == ("True", "Fenced")
    assert look(annotated(one, fence="")).action == actions.SetFenced(1, fenced=False)


def former(cluster_id: str, mark: str, *, adopt: bool, status: str) -> ObservedPartition:
    """A Partition that was deleted and made again, whose only replica is fenced."""
    recorded = {"clusterID": status} if status else {}
    spec = {"replicas": 1, "bootstrap": {"adopt": adopt}}
    closed = replace(replica(0, "fenced", members=()), cluster_id=cluster_id)
    volumes = claims(1, mark, created="2025-01-01T00:00:00Z")
    return see(partition(spec, **recorded), pods=pods(1), claims=volumes, fenced=(closed,))


@pytest.mark.parametrize(
    ("cluster_id", "mark", "adopt", "status"),
    [
        (CLUSTER, CLUSTER, True, ""),
        (CLUSTER, CLUSTER, True, CLUSTER),
        (CLUSTER, CLUSTER, False, CLUSTER),
        ("", CLUSTER, False, CLUSTER),
    ],
)
def test_a_fence_that_outlasted_its_partition_ends(
    cluster_id: str, mark: str, adopt: bool, status: str
) -> None:
    found = former(cluster_id, mark, adopt=adopt, status=status)
    assert draw(found).action == actions.SetFenced(0, fenced=False)
    asked = draw(annotated(found, fence="part-0"))
    assert not isinstance(asked.action, actions.SetFenced)


@pytest.mark.parametrize(("cluster_id", "mark"), [(OTHER, OTHER), (OTHER, CLUSTER), ("", OTHER)])
def test_the_fence_of_another_cluster_stays(cluster_id: str, mark: str) -> None:
    """Somebody may be looking at the volume, and this Partition has no part in it."""
    step = draw(former(cluster_id, mark, adopt=False, status=CLUSTER))
    assert not isinstance(step.action, actions.SetFenced)


# --- what is said -----------------------------------------------------------------------------


@pytest.mark.parametrize("hibernated", [False, True])
def test_a_fenced_pod_that_is_gone_for_now_is_not_unknown(hibernated: bool) -> None:
    found = fenced(annotated(with_spec(group(), hibernated=hibernated), fence="part-1"), 1)
    gone = replace(after(found), fenced=())
    left = () if hibernated else tuple(p for p in gone.pods if p.ordinal != 1)
    gone = replace(gone, pods=left, replicas=gone.replicas[: len(left)])
    assert told(gone) == ("False", "Fencing")
    assert "FenceRefused" not in reasons(look(gone))


@pytest.mark.parametrize(("size", "ready"), [(1, "False"), (3, "True")])
def test_the_message_names_the_fenced_pod(size: int, ready: str) -> None:
    """No one has to look for a reason why it does not answer."""
    found = fenced(annotated(after(group(size)), fence="part-0"), 0)
    if size > 1:
        leads = replace(
            found.replicas[0], role="leader", serving=True, members=group().replicas[0].members
        )
        found = replace(found, replicas=(leads, *found.replicas[1:]))
    found = of(found, 0, ready=False)
    seen = by_type(look(found))["Ready"]
    assert seen["status"] == ready
    assert "part-0 answers nobody" in seen["message"]
    assert "kubectl describe" not in seen["message"]
