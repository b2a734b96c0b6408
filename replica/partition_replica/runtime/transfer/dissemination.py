"""Brings payloads that are here to a quorum of voters, at the leader."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from partition_replica.core.limits import PAYLOAD_BATCHED_BYTES_MAX
from partition_replica.core.model import Configuration
from partition_replica.core.ports import PeerFailed, PeerTransport
from partition_replica.errors import PayloadQuorum
from partition_replica.ids import Digest
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.arriving import ArrivingFile
from partition_replica.storage.blobs import BlobStore

logger = logging.getLogger(__name__)

PUSHES_A_MEMBER_MAX = 4


@dataclass(frozen=True, slots=True)
class _Passing:
    """The push of a payload that arrives."""

    task: "asyncio.Task[None]"
    arriving: ArrivingFile


class Dissemination:
    """Knows which members have which payloads, and pushes payloads to members that may lack them.
    On the event loop."""

    def __init__(
        self,
        blobs: BlobStore,
        transport: PeerTransport,
        metrics: Metrics,
        *,
        own_member: int,
        passed_on_max: int,
        configuration: Callable[[], Configuration],
    ) -> None:
        self._blobs = blobs
        self._transport = transport
        self._metrics = metrics
        self._own_member = own_member
        self._passed_on_max = passed_on_max
        self._configuration = configuration
        self._holders: dict[Digest, set[int]] = {}
        self._pushes: dict[tuple[Digest, int], asyncio.Task[bool]] = {}
        """The running ones, each under all its payloads."""
        self._passing: dict[tuple[Digest, int], _Passing] = {}
        """The running pushes of payloads that arrive, or did when the push began."""
        self._push_slots: dict[int, asyncio.Semaphore] = {}

    def holders(self, digest: Digest) -> list[int]:
        return sorted(self._holders.get(digest, set()) | {self._own_member})

    def forget_holders(self) -> None:
        """Called at a change of leader. Members are asked again when needed."""
        self._holders.clear()

    def forget(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            self._holders.pop(digest, None)

    async def close(self) -> None:
        tasks = {*self._pushes.values(), *(passing.task for passing in self._passing.values())}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def to_quorum(self, digests: Sequence[Digest]) -> None:
        """Returns once a quorum of voters has all of them, which are here; at most
        PAYLOADS_A_CALL_MAX. Raises PayloadQuorum if too few members can be reached."""
        pushes: set[asyncio.Task[bool]] = set()
        lacking = self._without_quorum(digests)
        for member in self._configuration().members if lacking else ():
            if member != self._own_member:
                pushes |= self._push(
                    [digest for digest in lacking if member not in self._known_holders(digest)],
                    member,
                )
        while (lacking := self._without_quorum(digests)) and pushes:
            _, pushes = await asyncio.wait(pushes, return_when=asyncio.FIRST_COMPLETED)
        if lacking:
            holding = ", ".join(f"{member:x}" for member in self.holders(lacking[0]))
            raise PayloadQuorum(
                f"payload {lacking[0].hex()} is only on members {holding}, which is not a quorum, "
                "and the others can't be reached: retry with backoff"
            )

    def pass_on(self, digest: Digest, size: int, arriving: ArrivingFile) -> None:
        """Begins to push a payload while it arrives, to each other member with a place free. The
        others get it once it is complete (`to_quorum`). These places are not those of complete
        payloads: a client that uploads slowly must not hold those up."""
        for member in self._configuration().members:
            busy = sum(1 for _, other in self._passing if other == member)
            if member == self._own_member or busy >= self._passed_on_max:
                continue
            if (digest, member) not in self._passing:
                task = asyncio.create_task(self._pass_on(digest, size, arriving, member))
                self._passing[digest, member] = _Passing(task, arriving)
                task.add_done_callback(partial(self._passed_on, digest, member))

    def _passed_on(self, digest: Digest, member: int, _: "asyncio.Task[None]") -> None:
        del self._passing[digest, member]

    async def _pass_on(
        self, digest: Digest, size: int, arriving: ArrivingFile, member: int
    ) -> None:
        try:
            await self._transport.push_arriving(member, digest, size, arriving)
        except PeerFailed as error:
            logger.info(
                "payload %s was not passed on to member %x: %s", digest.hex(), member, error
            )
            return
        if not arriving.given_up:
            self._known_holders(digest).add(member)
            self._metrics.payloads_passed_on.inc()
            self._metrics.payload_bytes.labels("out").inc(size)

    def _without_quorum(self, digests: Sequence[Digest]) -> list[Digest]:
        quorum = self._configuration().is_quorum
        return [
            digest
            for digest in digests
            if not quorum(self._known_holders(digest) | {self._own_member})
        ]

    def _known_holders(self, digest: Digest) -> set[int]:
        return self._holders.setdefault(digest, set())

    def _push(self, digests: Sequence[Digest], member: int) -> "set[asyncio.Task[bool]]":
        """Starts pushes, small payloads together, or takes those that are running."""
        running: dict[asyncio.Task[bool], None] = {}
        small: list[tuple[Digest, int]] = []
        for digest in digests:
            task = self._pushes.get((digest, member))
            if task is not None:
                running[task] = None
                continue
            size = self._blobs.size(digest)
            if size is None or size > PAYLOAD_BATCHED_BYTES_MAX:
                running[self._push_one(digest, member)] = None
            else:
                small.append((digest, size))
        if len(small) == 1:
            running[self._push_one(small[0][0], member)] = None
        elif small:
            task = asyncio.create_task(self._push_together(small, member))
            self._note_push(task, [digest for digest, _ in small], member)
            running[task] = None
        return set(running)

    def _push_one(self, digest: Digest, member: int) -> "asyncio.Task[bool]":
        task = asyncio.create_task(self._push_once(digest, member))
        self._note_push(task, [digest], member)
        return task

    def _note_push(
        self, task: "asyncio.Task[bool]", digests: Sequence[Digest], member: int
    ) -> None:
        self._pushes |= {(digest, member): task for digest in digests}

        def forget(_: "asyncio.Task[bool]") -> None:
            for digest in digests:
                self._pushes.pop((digest, member), None)

        task.add_done_callback(forget)

    def _slots(self, member: int) -> asyncio.Semaphore:
        return self._push_slots.setdefault(member, asyncio.Semaphore(PUSHES_A_MEMBER_MAX))

    async def _push_together(self, blobs: Sequence[tuple[Digest, int]], member: int) -> bool:
        async with self._slots(member):
            files = [(digest, self._blobs.path(digest), size) for digest, size in blobs]
            try:
                await self._transport.push_payloads(member, files)
            except PeerFailed as error:
                logger.info(
                    "%d payloads were not pushed to member %x: %s", len(blobs), member, error
                )
                return False
        for digest, size in blobs:
            self._known_holders(digest).add(member)
            self._metrics.payload_bytes.labels("out").inc(size)
        return True

    async def _push_once(self, digest: Digest, member: int) -> bool:
        passing = self._passing.get((digest, member))
        # One of another upload of the same payload may wait for its client without end.
        if passing is not None and passing.arriving.complete:
            await asyncio.wait([passing.task])
            if member in self._known_holders(digest):
                return True
        async with self._slots(member):
            size = self._blobs.size(digest)
            if size is None:
                return False
            try:
                await self._transport.push_payload(member, digest, self._blobs.path(digest), size)
            except PeerFailed as error:
                logger.info(
                    "payload %s was not pushed to member %x: %s", digest.hex(), member, error
                )
                return False
        self._known_holders(digest).add(member)
        self._metrics.payload_bytes.labels("out").inc(size)
        return True
