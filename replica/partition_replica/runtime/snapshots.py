"""Snapshots between members: a newcomer, or a follower behind the boundary, is sent one.

The sender copies the state environment to an immutable file in one short read transaction and
holds the blobs that it names. The receiver makes the file and every blob durable, moves the file
into place as a new generation of the state, and only then hands the message to its engine; the
log's transaction that adopts it switches generation, boundary, hard state and configuration.
"""

import asyncio
import hashlib
import itertools
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import partition_raft as raft
from google.protobuf.message import DecodeError
from partition_proto.v1 import peer_pb2 as peer

from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration, Position
from partition_replica.core.ports import PeerFailed, PeerTransport
from partition_replica.engine.port import SnapshotHeader
from partition_replica.errors import (
    DiskFull,
    Overloaded,
    PayloadMismatch,
)
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.applier import Applier
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.payloads import FETCHES_MAX, Payloads
from partition_replica.storage.codec import FORMAT_VERSION
from partition_replica.storage.failpoints import reach
from partition_replica.storage.files import fatal_on_failure, sync_directory, sync_file
from partition_replica.storage.state import inspect_copy
from partition_replica.storage.volume import Volume

logger = logging.getLogger(__name__)

TRAIL_ENTRIES_MAX = 50_000
"""A snapshot that lies further behind than this is made anew instead of sent again."""


@dataclass(slots=True)
class _Prepared:
    """A snapshot made for followers."""

    header: SnapshotHeader
    directory: Path
    size: int
    digest: bytes
    blobs: list[Digest]
    last_used: float = field(default_factory=time.monotonic)
    senders: int = 0


def describe(
    directory: Path, position: Position, configuration: Configuration, blobs: list[Digest]
) -> _Prepared:
    """What is sent of a copied state: its size, its digest, its header."""
    file = directory / "data.mdb"
    with file.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").digest()
    size = file.stat().st_size
    manifest = peer.SnapshotManifest(
        format_version=FORMAT_VERSION,
        index=position.index,
        term=position.term,
        snapshot_id=directory.name,
        size=size,
        digest=digest,
    )
    header = SnapshotHeader(position, configuration, manifest.SerializeToString())
    return _Prepared(header, directory, size, digest, blobs)


