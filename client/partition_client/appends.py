"""The append stream: everything that one process appends goes to the leader on one stream; what
has no answer when it breaks is sent again under the same sequence, so it takes effect once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.errors import (
    RETRIED,
    ClientError,
    DeadlineExceeded,
    OutcomeUnknown,
    RequestRefused,
    from_detail,
)
from partition_client.routing import Routing

StreamCall = Any
"""grpc.aio's StreamStreamCall; generic in its stubs only."""

BACKOFF_S = (0.02, 0.05, 0.1, 0.2, 0.4)
WINDOW = 4000
"""Sequences above the oldest that has no answer: replicas refuse more than 4,096."""

IN_FLIGHT_MAX = 1024
REFUSED_CODES = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)

SILENCE_S = 5.0
"""A stream with requests under way that says nothing for so long is given up: its leader may be
cut off from the others."""


@dataclass(slots=True)
class Pending:
    """One append. `upload` brings payloads that the leader lacks."""

    proposal: types.Proposal
    wait_applied: bool
    deadline: float
    upload: Callable[[list[bytes]], Awaitable[None]] | None = None
    attempts: int = 0
    uploading: bool = False
    future: "asyncio.Future[api.AppendResponse]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fail(self, error: ClientError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class AppendStream:
    """Owns session, sequences and the stream. `open_session` returns a new session's ID."""

    def __init__(self, routing: Routing, open_session: Callable[[], Awaitable[int]]) -> None:
        self._routing = routing
        self._open_session = open_session
        self._session = 0
        self._next_sequence = 1
        self._new: deque[Pending] = deque()
        self._unanswered: dict[int, Pending] = {}
        """By sequence; put in ascending, so the first is the oldest."""
        self._again: deque[Pending] = deque()
        self._by_request: dict[int, Pending] = {}
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._wake = asyncio.Event()
        self._serial = 0
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, pending: Pending) -> api.AppendResponse:
        """Raises ClientError."""
        async with self._slots:
            if self._closed:
                raise ClientError("the client is closed")
            if self._task is None:
                self._task = asyncio.create_task(self._run())
                self._task.add_done_callback(self._ended)
            self._new.append(pending)
            self._wake.set()
            try:
                async with asyncio.timeout_at(pending.deadline):
                    return await pending.future
            except TimeoutError as error:
                raise DeadlineExceeded(
                    "no answer before the deadline; the append "
                    + ("may have taken effect" if pending.attempts else "was not sent")
                ) from error
            finally:
                self._forget(pending)

    async def close(self) -> int:
        """Ends the stream; returns the session that is left open, or 0. Whoever still waits gets
        ClientError."""
        self._closed = True
        self._fail_all(ClientError("the client is closed; the append may have taken effect"))
        tasks = [task for task in (self._task, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self._session

    # --- the stream ---------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while True:
            while not self._new and not self._unanswered:
                self._wake.clear()
                await self._wake.wait()
            answered = False
            try:
                address = await self._routing.find_leader()
                if address:
                    if not self._session:
                        self._session = await self._open_session()
                        self._next_sequence = 1
                    answered = await self._stream(address)
            except grpc.aio.AioRpcError as error:
                if error.code() in REFUSED_CODES:
                    self._fail_all(RequestRefused(str(error.details()), error.code().name))
                self._routing.forget_leader()
            except asyncio.InvalidStateError:
                # InvalidStateError: a write to a call that is over already.
                self._routing.forget_leader()
            except ClientError as error:
                self._fail_all(error)
            failures = 0 if answered else failures + 1
            if failures:
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])

    async def _stream(self, address: str) -> bool:
        """Serves one stream until it has to be given up; True where it answered anything."""
        self._by_request.clear()
        self._again.clear()
        call = self._routing.stub(address).Append()
        reader = asyncio.create_task(self._read(call))
        try:
            self._again.extend(self._unanswered[s] for s in sorted(self._unanswered))
            while not reader.done():
                self._wake.clear()
                while self._again and not reader.done():
                    await self._write(call, self._again.popleft())
                while self._new and self._in_window() and not reader.done():
                    await self._write(call, self._number(self._new.popleft()))
                if self._again:
                    continue
                wake = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait({wake, reader}, return_when=asyncio.FIRST_COMPLETED)
                wake.cancel()
            return await reader
        finally:
            call.cancel()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _in_window(self) -> bool:
        oldest = next(iter(self._unanswered), self._next_sequence)
        return self._next_sequence < oldest + WINDOW

    def _number(self, pending: Pending) -> Pending:
        pending.proposal.session_id = self._session
        pending.proposal.sequence = self._next_sequence
        self._next_sequence += 1
        self._unanswered[pending.proposal.sequence] = pending
        return pending

    async def _write(self, call: StreamCall, pending: Pending) -> None:
        if pending.future.done() or pending.uploading:
            return
        self._serial += 1
        self._by_request[self._serial] = pending
        pending.attempts += 1
        pending.proposal.acknowledged_below = next(iter(self._unanswered))
        await call.write(
            api.AppendRequest(
                request_id=self._serial,
                proposal=pending.proposal,
                retry=pending.attempts > 1,
                wait_applied=pending.wait_applied,
            )
        )

    async def _read(self, call: StreamCall) -> bool:
        """Takes answers until the stream has to be given up; True where there was any."""
        answered = False
        while True:
            try:
                response = await asyncio.wait_for(call.read(), SILENCE_S)
            except TimeoutError:
                # The call is cancelled with its read; an idle one is opened again when needed.
                if self._unanswered:
                    self._routing.forget_leader()
                return answered or not self._unanswered
            if response is grpc.aio.EOF:
                self._routing.forget_leader()
                return answered
            pending = self._by_request.pop(response.request_id, None)
            if pending is None:
                continue
            if response.HasField("error"):
                if not self._meet(pending, response.error):
                    return answered
                continue
            answered = True
            self._forget(pending)
            if not pending.future.done():
                pending.future.set_result(response)

    # --- errors -------------------------------------------------------------------------------

    def _meet(self, pending: Pending, error: types.ErrorDetail) -> bool:
        """Does what an error asks for; False where the stream has to be given up."""
        match error.reason:
            case types.REASON_PAYLOAD_MISSING if pending.upload is not None:
                self._spawn(self._upload_again(pending, list(error.missing_digests)))
                return True
            case types.REASON_DISK_FULL if pending.attempts > 1:
                # An earlier try may have taken effect: "nothing was written" would be a guess.
                self._spawn(self._send_later(pending))
                return True
            case types.REASON_OVERLOADED | types.REASON_PAYLOAD_QUORUM:
                self._spawn(self._send_later(pending))
                return True
            case types.REASON_SESSION_EXPIRED:
                self._session_expired(pending)
                return False
        if error.reason in RETRIED:
            if error.HasField("leader"):
                self._routing.hint(error.leader)
            else:
                self._routing.forget_leader()
            return False
        self._forget(pending)
        pending.fail(from_detail(error))
        return True

    def _session_expired(self, expired: Pending) -> None:
        """Begins a new session. What was sent once and refused had no effect and is numbered anew;
        the outcome of everything else that was under way is unknown."""
        self._session = 0
        for sequence in sorted(self._unanswered):
            pending = self._unanswered.pop(sequence)
            if pending is expired and pending.attempts == 1:
                pending.attempts = 0
                self._new.appendleft(pending)
            else:
                pending.fail(
                    OutcomeUnknown(
                        "the session expired while this append was under way: it may have taken "
                        "effect; read before writing it again"
                    )
                )

    async def _upload_again(self, pending: Pending, digests: list[bytes]) -> None:
        pending.uploading = True
        try:
            assert pending.upload is not None
            await pending.upload(digests)
        except ClientError as error:
            pending.fail(error)
        except OSError as error:
            pending.fail(ClientError(f"a payload can't be read any more: {error}"))
        finally:
            pending.uploading = False
        self._send_again(pending)

    async def _send_later(self, pending: Pending) -> None:
        await asyncio.sleep(BACKOFF_S[-1])
        self._send_again(pending)

    def _send_again(self, pending: Pending) -> None:
        if not pending.future.done():
            self._again.append(pending)
            self._wake.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The stream's task never ends by itself: what ended it is everybody's error."""
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail_all(ClientError(f"the append stream failed: {error!r}"))

    def _fail_all(self, error: ClientError) -> None:
        for pending in (*self._new, *self._unanswered.values()):
            pending.fail(error)
        self._new.clear()
        self._unanswered.clear()

    def _forget(self, pending: Pending) -> None:
        if not pending.attempts and pending in self._new:
            self._new.remove(pending)
        if self._unanswered.get(pending.proposal.sequence) is pending:
            del self._unanswered[pending.proposal.sequence]

    def _spawn(self, body: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
