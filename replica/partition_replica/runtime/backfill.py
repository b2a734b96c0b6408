"""Switches replication on for a partition that runs without: gives its log Raft's metadata while it
serves, then holds writes for as long as it takes to drain, and starts again as a sole voter.

Each step is a transaction with its progress, so a process that ends at any point goes on from
there: what was begun is completed at the next start.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from partition_replica.core.limits import Limits
from partition_replica.core.model import Backfill
from partition_replica.core.ports import ReplicationSwitch
from partition_replica.errors import DiskFull
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.failpoints import reach
from partition_replica.storage.generations import StateGenerations
from partition_replica.storage.space import VolumeSpace

logger = logging.getLogger(__name__)

PROGRESS_LOG_S = 5.0

FULL_S = 1.0
"""How often the disk is looked at while it is too full to go on."""


def check_room(log: ReplicationSwitch, space: VolumeSpace, limits: Limits) -> None:
    """Raises DiskFull if a backfill would take a volume below its reserve."""
    room = space.room_for(log.backfill_bytes(), limits)
    if not room.enough:
        raise DiskFull(
            f"a backfill of entries {log.first_stored} to {log.last.index} takes up to "
            f"{room.needed_bytes} bytes with what is reserved; {room.free_bytes} are free: make "
            "room or grow the volume"
        )


class Backfiller:
    """One run, from a standalone log to a member of Raft.

    `hold` refuses new proposals; `replace` ends the member that runs and starts one anew.
    """

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        log: ReplicationSwitch,
        states: StateGenerations,
        limits: Limits,
        metrics: Metrics,
        *,
        disk: DiskWatch,
        member: Member,
        hold: Callable[[], None],
        replace: Callable[[Callable[[], None]], Awaitable[None]],
    ) -> None:
        self._log = log
        self._states = states
        self._limits = limits
        self._metrics = metrics
        self._disk = disk
        self._member = member
        self._hold = hold
        self._replace = replace
        self._logged = float("-inf")

    async def run(self) -> None:
        """Returns when Raft's member runs. Whatever it raises must end the process."""
        log = self._log
        call = self._member.loop.call_writer
        progress = await call(log.begin_backfill)
        logger.info(
            "backfill of %d to %d begins: entries without a term get %d",
            progress.next,
            progress.target,
            progress.term,
        )
        while not progress.complete:
            await self._room()
            progress = await call(lambda: log.step_backfill(self._limits.backfill_rows))
            self._say(progress)
        await self._room()
        if not self._member.loop.last_proposed:
            # A group's log has a first entry, which its boundary is at.
            self._member.loop.propose_nothing()
        self._hold()
        held = time.monotonic()
        await self._drain()
        reach("backfill.drained")
        await self._replace(self._switch)
        seconds = time.monotonic() - held
        self._metrics.backfill_held.set(seconds)
        logger.info("backfill completed: writes were held for %.3f s", seconds)

    async def _room(self) -> None:
        """Waits while the volume is below its reserve: a step that has no room would end the
        process, and so would the one after the next start."""
        waited = False
        while self._disk.full():
            if not waited:
                logger.warning("the backfill waits: the volume is full; make room or grow it")
            waited = True
            await asyncio.sleep(FULL_S)

    def _say(self, progress: Backfill) -> None:
        put = self._metrics.set
        put("logstore_backfill_next_lsn", "Next LSN of a backfill", progress.next)
        put("logstore_backfill_target_lsn", "Last LSN of a backfill", progress.target)
        if time.monotonic() - self._logged >= PROGRESS_LOG_S:
            self._logged = time.monotonic()
            logger.info("backfill: %d of %d", progress.next - 1, progress.target)

    async def _drain(self) -> None:
        """Waits until everything that was proposed is durable and applied."""
        while True:
            await self._member.loop.call_writer(_nothing)
            last = self._log.last.index
            await self._member.waits.reach(last)
            await asyncio.sleep(0)  # the loop's turn: to hand on what is queued
            if not self._member.proposals.queued and last == self._member.loop.last_proposed:
                return

    def _switch(self) -> None:
        """Off the event loop, with nobody else at the volume."""
        log, state = self._log, self._states.current
        applied = log.backfilled_position(state.sync().index)
        state.set_term(applied.term)
        reach("backfill.state_term_set")
        log.finish_backfill(applied)


def _nothing() -> None:
    """What `_drain` runs on the writer, behind everything that waits there."""
