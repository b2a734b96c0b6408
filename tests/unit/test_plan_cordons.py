"""A leader leaves a cordoned node before it is drained."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.clients.nodes import OUT_OF_SERVICE, NodeBook, NodeFacts, facts
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions

from tests.support.partition_views import group, look, member, pod, reasons, replica
from tests.support.rollouts import annotated


def cordoned(*nodes: int, pods: dict[int, Any] | None = None, **changes: Any) -> ObservedPartition:
    """Replica 0 leads. changes: of member 1. pods: by ordinal, changes of a pod."""
    members = tuple(
        member(n, matched=10 if n == 1 else 9, **(changes if n == 1 else {})) for n in range(3)
    )
    found = group()
    lead = replica(0, "leader", members=members)
    return replace(
        found,
        replicas=(lead, *found.replicas[1:]),
        pods=tuple(pod(n, **(pods or {}).get(n, {})) for n in range(3)),
        cordoned=frozenset(f"node-{n}" for n in nodes),
    )


def test_it_hands_over_to_the_best_follower_elsewhere() -> None:
    step = look(cordoned(0))
    assert step.action == actions.TransferLeadership(0, 101)
    assert "LeaderLeavesNode" in reasons(step)
    assert look(cordoned(0, 1)).action == actions.TransferLeadership(0, 102)


@pytest.mark.parametrize(
    "found",
    [
        cordoned(),
        cordoned(1, 2),
        cordoned(0, 1, 2),
        cordoned(0, 2, pods={1: {"ready": False}}),
        cordoned(0, 2, pods={1: {"deleting": True}}),
        cordoned(0, 2, voter=False),
        cordoned(0, 2, recently_active=False),
    ],
    ids=["none", "others", "all", "unready", "ending", "learner", "silent"],
)
def test_it_stays_where_no_other_can_lead(found: ObservedPartition) -> None:
    step = look(found)
    assert not isinstance(step.action, actions.TransferLeadership)
    assert "LeaderLeavesNode" not in reasons(step)


def test_one_that_is_behind_is_no_successor() -> None:
    found = cordoned(0, 2)
    lead = replace(found.replicas[0], committed=5000)
    found = replace(found, replicas=(lead, *found.replicas[1:]))
    assert look(found).action is None


def test_a_users_choice_goes_first() -> None:
    found = annotated(cordoned(0), switchover="part-2")
    assert look(found).action == actions.TransferLeadership(0, 102)


def test_what_is_known_of_nodes() -> None:
    changes: list[str] = []
    book = NodeBook(changes.append)
    book.note("a", facts({}))
    assert changes == [], "a node as usual is no news, or each start would wake every Partition"
    book.note("a", facts({"unschedulable": True}))
    book.note("a", facts({"unschedulable": True, "taints": [{"key": "other"}]}))
    assert changes == ["a"]
    assert book.is_cordoned("a")
    book.note("a", None)
    assert changes == ["a", "a"]
    assert not book.is_cordoned("a")
    assert facts({"taints": [{"key": OUT_OF_SERVICE}]}) == NodeFacts(out_of_service=True)
