"""Compacts the log: entries that are durably applied and not needed any more. Then it deletes their
rows in small transactions, and the blobs that nothing names any more.

The order is: fsync the state; compact in the engine; move the boundary durably; delete rows. After
a crash in between, the next start deletes the remaining rows.
"""

import logging
from collections.abc import Awaitable, Callable

from partition_replica.core.compaction import APPLIED
from partition_replica.core.limits import Limits
from partition_replica.core.model import Position
from partition_replica.core.ports import CompactableLog
from partition_replica.errors import PruneFailed
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.consensus.applier import Applier
from partition_replica.runtime.consensus.raft_loop import RaftLoop
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.generations import StateGenerations

logger = logging.getLogger(__name__)

SKIPPED_MAX = 4
"""Runs in a row that are skipped because nothing changed. A run looks at more than `due` does: it
measures the trail of a long log step by step."""


class Compactor:
    """The member asks `due` once per second, and then calls `run_once`. On the event loop."""

    def __init__(
        self,
        log: CompactableLog,
        states: StateGenerations,
        loop: RaftLoop,
        applier: Applier,
        limits: Limits,
        metrics: Metrics,
        *,
        collect: Callable[[list[Digest]], Awaitable[None]],
    ) -> None:
        self._log = log
        self._states = states
        self._loop = loop
        self._applier = applier
        self._limits = limits
        self._metrics = metrics
        self._collect = collect
        self._seen: object = None
        self._skipped = 0

    def due(self) -> bool:
        """Whether to run: something changed since the last call that returned True, or enough runs
        were skipped. An idle log should not wake the writer's thread each second."""
        log, applier = self._log, self._applier
        positions = (log.last, log.boundary, log.first_stored, dict(log.positions))
        seen = (*positions, self._states.current.applied, applier.told, applier.paused)
        if seen == self._seen and self._skipped < SKIPPED_MAX:
            self._skipped += 1
            return False
        self._seen, self._skipped = seen, 0
        return True

    async def run_once(self) -> int:
        """Compacts as far as positions and retention allow. Returns the number of deleted
        entries."""
        log, state = self._log, self._states.current
        if not self._applier.paused and state.applied.index > log.positions.get(APPLIED, 0):
            durable = await self._applier.call(lambda: self._states.current.sync())
            await self._loop.call_writer(lambda: self._acknowledge(durable.index))
        step = self._limits.log_compaction_step_entries
        # On the writer: a commit holds the log's lock, and the event loop must not wait for it.
        target = await self._loop.call_writer(lambda: log.compaction_target(step))
        # The engine may not know yet what was just applied. The next run compacts that.
        told = self._applier.told
        if target is not None and target <= told and not self._applier.paused:
            boundary = Position(target, log.term(target))
            self._loop.compact(boundary)
            await self._loop.call_writer(lambda: log.compact(target))
            logger.debug("log compacted to %d", target)
        return await self._prune()

    def _acknowledge(self, applied: LSN) -> None:
        # A state transfer may have moved the position further meanwhile.
        log = self._log
        if applied > log.positions.get(APPLIED, 0):
            log.acknowledge(APPLIED, applied)

    async def _prune(self) -> int:
        log = self._log
        pruned = 0
        while True:
            try:
                count, released = await self._loop.call_writer(
                    lambda: log.prune(self._limits.log_prune_rows)
                )
            except PruneFailed as error:
                self._metrics.prunes_failed.inc()
                logger.error("%s", error)
                return pruned
            if not count:
                break
            pruned += count
            self._metrics.pruned_entries.inc(count)
            if released:
                await self._collect(released)
        if pruned:
            first = log.first_stored
            while await self._applier.call(lambda: self._states.current.forget_unapplied(first)):
                pass
        return pruned
