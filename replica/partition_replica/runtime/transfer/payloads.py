"""Payloads above the inline limit: they are disseminated before their entry is ordered.

The leader receives an upload and pushes it to the other members. It proposes the append that names
it once a quorum of voters holds it durably. If a follower lacks a blob that an append names, it
fetches the blob before the engine receives the append. So the blobs of a durable log row are always
durable here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from partition_replica.core.limits import (
    PAYLOADS_A_CALL_MAX,
    Limits,
)
from partition_replica.core.model import Configuration
from partition_replica.core.payloads import CompletePayloads, MovedContent
from partition_replica.core.ports import PeerFailed, PeerTransport
from partition_replica.engine.port import Message
from partition_replica.errors import (
    DiskFull,
    Fatal,
    Overloaded,
    PayloadMismatch,
    PayloadMissing,
    PayloadQuorum,
)
from partition_replica.ids import Digest
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.append_gate import AppendGate
from partition_replica.runtime.transfer.arriving import ArrivingFile
from partition_replica.runtime.transfer.dissemination import Dissemination
from partition_replica.storage.blobs import BlobGroup, BlobStore, BlobWriter
from partition_replica.storage.failpoints import reach
from partition_replica.threads import run_to_end

logger = logging.getLogger(__name__)

FETCHES_MAX = 4

MOVED_AT_ONCE_BYTES = 8 * 1024**2
"""Content that a connection writes between two looks at the disk's reserve."""


@dataclass(slots=True)
class _Broken:
    """An interrupted fetch, which can be resumed until the loop time `until`."""

    writer: BlobWriter
    until: float


