"""When a learner may become a voter: it must be able to acknowledge what comes next."""

from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration, Position
from partition_replica.errors import MembershipRefused, NotFound
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.runtime.administration import Administration

LEARNER = 8


class Promoted(Exception):
    """The change was proposed."""


def administration(
    *,
    matched: int,
    last: int = 2_000,
    boundary: int = 500,
    heard: bool = True,
    following: int = 1,
    state: str = "replicate",
) -> Administration:
    """following: so far behind `matched` is what is sent next."""
    progress = SimpleNamespace(
        id=LEARNER, matched=matched, next_index=matched + following, state=state
    )
    status = SimpleNamespace(last_index=last, progress=[progress])
    member = SimpleNamespace(
        configuration=Configuration((MemberID(7),), (MemberID(LEARNER),)),
        loop=SimpleNamespace(heard_from=lambda *_: heard, status=lambda: status),
    )
    config = SimpleNamespace(limits=Limits(), tick_s=0.1, election_ticks=10)
    log = SimpleNamespace(boundary=Position(LSN(boundary), Term(1)))
    found: Any = Administration(
        config,  # type: ignore[arg-type]
        log,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        SimpleNamespace(leading=lambda: member),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
    )

    async def change(*_: object) -> int:
        raise Promoted

    found._change = change
    return found  # type: ignore[no-any-return]


async def test_one_that_has_caught_up_is_promoted() -> None:
    with pytest.raises(Promoted):
        await administration(matched=1_500).promote_learner(LEARNER)
    # One that is sent entries follows, though what it acknowledged last is compacted already.
    with pytest.raises(Promoted):
        await administration(matched=499, last=600, following=50).promote_learner(LEARNER)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({"matched": 999}, "1001 entries behind; at most 1000"),
        ({"matched": 1_999, "heard": False}, "sent nothing for"),
        ({"matched": 0, "last": 600}, "needs a state transfer first"),
        ({"matched": 400, "last": 600}, "needs a state transfer first"),
        ({"matched": 1_900, "state": "snapshot"}, "needs a state transfer first"),
    ],
)
async def test_one_that_could_acknowledge_nothing_is_refused(
    seen: dict[str, Any], why: str
) -> None:
    with pytest.raises(MembershipRefused, match=why):
        await administration(**seen).promote_learner(LEARNER)


async def test_nobody_else_is() -> None:
    assert await administration(matched=1_999).promote_learner(7) == 0
    with pytest.raises(NotFound):
        await administration(matched=1_999).promote_learner(9)
