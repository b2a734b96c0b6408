"""Pushes payloads to one other member, over connections that carry nothing else.

Each has a thread, on which the content goes from the file to the socket without Python's lock. They
are opened when they are needed, and closed when they have been idle for a while.
"""

import asyncio
import io
import logging
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import grpc
from partition_common import backoff
from partition_proto.connection import handshake
from partition_proto.connection.channel import FromFiles, Insecure
from partition_proto.connection.contexts import RenewedContext
from partition_proto.connection.pem import BadPem, Pem
from partition_proto.v1 import peer_pb2 as api
from partition_tls import BadConfig, ClientConfig, Connection, ConnectionFailed

from partition_replica.core.limits import Limits
from partition_replica.core.payloads import ArrivingPayload
from partition_replica.core.ports import PeerFailed
from partition_replica.ids import Digest
from partition_replica.transport import payload_frames as frames
from partition_replica.transport import sockets
from partition_replica.transport.failures import CODES
from partition_replica.transport.payload_thread import PayloadThread
from partition_replica.transport.raft_frames import HELLO, BadFrame

logger = logging.getLogger(__name__)

OPEN_WAIT_S = 0.25
"""The time for which a push waits for a new connection. Then the payload goes over gRPC."""

STORED_S = 60.0
STORED_BYTES_A_SECOND = 10 * 1024**2
"""A member has STORED_S, and more for a large payload, to sync it. The kernel notices a member that
is gone after `stream_stall_s`."""


class NoConnection(Exception):
    """The member can't be pushed to in this way: use the RPC."""


