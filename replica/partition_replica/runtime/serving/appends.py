"""Appends, sessions and uploads at a leader: checks requests and proposes entries."""

import time
from collections.abc import AsyncIterator, Callable

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.limits import PAYLOAD_BYTES_MAX, PAYLOAD_INLINE_BYTES_MAX
from partition_replica.core.model import Applied
from partition_replica.core.payloads import CompletePayloads
from partition_replica.core.proposed_entry import ProposedEntry, proposed
from partition_replica.core.validation import (
    check_digest,
    check_proposal,
    session_time_to_live_ms,
)
from partition_replica.errors import (
    DiskFull,
    InvalidArgument,
    PayloadMissing,
    SessionExpired,
    of_retry,
)
from partition_replica.ids import Digest
from partition_replica.runtime.consensus.admission import answer_of
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.serving.proposer import Proposer
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.generations import StateGenerations


class Appends:
    """The writes of a replica. On the event loop."""

    def __init__(  # takes its parts from the assembly
        self,
        states: StateGenerations,
        blobs: BlobStore,
        metrics: Metrics,
        proposer: Proposer,
        *,
        current: CurrentMember,
        draw_session: Callable[[], int],
    ) -> None:
        """draw_session: see `runtime.assembly`."""
        self._states = states
        self._blobs = blobs
        self._metrics = metrics
        self._proposer = proposer
        self._current = current
        self._draw_session = draw_session

    async def open_session(self, time_to_live_ms: int) -> tuple[int, int]:
        time_to_live_ms = session_time_to_live_ms(time_to_live_ms)
        member = self._current.leading()
        session = self._draw_session()
        opening = types.OpenSession(time_to_live_ms=time_to_live_ms, session_id=session)
        entry = proposed(types.EntryBody(open_session=opening))
        await self._proposer.propose(member, entry, wait_applied=True)
        return session, time_to_live_ms

    async def close_session(self, session: int) -> None:
        member = self._current.leading()
        closing = types.CloseSession(session_id=session)
        entry = proposed(types.EntryBody(close_session=closing))
        await self._proposer.propose(member, entry, wait_applied=True)

    async def append(self, proposal: types.Proposal, *, retry: bool, wait_applied: bool) -> Applied:
        started = time.perf_counter()
        try:
            applied = await self._append(proposal, retry=retry, wait_applied=wait_applied)
        except (SessionExpired, DiskFull) as error:
            if not retry:
                raise
            raise of_retry(error) from error
        self._metrics.appends.observe(time.perf_counter() - started)
        return applied

    async def _append(
        self, proposal: types.Proposal, *, retry: bool, wait_applied: bool
    ) -> Applied:
        member = self._current.leading()
        # Checked before any refusal: an earlier leader may have written an earlier try.
        member.check_serving()
        check_proposal(proposal)
        entry = proposed(types.EntryBody(proposal=proposal))
        if retry and (known := answer_of(self._states.current, entry)) is not None:
            return known
        return await self.append_checked(
            member, entry, proposal, wait_applied=wait_applied or retry
        )

    async def append_checked(
        self,
        member: Member,
        entry: ProposedEntry,
        proposal: types.Proposal,
        *,
        wait_applied: bool,
    ) -> Applied:
        """Appends a proposal whose content is checked, once a quorum has its large payloads.
        `proposal`: the same, decoded."""
        if large := large_payloads(proposal):
            # A stored answer needs neither the payloads nor free space on the disk.
            known = answer_of(self._states.current, entry)
            if known is not None:
                return known
            await member.payloads.ensure_quorum(large)
            self._check_sizes(proposal)
        wait_applied = wait_applied or bool(proposal.preconditions)
        return await self._proposer.propose(member, entry, wait_applied=wait_applied)

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
        await member.payloads.receive(name, size, chunks, pass_on=True)
        await member.payloads.ensure_quorum([name])
        return member.payloads.dissemination.holders(name)

    async def upload_together(self, groups: AsyncIterator[CompletePayloads]) -> None:
        member = self._current.leading()
        digests = await member.payloads.receive_together(_large(groups))
        await member.payloads.ensure_quorum(digests)

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


async def _large(
    groups: AsyncIterator[CompletePayloads],
) -> AsyncIterator[CompletePayloads]:
    """Yields the same. Raises InvalidArgument for a payload that belongs into its append."""
    async for contents in groups:
        for _, content in contents:
            if len(content) <= PAYLOAD_INLINE_BYTES_MAX:
                raise InvalidArgument(
                    f"a payload of {len(content)} bytes can't be uploaded: more than "
                    f"{PAYLOAD_INLINE_BYTES_MAX} bytes are needed. Send it in the append itself"
                )
        yield contents


def large_payloads(proposal: types.Proposal) -> list[Digest]:
    """The payloads that must be uploaded before the proposal."""
    return [
        Digest(payload.digest)
        for payload in proposal.payloads
        if payload.size > PAYLOAD_INLINE_BYTES_MAX
    ]
