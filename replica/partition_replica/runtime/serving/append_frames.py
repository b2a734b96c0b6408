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

    __slots__ = ("_metrics", "_over", "_retry", "_started", "answers", "proposable", "sequence")

    def __init__(
        self, sequence: int, answers: AppendAnswers, metrics: Metrics, frame: AppendFrame
    ) -> None:
        self.sequence = sequence
        self.answers = answers
        self.proposable = False
        self.wait_applied = frame.wait_applied or frame.retry
        self._metrics = metrics
        self._retry = frame.retry
        self._started = time.perf_counter()
        self._over = False

    def ask_for(self, entry: ProposedEntry, *, preconditions: bool) -> None:
        super().__init__(entry, wait_applied=self.wait_applied or preconditions)

    @property
    def over(self) -> bool:
        return self._over or self.answers.closed

    def fail(self, error: ReplicaError) -> None:
        if not self.over:
            self._over = True
            self.answers.refused(self.sequence, of_retry(error) if self._retry else error)

    def succeed(self, applied: Applied) -> None:
        if not self.over:
            self._over = True
            self._metrics.appends.observe(time.perf_counter() - self._started)
            self.answers.appended(self.sequence, applied)


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
            pending = _Framed(first + end, answers, self._metrics, frame)
            try:
                operations += self._check(member, pending, frame.proposals[end], encoder, results)
            except ReplicaError as error:
                pending.fail(error)
            if pending.proposable:
                batch.append(pending)
            end += 1
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

    def _check(
        self,
        member: Member,
        pending: "_Framed",
        content: bytes,
        encoder: ProposalEncoder,
        results: Mapping[int, ProposalResult],
    ) -> int:
        """Checks one proposal, and marks it as proposable unless it is answered, or will be by a
        task. Returns the number of its operations, at least 1."""
        sequence = pending.sequence
        encoded, proposal = encoder.encode(sequence, content)
        check_content(proposal, len(content) + encoder.fields_bytes(sequence))
        entry = encoder.entry(sequence, content, encoded, proposal)
        if (known := results.get(sequence)) is not None:
            pending.succeed(answer_of_result(known, entry))
            return 1
        pending.ask_for(entry, preconditions=bool(proposal.preconditions))
        if large_payloads(proposal):
            pending.answers.run(self._append_large(member, pending, proposal))
        else:
            self._proposer.check_room(entry)
            pending.proposable = True
        return max(1, len(proposal.operations))

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