class PayloadLink:
    """One other member. On the event loop."""

    def __init__(
        self,
        member: int,
        address: str,
        limits: Limits,
        credentials: FromFiles | Insecure,
        hello: Callable[[int], api.Hello],
    ) -> None:
        self._member = member
        self._address = address
        self._limits = limits
        self._hello = hello
        self._config = (
            RenewedContext(credentials.versioned_pem, client_config)
            if isinstance(credentials, FromFiles)
            else None
        )
        self._port = 0
        self._idle: list[tuple[PayloadThread, ClientConfig | None, asyncio.TimerHandle]] = []
        self._busy: dict[PayloadThread, ClientConfig | None] = {}
        self._fresh: set[PayloadThread] = set()
        """Those that no member has answered an offer on."""
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._failures = 0
        self._failed_at = self._not_before = 0.0
        self._problem = ""
        self._closed = False

    def listens_at(self, port: int) -> None:
        """The member accepts payload connections at this port; 0 if it accepts none."""
        if port != self._port:
            self._port = port
            self._failures, self._not_before = 0, 0.0
            self._close_idle()

    async def push(self, digest: Digest, file: Path, size: int) -> None:
        """Returns once the member has stored the payload durably. Raises NoConnection,
        PeerFailed."""
        stall_s = self._limits.stream_stall_s

        async def send(thread: PayloadThread) -> None:
            await thread.run(partial(_send_whole, thread.connection, digest, file, size, stall_s))

        await self._push(send)

    async def push_arriving(self, digest: Digest, size: int, arriving: ArrivingPayload) -> None:
        """As `push`, while the content arrives."""
        stall_s = self._limits.stream_stall_s
        await self._push(partial(_send_arriving, digest, size, arriving, stall_s))

    async def close(self) -> None:
        """Ends all connections; pushes fail."""
        self._closed = True
        self._close_idle()
        for thread in self._busy:
            thread.end()
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)

    # --- pushes -------------------------------------------------------------------------------

    async def _push(self, send: Callable[[PayloadThread], Awaitable[None]]) -> None:
        while True:
            thread = await self._take()
            try:
                await send(thread)
            except _NotAnswered as error:
                # Nothing was sent. The member has ended it, for example with its process, or never
                # listened.
                thread.end()
                if thread in self._fresh:
                    raise self._not_opened(error, self._now()) from error
                self._close_idle()
            except _Declined as error:  # the connection is as before
                raise self._failed(error) from error
            except BaseException as error:
                thread.end()
                if isinstance(error, _FAILURES):
                    raise self._failed(error) from error
                raise
            else:
                return
            finally:
                self._give_back(thread)

    def _failed(self, error: Exception) -> PeerFailed:
        refused = isinstance(error, _Unsendable) or (
            isinstance(error, frames.Refused)
            and CODES.get(error.reason) is grpc.StatusCode.INVALID_ARGUMENT
        )
        return PeerFailed(f"member {self._member:x}: {error}", refused=refused)

    # --- connections --------------------------------------------------------------------------

    async def _take(self) -> PayloadThread:
        """Returns a connection of ours alone. Waits only a moment for a new one, because a port
        that does not answer must not hold the push up. Raises NoConnection."""
        if self._closed or not self._port:
            raise NoConnection
        try:
            config = None if self._config is None else self._config.current()
        except (BadPem, BadConfig) as error:
            raise self._not_opened(error, self._now()) from error
        until = self._now() + OPEN_WAIT_S
        self._waiting += 1
        try:
            while (thread := self._take_idle(config)) is None:
                self._begin_to_open(config)
                left_s = until - self._now()
                if not self._opening or self._failures or left_s <= 0 or self._closed:
                    raise NoConnection
                await asyncio.wait(self._opening, timeout=left_s, return_when=FIRST_COMPLETED)
        finally:
            self._waiting -= 1
        self._busy[thread] = config
        return thread

    def _take_idle(self, config: ClientConfig | None) -> PayloadThread | None:
        while self._idle:
            thread, before, timer = self._idle.pop()
            timer.cancel()
            if not thread.over and before is config:
                return thread
            self._discard(thread)
        return None

    def _begin_to_open(self, config: ClientConfig | None) -> None:
        """Opens connections in the background, as many as there are who wait for one; only one
        after a failure."""
        wanted = 1 if self._failures else self._waiting
        room = self._limits.payload_connections_max - len(self._busy) - len(self._opening)
        if self._now() < self._not_before:
            return
        for _ in range(min(wanted - len(self._opening), room)):
            task = asyncio.create_task(self._open_one(config))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open_one(self, config: ClientConfig | None) -> None:
        began = self._now()
        try:
            thread = await self._open(config)
        except (OSError, ValueError, RuntimeError, *_FAILURES) as error:
            self._not_opened(error, began)
            return
        self._fresh.add(thread)
        if self._closed:
            self._discard(thread)
            return
        self._failures, self._problem = 0, ""
        self._put_aside(thread, config)

    async def _open(self, config: ClientConfig | None) -> PayloadThread:
        """Raises OSError, ValueError for an address that is none, and _FAILURES."""
        host, _ = handshake.split(self._address)
        async with asyncio.timeout(self._limits.raft_hello_s):
            connected = await sockets.connected(host, self._port)
            try:
                # Not `raft_silence_s`: the kernel would also end a connection whose reader is slow.
                sockets.tune(connected, self._limits.stream_stall_s)
                await asyncio.get_running_loop().sock_sendall(connected, frames.PREAMBLE)
            except BaseException:
                connected.close()
                raise
            thread = PayloadThread(connected, f"payloads-{self._member:x}")
            try:
                await self._greet(thread, host, config)
            except BaseException:
                thread.close()
                raise
        return thread

    async def _greet(self, thread: PayloadThread, host: str, config: ClientConfig | None) -> None:
        hello = self._hello(self._member)
        # The caller's time-out is first.
        limit_s = 2 * self._limits.raft_hello_s

        def greet() -> None:
            frames.send(thread.connection, HELLO, hello)
            frames.answer(thread.connection, HELLO)

        await thread.open(lambda descriptor: Connection.connect(descriptor, config, host, limit_s))
        await thread.run(greet)

    def _not_opened(self, error: Exception, began: float) -> NoConnection:
        """Reports each reason once until a connection is open. began: when it was tried. Of several
        tries at the same time only the first failure counts."""
        now = self._now()
        if began >= self._failed_at:
            self._failures += 1
            self._failed_at = now
            self._not_before = now + backoff.RAFT_CONNECTION.after(self._failures)
        reason = error.reason if isinstance(error, frames.Refused) else str(error)
        if self._problem != reason:
            self._problem = reason
            logger.warning(
                "no payload connection to member %x at port %d of %s: %s. Its payloads go over "
                "gRPC, which costs more; the connection is tried again",
                self._member,
                self._port,
                self._address,
                str(error) or reason,
            )
        return NoConnection()

    def _give_back(self, thread: PayloadThread) -> None:
        config = self._busy.pop(thread)
        if thread.over or self._closed:
            self._discard(thread)
        else:
            self._fresh.discard(thread)
            self._put_aside(thread, config)

    def _put_aside(self, thread: PayloadThread, config: ClientConfig | None) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._limits.payload_connection_idle_s, self._expire, thread)
        self._idle.append((thread, config, timer))

    def _expire(self, thread: PayloadThread) -> None:
        self._idle = [one for one in self._idle if one[0] is not thread]
        self._discard(thread)

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for thread, _, timer in idle:
            timer.cancel()
            self._discard(thread)

    def _discard(self, thread: PayloadThread) -> None:
        self._fresh.discard(thread)
        thread.close()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def client_config(found: Pem) -> ClientConfig:
    """Raises BadConfig."""
    return ClientConfig(found.authority, found.certificate, found.key)


