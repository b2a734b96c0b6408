"""Holds an append of the leader back until the payloads that it names are here."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from partition_replica.core.limits import Limits
from partition_replica.core.payloads import decode_body
from partition_replica.core.ports import PeerFailed
from partition_replica.core.validation import passes_full_disk
from partition_replica.engine.entries import blobs_of, from_entry
from partition_replica.engine.port import Message, MessageKind
from partition_replica.errors import Damaged, DiskFull, Overloaded, PayloadMismatch
from partition_replica.ids import Digest
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.blobs import BlobStore

logger = logging.getLogger(__name__)


class AppendGate:
    """The way of a follower's messages to its engine. On the event loop."""

    def __init__(
        self,
        blobs: BlobStore,
        limits: Limits,
        metrics: Metrics,
        *,
        fetch: Callable[[Digest, int], Awaitable[None]],
        disk_low: Callable[[], bool],
        deliver: Callable[[Message, int], None],
        ended: Callable[["asyncio.Task[None]"], None],
    ) -> None:
        """fetch: brings a blob of a member here. ended: called with each task that has ended, whose
        Fatal must end the process."""
        self._blobs = blobs
        self._limits = limits
        self._metrics = metrics
        self._fetch = fetch
        self._disk_low = disk_low
        self._deliver = deliver
        self._when_ended = ended
        self._held = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, message: Message, size: int) -> None:
        """Passes a peer's message to the engine. An append that lacks blobs first waits for them.
        If too many wait, it is dropped, and Raft sends it again.

        The volumes of a group become full together. So what the leader accepted just before is
        taken below the reserve, too, and removals always: else nothing would ever commit again."""
        if message.kind != MessageKind.APPEND or not message.entry_count:
            self._deliver(message, size)
            return
        try:
            if self._disk_low() and not _adds_nothing(message):
                self._metrics.messages_dropped.labels("disk_full").inc()
                return
            missing = self._missing(message)
        except Damaged as error:
            # The peer's message is damaged, not our data. Nothing of it is kept.
            logger.warning("a message of member %x is refused: %s", message.sender, error)
            self._metrics.messages_dropped.labels("invalid").inc()
            return
        if not missing:
            self._deliver(message, size)
        elif self._held >= self._limits.held_appends_max:
            self._metrics.messages_dropped.labels("held_full").inc()
        else:
            self._held += 1
            task = asyncio.create_task(self._fetch_and_deliver(message, size, missing))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(self._when_ended)

    def _missing(self, message: Message) -> list[Digest]:
        return [
            digest
            for digest in blobs_of(message)
            if not self._blobs.pin_present(digest, self._limits.pin_time_to_live_s)
        ]

    async def _fetch_and_deliver(self, message: Message, size: int, missing: list[Digest]) -> None:
        try:
            for digest in missing:
                await self._fetch(digest, message.sender)
                if not self._blobs.pin_present(digest, self._limits.pin_time_to_live_s):
                    raise PeerFailed(
                        f"payload {digest.hex()} was deleted here before the append arrived"
                    )
            self._deliver(message, size)
        except (PeerFailed, PayloadMismatch, Overloaded, DiskFull) as error:
            self._metrics.messages_dropped.labels("payload_missing").inc()
            logger.warning(
                "an append of member %x is dropped, because a payload is missing: %s",
                message.sender,
                error,
            )
        finally:
            self._held -= 1

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _adds_nothing(message: Message) -> bool:
    """Whether every entry is a removal, a session's, or of Raft itself. Raises Damaged."""
    entries = [from_entry(entry) for entry in message.entries]
    return all(e.kind or not e.data or passes_full_disk(decode_body(e)) for e in entries)
