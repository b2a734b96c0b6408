"""The log is compacted no further than the engine knows to be applied."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from partition_replica.core.compaction import APPLIED
from partition_replica.core.limits import Limits
from partition_replica.core.model import Position
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus.compactor import SKIPPED_MAX, Compactor
from partition_replica.runtime.metrics import Metrics

T = TypeVar("T")


async def call(body: Callable[[], T]) -> T:
    return body()


class World:
    """A log of which everything that is applied may go, and an engine that hears of it later."""

    def __init__(self, *, applied: int, told: int, paused: bool = False) -> None:
        at = Position(LSN(applied), Term(3))
        self.done: list[tuple[str, int]] = []
        self.positions: dict[str, int] = {}
        self.log = SimpleNamespace(
            positions=self.positions,
            last=at,
            boundary=Position(LSN(0), Term(0)),
            first_stored=LSN(1),
            acknowledge=self.positions.__setitem__,
            compaction_target=lambda _: self.positions.get(APPLIED),
            term=lambda _: Term(3),
            compact=lambda index: self.done.append(("log", index)),
            prune=lambda _: (0, []),
        )
        state = SimpleNamespace(applied=at, sync=lambda: at)
        states: Any = SimpleNamespace(current=state)
        loop: Any = SimpleNamespace(
            call_writer=call, compact=lambda b: self.done.append(("engine", b.index))
        )
        self.applier: Any = SimpleNamespace(call=call, told=LSN(told), paused=paused)
        self.compactor = Compactor(
            self.log,
            states,
            loop,
            self.applier,
            Limits(),
            Metrics(),
            collect=lambda _: call(lambda: None),
        )


@pytest.mark.parametrize("told", [0, 179])
async def test_a_batch_that_the_engine_has_not_heard_of_waits(told: int) -> None:
    world = World(applied=180, told=told)
    await world.compactor.run_once()
    assert world.done == []
    assert world.positions[APPLIED] == 180
    world.applier.told = LSN(180)
    await world.compactor.run_once()
    assert world.done == [("engine", 180), ("log", 180)]


async def test_nothing_goes_while_the_state_is_replaced() -> None:
    world = World(applied=180, told=180, paused=True)
    await world.compactor.run_once()
    assert (world.done, world.positions) == ([], {})


def test_an_idle_log_is_looked_at_now_and_then() -> None:
    world = World(applied=180, told=180)
    asked = [world.compactor.due() for _ in range(2 * (SKIPPED_MAX + 1))]
    assert asked == 2 * [True, *[False] * SKIPPED_MAX]


@pytest.mark.parametrize("what", ["positions", "told", "paused", "last", "boundary"])
def test_a_change_makes_a_run_due(what: str) -> None:
    world = World(applied=180, told=180)
    assert world.compactor.due()
    assert not world.compactor.due()
    if what == "positions":
        world.positions["consumer"] = 7
    elif what in ("told", "paused"):
        setattr(world.applier, what, LSN(181))
    else:
        setattr(world.log, what, Position(LSN(181), Term(3)))
    assert world.compactor.due()
    assert not world.compactor.due()
