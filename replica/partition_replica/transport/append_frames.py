"""One AppendFrames stream: takes frames of proposals, and sends the answers that exist together.

No task exists per proposal. What a proposal holds of the stream's window is freed when its answer
has been sent, so a caller that does not read its answers can't send more.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine

from partition_proto.v1 import log_store_pb2 as api

from partition_replica.core.limits import FRAME_BYTES_MAX, FRAME_PROPOSALS_MAX
from partition_replica.core.model import Applied
from partition_replica.core.services import AppendFrame, ApplicationService
from partition_replica.core.validation import check_sequences
from partition_replica.errors import InvalidArgument, OutcomeUnknown, Overloaded, ReplicaError
from partition_replica.transport.failures import Failures, detail
from partition_replica.transport.streams import StreamWindow

logger = logging.getLogger(__name__)

PROPOSAL_OVERHEAD_BYTES = 256
"""What a proposal and its answer take beside the proposal's own bytes, about."""

RESPONSE_ANSWERS_MAX = 4096
"""Answers per message. The others are sent in the next one."""

OUTCOMES_BYTES_MAX = 1024**2
"""The total size of outcomes and error texts per message, about, which has at least one."""


class FrameStream:
    """One stream. Implements core.services.AppendAnswers. On the event loop."""

    def __init__(
        self,
        replica: ApplicationService,
        failures: Failures,
        room: StreamWindow,
        *,
        bytes_total_max: int,
    ) -> None:
        """`bytes_total_max`: of all streams, for the text of a refusal."""
        self._replica = replica
        self._failures = failures
        self._room = room
        self._bytes_total_max = bytes_total_max
        self._history = ""
        self._session = 0
        self._held: dict[int, int] = {}
        """Of each sequence without an answer: the bytes that it holds of the window."""
        self._answers: dict[int, tuple[Applied | ReplicaError, int]] = {}
        """By sequence: answers that are not sent, and the bytes that they hold."""
        self._changed = asyncio.Event()
        self._read = False
        # A dict, not a set: a simulation could not repeat the order of a set.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.closed = False

    async def serve(
        self, frames: AsyncIterator[api.AppendFrame]
    ) -> AsyncGenerator[api.AppendFrameResponse, None]:
        """Yields the answers to `frames`, until all are answered. Raises InvalidArgument, and what
        the iterator raises."""
        reader = asyncio.create_task(self._take_all(frames))
        try:
            while not self._read or self._held or self._answers:
                await self._changed.wait()
                self._changed.clear()
                while self._answers:
                    response, held, count = self._next_response()
                    yield response
                    # It is sent or in flight: gRPC asks for the next answer only then.
                    self._room.give(held, count)
            await reader
        finally:
            self.closed = True
            reader.cancel()
            for task in list(self._tasks):
                task.cancel()
            self._room.close()

    # --- answers ------------------------------------------------------------------------------

    def appended(self, sequence: int, applied: Applied) -> None:
        self._answer(sequence, applied)

    def refused(self, sequence: int, error: ReplicaError) -> None:
        self._failures.refused(error)
        self._answer(sequence, error)

    def run(self, body: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(body)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defect(error)

    def _answer(self, sequence: int, answer: Applied | ReplicaError) -> None:
        held = self._held.pop(sequence, None)
        if held is not None:
            self._answers[sequence] = answer, held
            self._changed.set()

    def _next_response(self) -> tuple[api.AppendFrameResponse, int, int]:
        """Returns (a message, the bytes that its answers hold of the window, their number)."""
        response = _Response()
        held = count = 0
        for sequence in list(self._answers):
            if count >= RESPONSE_ANSWERS_MAX or response.extra_bytes > OUTCOMES_BYTES_MAX:
                break
            answer, bytes_held = self._answers.pop(sequence)
            response.add(sequence, answer)
            held += bytes_held
            count += 1
        return response.message(), held, count

    # --- frames -------------------------------------------------------------------------------

    async def _take_all(self, frames: AsyncIterator[api.AppendFrame]) -> None:
        try:
            async for frame in frames:
                await self._take(frame)
        finally:
            self._read = True
            self._changed.set()

    async def _take(self, frame: api.AppendFrame) -> None:
        # A stream belongs to the history that it named first. If that is refused, the frames after
        # it must not be written either.
        self._history = self._history or frame.history_id
        self._session = self._session or frame.session_id
        first, count = frame.first_sequence, len(frame.proposals)
        if not 1 <= count <= FRAME_PROPOSALS_MAX:
            raise InvalidArgument(
                f"the frame has {count} proposals; allowed are 1 to {FRAME_PROPOSALS_MAX}"
            )
        proposals = list(frame.proposals)
        self._check(frame, proposals)
        sizes = [len(content) + PROPOSAL_OVERHEAD_BYTES for content in proposals]
        fits = await self._room.take(sum(sizes), count)
        # Not before the wait: meanwhile the answers to an earlier try may still be under way.
        self._check_new(first, count)
        self._held.update(enumerate(sizes if fits else [0] * count, first))
        if not fits:
            self._refuse(first, count, self._overloaded())
            return
        try:
            self._replica.check_history(self._history, leading=True)
            self._replica.check_history(frame.history_id)
        except ReplicaError as error:
            self._refuse(first, count, error)
            return
        try:
            await self._replica.append_frame(
                AppendFrame(
                    frame.session_id,
                    first,
                    frame.acknowledged_below,
                    proposals,
                    frame.retry,
                    frame.wait_applied,
                ),
                self,
            )
        except Exception as error:  # without an answer the caller would wait forever
            self._defect(error)

    def _check(self, frame: api.AppendFrame, proposals: list[bytes]) -> None:
        size = sum(map(len, proposals))
        if size > FRAME_BYTES_MAX:
            raise InvalidArgument(
                f"the frame has proposals of {size} bytes; allowed are {FRAME_BYTES_MAX}: send the "
                "others in the next frame"
            )
        if frame.session_id != self._session:
            raise InvalidArgument(
                f"the frame is of session {frame.session_id}, the frames before it of session "
                f"{self._session}: open another stream for another session"
            )
        check_sequences(
            frame.session_id, frame.first_sequence, len(proposals), frame.acknowledged_below
        )

    def _check_new(self, first: int, count: int) -> None:
        """Raises InvalidArgument if a sequence is under way on this stream: two answers to one
        sequence could not be told apart."""
        for sequence in range(first, first + count):
            if sequence in self._held or sequence in self._answers:
                raise InvalidArgument(
                    f"sequence {sequence} was sent on this stream and is not answered: wait for "
                    "the answer before you send it again"
                )

    def _refuse(self, first: int, count: int, error: ReplicaError) -> None:
        for sequence in range(first, first + count):
            self.refused(sequence, error)

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"appends in progress here hold up to {self._bytes_total_max} bytes, the maximum: "
            "retry with backoff"
        )

    def _defect(self, error: BaseException) -> None:
        logger.error("appends failed: this is a defect of the replica", exc_info=error)
        unknown = OutcomeUnknown(
            "internal error; details are in the replica's log. The append may have taken effect: "
            "retry the same sequence"
        )
        for sequence in list(self._held):
            self.refused(sequence, unknown)


