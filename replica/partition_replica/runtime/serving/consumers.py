"""Consumers: named positions in this replica's log. Entries after a position are kept."""

from collections.abc import Callable

from partition_replica.core import compaction
from partition_replica.core.ports import Positions
from partition_replica.errors import InvalidArgument, NotFound
from partition_replica.ids import LSN
from partition_replica.runtime.member import Member
from partition_replica.runtime.serving.reads import check_stored
from partition_replica.storage.generations import StateGenerations


class Consumers:
    """Changes run in order on the log's writer. Each returns (position, low-water mark)."""

    def __init__(
        self, log: Positions, states: StateGenerations, running: Callable[[], Member]
    ) -> None:
        self._log = log
        self._states = states
        self._running = running

    async def register(self, name: str, lsn: int) -> tuple[int, int]:
        """Registers `name` at `lsn`; 0 means before the first stored entry. Does nothing if the
        name is registered at this LSN already, so a retry is safe. Raises InvalidArgument,
        Compacted, NoLeader."""
        log = self._log
        await self._until_applied(lsn)

        def body() -> int:
            position = lsn or log.first_stored - 1
            self._check_stored(position)
            if name in compaction.RESERVED or log.positions.get(name) != position:
                log.register(name, LSN(position))
            return position

        return await self._call(name, body)

    async def acknowledge(self, name: str, lsn: int) -> tuple[int, int]:
        """Moves the position of `name` to `lsn`. Raises NotFound, InvalidArgument, and Compacted if
        entries after `lsn` are deleted, so that the consumer learns it before its next read."""
        await self._until_applied(lsn)

        def body() -> int:
            log = self._log
            if name in compaction.RESERVED:
                raise KeyError(name)
            if lsn >= log.positions[name]:
                self._check_stored(lsn)
            log.acknowledge(name, LSN(lsn))
            return lsn

        return await self._call(name, body)

    async def remove(self, name: str) -> None:
        """Removes the consumer `name`. Raises NotFound."""

        def body() -> int:
            self._log.unregister(name)
            return 0

        await self._call(name, body)

    def list(self) -> tuple[list[tuple[str, int]], int]:
        first = self._log.first_stored
        positions = self._log.positions  # read once, so that the mark belongs to these
        found = [(n, int(at)) for n, at in positions.items() if n not in compaction.RESERVED]
        return sorted(found), compaction.promised_mark(compaction.low_water_mark(positions), first)

    @property
    def low_water_mark(self) -> int:
        """The lowest LSN that consumers can count on."""
        log = self._log
        return compaction.promised_mark(log.low_water_mark, log.first_stored)

    def _check_stored(self, position: int) -> None:
        check_stored(position + 1, self._log.first_stored, self._states.current.applied.index)

    async def _until_applied(self, lsn: int) -> None:
        """Waits until a committed LSN is applied here: an append is answered at its commit. Raises
        InvalidArgument, Overloaded, and NoLeader if the member closes meanwhile."""
        if lsn <= self._states.current.applied.index:
            return
        member = self._running()
        committed = member.loop.status().commit
        if lsn > committed:
            raise InvalidArgument(
                f"LSN {lsn} is not committed, as far as this replica knows: 0 to {committed} are "
                "allowed; ask the leader, or retry with backoff"
            )
        await member.waits.reach_for_caller(LSN(lsn))

    async def _call(self, name: str, body: Callable[[], int]) -> tuple[int, int]:
        def work() -> tuple[int, int]:
            return body(), self.low_water_mark

        try:
            return await self._running().loop.call_writer(work)
        except KeyError as error:
            raise NotFound(
                f"there is no consumer {name!r} at this replica: register it first"
            ) from error
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
