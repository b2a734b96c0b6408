"""Appends that arrive in frames: many proposals of one session at a time, and no task for each."""

import time

from google.protobuf.message import DecodeError
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import Applied
from partition_replica.core.proposed_entry import ProposalEncoder, ProposedEntry
from partition_replica.core.services import AppendAnswers, AppendFrame
from partition_replica.core.validation import check_content
from partition_replica.errors import InvalidArgument, ReplicaError, of_retry
from partition_replica.runtime.consensus.admission import answer_of
from partition_replica.runtime.consensus.proposals import PendingProposal
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.serving.appends import Appends, large_payloads
from partition_replica.runtime.serving.proposer import Proposer
from partition_replica.storage.generations import StateGenerations


class _Framed(PendingProposal):
    """A proposal of a frame. Its stream takes the answer."""

    __slots__ = ("_answers", "_metrics", "_over", "_retry", "_started")

    def __init__(
        self,
        entry: ProposedEntry,
        answers: AppendAnswers,
        metrics: Metrics,
        *,
        retry: bool,
        wait_applied: bool,
    ) -> None:
        super().__init__(entry, wait_applied=wait_applied)
        self._answers = answers
        self._metrics = metrics
        self._retry = retry
        self._started = time.perf_counter()
        self._over = False

    @property
    def over(self) -> bool:
        return self._over or self._answers.closed

    def fail(self, error: ReplicaError) -> None:
        if not self.over:
            self._over = True
            self._answers.refused(self.entry.sequence, of_retry(error) if self._retry else error)

    def succeed(self, applied: Applied) -> None:
        if not self.over:
            self._over = True
            self._metrics.appends.observe(time.perf_counter() - self._started)
            self._answers.appended(self.entry.sequence, applied)


class AppendFrames:
    """The writes of a replica that arrive in frames. On the event loop."""

    def __init__(
        self,
        states: StateGenerations,
        metrics: Metrics,
        proposer: Proposer,
        appends: Appends,
        current: CurrentMember,
    ) -> None:
        self._states = states
        self._metrics = metrics
        self._proposer = proposer
        self._appends = appends
        self._current = current

    def append(self, frame: AppendFrame, answers: AppendAnswers) -> None:
        first = frame.first_sequence
        try:
            member = self._current.leading()
            # Checked before any refusal: an earlier leader may have written an earlier try.
            member.check_serving()
        except ReplicaError as error:
            for offset in range(len(frame.proposals)):
                answers.refused(first + offset, error)
            return
        encoder = ProposalEncoder(frame.session, frame.acknowledged_below)
        batch: list[PendingProposal] = []
        for sequence, content in enumerate(frame.proposals, first):
            try:
                pending = self._checked(member, frame, sequence, content, encoder, answers)
            except ReplicaError as error:
                answers.refused(sequence, of_retry(error) if frame.retry else error)
                continue
            if pending is not None:
                batch.append(pending)
        if not batch:
            return
        try:
            self._proposer.check(member)
            member.loop.propose(batch)
        except ReplicaError as error:
            for pending in batch:
                pending.fail(error)

    def _checked(  # one proposal, and what all of its frame share
        self,
        member: Member,
        frame: AppendFrame,
        sequence: int,
        content: bytes,
        encoder: ProposalEncoder,
        answers: AppendAnswers,
    ) -> PendingProposal | None:
        """Returns a proposal to propose. None if it is answered, or will be by a task."""
        try:
            proposal = types.Proposal.FromString(content)
        except DecodeError as error:
            raise InvalidArgument(
                f"the proposal of sequence {sequence} is not an encoded Proposal: {error}"
            ) from error
        check_content(proposal, len(content) + encoder.fields_bytes(sequence))
        entry = encoder.encode(sequence, content, proposal)
        if frame.retry and (known := answer_of(self._states.current, entry)) is not None:
            answers.appended(sequence, known)
            return None
        wait_applied = frame.wait_applied or frame.retry or bool(proposal.preconditions)
        pending = _Framed(
            entry, answers, self._metrics, retry=frame.retry, wait_applied=wait_applied
        )
        if large_payloads(proposal):
            answers.run(self._append_large(member, pending, proposal))
            return None
        self._proposer.check_room(entry)
        return pending

    async def _append_large(
        self, member: Member, pending: PendingProposal, proposal: types.Proposal
    ) -> None:
        try:
            applied = await self._appends.append_checked(
                member, pending.entry, proposal, wait_applied=pending.wait_applied
            )
        except ReplicaError as error:
            pending.fail(error)
        else:
            pending.succeed(applied)