class _Response:
    """Builds one message. Answers that continue each other become one range."""

    def __init__(self) -> None:
        self._message = api.AppendFrameResponse()
        self._first = self._lsn = self._term = self._count = 0
        """The range of appended proposals that is not in the message yet."""
        self.extra_bytes = 0
        """The size of outcomes and error texts."""

    def add(self, sequence: int, answer: Applied | ReplicaError) -> None:
        if isinstance(answer, ReplicaError):
            self._refused(sequence, answer)
        elif answer.result is None:
            self._appended(sequence, answer.index, answer.term)
        elif not answer.result.outcomes:
            self._appended(sequence, answer.result.lsn, answer.result.term)
        else:
            result = answer.result
            self.extra_bytes += len(result.outcomes)
            self._message.appended.add(
                first_sequence=sequence,
                count=1,
                first_lsn=result.lsn,
                term=result.term,
                outcomes=list(result.outcomes),
            )

    def message(self) -> api.AppendFrameResponse:
        self._close_range()
        return self._message

    def _appended(self, sequence: int, lsn: int, term: int) -> None:
        count = self._count
        if (
            sequence == self._first + count
            and lsn == self._lsn + count
            and term == self._term
            and count
        ):
            self._count += 1
            return
        self._close_range()
        self._first, self._lsn, self._term, self._count = sequence, lsn, term, 1

    def _close_range(self) -> None:
        if self._count:
            self._message.appended.add(
                first_sequence=self._first,
                count=self._count,
                first_lsn=self._lsn,
                term=self._term,
            )
            self._count = 0

    def _refused(self, sequence: int, error: ReplicaError) -> None:
        found = detail(error)
        if self._message.refused:
            last = self._message.refused[-1]
            if last.first_sequence + last.count == sequence and last.error == found:
                last.count += 1
                return
        self.extra_bytes += found.ByteSize()
        self._message.refused.add(first_sequence=sequence, count=1, error=found)
