"""Pushes payloads to one other member, over connections that carry nothing else.

Each has a thread, on which the content goes from the file to the socket without Python's lock. They
are opened when they are needed, and closed when they have been idle for a while.
"""

import asyncio
import io
import logging
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

STORED_S = 60.0
STORED_BYTES_A_SECOND = 10 * 1024**2
"""A member has STORED_S, and more for a large payload, to sync it. The kernel notices a member that
is gone much sooner."""


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
        self._opening = 0
        self._failures = 0
        self._not_before = 0.0
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

        async def send(thread: PayloadThread) -> None:
            await thread.run(partial(_send_whole, thread.connection, digest, file, size))

        await self._push(send)

    async def push_arriving(self, digest: Digest, size: int, arriving: ArrivingPayload) -> None:
        """As `push`, while the content arrives."""
        await self._push(partial(_send_arriving, digest, size, arriving))

    def close(self) -> None:
        """Ends all connections; pushes fail."""
        self._closed = True
        self._close_idle()
        for thread in self._busy:
            thread.end()

    # --- pushes -------------------------------------------------------------------------------

    async def _push(self, send: Callable[[PayloadThread], Awaitable[None]]) -> None:
        while True:
            thread, used = await self._take()
            try:
                await send(thread)
            except BaseException as error:
                thread.end()
                if isinstance(error, _NotAnswered) and used:
                    # The member has ended it meanwhile, for example with its process.
                    self._close_idle()
                    continue
                if isinstance(error, _FAILURES):
                    raise self._failed(error) from error
                raise
            finally:
                self._give_back(thread)
            return

    def _failed(self, error: Exception) -> PeerFailed:
        refused = isinstance(error, _Unsendable) or (
            isinstance(error, frames.Refused)
            and CODES.get(error.reason) is grpc.StatusCode.INVALID_ARGUMENT
        )
        return PeerFailed(f"member {self._member:x}: {error}", refused=refused)

    # --- connections --------------------------------------------------------------------------

    async def _take(self) -> tuple[PayloadThread, bool]:
        """Returns a connection of ours alone, and whether it was in use before. Raises
        NoConnection."""
        now = asyncio.get_running_loop().time()
        if self._closed or not self._port or now < self._not_before:
            raise NoConnection
        try:
            config = None if self._config is None else self._config.current()
        except (BadPem, BadConfig) as error:
            raise self._not_opened(error) from error
        while self._idle:
            thread, before, timer = self._idle.pop()
            timer.cancel()
            if not thread.over and before is config:
                self._busy[thread] = config
                return thread, True
            thread.close()
        if len(self._busy) + self._opening >= self._limits.payload_connections_max:
            raise NoConnection
        self._opening += 1
        try:
            thread = await self._open(config)
        except (OSError, ValueError, *_FAILURES) as error:
            raise self._not_opened(error) from error
        finally:
            self._opening -= 1
        if self._closed:
            thread.close()
            raise NoConnection
        self._failures, self._problem = 0, ""
        self._busy[thread] = config
        return thread, False

    async def _open(self, config: ClientConfig | None) -> PayloadThread:
        """Raises OSError, ValueError for an address that is none, and _FAILURES."""
        limits = self._limits
        host, _ = handshake.split(self._address)
        async with asyncio.timeout(limits.raft_hello_s):
            connected = await sockets.connected(host, self._port)
            try:
                sockets.tune(connected, limits.raft_silence_s)
                await asyncio.get_running_loop().sock_sendall(connected, frames.PREAMBLE)
            except BaseException:
                connected.close()
                raise
        thread = PayloadThread(connected, f"payloads-{self._member:x}")
        hello = self._hello(self._member)

        def greet() -> None:
            frames.send(thread.connection, HELLO, hello)
            frames.receive(thread.connection, HELLO)
            thread.connection.set_timeout(limits.stream_stall_s)

        try:
            await thread.open(
                lambda descriptor: Connection.connect(descriptor, config, host, limits.raft_hello_s)
            )
            await thread.run(greet)
        except BaseException:
            thread.close()
            raise
        return thread

    def _not_opened(self, error: Exception) -> NoConnection:
        """Reports each reason once until a connection is open."""
        self._failures += 1
        now = asyncio.get_running_loop().time()
        self._not_before = now + backoff.RAFT_CONNECTION.after(self._failures)
        reason = error.reason if isinstance(error, frames.Refused) else type(error).__name__
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
            thread.close()
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._limits.payload_connection_idle_s, self._expire, thread)
        self._idle.append((thread, config, timer))

    def _expire(self, thread: PayloadThread) -> None:
        self._idle = [one for one in self._idle if one[0] is not thread]
        thread.close()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for thread, _, timer in idle:
            timer.cancel()
            thread.close()


def client_config(found: Pem) -> ClientConfig:
    """Raises BadConfig."""
    return ClientConfig(found.authority, found.certificate, found.key)


# --- on a connection's thread -----------------------------------------------------------------


class _NotAnswered(Exception):
    """The connection failed before the member answered the offer."""


class _Unsendable(Exception):
    """The file is not what was announced, or can't be read. A retry would fail in the same way."""


_FAILURES = (ConnectionFailed, BadFrame, frames.Refused, _NotAnswered, _Unsendable, TimeoutError)


def _offer(connection: Connection, digest: Digest, size: int) -> bool:
    """Returns whether the member wants the content; otherwise it has it. Raises _NotAnswered,
    BadFrame, Refused."""
    try:
        frames.send(connection, frames.OFFER, api.PayloadOffer(digest=digest, size=size))
        kind, _ = frames.receive(connection, frames.WANTED, frames.STORED)
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
        frames.receive(connection, frames.STORED)
        connection.set_timeout(STORED_S)


def _send_whole(connection: Connection, digest: Digest, file: Path, size: int) -> None:
    try:
        source = file.open("rb", buffering=0)
    except OSError as error:
        raise _Unsendable(f"{file} can't be sent: {error}") from error
    with source:
        if _offer(connection, digest, size):
            _send_part(connection, source, 0, size, size)


async def _send_arriving(
    digest: Digest, size: int, arriving: ArrivingPayload, thread: PayloadThread
) -> None:
    connection = thread.connection
    opened: list[io.FileIO] = []

    def begin() -> bool:
        try:
            opened.append(arriving.path.open("rb", buffering=0))
        except OSError as error:
            raise _Unsendable(f"a payload can't be passed on while it arrives: {error}") from error
        return _offer(connection, digest, size)

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
