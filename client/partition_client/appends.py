"""The append stream: everything that one process appends goes to the leader on one stream; what
has no answer when it breaks is sent again under the same sequence, so it takes effect once."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import grpc
from partition_common import backoff
from partition_proto.v1 import types_pb2 as types

from partition_client.append_calls import Answers, AppendCall, FrameCall, SingleCall
from partition_client.append_queue import AppendQueue
from partition_client.append_slots import AppendSlots
from partition_client.calls import UPLOADS_MAX, refusal
from partition_client.deadlines import Deadlines
from partition_client.errors import (
    RETRIED,
    ClientError,
    DeadlineExceeded,
    OutcomeUnknown,
    client_closed,
    detail_of,
    from_detail,
    reason_name,
    session_gone_unknown,
)
from partition_client.pauses import Pauses
from partition_client.pending_append import Appended, PendingAppend
from partition_client.routing import Routing
from partition_client.waiting import being_cancelled

logger = logging.getLogger(__name__)

IN_FLIGHT_MAX = 1024
HISTORIES_LEFT_MAX = 64
"""Histories that are over and remembered: a replica that was left behind may still tell of one."""

DEFINITE = (types.REASON_PRECONDITION_FAILED, types.REASON_SEQUENCE_REUSED)
"""What these say holds for every try of the sequence."""

LATER = (types.REASON_OVERLOADED, types.REASON_PAYLOAD_QUORUM, types.REASON_OUTCOME_UNKNOWN)
"""The append is sent again on the same stream: the others on it are not to blame. A leader that
lost the lead says so then."""

UNKNOWN = (types.REASON_OUTCOME_UNKNOWN, types.REASON_UNSPECIFIED)
"""Answers that don't say whether the append took effect."""

SILENCE_S = 5.0
"""A stream with requests under way that says nothing for so long is given up: its leader may be
cut off from the others."""


@dataclass(frozen=True, slots=True)
class ClientSession:
    """A session that a leader opened, and the history that it belongs to ("": an older replica)."""

    id: int
    history: str