class Payloads:
    """Pushes, receives and fetches payloads. On the event loop; disk I/O runs on threads."""

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        blobs: BlobStore,
        transport: PeerTransport,
        limits: Limits,
        metrics: Metrics,
        *,
        own_member: int,
        configuration: Callable[[], Configuration],
        disk_full: Callable[[], bool],
        disk_low: Callable[[], bool],
        deliver: Callable[[Message, int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """disk_full: whether uploads are refused. disk_low: whether a follower refuses what its
        leader accepted, but for entries that add no data."""
        self._blobs = blobs
        self._transport = transport
        self._limits = limits
        self._metrics = metrics
        self._disk_full = disk_full
        self._disk_low = disk_low
        self._failed = failed
        self.dissemination = Dissemination(
            blobs,
            transport,
            metrics,
            own_member=own_member,
            passed_on_max=limits.passed_on_max,
            configuration=configuration,
        )
        self._fetches: dict[Digest, asyncio.Task[None]] = {}
        self._broken: dict[Digest, _Broken] = {}
        self._fetch_slots = asyncio.Semaphore(FETCHES_MAX)
        self._grouped: dict[Digest, asyncio.Task[None]] = {}
        self._group_slots = asyncio.Semaphore(FETCHES_MAX)
        self._uploads = 0
        self._gate = AppendGate(
            blobs,
            limits,
            metrics,
            fetch=self.fetch,
            disk_low=disk_low,
            deliver=deliver,
            ended=self._ended,
        )

    # --- in -----------------------------------------------------------------------------------

    async def receive(
        self, digest: Digest, size: int, chunks: AsyncIterator[bytes], *, pass_on: bool = False
    ) -> bool:
        """Receives a payload's content and pins it. Returns True if it was here already. pass_on:
        payloads of more than one chunk are pushed to the other members while they arrive.

        It is durable when this returns. Raises PayloadMismatch, Overloaded, DiskFull, and then
        keeps nothing.
        """
        if self._blobs.pin_present(digest, self._limits.pin_time_to_live_s):
            return True
        with self._upload(digest, size) as writer:
            arriving = ArrivingFile(writer.path, size, self._limits.chunk_bytes)
            try:
                if pass_on and size > self._limits.chunk_bytes:
                    self.dissemination.pass_on(digest, size, arriving)
                async for chunk in chunks:
                    self._check_reserve()
                    await run_to_end(partial(writer.write, chunk))
                    arriving.advance(writer.written)
                    self._metrics.payload_bytes.labels("in").inc(len(chunk))
                await self._adopt(writer)
            finally:
                arriving.end()
        return False

    async def receive_moved(self, digest: Digest, size: int, content: MovedContent) -> bool:
        """As `receive`, of a connection that writes the content itself. It is not asked for if the
        payload is here already. Raises PeerFailed, too."""
        if self._blobs.pin_present(digest, self._limits.pin_time_to_live_s):
            return True
        with self._upload(digest, size) as writer:
            # The last part makes it durable in the same turn on the thread.
            while not writer.closed:
                self._check_reserve()
                count = min(size - writer.written, MOVED_AT_ONCE_BYTES)
                await content.run(partial(_move, writer, content, count))
                self._metrics.payload_bytes.labels("in").inc(count)
            reach("blob.adopted")
        return False

    @contextmanager
    def _upload(self, digest: Digest, size: int) -> Iterator[BlobWriter]:
        """Counts an upload, pins it, and discards it unless it is finished. Raises Overloaded,
        DiskFull."""
        self._check_room()
        self._uploads += 1
        try:
            self._blobs.pin(digest, self._limits.pin_time_to_live_s)
            writer = self._blobs.writer(digest, size)
            try:
                yield writer
            finally:
                writer.abort()
        finally:
            self._uploads -= 1

    def _check_reserve(self) -> None:
        if self._disk_full():
            raise DiskFull("the volume fell below its reserve: make room or grow the volume")

    async def receive_together(self, groups: AsyncIterator[CompletePayloads]) -> list[Digest]:
        """Receives small, complete payloads, (digest, content), and pins them. Returns their
        digests.

        All are durable when this returns. Raises PayloadMismatch, Overloaded, DiskFull, and then
        keeps nothing that was not here before, but pins of what may come again.
        """
        self._check_room()
        self._uploads += 1
        try:
            group = self._blobs.group()
            digests: list[Digest] = []
            try:
                async for contents in groups:
                    digests += await self._receive_some(group, contents)
            except BaseException:
                await run_to_end(group.abort)
                raise
            await run_to_end(group.finish)
            reach("blob.adopted")
        finally:
            self._uploads -= 1
        return digests

    async def _receive_some(self, group: BlobGroup, contents: CompletePayloads) -> list[Digest]:
        self._check_reserve()
        found = [(Digest(digest), content) for digest, content in contents]
        time_to_live_s = self._limits.pin_time_to_live_s
        new = [one for one in found if not self._blobs.pin_present(one[0], time_to_live_s)]
        for digest, _ in new:
            self._blobs.pin(digest, time_to_live_s)
        sizes = [(digest, len(content)) for digest, content in new]
        await run_to_end(partial(_add, group, sizes, [content for _, content in new]))
        self._metrics.payload_bytes.labels("in").inc(sum(size for _, size in sizes))
        return [digest for digest, _ in found]

    def _check_room(self) -> None:
        """Raises DiskFull, Overloaded."""
        if self._disk_full():
            raise DiskFull("the volume is below its reserve: make room or grow the volume")
        if self._uploads >= self._limits.uploads_max:
            raise Overloaded(
                f"{self._uploads} uploads are in progress, the maximum: retry with backoff"
            )

    # --- the leader ---------------------------------------------------------------------------

    async def ensure_quorum(self, digests: list[Digest]) -> None:
        """Returns once a quorum of voters holds each payload durably.

        Raises PayloadMissing if this replica itself lacks one, and PayloadQuorum if too few members
        can be reached. If this volume is full, the others are as well: then it raises DiskFull,
        which a caller does not repeat.
        """
        pin = self._blobs.pin_present
        missing = [d for d in digests if not pin(d, self._limits.pin_time_to_live_s)]
        if missing:
            raise PayloadMissing(
                f"{len(missing)} payloads are missing here: upload them (UploadPayload), then "
                "retry the same sequence",
                [bytes(d) for d in missing],
            )
        # Together, because each push is a call of its own, with syncs of its own.
        try:
            for start in range(0, len(digests), PAYLOADS_A_CALL_MAX):
                await self.dissemination.to_quorum(digests[start : start + PAYLOADS_A_CALL_MAX])
        except PayloadQuorum as error:
            if not self._disk_full():
                raise
            raise DiskFull(
                f"the volume is below its reserve, and {error}: make room or grow the volumes"
            ) from error

    # --- the follower -------------------------------------------------------------------------

    def admit(self, message: Message, size: int) -> None:
        """Passes a peer's message to the engine; an append once its blobs are here."""
        self._gate.admit(message, size)

    async def fetch(self, digest: Digest, member: int) -> None:
        """Fetches a blob from a member unless it is here. Concurrent callers share one fetch.

        Raises PeerFailed, PayloadMismatch, Overloaded, DiskFull.
        """
        group = self._grouped.get(digest)
        if group is not None:
            # Its failure may concern another blob of the group.
            with suppress(PeerFailed, PayloadMismatch, DiskFull):
                await asyncio.shield(group)
        task = self._fetches.get(digest)
        if task is None:
            task = asyncio.create_task(self._fetch(digest, member))
            self._fetches[digest] = task
            task.add_done_callback(lambda _: self._fetches.pop(digest, None))
            task.add_done_callback(self._ended)
        await asyncio.shield(task)

    async def fetch_together(self, blobs: Sequence[tuple[Digest, int]], member: int) -> None:
        """Fetches blobs (digest, size) in one call unless they are here: at most
        PAYLOADS_A_CALL_MAX, each of at most PAYLOAD_BATCHED_BYTES_MAX bytes. It waits for blobs
        that are being fetched already, maybe from another member, and fetches them if that fails.
        If the call is interrupted, the received blobs stay.

        Raises the same errors as `fetch`.
        """
        others: set[asyncio.Task[None]] = set()
        elsewhere: list[tuple[Digest, int]] = []
        wanted: list[tuple[Digest, int]] = []
        for blob in blobs:
            known = self._fetches.get(blob[0]) or self._grouped.get(blob[0])
            if known is None:
                wanted.append(blob)
            else:
                others.add(known)
                elsewhere.append(blob)
        task: asyncio.Task[None] | None = None
        if wanted:
            task = asyncio.create_task(self._fetch_together(wanted, member))
            self._grouped |= {digest: task for digest, _ in wanted}

            def forget(_: "asyncio.Task[None]") -> None:
                for digest, _size in wanted:
                    del self._grouped[digest]

            task.add_done_callback(forget)
            task.add_done_callback(self._ended)
        for other in others:
            with suppress(PeerFailed, PayloadMismatch, Overloaded, DiskFull):
                await asyncio.shield(other)
        if task is not None:
            await asyncio.shield(task)
        lacking = [blob for blob in elsewhere if not self._blobs.has(blob[0])]
        if lacking:
            await self.fetch_together(lacking, member)

    async def _fetch_together(self, wanted: Sequence[tuple[Digest, int]], member: int) -> None:
        # Separate slots, or the fetches for appends would wait for whole groups.
        async with self._group_slots:
            blobs = self._blobs
            lacking = await run_to_end(lambda: [blob for blob in wanted if not blobs.has(blob[0])])
            group = blobs.group()
            try:
                if lacking:
                    await self._receive_together(group, lacking, member)
            except PeerFailed:
                await self._adopt_together(group)
                raise
            except BaseException:
                await run_to_end(group.abort)
                raise
            await self._adopt_together(group)
            self._keep([digest for digest, _ in wanted])

    async def _receive_together(
        self, group: BlobGroup, lacking: Sequence[tuple[Digest, int]], member: int
    ) -> None:
        if self._disk_full():
            raise DiskFull("the volume is below its reserve: make room or grow the volume")
        digests = [digest for digest, _ in lacking]
        done = 0
        async with aclosing(self._transport.fetch_payloads(member, digests)) as batches:
            async for contents in batches:
                self._check_reserve()
                if not 0 < len(contents) <= len(lacking) - done:
                    raise PayloadMismatch(
                        f"member {member:x} sent {len(contents)} payloads; 1 to "
                        f"{len(lacking) - done} were expected"
                    )
                some = lacking[done : done + len(contents)]
                await run_to_end(partial(_add, group, some, contents))
                done += len(contents)
                self._metrics.payload_bytes.labels("in").inc(sum(map(len, contents)))
        if done < len(lacking):
            raise PeerFailed(f"member {member:x} sent {done} of {len(lacking)} payloads")

    async def _adopt_together(self, group: BlobGroup) -> None:
        await run_to_end(group.finish)
        reach("blob.adopted")
        # Counted here: the state transfer that needs them may have been interrupted before.
        held = sum(map(self._blobs.held, group.digests))
        self._metrics.state_transfer_payloads.inc(held)
        self._keep(group.digests)

    def _keep(self, digests: Sequence[Digest]) -> None:
        """Pins the blobs that are not held, so that they are not collected before their entry.
        Blobs of a state transfer are held."""
        blobs = self._blobs
        for digest in digests:
            if not blobs.held(digest):
                blobs.pin_present(digest, self._limits.pin_time_to_live_s)

    async def _fetch(self, digest: Digest, member: int) -> None:
        async with self._fetch_slots:
            blobs = self._blobs
            if not blobs.has(digest):
                await self._fetch_new(digest, member)
                if blobs.held(digest):
                    # Counted here: the transfer that needs it may have been interrupted before.
                    self._metrics.state_transfer_payloads.inc()
            self._keep([digest])

    async def _fetch_new(self, digest: Digest, member: int) -> None:
        """Fetches the content. If it is interrupted, it resumes at once as long as an attempt makes
        progress. Otherwise a later call resumes it, from any member."""
        broken = self._broken.pop(digest, None)
        writer = broken.writer if broken else None
        try:
            while True:
                before = writer.written if writer else 0
                try:
                    size, chunks = await self._transport.fetch_payload(member, digest, before)
                    writer = writer or self._blobs.writer(digest, size)
                    await self._write(writer, chunks)
                    return
                except PeerFailed:
                    if writer is not None and writer.complete:
                        await self._adopt(writer)  # only the end of the stream was missing
                        return
                    if writer is None or writer.written == before:
                        raise
        except (PeerFailed, asyncio.CancelledError):
            if writer is not None:
                self._keep_broken(digest, writer)
            raise
        except BaseException:
            if writer is not None:
                writer.abort()
            raise

    async def _write(self, writer: BlobWriter, chunks: AsyncIterator[bytes]) -> None:
        if self._disk_low():
            raise DiskFull("the volume is below half of its reserve: make room or grow the volume")
        async for chunk in chunks:
            if self._disk_low():
                raise DiskFull("the volume fell below half of its reserve: make room, or grow it")
            await run_to_end(partial(writer.write, chunk))
            self._metrics.payload_bytes.labels("in").inc(len(chunk))
        await self._adopt(writer)

    async def _adopt(self, writer: BlobWriter) -> None:
        await run_to_end(writer.finish)
        reach("blob.adopted")

    def _keep_broken(self, digest: Digest, writer: BlobWriter) -> None:
        if writer.closed or writer.failed:
            writer.abort()
            return
        now = asyncio.get_running_loop().time()
        self._broken[digest] = _Broken(writer, now + self._limits.transfer_partial_keep_s)
        while len(self._broken) > FETCHES_MAX:
            self._broken.pop(next(iter(self._broken))).writer.abort()

    @property
    def fetching(self) -> int:
        """Payloads that are being fetched."""
        return len(self._fetches) + len(self._grouped)

    def expire(self) -> None:
        """Deletes interrupted fetches that were not resumed in time, or whose payload came in
        another way."""
        now = asyncio.get_running_loop().time()
        for digest, broken in list(self._broken.items()):
            if broken.until <= now or self._blobs.has(digest):
                self._broken.pop(digest).writer.abort()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A Fatal ends the process, even if no caller waits for the task."""
        if not task.cancelled() and isinstance(error := task.exception(), Fatal):
            self._failed(error)

    async def close(self) -> None:
        await self._gate.close()
        tasks = {*self._fetches.values(), *self._grouped.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.dissemination.close()
        for broken in self._broken.values():
            broken.writer.abort()
        self._broken.clear()


def _move(writer: BlobWriter, content: MovedContent, count: int) -> None:
    if not writer.written:
        content.accept()
    writer.move(content, count)
    if writer.complete:
        writer.finish()


def _add(group: BlobGroup, blobs: Sequence[tuple[Digest, int]], contents: Sequence[bytes]) -> None:
    for (digest, size), content in zip(blobs, contents, strict=True):
        group.add(digest, size, content)
