"""A user chooses the leader by an annotation."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions

from tests.support.partition_views import after, group, look, member, reasons, replica
from tests.support.rollouts import annotated


def asking(value: str, **changes: Any) -> ObservedPartition:
    """Replica 0 leads. changes: of member 1."""
    members = tuple(member(n, **(changes if n == 1 else {})) for n in range(3))
    found = group()
    lead = replica(0, "leader", members=members)
    found = replace(found, replicas=(lead, *found.replicas[1:]))
    return annotated(found, switchover=value)


def test_the_leader_hands_over_once() -> None:
    found = asking("part-1")
    assert look(found).action == actions.TransferLeadership(0, 101)
    members = tuple(member(n) for n in range(3))
    followers = [replica(n, "follower", members=members) for n in (0, 2)]
    led = replace(found, replicas=(replica(1, "leader", members=members), *followers))
    step = look(led)
    assert step.action is None
    assert "SwitchoverCompleted" in reasons(step)
    assert step.status["switchover"] == "part-1"
    # Another one leads later: the annotation was followed already.
    later = replace(after(led), replicas=asking("part-1").replicas)
    step = look(later)
    assert step.action is None
    assert "SwitchoverCompleted" not in reasons(step)
    again = annotated(later, switchover="part-1/2")
    assert look(again).action == actions.TransferLeadership(0, 101)


@pytest.mark.parametrize("value", ["part-7", "other-1", "", "/"])
def test_who_is_no_voter_is_refused_by_name(value: str) -> None:
    step = look(asking(value))
    assert step.action is None
    assert ("SwitchoverRefused" in reasons(step)) is bool(value)
    if value:
        (told,) = (e.message for e in step.events if e.reason == "SwitchoverRefused")
        assert "the voters are part-0, part-1, part-2" in told
        assert look(after(asking(value))).events == []


def test_a_learner_is_refused() -> None:
    assert "SwitchoverRefused" in reasons(look(asking("part-1", voter=False)))


def test_one_that_is_behind_is_waited_for() -> None:
    for changes in ({"recently_active": False}, {"matched": -2000}):
        step = look(asking("part-1", **changes))
        assert not isinstance(step.action, actions.TransferLeadership)
        assert "switchover" not in step.status
