"""The leader's part of a state transfer, to a new member or to a follower behind the boundary.

The sender captures the state (`capture`) and sends its file. The receiver (`state_receiver`)
fetches the payloads that it lacks, which the sender holds. One transaction of the receiver's log
installs the state: it switches generation, boundary, hard state and configuration.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from partition_common import backoff
from partition_proto.v1 import peer_pb2 as peer

from partition_replica.core.limits import Limits
from partition_replica.core.ports import LogView, PeerFailed, PeerTransport
from partition_replica.engine.port import Message, TransferHeader
from partition_replica.ids import LSN
from partition_replica.runtime.consensus.log_holds import LogHolds
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.capture import RETRY_S, Captured, StateCapture
from partition_replica.storage.codec import STATE_FORMAT_VERSION
from partition_replica.storage.environment import DATA_FILE
from partition_replica.storage.failpoints import reach
from partition_replica.threads import run_to_end

logger = logging.getLogger(__name__)

TRAIL_ENTRIES_MAX = 50_000
"""A copy that is further behind than this is made again instead of being sent to another member,
unless that member has a part of it already."""


@dataclass(slots=True, eq=False)
class _PreparedState:
    """A copy of the state for followers. offered: whether the engine received its header. begun:
    the members that may have a part of it."""

    captured: Captured
    header: TransferHeader
    last_used: float
    senders: int = 0
    offered: bool = False
    begun: set[int] = field(default_factory=set)

    @property
    def index(self) -> LSN:
        return self.header.position.index


def describe(captured: Captured) -> TransferHeader:
    """Returns the header for sending a captured state."""
    manifest = peer.TransferManifest(
        format_version=STATE_FORMAT_VERSION,
        index=captured.position.index,
        term=captured.position.term,
        snapshot_id=captured.directory.name,
        size=captured.file.size,
        digest=captured.file.digest,
    )
    return TransferHeader(captured.position, captured.configuration, manifest.SerializeToString())


class StateSender:
    """Sends the state to members. The engine calls `source` for a header; the Raft loop calls
    `send` with the engine's message. On the event loop."""

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        log: LogView,
        staging: Path,
        capture: StateCapture,
        transport: PeerTransport,
        limits: Limits,
        metrics: Metrics,
        *,
        holds: LogHolds,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._staging = staging
        self._capture = capture
        self._transport = transport
        self._limits = limits
        self._metrics = metrics
        self._holds = holds
        self._report_to: Callable[[int, bool], None] | None = None
        self._failed = failed
        self._now = asyncio.get_running_loop().time
        self._slots = asyncio.Semaphore(limits.transfers_max)
        self._serial = itertools.count(1)
        self._current: _PreparedState | None = None
        self._older: set[_PreparedState] = set()  # still being sent
        self._preparing: asyncio.Task[None] | None = None
        self._beginning: LSN | None = None  # the copy in preparation is at this LSN or above
        self._not_before = 0.0
        self._failures: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, report: Callable[[int, bool], None]) -> None:
        """Call it before `send`. report(member, succeeded) reports the end of a transfer."""
        self._report_to = report

    def source(self, request_index: int, to: int) -> TransferHeader | None:
        """Returns the header for member `to`, or None while a copy is being made."""
        current = self._current
        if current is not None and self._fits(current, request_index, to):
            current.last_used = self._now()
            current.offered = True
            return current.header
        if self._preparing is None and self._now() >= self._not_before:
            self._preparing = asyncio.create_task(self._prepare())
            self._preparing.add_done_callback(self._prepared)
        return None

    def _fits(self, snapshot: _PreparedState, request_index: int, to: int) -> bool:
        # The entries after it must still be in the log, and should be few, unless the member has a
        # part of it already. A copy that was never offered is as recent as a new one would be: that
        # many entries are written while a copy is made.
        log = self._log
        recent = (
            log.last.index - snapshot.index <= TRAIL_ENTRIES_MAX
            or to in snapshot.begun
            or not snapshot.offered
        )
        # A member that the snapshot's configuration doesn't name would ignore it.
        named = to in snapshot.header.configuration.members
        return recent and named and snapshot.index >= max(request_index, log.boundary.index)

    def send(self, message: Message) -> None:
        """Sends the state that a MsgSnapshot names, and reports to the engine how it ended."""
        self._spawn(self._send(message))

    def expire(self) -> None:
        """Releases the log behind a copy that has not been used for `transfer_hold_s`, and removes
        a copy that has not been used for `transfer_keep_s`."""
        current = self._current
        if current is not None and not current.senders:
            unused_s = self._now() - current.last_used
            if unused_s > self._limits.transfer_keep_s:
                self._current = None
                self._drop(current)
        self._hold_log()

    async def close(self) -> None:
        """Ends the transfers in progress, and releases everything."""
        tasks = [*self._tasks, *([self._preparing] if self._preparing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left, self._current = self._current, None
        if left is not None:
            self._drop(left)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._holds.let_go(self)

    def _hold_log(self) -> None:
        """Holds the log after every copy that a member is going to install."""
        needed = [snapshot.index for snapshot in self._older]
        if self._beginning is not None:
            needed.append(self._beginning)
        current = self._current
        if current is not None:
            limits = self._limits
            hold_s = limits.transfer_keep_s if current.begun else limits.transfer_hold_s
            if current.senders or self._now() - current.last_used <= hold_s:
                needed.append(current.index)
        self._holds.hold(self, *needed)

    async def _prepare(self) -> None:
        # Held from before the copy, because the log is compacted while the copy is made.
        self._beginning = self._capture.applied
        self._hold_log()
        directory = self._staging / f"outgoing-{next(self._serial)}"
        captured = await self._capture.take(directory)
        if captured is None:
            self._not_before = self._now() + RETRY_S
            return
        old, self._current = (
            self._current,
            _PreparedState(captured, describe(captured), self._now()),
        )
        if old is not None and old.senders:
            self._older.add(old)
        elif old is not None:
            self._drop(old)
        logger.info(
            "copied the state at LSN %d for a state transfer: %d bytes, %d blobs",
            captured.position.index,
            captured.file.size,
            len(captured.blobs),
        )

    def _prepared(self, task: "asyncio.Task[None]") -> None:
        self._preparing = self._beginning = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._failed(error)
        self._hold_log()

    async def _send(self, message: Message) -> None:
        header = message.snapshot
        current = self._current
        if header is None or current is None or current.header.manifest != header.data:
            self._report(message.to, False)
            return
        current.senders += 1
        self._hold_log()
        succeeded = False
        try:
            async with self._slots:
                current.begun.add(message.to)
                fetched = await self._transport.send_state(
                    message.to,
                    message.encode(),
                    current.captured.directory / DATA_FILE,
                    current.captured.file.size,
                    current.captured.file.digest,
                )
            succeeded = True
            logger.info(
                "member %x installed the state at LSN %d and fetched %d payloads",
                message.to,
                header.index,
                fetched,
            )
        except PeerFailed as error:
            logger.warning("the state transfer to member %x failed: %s", message.to, error)
            if error.refused and current is self._current:
                self._current = None  # the member would refuse the same copy again
            failures = self._failures.get(message.to, 0)
            self._failures[message.to] = failures + 1
            await asyncio.sleep(backoff.STATE_TRANSFER.after(failures + 1))
        finally:
            self._sent(current, message.to, succeeded)

    def _sent(self, snapshot: _PreparedState, to: int, succeeded: bool) -> None:
        snapshot.senders -= 1
        snapshot.last_used = self._now()
        if succeeded:
            snapshot.begun.discard(to)
            self._failures.pop(to, None)
        if snapshot is not self._current:
            self._older.add(snapshot)
            if not snapshot.senders:
                self._older.discard(snapshot)
                self._drop(snapshot)
        self._hold_log()
        self._metrics.state_transfers.labels("out", "ok" if succeeded else "failed").inc()
        self._report(to, succeeded)

    def _report(self, member: int, succeeded: bool) -> None:
        assert self._report_to is not None, "start() is first"
        self._report_to(member, succeeded)

    def _drop(self, snapshot: _PreparedState) -> None:
        self._spawn(run_to_end(snapshot.captured.remove))

    def _spawn(self, body: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def count_sent(metrics: Metrics, count: int) -> None:
    """Counts `count` sent bytes of a state file."""
    metrics.state_transfer_bytes.labels("out").inc(count)
    reach("transfer.sent_part")
