"""Replicas are fenced as an annotation says."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions

from tests.support.partition_views import after, by_type, group, look, reasons, replica, with_spec
from tests.support.rollouts import NEW, annotated, rolling


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
