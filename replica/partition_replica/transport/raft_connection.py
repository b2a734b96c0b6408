"""Opens a Raft connection to another member, and writes frames to it."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from partition_proto.v1 import peer_pb2 as api

from partition_replica.core.limits import RAFT_HELLO_BYTES_MAX, Limits
from partition_replica.transport import sockets
from partition_replica.transport.raft_frames import (
    HELLO,
    PREAMBLE,
    REFUSAL,
    BadFrame,
    FrameReader,
    frame,
    frames_of,
)

UNSENT_BYTES_HIGH = 256 * 1024
"""With more bytes that the kernel did not take, nothing is written until there are
UNSENT_BYTES_LOW. One write more may be unsent: at most `peer_batch_bytes_max`, or one message."""

UNSENT_BYTES_LOW = 64 * 1024

NEXT_ADDRESS_S = 0.25
"""If a host has several addresses, the next one is tried after this time."""

SHUTDOWN_S = 1.0


class RaftRefused(Exception):
    """The member refused the connection. `reason`: a Reason without its prefix, or
    PERMISSION_DENIED."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class RaftLost(Exception):
    """The connection ended."""


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a member's Raft connections. context: None without TLS."""

    host: str
    port: int
    context: ssl.SSLContext | None


async def open_connection(
    target: Target, hello: api.Hello, limits: Limits, writable: Callable[[], None]
) -> "RaftConnection":
    """Opens a connection, and returns it once the member has answered the hello. `writable` is
    called each time that writes are possible again. Raises RaftRefused, RaftLost, OSError, and
    TimeoutError after `raft_hello_s`."""
    loop = asyncio.get_running_loop()
    connection = RaftConnection(limits, writable)
    secure = target.context is not None
    try:
        async with asyncio.timeout(limits.raft_hello_s):
            await loop.create_connection(
                lambda: connection,
                target.host,
                target.port,
                happy_eyeballs_delay=NEXT_ADDRESS_S,
                ssl=target.context,
                server_hostname=target.host if secure else None,
                # The time-out of this statement is first.
                ssl_handshake_timeout=2 * limits.raft_hello_s if secure else None,
                ssl_shutdown_timeout=SHUTDOWN_S if secure else None,
            )
            await connection.greet(hello)
    except BaseException:
        connection.close()
        raise
    return connection


class RaftConnection(asyncio.Protocol):
    """One Raft connection that we opened. On the event loop."""

    def __init__(self, limits: Limits, writable: Callable[[], None]) -> None:
        self._limits = limits
        self._when_writable = writable
        self._reader = FrameReader(RAFT_HELLO_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._over = False
        self._greeted = False
        self._why: Exception | None = None
        self._answered = asyncio.Event()
        self._ended = asyncio.Event()

    async def greet(self, hello: api.Hello) -> None:
        """Returns once the member has answered. Raises RaftRefused, RaftLost."""
        assert self._transport is not None, "it is connected"
        self._transport.write(PREAMBLE + frame(HELLO, hello.SerializeToString()))
        await self._answered.wait()
        if not self._greeted:
            raise self._reason()

    @property
    def writable(self) -> bool:
        """Whether `write` is allowed."""
        return self._greeted and not self._paused and not self._over

    def write(self, messages: Sequence[bytes]) -> None:
        """Sends messages, in order; only if `writable`. Those that are on their way when the
        connection ends are lost."""
        assert self._transport is not None, "it is connected"
        for some in frames_of(messages):
            self._transport.write(some)

    async def lost(self) -> Exception:
        """Waits until the connection has ended; returns the reason: RaftRefused or RaftLost."""
        await self._ended.wait()
        return self._reason()

    def close(self) -> None:
        """Ends the connection at once: what is not sent, Raft sends again."""
        self._over = True
        if self._transport is not None:
            self._transport.abort()

    def _reason(self) -> Exception:
        if isinstance(self._why, RaftRefused):
            return self._why
        lost = RaftLost(f"the Raft connection ended: {self._why or 'the member closed it'}")
        lost.__cause__ = self._why
        return lost

    # --- asyncio calls ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        with suppress(OSError):  # then it is lost already, and `connection_lost` comes next
            sockets.tune(transport.get_extra_info("socket"), self._limits.raft_silence_s)
        transport.set_write_buffer_limits(high=UNSENT_BYTES_HIGH, low=UNSENT_BYTES_LOW)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            for kind, content in self._reader.received(data):
                self._take(kind, content)
        except (BadFrame, DecodeError, RaftRefused) as error:
            self._why = error
            self.close()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self.writable:
            self._when_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._why = self._why or exc
        self._answered.set()
        self._ended.set()

    def _take(self, kind: int, content: bytes) -> None:
        if kind == REFUSAL:
            refusal = api.RaftRefusal.FromString(content)
            raise RaftRefused(refusal.reason, refusal.message)
        if kind != HELLO or self._greeted:
            raise BadFrame(f"the member sent a frame of kind {kind}, which it may not")
        api.Hello.FromString(content)
        self._greeted = True
        self._answered.set()
