"""Calls with retries: under one deadline, and only after errors that a retry may fix.

The caller sets the deadline. It passes `allowed_s` seconds after the call began. Each message of a
stream restarts it, so that a transfer may take as long as it needs, but must not be silent for that
long. The limits here can only shorten a single try. They never extend the caller's deadline.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from partition_common import backoff
from partition_proto.v1 import log_store_pb2 as api

from partition_client.endpoints import check_endpoint
from partition_client.errors import (
    RETRIED,
    ClientError,
    DeadlineExceeded,
    RequestRefused,
    TlsRefused,
    detail_of,
    from_detail,
)
from partition_client.routing import STATUS_TIMEOUT_S, Routing
from partition_client.waiting import CANCELLED_HERE, Silent, being_cancelled, cancellations, within

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 10.0
"""A call without an answer after this time is tried again, at the leader of that moment."""

STREAM_IDLE_S = 10.0
"""A stream without a message for this time is cancelled and tried again. A stream that waits for
new entries stays open if its replica still answers."""

RETRIED_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        # gRPC also reports these two if a connection is interrupted at an unlucky moment.
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

T = TypeVar("T")


UPLOADS_MAX = 8
"""Uploads of one content, or of one append, that move its deadline. A leader that refuses or loses
them again and again would keep the caller for ever."""


class Deadline:
    """The latest end of a call. Progress restarts it."""

    def __init__(self, allowed_s: float) -> None:
        self.allowed_s = check_seconds(allowed_s)
        self._uploads = 0
        self.progress()

    def next_upload(self) -> None:
        """The same content is sent, maybe again. Only that of UPLOADS_MAX tries is progress."""
        self._uploads += 1

    def progress(self) -> None:
        """Restarts the deadline, because data was received or sent."""
        if self._uploads > UPLOADS_MAX:
            return
        self.at = asyncio.get_running_loop().time() + self.allowed_s

    def remaining(self) -> float:
        return max(0.0, self.at - asyncio.get_running_loop().time())

    def limit(self, most: float) -> float:
        """Returns the seconds that one try may take: `most`, or less if the deadline is near."""
        return min(most, self.remaining())


def check_seconds(seconds: float) -> float:
    """Returns the deadline. Raises ValueError unless it is finite and above 0."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"deadline: {seconds} is not allowed; give seconds, more than 0")
    return seconds


def consistency(stale_from: str) -> api.Consistency:
    """Returns STALE for a read from the replica `stale_from`, LINEARIZABLE for the leader ("")."""
    return api.CONSISTENCY_STALE if stale_from else api.CONSISTENCY_LINEARIZABLE


def refusal(address: str, error: grpc.aio.AioRpcError) -> ClientError | None:
    """Returns the exception for a failure that a retry can't fix, or None for other failures."""
    detail = detail_of(error)
    if detail is not None:
        return None if detail.reason in RETRIED else from_detail(detail)
    if error.code() in RETRIED_CODES:
        return None
    if error.code() == grpc.StatusCode.PERMISSION_DENIED:
        return TlsRefused(f"{address}: {error.details()}", error.code().name)
    return RequestRefused(describe(address, error), error.code().name)


def describe(address: str, error: grpc.aio.AioRpcError) -> str:
    return f"{address}: {error.code().name}: {error.details()}"


class Tries:
    """The addresses to try, one after the other: the leader, or always `address` if given."""

    def __init__(self, routing: Routing, deadline: Deadline, address: str = "") -> None:
        self._routing = routing
        self._deadline = deadline
        self._address = check_endpoint(address) if address else ""
        self._pauses = 0
        self._last = ""
        self._first = True
        self.refused = False
        """Whether the last try was refused by a replica that is overloaded (`Calls.failed`)."""

    async def next(self) -> str:
        """Returns an address, after a pause unless it is the first. Raises DeadlineExceeded with
        the last reason, and ClientError if the client is closed or no replica can be used."""
        while True:
            self._routing.check_open()
            if not self._first:
                await self._pause()
            self._first = False
            self._last = self._address or await self._routing.find_leader(
                self._deadline.limit(STATUS_TIMEOUT_S)
            )
            if self._last:
                return self._last

    async def _pause(self) -> None:
        pauses = backoff.REFUSED if self.refused else backoff.CALL
        pause = pauses.after(self._pauses + 1)
        self._pauses += 1
        if pause > self._deadline.remaining():
            raise DeadlineExceeded(
                f"no answer within {self._deadline.allowed_s:g} s: "
                f"{self._routing.explain(self._last)}"
            )
        await asyncio.sleep(pause)


