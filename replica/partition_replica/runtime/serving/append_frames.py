"""Appends that arrive in frames: many proposals of one session at a time, and no task for each."""

import asyncio
import time
from collections.abc import Mapping

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import Applied, ProposalResult
from partition_replica.core.proposed_entry import ProposalEncoder, ProposedEntry
from partition_replica.core.services import AppendAnswers, AppendFrame
from partition_replica.core.validation import check_content
from partition_replica.errors import ReplicaError, of_retry
from partition_replica.ids import SessionID
from partition_replica.runtime.consensus.admission import answer_of_result
from partition_replica.runtime.consensus.proposals import PendingProposal
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.serving.appends import Appends, large_payloads
from partition_replica.runtime.serving.proposer import Proposer
from partition_replica.storage.generations import StateGenerations

SLICE_OPERATIONS = 512
"""Operations of a frame that are checked in one turn of the event loop, at least those of one
proposal. The others are checked in the next turn."""


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

    async def append(self, frame: AppendFrame, answers: AppendAnswers) -> None:
        """Checks and proposes slice by slice, and lets other tasks run between them: ticks and
        heartbeats must not wait for a frame with many operations."""
        encoder = ProposalEncoder(frame.session, frame.acknowledged_below)
        results = self._results(frame)
        start = 0
        while start < len(frame.proposals):
            if start:
                await asyncio.sleep(0)
            start = self._append_slice(frame, start, encoder, results, answers)

    def _results(self, frame: AppendFrame) -> Mapping[int, ProposalResult]:
        """Stored results of a frame that is sent again, by sequence. They never change, so that
        later slices need not look again: admission does."""
        if not frame.retry:
            return {}
        first = frame.first_sequence
        last = first + len(frame.proposals) - 1
        return self._states.current.get_results(SessionID(frame.session), first, last)[1]

    def _append_slice(
        self,
        frame: AppendFrame,
        start: int,
        encoder: ProposalEncoder,
        results: Mapping[int, ProposalResult],
        answers: AppendAnswers,
    ) -> int:
        """Handles the proposals from number `start` on; returns the number of the first one that is
        left."""
        first = frame.first_sequence
        try:
            member = self._current.leading()
            # Checked before any refusal: an earlier leader may have written an earlier try.
            member.check_serving()
        except ReplicaError as error:
            for number in range(start, len(frame.proposals)):
                answers.refused(first + number, error)
            return len(frame.proposals)
        batch: list[PendingProposal] = []
        operations, end = 0, start
        while end < len(frame.proposals) and operations < SLICE_OPERATIONS:
            content, sequence = frame.proposals[end], first + end
            end += 1
            try:
                entry, proposal = self._checked(encoder, sequence, content)
                operations += max(1, len(proposal.operations))
                if (known := results.get(sequence)) is not None:
                    answers.appended(sequence, answer_of_result(known, entry))
                    continue
                large = bool(large_payloads(proposal))
                if not large:
                    self._proposer.check_room(entry)
            except ReplicaError as error:
                answers.refused(sequence, of_retry(error) if frame.retry else error)
                continue
            wait_applied = frame.wait_applied or frame.retry or bool(proposal.preconditions)
            pending = _Framed(
                entry, answers, self._metrics, retry=frame.retry, wait_applied=wait_applied
            )
            if large:
                answers.run(self._append_large(member, pending, proposal))
            else:
                batch.append(pending)
        self._propose(member, batch)
        return end

    def _propose(self, member: Member, batch: list[PendingProposal]) -> None:
        """Proposes as many as there is room for, and refuses the others."""
        try:
            while batch:
                self._proposer.check(member)
                batch = batch[member.loop.propose(batch) :]
        except ReplicaError as error:
            for pending in batch:
                pending.fail(error)

    def _checked(
        self, encoder: ProposalEncoder, sequence: int, content: bytes
    ) -> tuple[ProposedEntry, types.Proposal]:
        """Returns the entry and its proposal. Raises InvalidArgument, PayloadMismatch."""
        encoded, proposal = encoder.encode(sequence, content)
        check_content(proposal, len(content) + encoder.fields_bytes(sequence))
        return encoder.entry(sequence, content, encoded, proposal), proposal

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
