"""A call that carries appends to one replica: AppendFrames, or Append at an older replica."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import types_pb2 as types

from partition_client.pending_append import Appended, PendingAppend

FRAME_BYTES_MAX = 256 * 1024
"""A frame is closed at this size; it has at least one proposal. On a slow link a larger one might
take longer than the silence after which a stream is given up."""

FRAME_PROPOSALS_MAX = 1024
"""Proposals per frame."""

Answers = list[tuple[int, Appended | types.ErrorDetail]]
"""Sequences with their answers."""


class AppendCall(Protocol):
    """A stream to one replica, of one session."""

    async def send(self, appends: Sequence[PendingAppend], acknowledged_below: int) -> None:
        """Sends appends in ascending order of their sequences. None of them is under way on this
        call. Raises what grpc.aio raises."""
        ...

    async def read(self) -> Answers | None:
        """The next answers; None at the end of the stream. Raises what grpc.aio raises."""
        ...

    def cancel(self) -> None: ...


class FrameCall:
    """Many appends per message."""

    def __init__(self, stub: log_store_pb2_grpc.LogStoreStub, session: int, history: str) -> None:
        self._call: Any = stub.AppendFrames()
        self._session = session
        self._history = history

    async def send(self, appends: Sequence[PendingAppend], acknowledged_below: int) -> None:
        for run in _runs(appends):
            first = run[0]
            await self._call.write(
                api.AppendFrame(
                    session_id=self._session,
                    first_sequence=first.sequence,
                    acknowledged_below=acknowledged_below,
                    proposals=[pending.content for pending in run],
                    retry=first.retry,
                    wait_applied=first.wait_applied,
                    history_id=self._history,
                )
            )

    async def read(self) -> Answers | None:
        response = await self._call.read()
        if response is grpc.aio.EOF:
            return None
        answers: Answers = []
        for done in response.appended:
            sequence, lsn, term = done.first_sequence, done.first_lsn, done.term
            if done.outcomes:
                answers.append((sequence, Appended(lsn, term, tuple(done.outcomes))))
                continue
            for offset in range(done.count):
                answers.append((sequence + offset, Appended(lsn + offset, term)))
        for refused in response.refused:
            for offset in range(refused.count):
                answers.append((refused.first_sequence + offset, refused.error))
        return answers

    def cancel(self) -> None:
        self._call.cancel()


class SingleCall:
    """One append per message, for replicas that do not know AppendFrames."""

    def __init__(self, stub: log_store_pb2_grpc.LogStoreStub, history: str) -> None:
        self._call: Any = stub.Append()
        self._history = history
        self._serial = 0
        self._sequences: dict[int, int] = {}
        """By request ID."""

    async def send(self, appends: Sequence[PendingAppend], acknowledged_below: int) -> None:
        for pending in appends:
            self._serial += 1
            self._sequences[self._serial] = pending.sequence
            pending.proposal.acknowledged_below = acknowledged_below
            await self._call.write(
                api.AppendRequest(
                    request_id=self._serial,
                    proposal=pending.proposal,
                    retry=pending.retry,
                    wait_applied=pending.wait_applied,
                    # Of the first one is enough: a replica's history changes with its process only.
                    history_id=self._history if self._serial == 1 else "",
                )
            )

    async def read(self) -> Answers | None:
        response = await self._call.read()
        if response is grpc.aio.EOF:
            return None
        sequence = self._sequences.pop(response.request_id, None)
        if sequence is None:
            return []
        if response.HasField("error"):
            return [(sequence, response.error)]
        return [(sequence, Appended(response.lsn, response.term, tuple(response.outcomes)))]

    def cancel(self) -> None:
        self._call.cancel()


def _runs(appends: Sequence[PendingAppend]) -> Iterator[list[PendingAppend]]:
    """Cuts appends into frames: consecutive sequences, equal flags, within the limits."""
    numbered = enumerate(appends)
    for _, alike in groupby(
        numbered, lambda one: (one[1].sequence - one[0], one[1].retry, one[1].wait_applied)
    ):
        run: list[PendingAppend] = []
        size = 0
        for _, pending in alike:
            size += len(pending.content)
            if run and (size > FRAME_BYTES_MAX or len(run) == FRAME_PROPOSALS_MAX):
                yield run
                run, size = [], len(pending.content)
            run.append(pending)
        yield run
