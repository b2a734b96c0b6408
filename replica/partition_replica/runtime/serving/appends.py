"""Appends, sessions and uploads at a leader: checks requests and proposes entries."""

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
    """The writes of a replica. On the event loop."""

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
                f"an earlier try of this sequence may have taken effect; this try failed: {error}",
                error.reason,
            ) from error
        self._metrics.appends.observe(time.perf_counter() - started)
        return applied

    async def _append(
        self, proposal: types.Proposal, *, retry: bool, wait_applied: bool
    ) -> Applied:
        member = self._current.leading()
        # Checked before any refusal: an earlier leader may have written an earlier try.
        member.check_serving()
        check_proposal(proposal)
        body = types.EntryBody(proposal=proposal, content_digest=content_digest(proposal))
        large = [
            Digest(payload.digest)
            for payload in proposal.payloads
            if payload.size > PAYLOAD_INLINE_BYTES_MAX
        ]
        if retry or large:
            # A stored answer needs neither the payloads nor free space on the disk.
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
                f"a payload of {size} bytes can't be uploaded: more than "
                f"{PAYLOAD_INLINE_BYTES_MAX} and at most {PAYLOAD_BYTES_MAX} bytes are allowed. "
                "Send a smaller payload in the append itself"
            )
        name = Digest(digest)
        await member.payloads.receive(name, size, chunks)
        await member.payloads.ensure_quorum([name])
        return member.payloads.holders(name)

    async def _propose(
        self, member: Member, body: types.EntryBody, *, wait_applied: bool
    ) -> Applied:
        member.check_serving()  # again, because waiting for payloads may have taken long
        if self._current.held:
            raise NoLeader("replication is being enabled: retry in a moment")
        if self._disk.full() and not passes_full_disk(body):
            raise DiskFull(
                f"the volume has {self._disk.free_bytes} bytes free, below its reserve: writes are "
                "refused, deletes and reads still work. Make room or grow the volume"
            )
        if member.applier.lag > self._limits.apply_lag_max:
            raise Overloaded(
                f"{member.applier.lag} entries are committed but not applied, at most "
                f"{self._limits.apply_lag_max} are allowed: retry with backoff"
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
                raise PayloadMissing(
                    "a payload was deleted during the append: upload it again", [payload.digest]
                )
            if size != payload.size:
                raise InvalidArgument(
                    f"payload {number}: size is {payload.size}, but its content has {size} bytes"
                )
