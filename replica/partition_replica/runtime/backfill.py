"""Enables replication for a standalone partition. It writes Raft's metadata for the log's entries
while the replica serves. Then it holds writes until the queues are drained, and restarts the member
as a sole voter.

Each step commits its progress in the same transaction. If the process ends, the next start
continues from there and completes the backfill.
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
"""Seconds between checks of the disk while it is too full to continue."""


def check_room(log: ReplicationSwitch, space: VolumeSpace, limits: Limits) -> None:
    """Raises DiskFull if a backfill would bring the volume below its reserve."""
    room = space.room_for(log.backfill_bytes(), limits)
    if not room.enough:
        raise DiskFull(
            f"a backfill of entries {log.first_stored} to {log.last.index} needs up to "
            f"{room.needed_bytes} free bytes, reserve included; {room.free_bytes} are free: make "
            "room or grow the volume"
        )


class Backfiller:
    """One run, from a standalone log to a Raft member.

    `hold` makes the replica refuse new proposals. `replace` ends the running member, calls its
    argument and starts a new member.
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
        """Returns once the Raft member runs. Every error that it raises must end the process."""
        log = self._log
        call = self._member.loop.call_writer
        progress = await call(log.begin_backfill)
        logger.info(
            "the backfill of entries %d to %d begins: entries without a term get term %d",
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
            # The boundary of a group's log is at an entry, so the log needs one.
            self._member.loop.propose_nothing()
        self._hold()
        held = time.monotonic()
        await self._drain()
        reach("backfill.drained")
        await self._replace(self._switch)
        seconds = time.monotonic() - held
        self._metrics.backfill_held.set(seconds)
        logger.info("the backfill is complete: writes were held for %.3f s", seconds)

    async def _room(self) -> None:
        """Waits while the volume is below its reserve. A step without room would end the process,
        and so would the same step after each restart."""
        waited = False
        while self._disk.full():
            if not waited:
                logger.warning(
                    "the backfill waits because the volume is full: make room or grow the volume"
                )
            waited = True
            await asyncio.sleep(FULL_S)

    def _say(self, progress: Backfill) -> None:
        put = self._metrics.set
        put("logstore_backfill_next_lsn", progress.next)
        put("logstore_backfill_target_lsn", progress.target)
        if time.monotonic() - self._logged >= PROGRESS_LOG_S:
            self._logged = time.monotonic()
            logger.info("backfill: %d of %d", progress.next - 1, progress.target)

    async def _drain(self) -> None:
        """Waits until all proposed entries are durable and applied."""
        while True:
            await self._member.loop.call_writer(_nothing)
            last = self._log.last.index
            await self._member.waits.reach(last)
            await asyncio.sleep(0)  # lets the loop propose what is queued
            if not self._member.proposals.queued and last == self._member.loop.last_proposed:
                return

    def _switch(self) -> None:
        """Runs on a thread. Nothing else uses the volume meanwhile."""
        log, state = self._log, self._states.current
        applied = log.backfilled_position(state.sync().index)
        state.set_term(applied.term)
        reach("backfill.state_term_set")
        log.finish_backfill(applied)


def _nothing() -> None:
    """`_drain` runs it on the writer: it returns after everything queued before it."""