# --- on a connection's thread -----------------------------------------------------------------


class _NotAnswered(Exception):
    """The connection failed before the member answered the offer."""


class _Declined(frames.Refused):
    """The member refused an offer, before any content was sent."""


class _Unsendable(Exception):
    """The file is not what was announced, or can't be read. A retry would fail in the same way."""


_FAILURES = (ConnectionFailed, BadFrame, frames.Refused, _NotAnswered, _Unsendable, TimeoutError)


def _offer(connection: Connection, digest: Digest, size: int, stall_s: float) -> bool:
    """Returns whether the member wants the content; otherwise it has it. Raises _NotAnswered,
    BadFrame, _Declined."""
    connection.set_timeout(stall_s)
    try:
        frames.send(connection, frames.OFFER, api.PayloadOffer(digest=digest, size=size))
        kind, _ = frames.answer(connection, frames.WANTED, frames.STORED)
    except frames.Refused as refused:
        raise _Declined(refused.reason, refused.text) from refused
    except ConnectionFailed as error:
        raise _NotAnswered(str(error)) from error
    return kind == frames.WANTED


def _send_part(connection: Connection, source: io.FileIO, begin: int, end: int, size: int) -> None:
    """Sends a part of the content; after the last one, waits until it is stored."""
    try:
        sent = connection.send_content(source.fileno(), begin, end - begin)
    except OSError as error:
        raise _Unsendable(f"{source.name} can't be sent: {error}") from error
    if sent < end - begin:
        raise _Unsendable(
            f"{source.name} can't be sent: it is {end - begin - sent} bytes too short"
        )
    if end == size:
        connection.set_timeout(STORED_S + size / STORED_BYTES_A_SECOND)
        frames.answer(connection, frames.STORED)


def _send_whole(
    connection: Connection, digest: Digest, file: Path, size: int, stall_s: float
) -> None:
    try:
        source = file.open("rb", buffering=0)
    except OSError as error:
        raise _Unsendable(f"{file} can't be sent: {error}") from error
    with source:
        if _offer(connection, digest, size, stall_s):
            _send_part(connection, source, 0, size, size)


async def _send_arriving(
    digest: Digest, size: int, arriving: ArrivingPayload, stall_s: float, thread: PayloadThread
) -> None:
    connection = thread.connection
    opened: list[io.FileIO] = []

    def begin() -> bool:
        try:
            opened.append(arriving.path.open("rb", buffering=0))
        except OSError as error:
            raise _Unsendable(f"a payload can't be passed on while it arrives: {error}") from error
        return _offer(connection, digest, size, stall_s)

    try:
        wanted = await thread.run(begin)
        done = 0 if wanted else size
        while done < size:
            here = await arriving.beyond(done)
            if here == done:
                raise _Unsendable("the payload that arrived is given up")
            await thread.run(partial(_send_part, connection, opened[0], done, here, size))
            done = here
    finally:
        for source in opened:
            source.close()
