"""The follower's part of a state transfer (`state_sender` has the leader's).

All received data is durable before its message reaches the engine. A transfer may be interrupted at
any byte and resumes there: the received part of the state file is kept for a while, and the
payloads that were fetched for it are held like those of a state.
"""

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from google.protobuf.message import DecodeError
from partition_proto.v1 import peer_pb2 as peer

from partition_replica.core.limits import (
    PAYLOAD_BATCHED_BYTES_MAX,
    PAYLOADS_A_CALL_MAX,
    Limits,
)
from partition_replica.core.model import Position
from partition_replica.core.ports import PeerFailed
from partition_replica.engine.port import InvalidMessage, Message, MessageKind, TransferHeader
from partition_replica.errors import (
    Cancelled,
    Damaged,
    DiskFull,
    Overloaded,
    PayloadMismatch,
    StorageFailed,
)
from partition_replica.ids import LSN, Digest, Term
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.payloads import FETCHES_MAX, Payloads
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.codec import STATE_FORMATS_READ
from partition_replica.storage.environment import DATA_FILE
from partition_replica.storage.failpoints import reach
from partition_replica.storage.generations import StateGenerations
from partition_replica.storage.space import VolumeSpace
from partition_replica.storage.staging import StagedFile
from partition_replica.storage.state_copy import give_way, inspect_copy
from partition_replica.threads import ahead, both, run_to_end

logger = logging.getLogger(__name__)

INCOMING = "incoming"


@dataclass(slots=True)
class _Offered:
    """The state that a header offers. `manifest` identifies the state file by the sender's ID,
    position, size and digest: an equal manifest means equal bytes."""

    message: Message
    position: Position
    manifest: bytes
    size: int
    digest: bytes


@dataclass(slots=True)
class _Partial:
    """A state transfer that is not complete. `blobs`: the (digest, size) of all blobs that the
    state names, which are held; None until the state file is complete."""

    manifest: bytes
    file: StagedFile
    blobs: list[tuple[Digest, int]] | None = None


@dataclass(slots=True)
class _Staged:
    generation: int
    blobs: list[Digest]
    installed: "asyncio.Future[None]"
    adopted: bool = False


