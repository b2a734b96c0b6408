"""Consumers' positions outlive a state transfer, and whoever came too late is told at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from partition_replica.errors import Compacted, InvalidArgument, NoLeader, NotFound
from partition_replica.ids import LSN

from tests.support.consumer_logs import LAST, SNAPSHOT, Here


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
