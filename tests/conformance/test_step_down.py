"""A leader that was removed hands over; the simulation's seed 478 once had one that did not."""

from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.core.model import Configuration
from partition_replica.ids import MemberID
from partition_replica.runtime.member import Member

OWN, NEAR, FAR, GONE, LEARNER = map(MemberID, (7, 1, 2, 3, 4))


def member(
    configuration: Configuration, *, role: str = "leader", transferee: int | None = None
) -> tuple[Any, list[int]]:
    """A member of a group, and whom it hands over to."""
    asked: list[int] = []
    progress = [
        SimpleNamespace(id=NEAR, matched=9),
        SimpleNamespace(id=FAR, matched=5),
        SimpleNamespace(id=GONE, matched=10),
        SimpleNamespace(id=LEARNER, matched=10),
    ]
    status = SimpleNamespace(progress=progress, lead_transferee=transferee)
    found: Any = Member.__new__(Member)
    found._own, found._election_s = OWN, 1.0
    found._volume = SimpleNamespace(log=SimpleNamespace(configuration=(1, configuration)))
    found.loop = SimpleNamespace(
        role=role,
        status=lambda: status,
        heard_from=lambda other, _: other != GONE,
        transfer_leader=asked.append,
        wake=lambda: None,
    )
    return found, asked


REMOVED = Configuration((NEAR, FAR, GONE), (LEARNER,))


def test_it_hands_over_to_the_voter_that_is_furthest_of_those_heard_of() -> None:
    found, asked = member(REMOVED)
    found._step_down_if_removed()
    assert asked == [NEAR]


@pytest.mark.parametrize(
    ("configuration", "more"),
    [
        (Configuration((OWN, NEAR)), {}),
        (Configuration((NEAR,), voters_outgoing=(OWN, NEAR)), {}),
        (REMOVED, {"role": "follower"}),
        (REMOVED, {"transferee": NEAR}),
        (Configuration(()), {}),
    ],
)
def test_nobody_else_does(configuration: Configuration, more: dict[str, Any]) -> None:
    found, asked = member(configuration, **more)
    found._step_down_if_removed()
    assert asked == []


def test_without_anybody_heard_of_it_tries_one() -> None:
    found, asked = member(Configuration((GONE,)))
    found._step_down_if_removed()
    assert asked == [GONE]