class AppendStream:
    """Owns session, sequences and the stream. `open_session` opens a session at the address and in
    the history that it is given; the history "" is any."""

    def __init__(
        self, routing: Routing, open_session: Callable[[str, str], Awaitable[ClientSession]]
    ) -> None:
        self._routing = routing
        self._open_session = open_session
        self._session: ClientSession | None = None
        self._session_gone = False
        self._history = ""
        self._left: deque[str] = deque(maxlen=HISTORIES_LEFT_MAX)
        """Histories that the group has left: a session was opened in a later one."""
        self._passed: deque[str] = deque(maxlen=HISTORIES_LEFT_MAX)
        """Histories that a replica said are over. They count as left once a session is opened in a
        later one: until then the replica that said so may itself be one that was left behind."""
        self._last_failure = ""
        self._queue = AppendQueue()
        self._without_frames: set[str] = set()
        """Addresses of replicas that do not know AppendFrames."""
        self._heard = False
        """Whether this stream has answered anything."""
        self._silence: asyncio.Timeout | None = None
        self._pauses = Pauses(self._after_pause)
        self._slots = AppendSlots(IN_FLIGHT_MAX)
        self._deadlines: Deadlines[PendingAppend] = Deadlines(self._too_late)
        self._wake = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, pending: PendingAppend) -> Appended:
        """Raises ClientError."""
        pending.check_size()
        self._start()
        # The wait for a slot counts, too.
        self._deadlines.add(pending, pending.allowed_s)
        try:
            if not await self._may_queue(pending):
                return pending.future.result()
            try:
                self._put(pending)
                return await pending.future
            finally:
                self._slots.release()
        finally:
            self._leave(pending)

    async def append_many(self, many: Sequence[PendingAppend]) -> None:
        """Sends appends without a task for each. Returns once every future is done, with an answer
        or a ClientError. Raises ClientError before it has sent anything."""
        for pending in many:
            pending.check_size()
        self._start()
        left = asyncio.Semaphore(0)

        def answered(_: "asyncio.Future[Appended]") -> None:
            self._slots.release()
            left.release()

        for pending in many:
            self._deadlines.add(pending, pending.allowed_s)
        queued = 0
        try:
            for pending in many:
                if await self._may_queue(pending):
                    pending.future.add_done_callback(answered)
                    queued += 1
                    self._put(pending)
            for _ in range(queued):
                await left.acquire()
        finally:
            for pending in many:
                if not pending.future.cancel():  # it is done
                    pending.future.exception()  # retrieved, or asyncio would log it
                self._leave(pending)

    async def _may_queue(self, pending: PendingAppend) -> bool:
        """Waits for a slot, and returns True with one; False if the append has ended."""
        if not await self._slots.take(pending):
            return False
        if self._closed:
            pending.fail(client_closed())
            self._slots.release()
            return False
        self._start()  # the stream may have failed meanwhile
        return True

    def _put(self, pending: PendingAppend) -> None:
        self._queue.new[pending] = None
        self._wake.set()

    def _leave(self, pending: PendingAppend) -> None:
        """Its caller waits no more. Only once its future is done."""
        self._deadlines.remove(pending, pending.allowed_s)
        self._forget(pending)
        if pending.resend is not None:
            pending.resend.cancel()

    def _start(self) -> None:
        """Starts the stream. Raises ClientError once it is closed."""
        if self._closed:
            raise client_closed()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._ended)

    def _too_late(self, pending: PendingAppend) -> None:
        effect = "may have taken effect" if pending.doubts else "did not take effect"
        last = self._last_failure or pending.failure
        pending.fail(
            DeadlineExceeded(
                f"no answer before the deadline; the append {effect}"
                + (f"; last: {last}" if last else "")
            )
        )

    async def close(self) -> ClientSession | None:
        """Ends the stream; returns the session that is left open, if any, to the first caller.
        Appends that still wait get ClientError."""
        self._closed = True
        self._fail_all(client_closed())
        tasks = [task for task in (self._task, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        self._pauses.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._deadlines.close()
        session, self._session = self._session, None
        return session

    # --- the stream ---------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while True:
            while not self._queue.waits:
                self._wake.clear()
                await self._wake.wait()
            answered = await self._serve()
            if self._session_gone:
                self._leave_session()
            failures = 0 if answered else failures + 1
            if failures:
                await asyncio.sleep(backoff.CALL.after(failures))

    async def _serve(self) -> bool:
        """Looks for the leader and serves one stream to it, if there is a leader. Returns whether
        it answered anything; False after an error, which is dealt with."""
        address = ""
        try:
            address = await self._routing.find_leader()
            if address:
                session = self._session
                if session is None:
                    session = await self._open_session(address, self._history)
                    self._session_opened(session)
                return await self._stream(address, session.id)
            self._last_failure = self._routing.explain()
        except grpc.aio.AioRpcError as error:
            self._call_failed(address, error)
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            # Of the call, not of this task: a write while its silent stream was given up.
            self._routing.lost(address)
        except ClientError as error:
            self._fail_all(error)
        return False

    async def _stream(self, address: str, session: int) -> bool:
        """Serves one stream until it has to be given up; True where it answered anything."""
        self._heard = False
        stub = self._routing.stub(address)
        call: AppendCall = (
            SingleCall(stub, self._history)
            if address in self._without_frames
            else FrameCall(stub, session, self._history)
        )
        reader = asyncio.create_task(self._read(call, address))
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            self._queue.begin_stream()
            while not reader.done():
                self._wake.clear()
                # A session that is gone takes nothing more, but what it was sent is answered.
                if not self._session_gone and (appends := self._to_send(session)):
                    try:
                        await call.send(appends, acknowledged_below=self._queue.oldest)
                    except asyncio.InvalidStateError:
                        break  # the call is over already, and its reader knows why
                    continue
                await self._wake.wait()
            return await reader
        finally:
            call.cancel()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            # The reader's error names this frame, which would keep it, the call and gRPC's threads
            # until the next collection of garbage.
            del reader, call

    def _to_send(self, session: int) -> list[PendingAppend]:
        idle = not self._queue.sent
        appends = self._queue.take(session)
        if appends and idle and self._silence is not None:
            # The silence of an idle stream does not count. Between two reads there is no timeout.
            with suppress(RuntimeError):
                self._silence.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
        return appends

    async def _read(self, call: AppendCall, address: str) -> bool:
        """Takes answers until the stream has to be given up; True where there was any."""
        answered = False
        while True:
            try:
                # Not `wait_for`: its task and an error of the call would keep each other, and gRPC.
                async with asyncio.timeout(SILENCE_S) as silence:
                    self._silence = silence
                    try:
                        answers = await call.read()
                    finally:  # it names this task, whose error names this frame
                        self._silence = None
                        del silence
            except TimeoutError:
                # The call is cancelled with its read; an idle one is opened again when needed.
                if self._queue.sent:
                    self._last_failure = f"the leader said nothing for {SILENCE_S:.0f} s"
                    self._routing.lost(address)
                return answered or not self._queue.sent
            if answers is None:
                self._routing.lost(address)
                # Another version may run there, or at this address, by now.
                self._without_frames.discard(address)
                return answered
            self._last_failure = ""
            some, go_on = self._take(address, answers)
            answered = answered or some
            if not go_on or (self._session_gone and not self._queue.sent):
                return answered

    def _take(self, address: str, answers: Answers) -> tuple[bool, bool]:
        """Returns (whether any append succeeded, whether the stream goes on)."""
        succeeded = False
        refused: list[tuple[PendingAppend, types.ErrorDetail]] = []
        for sequence, answer in answers:
            pending = self._queue.sent.pop(sequence, None)
            if pending is None:
                continue
            if not isinstance(answer, Appended):
                pending.doubts -= answer.reason not in UNKNOWN  # this try was refused
                refused.append((pending, answer))
                continue
            succeeded = True
            if not pending.future.done():
                pending.future.set_result(answer)
            self._forget(pending)
        self._heard = True
        go_on = True
        for pending, error in refused:
            go_on = self._meet(address, pending, error) and go_on
            if error.reason == types.REASON_WRONG_HISTORY:
                break  # it answers all others, too
        self._pauses.begin()
        return succeeded, go_on

    # --- errors -------------------------------------------------------------------------------

    def _call_failed(self, address: str, error: grpc.aio.AioRpcError) -> None:
        """The stream to a replica, or the call that opens a session there, ended with an error."""
        unknown = error.code() is grpc.StatusCode.UNIMPLEMENTED and not self._heard
        if unknown and address not in self._without_frames:
            self._without_frames.add(address)
            self._queue.refuse_sent()
            return
        self._without_frames.discard(address)
        self._last_failure = f"{error.code().name} {error.details()}"
        detail = detail_of(error)
        if detail is not None and detail.reason == types.REASON_WRONG_HISTORY:
            self._history_changed(detail)
        elif (refused := refusal(address, error)) is not None:
            self._fail_all(refused)
        elif detail is not None and detail.HasField("leader"):
            self._routing.hint(detail.leader, told_by=address)
        else:
            self._routing.lost(address)

    def _meet(self, address: str, pending: PendingAppend, error: types.ErrorDetail) -> bool:
        """Does what an error asks for; False if the stream has to be given up."""
        pending.failure = f"{reason_name(error)}: {error.message}"
        reason, cause = error.reason, error.cause
        if types.REASON_SESSION_EXPIRED in (reason, cause):
            self._session_expired(pending)
            return True
        if reason == types.REASON_PAYLOAD_MISSING and pending.upload is not None:
            self._resend(pending, self._upload_again(pending, list(error.missing_digests)))
            return True
        # On a full disk "nothing was written" would be a guess if an earlier try is in doubt.
        full = reason == types.REASON_DISK_FULL and pending.doubts > 0
        if full or reason in LATER:
            self._pauses.add(pending)
            return True
        if reason == types.REASON_WRONG_HISTORY:
            self._history_changed(error)
            return False
        if reason in RETRIED:
            self._last_failure = pending.failure
            if error.HasField("leader"):
                self._routing.hint(error.leader, told_by=address)
            else:
                self._routing.lost(address)
            return False
        if reason in DEFINITE:
            pending.fail(from_detail(error))
        else:
            pending.refuse(from_detail(error))
        self._forget(pending)
        return True

    def _session_expired(self, pending: PendingAppend) -> None:
        """The stream goes on until everything that was sent on it is answered: each answer says
        whether that append took effect."""
        self._session_gone = True
        if pending.doubts:
            pending.fail(session_gone_unknown())
            self._forget(pending)

    def _leave_session(self) -> None:
        """The next append opens a new session. What was refused had no effect, and is numbered anew
        there; the outcome of everything else that was sent is unknown."""
        self._session, self._session_gone = None, False
        for pending in self._queue.leave_session():
            pending.fail(session_gone_unknown())

    def _session_opened(self, session: ClientSession) -> None:
        """A quorum has committed it, so its history is the group's."""
        self._session, self._history = session, session.history
        self._queue.begin_session()
        self._left.extend(passed for passed in self._passed if passed != session.history)
        self._passed.clear()

    def _history_changed(self, error: types.ErrorDetail) -> None:
        """The group was restored, or made anew: nothing that was sent before can be asked about.
        Everybody who waits hears of it, and the next append opens a session in the new history."""
        if error.history_id in self._left:
            self._routing.forget_leader()  # a replica that was left behind, not the group
            return
        if self._history:
            self._passed.append(self._history)
        self._history, self._session, self._session_gone = error.history_id, None, False
        for pending in self._queue.all():
            if pending.doubts:
                pending.fail(
                    OutcomeUnknown(
                        f"{error.message}; whether this append took effect in the old history is "
                        "not known",
                        error.history_id,
                    )
                )
            else:
                pending.fail(from_detail(error))
        self._queue.clear()

    async def _upload_again(self, pending: PendingAppend, digests: list[bytes]) -> None:
        pending.uploads += 1
        moves = pending.uploads <= UPLOADS_MAX
        if moves:
            # The upload has its own deadline, which moves with it.
            self._deadlines.remove(pending, pending.allowed_s)
        try:
            assert pending.upload is not None
            await pending.upload(digests)
        except ClientError as error:
            pending.refuse(error)
        except OSError as error:
            pending.refuse(ClientError(f"a payload can't be read any more: {error}"))
        finally:
            if moves and not pending.future.done():
                self._deadlines.add(pending, pending.allowed_s)
        self._send_again(pending)

    def _after_pause(self, pending: PendingAppend) -> None:
        try:
            self._send_again(pending)
        except Exception as error:  # nobody else would send it, or the others of its pause
            self._not_sent_again(pending, error)

    def _send_again(self, pending: PendingAppend) -> None:
        pending.resend = None
        if self._queue.send_again(pending):
            self._wake.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The stream's task never ends by itself: what ended it is everybody's error."""
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail_all(ClientError(f"the append stream failed: {error!r}"))

    def _fail_all(self, error: ClientError) -> None:
        for pending in self._queue.all():
            pending.refuse(error)
        self._queue.clear()

    def _forget(self, pending: PendingAppend) -> None:
        """Only once its future is done (`AppendQueue.forget`)."""
        if self._queue.forget(pending):
            self._wake.set()

    def _resend(self, pending: PendingAppend, body: Coroutine[None, None, None]) -> None:
        """Until the task ends, the append is not sent; it is cancelled if the append ends first."""
        if pending.future.done():  # its caller has gone, and would not end the task
            body.close()
            return
        pending.resend = task = asyncio.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(partial(self._resend_ended, pending))

    def _resend_ended(self, pending: PendingAppend, task: asyncio.Task[None]) -> None:
        """After a failure that its body does not expect, nobody would send the append again."""
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None and not pending.future.done():
            self._not_sent_again(pending, error)

    def _not_sent_again(self, pending: PendingAppend, error: BaseException) -> None:
        logger.error("an append could not be sent again", exc_info=error)
        pending.refuse(ClientError(f"the append could not be sent again: {error!r}"))
        self._forget(pending)
