"""Consumers' positions outlive a state transfer, and whoever came too late is told at once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.core.model import (
    Configuration,
    HardState,
    LogBatch,
    LogEntry,
    Position,
    StateSwitch,
)
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Compacted, InvalidArgument, NoLeader, NotFound
from partition_replica.ids import LSN, ClusterID, MemberID, Term
from partition_replica.runtime.serving.consumers import Consumers
from partition_replica.storage.log import LmdbLog

OWN = MemberID(7)
LAST, SNAPSHOT = 10, 20


class Here:
    """A replica's log and state, whose log's writer works at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = self._open()
        self.log.bootstrap(ClusterID("c"), Configuration((OWN,)))
        self.log.initialize(LSN(1))
        entries = [LogEntry(LSN(index), Term(1), 0, b"") for index in range(2, LAST + 1)]
        self.log.commit(LogBatch(entries, HardState(Term(1), OWN, LSN(LAST))))
        self.applied = self.committed = LAST
        self.consumers = self._consumers()

    def _open(self) -> LmdbLog:
        return LmdbLog(self.path, OWN, blob_digests)

    def _consumers(self) -> Consumers:
        here = self

        class State:
            @property
            def applied(self) -> Position:
                return Position(LSN(here.applied), Term(1))

        async def call_writer(body: Callable[[], Any]) -> Any:
            return body()

        states: Any = SimpleNamespace(current=State())

        async def reach(index: LSN) -> None:
            here.applied = max(here.applied, index)

        status = SimpleNamespace(commit=self.committed)
        loop = SimpleNamespace(call_writer=call_writer, status=lambda: status)
        member: Any = SimpleNamespace(loop=loop, waits=SimpleNamespace(reach_for_caller=reach))
        return Consumers(self.log, states, lambda: member)

    def adopt(self) -> None:
        """The log's part of a state transfer."""
        position = Position(LSN(SNAPSHOT), Term(2))
        self.log.commit(LogBatch(snapshot=StateSwitch(position, Configuration((OWN,)), 2)))

    def restart(self) -> None:
        self.log.close()
        self.log = self._open()
        self.log.initialize(LSN(self.applied))
        self.consumers = self._consumers()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    found = Here(tmp_path / "log")
    yield found
    found.log.close()


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_position_outlives_a_state_transfer_and_its_consumer_is_told(
    here: Here, restarted: bool
) -> None:
    assert await here.consumers.register("reader", 4) == (4, 2)
    here.adopt()
    here.applied = SNAPSHOT
    if restarted:
        here.restart()
    # No entry below the snapshot is promised to anybody.
    assert here.consumers.list() == ([("reader", 4)], SNAPSHOT + 1)
    assert here.consumers.low_water_mark == SNAPSHOT + 1
    for lsn in (4, 8):
        with pytest.raises(Compacted) as raised:
            await here.consumers.acknowledge("reader", lsn)
        assert (raised.value.first_index, raised.value.applied) == (SNAPSHOT + 1, SNAPSHOT)
    with pytest.raises(Compacted):
        await here.consumers.register("reader", 4)
    with pytest.raises(InvalidArgument, match="cannot move back"):
        await here.consumers.acknowledge("reader", 3)
    # It reads the state, and goes on from there.
    assert await here.consumers.acknowledge("reader", SNAPSHOT) == (SNAPSHOT, SNAPSHOT + 1)
    assert await here.consumers.acknowledge("reader", SNAPSHOT) == (SNAPSHOT, SNAPSHOT + 1)


async def test_while_the_state_is_being_replaced_nobody_is_sent_to_the_old_one(here: Here) -> None:
    await here.consumers.register("reader", 4)
    here.adopt()
    for call in (
        here.consumers.acknowledge("reader", 8),
        here.consumers.register("other", 8),
        here.consumers.register("other", 0),
    ):
        with pytest.raises(NoLeader, match="state transfer is being installed"):
            await call


async def test_registering_again_does_nothing(here: Here) -> None:
    """The answer may have been lost."""
    first = await here.consumers.register("reader", 4)
    assert await here.consumers.register("reader", 4) == first
    all_of_it = await here.consumers.register("all", 0)
    assert all_of_it[0] == 1
    assert await here.consumers.register("all", 0) == all_of_it
    for lsn in (3, 5):
        with pytest.raises(InvalidArgument, match="already registered"):
            await here.consumers.register("reader", lsn)
    assert dict(here.consumers.list()[0]) == {"reader": 4, "all": 1}
    for name in ("applied", "snapshot", "committed"):
        with pytest.raises(InvalidArgument, match="consumer name"):
            await here.consumers.register(name, 4)
        with pytest.raises(NotFound):
            await here.consumers.acknowledge(name, 5)


async def test_a_mark_is_that_of_the_positions_beside_it(here: Here) -> None:
    """Positions move on another thread between two looks."""
    await here.consumers.register("reader", 4)
    positions = here.log.positions

    class Moving:
        first_stored = 2
        low_water_mark = 99

        @property
        def positions(self) -> dict[str, LSN]:
            return positions

    here.consumers._log = Moving()  # type: ignore[assignment]
    assert here.consumers.list() == ([("reader", 4)], 2)


async def test_an_lsn_that_is_committed_is_waited_for(here: Here) -> None:
    """An append is answered at its commit: its writer may acknowledge it before it is applied."""
    here.applied = 5
    assert (await here.consumers.register("reader", 7))[0] == 7
    assert here.applied == 7
    assert (await here.consumers.acknowledge("reader", LAST))[0] == LAST
    for call in (here.consumers.register, here.consumers.acknowledge):
        with pytest.raises(InvalidArgument, match=r"LSN 11 is not committed.*0 to 10 are allowed"):
            await call("reader", LAST + 1)