class StateReceiver:
    """Receives one state at a time. On the event loop."""

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        states: StateGenerations,
        blobs: BlobStore,
        space: VolumeSpace,
        staging: Path,
        payloads: Payloads,
        limits: Limits,
        metrics: Metrics,
        *,
        disk_full: Callable[[], bool],
        step: Callable[[Message, Callable[[], None]], None],
    ) -> None:
        """`step(message, after)` hands a message to the engine, and calls `after` at the end of the
        round in which the engine steps it."""
        self._states = states
        self._blobs = blobs
        self._space = space
        self._staging = staging
        self._payloads = payloads
        self._limits = limits
        self._metrics = metrics
        self._disk_full = disk_full
        self._step = step
        self._now = asyncio.get_running_loop().time
        self._partial: _Partial | None = None
        self._kept: list[Digest] = []  # held blobs of a transfer that another one replaced
        self._until = 0.0  # until then, an interrupted transfer is kept
        self._staged: dict[bytes, _Staged] = {}
        self._removals: set[asyncio.Task[None]] = set()
        self._busy = False

    def offset(self, header: peer.TransferHeader) -> int:
        """The received bytes of the offered state file. Raises Overloaded, PayloadMismatch."""
        self._check_free()
        return self._received(_decode(header))

    async def install(self, header: peer.TransferHeader, chunks: AsyncIterator[bytes]) -> int:
        """Stages a state durably, steps its message, and waits until it is installed. Returns the
        number of fetched payloads. It is no error if the engine ignores the message, because the
        member is further already.

        Raises PayloadMismatch and DiskFull, and then keeps nothing of it. Raises Overloaded. Raises
        PeerFailed and errors of `chunks`; then an attempt with the same header resumes, unless the
        disk failed meanwhile.
        """
        self._check_free()
        offered = _decode(header)
        if header.offset and header.offset != self._received(offered):
            raise Overloaded(
                f"this replica has {self._received(offered)} bytes of the state, not "
                f"{header.offset}: ask for the offset (GetSnapshotOffset) and resume there"
            )
        self._busy = True
        try:
            fetched = await self._install(offered, header.offset, chunks)
        except BaseException as error:
            self._metrics.state_transfers.labels("in", "failed").inc()
            # A failed write may not have been raised: another error came first, or the caller was
            # cancelled.
            broken = self._partial is not None and self._partial.file.broken
            if broken or isinstance(error, PayloadMismatch | DiskFull):
                await self._give_up()
            self._until = self._now() + self._limits.transfer_partial_keep_s
            raise
        finally:
            # A state that the engine received stays ours until it is installed or ignored, even if
            # the caller is cancelled (`_settled`).
            self._busy = bool(self._staged)
        self._metrics.state_transfers.labels("in", "ok").inc()
        return fetched

    def staged(self, header: TransferHeader) -> int:
        """Returns the generation of the staged state that the engine accepted. The engine receives
        only staged states, so a missing one is a programmer's error."""
        staged = self._staged[header.manifest]
        staged.adopted = True
        return staged.generation

    def installed(self, header: TransferHeader) -> None:
        """Called once the current state is the received one."""
        reach("transfer.switched")
        self._settled(header.manifest)

    async def close(self) -> None:
        """Removes the data of an interrupted transfer. The data of an attempt in progress stays;
        the next start of the process removes it."""
        if not self._busy:
            await self._give_up()
        await self._removed()

    async def expire(self) -> None:
        """Abandons an interrupted transfer that was not resumed in time."""
        left = self._partial is not None or bool(self._kept)
        if left and not self._busy and self._now() >= self._until:
            logger.info(
                "an interrupted state transfer is abandoned, because it was not resumed in time"
            )
            await self._give_up()

    # --- inside -------------------------------------------------------------------------------

    def _check_free(self) -> None:
        if self._busy:
            raise Overloaded("another state transfer is in progress here: retry later")

    def _received(self, offered: _Offered) -> int:
        known = self._partial
        return known.file.received if known and known.manifest == offered.manifest else 0

    def _settled(self, key: bytes) -> None:
        """A staged state is installed, or the engine ignored it."""
        staged = self._staged.pop(key)
        self._blobs.release_hold(staged.blobs, unneeded=not staged.adopted)
        if not staged.installed.done():
            staged.installed.set_result(None)
        self._busy = False

    async def _give_up(self) -> None:
        """Removes all received data. The next garbage collection deletes the payloads that nothing
        else names."""
        known, self._partial = self._partial, None
        kept, self._kept = self._kept, []
        try:
            if known is not None:
                kept += _digests(known.blobs)
                await run_to_end(known.file.remove)
        finally:
            self._blobs.release_hold(kept, unneeded=True)

    async def _install(self, offered: _Offered, offset: int, chunks: AsyncIterator[bytes]) -> int:
        known = await self._begin(offered, offset)
        if not known.file.complete:
            await self._receive_file(known.file, chunks)
        fetched, _ = await both(
            self._list_and_fetch(known, offered), run_to_end(known.file.make_durable)
        )
        reach("transfer.staged")
        await self._adopt(known, offered)
        return fetched

    async def _begin(self, offered: _Offered, offset: int) -> _Partial:
        """The partial transfer to continue: an earlier attempt's, or a new one."""
        known = self._partial
        if known is not None and known.manifest == offered.manifest and offset:
            self._metrics.state_transfer_bytes.labels("resumed").inc(offset)
            return known
        self._check_room(offered.size, "the state file of a state transfer")
        if known is not None:
            # Its payloads stay held until the blobs of the new one are known.
            self._kept += _digests(known.blobs)
            self._partial = None
            await run_to_end(known.file.remove)
        directory = self._staging / INCOMING

        def make() -> _Partial:
            # Set on this thread, so that the file is not forgotten if we are cancelled meanwhile.
            file = StagedFile(directory, DATA_FILE, offered.size, offered.digest)
            self._partial = _Partial(offered.manifest, file)
            return self._partial

        return await run_to_end(make)

    def _check_room(self, size: int, what: str) -> None:
        room = self._space.room_for(size, self._limits, own_work=True)
        if self._disk_full() or not room.enough:
            raise DiskFull(
                f"{what} needs {size} bytes, which would use up the volume's reserve; "
                f"{room.free_bytes} bytes are free: make room or grow the volume"
            )

    async def _receive_file(self, file: StagedFile, chunks: AsyncIterator[bytes]) -> None:
        async def while_there_is_room() -> AsyncGenerator[bytes, None]:
            async for chunk in chunks:
                if self._disk_full():
                    raise DiskFull(
                        "the volume fell below its reserve during a state transfer: make room or "
                        "grow the volume"
                    )
                yield chunk

        async with aclosing(while_there_is_room()) as checked:
            await ahead(checked, partial(self._append, file))
        if file.lacks:
            # To a server, a lost connection looks like the end of the stream. The received data is
            # valid.
            raise PeerFailed(f"the state transfer was interrupted: {file.lacks} bytes are missing")
        file.check()

    def _append(self, file: StagedFile, chunk: bytes) -> None:
        """Appends a chunk. It is counted here, because it stays even if the sender disconnects."""
        file.append(chunk)
        self._metrics.state_transfer_bytes.labels("in").inc(len(chunk))
        reach("transfer.received_part")

    async def _list_and_fetch(self, known: _Partial, offered: _Offered) -> int:
        if known.blobs is None:
            await self._list_blobs(known, offered)
        return await self._fetch_missing(known.blobs or [], offered.message.sender)

    async def _list_blobs(self, known: _Partial, offered: _Offered) -> None:
        """Holds the payloads that the state names, and releases those of an earlier transfer."""
        unwanted = threading.Event()

        def pause() -> None:
            if unwanted.is_set():
                raise Cancelled("the state transfer was cancelled")
            give_way()

        def work() -> Position:
            position, blobs = inspect_copy(known.file.directory, pause=pause)
            if position == offered.position:
                self._blobs.hold(_digests(blobs))
                known.blobs = blobs
            return position

        try:
            position = await run_to_end(work, give_up=unwanted.set)
        except (Damaged, StorageFailed) as error:  # of the received file, which was only read
            raise PayloadMismatch(f"the received state is damaged: {error}") from error
        if position != offered.position:
            raise PayloadMismatch(
                f"the received state is at {position}, but its header says {offered.position}"
            )
        kept, self._kept = self._kept, []
        self._blobs.release_hold(kept, unneeded=True)

    async def _fetch_missing(self, blobs: list[tuple[Digest, int]], sender: int) -> int:
        has = self._blobs.has
        lacking = await run_to_end(lambda: [found for found in blobs if not has(found[0])])
        if not lacking:
            return 0
        self._check_room(
            sum(size for _, size in lacking), "fetching the payloads of a state transfer"
        )
        groups = _groups(lacking, self._limits.fetch_group_bytes_max)

        async def fetch() -> None:
            for group in groups:
                if group[0][1] > PAYLOAD_BATCHED_BYTES_MAX:
                    await self._payloads.fetch(group[0][0], sender)
                else:
                    await self._payloads.fetch_together(group, sender)
                reach("transfer.blob_fetched")

        tasks = [asyncio.ensure_future(fetch()) for _ in range(FETCHES_MAX)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return len(lacking)

    async def _adopt(self, whole: _Partial, offered: _Offered) -> None:
        generation = self._states.new()
        key = offered.manifest
        path = self._states.path(generation)
        try:
            await run_to_end(partial(self._states.place, whole.file.directory, generation))
        except asyncio.CancelledError:
            self._partial = None
            self._blobs.release_hold(_digests(whole.blobs), unneeded=True)
            await _remove(path)  # it is not in staging/, which the next start empties
            raise
        reach("transfer.installed")
        self._partial = None
        installed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._staged[key] = _Staged(generation, _digests(whole.blobs), installed)

        def after() -> None:
            staged = self._staged.get(key)
            if staged is not None and not staged.adopted:
                # The member is further already, so the engine ignored it.
                self._settled(key)
                removal = asyncio.create_task(_remove(path))
                self._removals.add(removal)
                removal.add_done_callback(self._removals.discard)

        self._step(offered.message, after)
        await installed
        await self._removed()

    async def _removed(self) -> None:
        """Returns once the states that the engine ignored are deleted."""
        if self._removals:
            await asyncio.wait(self._removals)


async def _remove(path: Path) -> None:
    """Deletes a state on a thread: deleting gigabytes takes a file system some time."""
    await run_to_end(partial(shutil.rmtree, path, ignore_errors=True))


def _groups(blobs: list[tuple[Digest, int]], bytes_max: int) -> Iterator[list[tuple[Digest, int]]]:
    """Groups (digest, size)s for fetching: large ones alone, small ones together."""
    group: list[tuple[Digest, int]] = []
    total = 0
    for blob in blobs:
        if blob[1] > PAYLOAD_BATCHED_BYTES_MAX:
            yield [blob]
            continue
        total += blob[1]
        if group and (total > bytes_max or len(group) == PAYLOADS_A_CALL_MAX):
            yield group
            group, total = [], blob[1]
        group.append(blob)
    if group:
        yield group


def _digests(blobs: list[tuple[Digest, int]] | None) -> list[Digest]:
    return [digest for digest, _ in blobs or []]


def _decode(header: peer.TransferHeader) -> _Offered:
    """Raises PayloadMismatch, InvalidMessage."""
    try:
        message = Message.decode(header.message)
    except InvalidMessage as error:
        raise PayloadMismatch("the header does not contain a valid Raft message") from error
    snapshot = message.snapshot
    if snapshot is None or message.kind != MessageKind.SNAPSHOT:
        raise PayloadMismatch("the message in the header is not a snapshot message")
    if message.sender != header.sender:
        raise PayloadMismatch("the header and its message name different senders")
    try:
        manifest = peer.TransferManifest.FromString(snapshot.data)
    except DecodeError as error:
        raise PayloadMismatch(
            "the snapshot message in the header does not contain a valid manifest"
        ) from error
    if manifest.format_version not in STATE_FORMATS_READ:
        raise PayloadMismatch(
            f"the state has format {manifest.format_version}; this version reads "
            f"{STATE_FORMATS_READ[0]} to {STATE_FORMATS_READ[-1]}: upgrade this replica first"
        )
    if (manifest.size, manifest.digest) != (header.size, header.digest):
        raise PayloadMismatch("the header and its manifest name different state files")
    if (manifest.index, manifest.term) != (snapshot.index, snapshot.term):
        raise PayloadMismatch("the snapshot message and its manifest name different positions")
    position = Position(LSN(snapshot.index), Term(snapshot.term))
    return _Offered(message, position, snapshot.data, header.size, header.digest)
