"""Appends, sessions and uploads at a leader: what is refused, and what is proposed."""

import time
from collections.abc import AsyncIterator, Callable

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.limits import (
    PAYLOAD_BYTES_MAX,
    PAYLOAD_INLINE_BYTES_MAX,
    Limits,
)
from partition_replica.core.model import Applied
from partition_replica.core.sessions import content_digest
from partition_replica.core.validation import (
    check_digest,
    check_proposal,
    passes_full_disk,
    session_time_to_live_ms,
)
from partition_replica.errors import (
    DiskFull,
    InvalidArgument,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    PayloadMissing,
    SessionExpired,
)
from partition_replica.ids import Digest
from partition_replica.runtime.consensus.admission import answer_of
from partition_replica.runtime.consensus.proposals import PendingProposal
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.generations import StateGenerations


class Appends:
    """The write half of a replica. On the event loop."""

    def __init__(  # takes its parts from the assembly
        self,
        states: StateGenerations,
        blobs: BlobStore,
        limits: Limits,
        disk: DiskWatch,
        metrics: Metrics,
        *,
        current: CurrentMember,
        draw_session: Callable[[], int],
    ) -> None:
        """draw_session: see `runtime.assembly`."""
        self._states = states
        self._blobs = blobs
        self._limits = limits
        self._disk = disk
        self._metrics = metrics
        self._current = current
        self._draw_session = draw_session

    async def open_session(self, time_to_live_ms: int) -> tuple[int, int]:
        time_to_live_ms = session_time_to_live_ms(time_to_live_ms)
        member = self._current.leading()
        session = self._draw_session()
        opening = types.OpenSession(time_to_live_ms=time_to_live_ms, session_id=session)
        await self._propose(member, types.EntryBody(open_session=opening), wait_applied=True)
        return session, time_to_live_ms

    async def close_session(self, session: int) -> None:
        member = self._current.leading()
        body = types.EntryBody(close_session=types.CloseSession(session_id=session))
        await self._propose(member, body, wait_applied=True)

    async def append(self, proposal: types.Proposal, *, retry: bool, wait_applied: bool) -> Applied:
        started = time.perf_counter()
        try:
            applied = await self._append(proposal, retry=retry, wait_applied=wait_applied)
        except (SessionExpired, DiskFull) as error:
            if not retry:
                raise
            raise OutcomeUnknown(
                f"an earlier try of this sequence may have taken effect; this one: {error}",
                error.reason,
            ) from error
        self._metrics.appends.observe(time.perf_counter() - started)
        return applied

    async def _append(
        self, proposal: types.Proposal, *, retry: bool, wait_applied: bool
    ) -> Applied:
        member = self._current.leading()
        # Before anything is refused: a leader before this one may have written an earlier try.
        member.check_serving()
        check_proposal(proposal)
        body = types.EntryBody(proposal=proposal, content_digest=content_digest(proposal))
        large = [
            Digest(payload.digest)
            for payload in proposal.payloads
            if payload.size > PAYLOAD_INLINE_BYTES_MAX
        ]
        if retry or large:
            # Before anything is asked for that an answer does not need: payloads, room on the disk.
            known = answer_of(self._states.current, body)
            if known is not None:
                return known
        if large:
            await member.payloads.ensure_quorum(large)
            self._check_sizes(proposal)
        wait_applied = wait_applied or retry or bool(proposal.preconditions)
        return await self._propose(member, body, wait_applied=wait_applied)

    async def upload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> list[int]:
        member = self._current.leading()
        check_digest(digest, "the payload")
        if not PAYLOAD_INLINE_BYTES_MAX < size <= PAYLOAD_BYTES_MAX:
            raise InvalidArgument(
                f"a payload of {size} bytes is not uploaded: up to {PAYLOAD_INLINE_BYTES_MAX} "
                f"bytes travel in the append itself, and {PAYLOAD_BYTES_MAX} is the most"
            )
        name = Digest(digest)
        await member.payloads.receive(name, size, chunks)
        await member.payloads.ensure_quorum([name])
        return member.payloads.holders(name)

    async def _propose(
        self, member: Member, body: types.EntryBody, *, wait_applied: bool
    ) -> Applied:
        member.check_serving()  # again: payloads may have been waited for
        if self._current.held:
            raise NoLeader("replication is being switched on: retry in a moment")
        if self._disk.full() and not passes_full_disk(body):
            raise DiskFull(
                f"the volume has {self._disk.free_bytes} bytes free, below its reserve: writes are "
                "refused, removals and reads go on; make room or grow the volume"
            )
        if member.applier.lag > self._limits.apply_lag_max:
            raise Overloaded(
                f"{member.applier.lag} entries are committed and not applied, at most "
                f"{self._limits.apply_lag_max} may be: retry with back-off"
            )
        pending = PendingProposal(body, body.ByteSize(), wait_applied)
        member.loop.propose(pending)
        return await pending.future

    def _check_sizes(self, proposal: types.Proposal) -> None:
        for number, payload in enumerate(proposal.payloads, 1):
            if payload.size <= PAYLOAD_INLINE_BYTES_MAX:
                continue
            size = self._blobs.size(Digest(payload.digest))
            if size is None:
                raise PayloadMissing("a payload went while it was disseminated", [payload.digest])
            if size != payload.size:
                raise InvalidArgument(
                    f"payload {number} says {payload.size} bytes; its content has {size}"
                )
