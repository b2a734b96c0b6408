"""Consumers: named positions in this replica's log, which keep what they have not read."""

from collections.abc import Callable
from typing import TypeVar

from partition_replica.core import compaction
from partition_replica.errors import InvalidArgument, NotFound
from partition_replica.ids import LSN
from partition_replica.runtime.member import Member
from partition_replica.storage.volume import Volume

T = TypeVar("T")


class Consumers:
    """Writes run on the log's writer, in their turn; each returns (position, low-water mark)."""

    def __init__(self, volume: Volume, running: Callable[[], Member]) -> None:
        self._volume = volume
        self._running = running

    async def register(self, name: str, lsn: int) -> tuple[int, int]:
        """`lsn` 0: everything that is stored. Raises InvalidArgument, Compacted."""
        log = self._volume.log
        self._check_applied(lsn)

        def body() -> int:
            position = lsn or log.first_stored - 1
            log.register(name, LSN(position))
            return position

        return await self._call(name, body)

    async def acknowledge(self, name: str, lsn: int) -> tuple[int, int]:
        """Raises NotFound, InvalidArgument."""
        self._check_applied(lsn)

        def body() -> int:
            if name in compaction.RESERVED:
                raise KeyError(name)
            self._volume.log.acknowledge(name, LSN(lsn))
            return lsn

        return await self._call(name, body)

    async def remove(self, name: str) -> None:
        """Raises NotFound."""

        def body() -> int:
            self._volume.log.unregister(name)
            return 0

        await self._call(name, body)

    def list(self) -> tuple[list[tuple[str, int]], int]:
        log = self._volume.log
        found = [(n, int(at)) for n, at in log.positions.items() if n not in compaction.RESERVED]
        return sorted(found), log.low_water_mark

    def _check_applied(self, lsn: int) -> None:
        applied = self._volume.state.applied.index
        if lsn > applied:
            raise InvalidArgument(f"LSN {lsn} is not applied here: allowed are 0 to {applied}")

    async def _call(self, name: str, body: Callable[[], int]) -> tuple[int, int]:
        try:
            position = await self._running().loop.call_writer(body)
        except KeyError as error:
            raise NotFound(f"there is no consumer {name!r} at this replica") from error
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        return position, self._volume.log.low_water_mark