class SnapshotSender:
    """The leader's part. `source` is what the engine asks; `send` what its messages ask."""

    def __init__(
        self,
        volume: Volume,
        applier: Applier,
        transport: PeerTransport,
        limits: Limits,
        metrics: Metrics,
        *,
        configuration: Callable[[], tuple[LSN, Configuration]],
        report: Callable[[int, bool], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._volume = volume
        self._applier = applier
        self._transport = transport
        self._limits = limits
        self._metrics = metrics
        self._configuration = configuration
        self._report = report
        self._failed = failed
        self._serial = itertools.count(1)
        self._current: _Prepared | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._sends: set[asyncio.Task[None]] = set()

    def source(self, request_index: int, to: int) -> SnapshotHeader | None:
        """The snapshot for member `to`, or None while one is being made: asked again later."""
        current = self._current
        if current is not None:
            index = current.header.position.index
            recent = self._volume.log.last.index - index <= TRAIL_ENTRIES_MAX
            # A member that the snapshot's configuration doesn't name would ignore it.
            recent = recent and to in current.header.configuration.members
            if index >= max(request_index, self._volume.log.boundary.index) and recent:
                current.last_used = time.monotonic()
                return current.header
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare())
            self._preparing.add_done_callback(self._prepared)
        return None

    def send(self, message: raft.Message) -> None:
        """Sends what a MsgSnapshot names; the engine hears how it ended."""
        task = asyncio.create_task(self._send(message))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    def expire(self) -> None:
        """Lets go of the log behind a snapshot that nobody has needed for a moment, and drops one
        that nobody has needed for a while."""
        current = self._current
        if current is None or current.senders:
            return
        if time.monotonic() - current.last_used > self._limits.snapshot_hold_s:
            self._volume.log.hold_snapshot(None)
        if time.monotonic() - current.last_used > self._limits.snapshot_keep_s:
            self._drop(current)
            self._current = None

    def close(self) -> None:
        self._volume.log.hold_snapshot(None)
        for task in self._sends:
            task.cancel()
        if self._preparing is not None:
            self._preparing.cancel()

    async def _prepare(self) -> None:
        directory = self._volume.staging / f"outgoing-{next(self._serial)}"
        copied = await self._applier.call(lambda: self._copy(directory))
        if copied is None:
            return
        prepared = await asyncio.to_thread(describe, directory, *copied)
        old, self._current = self._current, prepared
        self._volume.log.hold_snapshot(prepared.header.position.index)
        if old is not None and not old.senders:
            self._drop(old)
        logger.info(
            "snapshot made at %d: %d bytes, %d blobs",
            prepared.header.position.index,
            prepared.size,
            len(prepared.blobs),
        )

    def _prepared(self, task: "asyncio.Task[None]") -> None:
        self._preparing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _copy(self, directory: Path) -> tuple[Position, Configuration, list[Digest]] | None:
        """On the applier's thread, so that nothing is applied meanwhile. None between the saving of
        a configuration and the applying of its entry, in replay, and without room on the volume:
        asked again later."""
        as_of, configuration = self._configuration()
        if as_of > self._volume.state.applied.index:
            return None
        free, _ = self._volume.free_bytes()
        if free < self._volume.state.size_bytes() + self._limits.disk_reserve_bytes // 2:
            logger.warning("no snapshot for a follower: %d bytes free are too few", free)
            return None
        shutil.rmtree(directory, ignore_errors=True)
        position = self._volume.state.copy(directory)
        blobs = [digest for digest, _ in self._volume.state.blobs()]
        self._volume.blobs.hold(blobs)
        return position, configuration, blobs

    async def _send(self, message: raft.Message) -> None:
        header = message.snapshot
        current = self._current
        if header is None or current is None or current.header.manifest != header.data:
            self._report(message.to, False)
            return
        current.senders += 1
        self._volume.log.hold_snapshot(current.header.position.index)
        succeeded = False
        try:
            fetched = await self._transport.install_snapshot(
                message.to,
                message.encode(),
                current.directory / "data.mdb",
                current.size,
                current.digest,
            )
            succeeded = True
            logger.info(
                "member %x installed a snapshot at %d, %d payloads fetched",
                message.to,
                header.index,
                fetched,
            )
        except PeerFailed as error:
            logger.warning("snapshot for member %x failed: %s", message.to, error)
        finally:
            current.senders -= 1
            current.last_used = time.monotonic()
            if current is not self._current and not current.senders:
                self._drop(current)
            self._metrics.snapshots.labels("out", "ok" if succeeded else "failed").inc()
            self._report(message.to, succeeded)

    def _drop(self, prepared: _Prepared) -> None:
        self._volume.blobs.unhold(prepared.blobs)
        shutil.rmtree(prepared.directory, ignore_errors=True)


@dataclass(slots=True)
class _Staged:
    generation: int
    blobs: list[Digest]
    adopted: bool = False


class SnapshotReceiver:
    """The follower's part. One snapshot at a time."""

    def __init__(
        self,
        volume: Volume,
        payloads: Payloads,
        metrics: Metrics,
        *,
        disk_full: Callable[[], bool],
        step: Callable[[raft.Message, Callable[[], None]], None],
    ) -> None:
        """`step(message, after)`: hands a message to the engine; `after` is called when the round
        in which it was stepped is over."""
        self._volume = volume
        self._payloads = payloads
        self._metrics = metrics
        self._disk_full = disk_full
        self._step = step
        self._staged: dict[bytes, _Staged] = {}
        self._busy = False
        self._last_generation = volume.log.identity.state_generation
        self._installed: dict[bytes, asyncio.Future[None]] = {}

    async def install(self, header: peer.SnapshotHeader, chunks: AsyncIterator[bytes]) -> int:
        """Stages a snapshot durably, steps its message, waits until it is in force; returns how
        many payloads were fetched. A message that the engine ignores is no error: the member is
        further already. Raises PayloadMismatch, Overloaded, DiskFull, PeerFailed."""
        if self._busy:
            raise Overloaded("another snapshot is being installed: retry later")
        if self._disk_full():
            raise DiskFull("the volume is below its reserve: no snapshot is taken")
        self._busy = True
        try:
            fetched = await self._install(header, chunks)
        except BaseException:
            self._metrics.snapshots.labels("in", "failed").inc()
            raise
        finally:
            # What was handed to the engine stays ours until it is in force or ignored, even where
            # the caller went away: `_settled`.
            self._busy = bool(self._staged)
        self._metrics.snapshots.labels("in", "ok").inc()
        return fetched

    def staged(self, header: SnapshotHeader) -> int:
        """The generation of the state that goes with what the engine took. Only data that is
        staged is ever given to the engine, so a miss is a programmer's error."""
        staged = self._staged[header.manifest]
        staged.adopted = True
        return staged.generation

    def installed(self, header: SnapshotHeader) -> None:
        """The state switched to it."""
        reach("snapshot.switched")
        self._settled(header.manifest)

    def _settled(self, key: bytes) -> None:
        """A staged snapshot is in force, or was ignored."""
        staged = self._staged.pop(key)
        self._volume.blobs.unhold(staged.blobs)
        future = self._installed.pop(key)
        if not future.done():
            future.set_result(None)
        self._busy = False

    async def _install(self, header: peer.SnapshotHeader, chunks: AsyncIterator[bytes]) -> int:
        message = raft.Message.decode(header.message)
        snapshot = message.snapshot
        if snapshot is None or message.kind != raft.MessageKind.SNAPSHOT:
            raise PayloadMismatch("the header's message carries no snapshot")
        if message.sender != header.sender:
            raise PayloadMismatch("the header and its message name different senders")
        try:
            manifest = peer.SnapshotManifest.FromString(snapshot.data)
        except DecodeError as error:
            raise PayloadMismatch("the header's snapshot carries no manifest") from error
        if manifest.format_version != FORMAT_VERSION:
            raise PayloadMismatch(
                f"the snapshot has format {manifest.format_version}; this version reads "
                f"{FORMAT_VERSION}: upgrade this replica first"
            )
        directory = self._volume.staging / "incoming"
        await asyncio.to_thread(shutil.rmtree, directory, True)
        blobs: list[Digest] = []
        try:
            await self._receive_file(directory, header, chunks)
            position, named = await asyncio.to_thread(inspect_copy, directory)
            wanted = Position(LSN(snapshot.index), position.term)
            if position != wanted or position.term != snapshot.term:
                raise PayloadMismatch(f"the state is at {position}, the header at {snapshot}")
            blobs = [digest for digest, _ in named]
            self._volume.blobs.hold(blobs)
            fetched = await self._fetch_missing(blobs, message.sender)
            reach("snapshot.staged")
            await self._adopt(directory, message, snapshot.data, blobs)
        except BaseException:
            if snapshot.data not in self._staged and blobs:
                self._volume.blobs.unhold(blobs)
            raise
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, True)
        return fetched

    async def _receive_file(
        self, directory: Path, header: peer.SnapshotHeader, chunks: AsyncIterator[bytes]
    ) -> None:
        digest = hashlib.sha256()
        received = 0
        with fatal_on_failure("staging a snapshot"):
            directory.mkdir(mode=0o700)
            file = (directory / "data.mdb").open("xb")
        with file:
            async for chunk in chunks:
                received += len(chunk)
                if received > header.size:
                    raise PayloadMismatch(f"more than the announced {header.size} bytes came")
                if self._disk_full():
                    raise DiskFull("the volume fell below its reserve during the snapshot")
                digest.update(chunk)
                with fatal_on_failure("staging a snapshot"):
                    await asyncio.to_thread(file.write, chunk)
            if received != header.size or digest.digest() != header.digest:
                raise PayloadMismatch(
                    f"{received} of {header.size} bytes came, or their SHA-256 differs"
                )
            file.flush()
            await asyncio.to_thread(sync_file, file.fileno(), "a snapshot")
        sync_directory(directory)

    async def _fetch_missing(self, blobs: list[Digest], sender: int) -> int:
        missing = [digest for digest in blobs if not self._volume.blobs.has(digest)]
        slots = asyncio.Semaphore(FETCHES_MAX)

        async def fetch(digest: Digest) -> None:
            async with slots:
                await self._payloads.fetch(digest, sender)

        for start in range(0, len(missing), 256):
            tasks = [asyncio.ensure_future(fetch(d)) for d in missing[start : start + 256]]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        return len(missing)

    async def _adopt(
        self, directory: Path, message: raft.Message, key: bytes, blobs: list[Digest]
    ) -> None:
        # Never used twice: an earlier one may still be on its way to the log.
        self._last_generation += 1
        generation = self._last_generation
        await asyncio.to_thread(self._volume.adopt_state, directory, generation)
        reach("snapshot.adopted")
        self._staged[key] = _Staged(generation, blobs)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._installed[key] = future

        def after() -> None:
            staged = self._staged.get(key)
            if staged is not None and not staged.adopted:
                # The engine is further already and ignored it.
                self._settled(key)
                shutil.rmtree(self._volume.state_path(generation), ignore_errors=True)

        self._step(message, after)
        await future
