"""When a voter may be removed: a majority of those that stay must be heard of. The replica decides,
whatever its operator has seen."""

from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.core.model import Configuration
from partition_replica.errors import MembershipRefused
from partition_replica.ids import MemberID
from partition_replica.runtime.administration import Administration

OWN, LEARNER = 1, 9


class Removed(Exception):
    """The change was proposed."""


def administration(voters: int, heard: set[int]) -> Administration:
    """Of a leader: member OWN of the voters 1 to `voters`."""
    members = tuple(MemberID(n) for n in range(1, voters + 1))
    member = SimpleNamespace(
        configuration=Configuration(members, (MemberID(LEARNER),)),
        loop=SimpleNamespace(heard_from=lambda other, _: other in heard),
    )
    config = SimpleNamespace(tick_s=0.1, election_ticks=10)
    log = SimpleNamespace(identity=SimpleNamespace(member_id=OWN))
    found: Any = Administration(
        config,  # type: ignore[arg-type]
        log,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        SimpleNamespace(leading=lambda: member),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
    )

    async def change(*_: object) -> int:
        raise Removed

    found._change = change
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("voters", "heard"),
    [(3, {2}), (3, {2, 3}), (4, {2, 3}), (4, {2, 4}), (5, {2, 3}), (5, {2, 3, 4, 5}), (2, set())],
)
async def test_where_a_quorum_of_the_rest_is_heard_of(voters: int, heard: set[int]) -> None:
    """The one that is removed need not be: it may be lost."""
    leaving = voters
    with pytest.raises(Removed):
        await administration(voters, heard).remove_member(leaving)


@pytest.mark.parametrize(
    ("voters", "heard", "said"),
    [
        (3, set(), "only 1 of 2"),
        (3, {3}, "only 1 of 2"),
        (4, {4}, "only 1 of 3"),
        (5, {2, 5}, "only 2 of 4"),
    ],
)
async def test_where_the_rest_would_have_none(voters: int, heard: set[int], said: str) -> None:
    """What is heard of the one that leaves does not count, and half is no quorum."""
    with pytest.raises(MembershipRefused, match=said):
        await administration(voters, heard).remove_member(voters)


async def test_a_learner_goes_whoever_is_heard_of_and_the_leader_never() -> None:
    with pytest.raises(Removed):
        await administration(3, set()).remove_member(LEARNER)
    with pytest.raises(MembershipRefused, match="transfer leadership first"):
        await administration(3, {2, 3}).remove_member(OWN)
    assert await administration(3, {2, 3}).remove_member(77) == 0