class Calls:
    """Calls the leader, or a replica that the caller names."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    async def retry(
        self, call: Callable[[Any], Awaitable[T]], deadline: Deadline, address: str = ""
    ) -> T:
        """Calls a replica (the leader if `address` is "") until it answers or the deadline passes.

        Raises errors that a retry can't fix at once, and DeadlineExceeded with the last reason.
        """
        tries = Tries(self._routing, deadline, address)
        while True:
            target = await tries.next()
            try:
                return await call(self._routing.stub(target))
            except (grpc.aio.AioRpcError, Silent) as error:
                tries.refused = await self.failed(target, error, deadline, fixed=bool(address))

    async def failed(
        self,
        target: str,
        error: grpc.aio.AioRpcError | Silent,
        deadline: Deadline,
        *,
        fixed: bool,
    ) -> bool:
        """Records a failed try. Returns whether an overloaded replica refused it.

        Raises errors that a retry can't fix, and ClientError if the client is closed, which ends
        its calls. fixed: the caller named the replica, so a TLS failure is raised at once.
        Otherwise the client first looks for the leader again."""
        if isinstance(error, Silent):
            self._routing.check_open()
            # A last try, cut short by the deadline, says less than the one before.
            self._routing.heard(target, str(error), last=deadline.remaining() <= 0)
            self._routing.lost(target)
            return False
        refused = refusal(target, error)
        if fixed or refused is not None:
            within_s = deadline.limit(STATUS_TIMEOUT_S)
            refused = await self._routing.refusal(target, error, within_s) or refused
        if refused is not None:
            raise refused from error
        self._routing.check_open()
        cut = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and deadline.remaining() <= 0
        self._routing.heard(target, f"{error.code().name}: {error.details()}", last=cut)
        detail = detail_of(error)
        overloaded = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        if detail is not None and detail.HasField("leader"):
            self._routing.hint(detail.leader, told_by=target)
        elif not overloaded:
            self._routing.lost(target)
        return overloaded


async def unary(method: Any, request: Any, deadline: Deadline) -> Any:
    """Makes one try of a call that has one answer."""
    limit = deadline.limit(CALL_TIMEOUT_S)
    # Two limits: gRPC sends its own to the replica; asyncio's works if gRPC's threads don't run.
    return await within(method(request, timeout=limit), limit)


async def messages(
    call: Any, deadline: Deadline, alive: Callable[[], Awaitable[bool]] | None = None
) -> AsyncGenerator[Any, None]:
    """Yields a stream's messages. Each restarts the deadline. Raises Silent if the client ended the
    call, or if no message comes in time. `alive` returns whether the replica still answers; if it
    does, the wait for a message continues."""
    watch = _Watch(call, deadline, alive)
    try:
        while True:
            before = await cancellations()
            watch.wait_begins()
            try:
                message = await call.read()
            except (asyncio.CancelledError, grpc.aio.AioRpcError) as error:
                if being_cancelled(before):
                    raise
                if watch.silence or isinstance(error, asyncio.CancelledError):
                    raise Silent(watch.silence or CANCELLED_HERE) from None
                raise
            watch.wait_ends()
            if message is grpc.aio.EOF:
                return
            deadline.progress()
            yield message
            # The time that the caller spent on the message does not count against the replica.
            deadline.progress()
    finally:
        watch.stop()
        call.cancel()


class _Watch:
    """Cancels the call of a silent stream. Costs one task per stream, and nothing per message."""

    def __init__(
        self, call: Any, deadline: Deadline, alive: Callable[[], Awaitable[bool]] | None
    ) -> None:
        self._call = call
        self._deadline = deadline
        self._alive = alive
        # If silence is allowed, ask the replica early enough to receive its answer in time.
        self._part = 1.0 if alive is None else 0.5
        self._since: float | None = None
        self.silence = ""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def wait_begins(self) -> None:
        self._since = asyncio.get_running_loop().time()

    def wait_ends(self) -> None:
        self._since = None

    def stop(self) -> None:
        self._task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Ends the stream if the watch failed: without a watch, it could wait forever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the watch of a stream failed", exc_info=error)
            self.silence = f"the watch of the stream failed: {error!r}"
            self._call.cancel()

    async def _answers(self) -> bool:
        """Returns whether the replica still answers, so that its silence is allowed."""
        try:
            return self._alive is not None and await self._alive()
        except ClientError:  # the client was closed
            return False

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            since = self._since
            # If no read waits now, the next one times out no sooner than one that begins now.
            left = self._deadline.allowed_s if since is None else self._deadline.at - since
            limit = min(STREAM_IDLE_S, left * self._part)
            pause = limit if since is None else since + limit - now()
            if pause > 0:
                await asyncio.sleep(pause)
            elif await self._answers():
                self._deadline.progress()
                self._since = None if self._since is None else now()
            elif self._since == since:
                self.silence = f"no message within {limit:.1f} s"
                self._call.cancel()
                return


async def moving(call: Awaitable[T], deadline: Deadline) -> T:
    """Awaits a call whose own progress restarts the deadline. Raises Silent once the deadline
    passes, or if the client ended the call."""

    async def answer() -> T:
        return await call

    task = asyncio.ensure_future(answer())
    try:
        while not task.done():
            if not deadline.remaining():
                raise Silent(f"no progress within {deadline.allowed_s:g} s")
            await asyncio.wait({task}, timeout=deadline.remaining())
        if task.cancelled():
            raise Silent(CANCELLED_HERE)
        return task.result()
    finally:
        task.cancel()
